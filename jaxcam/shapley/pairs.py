"""Random coalitions with their complements, and what a pair of them says about every player's Shapley value.

The Shapley value of player i is a sum over all coalitions S that are neither empty nor full,

    phi_i = (v(all) - v(none)) / K + sum_s mean_{|S| = s} v(S) a_i(S),   a_i(S) = 1 / s for i in S, else -1 / (K - s),

so that a coalition drawn at random tells something about all players, where a step of an ordering tells of one.
`sum_i a_i(S) = 0`: whatever is drawn, the values add up to `v(all) - v(none)`.

A pair is a row of signs, 1 for the players in the coalition and -1 for those in its complement. Players that are
known to contribute nothing have sign 0, take no part, and do not count: K is then the number of the others.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.shapley.result import GameFn, evaluate, in_chunks
from jaxcam.transforms.arithmetic import quotient

#: Keeps empty coalitions, which tell nothing, rare: players are at least this share of K likely to be in, and out.
_EDGE = 1.5


def _chance(place, players: int, y=np):
    """The chance of every player to be in, of which `place` in [0, 1] is the quantile: nearly the arcsine law."""
    return (_EDGE + players * y.sin(math.pi / 2 * place) ** 2) / (players + 2 * _EDGE)


@functools.lru_cache(maxsize=32)
def size_laws(players: int) -> np.ndarray:
    """`(K + 1, K + 1)` probability of each size in `draw` when so many players take part.

    Of all laws it is within a few percent of the one with the least variance where `v` varies as much at every
    size, `1 / sqrt(s (K - s))`; unlike that one it needs no sorting.
    """
    # A polynomial of degree K in sin^2: so many equidistant points integrate it exactly.
    inside = _chance((np.arange(2 * players + 2) + 0.5) / (2 * players + 2), players)[:, None]
    sizes = np.arange(players + 1)
    log_choose = np.array([math.lgamma(players + 1) - math.lgamma(s + 1) - math.lgamma(players - s + 1) for s in sizes])
    laws = np.zeros((players + 1, players + 1))
    laws[-1] = np.exp(log_choose + sizes * np.log(inside) + (players - sizes) * np.log1p(-inside)).mean(0)
    for k in range(players, 0, -1):  # any one player leaves out
        laws[k - 1, :k] = (laws[k, :k] * (k - sizes[:k]) + laws[k, 1 : k + 1] * sizes[1 : k + 1]) / k
    for k in range(2, players + 1):  # empty and full ones are mended
        laws[k, 1] += laws[k, 0]
        laws[k, k - 1] += laws[k, k]
        laws[k, [0, k]] = 0
    return laws


@functools.lru_cache(maxsize=32)
def _variances(players: int) -> np.ndarray:
    """`(K + 1, K + 1)` of `weights`."""
    laws, out = size_laws(players), np.ones((players + 1, players + 1))
    for k in range(2, players + 1):
        s = np.arange(1, k)
        each = 1 / (laws[k, 1:k] ** 2 * s * (k - s))
        out[k, 1:k] = each / (laws[k, 1:k] * each).sum()
    return out


def draw(key: jax.Array, index: jax.Array, present: jax.Array) -> jax.Array:
    """`(u, K)` signs of the pairs `index (u,)` among the players `present (K,)`; neither side is empty.

    A chance is drawn, then every player with it; all coalitions of a size are alike. Pair i depends
    on the key and on i alone.
    """
    players, present = present.shape[0], present[None]
    # Whatever the precision of the game: 64 bits would draw other coalitions.
    one = lambda i: jax.random.uniform(jax.random.fold_in(key, i), (1 + players,), jnp.float32)  # noqa: E731
    drawn = jax.vmap(one)(index)
    places = drawn[:, 1:]
    inside = places < _chance(drawn[:, :1], players, jnp)
    # One player more than none, and one less than all.
    least = jnp.argmin(jnp.where(present, places, 2), 1, keepdims=True)
    most = jnp.argmax(jnp.where(present, places, -1), 1, keepdims=True)
    place = jnp.arange(players)[None]
    all_inside = (inside | ~present).all(1, keepdims=True)
    inside = (inside | (place == least)) & ~(all_inside & (place == most))
    return jnp.where(present, jnp.where(inside, 1, -1), 0).astype(drawn.dtype)


def _sizes(signs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(n,)` players in each coalition, and in it or its complement."""
    return (signs > 0).sum(1), (signs != 0).sum(1)


def weights(signs: jax.Array) -> jax.Array:
    """`(n,)` of the squared errors of a surrogate at drawn pairs: what they add to the variance; 1 on average."""
    size, players = _sizes(signs)
    return jnp.asarray(_variances(signs.shape[1]), signs.dtype)[players, size]


def contributions(signs: jax.Array, differences: jax.Array) -> jax.Array:
    """`(n, K)`, each row unbiased for the Shapley values of v less `(v(all) - v(none)) / K`, and adding up to 0.

    Args:
      signs: `(n, K)` of `draw`.
      differences: `(n,)`, v of the coalition less v of its complement.
    """
    size, players = _sizes(signs)
    law = jnp.asarray(size_laws(signs.shape[1]), differences.dtype)[players, size]
    # A single player has all of the game, with nothing to draw.
    scaled = quotient(differences, 2 * law, players > 1)
    inside, outside = (scaled / jnp.maximum(n, 1).astype(scaled.dtype) for n in (size, players - size))
    return jnp.where(signs > 0, inside[:, None], jnp.where(signs < 0, -outside[:, None], 0))


def differences(v: GameFn, signs: jax.Array, chunk_size: int) -> jax.Array:
    """`(n,)`: v of the coalitions less v of their complements."""

    def values_of(row):
        return evaluate(v, jnp.where(row[:, None] % 2 == 0, signs[row // 2], -signs[row // 2]) > 0)

    values = in_chunks(values_of, 2 * signs.shape[0], chunk_size)
    return values[::2] - values[1::2]
