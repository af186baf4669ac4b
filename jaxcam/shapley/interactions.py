"""How much more two players are worth together than apart, on average over coalitions of the others."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley import moments
from jaxcam.shapley.result import GameFn, check_count, check_key, checked, evaluate, in_chunks


class Interactions(NamedTuple):
    """Estimated interactions of some players of a game, two by two.

    Attributes:
      players: `(M,)` which they are.
      values: `(M, M)` symmetric, in the units of the game; 0 on the diagonal.
      standard_error: `(M, M)` of `values`.
      evaluations: `()` coalitions evaluated.
    """

    players: jax.Array
    values: jax.Array
    standard_error: jax.Array
    evaluations: jax.Array


def shapley_interactions(
    v: GameFn, key: jax.Array, *, num_players: int, players: jax.Array, num_samples: int, chunk_size: int = 4096
) -> Interactions:
    """The Shapley interaction index of all pairs of some players. Pure; works under `jax.jit`.

    Of players i and j it is the mean of `v(S, i, j) - v(S, i) - v(S, j) + v(S)` over the sizes, and over the
    coalitions S of the others of each size. Above 0 the two are worth more together than apart, below 0 they stand
    in for each other. A random coalition says it of all pairs at once, from itself with one player or two going
    over; each is taken with its complement, which cancels the noise of all interactions of three. Unbiased, and
    exact with no error where no three players interact.

    Args:
      v: the game, `masks (n, K) -> (n,)`.
      key: a `jax.random` key. Sample i depends on it and on i alone.
      num_players: K, at least 2.
      players: `(M,)` their numbers, each once, such as those of the largest Shapley values.
      num_samples: coalitions drawn, at least 2; each costs `2 + M (M + 1)` evaluations.
      chunk_size: the most coalitions in one call of `v`.

    Returns:
      `Interactions`.

    Raises:
      JaxcamError: counts out of range, `players` not one row of at least two, each once and there (NaN where they
        are traced), or a game that is not finite (outside `jax.jit`) or of the wrong shape.

    References:
      Grabisch & Roubens, An axiomatic approach to the concept of interaction among players, 1999.
    """
    total = check_count("num_players", num_players, 2)
    count = check_count("num_samples", num_samples, 2)
    check_key(key)
    players = jnp.asarray(players)
    if players.ndim != 1 or not 2 <= players.shape[0] <= total or not jnp.issubdtype(players.dtype, jnp.integer):
        raise JaxcamError(
            f"players must be a row of 2 to {total} players' numbers, not {players.dtype} of shape {players.shape}"
        )
    if not isinstance(players, jax.core.Tracer):
        named = players.tolist()
        if len(set(named)) < len(named) or not 0 <= min(named) <= max(named) < total:
            raise JaxcamError(f"players must be numbers from 0 to {total - 1}, each once, not {named}")
    many = players.shape[0]
    first, second = np.triu_indices(many, 1)
    one = jax.nn.one_hot(players, total, dtype=bool)
    over = jnp.concatenate([jnp.zeros((1, total), bool), one, one[first] | one[second]])
    drawn = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (1 + total,), jnp.float32))(
        jnp.arange(count)
    )
    inside = drawn[:, 1:] < drawn[:, :1]
    each = 2 * over.shape[0]

    def values_of(row):
        sample, rest = row // each, row % each
        return evaluate(v, inside[sample] ^ over[rest // 2] ^ (rest % 2 == 1)[:, None])

    chunk_size = check_count("chunk_size", chunk_size)
    values = in_chunks(values_of, count * each, chunk_size).reshape(count, over.shape[0], 2).mean(2)
    alone, both = values[:, 1 : 1 + many], values[:, 1 + many :]
    # With one of the two inside, what is seen is the same with the other sign.
    sign = jnp.where(inside[:, players[first]] == inside[:, players[second]], 1, -1).astype(values.dtype)
    seen = sign * (values[:, :1] - alone[:, first] - alone[:, second] + both)
    samples = moments.add(moments.none(len(first), values.dtype), seen, jnp.ones(count, bool))

    # What is traced cannot raise: of players that are none, or one and the same, there is no interaction to tell.
    here = (players >= 0) & (players < total)
    told = here[first] & here[second] & (players[first] != players[second])

    def square(pairs):
        pairs = jnp.where(told, pairs, jnp.nan)
        return jnp.zeros((many, many), pairs.dtype).at[first, second].set(pairs).at[second, first].set(pairs)

    spent = jnp.asarray(count * each, jnp.int32)
    return checked(Interactions(players, square(samples.mean), square(samples.standard_error), spent))
