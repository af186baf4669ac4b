"""Every gradient and propagation method against the textbook versions of oracles.py."""

from __future__ import annotations

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from reference import seeded

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.methods.contribution import deep_shap_cam, hires_lift_cam, lift_cam, multiplier_cam
from jaxcam.methods.controls import random_cam
from jaxcam.methods.eigen import eigen_cam, eigen_grad_cam, first_component
from jaxcam.methods.gradient import (
    cam,
    grad_cam,
    grad_cam_elementwise,
    grad_cam_pp,
    hires_cam,
    layer_cam,
    shapley_cam,
    smooth_grad_cam_pp,
    xgrad_cam,
)
from jaxcam.methods.registry import METHODS

SHAPE, HIDDEN, CLASSES, TARGET = (6, 4, 7), 12, 5, 2
# A VGG16 head of a quarter of the width: 14 x 14 x 128 -> pool -> 6272 -> 256 -> 256 -> 10.
QUARTER = (14, 14, 128), 256, 10, 7

GRADIENT_METHODS = {
    "grad_cam": (grad_cam, oracles.grad_cam),
    "grad_cam_pp": (grad_cam_pp, oracles.grad_cam_pp),
    "xgrad_cam": (xgrad_cam, oracles.xgrad_cam),
}


def assert_close(got, want, tolerance=1e-5):
    """Equal to `tolerance` of the largest coefficient: rounding is relative to the vector, not to its zeros."""
    got, want = np.asarray(got, np.float64), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(want).max() > 0
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < tolerance, error


@functools.cache
def problem(seed: int, shape=SHAPE, hidden=HIDDEN, classes=CLASSES):
    """The float64 NumPy problem, and its float32 parameters and activations; both of the float32 numbers."""
    p = {k: v.astype(np.float32) for k, v in seeded.vgg_head(seed, shape, hidden, classes).items()}
    a = seeded.activations(seed + 1, shape).astype(np.float32)
    p64, a64 = {k: v.astype(np.float64) for k, v in p.items()}, a.astype(np.float64)
    return p64, a64, jax.tree.map(jnp.asarray, p), jnp.asarray(a)


@functools.cache
def compiled(method, head=heads.HEADS["vgg"].fn):
    return jax.jit(lambda p, a, target: method(p, a, head=head, target=target))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_gradient_methods(name, seed):
    method, oracle = GRADIENT_METHODS[name]
    p64, a64, p, a = problem(seed)
    got = compiled(method)(p, a, TARGET)
    want = oracle(a64, oracles.vgg_gradient(p64, a64, TARGET))
    assert_close(got.coefficients, want)
    assert_close(got.map, np.maximum((want * a64).sum(-1), 0))
    assert_close(got.diagnostics["logit"], oracles.vgg_logits(p64, a64)[TARGET])


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_gradient_methods_on_a_smooth_head_given_the_gradient(name):
    method, oracle = GRADIENT_METHODS[name]
    smooth = heads.HEADS["gelu_tanh"]
    a = jnp.asarray(seeded.activations(8, heads.SHAPE), jnp.float32)
    params = heads.to_jax(smooth.params)
    g = jax.grad(lambda a: smooth.fn(params, a)[TARGET])(a)
    got = compiled(method, smooth.fn)(params, a, TARGET).coefficients
    assert_close(got, oracle(np.asarray(a, np.float64), np.asarray(g, np.float64)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lift_cam(seed):
    p64, a64, p, a = problem(seed)
    got = compiled(lift_cam)(p, a, TARGET)
    want = oracles.vgg_deeplift(p64, a64, TARGET).sum((0, 1))
    assert_close(got.coefficients, want)
    assert_close(got.map, np.maximum((want * a64).sum(-1), 0))
    assert_close(got.diagnostics["logit"], oracles.vgg_logits(p64, a64)[TARGET])
    assert_close(got.diagnostics["logit_zero"], oracles.vgg_logits(p64, 0 * a64)[TARGET])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hires_cam(seed):
    p64, a64, p, a = problem(seed)
    got = compiled(hires_cam)(p, a, TARGET)
    map, alpha = oracles.hires_cam(a64, oracles.vgg_gradient(p64, a64, TARGET))
    assert_close(got.map, map)
    assert_close(got.coefficients, alpha)
    assert np.abs(map - np.maximum((alpha * a64).sum(-1), 0)).max() > 0.1 * map.max()  # no map of coefficients


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_layer_cam_and_grad_cam_elementwise(seed):
    p64, a64, p, a = problem(seed)
    a = a - np.float32(0.3)  # of activations that are nowhere negative they are one
    a64 = np.asarray(a, np.float64)
    g = oracles.vgg_gradient(p64, a64, TARGET)
    maps = {}
    for method, oracle in ((layer_cam, oracles.layer_cam), (grad_cam_elementwise, oracles.grad_cam_elementwise)):
        got = compiled(method)(p, a, TARGET)
        maps[method], alpha = oracle(a64, g)
        assert_close(got.map, maps[method])
        assert_close(got.coefficients, alpha)
    assert np.abs(maps[layer_cam] - maps[grad_cam_elementwise]).max() > 0.01 * maps[layer_cam].max()
    positive = jnp.abs(a)
    layer, elementwise = (compiled(m)(p, positive, TARGET) for m in (layer_cam, grad_cam_elementwise))
    assert_close(layer.map, elementwise.map, 1e-6)
    assert np.abs(layer.map - compiled(hires_cam)(p, positive, TARGET).map).max() > 0.1 * layer.map.max()


@pytest.mark.parametrize("name", ["gelu_tanh", "attention", "squeeze_excite"])
def test_shapley_cam(name):
    smooth, target = heads.HEADS[name], 1
    a = seeded.activations(8, heads.SHAPE)
    with jax.enable_x64(True):
        params = heads.to_jax(smooth.params, jnp.float64)
        gradient = jax.jit(jax.grad(lambda a: smooth.fn(params, a)[target]))
        want = oracles.shapley_cam(a, lambda x: np.asarray(gradient(x)))
        got = jax.tree.map(np.asarray, compiled(shapley_cam, smooth.fn)(params, jnp.asarray(a), target))
        mean_gradient = oracles.grad_cam(a, np.asarray(gradient(a)))
    assert_close(got.coefficients, want, 1e-8)
    assert_close(got.map, np.maximum((want * a).sum(-1), 0), 1e-8)
    assert np.abs(want - mean_gradient).max() > 0.02 * np.abs(want).max()


def test_shapley_cam_is_exact_of_a_quadratic_and_grad_cam_on_a_head_of_relus():
    rng = np.random.default_rng(0)
    h, g = rng.normal(size=(6, 6)), rng.normal(size=6)
    h, a = h + h.T, rng.normal(size=(1, 1, 6))

    def head(p, a):
        x = a[0, 0]
        return (p["g"] @ x + x @ p["h"] @ x / 2)[None]

    with jax.enable_x64(True):
        alpha = shapley_cam({"h": h, "g": g}, jnp.asarray(a), head=head, target=0).coefficients
        shapley = oracles.shapley(lambda x: float(head({"h": h, "g": g}, x)[0]), a)
    np.testing.assert_allclose(a[0, 0] * np.asarray(alpha), shapley, rtol=1e-9)
    _, _, p, a = problem(1)
    np.testing.assert_array_equal(
        compiled(shapley_cam)(p, a, TARGET).coefficients, compiled(grad_cam)(p, a, TARGET).coefficients
    )


def test_smooth_grad_cam_pp():
    p64, a64, p, a = problem(1)
    key, head = jax.random.key(4), heads.HEADS["vgg"].fn
    run = jax.jit(functools.partial(smooth_grad_cam_pp, head=head, target=TARGET, num_samples=5))
    noise = np.asarray(
        [jax.random.normal(k, SHAPE) * (a.max() - a.min()) for k in jax.random.split(key, 5)], np.float64
    )
    alphas = []
    for sigma in (0.0, 0.3):
        got = run(p, a, key, sigma=sigma)
        gradients = [oracles.vgg_gradient(p64, a64 + sigma * n, TARGET) for n in noise]
        alphas.append(oracles.smooth_grad_cam_pp(a64, gradients))
        assert_close(got.coefficients, alphas[-1], 1e-4)
        assert_close(got.map, np.maximum((alphas[-1] * a64).sum(-1), 0), 1e-4)
        assert_close(got.diagnostics["logit"], oracles.vgg_logits(p64, a64)[TARGET])
    assert_close(alphas[0], oracles.grad_cam_pp(a64, oracles.vgg_gradient(p64, a64, TARGET)))
    assert np.abs(alphas[1] - alphas[0]).max() > 0.1 * alphas[0].max()
    for scale in (1e-20, 1e12):  # powers of the gradient leave float32's range long before it does
        sized = run({**p, "w3": p["w3"] * scale, "b3": p["b3"] * scale}, a, key, sigma=0.0)
        g = oracles.vgg_gradient({**p64, "w3": p64["w3"] * scale}, a64, TARGET)
        assert_close(sized.coefficients, oracles.grad_cam_pp(a64, g), 1e-4)
    with pytest.raises(JaxcamError, match="num_samples must be a whole number of at least 1, not 0"):
        smooth_grad_cam_pp(p, a, key, head=head, target=TARGET, num_samples=0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eigen_cam(seed):
    p64, a64, p, a = problem(seed)
    got = compiled(eigen_cam)(p, a, TARGET)
    alpha, _ = oracles.first_component(a64)
    assert_close(got.coefficients, alpha)
    assert_close(got.map, a64 @ alpha)
    assert (alpha >= 0).all() and (a64 @ alpha >= 0).all()  # of activations that are nowhere negative
    assert_close(got.diagnostics["logit"], oracles.vgg_logits(p64, a64)[TARGET])
    np.testing.assert_array_equal(got.map, compiled(eigen_cam)(p, a, TARGET + 1).map)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eigen_grad_cam_speaks_for_the_class(seed):
    p64, a64, p, a = problem(seed)
    got = compiled(eigen_grad_cam)(p, a, TARGET)
    products = a64 * oracles.vgg_gradient(p64, a64, TARGET)
    v, determined = oracles.first_component(products)
    assert_close(got.map, np.maximum(products @ v, 0), 1e-5 / determined)
    assert_close(got.coefficients, products.sum((0, 1)) * v, 1e-5 / determined)
    assert (got.diagnostics["signed_map"] * products.sum(-1)).sum() > 0
    against = jax.jit(lambda p, a: eigen_grad_cam(p, a, head=heads.HEADS["vgg"].fn, target=lambda z: -z[TARGET]))(p, a)
    assert_close(against.diagnostics["signed_map"], -np.asarray(got.diagnostics["signed_map"]))


component = jax.jit(first_component)


@pytest.mark.parametrize("shape", [(6, 5, 4), (3, 2, 11)])
@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
def test_the_first_component_of_more_and_of_fewer_positions_than_channels(shape, size):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    want, determined = oracles.first_component(x.astype(np.float64))
    assert determined > 1e-3
    assert_close(component(x * np.float32(size)), want, 2e-6 / determined)


def test_components_that_are_equally_large_dead_or_without_a_sign():
    def gradient(x):
        return jax.grad(lambda x: (first_component(x) * jnp.arange(1.0, 1 + x.shape[-1])).sum())(x)

    twice = np.zeros((2, 2, 3), np.float32)
    twice[0, 0, 0] = twice[1, 1, 2] = 2.0  # two channels of one size, that are nowhere together
    np.testing.assert_allclose(component(twice), [0.5**0.5, 0, 0.5**0.5], atol=1e-6)
    opposite = np.stack([np.ones((2, 2)), -np.ones((2, 2))], -1).astype(np.float32)
    for x in (twice, np.zeros((2, 2, 3), np.float32), opposite, np.ones((1, 1, 3), np.float32)):
        assert np.isfinite(gradient(jnp.asarray(x))).all()
        assert np.isfinite(component(x)).all()
    assert not component(opposite).any() and not component(np.zeros((2, 2, 3), np.float32)).any()
    near = twice.copy()
    near[1, 1, 2] *= 0.999  # a thousandth less: 0.998 of the eigenvalue, and told apart
    np.testing.assert_allclose(component(near), [1, 0, 0], atol=1e-6)


def test_random_cam_draws_evenly_of_the_key_alone():
    _, _, p, a = problem(1)
    head = heads.HEADS["vgg"].fn
    draw = jax.jit(lambda key, a, target: random_cam(p, a, key, head=head, target=target))
    one = draw(jax.random.key(1), a, 0)
    np.testing.assert_array_equal(one.coefficients, draw(jax.random.key(1), 2 * a, 1).coefficients)
    assert (one.coefficients != draw(jax.random.key(2), a, 0).coefficients).all()
    assert_close(one.map, np.maximum((np.asarray(one.coefficients, np.float64) * np.asarray(a)).sum(-1), 0))
    wide = random_cam(None, jnp.ones((1, 1, 20000)), jax.random.key(0), head=lambda p, a: a.sum((0, 1)), target=0)
    shares, _ = np.histogram(wide.coefficients, np.linspace(-1, 1, 11))
    assert wide.coefficients.min() >= -1 and wide.coefficients.max() < 1 and np.abs(shares / 2000 - 1).max() < 0.1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hires_lift_cam(seed):
    p64, a64, p, a = problem(seed)
    got = compiled(hires_lift_cam)(p, a, TARGET)
    before, map, alpha = oracles.hires_lift_cam(p64, a64, TARGET)
    assert_close(got.map, map)
    assert_close(got.coefficients, alpha)
    np.testing.assert_array_equal(got.coefficients, compiled(lift_cam)(p, a, TARGET).coefficients)
    change = oracles.vgg_logits(p64, a64)[TARGET] - oracles.vgg_logits(p64, 0 * a64)[TARGET]
    np.testing.assert_allclose(before.sum(), change, rtol=1e-9)
    # Of our own map, too: what the ReLU took away is the map against the class.
    against = jax.jit(lambda p, a: hires_lift_cam(p, a, head=heads.HEADS["vgg"].fn, target=lambda z: -z[TARGET]))(p, a)
    assert_close(got.map - against.map, before)
    assert abs(float(np.sum(got.map - against.map)) - change) < 1e-5 * np.abs(before).sum()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_multiplier_cam(seed):
    p64, a64, p, a = problem(seed)
    a64, a = a64 + 0.1, a + 0.1  # a multiplier is 0/0 where nothing changes
    got = compiled(multiplier_cam)(p, a, TARGET)
    want = oracles.multiplier_cam(p64, a64, TARGET)
    assert_close(got.coefficients, want)
    assert_close(got.map, np.maximum((want * a64).sum(-1), 0))
    assert abs(got.diagnostics["contribution_gap"]) < 1e-4
    gradient = oracles.vgg_gradient(p64, a64, TARGET).mean((0, 1))
    assert np.abs(want - gradient).max() > 0.05 * np.abs(want).max()  # no Grad-CAM


def test_lift_cam_on_a_quarter_width_vgg16_head():
    shape, hidden, classes, target = QUARTER
    p64, a64, p, a = problem(4, shape, hidden, classes)
    got = compiled(lift_cam)(p, a, target)
    assert_close(got.coefficients, oracles.vgg_deeplift(p64, a64, target).sum((0, 1)))
    change = oracles.vgg_logits(p64, a64)[target] - oracles.vgg_logits(p64, 0 * a64)[target]
    assert abs(float(got.coefficients.sum()) - change) < 1e-4 * max(1.0, abs(change))


def test_lift_cam_in_float64_agrees_to_rounding():
    p64, a64, _, _ = problem(1)
    with jax.enable_x64(True):
        got = compiled(lift_cam)(p64, a64, TARGET).coefficients
        assert got.dtype == jnp.float64
    assert_close(got, oracles.vgg_deeplift(p64, a64, TARGET).sum((0, 1)), 1e-12)


def test_deep_shap_cam():
    p64, a64, p, a = problem(1)
    references = np.stack([seeded.activations(s, SHAPE) for s in (31, 32, 33)]).astype(np.float32)
    got = jax.jit(functools.partial(deep_shap_cam, head=heads.HEADS["vgg"].fn, target=TARGET))(
        p, a, references=jnp.asarray(references)
    )
    each = [oracles.vgg_deeplift(p64, a64, TARGET, r.astype(np.float64)).sum((0, 1)) for r in references]
    assert_close(got.coefficients, np.mean(each, 0))


def test_cam_is_the_linear_layer():
    linear = heads.HEADS["linear_gap"]
    a = jnp.asarray(seeded.activations(8, heads.SHAPE), jnp.float32)
    params = heads.to_jax(linear.params)
    for target in range(heads.CLASSES):
        got = compiled(cam, linear.fn)(params, a, jnp.asarray(target))
        assert_close(got.coefficients, oracles.cam(linear.params["w"], target))


@pytest.mark.parametrize("name", ["vgg", "conv_relu_conv", "average_pool", "gelu_tanh", "tanh", "squeeze_excite"])
def test_cam_refuses_other_heads(name):
    other = heads.HEADS[name]
    with pytest.raises(JaxcamError, match="(?i)linear"):
        cam(heads.to_jax(other.params), jnp.ones(heads.SHAPE), head=other.fn, target=0)


def test_cam_refuses_a_linear_head_that_tells_positions_apart():
    weights = jnp.asarray(heads.draw("flat", {"w": (heads.FLAT, heads.CLASSES)})["w"], jnp.float32)
    with pytest.raises(JaxcamError):
        cam(weights, jnp.ones(heads.SHAPE), head=lambda w, a: a.reshape(-1) @ w, target=0)


# --- where a denominator is zero ----------------------------------------------------------------------------------

#: The methods that take nothing but the head, and any head.
ALL = {n: m.function for n, m in METHODS.items() if m.heads is None and set(m.needs) in ({"gradient"}, {"rules"})}
NULL = [name for name in ALL if METHODS[name].null_channels]


@pytest.mark.parametrize("name", ALL)
def test_dead_channels_and_dead_layers_give_zeros_not_nan(name):
    p64, a64, p, a = problem(1)
    one_dead = a.at[..., 3].set(0.0)
    got = compiled(ALL[name])(p, one_dead, TARGET)
    assert np.isfinite(got.coefficients).all() and np.isfinite(got.map).all()
    if name in NULL:
        assert got.coefficients[3] == 0
    dead = compiled(ALL[name])(p, 0 * a, TARGET)
    assert np.isfinite(dead.coefficients).all()
    if METHODS[name].map_from == "channels" or METHODS[name].contains_activation:  # else it is of the gradient alone
        np.testing.assert_array_equal(dead.map, np.zeros(SHAPE[:2]))
    if name in NULL:
        np.testing.assert_array_equal(dead.coefficients, np.zeros(SHAPE[2]))


#: Those whose maps are made of the activations, but for two that follow a tangent through the head, which is NaN there.
OF_PARTS = [
    n for n in ALL
    if (METHODS[n].contains_activation or METHODS[n].map_from == "channels") and n not in ("shapley_cam", "full_grad")
]  # fmt: skip


def _steep(w, a):
    """Poolings that are infinitely steep, or have no slope at all, where a channel is zero."""
    pooled = (
        jnp.std(a, (0, 1)), jnp.sqrt(jnp.mean(a**2, (0, 1))), jnp.cbrt(jnp.mean(a**3, (0, 1))),
        jnp.sqrt(a).mean((0, 1)),
    )  # fmt: skip
    return jax.nn.softplus(sum(v @ w[i] for i, v in enumerate(pooled)))


@pytest.mark.parametrize("name", OF_PARTS)
def test_a_dead_channel_in_front_of_a_root_changes_nothing(name):
    a = jax.random.uniform(jax.random.key(0), (3, 3, 4), minval=0.2)
    w = jax.random.normal(jax.random.key(1), (4, 4, 2))
    rest = jnp.array([0, 2, 3])
    method = jax.jit(lambda w, a: METHODS[name].function(w, a, head=_steep, target=0))
    try:
        without = method(w[:, rest], a[..., rest])
    except NotImplementedError:
        pytest.skip("the method has no rule for such a head")
    found = method(w, a.at[..., 1].set(0.0))
    assert np.isfinite(found.coefficients).all() and found.coefficients[1] == 0
    if METHODS[name].by_channel and METHODS[name].range[0] < 0:  # else some are scaled by the number of channels
        np.testing.assert_allclose(found.coefficients[rest], without.coefficients, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.map, without.map, rtol=1e-4, atol=1e-6)


def test_a_channel_that_is_zero_somewhere_in_front_of_a_root_is_named():
    a = jnp.ones((3, 3, 4)).at[0, 0, 2].set(0.0)
    found = grad_cam(jnp.ones((4, 2)), a, head=lambda w, a: jnp.sqrt(a).mean((0, 1)) @ w, target=0)
    why = jaxcam.why_empty(found.map, found.coefficients, a)
    assert why.startswith("the coefficients hold NaN or infinite values in channels 2, which are zero somewhere")
    assert jaxcam.why_empty(found.map, jnp.full(4, jnp.nan), a) == "the coefficients hold NaN or infinite values"


@pytest.mark.parametrize("name", ALL)
def test_a_channel_the_head_ignores_gets_zero(name):
    _, _, p, a = problem(1)
    ignored = {**p, "w1": p["w1"].reshape(-1, SHAPE[2], HIDDEN).at[:, 3].set(0.0).reshape(p["w1"].shape)}
    got = compiled(ALL[name])(ignored, a, TARGET).coefficients
    assert np.isfinite(got).all() and got[3] == 0 and (got != 0).sum() >= SHAPE[2] // 2


def test_grad_cam_pp_of_positions_without_gradient():
    # Max pooling leaves three of four positions without gradient: g = 0, denominator 0, weight 0.
    p64, a64, p, a = problem(2)
    g = oracles.vgg_gradient(p64, a64, TARGET)
    assert (g == 0).mean() >= 0.75
    assert_close(compiled(grad_cam_pp)(p, a, TARGET).coefficients, oracles.grad_cam_pp(a64, g))


@pytest.mark.parametrize("scale", [1e-14, 1e-20, 1e12])
def test_grad_cam_pp_at_any_size_of_gradient(scale):
    # g^2 and g^3 leave float32's range long before g does.
    p64, a64, p, a = problem(2)
    sized = {**p, "w3": p["w3"] * scale, "b3": p["b3"] * scale}
    got = compiled(grad_cam_pp)(sized, a, TARGET).coefficients
    g = oracles.vgg_gradient({**p64, "w3": p64["w3"] * scale}, a64, TARGET)
    assert_close(got, oracles.grad_cam_pp(a64, g))


def test_xgrad_cam_of_a_channel_that_sums_to_zero_without_being_dead():
    a = jnp.asarray(seeded.activations(8, heads.SHAPE), jnp.float32).at[..., 0].set(0.0)
    a = a.at[0, 0, 0].set(1.5).at[1, 1, 0].set(-1.5)
    smooth = heads.HEADS["tanh"]
    got = compiled(xgrad_cam, smooth.fn)(heads.to_jax(smooth.params), a, TARGET)
    assert np.isfinite(got.coefficients).all() and got.coefficients[0] == 0
