"""Score-CAM against a slow NumPy version of every published reading, as one program and driven from the host."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from masked_network import (
    A32,
    CHANNELS,
    CLASSES,
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
)

from jaxcam.errors import JaxcamError
from jaxcam.explanation.engine import Engine
from jaxcam.methods.registry import METHODS, request
from jaxcam.methods.result import Inputs
from jaxcam.methods.score import score_cam

READINGS = list(itertools.product(("softmax", "sigmoid", "logit"), ("softmax", "increase")))


def slow(p, activations, image, target, score, normalise, channels=None) -> np.ndarray:
    """Coefficients, one channel after the other, as the papers have it."""

    found = {}
    for k in range(CHANNELS) if channels is None else channels:
        if activations[..., k].max() > activations[..., k].min():
            found[k] = scored(p, image * mask_of(activations[..., k])[..., None], target, score)
    alpha = np.zeros(CHANNELS)
    for k, value in found.items():
        if normalise == "increase":
            alpha[k] = value - scored(p, np.zeros_like(image), target, score)
        else:
            alpha[k] = np.exp(value) / sum(np.exp(v) for v in found.values())
    return alpha


@functools.cache
def compiled(**options):
    return jax.jit(lambda p, a, x, target: score_cam(p, a, x, predict=predict, target=target, **options))


@pytest.mark.parametrize(("score", "normalise"), READINGS)
def test_every_reading_is_the_slow_one(score, normalise):
    run = compiled(score=score, normalise=normalise, chunk_size=3)
    for target in (0, 3):
        got = run(P32, A32, X32, target)
        want = slow(P, A, X, target, score, normalise)
        close(got.coefficients, want, 1e-5)
        assert got.coefficients[CONSTANT] == got.coefficients[DEAD] == 0
        close(got.map, np.maximum(A @ want, 0), 2e-5)
        close(got.diagnostics["logit"], network(np, P, X)[target])
        assert got.diagnostics["scored"] == CHANNELS - 2 and got.diagnostics["left_out"] == 0
        assert got.diagnostics["evaluations"] == CHANNELS - 2 + (2 if normalise == "increase" else 1)
        if normalise == "softmax":
            assert float(got.coefficients.sum()) == pytest.approx(1, abs=1e-6)


def test_the_readings_differ():
    alphas = [compiled(score=s, normalise=n, chunk_size=3)(P32, A32, X32, 0).coefficients for s, n in READINGS]
    for one, other in itertools.combinations(alphas, 2):
        assert np.abs(one / np.abs(one).max() - other / np.abs(other).max()).max() > 1e-2


def test_only_the_channels_with_the_largest_range():
    ranges = np.ptp(A, axis=(0, 1))
    for top in (1, 3, 6):
        first = np.argsort(-ranges)[:top]
        got = compiled(score="logit", normalise="softmax", top=top, chunk_size=3)(P32, A32, X32, 1)
        close(got.coefficients, slow(P, A, X, 1, "logit", "softmax", first), 1e-5)
        rest = np.setdiff1d(np.arange(CHANNELS), first)
        assert got.diagnostics["left_out"] == (ranges[rest] > 0).sum()
        assert got.diagnostics["scored"] == min(top, 5)
        close(got.diagnostics["range_left_out"], ranges[rest].sum() / ranges.sum())


def test_a_large_constant_beside_a_small_range():
    # Upsampling 1000 + noise in float32 would leave the noise with three digits.
    shifted = A.astype(np.float32)
    shifted[..., 1] = 1000 + np.round(shifted[..., 1] * 256) / 1024
    got = compiled(score="logit", normalise="increase", chunk_size=3)(P32, jnp.asarray(shifted), X32, 1)
    close(got.coefficients, slow(P, shifted.astype(np.float64), X, 1, "logit", "increase"), 1e-5)


@pytest.mark.parametrize("activations", [np.zeros_like(A), np.full_like(A, 0.3)], ids=["dead", "constant"])
@pytest.mark.parametrize("normalise", ["softmax", "increase"])
def test_a_layer_without_any_range_has_zero_coefficients(activations, normalise):
    got = compiled(score="softmax", normalise=normalise, chunk_size=3)(P32, jnp.asarray(activations, "float32"), X32, 1)
    assert not got.coefficients.any() and not got.map.any()
    assert got.diagnostics["scored"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got.diagnostics))


def test_chunks_change_nothing():
    whole = compiled(score="logit", normalise="softmax", chunk_size=CHANNELS)(P32, A32, X32, 2)
    for size in (1, 3, 50):
        got = compiled(score="logit", normalise="softmax", chunk_size=size)(P32, A32, X32, jnp.asarray(2))
        assert jax.tree.structure(got) == jax.tree.structure(whole)
        jax.tree.map(close, got, whole)


def test_driven_from_the_host_it_is_the_same_and_chunks_of_constant_channels_are_not_run():
    method, programs = METHODS["score_cam"], []

    def call(program, *arrays):
        programs.append(program)
        return program(*arrays)

    def stepped(target):
        inputs = Inputs(None, A32, None, target, image=X32, network=predict, network_params=P32)
        return method.stepped(inputs, score="softmax", normalise="increase", chunk_size=3), inputs

    want = compiled(score="softmax", normalise="increase", chunk_size=3)(P32, A32, X32, 1)
    division, inputs = stepped(1)
    states = list(division.states(inputs, call=call))
    jax.tree.map(close, division.result(states[-1], A32), want)
    assert len(states) == len(programs) == 3 < 1 + division.steps.count  # 5 channels of 7 have a range
    assert [division.steps.share(s) for s in states] == [0, 0.5, 1] and division.steps.done(states[-1])
    # From any state on it is the same, to the bit; another class compiles nothing.
    for state in states:
        *_, again = division.states(inputs, state=state)
        jax.tree.map(np.testing.assert_array_equal, again, states[-1])
    other, inputs = stepped(2)
    assert other == division and hash(other) == hash(division)
    list(other.states(inputs, call=call))
    assert programs[3:] == programs[:3] and all(p._cache_size() == 1 for p in programs)
    with pytest.raises(JaxcamError, match="of other chunks of channels"):
        few = method.stepped(inputs, chunk_size=2)
        next(few.states(inputs, state=states[0]))


def test_vmap_is_a_loop_and_a_new_class_compiles_nothing():
    run = compiled(score="softmax", normalise="softmax", chunk_size=3)
    scale = jnp.asarray([1.0, -2.0, 0.5])[:, None, None, None]
    activations = jnp.stack([A32, jnp.flip(A32, 0), jnp.zeros_like(A32)])
    targets = jnp.asarray([0, 3, 1])
    together = jax.jit(jax.vmap(run, (None, 0, 0, 0)))(P32, activations, scale * X32, targets)
    for i in range(3):
        alone = run(P32, activations[i], scale[i] * X32, targets[i])
        jax.tree.map(lambda t, a, i=i: close(t[i], a, 1e-5), together, alone)
    before = run._cache_size()
    run(P32, A32, X32, jnp.asarray(2, targets.dtype))
    assert run._cache_size() == before


def test_a_difference_of_classes_as_target():
    options = {"score": "logit", "normalise": "increase", "target": lambda scores: scores[0] - scores[1]}
    got = jax.jit(lambda p, a, x: score_cam(p, a, x, predict=predict, **options))(P32, A32, X32)
    want = slow(P, A, X, 0, "logit", "increase") - slow(P, A, X, 1, "logit", "increase")
    close(got.coefficients, want, 1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_engine_drives_it_from_the_host(multi_label):
    network = networks.network(networks.VGG, size=32, multi_label=multi_label)
    inputs = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    engine = Engine(network, "conv4_1", batch_size=2, maps_at_once=2)
    forward = engine.forward(inputs, ["a", "b"])
    pairs = [(0, 1), (1, 3), (1, 0)]
    seen = []
    got = engine.maps(request("score_cam:top=9,chunk_size=4"), forward, pairs, done=seen.append)
    assert (
        sum(seen) == pytest.approx(3)
        and len(seen) > 3
        and min(seen) >= 0
        and got.coefficients.shape == (3, forward.activations.shape[-1])
    )
    score = "sigmoid" if multi_label else "softmax"
    one = jax.jit(
        lambda p, a, x, target: score_cam(p, a, x, predict=network.predict, target=target, score=score, top=9)
    )
    for i, (row, target) in enumerate(pairs):
        want = one(network.params, forward.activations[row], inputs[row], target)
        close(got.coefficients[i], want.coefficients, 1e-5)
        close(got.maps[i], want.map, 1e-5)
        assert got.evaluations[i] == want.diagnostics["evaluations"] > 2


BAD = [
    ({"score": "probability"}, "no score called 'probability'"),
    ({"normalise": "softmx"}, "no normalisation called 'softmx'; did you mean softmax"),
    ({"top": 0}, "top must be a whole number of at least 1"),
    ({"chunk_size": 2.5}, "chunk_size must be a whole number"),
    ({"target": CLASSES}, "there is no class 4 among 4 logits"),
    ({"target": lambda s: s[:2]}, "must return a scalar"),
    ({"activations": A32[None]}, "vmap"),
    ({"image": X32[None]}, r"image must have shape \(H, W, C\)"),
    ({"image": np.zeros((9, 7, 3), np.uint8)}, "preprocess it"),
    ({"predict": lambda p, x: predict(p, x)[:1], "target": 0}, "softmax of a single logit"),
    ({"predict": lambda p, x: predict(p, x)[None]}, "take its batch axis away"),
]


@pytest.mark.parametrize(("changed", "message"), BAD)
def test_mistakes_are_told_in_one_line(changed, message):
    given = {"activations": A32, "image": X32, "predict": predict, "target": 0} | changed
    with pytest.raises(JaxcamError, match=message) as caught:
        score_cam(P32, given.pop("activations"), given.pop("image"), **given)
    assert "\n" not in str(caught.value)
