"""DeepLIFT's promise on every head: the contributions add up to F(x) - F(reference), and the value is F(x)."""

from __future__ import annotations

import functools
import inspect

import heads
import heads_programs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from reference import seeded

from jaxcam.methods.contribution import deep_shap_cam, lift_cam
from jaxcam.transforms.deeplift import deeplift
from jaxcam.transforms.walker import UnsupportedPrimitive

HEADS = {**heads.HEADS, **heads_programs.PROGRAMS}
TARGET = 1
A = jnp.asarray(seeded.activations(5, heads.SHAPE), jnp.float32)
REFERENCE = jnp.asarray(0.7 * seeded.activations(6, heads.SHAPE), jnp.float32)


def assert_complete(total, change):
    assert abs(float(total) - float(change)) <= 1e-4 * max(1.0, abs(float(change))), (total, change)


@functools.cache
def results(name: str) -> dict:
    """What the tests below look at, for one head, out of two small compilations."""
    head = HEADS[name].fn
    params = heads.to_jax(HEADS[name].params)

    @jax.jit
    def pair(params, x, reference):
        value, pullback = jax.vjp(lambda x: deeplift(lambda x: head(params, x))(x, reference), x)
        (multiplier,) = pullback(jnp.zeros(heads.CLASSES).at[TARGET].set(1.0))
        return value, multiplier, head(params, x), head(params, reference)

    @jax.jit
    def lift(params, x):
        return lift_cam(params, x, head=head, target=TARGET)

    return {
        "zero": (A, jnp.zeros_like(A), *pair(params, A, jnp.zeros_like(A))),
        "other": (A, REFERENCE, *pair(params, A, REFERENCE)),
        "same": (A, A, *pair(params, A, A)),
        "lift": lift(params, A),
    }


@pytest.mark.parametrize("name", HEADS)
def test_contributions_add_up_from_zero(name):
    x, _, _, multiplier, f, f0 = results(name)["zero"]
    assert_complete((x * multiplier).sum(), (f - f0)[TARGET])


@pytest.mark.parametrize("name", HEADS)
def test_contributions_add_up_from_another_reference(name):
    x, reference, _, multiplier, f, f0 = results(name)["other"]
    assert_complete(((x - reference) * multiplier).sum(), (f - f0)[TARGET])


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("case", ["zero", "other", "same"])
def test_value_is_the_functions_own(name, case):
    _, _, value, multiplier, f, _ = results(name)[case]
    # XLA may fuse the two programs differently: a few units in the last place, no more.
    np.testing.assert_allclose(value, f, rtol=2e-6, atol=2e-6)
    assert np.isfinite(multiplier).all()


@pytest.mark.parametrize("name", HEADS)
def test_lift_cam_is_deeplift_summed_per_channel(name):
    r = results(name)
    x, _, _, multiplier, f, f0 = r["zero"]
    alpha, diagnostics = r["lift"].coefficients, r["lift"].diagnostics
    contributions = np.asarray(x * multiplier, np.float64)
    scale = np.abs(contributions).sum()  # rounding is relative to what was added up, not to what is left of it
    np.testing.assert_allclose(alpha, contributions.sum((0, 1)), rtol=0, atol=2e-6 * max(1.0, scale))
    np.testing.assert_allclose(diagnostics["logit"], f[TARGET], rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(diagnostics["logit_zero"], f0[TARGET], rtol=2e-6, atol=2e-6)
    assert_complete(alpha.sum(), (f - f0)[TARGET])
    gap = float(alpha.sum()) - float((f - f0)[TARGET])
    np.testing.assert_allclose(diagnostics["completeness_gap"], gap, rtol=0, atol=5e-6 * max(1.0, scale))


def test_value_is_exact_without_jit():
    head, params = heads.HEADS["vgg"].fn, heads.to_jax(heads.HEADS["vgg"].params)
    value = deeplift(lambda x: head(params, x))(A, REFERENCE)
    np.testing.assert_array_equal(value, head(params, A))


@pytest.mark.parametrize("name", heads_programs.UNSUPPORTED)
def test_primitive_without_rule_is_named_with_its_line(name):
    head = heads_programs.UNSUPPORTED[name]
    lines, first = inspect.getsourcelines(head.fn)
    line = first + next(i for i, text in enumerate(lines) if "# refused" in text)
    with pytest.raises(UnsupportedPrimitive) as caught:
        lift_cam(heads.to_jax(head.params), A, head=head.fn, target=TARGET)
    assert isinstance(caught.value, NotImplementedError)
    message = str(caught.value)
    assert name in message
    assert f"heads_programs.py:{line}" in message, (message, line)


def test_primitive_without_rule_is_located_inside_nested_calls_and_under_jit():
    def head(params, a):
        inner = jax.jit(lambda x: x * jnp.argmax(x))  # refused
        return jax.checkpoint(lambda x: inner(x.reshape(-1))[:3])(a)

    line = inspect.getsourcelines(head)[1] + 1
    with pytest.raises(UnsupportedPrimitive) as caught:
        jax.jit(lambda a: lift_cam({}, a, head=head, target=0))(A)
    assert "argmax" in str(caught.value) and f"test_deeplift_completeness.py:{line}" in str(caught.value)


def test_primitive_without_rule_on_inactive_values_is_no_problem():
    def head(params, a):
        steps = lax.while_loop(lambda v: v[0] < 3.0, lambda v: v + 1.0, params["b"])
        return jax.nn.relu(a.mean((0, 1)) + lax.sort(steps))

    params = {"b": jnp.linspace(-2.0, 1.0, heads.CHANNELS)}
    alpha = jax.jit(lambda p, a: lift_cam(p, a, head=head, target=0).coefficients)(params, A)
    assert_complete(alpha.sum(), (head(params, A) - head(params, 0 * A))[0])


def test_elementwise_multiplier_is_the_secant_however_the_function_is_written():
    # Completeness of a function of one number leaves no choice: the multiplier is (f(x) - f(r)) / (x - r).
    x = jnp.linspace(-7.3, 6.9, 41)
    r = jnp.linspace(3.1, -2.2, 41)

    @jax.jit
    def all_at_once(x, r):
        out = {}
        for name, f in heads.ELEMENTWISE.items():
            value, pullback = jax.vjp(lambda x, f=f: deeplift(f)(x, r), x)
            out[name] = value, pullback(jnp.ones_like(x))[0]
        return out

    got = all_at_once(x, r)
    with jax.enable_x64(True):
        x64, r64 = np.asarray(x, np.float64), np.asarray(r, np.float64)
        for name, f in heads.ELEMENTWISE.items():
            fx, fr = np.asarray(f(jnp.asarray(x64))), np.asarray(f(jnp.asarray(r64)))
            np.testing.assert_allclose(got[name][0], fx, rtol=1e-5, atol=1e-5, err_msg=name)
            change = got[name][1] * (x64 - r64)
            np.testing.assert_allclose(change, fx - fr, rtol=2e-5, atol=2e-5, err_msg=name)


def test_multiplier_where_nothing_changes_is_the_derivative():
    x = jnp.linspace(-2.0, 2.1, 12)
    for name in ("tanh", "softplus", "gelu_tanh", "cube"):
        f = heads.ELEMENTWISE[name]
        multiplier = jax.vjp(lambda x, f=f: deeplift(f)(x, x), x)[1](jnp.ones_like(x))[0]
        np.testing.assert_allclose(multiplier, jax.vmap(jax.grad(f))(x), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("f", [jax.nn.relu, jax.nn.softplus, jax.nn.silu, jax.nn.relu6])
@pytest.mark.parametrize("inside_a_scan", [False, True])
def test_where_nothing_changes_at_a_kink_it_is_the_derivative_that_the_function_brings(f, inside_a_scan):
    """A unit that is 0 here and at the reference, as all are in a layer without biases: `max(x, 0)` alone has 1/2."""
    fn = (lambda x: jax.lax.scan(lambda c, v: (c, f(v)), 0.0, x)[1]) if inside_a_scan else f
    x = jnp.asarray([0.0, 1.0, 0.0])
    multiplier = jax.vjp(lambda x: deeplift(fn)(x), x)[1](jnp.ones_like(x))[0]
    at_zero = jax.grad(f)(0.0)
    np.testing.assert_allclose(multiplier, [at_zero, f(1.0) - f(0.0), at_zero], rtol=1e-6)


@jax.custom_jvp
def clipped_product(a, b):
    return jnp.maximum(a * b, -9.0)


clipped_product.defjvp(lambda primals, tangents: (clipped_product(*primals), 7.0 * tangents[0]))


def test_a_function_of_two_values_with_its_own_derivative_goes_by_what_it_is_made_of():
    def fn(x):
        return clipped_product(jnp.sin(x["a"]).sum(keepdims=True), x["b"])

    x = {"a": jnp.asarray([0.5, 1.0]), "b": jnp.asarray([2.0])}
    zero = jax.tree.map(jnp.zeros_like, x)
    multiplier = jax.vjp(lambda x: deeplift(fn)(x, zero), x)[1](jnp.ones(1))[0]
    total = sum((multiplier[k] * x[k]).sum() for k in x)
    np.testing.assert_allclose(total, fn(x)[0], rtol=1e-5)
    one = jax.vjp(lambda b: deeplift(lambda b: clipped_product(b, b))(b), x["b"])[1](jnp.ones(1))[0]
    np.testing.assert_allclose(one, [2.0], rtol=1e-5)  # b^2 from 0 to 2, whatever derivative it brings


@pytest.mark.parametrize(
    ("window", "reference"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.0, 7.0, 0.0, 0.0]),  # all zero now, alive at the reference
        ([3.0, 0.0, 0.0, 0.0], [3.0, 7.0, 0.0, 0.0]),  # the winner's own change is zero
        ([3.0, 3.0, 1.0, 0.0], [0.0, 5.0, 1.0, 0.0]),  # a tie of winners
        ([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]),  # another winner, the same maximum
        ([2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    ],
)
@pytest.mark.parametrize("pool", ["reduce_window", "reduce_max"])
def test_max_pooling_is_complete_whoever_wins(window, reference, pool):
    def f(x):
        return heads.max_pool(x.reshape(2, 2, 1)).sum() if pool == "reduce_window" else x.max()

    x, r = jnp.array(window), jnp.array(reference)
    value, pullback = jax.vjp(lambda x: deeplift(f)(x, r), x)
    contributions = (x - r) * pullback(jnp.ones(()))[0]
    assert float(value) == max(window)
    assert np.isfinite(contributions).all()
    assert_complete(contributions.sum(), max(window) - max(reference))


@pytest.mark.parametrize("pick", ["max", "min"])
@pytest.mark.parametrize("padding", ["SAME", [(1, 0), (1, 1), (0, 0)]], ids=["same", "given"])
def test_equal_elements_under_padded_windows_share_completely(pick, padding):
    """XLA's two derivatives of a window over a padding differ in which of equal elements they pick."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (6, 6, 2)), jnp.float32)
    r = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    never, combine = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min)}[pick]

    def f(x):
        pooled = lax.reduce_window(x, never, combine, (2, 2, 1), (1, 1, 1), padding)
        return jnp.sum(pooled * jnp.cos(jnp.arange(pooled.size, dtype=jnp.float32)).reshape(pooled.shape))

    multiplier = jax.jit(jax.grad(lambda x: deeplift(f)(x, r)))(x)
    assert_complete(((x - r) * multiplier).sum(), f(x) - f(r))


def test_product_of_two_channels_is_shared_like_shapley():
    def f(x):
        return x[0] * x[1] + 3.0 * x[0]

    x, r = jnp.array([2.0, 5.0]), jnp.array([1.0, -1.0])
    multiplier = jax.vjp(lambda x: deeplift(f)(x, r), x)[1](1.0)[0]
    # Shapley of x0 * x1 between r = (1, -1) and x = (2, 5): x0 gets the mean of -1 and 5, x1 of 6 and 12.
    np.testing.assert_allclose((x - r) * multiplier, [2.0 + 3.0, 9.0], rtol=1e-6)


def test_deep_shap_is_the_mean_over_references():
    head, params = heads.HEADS["vgg"].fn, heads.to_jax(heads.HEADS["vgg"].params)
    references = jnp.stack([jnp.zeros_like(A), REFERENCE, 0.2 + 0 * A])
    cam = jax.jit(lambda p, a, r: deep_shap_cam(p, a, head=head, target=TARGET, references=r))(params, A, references)
    x, r, _, multiplier, f, _ = results("vgg")["other"]
    start = np.mean([head(params, r)[TARGET] for r in references])
    assert_complete(cam.coefficients.sum(), f[TARGET] - start)
    assert abs(float(cam.diagnostics["completeness_gap"])) < 1e-4
    single = deep_shap_cam(params, A, head=head, target=TARGET, references=r[None])
    np.testing.assert_allclose(single.coefficients, ((x - r) * multiplier).sum((0, 1)), rtol=1e-4, atol=1e-5)
    zero = deep_shap_cam(params, A, head=head, target=TARGET, references=jnp.zeros_like(A)[None])
    np.testing.assert_allclose(zero.coefficients, results("vgg")["lift"].coefficients, rtol=1e-5, atol=1e-6)
