"""The library and the oracles against PyTorch and captum (reference/captum_vgg.npz, made by make_captum.py)."""

from __future__ import annotations

import functools
import pathlib

import heads
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from reference import seeded

from jaxcam import shapley
from jaxcam.methods.contribution import lift_cam
from jaxcam.methods.gradient import grad_cam
from jaxcam.methods.result import scalar_score
from jaxcam.methods.score import score_cam
from jaxcam.transforms.coalition import coalition_game
from jaxcam.transforms.deeplift import deeplift

STORED = pathlib.Path(__file__).parent / "reference" / "captum_vgg.npz"
FULL = STORED.with_name("captum_vgg16.npz")
REGRESSION = STORED.with_name("captum_regression.npz")
SCORE = STORED.with_name("torch_score.npz")
CASES = [0, 1, 2]


@functools.cache
def stored() -> dict[str, np.ndarray]:
    with np.load(STORED) as data:
        return dict(data)


@functools.cache
def case(i: int) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """(params, activations (h, w, K), target) of a stored case, drawn again from its seed."""
    return drawn(stored()[f"case_{i}"], stored()[f"digest_{i}"])


def drawn(numbers: np.ndarray, digest: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    seed, h, w, k, hidden, classes, target = (int(v) for v in numbers)
    p = seeded.vgg_head(seed, (h, w, k), hidden, classes)
    a = seeded.activations(seed + 1000, (h, w, k))
    assert seeded.digest({**p, "activations": a}) == str(digest), "NumPy's random stream has changed"
    return p, a, target


def assert_close(got, want, tolerance):
    assert np.abs(np.asarray(got, np.float64) - want).max() < tolerance * np.abs(want).max()


@pytest.mark.parametrize("i", CASES)
def test_the_oracle_is_captum(i):
    p, a, target = case(i)
    assert_close(oracles.vgg_deeplift(p, a, target).sum((0, 1)), stored()[f"deeplift_{i}"], 1e-9)
    g = oracles.vgg_gradient(p, a, target)
    assert_close(oracles.grad_cam(a, g), stored()[f"grad_cam_{i}"], 1e-9)
    # Epsilon towards 0 on a ReLU net is gradient x activation (captum's 1e-9 and its float64 leave 1e-6).
    assert_close((a * g).sum((0, 1)), stored()[f"lrp_epsilon_{i}"], 1e-5)


@pytest.mark.parametrize("i", CASES)
def test_lift_cam_is_captums_deeplift(i):
    p, a, target = case(i)
    method = functools.partial(lift_cam, head=heads.HEADS["vgg"].fn, target=target)
    got = jax.jit(method)(heads.to_jax(p), jnp.asarray(a, jnp.float32))
    assert_close(got.coefficients, stored()[f"deeplift_{i}"], 1e-5)


@pytest.mark.slow
def test_lift_cam_on_the_head_of_a_whole_vgg16_is_that_of_the_oracle_and_captums():
    """14 x 14 x 512 -> pool -> 25088 -> 4096 -> 4096 -> 1000, biases far from zero."""
    with np.load(FULL) as data:
        p, a, target = drawn(data["case"], data["digest"])
        captums = data["deeplift"]
    want = oracles.vgg_deeplift(p, a, target).sum((0, 1))
    assert_close(want, captums, 1e-9)
    change = oracles.vgg_logits(p, a)[target] - oracles.vgg_logits(p, 0 * a)[target]
    small = {k: jnp.asarray(p.pop(k), jnp.float32) for k in list(p)}
    method = functools.partial(lift_cam, head=heads.HEADS["vgg"].fn, target=target)
    got = jax.jit(method)(small, jnp.asarray(a, jnp.float32))
    assert_close(got.coefficients, want, 1e-5)
    assert abs(float(got.coefficients.sum()) - change) < 1e-4 * max(1.0, abs(change))


@pytest.mark.parametrize("i", CASES)
def test_grad_cam_is_torchs(i):
    p, a, target = case(i)
    method = functools.partial(grad_cam, head=heads.HEADS["vgg"].fn, target=target)
    got = jax.jit(method)(heads.to_jax(p), jnp.asarray(a, jnp.float32))
    assert_close(got.coefficients, stored()[f"grad_cam_{i}"], 1e-5)


def test_deeplift_of_a_chain_of_activation_functions_is_captums():
    seed, width = (int(v) for v in stored()["elementwise_seed"])
    functions = [jnp.tanh, jax.nn.sigmoid, jax.nn.softplus, jax.nn.elu, jax.nn.leaky_relu, jax.nn.relu]

    def chain(layers, x):
        for (w, b), f in zip(layers, functions, strict=True):
            x = f(x @ w + b)
        return x.sum()

    @jax.jit
    def contributions(layers, x):
        lifted = deeplift(functools.partial(chain, layers))
        return x * jax.vjp(lambda x: lifted(x, jnp.zeros_like(x)), x)[1](jnp.ones(()))[0]

    # In float64: six squashing layers leave changes of 1e-3 in values of 1, which float32 would round to 1e-4.
    with jax.enable_x64(True):
        layers = heads.to_jax(seeded.dense_chain(seed, width, 6), jnp.float64)
        got = contributions(layers, jnp.asarray(seeded.activations(seed + 1000, (width,))))
    assert_close(got, stored()["elementwise"], 1e-9)


def test_lime_and_kernel_shap_on_given_coalitions_are_captums():
    with np.load(REGRESSION) as data:
        seed, h, w, k, hidden, classes, target = (int(v) for v in data["case"])
        count, beta, gamma = (data[name].item() for name in ("samples", "beta", "gamma"))
        want = {name: data[name] for name in ("lime", "kernel_shap")}
        digest = str(data["digest"])
    p, a = seeded.vgg_head(seed, (h, w, k), hidden, classes), seeded.activations(seed + 1000, (h, w, k))
    coins, kernel = seeded.coin_coalitions(seed, count, k), seeded.kernel_coalitions(seed, count, k)
    assert seeded.digest({**p, "activations": a, "masks": coins}) == digest, "NumPy's random stream has changed"
    energy = (a**2).sum((0, 1))
    weights = np.exp(-((1 - coins) @ energy) / energy.sum() / gamma**2)

    @jax.jit
    def both(p, a, coins, weights, kernel):
        v = coalition_game(scalar_score(heads.HEADS["vgg"].fn, p, target), a)
        empty, full = v(jnp.stack([jnp.zeros(k), jnp.ones(k)]))
        lasso = shapley.weighted_lasso(coins, v(coins), weights, beta=beta)
        return lasso.coefficients, shapley.constrained_least_squares(kernel, v(kernel), full, empty).values

    small = [jnp.asarray(x, jnp.float32) for x in (a, coins, weights, kernel)]
    lime, kernel_shap = both(heads.to_jax(p), *small)
    assert (want["lime"] == 0).any() and (want["lime"] != 0).sum() > k // 2  # the penalty does something
    assert_close(lime, want["lime"], 1e-4)
    assert_close(kernel_shap, want["kernel_shap"], 1e-4)


@pytest.mark.parametrize("stride", [1, 3])
def test_score_cam_is_torchs_in_both_published_readings(stride):
    with np.load(SCORE) as data:
        seed, size, target = int(data["seed"]), tuple(data["size"].tolist()), int(data["target"])
        want = {name: data[f"{name}_{stride}"] for name in ("softmax", "increase")}
        digest = str(data["digest"])
    p, x = seeded.score_network(seed, size), seeded.activations(seed + 1000, (*size, 3))
    assert seeded.digest(p) == digest, "NumPy's random stream has changed"
    p, x = heads.to_jax(p), jnp.asarray(x, jnp.float32)

    def features(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        padding = "SAME" if stride == 1 else "VALID"
        y = jax.lax.conv_general_dilated(x[None], p["k"], (stride, stride), padding, dimension_numbers=numbers)
        return jax.nn.relu(y[0] + p["b"])

    def predict(p, x):
        return features(p, x).reshape(-1) @ p[f"w{stride}"] + p["c"]

    @jax.jit
    def both(p, x):
        run = functools.partial(score_cam, p, features(p, x), x, predict=predict, target=target)
        softmax, increase = run(score="logit"), run(score="softmax", normalise="increase")
        return softmax.coefficients, increase.coefficients

    softmax, increase = both(p, x)
    assert np.ptp(want["softmax"]) > 0.1 and np.ptp(want["increase"]) > 0.01
    assert_close(softmax, want["softmax"], 1e-5)
    assert_close(increase, want["increase"], 1e-5)
