"""Shapley values without sampling: all coalitions of few players, and additive games."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley.permutations import check_values
from jaxcam.shapley.result import (
    Estimate,
    GameFn,
    Problem,
    check_count,
    check_ends,
    checked,
    ends,
    evaluate,
    in_chunks,
)
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding

#: More players than this are 2^K coalitions too many.
MAX_EXACT_PLAYERS = 16


def is_enumerable(num_players: int, evaluations: int) -> bool:
    """Whether all coalitions of so many players cost no more than so many evaluations: then nothing need be sampled."""
    return num_players <= MAX_EXACT_PLAYERS and 2**num_players <= evaluations


def exact_shapley(v: GameFn, *, num_players: int, chunk_size: int = 4096) -> Estimate:
    """The Shapley values of a game of at most 16 players, from all `2^K` coalitions.

    Args:
      v: `masks (n, K) -> (n,)`.
      num_players: K.
      chunk_size: the most coalitions in one call of `v`.

    Returns:
      An `Estimate` with zero standard error.

    Raises:
      JaxcamError: more than 16 players, a game that is not finite (outside `jax.jit`) or of the wrong shape.

    References:
      Shapley, A value for n-person games, 1953.
    """
    players = check_count("num_players", num_players)
    if players > MAX_EXACT_PLAYERS:
        raise JaxcamError(
            f"{players} players make 2^{players} coalitions; exact_shapley takes at most {MAX_EXACT_PLAYERS}, "
            "permutation_shapley any number"
        )
    values = in_chunks(
        lambda i: evaluate(v, _coalitions(i, players)), 2**players, check_count("chunk_size", chunk_size)
    )
    check_ends(values[-1], values[0])
    return checked(_of_all(values, players))


def _coalitions(index: jax.Array, players: int) -> jax.Array:
    """`(n, K)` of 0 and 1: coalition i holds the players whose bits are set in i."""
    return (index[:, None] >> jnp.arange(players)[None]) & 1


def _of_all(values: jax.Array, players: int) -> Estimate:
    """The Shapley values of the game with these `values (2^K,)`."""
    size = np.bitwise_count(np.arange(2**players, dtype=np.uint32)).astype(np.int64)
    # A coalition of size s with the player weighs (s-1)! (K-s)! / K!, one without it s! (K-s-1)! / K!.
    weight = np.array([1 / (players * math.comb(players - 1, s)) for s in range(players)])
    member = (np.arange(2**players)[:, None] >> np.arange(players)) & 1
    table = np.where(member, weight[np.maximum(size - 1, 0)][:, None], -weight[np.minimum(size, players - 1)][:, None])
    # Relative to the empty coalition, as the weights of a player sum to zero: an offset must not cost digits.
    shapley = jnp.matmul((values - values[0])[None], table.astype(values.dtype), precision="highest")[0]
    zero = jnp.zeros_like(shapley)
    return Estimate(shapley, zero, jnp.asarray(2**players, jnp.int32), values[-1], values[0])


class EnumerationState(NamedTuple):
    """The values of all coalitions as far as they are known: a pytree of arrays that can be saved, and resumed from.

    Attributes:
      values: `(2^K,)`, 0 for those that are to come.
      evaluations: `()` coalitions evaluated, the first ones.
    """

    values: jax.Array
    evaluations: jax.Array

    @property
    def estimate(self) -> Estimate:
        """The Shapley values; NaN before the last coalition."""
        exact = _of_all(self.values, _players(self))
        known = jnp.where(self.evaluations < self.values.shape[0], jnp.nan, exact.values)
        return exact._replace(values=known, evaluations=self.evaluations)


def _players(state: EnumerationState) -> int:
    return int(state.values.shape[0]).bit_length() - 1


@dataclasses.dataclass(frozen=True)
class Enumeration:
    """`exact_shapley` as `Steps`.

    Attributes:
      players: K, at most 16.
      size: coalitions in a step.
      chunk_size: the most coalitions at once, on each device.
    """

    players: int
    size: int
    chunk_size: int

    states = (EnumerationState,)

    @property
    def total(self) -> int:
        """All coalitions."""
        return 2**self.players

    @property
    def count(self) -> int:
        return -(-self.total // self.size)

    @property
    def repeats(self) -> int:
        return self.count - 1

    def start(self, problem: Problem, sharding: RowSharding = ONE_DEVICE) -> EnumerationState:
        first = self._values(problem, jnp.arange(self.size), sharding)
        values = jnp.zeros(self.total, first.dtype).at[: self.size].set(first)
        return EnumerationState(values, jnp.asarray(self.size, jnp.int32))

    def advance(
        self, problem: Problem, state: EnumerationState, sharding: RowSharding = ONE_DEVICE
    ) -> EnumerationState:
        # The last step begins earlier where steps do not divide evenly.
        begin = jnp.minimum(state.evaluations, self.total - self.size)
        values = self._values(problem, begin + jnp.arange(self.size, dtype=jnp.int32), sharding)
        values = jax.lax.dynamic_update_slice(state.values, values, (begin,))
        return EnumerationState(values, begin + self.size)

    def _values(self, problem: Problem, index: jax.Array, sharding: RowSharding) -> jax.Array:
        def some(rows):
            masks = _coalitions(rows, self.players)
            return in_chunks(lambda i: evaluate(problem.v, masks[i]), masks.shape[0], self.chunk_size)

        return sharding(some, index)

    def done(self, state: EnumerationState) -> jax.Array:
        return state.evaluations >= self.total

    def share(self, state: EnumerationState) -> float:
        return float(state.evaluations) / self.total

    def check(self, data: Any, state: EnumerationState, resumed: bool) -> None:
        if resumed and _players(state) != self.players:
            raise JaxcamError(f"the saved state is of {_players(state)} players, this game has {self.players}")
        known = np.asarray(state.values)[: int(state.evaluations)]
        check_values(known[-1], known[0], known)


def additive_shapley(v: GameFn, *, num_players: int, chunk_size: int = 4096) -> Estimate:
    """The Shapley values of an additive game `v(m) = v(0) + sum_k m_k w_k`: the `w_k`.

    Each is taken as `v({k}) - v(0)`, K + 1 evaluations. It is for the caller to know that the game
    is additive; `v_full - v_empty - sum(values)` says by how much it is not.

    Arguments, result and errors as in `exact_shapley`, for any number of players.
    """
    players = check_count("num_players", num_players)
    v_full, v_empty = ends(v, players)
    chunk_size = check_count("chunk_size", chunk_size)
    alone = in_chunks(lambda i: evaluate(v, i[:, None] == jnp.arange(players)[None]), players, chunk_size)
    values = alone - v_empty
    return checked(Estimate(values, jnp.zeros_like(values), jnp.asarray(players + 2, jnp.int32), v_full, v_empty))


def leave_one_out(v: GameFn, *, num_players: int, chunk_size: int = 4096) -> Estimate:
    """`v(all) - v(all without k)` for every player: not Shapley values, but their cheapest stand-in.

    Arguments as in `exact_shapley`, for any number of players; there is no standard error (NaN).
    """
    players = check_count("num_players", num_players)
    v_full, v_empty = ends(v, players)
    chunk_size = check_count("chunk_size", chunk_size)
    without = in_chunks(lambda i: evaluate(v, i[:, None] != jnp.arange(players)[None]), players, chunk_size)
    values = v_full - without
    none: Any = np.full(players, np.nan, values.dtype)
    return checked(Estimate(values, none, jnp.asarray(players + 2, jnp.int32), v_full, v_empty))
