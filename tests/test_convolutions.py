"""Convolutions written as other operations: the same values and gradients, in the whole program, on CPUs only."""

from __future__ import annotations

import functools

import battery
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxcam.methods.result import Inputs
from jaxcam.transforms import fast_convolutions, for_cpu
from jaxcam.transforms.convolutions import enabled

NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def drawn(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def conv(x, w, *, strides=None, padding="SAME", dn=NHWC, **more):
    strides = strides or (1,) * (x.ndim - 2)
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=dn, **more)


def primitives(f, *args) -> str:
    """The text of the program that runs."""
    return str(jax.make_jaxpr(f)(*args))


def lowered(f, *args) -> str:
    return jax.jit(f).lower(*args).as_text()


#: Name: x, w and options.
CASES = {
    "depthwise": ((2, 7, 6, 4), (3, 3, 1, 4), {"feature_group_count": 4}),
    "depthwise strided": ((2, 7, 8, 4), (3, 5, 1, 4), {"feature_group_count": 4, "strides": (2, 2)}),
    "depthwise wide": (
        (2, 9, 8, 4), (3, 5, 1, 8), {"feature_group_count": 4, "strides": (1, 2), "rhs_dilation": (2, 1)},
    ),
    "depthwise multiplied": ((1, 6, 6, 3), (3, 3, 1, 6), {"feature_group_count": 3, "padding": "VALID"}),
    "depthwise dilated": (
        (1, 9, 9, 2), (3, 3, 1, 2),
        {"feature_group_count": 2, "rhs_dilation": (2, 3), "padding": ((3, 1), (-1, 4)), "strides": (2, 1)},
    ),
    "depthwise transposed": (
        (1, 4, 5, 3), (3, 3, 1, 3),
        {"feature_group_count": 3, "lhs_dilation": (2, 2), "padding": ((1, 2), (2, 1))},
    ),
    "depthwise channels first": ((2, 3, 6, 7), (3, 1, 3, 3), {"feature_group_count": 3, "dn": NCHW}),
    "depthwise moved": ((2, 5, 6, 3), (3, 3, 1, 3), {"feature_group_count": 3, "dn": ("NHWC", "HWIO", "NCHW")}),
    "depthwise line": ((2, 9, 4), (5, 1, 4), {"feature_group_count": 4, "dn": ("NWC", "WIO", "NWC")}),
    "depthwise volume": (
        (1, 4, 5, 4, 3), (2, 3, 2, 1, 3), {"feature_group_count": 3, "dn": ("NDHWC", "DHWIO", "NDHWC")},
    ),
    "pointwise": ((2, 5, 6, 4), (1, 1, 4, 7), {}),
    "pointwise strided": ((2, 5, 6, 4), (1, 1, 4, 7), {"strides": (2, 3)}),
    "pointwise padded": ((1, 5, 6, 4), (1, 1, 4, 3), {"padding": ((1, 2), (0, 1)), "strides": (2, 1)}),
    "pointwise channels first": ((2, 4, 5, 6), (7, 4, 1, 1), {"dn": NCHW, "strides": (2, 2)}),
    "pointwise transposed": (
        (2, 4, 5, 3), (1, 1, 3, 2), {"lhs_dilation": (2, 2), "padding": ((0, 1), (1, 0))},
    ),
    "grouped": ((2, 6, 6, 8), (3, 3, 4, 6), {"feature_group_count": 2, "strides": (2, 2)}),
    "grouped many": ((2, 6, 6, 160), (3, 3, 4, 80), {"feature_group_count": 40}),
    "grouped channels first": ((2, 6, 5, 6), (9, 2, 3, 3), {"feature_group_count": 3, "dn": NCHW, "strides": (1, 2)}),
    "grouped pointwise": ((2, 5, 5, 8), (1, 1, 2, 12), {"feature_group_count": 4}),
    "dense": ((2, 9, 9, 3), (3, 3, 3, 4), {"strides": (2, 2)}),
    "dense channels first": ((2, 3, 9, 8), (4, 3, 3, 3), {"dn": NCHW, "rhs_dilation": (2, 1)}),
}  # fmt: skip


def twice(f, x, w):
    """The result, and both gradients of a sum of its squares."""
    loss = lambda x, w: jnp.sum(jnp.square(f(x, w)))  # noqa: E731
    return f(x, w), *jax.grad(loss, (0, 1))(x, w)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_same(name):
    x_shape, w_shape, options = CASES[name]
    x, w = drawn(*x_shape), drawn(*w_shape, seed=1)
    f = functools.partial(twice, functools.partial(conv, **options))
    for got, want in zip(jax.jit(for_cpu(f))(x, w), jax.jit(f)(x, w), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * float(jnp.abs(want).max()))


@pytest.mark.parametrize("name", ["depthwise strided", "pointwise", "grouped"])
def test_under_transformations_and_inside_them(name):
    x_shape, w_shape, options = CASES[name]
    x, w = drawn(*x_shape), drawn(*w_shape, seed=1)
    f = functools.partial(conv, **options)
    many_x, many_w = jnp.stack([x, 2 * x]), jnp.stack([w, -w, 3 * w])
    both = lambda f: jax.vmap(jax.vmap(f, (0, None)), (None, 0))  # noqa: E731
    loss = lambda f: jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w))), (0, 1))  # noqa: E731
    want = jax.jit(both(loss(f)))(many_x, many_w)
    for g in (for_cpu(both(loss(f))), both(for_cpu(loss(f))), both(loss(for_cpu(f)))):
        for got, expected in zip(jax.jit(g)(many_x, many_w), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * float(jnp.abs(expected).max()))


def _checkpointed(f):
    return jax.checkpoint(lambda x, w: jnp.tanh(f(x, w)))


def _custom(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda primals, tangents: (f(*primals), 2 * f(tangents[0], primals[1])))
    return g


def _custom_backward(f):
    g = jax.custom_vjp(f)
    g.defvjp(lambda x, w: (f(x, w), (x, w)), lambda saved, t: (3 * jax.vjp(f, *saved)[1](t)[0], saved[1]))
    return g


def _batched(f):
    g = jax.custom_batching.custom_vmap(f)
    g.def_vmap(lambda size, batched, x, w: (jax.vmap(f, (0, None))(x, w), True))
    return g


#: Programs inside programs, each a function of `(f, x, w)`.
INSIDE = {
    "jit": lambda f, x, w: jax.jit(f)(x, w),
    "scan": lambda f, x, w: lax.scan(lambda c, s: (0.1 * f(c, w) + s, jnp.sum(c)), x, jnp.arange(3.0))[0],
    "while": lambda f, x, w: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, 0.1 * f(c[1], w)), (0, x))[1],
    "cond": lambda f, x, w: lax.cond(x[0, 0, 0, 0] > 9, lambda x: x, lambda x: f(x, w), x),
    "checkpoint": lambda f, x, w: _checkpointed(f)(x, w),
    "custom_jvp": lambda f, x, w: _custom(f)(x, w),
    "custom_vjp": lambda f, x, w: _custom_backward(f)(x, w),
    "custom_vmap": lambda f, x, w: jax.vmap(_batched(f), (0, None))(x[:, None], w)[:, 0],
}


@pytest.mark.parametrize("name", INSIDE)
def test_convolutions_inside_other_programs_are_found(name):
    f = functools.partial(conv, feature_group_count=3)
    g = functools.partial(INSIDE[name], f)
    x, w = drawn(2, 5, 5, 3), drawn(3, 3, 1, 3, seed=1)
    assert "stablehlo.convolution" in lowered(g, x, w) and "stablehlo.convolution" not in lowered(for_cpu(g), x, w)
    np.testing.assert_allclose(jax.jit(for_cpu(g))(x, w), g(x, w), rtol=0, atol=1e-5)
    if name != "while":
        loss = lambda g: jax.grad(lambda x: jnp.sum(g(x, w)))  # noqa: E731
        for rewritten in (for_cpu(loss(g)), loss(for_cpu(g))):
            np.testing.assert_allclose(jax.jit(rewritten)(x), loss(g)(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32"])
@pytest.mark.parametrize("name", ["depthwise", "pointwise"])
def test_other_types(name, dtype):
    x_shape, w_shape, options = CASES[name]
    f = functools.partial(conv, **options)
    with jax.enable_x64(dtype == "float64"):
        x, w = drawn(*x_shape, dtype=dtype), drawn(*w_shape, seed=1, dtype=dtype)
        got, exact = jax.jit(for_cpu(f))(x, w), f(x.astype(jnp.float32), w.astype(jnp.float32))
        assert got.dtype == x.dtype
        size = float(jnp.abs(exact).max())
        exact = exact if dtype != "float64" else f(x, w)
        roundings = 2 * float(jnp.finfo(dtype).eps) if dtype != "int32" else 0.0
        np.testing.assert_allclose(got.astype(exact.dtype), exact, rtol=0, atol=(roundings + 1e-15) * size)


def test_other_platforms_keep_their_convolutions():
    f = for_cpu(jax.value_and_grad(lambda x, w: jnp.sum(conv(x, w, feature_group_count=3))))
    x, w = drawn(1, 5, 5, 3), drawn(3, 3, 1, 3, seed=1)
    for platform in ("cuda", "rocm", "tpu"):
        text = export.export(jax.jit(f), platforms=[platform])(x, w).mlir_module()
        assert text.count("stablehlo.convolution") == 2 and "optimization_barrier" not in text
    assert "stablehlo.convolution" not in export.export(jax.jit(f), platforms=["cpu"])(x, w).mlir_module()
    both = export.export(jax.jit(f), platforms=["cpu", "cuda"])(x, w)
    assert "stablehlo.convolution" in both.mlir_module()
    np.testing.assert_allclose(both.call(x, w)[0], jax.jit(f)(x, w)[0], rtol=1e-5)


def test_one_switch_turns_it_off(monkeypatch):
    f = functools.partial(conv, feature_group_count=3)
    x, w = drawn(1, 5, 5, 3), drawn(3, 3, 1, 3, seed=1)
    fast = jax.jit(for_cpu(f))
    assert enabled() and "stablehlo.convolution" not in fast.lower(x, w).as_text()
    with fast_convolutions(False):
        assert not enabled() and "stablehlo.convolution" in fast.lower(x, w).as_text()  # traced again
    monkeypatch.setenv("JAXCAM_FAST_CONVOLUTIONS", "0")
    assert not enabled() and "stablehlo.convolution" in lowered(for_cpu(f), x, w)
    with fast_convolutions(True):
        assert "stablehlo.convolution" not in lowered(for_cpu(f), x, w)


def test_a_program_without_such_convolutions_is_left_alone():
    def f(x, w):
        return jnp.sum(conv(x, w)) + lax.fori_loop(0, 2, lambda i, a: a * 2, 1.0)

    x, w = drawn(1, 5, 5, 3), drawn(3, 3, 3, 3, seed=1)
    assert str(jax.make_jaxpr(for_cpu(f))(x, w)) == str(jax.make_jaxpr(f)(x, w))


def test_signatures_and_pytrees_pass():
    def f(a, *, b):
        """Says so."""
        return {"sum": a["x"] + b, "none": None}

    got = for_cpu(f)({"x": 1}, b=jnp.ones(2))
    assert got["none"] is None and got["sum"].tolist() == [2.0, 2.0] and for_cpu(f).__doc__ == "Says so."


def test_alike_convolutions_are_one_program():
    def f(x, w):
        for _ in range(6):
            x = conv(x, w, feature_group_count=3)
        return x

    text = lowered(for_cpu(f), drawn(1, 5, 5, 3), drawn(3, 3, 1, 3, seed=1))
    assert text.count("func.func private") == 1 and text.count("call @") == 6


#: Rows of the battery whose heads hold 1 x 1 or depthwise convolutions.
ROWS = [row for row in battery.ROWS if str(row) in ("resnet50_slim-layer3", "convnext-block0")]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_maps_are_the_same(row):
    subject = battery.subject(row, None)

    def maps(params, image):
        a, first = subject.with_head_params(params, image)
        given = Inputs(first, a, subject.head, 1, jax.random.key(0), None, image, subject.predict, params)
        logit = subject.head(first, a)[1]
        return {name: battery.run(name, given, logit).map for name in ("grad_cam", "lift_cam", "lrp_cam", "score_cam")}

    want, got = (jax.jit(f)(subject.params, subject.image) for f in (maps, for_cpu(maps)))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-5 * float(want[name].max()), err_msg=name)
