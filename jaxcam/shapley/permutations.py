"""Shapley values by random orderings: one call under `jax.jit`, or step by step from the host."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley import moments
from jaxcam.shapley.result import Estimate, Game, check_count, ends, evaluate, float_dtype, in_chunks
from jaxcam.shapley.sharded import ALONE, Rows

#: A tolerance is not believed before this many independent samples.
MIN_SAMPLES = 10


class PermutationState(NamedTuple):
    """All that a run has found so far: a pytree of arrays that can be saved, and resumed from.

    Attributes:
      key: the raw random key of the run.
      samples: `Moments` of its independent samples (an ordering, or the mean of an antithetic pair).
      v_full: `()` value of all players.
      v_empty: `()` value of no player.
      evaluations: `()` coalitions evaluated.
    """

    key: jax.Array
    samples: moments.Moments
    v_full: jax.Array
    v_empty: jax.Array
    evaluations: jax.Array

    @property
    def estimate(self) -> Estimate:
        """What is known at this point."""
        return Estimate(self.samples.mean, self.samples.standard_error, self.evaluations, self.v_full, self.v_empty)


def ordering_ranks(key: jax.Array, index: jax.Array, num_players: int, antithetic: bool) -> jax.Array:
    """`(u, p, K)` rank of each player in the orderings of the samples `index (u,)`.

    Sample i depends on the key and on i alone: neither chunks, nor devices, nor the number of
    samples asked for change it. p is 2 with `antithetic`: an ordering and its reverse.
    """
    draw = functools.partial(jax.random.permutation, x=num_players)
    ranks = jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(index)[:, None]
    return jnp.concatenate([ranks, num_players - 1 - ranks], 1) if antithetic else ranks


def path_values(v: Game, ranks: jax.Array, v_full, v_empty, chunk_size: int) -> jax.Array:
    """`(n, K + 1)` values of the first 0, 1 ... K players of the orderings `ranks (n, K)`."""
    count, players = ranks.shape
    steps = players - 1

    def values_of(row):
        # Masks come to be here, chunk by chunk; all at once would be (n, K, K).
        return evaluate(v, ranks[row // max(steps, 1)] <= (row % max(steps, 1))[:, None])

    inner = in_chunks(values_of, count * steps, chunk_size).reshape(count, steps) if steps else jnp.zeros((count, 0))
    first, last = (jnp.broadcast_to(end, (count, 1)).astype(v_full.dtype) for end in (v_empty, v_full))
    return jnp.concatenate([first, inner.astype(v_full.dtype), last], 1)


def ordering_marginals(v: Game, ranks: jax.Array, v_full, v_empty, chunk_size: int, rows: Rows = ALONE) -> jax.Array:
    """`(n, K)` marginal contribution of each player in the orderings `ranks (n, K)`."""
    paths = rows(lambda some: path_values(v, some, v_full, v_empty, chunk_size), ranks)
    return jnp.take_along_axis(jnp.diff(paths), ranks, 1)


def advance(
    v: Game, state: PermutationState, total, *, size: int, antithetic: bool, chunk_size: int, impl: str,
    rows: Rows = ALONE,
) -> PermutationState:  # fmt: skip
    """The state with the next `size` samples in it, but never more than `total`."""
    players = state.samples.mean.shape[0]
    index = state.samples.count + jnp.arange(size)
    ranks = ordering_ranks(jax.random.wrap_key_data(state.key, impl=impl), index, players, antithetic)
    marginals = ordering_marginals(v, ranks.reshape(-1, players), state.v_full, state.v_empty, chunk_size, rows)
    valid = index < total
    samples = moments.add(state.samples, marginals.reshape(ranks.shape).mean(1), valid)
    spent = valid.sum(dtype=jnp.int32) * ranks.shape[1] * (players - 1)
    return state._replace(samples=samples, evaluations=state.evaluations + spent)


def raw_key(key: jax.Array) -> jax.Array:
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def key_impl(key: jax.Array) -> str:
    """The name of the key's generator: raw key data alone no longer know it."""
    return str(jax.random.key_impl(key))


def start(v: Game, key: jax.Array, num_players: int) -> PermutationState:
    """The state before the first ordering."""
    v_full, v_empty = ends(v, num_players)
    dtype = jnp.promote_types(v_full.dtype, float_dtype())
    none = moments.none(num_players, dtype)
    return PermutationState(raw_key(key), none, v_full.astype(dtype), v_empty.astype(dtype), jnp.asarray(2, jnp.int32))


def reached(samples_error: jax.Array, count: jax.Array, span: jax.Array, tolerance: float) -> jax.Array:
    """Whether the largest standard error is within `tolerance` of `|v_full - v_empty|`."""
    return (count >= MIN_SAMPLES) & (jnp.max(samples_error) <= tolerance * jnp.abs(span))


def done(state: PermutationState, total: int, tolerance: float | None) -> jax.Array:
    """Whether the run is over."""
    full = state.samples.count >= total
    if tolerance is None:
        return full
    span = state.v_full - state.v_empty
    return full | reached(state.samples.standard_error, state.samples.count, span, tolerance)


def _plan(num_players: int, num_permutations: int, antithetic: bool, chunk_size: int) -> tuple[int, int]:
    """Samples in all, and per step."""
    check_count("num_players", num_players)
    check_count("num_permutations", num_permutations)
    check_count("chunk_size", chunk_size)
    if antithetic and num_permutations % 2:
        raise JaxcamError(
            f"antithetic orderings come in pairs: num_permutations must be even, not {num_permutations}; "
            "or pass antithetic=False"
        )
    group = 2 if antithetic else 1
    total = num_permutations // group
    return total, min(total, max(1, chunk_size // max(1, group * (num_players - 1))))


def permutation_shapley(
    v: Game,
    key: jax.Array,
    *,
    num_players: int,
    num_permutations: int,
    antithetic: bool = True,
    chunk_size: int = 4096,
    tolerance: float | None = None,
) -> Estimate:
    """Shapley values as the mean marginal contribution over random orderings. Pure; works under `jax.jit`.

    Every ordering's contributions sum to `v_full - v_empty`, so the values do, to rounding.

    Args:
      v: the game, `masks (n, K) -> (n,)`.
      key: a `jax.random` key. The orderings depend on it alone, not on `chunk_size`, and those of a
        shorter run are the first ones of a longer run.
      num_players: K.
      num_permutations: orderings at most; each costs K - 1 evaluations.
      antithetic: take each ordering with its reverse, which cancels the variance of all
        interactions of two players. Then `num_permutations` must be even.
      chunk_size: the most coalitions in one call of `v`: what decides the memory.
      tolerance: stop once the largest standard error is at most this share of `|v_full - v_empty|`
        (looked at after every chunk, from 10 samples on).

    Returns:
      An `Estimate`; an antithetic pair counts as one sample in its standard error.

    Raises:
      JaxcamError: a count below 1, an odd number of antithetic orderings, a game that is not finite
        (outside `jax.jit`) or returns the wrong shape.

    References:
      Castro et al., Polynomial calculation of the Shapley value based on sampling, 2009.
      Mitchell et al., Sampling Permutations for Shapley Value Estimation, JMLR 2022 (antithetic orderings).
    """
    total, size = _plan(num_players, num_permutations, antithetic, chunk_size)
    options: dict[str, Any] = {"size": size, "antithetic": antithetic, "chunk_size": chunk_size, "impl": key_impl(key)}
    step = functools.partial(advance, v, total=total, **options)
    state = start(v, key, num_players)
    return jax.lax.while_loop(lambda s: ~done(s, total, tolerance), step, state).estimate


_step = jax.jit(advance, static_argnames=("size", "antithetic", "chunk_size", "impl"))


def permutation_shapley_steps(
    v: Game,
    key: jax.Array,
    *,
    num_players: int,
    num_permutations: int,
    antithetic: bool = True,
    chunk_size: int = 4096,
    tolerance: float | None = None,
    state: PermutationState | None = None,
) -> Iterator[PermutationState]:
    """`permutation_shapley` driven from the host: yields a state after every chunk of orderings.

    For progress bars (`state.estimate`), for runs that must survive a kill (save the state, pass it
    back as `state`: the result is that of an uninterrupted run), and on CPU for games with
    convolutions, which XLA runs slowly inside `jax.lax` loops.

    Args as in `permutation_shapley`, and:
      v: compiled once per game; a `jax.tree_util.Partial` over arrays once for all games of its shape.
      state: where an earlier run with the same key left off.

    Raises:
      JaxcamError: as in `permutation_shapley`, or a `state` of another key or number of players.
    """
    total, size = _plan(num_players, num_permutations, antithetic, chunk_size)
    v = v if isinstance(v, jax.tree_util.Partial) else jax.tree_util.Partial(v)
    if state is None:
        state = start(v, key, num_players)
    else:
        _check_resumable(state, key, num_players)
        state = jax.tree.map(jnp.asarray, state)
    options: dict[str, Any] = {"size": size, "antithetic": antithetic, "chunk_size": chunk_size, "impl": key_impl(key)}
    if bool(done(state, total, tolerance)):  # a finished run, taken up again
        yield state
    while not bool(done(state, total, tolerance)):
        state = _step(v, state, jnp.asarray(total), **options)
        if not np.isfinite(np.asarray(state.samples.mean)).all():
            raise JaxcamError("the game gave a value that is not finite; look for NaN or overflow in its head")
        yield state


def _check_resumable(state: PermutationState, key: jax.Array, num_players: int) -> None:
    if np.shape(state.samples.mean) != (num_players,):
        raise JaxcamError(f"the saved state has {np.shape(state.samples.mean)[0]} players, the game {num_players}")
    if not np.array_equal(np.asarray(state.key), np.asarray(raw_key(key))):
        raise JaxcamError("the saved state belongs to a run with another random key; pass the key it began with")
