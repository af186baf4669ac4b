"""Small heads `(params, activations (h, w, K)) -> logits (C,)` that between them use what networks are made of.

`HEADS` maps a name to a `Head`: the pure function and its parameters (float64 NumPy, from a seed; biases far from
zero, without which DeepLIFT, LRP and gradient x activation coincide). All take `SHAPE` and give `CLASSES` logits.
`ELEMENTWISE` holds functions of one number. Loops, branches and calls are in heads_programs.py.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SHAPE = (4, 4, 6)
CLASSES = 3
POSITIONS, CHANNELS = SHAPE[0] * SHAPE[1], SHAPE[2]
FLAT = POSITIONS * CHANNELS
POOLED = FLAT // 4
D = 5  # hidden width


class Head(NamedTuple):
    """A pure function and the parameters to run it with."""

    fn: Callable[[Any, jax.Array], jax.Array]
    params: dict[str, np.ndarray]


HEADS: dict[str, Head] = {}


def draw(name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Parameters from the name alone: `b...` is a bias, `var...` and `scale...` are positive, the rest are weights."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) % 2**31)
    params = {}
    for key, shape in shapes.items():
        value = rng.standard_normal(shape)
        if key.startswith("b"):
            value = 0.5 * value + 0.1 * np.sign(value)
        elif key.startswith(("var", "scale")):
            value = 0.5 + np.abs(value)
        else:
            value = value * np.sqrt(2.0 / max(1, int(np.prod(shape[:-1]))))
        params[key] = value
    return params


def head(_where: dict[str, Head] = HEADS, _name: str | None = None, /, **shapes: tuple[int, ...]):
    """Registers a function as a head under its own name, with parameters of the given shapes."""

    def register(fn):
        name = _name or fn.__name__
        _where[name] = Head(fn, draw(name, shapes))
        return fn

    return register


def to_jax(params: Any, dtype: Any = jnp.float32) -> Any:
    """The parameters as JAX arrays of one dtype."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), params)


def gap(a: jax.Array) -> jax.Array:
    """Global average pooling (h, w, K) -> (K,)."""
    return a.mean((0, 1))


def conv(a: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    """A SAME convolution of one (h, w, K) map with a (3, 3, K / groups, out) kernel."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        a[None], kernel, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups
    )[0]


def max_pool(a: jax.Array) -> jax.Array:
    """2x2 max pooling."""
    return lax.reduce_window(a, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")


HIDDEN = dict(w1=(FLAT, D), b1=(D,), w2=(D, CLASSES), b2=(CLASSES,))
POINTWISE = dict(w1=(CHANNELS, D), b1=(D,), w2=(D, CLASSES), b2=(CLASSES,))
GATED = dict(w1=(FLAT, D), b1=(D,), v=(FLAT, D), bv=(D,), w2=(D, CLASSES), b2=(CLASSES,))


# --- the classics ------------------------------------------------------------------------------------------------


@head(w=(CHANNELS, CLASSES), b=(CLASSES,))
def linear_gap(p, a):
    return gap(a) @ p["w"] + p["b"]


@head(w1=(POOLED, D), b1=(D,), w2=(D, D), b2=(D,), w3=(D, CLASSES), b3=(CLASSES,))
def vgg(p, a):
    x = max_pool(a).reshape(-1)
    x = jax.nn.relu(x @ p["w1"] + p["b1"])
    x = jax.nn.relu(x @ p["w2"] + p["b2"])
    return x @ p["w3"] + p["b3"]


@head(k1=(3, 3, CHANNELS, D), b1=(D,), k2=(3, 3, D, CLASSES), b2=(CLASSES,))
def conv_relu_conv(p, a):
    return gap(conv(jax.nn.relu(conv(a, p["k1"]) + p["b1"]), p["k2"])) + p["b2"]


@head(k1=(3, 3, CHANNELS, D), b1=(D,), w2=(4 * D, CLASSES), b2=(CLASSES,))
def conv_relu_pool(p, a):
    # With a negative bias on the map some windows are all zero here but not at the reference: no winner moved.
    x = jax.nn.relu(conv(a - 0.5, p["k1"]) + p["b1"])
    return max_pool(x).reshape(-1) @ p["w2"] + p["b2"]


@head(k1=(3, 3, 1, CHANNELS), b1=(CHANNELS,), w2=(CHANNELS, CLASSES), b2=(CLASSES,))
def depthwise_conv(p, a):
    return gap(jax.nn.relu(conv(a, p["k1"], groups=CHANNELS) + p["b1"])) @ p["w2"] + p["b2"]


@head(mean=(D,), var=(D,), scale=(D,), bias=(D,), **POINTWISE)
def batch_norm(p, a):
    x = a @ p["w1"] + p["b1"]
    x = (x - p["mean"]) * lax.rsqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]
    return gap(jax.nn.relu(x)) @ p["w2"] + p["b2"]


@head(w1=(POOLED, D), b1=(D,), w2=(D, CLASSES), b2=(CLASSES,))
def average_pool(p, a):
    x = lax.reduce_window(a, 0.0, lax.add, (2, 2, 1), (2, 2, 1), "VALID") / 4
    return jax.nn.relu(x.reshape(-1) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


@head(**POINTWISE)
def max_positions(p, a):
    return jax.nn.relu(a @ p["w1"] + p["b1"]).max((0, 1)) @ p["w2"] + p["b2"]


@head(w1=(CHANNELS, D), b1=(D,), w2=(D, CHANNELS), b2=(CHANNELS,), w3=(CHANNELS, CLASSES), b3=(CLASSES,))
def residual(p, a):
    x = jax.nn.relu(a + jax.nn.relu(a @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])
    return gap(x) @ p["w3"] + p["b3"]


# --- functions used twice, shared layers --------------------------------------------------------------------------


@head(u=(D, D), bu=(D,), **HIDDEN)
def relu_twice(p, a):
    relu = functools.partial(jnp.maximum, 0.0)  # one function, no module to hook
    x = relu(a.reshape(-1) @ p["w1"] + p["b1"])
    return relu(x @ p["u"] + p["bu"]) @ p["w2"] + p["b2"]


@head(u=(D, D), bu=(D,), **HIDDEN)
def shared_dense(p, a):
    x = jax.nn.relu(a.reshape(-1) @ p["w1"] + p["b1"])
    for _ in range(2):
        x = jax.nn.relu(x @ p["u"] + p["bu"])
    return x @ p["w2"] + p["b2"]


# --- activation functions ----------------------------------------------------------------------------------------

ELEMENTWISE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_erf": lambda x: jax.nn.gelu(x, approximate=False),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "hard_swish": jax.nn.hard_swish,
    "relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, -0.5, 0.5),
    "selu": jax.nn.selu,
    "mish": jax.nn.mish,
    "soft_sign": jax.nn.soft_sign,
    "log_sigmoid": jax.nn.log_sigmoid,
    "abs": jnp.abs,
    "square": jnp.square,
    "cube": lambda x: x**3,
    "sine": jnp.sin,
}


def _mlp(act):
    return lambda p, a: act(a.reshape(-1) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


# The rest of ELEMENTWISE is tested as functions of one number, which costs one compilation for all of them.
for _name in ("silu", "gelu_tanh", "gelu_erf", "tanh", "leaky_relu", "elu", "softplus", "hard_swish", "relu6"):
    head(HEADS, _name, **HIDDEN)(_mlp(ELEMENTWISE[_name]))


# --- products, quotients, attention -------------------------------------------------------------------------------


@head(**GATED)
def sigmoid_gate(p, a):
    x = a.reshape(-1)
    return (jax.nn.sigmoid(x @ p["w1"] + p["b1"]) * (x @ p["v"] + p["bv"])) @ p["w2"] + p["b2"]


@head(**GATED)
def division(p, a):
    x = a.reshape(-1)
    return ((x @ p["v"] + p["bv"]) / (1.0 + jnp.abs(x @ p["w1"] + p["b1"]))) @ p["w2"] + p["b2"]


@head(**GATED)
def maxout(p, a):
    x = a.reshape(-1)
    return jnp.maximum(x @ p["w1"] + p["b1"], x @ p["v"] + p["bv"]) @ p["w2"] + p["b2"]


@head(s=(CHANNELS, CHANNELS), bs=(CHANNELS,), **POINTWISE)
def squeeze_excite(p, a):
    x = a * jax.nn.sigmoid(gap(a) @ p["s"] + p["bs"])
    return gap(jax.nn.relu(x @ p["w1"] + p["b1"])) @ p["w2"] + p["b2"]


@head(q=(CHANNELS, D), bq=(D,), k=(CHANNELS, D), bk=(D,), v=(CHANNELS, D), bv=(D,), w2=(D, CLASSES), b2=(CLASSES,))
def attention(p, a):
    tokens = a.reshape(POSITIONS, CHANNELS)
    q, k, v = tokens @ p["q"] + p["bq"], tokens @ p["k"] + p["bk"], tokens @ p["v"] + p["bv"]
    weights = jax.nn.softmax(q @ k.T / np.sqrt(D).item(), axis=-1)
    return (weights @ v).mean(0) @ p["w2"] + p["b2"]


@head(scale=(D,), bias=(D,), **HIDDEN)
def layer_norm(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    x = (x - x.mean()) / jnp.sqrt(x.var() + 1e-3) * p["scale"] + p["bias"]
    return jax.nn.relu(x) @ p["w2"] + p["b2"]


@head(**HIDDEN)
def l2_normalise(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    return (x / jnp.linalg.norm(x)) @ p["w2"] + p["b2"]


@head(**HIDDEN)
def exp_log(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    return jnp.log(1.0 + jnp.exp(x)) @ p["w2"] + p["b2"] + jax.nn.logsumexp(x)


@head(**HIDDEN)
def sqrt_rsqrt(p, a):
    x = jax.nn.relu(a.reshape(-1) @ p["w1"] + p["b1"]) + 0.5
    return (jnp.sqrt(x) + lax.rsqrt(x + 1.0)) @ p["w2"] + p["b2"]


@head(**HIDDEN)
def powers(p, a):
    x = jax.nn.sigmoid(a.reshape(-1) @ p["w1"] + p["b1"])
    return (x**2 + x**3 + x**-1 + (x + 0.1) ** 1.5) @ p["w2"] + p["b2"]
