"""Random non-linear games and slow, independent Shapley values of them."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np


def weights(seed: int, players: int, hidden: int = 12) -> dict[str, np.ndarray]:
    """A two-layer ReLU net on masks; biases are there so that it is not homogeneous."""
    r = np.random.default_rng(seed)
    return {
        "v": r.normal(size=(players, hidden)) * np.sqrt(4 / players),
        "b": 0.5 * r.normal(size=hidden),
        "w": r.normal(size=(hidden, hidden)) * np.sqrt(2 / hidden),
        "c": 0.5 * r.normal(size=hidden),
        "u": r.normal(size=hidden),
    }


def net(p, masks):
    """`masks (n, K) -> (n,)`, for NumPy in float64 and for JAX alike."""
    y = np if isinstance(masks, np.ndarray) else jnp
    return y.maximum(y.maximum(masks @ p["v"] + p["b"], 0) @ p["w"] + p["c"], 0) @ p["u"]


def game(seed: int, players: int, hidden: int = 12):
    """The game for JAX as a `Partial`: one compiled program serves all games of a shape."""
    p = {k: jnp.asarray(a, jnp.float32) for k, a in weights(seed, players, hidden).items()}
    return jax.tree_util.Partial(net, p)


def _summed(p, masks):
    return net(p, masks).sum()


#: One function object: each new one would be compiled anew.
_GRADIENT = jax.grad(_summed, argnums=1)


def gradient_of(v: jax.tree_util.Partial) -> jax.tree_util.Partial:
    """The gradient of a game made by `game`."""
    return jax.tree_util.Partial(_GRADIENT, *v.args)


@functools.cache
def truth(seed: int, players: int, hidden: int = 12) -> np.ndarray:
    return brute_force(functools.partial(net, weights(seed, players, hidden)), players)


def brute_force(v, players: int) -> np.ndarray:
    """The textbook sum over all coalitions without k, in float64."""
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=players)))
    value = dict(zip(map(tuple, masks), v(masks), strict=True))
    shapley = np.zeros(players)
    for mask in value:
        s = int(sum(mask))
        for k in range(players):
            if not mask[k]:
                weight = math.factorial(s) * math.factorial(players - s - 1) / math.factorial(players)
                shapley[k] += weight * (value[mask[:k] + (1.0,) + mask[k + 1 :]] - value[mask])
    return shapley
