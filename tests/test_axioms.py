"""What must hold between the methods whatever the weights: design facts and the Shapley axioms."""

from __future__ import annotations

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from networks import needs_attention
from reference import seeded

from jaxcam.methods.contribution import lift_cam
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs

TARGET = 2
A = jnp.asarray(seeded.activations(9, heads.SHAPE), jnp.float32)
A64 = np.asarray(A, np.float64)
#: The heads on which every method is tried.
EVERY = ("linear_gap", "vgg")


def inputs(head, params, a) -> Inputs:
    """All that a method may need; whatever there is of a channel 4 is as that of channel 1."""
    references = jnp.asarray(0.5 * seeded.activations(41, (2, *heads.SHAPE)), a.dtype)
    references = references.at[..., 4].set(references[..., 1])
    return Inputs(params, a, head, TARGET, jax.random.key(0), references, a, head, params)


@functools.cache
def run(name: str):
    """The methods that fit the head and do not sample, compiled once: (params, a) -> {method: coefficients}.

    All of them on `EVERY`; on others those that go through the operations that a head consists of, one by one: a
    gradient, and values of the network, are the same to a method whatever they come from.
    """
    gap_linear = name == "linear_gap"
    fits = {m: info for m, info in METHODS.items() if info.heads is None or (gap_linear and not needs_attention(info))}
    methods = [m for m, info in fits.items() if "key" not in info.needs]
    if name not in EVERY:
        methods = [m for m in methods if not {"gradient", "image"} & set(METHODS[m].needs)]
    head = heads.HEADS[name].fn

    @jax.jit
    def all_methods(params, a):
        out = {m: METHODS[m].call(inputs(head, params, a)).coefficients for m in methods}
        out["gradient_x_activation"] = (a * jax.grad(lambda a: head(params, a)[TARGET])(a)).sum((0, 1))
        return out

    return lambda params, a: jax.tree.map(np.asarray, all_methods(heads.to_jax(params), jnp.asarray(a, jnp.float32)))


def without_biases(params: dict) -> dict:
    return {k: 0 * v if k.startswith("b") else v for k, v in params.items()}


def test_linear_head_makes_all_exact_methods_agree():
    params = heads.HEADS["linear_gap"].params
    got = run("linear_gap")(params, A64)
    w = params["w"][:, TARGET]

    def value(a):
        return float(a.mean((0, 1)) @ w + params["b"][TARGET])

    want = A64.mean((0, 1)) * w
    np.testing.assert_allclose(oracles.shapley(value, A64), want, rtol=1e-9)
    np.testing.assert_allclose(oracles.channel_drops(value, A64), want, rtol=1e-9)
    exact = [m for m, info in METHODS.items() if info.exact_on_linear and info.complete != "references" and m in got]
    assert {"lift_cam", "hires_lift_cam", "hires_cam", "ablation_cam", "lrp_cam"} <= set(exact)
    for method in exact:
        np.testing.assert_allclose(got[method], want, rtol=1e-5, atol=1e-7, err_msg=method)
    np.testing.assert_allclose(got["cam"], w, rtol=1e-5)
    np.testing.assert_allclose(got["grad_cam"], w / heads.POSITIONS, rtol=1e-5)
    np.testing.assert_allclose(got["xgrad_cam"], w / heads.POSITIONS, rtol=1e-5)


@pytest.mark.parametrize("name", ["vgg", "gelu_tanh", "squeeze_excite"])
def test_null_channel_gets_nothing(name):
    silent = A64.copy()
    silent[..., 1] = 0
    got = run(name)(heads.HEADS[name].params, silent)
    for method, alpha in got.items():
        if method in METHODS and METHODS[method].null_channels:
            assert alpha[1] == 0, method
            # A group whose gradient speaks against the class has no mask, and there may be no other.
            assert (alpha != 0).sum() >= (0 if method == "group_cam" else heads.CHANNELS - 2), method


@pytest.mark.parametrize("name", ["vgg", "gelu_tanh", "conv_relu_conv", "attention"])
def test_identical_channels_get_the_same(name):
    a = A64.copy()
    a[..., 4] = a[..., 1]
    params = {}
    for key, value in heads.HEADS[name].params.items():
        if key in ("w1", "k1", "q", "k", "v"):  # the layers that read the channels
            rows = value.reshape(-1, heads.CHANNELS, value.shape[-1]).copy()
            rows[:, 4] = rows[:, 1]
            value = rows.reshape(value.shape)
        params[key] = value
    for method, alpha in run(name)(params, a).items():
        if method in METHODS and not METHODS[method].symmetric:
            continue
        scale = np.abs(alpha).max()
        assert abs(alpha[4] - alpha[1]) <= 1e-5 * scale and abs(alpha[1]) > 1e-3 * scale, method
        told_apart = method not in METHODS or METHODS[method].by_channel
        assert (abs(alpha[1] - alpha[2]) > 1e-3 * scale) == told_apart, method


def test_lift_is_gradient_times_activation_only_without_biases():
    params = heads.HEADS["vgg"].params
    with_biases, without = run("vgg")(params, A64), run("vgg")(without_biases(params), A64)
    scale = np.abs(with_biases["lift_cam"]).max()
    assert np.abs(with_biases["lift_cam"] - with_biases["gradient_x_activation"]).max() > 0.01 * scale
    np.testing.assert_allclose(without["lift_cam"], without["gradient_x_activation"], rtol=1e-5, atol=1e-6)


def test_xgrad_is_gradient_times_activation_per_unit_of_activation():
    got = run("vgg")(heads.HEADS["vgg"].params, A64)
    total = A64.sum((0, 1))
    np.testing.assert_allclose(got["xgrad_cam"] * total, got["gradient_x_activation"], rtol=1e-4, atol=1e-6)


def test_lift_is_linear_in_the_target():
    head, params = heads.HEADS["vgg"].fn, heads.to_jax(heads.HEADS["vgg"].params)
    targets = {0: 0, 1: 1, "mixed": lambda logits: 2.0 * logits[0] - 0.5 * logits[1]}
    alpha = {k: lift_cam(params, A, head=head, target=t).coefficients for k, t in targets.items()}
    np.testing.assert_allclose(alpha["mixed"], 2.0 * alpha[0] - 0.5 * alpha[1], rtol=1e-5, atol=1e-6)


def test_lift_is_nearer_to_shapley_than_the_gradient_methods():
    # The paper's claim, on twenty small random heads: mean cosine against the exact Shapley values (64 coalitions).
    cosines = {"lift_cam": [], "grad_cam": [], "xgrad_cam": []}
    for seed in range(20):
        params = seeded.vgg_head(seed, heads.SHAPE, heads.D, heads.CLASSES)
        a = seeded.activations(100 + seed, heads.SHAPE)
        exact = oracles.shapley(lambda x, p=params: oracles.vgg_logits(p, x)[TARGET], a)
        got = run("vgg")(params, a)
        for method, values in cosines.items():
            norm = np.linalg.norm(exact) * np.linalg.norm(got[method])
            values.append(got[method] @ exact / norm if norm > 0 else 0.0)
    mean = {method: np.mean(values) for method, values in cosines.items()}
    assert mean["lift_cam"] > 0.85 and mean["lift_cam"] > 0.1 + max(mean["grad_cam"], mean["xgrad_cam"]), mean
