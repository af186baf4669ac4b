"""Random programs under every transformation, in float64: `python tests/fuzz_programs.py FIRST LAST`.

A program is some dozen operations of `OPERATIONS`, each on one or two of the values before it, from activations
`(4, 4, 5)` to a number. DeepLIFT must be complete, with a reference of zero and with another; LRP conserve; a coalition
have the value of the masked evaluation; FullGrad add up. A refusal is right; anything else is a mistake that `mistakes`
returns in words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcam.transforms.coalition import coalition_game, masked_game
from jaxcam.transforms.deeplift import deeplift
from jaxcam.transforms.full_gradient import full_gradient
from jaxcam.transforms.lrp import lrp
from jaxcam.transforms.walker import UnsupportedPrimitive

SHAPE, LENGTH, LARGEST = (4, 4, 5), 14, 3000
IMAGE = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def straight_through(x):
    return jnp.tanh(x) * x


straight_through.defvjp(lambda x: (straight_through(x), x), lambda x, g: (0.3 * g,))


def attention(x):
    q = x.reshape(x.shape[0], -1, 1)
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, q), -1)
    return jnp.einsum("hqk,khd->qhd", weights, q).reshape(x.shape)


def recurrent(x):
    def step(c, y):
        c = jnp.tanh(0.5 * c + y)
        return c, c * y

    return lax.scan(step, jnp.zeros(x.shape[1:], x.dtype), x)[1]


def window(x, combine, start, size, stride, padding):
    return lax.reduce_window(x, start, combine, (size,) * x.ndim, (stride,) * x.ndim, padding)


def in_float32(x):
    return (x.astype(jnp.float32) @ jnp.eye(x.shape[-1], dtype=jnp.float32)).astype(x.dtype)


#: Functions of one value.
UNARY: dict[str, Callable] = {
    "relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "gelu": jax.nn.gelu, "silu": jax.nn.silu,
    "elu": jax.nn.elu, "softplus": jax.nn.softplus, "leaky": jax.nn.leaky_relu, "relu6": jax.nn.relu6,
    "hard_swish": jax.nn.hard_swish, "abs": jnp.abs, "square": jnp.square, "erf": jax.scipy.special.erf,
    "atan": jnp.arctan, "floor": lambda x: jnp.floor(2 * x), "cube": lambda x: x**3, "affine": lambda x: 0.5 * x + 0.1,
    "exp": lambda x: jnp.exp(jnp.clip(x, -3, 2)), "log1p": lambda x: jnp.log1p(jnp.abs(x)),
    "sqrt": lambda x: jnp.sqrt(jnp.abs(x) + 0.01), "signed sqrt": lambda x: jnp.sign(x) * jnp.sqrt(jnp.abs(x)),
    "power": lambda x: (jnp.abs(x) + 0.1) ** 1.5, "inverse": lambda x: 1 / (1.5 + x * x),
    "entropy": lambda x: jax.scipy.special.entr(jnp.abs(x)), "clip": lambda x: jnp.clip(x, -0.5, 0.8),
    "cases": lambda x: jnp.where(x > 0.3, x * x, jnp.sin(x)),
    "guarded": lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), 0),
    "prelu": lambda x: jnp.maximum(x, 0) + 0.3 * jnp.minimum(x, 0),
    "meets itself": lambda x: x * jnp.tanh(x + 0.2), "custom_vjp": straight_through,
    "stop_gradient": lambda x: x + lax.stop_gradient(0.3 * x), "float32": in_float32,
    "softmax": jax.nn.softmax, "attention": lambda x: attention(x) if x.ndim == 2 else x,
    "layer norm": lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.1),
    "group norm": lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 0.05),
    "unit length": lambda x: x / jnp.sqrt((x**2).sum(-1, keepdims=True) + 0.1),
    "by the largest": lambda x: x / (1e-3 + jnp.abs(x).max()),
    "gate": lambda x: x * jax.nn.sigmoid(x.mean(tuple(range(x.ndim - 1)), keepdims=True)),
    "winner": lambda x: x * (x == lax.optimization_barrier(x).max(-1, keepdims=True)),
    "less its median": lambda x: x - jnp.median(x, -1)[..., None],
    "in order": lambda x: jnp.sort(x, -1) * np.linspace(0, 1, x.shape[-1]),
    "greatest": lambda x: lax.top_k(x, max(1, x.shape[-1] // 2))[0],
    "of several": lambda x: jnp.max(jnp.stack([x, jnp.tanh(x) * 1.2, 0.5 * x + 0.2]), 0),
    "max pool": lambda x: window(x, lax.max, -jnp.inf, 3, 2, "SAME"),
    "min pool": lambda x: window(x, lax.min, jnp.inf, 2, 1, "SAME"),
    "mean pool": lambda x: window(x, lax.add, 0.0, 2, 1, "SAME") / 2,
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 0), "cummin": lambda x: lax.cummin(x, x.ndim - 1, reverse=True),
    "cumsum": lambda x: lax.cumsum(x, 0, reverse=True), "real fft": lambda x: jnp.fft.rfft(x, axis=-1).real,
    "spectrum": lambda x: jnp.abs(jnp.fft.fft(x, axis=0)),
    "segments": lambda x: jax.ops.segment_sum(x, np.arange(x.shape[0]) // 2, x.shape[0]),
    "scan": recurrent, "fori": lambda x: lax.fori_loop(0, 2, lambda i, v: jax.nn.relu(v - 0.1 * i) + 0.1 * v, x),
    "while": lambda x: x * lax.while_loop(lambda c: c < 3, lambda c: c + 1.0, 0.0),
    "cond": lambda x: lax.cond(True, lambda v: v * 1.5, lambda v: v, x),
    "associative": lambda x: lax.associative_scan(jnp.add, x, axis=-1),
    "vmap": lambda x: jax.vmap(lambda row: row * row.sum())(x), "remat": jax.checkpoint(lambda x: jnp.tanh(x) * x),
    "jit": lambda x: sum(jax.jit(lambda v: (jnp.sin(v), jnp.tanh(v)))(x)),
    "flip": lambda x: jnp.flip(x, -1), "swap": lambda x: jnp.swapaxes(x, 0, -1), "roll": lambda x: jnp.roll(x, 1, -1),
    "pad": lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 1)], constant_values=0.3),
    "repeat": lambda x: jnp.repeat(x, 2, -1), "flat": jnp.ravel, "rows": lambda x: x.reshape(x.shape[0], -1),
    "every other": lambda x: x[::2], "gather": lambda x: x[..., np.arange(x.shape[-1])[::-2]],
    "set": lambda x: x.at[..., 0].set(0.5), "add at": lambda x: x.at[..., -1].add(x[..., 0]),
    "update": lambda x: lax.dynamic_update_slice_in_dim(x, x[:1] * 0.5, 0, 0),
    "unstack": lambda x: jnp.stack(jnp.unstack(x[:2]), -1), "gram": lambda x: 0.1 * jnp.einsum("...i,...j->ij", x, x),
}  # fmt: skip
#: Functions of one value along an axis.
ALONG: dict[str, Callable] = {
    "sum": jnp.sum, "mean": jnp.mean, "max": jnp.max, "min": jnp.min, "var": jnp.var, "median": jnp.median,
    "logsumexp": jax.nn.logsumexp, "cummax": lambda x, a: lax.cummax(x, a), "diff": lambda x, a: jnp.diff(x, axis=a),
    "length": lambda x, a: jnp.sqrt((x * x).sum(a) + 0.01), "prod": lambda x, a: (0.5 + 0.3 * jnp.tanh(x)).prod(a),
    "cumprod": lambda x, a: jnp.cumprod(0.6 + 0.2 * jnp.tanh(x), a),
}  # fmt: skip
#: Functions of two values of the same shape.
BINARY: dict[str, Callable] = {
    "add": jnp.add, "mul": jnp.multiply, "sub": jnp.subtract, "maximum": jnp.maximum, "minimum": jnp.minimum,
    "div": lambda x, y: x / (1 + y * y), "residual": lambda x, y: y + 0.5 * jnp.tanh(x),
    "interleave": lambda x, y: jnp.where(np.arange(x.shape[-1]) % 2 == 0, x, y),
    "concatenate": lambda x, y: jnp.concatenate([x, y], -1),
}  # fmt: skip


class Program(NamedTuple):
    """A number made of activations, and what it is made of."""

    fn: Callable
    names: list[str]
    rng: np.random.Generator


def drawn(seed: int) -> Program:
    """The program of a seed."""
    rng = np.random.default_rng(seed)
    shapes, steps = [jax.ShapeDtypeStruct(SHAPE, jnp.float64)], []
    while len(steps) < LENGTH:
        i = len(shapes) - 1 if rng.random() < 0.6 else int(rng.integers(len(shapes)))
        name, step = _step(rng, shapes, i)
        try:
            out = jax.eval_shape(step, shapes)
        except (TypeError, ValueError, IndexError):  # not of this shape
            continue
        if out.ndim and 0 < out.size <= LARGEST and jnp.issubdtype(out.dtype, jnp.floating):
            steps.append((name, step))
            shapes.append(out)
    ends = [len(steps), *rng.choice(np.arange(1, len(steps)), 2, replace=False)]
    weights = [rng.normal(size=shapes[i].size) / np.sqrt(shapes[i].size) for i in ends]

    def fn(a):
        values = [a]
        for _, step in steps:
            values.append(step(values))
        return sum(jnp.ravel(values[i]) @ w for i, w in zip(ends, weights, strict=True))

    return Program(fn, [name for name, _ in steps], rng)


def _step(rng: np.random.Generator, shapes: list, i: int) -> tuple[str, Callable]:
    """An operation on value i, and perhaps on another one."""
    kind = rng.choice(["unary", "along", "binary", "dense", "convolution"], p=[0.5, 0.15, 0.15, 0.12, 0.08])
    rank, channels = len(shapes[i].shape), shapes[i].shape[-1]
    if kind == "unary":
        name = str(rng.choice(list(UNARY)))
        return name, lambda v: UNARY[name](v[i])
    if kind == "along":
        name, axis = str(rng.choice(list(ALONG))), int(rng.integers(rank))
        return f"{name} {axis}", lambda v: ALONG[name](v[i], axis)
    if kind == "binary":
        same = [k for k, s in enumerate(shapes) if s.shape == shapes[i].shape]
        name, j = str(rng.choice(list(BINARY))), int(rng.choice(same))
        return name, lambda v: BINARY[name](v[i], v[j])
    if kind == "dense":
        out = int(rng.integers(1, 6))
        w, b = rng.normal(size=(channels, out)) / np.sqrt(channels), 0.3 * rng.normal(size=out)
        return "dense", lambda v: v[i] @ w + b
    groups, stride = int(rng.choice([1, 1, channels])), int(rng.choice([1, 2]))
    w, padding = 0.4 * rng.normal(size=(2, 2, channels // groups, 2 * groups)), str(rng.choice(["SAME", "VALID"]))
    return f"convolution of {groups}", lambda v: lax.conv_general_dilated(
        v[i][None], jnp.asarray(w), (stride, stride), padding, dimension_numbers=IMAGE, feature_group_count=groups
    )[0]  # fmt: skip


def mistakes(seed: int) -> list[str]:
    """What any transformation makes wrong of a program, in words; of its operations first."""
    fn, names, rng = drawn(seed)
    a, reference = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    a = np.maximum(a, 0) if seed % 2 else a
    if seed % 3 == 0:
        a[..., 2] = 0  # a dead channel
    a, reference, masks = jnp.asarray(a), jnp.asarray(reference), jnp.asarray(rng.integers(0, 2, (7, SHAPE[-1])))
    plain = jax.jit(lambda a: (fn(a), fn(0 * a), fn(reference), masked_game(fn, a)(masks)))(a)
    value, at_zero, at_reference, masked = jax.tree.map(np.asarray, plain)
    if not all(np.isfinite(v).all() for v in (value, at_zero, at_reference, masked)):
        return []
    known = {
        "deeplift": (lambda: _deeplift(fn, a, None), value - at_zero),
        "deeplift from elsewhere": (lambda: _deeplift(fn, a, reference), value - at_reference),
        "lrp": (lambda: _lrp(fn, a), value),
        "coalitions": (lambda: _coalitions(fn, a, masks, masked), 0.0),
        "full_gradient": (lambda: _full(fn, a, float(value)), value),
    }
    found = []
    for name, (measure, expected) in known.items():
        try:
            total, size = measure()
        except UnsupportedPrimitive:
            continue
        except Exception as e:
            found.append(f"{name}: {type(e).__name__}: {e}"[:300])
            continue
        # Some programs round to float32 on their way.
        if not abs(total - expected) <= 3e-6 * (size + abs(float(value)) + 1e-3):
            found.append(f"{name}: {total} in place of {expected}, of terms of {size}")
    return [*names, *found] if found else []


def _deeplift(fn: Callable, a: jax.Array, reference: Any) -> tuple[float, float]:
    terms = jax.jit(jax.grad(lambda x: deeplift(fn)(x, reference)))(a) * (a if reference is None else a - reference)
    return float(terms.sum()), float(jnp.abs(terms).sum())


def _lrp(fn: Callable, a: jax.Array) -> tuple[float, float]:
    found = jax.jit(lrp(fn))(a)
    absorbed = sum(map(float, found.absorbed.values()))
    return float(found.relevance.sum()) + absorbed, float(jnp.abs(found.relevance).sum())


def _coalitions(fn: Callable, a: jax.Array, masks: jax.Array, masked: np.ndarray) -> tuple[float, float]:
    found = jax.jit(lambda a: coalition_game(fn, a)(masks))(a)
    return float(np.abs(found - masked).max()), float(np.abs(masked).max())


def _full(fn: Callable, a: jax.Array, value: float) -> tuple[float, float]:
    found = jax.jit(full_gradient(fn))(a)
    parts = [found.inputs, *found.biases]
    if not all(np.isfinite(p).all() for p in parts):  # no derivative there
        return value, 0.0
    return float(sum(p.sum() for p in parts)), float(sum(jnp.abs(p).sum() for p in parts))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for number in range(*map(int, sys.argv[1:3])):
        if wrong := mistakes(number):
            print(number, "; ".join(wrong), flush=True)
