"""Where the rescale rule has jumps, infinite slopes, infinities and norms of almost nothing: complete all the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcam
from jaxcam.transforms.deeplift import deeplift

JUMPS = {
    "round": (jnp.round, 2.5005, 2.4995),
    "floor": (jnp.floor, 100.05, 99.95),
    "ceil": (jnp.ceil, 7.0001, 6.9999),
    "sign": (jnp.sign, 1e-6, -1e-6),
    "threshold": (lambda z: jnp.where(z > 3, z, 0.0), 3.001, 2.999),
    "hard_swish": (jax.nn.hard_swish, 3.002, 2.999),
    "hard_sigmoid": (jax.nn.hard_sigmoid, -3.001, -2.9995),
    "relu6": (jax.nn.relu6, 6.004, 5.999),
    "hard_tanh": (jax.nn.hard_tanh, 1.0004, 0.9998),
    "leaky_relu": (jax.nn.leaky_relu, 1e-3, -1e-3),
    "celu": (jax.nn.celu, 1e-4, -1e-4),
    "clip": (lambda z: jnp.clip(z, 0.0, 200.0), 200.1, 199.9),
    "rem": (lambda z: jnp.remainder(z, 2.0), 4.001, 3.999),
}


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_a_jump_between_close_points_is_seen(name, dtype):
    fn, x, r = JUMPS[name]
    if dtype == jnp.bfloat16:  # as close as two numbers of that kind can be
        r = float(jnp.asarray(x, dtype)) * (1 - 2.0**-8)
    x, r = jnp.asarray(x, dtype), jnp.asarray(r, dtype)
    contribution = jax.grad(lambda v: deeplift(fn)(v, r).astype(jnp.float32))(x) * (x - r)
    eps = float(jnp.finfo(dtype).eps)
    scale = max(abs(float(fn(x))), abs(float(fn(r))))
    assert abs(float(contribution) - (float(fn(x)) - float(fn(r)))) <= 8 * eps * scale


@pytest.mark.parametrize("fn", [jnp.tanh, jnp.exp, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jnp.sin])
def test_close_points_of_a_smooth_function_have_its_derivative(fn):
    """A secant between them would be made of rounding errors."""
    x = jnp.asarray([0.3, 1.7, -2.2], jnp.float32)
    r = x * (1 + 3e-7)
    m = jax.vmap(jax.grad(deeplift(fn)))(x, r)
    np.testing.assert_allclose(m, jax.vmap(jax.grad(fn))(x), rtol=2e-5)


A = jax.random.uniform(jax.random.key(0), (4, 4, 3)).at[..., 1].set(0.0)
POOLS = {
    "std": lambda x: jnp.std(x, (0, 1)),
    "norm": lambda x: jnp.linalg.norm(x.reshape(-1, 3), axis=0),
    "GeM": lambda x: jnp.mean(x**3, (0, 1)) ** (1 / 3),
    "cube root": lambda x: jnp.cbrt(x.mean((0, 1))),
    "sqrt": lambda x: jnp.sqrt(x).mean((0, 1)),
    "x ** 0.5": lambda x: (x**0.5).mean((0, 1)),
    "signed root": lambda x: (jnp.sign(x) * jnp.sqrt(jnp.abs(x))).mean((0, 1)),
    "log1p of root": lambda x: jnp.log1p(jnp.sqrt(x).mean((0, 1))),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_dead_channel_before_an_infinite_slope_gets_zero(pool, jit):
    w = jax.random.normal(jax.random.key(1), (3, 2))
    method = lambda p, a: jaxcam.lift_cam(p, a, head=lambda p, x: POOLS[pool](x) @ p, target=0)  # noqa: E731
    cam = (jax.jit(method) if jit else method)(w, A)
    change = (POOLS[pool](A) - POOLS[pool](A * 0)) @ w
    assert cam.coefficients[1] == 0 and jnp.isfinite(cam.coefficients).all()
    np.testing.assert_allclose(cam.coefficients.sum(), change[0], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["std", "sqrt", "cube root"])
@pytest.mark.parametrize("name", ["hires_cam", "xgrad_cam"])
def test_gradients_that_are_infinite_where_nothing_is_count_for_nothing(name, pool):
    """A gradient of infinity times an activation of zero: the other channels get what they get without the dead one."""
    w = jax.random.normal(jax.random.key(1), (3, 2))
    run = jax.jit(lambda p, a: getattr(jaxcam, name)(p, a, head=lambda p, x: POOLS[pool](x) @ p, target=0))
    alive = jnp.asarray([0, 2])
    cam, without = run(w, A), run(w[alive], A[..., alive])
    assert cam.coefficients[1] == 0 and jnp.isfinite(cam.map).all()
    np.testing.assert_allclose(cam.coefficients[alive], without.coefficients, rtol=1e-5)


TOKENS = jax.random.uniform(jax.random.key(0), (3, 3, 4))
KEEP = jnp.tril(jnp.ones((9, 9), bool))
MASKED = {
    "where": lambda s, fill: jnp.where(KEEP, s, fill),
    "added": lambda s, fill: s + jnp.where(KEEP, 0.0, fill),
    "argument": lambda s, fill: jnp.where(KEEP & (jnp.arange(9) != 4), s, fill),
}
READ = {
    "softmax": lambda s: jax.nn.softmax(s, -1),
    "by hand": lambda s: jnp.exp(s - s.max(-1, keepdims=True)) / jnp.exp(s - s.max(-1, keepdims=True)).sum(-1)[:, None],
    "logsumexp": lambda s: jnp.exp(s - jax.nn.logsumexp(s, -1, keepdims=True)),
}


@pytest.mark.parametrize("mask", MASKED)
@pytest.mark.parametrize("read", READ)
def test_a_mask_of_infinity_is_a_mask(mask, read):
    w = jax.random.normal(jax.random.key(1), (4, 3))
    found = []
    for fill in (-1e9, -jnp.inf):

        def head(p, x, fill=fill):
            t = x.reshape(9, 4)
            return (READ[read](MASKED[mask](t @ t.T, fill)) @ t).mean(0) @ p

        cam = jax.jit(lambda p, a, head=head: jaxcam.lift_cam(p, a, head=head, target=0))(w, TOKENS)
        assert abs(cam.diagnostics["completeness_gap"]) < 1e-5
        found.append(cam.coefficients)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1e-6, 1e-12])
@pytest.mark.parametrize("kind", ["layer", "root mean square"])
def test_in_front_of_a_norm_it_adds_up_and_is_what_is_there_times_its_scale(kind, epsilon):
    """With halves of products, in float32, it was 3 % short at 1e-12, of coefficients 200,000 times too large; at 1e-5,
    which libraries begin with, they were 140 times as large as their sum, and a transformer's maps lay anywhere."""
    a = jax.random.normal(jax.random.key(2), (4, 4, 48))
    w = jax.random.normal(jax.random.key(3), (48, 10)) / 7

    def head(p, x):
        t = x.mean((0, 1))
        centred = t - t.mean() if kind == "layer" else t
        return centred * jax.lax.rsqrt(jnp.mean(centred**2) + epsilon) @ p

    cam = jax.jit(lambda p, x: jaxcam.lift_cam(p, x, head=head, target=3))(w, a)
    change = cam.diagnostics["logit"] - cam.diagnostics["logit_zero"]
    assert abs(cam.diagnostics["completeness_gap"]) <= 1e-4 * abs(change)
    mean = np.asarray(a, np.float64).mean((0, 1))
    less = mean.mean() if kind == "layer" else 0.0
    scale = 1 / np.sqrt(((mean - less) ** 2).mean() + epsilon)
    weights = np.asarray(w, np.float64)[:, 3]
    # Subtracting a mean is linear: of what is left every channel has its own part, and a part of each mean.
    want = mean * scale * (weights - (weights.mean() if kind == "layer" else 0.0))
    if epsilon < 1e-4:  # at 1e-3 the norm of nothing is no more than 7 times that of these
        np.testing.assert_allclose(cam.coefficients, want, atol=1e-4 * np.abs(want).max())
    assert jnp.abs(cam.coefficients).sum() < 20 * abs(change)


def slow_product(a, a_ref, b, b_ref):
    """The mean of both orders in which two factors can change; the smaller order alone where it is 16 times smaller."""
    one = (a - a_ref) * b, a_ref * (b - b_ref)  # b first
    two = (a - a_ref) * b_ref, a * (b - b_ref)
    sizes = [abs(x) + abs(y) for x, y in (one, two)]
    times = max(sizes) / min(sizes) if min(sizes) else np.inf if max(sizes) else 1.0
    lost = np.clip(np.log(times / 4) / np.log(4), 0, 1) if times < np.inf else 1.0
    share = (1 + lost) / 2 if sizes[0] <= sizes[1] else (1 - lost) / 2
    return tuple(share * x + (1 - share) * y for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("write", [lambda a, b: a * b, lambda a, b: a / (1 / b)], ids=["product", "quotient"])
def test_a_product_is_shared_out_by_the_order_that_cancels_less_and_changes_without_a_jump(write):
    b_ref = np.geomspace(0.3, 60, 64)  # from one order in half to the other one alone, by the way between
    for a, a_ref, b in ((1.3, 0.0, 0.5), (-0.7, 0.02, 1.0), (0.4, 0.4, -2.0), (2.0, -1.0, 0.25)):
        want = np.array([slow_product(a, a_ref, b, r) for r in b_ref])
        x = jnp.stack([jnp.full(64, a), jnp.full(64, b)]).astype(jnp.float32)
        r = jnp.stack([jnp.full(64, a_ref), jnp.asarray(b_ref)]).astype(jnp.float32)
        multipliers = jax.grad(lambda x, r: deeplift(lambda x: write(x[0], x[1]).sum())(x, r))(x, r)  # noqa: B023
        got = np.asarray(multipliers * (x - r)).T
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5 * np.abs(want).max())
        steps = np.abs(np.diff(want, axis=0)).max(1) / np.abs(want).max()
        assert steps.max() < 0.2


@pytest.mark.parametrize("epsilon", [1e-3, 1e-8])
def test_a_cosine_is_explained_alike_in_both_precisions(epsilon):
    """With halves of products wherever float64 has room for them, its contributions were 100,000,000 times as large."""
    a, w = np.random.default_rng(5).normal(size=(2, 4, 4, 6))

    def contributions(dtype):
        fn = lambda x: jnp.vdot(x, w.astype(dtype)) / (jnp.linalg.norm(x) * 9 + epsilon)  # noqa: E731
        x = jnp.asarray(a, dtype)
        found = jax.grad(deeplift(fn))(x) * x
        np.testing.assert_allclose(found.sum(), fn(x), rtol=1e-5)
        return found

    single = contributions(np.float32)
    with jax.enable_x64(True):
        double = contributions(np.float64)
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-6)


def test_the_multipliers_can_still_be_differentiated():
    fn = lambda x: jnp.sum(jax.nn.hard_swish(x) * jnp.tanh(x[::-1]))  # noqa: E731
    x = jnp.asarray([0.3, 3.001, -1.2], jnp.float32)
    second = jax.grad(lambda v: jnp.sum(jax.grad(deeplift(fn))(v, v * 0.999) * v))(x)
    assert jnp.isfinite(second).all()
