"""Integrated gradients, SmoothGrad, gradient SHAP and maps of other ReLUs against slow NumPy versions."""

from __future__ import annotations

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from masked_network import A32, P32, X32, A, P, X, close, predict
from reference import seeded

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs
from jaxcam.transforms.full_gradient import is_relu
from jaxcam.transforms.guided import guided

SHAPE, TARGET = (6, 4, 7), 2
VGG = seeded.vgg_head(1, SHAPE, 12, 5)
PARAMS = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), VGG)
LAYER = seeded.activations(2, SHAPE)
KEY = jax.random.key(4)


@functools.cache
def compiled(name, **options):
    key = (KEY,) if "key" in METHODS[name].needs else ()
    method = METHODS[name].function
    return jax.jit(lambda p, a, t: method(p, a, *key, head=heads.HEADS["vgg"].fn, target=t, **options))


def test_integrated_gradients_are_the_slow_ones_and_add_up():
    got = compiled("integrated_gradients", steps=5)(PARAMS, jnp.asarray(LAYER, jnp.float32), TARGET)
    slopes = [oracles.vgg_gradient(VGG, (i + 0.5) / 5 * LAYER, TARGET) for i in range(5)]
    want = LAYER * np.mean(slopes, 0)
    close(got.map, np.maximum(want.sum(-1), 0), 1e-5)
    close(got.coefficients, want.sum((0, 1)), 1e-5)
    drop = oracles.vgg_logits(VGG, LAYER)[TARGET] - oracles.vgg_logits(VGG, 0 * LAYER)[TARGET]
    close(got.diagnostics["completeness_gap"], want.sum() - drop, 1e-4)
    many = compiled("integrated_gradients", steps=400)(PARAMS, jnp.asarray(LAYER, jnp.float32), TARGET)
    assert abs(many.diagnostics["completeness_gap"]) < 0.02 * abs(drop)


def test_smooth_grad_is_the_slow_one():
    got = compiled("smooth_grad", num_samples=3, sigma=0.2)(PARAMS, jnp.asarray(LAYER, jnp.float32), TARGET)
    spread = 0.2 * np.ptp(LAYER)
    noise = [np.asarray(jax.random.normal(jax.random.fold_in(KEY, i), SHAPE), np.float64) for i in range(3)]
    slopes = np.abs(np.mean([oracles.vgg_gradient(VGG, LAYER + spread * n, TARGET) for n in noise], 0))
    close(got.map, slopes.sum(-1), 1e-5)
    close(got.coefficients, slopes.sum((0, 1)), 1e-5)


REFERENCES = seeded.activations(3, (2, *SHAPE))


def test_gradient_shap_is_the_slow_one():
    """Erion et al. 2021, eq. 3: of each draw the way from a reference, times the gradient somewhere on it."""
    run = jax.jit(lambda p, a, r, t: jaxcam.gradient_shap(
        p, a, KEY, head=heads.HEADS["vgg"].fn, target=t, references=r, num_samples=4, sigma=0.1))  # fmt: skip
    got = run(PARAMS, jnp.asarray(LAYER, jnp.float32), jnp.asarray(REFERENCES, jnp.float32), TARGET)
    want = np.zeros(SHAPE)
    for i in range(4):
        key, noise = jax.random.split(jax.random.fold_in(KEY, i))
        chance, share = np.asarray(jax.random.uniform(key, (2,)), np.float64)
        reference = REFERENCES[int(2 * chance)]
        noisy = LAYER + 0.1 * np.ptp(LAYER) * np.asarray(jax.random.normal(noise, SHAPE), np.float64)
        point = reference + share * (noisy - reference)
        want += (noisy - reference) * oracles.vgg_gradient(VGG, point, TARGET) / 4
    close(got.map, np.maximum(want.sum(-1), 0), 1e-5)
    close(got.coefficients, want.sum((0, 1)), 1e-5)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvolution"])
def test_other_relus_are_the_slow_ones(name):
    """Springenberg et al. 2015: what comes back is cut where it is negative, and where the ReLU is off. Zeiler & Fergus
    2014: where it is negative."""
    head = heads.HEADS["relu_twice"]  # of max(0, x)
    p, a = head.params, seeded.activations(7, heads.SHAPE)
    first = np.maximum(a.reshape(-1) @ p["w1"] + p["b1"], 0)
    second = np.maximum(first @ p["u"] + p["bu"], 0)
    on = (first > 0, second > 0) if name == "guided_backprop" else (1, 1)
    back = np.maximum(p["u"] @ (np.maximum(p["w2"][:, 1], 0) * on[1]), 0) * on[0]
    want = (p["w1"] @ back).reshape(heads.SHAPE)
    got = jax.jit(lambda p, a: METHODS[name].function(p, a, head=head.fn, target=1))(heads.to_jax(p), jnp.asarray(a))
    close(got.map, np.maximum(want.sum(-1), 0), 1e-5)
    close(got.coefficients, want.sum((0, 1)), 1e-5)
    assert np.abs(want).max() > 0 and not (first > 0).all() and not (second > 0).all()


def test_guided_finds_relus_wherever_they_are():
    x = jnp.asarray([-1.0, 0.5, 2.0, 7.0])

    def odd(x):
        x, _ = jax.lax.scan(lambda c, w: (jax.nn.relu(w * c), None), x, jnp.asarray([2.0, -1.0, -1.0])[:1])
        x = jax.lax.cond(True, jax.nn.relu6, lambda v: v, x / 2)
        return jnp.sum(jnp.asarray([1.0, -1.0, 1.0, 1.0]) * jnp.tanh(jax.jit(jax.nn.relu)(x)))

    np.testing.assert_allclose(guided(odd)(x), odd(x), rtol=1e-6)
    plain, got = jax.grad(odd)(x), jax.grad(guided(odd))(x)
    assert plain[1] < 0 and got[1] == 0  # what comes back is negative there
    np.testing.assert_allclose(got[jnp.asarray([0, 2, 3])], plain[jnp.asarray([0, 2, 3])], rtol=1e-6)
    smooth = lambda x: jnp.sum(jax.nn.silu(x))  # noqa: E731
    np.testing.assert_allclose(jax.grad(guided(smooth))(x), jax.grad(smooth)(x), rtol=1e-6)
    for function, found in ((jax.nn.relu, True), (lambda x: jnp.maximum(0.0, x), True), (jax.nn.silu, False),
                            (lambda x: jnp.maximum(x, 1.0), False)):  # fmt: skip
        assert all(is_relu(e) for e in jax.make_jaxpr(function)(x).eqns) == found


def test_guided_grad_cam_is_the_product():
    """Selvaraju et al. 2017: guided backpropagation to the pixels, times the resized map of the layer."""
    head = lambda p, a: a.mean((0, 1)) @ p["wh"]  # noqa: E731
    both = {**P32, "wh": jnp.asarray(np.random.default_rng(3).normal(size=(7, 4)), jnp.float32)}
    got = jax.jit(lambda p, a, x: jaxcam.guided_grad_cam(p, a, x, predict=predict, head=head, target=1))(both, A32, X32)
    hidden = X @ P["w1"] + P["b1"]
    back = np.maximum(P["w2"][:, 1].reshape(hidden.shape), 0) * (hidden > 0)
    coarse = np.maximum(A @ np.asarray(both["wh"], np.float64)[:, 1] / 12, 0)
    map = np.asarray(jaxcam.resize_map(jnp.asarray(coarse), X.shape[:2]))
    want = back @ P["w1"].T * map[..., None]
    assert np.abs(want).max() > 0
    close(got, want, 1e-5)


FEW = {"integrated_gradients": {"steps": 3}, "smooth_grad": {"num_samples": 3}, "gradient_shap": {"num_samples": 3}}


@pytest.mark.parametrize("name", FEW)
def test_driven_from_the_host_it_is_the_same(name):
    method, a = METHODS[name], jnp.asarray(LAYER, jnp.float32)
    inputs = Inputs(PARAMS, a, heads.HEADS["vgg"].fn, TARGET, KEY, 0 * a[None])
    stepped = method.stepped(inputs, **FEW[name])
    states = list(stepped.states(inputs))
    assert len(states) == 4 and stepped == method.stepped(inputs, **FEW[name])
    want = compiled(name, **FEW[name])(PARAMS, a, TARGET)
    jax.tree.map(lambda g, w: close(g, w, 1e-4), stepped.result(states[-1], a), want)
    with pytest.raises(JaxcamError, match="must be a whole number of at least 1"):
        method.call(inputs, **{next(iter(FEW[name])): 0})
