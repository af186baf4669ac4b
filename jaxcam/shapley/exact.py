"""Shapley values without sampling: all coalitions of few players, and additive games."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley.result import Estimate, GameFn, check_count, ends, evaluate, in_chunks

#: More players than this are 2^K coalitions too many.
MAX_EXACT_PLAYERS = 16


def exact_shapley(v: GameFn, *, num_players: int, chunk_size: int = 4096) -> Estimate:
    """The Shapley values of a game of at most 16 players, from all `2^K` coalitions.

    Args:
      v: `masks (n, K) -> (n,)`.
      num_players: K.
      chunk_size: the most coalitions in one call of `v`.

    Returns:
      An `Estimate` with zero standard error.

    Raises:
      JaxcamError: more than 16 players, or a game of the wrong shape.

    References:
      Shapley, A value for n-person games, 1953.
    """
    players = check_count("num_players", num_players)
    if players > MAX_EXACT_PLAYERS:
        raise JaxcamError(
            f"{players} players make 2^{players} coalitions; exact_shapley takes at most {MAX_EXACT_PLAYERS}, "
            "permutation_shapley any number"
        )
    bits = np.arange(players)
    values = in_chunks(
        lambda i: evaluate(v, (i[:, None] >> bits) & 1), 2**players, check_count("chunk_size", chunk_size)
    )
    size = np.bitwise_count(np.arange(2**players, dtype=np.uint32)).astype(np.int64)
    # A coalition of size s with the player weighs (s-1)! (K-s)! / K!, one without it s! (K-s-1)! / K!.
    weight = np.array([1 / (players * math.comb(players - 1, s)) for s in range(players)])
    member = (np.arange(2**players)[:, None] >> bits) & 1
    table = np.where(member, weight[np.maximum(size - 1, 0)][:, None], -weight[np.minimum(size, players - 1)][:, None])
    # Relative to the empty coalition, as the weights of a player sum to zero: an offset must not cost digits.
    shapley = jnp.matmul((values - values[0])[None], table.astype(values.dtype), precision="highest")[0]
    zero = jnp.zeros_like(shapley)
    return Estimate(shapley, zero, jnp.asarray(2**players), values[-1], values[0])


def additive_shapley(v: GameFn, *, num_players: int, chunk_size: int = 4096) -> Estimate:
    """The Shapley values of an additive game `v(m) = v(0) + sum_k m_k w_k`: the `w_k`.

    Each is taken as `v({k}) - v(0)`, K + 1 evaluations. It is for the caller to know that the game
    is additive; `v_full - v_empty - sum(values)` says by how much it is not.

    Arguments, result and errors as in `exact_shapley`, for any number of players.
    """
    players = check_count("num_players", num_players)
    v_full, v_empty = ends(v, players)
    chunk_size = check_count("chunk_size", chunk_size)
    alone = in_chunks(lambda i: evaluate(v, i[:, None] == jnp.arange(players)), players, chunk_size)
    values = alone - v_empty
    return Estimate(values, jnp.zeros_like(values), jnp.asarray(players + 2), v_full, v_empty)


def leave_one_out(v: GameFn, *, num_players: int, chunk_size: int = 4096) -> Estimate:
    """`v(all) - v(all without k)` for every player: not Shapley values, but their cheapest stand-in.

    Arguments as in `exact_shapley`, for any number of players; there is no standard error (NaN).
    """
    players = check_count("num_players", num_players)
    v_full, v_empty = ends(v, players)
    chunk_size = check_count("chunk_size", chunk_size)
    without = in_chunks(lambda i: evaluate(v, i[:, None] != jnp.arange(players)), players, chunk_size)
    values = v_full - without
    return Estimate(values, jnp.full_like(values, jnp.nan), jnp.asarray(players + 2), v_full, v_empty)
