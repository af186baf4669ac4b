"""SS-CAM, IS-CAM, Group-CAM, Opti-CAM and RISE against slow NumPy versions; driven from the host they are the same."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from masked_network import (
    A32,
    CHANNELS,
    CONSTANT,
    DEAD,
    P32,
    X32,
    A,
    P,
    X,
    close,
    mask_of,
    network,
    predict,
    scored,
    upsampled,
)

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.methods.masking import RandomMasks, blurred
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs
from jaxcam.methods.score import score_cam

KEY = jax.random.key(5)
RNG = np.random.default_rng(1)
HEAD = {"w3": RNG.normal(size=(A.size, 5)) / 4, "b3": RNG.normal(size=5), "w4": RNG.normal(size=(5, 4))}
BOTH = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), {**P, **HEAD})


def head(p, a):
    return jax.nn.relu(a.reshape(-1) @ p["w3"] + p["b3"]) @ p["w4"]


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


ALIVE = [k for k in range(CHANNELS) if k not in (CONSTANT, DEAD)]


def shares(means: dict[int, float]) -> np.ndarray:
    alpha = np.zeros(CHANNELS)
    alpha[list(means)] = softmax(np.asarray(list(means.values())))
    return alpha


def slow_ss(target, samples, sigma):
    """Wang et al. 2020: the mean score over noisy masks, and its softmax over the channels."""
    means = {}
    for k in ALIVE:
        values = []
        for i in range(samples):
            own = jax.random.fold_in(jax.random.fold_in(KEY, k), i)
            mask = mask_of(A[..., k]) + sigma * np.asarray(jax.random.normal(own, X.shape[:2]), np.float64)
            values.append(scored(P, X * mask[..., None], target, "logit"))
        means[k] = np.mean(values)
    return shares(means)


def slow_is(target, samples):
    """Naidu et al. 2020: the mean score while the mask comes up."""
    return shares({
        k: np.mean([scored(P, X * (i / samples * mask_of(A[..., k]))[..., None], target, "logit")
                    for i in range(1, samples + 1)]) for k in ALIVE
    })  # fmt: skip


@functools.cache
def ss(**options):
    return jax.jit(lambda p, a, x, t: jaxcam.ss_cam(p, a, x, KEY, predict=predict, target=t, score="logit", **options))


@functools.cache
def rising(**options):
    return jax.jit(lambda p, a, x, t: jaxcam.is_cam(p, a, x, predict=predict, target=t, score="logit", **options))


@pytest.mark.parametrize("size", [3, 20])
def test_ss_cam_is_the_slow_one_whatever_the_chunks(size):
    got = ss(num_samples=4, sigma=0.5, chunk_size=size)(P32, A32, X32, 1)
    want = slow_ss(1, 4, 0.5)
    close(got.coefficients, want, 1e-5)
    close(got.map, np.maximum(A @ want, 0), 2e-5)
    assert got.diagnostics["evaluations"] == 4 * len(ALIVE) + 1 and got.coefficients[DEAD] == 0


def test_is_cam_is_the_slow_one():
    got = rising(num_samples=3, chunk_size=3)(P32, A32, X32, 2)
    want = slow_is(2, 3)
    close(got.coefficients, want, 1e-5)
    assert got.diagnostics["evaluations"] == 3 * len(ALIVE) + 1


def test_with_one_plain_look_both_are_score_cam():
    want = jax.jit(lambda p, a, x: score_cam(p, a, x, predict=predict, target=1, score="logit"))(P32, A32, X32)
    close(ss(num_samples=2, sigma=0.0)(P32, A32, X32, 1).coefficients, want.coefficients)
    close(rising(num_samples=1)(P32, A32, X32, 1).coefficients, want.coefficients)


def slow_group(target, groups, keep):
    """Zhang et al. 2021: groups of neighbours weighted by the mean gradient, without their smaller values; what each
    adds to the blurred image; contributions (h, w, K)."""
    h, w, _ = A.shape
    hidden = A.reshape(-1) @ HEAD["w3"] + HEAD["b3"]
    g = (HEAD["w3"] @ ((hidden > 0) * HEAD["w4"][:, target])).reshape(A.shape)
    far = np.asarray(blurred(X32), np.float64)
    nothing = scored(P, far, target, "logit")
    contributions = np.zeros(A.shape)
    for part in np.array_split(np.arange(CHANNELS), groups):
        sums = np.maximum(sum(g[..., k].mean() * A[..., k] for k in part), 0)
        stays = sums >= np.sort(sums.ravel())[-round(keep * h * w)]
        if sums.max() == 0:
            continue
        mask = upsampled(np.where(stays, sums, 0) / sums.max())[..., None]
        gain = scored(P, X * mask + far * (1 - mask), target, "logit") - nothing
        for k in part:
            contributions[..., k] = np.where(stays & (sums > 0), gain * g[..., k].mean() * A[..., k] / sums.max(), 0)
    return contributions


@functools.cache
def group(**options):
    return jax.jit(
        lambda p, a, x, t: jaxcam.group_cam(p, a, x, predict=predict, head=head, target=t, score="logit", **options)
    )


@pytest.mark.parametrize("size", [2, None])
@pytest.mark.parametrize("target", [0, 1])
def test_group_cam_is_the_slow_one(target, size):
    got = group(groups=3, keep=0.5, chunk_size=size)(BOTH, A32, X32, target)
    want = slow_group(target, 3, 0.5)
    assert np.abs(want).max() > 0
    close(got.map, np.maximum(want.sum(-1), 0), 2e-5)
    close(got.coefficients, want.sum((0, 1)), 2e-5)
    close(got.diagnostics["signed_map"], want.sum(-1), 2e-5)
    close(got.diagnostics["logit"], network(np, P, X)[target])
    assert got.diagnostics["evaluations"] == 5 and got.coefficients[DEAD] == 0


def test_group_cam_of_one_whole_group_is_grad_cam_times_what_it_adds():
    plain = jax.jit(lambda p, a, t: jaxcam.grad_cam(p, a, head=head, target=t))
    for target in range(4):
        got, want = group(groups=1, keep=1.0)(BOTH, A32, X32, target), plain(BOTH, A32, target)
        signed = got.diagnostics["signed_map"]
        assert got.map.any() == (signed.max() > 0)  # one that takes away from the blurred image has no map
        close(jnp.abs(signed) * want.map.max(), want.map * jnp.abs(signed).max(), 1e-5)
    dead = group(groups=1, keep=1.0)(BOTH, 0 * A32, X32, 1)
    assert not dead.map.any() and not dead.coefficients.any()


def test_a_blurred_image_keeps_plain_colours_and_loses_what_is_small():
    plain = jnp.full((20, 30, 3), 2.0)
    close(blurred(plain), plain)
    fine = jnp.asarray(np.random.default_rng(0).normal(size=(40, 40, 3)), jnp.float32)
    assert float(jnp.std(blurred(fine))) < 0.25


def slow_opti(target, steps, rate=0.1):
    """Zhang et al. 2024: Adam up the logit of the image behind softmax(u) A, with differences for the gradient."""
    u, mean, square = np.zeros(CHANNELS), np.zeros(CHANNELS), np.zeros(CHANNELS)

    def value(u):
        return scored(P, X * mask_of(A @ softmax(u))[..., None], target, "logit")

    for t in range(1, steps + 1):
        g = np.asarray([(value(u + e) - value(u - e)) / 2e-6 for e in 1e-6 * np.eye(CHANNELS)])
        g[[CONSTANT, DEAD]] = 0  # they scale and shift the map, which is scaled again
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        u = u + rate * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
    return softmax(u)


@functools.cache
def opti(steps):
    return jax.jit(lambda p, a, x, t: jaxcam.opti_cam(p, a, x, predict=predict, target=t, steps=steps))


def test_opti_cam_is_the_slow_one_and_climbs():
    got = opti(3)(P32, A32, X32, 1)
    close(got.coefficients, slow_opti(1, 3), 1e-4)
    begun, ended = (opti(n)(P32, A32, X32, 1).diagnostics["score_masked"] for n in (3, 40))
    equal = scored(P, X * mask_of(A.mean(-1))[..., None], 1, "logit")
    assert equal < begun < ended
    dead = opti(3)(P32, 0 * A32, X32, 1)
    close(dead.coefficients, np.full(CHANNELS, 1 / CHANNELS))


def slow_rise(target, samples, cells, keep):
    """Petsiuk et al. 2018, eq. 6, with the masks of section 3.2: a grid, larger by a cell, cut at a random place."""
    h, w, _ = A.shape
    total = np.zeros((h, w))
    for i in range(samples):
        grid_key, *shifts = jax.random.split(jax.random.fold_in(KEY, i), 3)
        grid = np.asarray(jax.random.bernoulli(grid_key, keep, (cells, cells)), np.float64)
        rooms = [-(-n // cells) for n in (h, w)]
        y, x = (int(jax.random.randint(k, (), 0, n)) for k, n in zip(shifts, rooms, strict=True))
        mask = upsampled(grid, tuple((cells + 1) * n for n in rooms))[y : y + h, x : x + w]
        logits = np.maximum((A * mask[..., None]).reshape(-1) @ HEAD["w3"] + HEAD["b3"], 0) @ HEAD["w4"]
        total += softmax(logits)[target] * mask
    return total / (samples * keep)


def test_rise_is_the_slow_one_whatever_the_chunks():
    want = slow_rise(1, 10, 2, 0.4)
    for size in (4, 10):
        got = jax.jit(
            lambda p, a, t, size=size: jaxcam.rise_cam(
                p, a, KEY, head=head, target=t, num_samples=10, cells=2, keep=0.4, chunk_size=size
            )
        )(BOTH, A32, 1)
        close(got.map, want, 1e-5)
        close(got.coefficients, np.full(CHANNELS, want.sum() / CHANNELS), 1e-5)
        assert got.diagnostics["evaluations"] == 11


def test_rise_of_logits_has_its_least_value_at_zero():
    run = jax.jit(
        lambda p, a, t: jaxcam.rise_cam(p, a, KEY, head=head, target=t, num_samples=10, cells=2, score="logit")
    )
    for target in range(4):
        got = run(BOTH, A32, target)
        assert got.map.min() == 0 < got.map.max()


def test_masks_of_rise_cover_every_position_alike():
    steps = RandomMasks(1, head, None, "softmax", 3, 0.5, 1, 1, "threefry2x32")
    masks = jax.vmap(lambda i: steps.mask(jax.random.fold_in(KEY, i), jnp.zeros((12, 9, 1))))(jnp.arange(2000))
    assert masks.shape == (2000, 12, 9) and masks.min() >= 0 and masks.max() <= 1
    np.testing.assert_allclose(masks.mean(0), 0.5, atol=0.05)
    assert (masks.std((1, 2)) > 0).mean() > 0.9


FEW = {
    "ss_cam": {"num_samples": 2, "sigma": 0.3, "score": "logit", "chunk_size": 3},
    "is_cam": {"num_samples": 3, "score": "logit", "chunk_size": 3},
    "opti_cam": {"steps": 3},
    "rise_cam": {"num_samples": 10, "chunk_size": 4},
}


@pytest.mark.parametrize("name", FEW)
def test_driven_from_the_host_it_is_the_same_from_any_state_on(name):
    method, options = METHODS[name], FEW[name]
    inputs = Inputs(BOTH, A32, head, 1, KEY, image=X32, network=predict, network_params=BOTH)
    stepped = method.stepped(inputs, **options)
    assert stepped == method.stepped(inputs, **options) and hash(stepped) is not None
    states = list(stepped.states(inputs))
    steps = stepped.steps
    assert len(states) > 3 and steps.done(states[-1]) and [steps.share(s) for s in states][:: len(states) - 1] == [0, 1]
    arrays = inputs._replace(head=None, network=None)
    want = jax.jit(lambda given: method.call(given._replace(head=head, network=predict), **options))(arrays)
    got = stepped.result(states[-1], A32)
    jax.tree.map(lambda g, w: close(g, w, 1e-5), got, want)
    *_, again = stepped.states(inputs, state=states[1])
    jax.tree.map(np.testing.assert_array_equal, again, states[-1])
    if name == "opti_cam":
        with pytest.raises(JaxcamError, match="saved state is of another layer"):
            next(stepped.states(inputs._replace(activations=A32[:, :3, :4]), state=states[1]))


BAD = [
    ("ss_cam", {"num_samples": 0}, "num_samples must be"),
    ("is_cam", {"normalise": "softmx"}, "no normalisation called"),
    ("group_cam", {"keep": 0.0}, "keep must be a share"),
    ("group_cam", {"groups": 0}, "groups must be"),
    ("opti_cam", {"score": "probability"}, "no score called 'probability'"),
    ("opti_cam", {"steps": 0}, "steps must be"),
    ("rise_cam", {"keep": 1.5}, "keep must be a probability"),
    ("rise_cam", {"cells": 0}, "cells must be"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_mistakes_are_told_in_one_line(name, options, message):
    inputs = Inputs(BOTH, A32, head, 1, KEY, image=X32, network=predict, network_params=BOTH)
    with pytest.raises(JaxcamError, match=message) as caught:
        METHODS[name].call(inputs, **options)
    assert "\n" not in str(caught.value)
