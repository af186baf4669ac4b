"""Heads with loops, branches, calls and derivatives of their own, and those that DeepLIFT must refuse.

`PROGRAMS` and `UNSUPPORTED` are as `heads.HEADS`; a name in `UNSUPPORTED` is the primitive at fault.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from heads import CHANNELS, HIDDEN, POINTWISE, D, Head, head
from jax import lax

PROGRAMS: dict[str, Head] = {}
UNSUPPORTED: dict[str, Head] = {}

DEEP = dict(stack=(3, D, D), bstack=(3, D), **HIDDEN)


@head(PROGRAMS, **DEEP)
def scan(p, a):
    def layer(x, weights):
        return jax.nn.relu(x @ weights[0] + weights[1]), x.sum()

    x, sums = lax.scan(layer, a.reshape(-1) @ p["w1"] + p["b1"], (p["stack"], p["bstack"]))
    return x @ p["w2"] + p["b2"] + sums


@head(PROGRAMS, **DEEP)
def fori_loop(p, a):
    def layer(i, x):
        return jnp.tanh(x @ p["stack"][i] + p["bstack"][i])

    return lax.fori_loop(0, 3, layer, a.reshape(-1) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


@head(PROGRAMS, flag=(1,), **HIDDEN)
def cond_on_params(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    return lax.cond(p["flag"][0] > 0, jax.nn.relu, jnp.tanh, x) @ p["w2"] + p["b2"]


@head(PROGRAMS, **HIDDEN)
def cond_on_input(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    return lax.cond(jnp.sum(a) > 1.0, jax.nn.relu, jnp.tanh, x) @ p["w2"] + p["b2"]


@head(PROGRAMS, **HIDDEN)
def switch_on_input(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    x = lax.switch(jnp.sum(a > 1.0), (jax.nn.relu, jnp.tanh, jnp.sin), x)
    return x @ p["w2"] + p["b2"]


@head(PROGRAMS, **POINTWISE)
def above_the_mean(p, a):
    """Average of the positions that exceed it, and a guard."""
    x = jax.nn.relu(a @ p["w1"] + p["b1"])
    high = x > x.mean((0, 1))
    some = jnp.sum(x * high, (0, 1)) / jnp.maximum(jnp.sum(high, (0, 1)), 1)
    return jnp.where(jnp.any(high), some, 0) @ p["w2"] + p["b2"]


@head(PROGRAMS, flag=(1,), **HIDDEN)
def switch_on_params(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    branch = (p["flag"][0] > 0).astype(jnp.int32) + 1
    return lax.switch(branch, (jnp.sin, jax.nn.relu, jax.nn.silu), x) @ p["w2"] + p["b2"]


@head(PROGRAMS, **HIDDEN)
def remat(p, a):
    layer = jax.checkpoint(lambda x: jax.nn.relu(x @ p["w1"] + p["b1"]))
    return layer(a.reshape(-1)) @ p["w2"] + p["b2"]


@head(PROGRAMS, **HIDDEN)
def nested_jit(p, a):
    inner = jax.jit(lambda x: jax.nn.relu(x))
    layer = jax.jit(lambda x: inner(x @ p["w1"] + p["b1"]))
    return layer(a.reshape(-1)) @ p["w2"] + p["b2"]


@jax.custom_jvp
def _odd_relu(x):
    return jnp.maximum(x, 0.0)


# A derivative that is not the function's own: DeepLIFT may only look at values.
_odd_relu.defjvp(lambda primals, tangents: (_odd_relu(primals[0]), 7.0 * tangents[0]))


@head(PROGRAMS, **HIDDEN)
def custom_jvp(p, a):
    return _odd_relu(a.reshape(-1) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


@jax.custom_vjp
def _odd_silu(x):
    return x * jax.nn.sigmoid(x)


_odd_silu.defvjp(lambda x: (_odd_silu(x), None), lambda _, ct: (7.0 * ct,))


@head(PROGRAMS, **HIDDEN)
def custom_vjp(p, a):
    return _odd_silu(a.reshape(-1) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


@head(PROGRAMS, **POINTWISE)
def inner_vmap(p, a):
    per_position = jax.vmap(lambda x: jax.nn.relu(x @ p["w1"] + p["b1"]))
    x = jnp.concatenate([per_position(a[0]), per_position(a[1:].reshape(-1, CHANNELS))])
    return jnp.pad(x, ((1, 0), (0, 0)))[::-1][:8].mean(0) @ p["w2"] + p["b2"]


@head(PROGRAMS, **POINTWISE)
def greatest_few(p, a):
    """Weakly supervised localisation: of each map the mean of its greatest and its smallest values."""
    x = jax.nn.relu(a @ p["w1"] + p["b1"]).reshape(-1, p["w1"].shape[1])
    return (lax.top_k(x.T, 3)[0].mean(1) + 0.7 * lax.sort(x, dimension=0)[:2].mean(0)) @ p["w2"] + p["b2"]


@head(PROGRAMS, **POINTWISE)
def quantiles(p, a):
    """Behind a guard against NaN, as jnp.quantile has one."""
    x = jax.nn.relu(a @ p["w1"] + p["b1"])
    return (jnp.quantile(x, 0.7, (0, 1)) + jnp.median(x, (0, 1))) @ p["w2"] + p["b2"]


# --- what no multiplier exists for ----------------------------------------------------------------------------------


@head(UNSUPPORTED, "while", **HIDDEN)
def while_head(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    x = lax.while_loop(lambda x: jnp.sum(x) > 1.0, lambda x: 0.5 * x, x)  # refused: while
    return x @ p["w2"] + p["b2"]


@head(UNSUPPORTED, "argmax", **HIDDEN)
def argmax_head(p, a):
    x = a.reshape(-1) @ p["w1"] + p["b1"]
    x = x[jnp.argmax(x)] + x  # refused: argmax
    return x @ p["w2"] + p["b2"]
