"""A small two-layer ReLU head with a null channel and two twins, and its coalition game in float64 NumPy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import shapley_games

K, CLASSES, HIDDEN = 10, 3, 10  # 2^K coalitions are more than the runs here may cost: nothing is enumerated
SHAPE = (3, 2, K)
TARGET = 1
NULL, TWINS = 4, (1, 3)  # a channel the head does not read; two channels it cannot tell apart


def head(p, a):
    """Two hidden layers of ReLU on the flattened map."""
    x = jax.nn.relu(a.reshape(-1) @ p["v"] + p["b"])
    return jax.nn.relu(x @ p["w"] + p["c"]) @ p["u"]


def linear(p, a):
    return a.mean((0, 1)) @ p["l"] + p["b"][:CLASSES]


def parameters() -> dict[str, np.ndarray]:
    r = np.random.default_rng(0)
    v = r.normal(size=(*SHAPE, HIDDEN)) * 0.5
    v[:, :, NULL] = 0
    v[:, :, TWINS[0]] = v[:, :, TWINS[1]]
    return {
        "v": v.reshape(-1, HIDDEN), "b": 0.5 * r.normal(size=HIDDEN), "w": r.normal(size=(HIDDEN, HIDDEN)) * 0.4,
        "c": 0.5 * r.normal(size=HIDDEN), "u": r.normal(size=(HIDDEN, CLASSES)), "l": r.normal(size=(K, CLASSES)),
    }  # fmt: skip


def activations() -> np.ndarray:
    a = np.maximum(np.random.default_rng(1).normal(size=SHAPE) + 0.5, 0)
    a[:, :, TWINS[0]] = a[:, :, TWINS[1]]
    return a


WIDE = parameters()
P = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), WIDE)
A = jnp.asarray(activations(), jnp.float32)


def logit(masks: np.ndarray, target: int = TARGET) -> np.ndarray:
    """The game in float64 NumPy, one masked map after the other."""
    relu = functools.partial(np.maximum, 0)
    maps = (activations()[None] * masks[:, None, None, :]).reshape(len(masks), -1)
    return (relu(relu(maps @ WIDE["v"] + WIDE["b"]) @ WIDE["w"] + WIDE["c"]) @ WIDE["u"])[:, target]


@functools.cache
def truth(target: int = TARGET) -> np.ndarray:
    return shapley_games.brute_force(functools.partial(logit, target=target), K)
