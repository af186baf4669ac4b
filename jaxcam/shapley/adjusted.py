"""Permutation sampling of what a cheap surrogate of the game leaves unexplained.

Where a game reads its coalition through one layer, `v(m) = f(phi(m))` with `phi(m) = activation(base + m @ table)`,
the surrogate `u(m) = w . phi(m)` follows v closely, and its marginal contributions along an ordering cost
next to nothing: the layer's input is a running sum. So the Shapley values of u are sampled as precisely as one
likes, and only `v - u`, with a fraction of the variance, pays for evaluations. The weights w of an
ordering are fitted on other orderings (cross-fitting), hence the sum is unbiased.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.shapley import moments
from jaxcam.shapley.permutations import key_impl, ordering_ranks, path_values, permutation_shapley, raw_key, reached
from jaxcam.shapley.result import Estimate, Game, check_count, ends
from jaxcam.shapley.sharded import ALONE, Rows
from jaxcam.shapley.surrogate import CACHED, FOLDS, GRADIENTS, Layer, fitted_weights, surrogate_marginals

#: Orderings that the final weights are fitted on, at most; more no longer helped on trained heads.
PILOT = 64
#: Orderings of the surrogate for each one of the game; its error must not show.
FREE = 16
_GRADIENT_COST = 3


class AdjustedState(NamedTuple):
    """All that a run has found so far: a pytree of arrays that can be saved, and resumed from.

    Attributes:
      key: the raw random key of the run.
      weights: `(H,)` of the surrogate, fitted on the whole pilot.
      surrogate: `(K,)` its Shapley values.
      surrogate_error: `(K,)` their standard error.
      samples: `Moments` of the independent samples (antithetic pairs).
      v_full, v_empty: `()`.
      evaluations: `()`, the surrogate's arithmetic and the gradients included.
    """

    key: jax.Array
    weights: jax.Array
    surrogate: jax.Array
    surrogate_error: jax.Array
    samples: moments.Moments
    v_full: jax.Array
    v_empty: jax.Array
    evaluations: jax.Array

    @property
    def estimate(self) -> Estimate:
        """What is known at this point."""
        error = jnp.hypot(self.samples.standard_error, self.surrogate_error)
        return Estimate(self.samples.mean, error, self.evaluations, self.v_full, self.v_empty)


class Pilot(NamedTuple):
    """The state between the pilot and the sampling proper.

    Attributes:
      key, free_key: raw random keys, of the game's orderings and of the surrogates'.
      weights: `(FOLDS + 1, H)`, each surrogate's; the last one's are fitted on all of the pilot.
      paths: `(n, K + 1)` values of the game along the pilot's orderings.
      free: `Moments` of the surrogates' marginals `((FOLDS + 1) K,)` over antithetic pairs.
      v_full, v_empty: `()`.
    """

    key: jax.Array
    free_key: jax.Array
    weights: jax.Array
    paths: jax.Array
    free: moments.Moments
    v_full: jax.Array
    v_empty: jax.Array


def pilot_pairs(num_permutations: int) -> int:
    """Antithetic pairs in the pilot, a multiple of the folds; 0 where there are too few to fit anything."""
    return min(num_permutations // 2, PILOT // 2) // FOLDS * FOLDS


def _sample(
    v_samples: moments.Moments, layer, weights, surrogate, ranks, paths, valid, rows: Rows = ALONE
) -> moments.Moments:
    """The moments with the antithetic pairs `ranks (u, 2, K)`, of the values `paths (2 u, K + 1)`, added."""
    pairs, _, players = ranks.shape
    flat = ranks.reshape(-1, players)
    explained = rows(lambda some: surrogate_marginals(layer, weights[None], some)[:, 0], flat)
    rest = jnp.take_along_axis(jnp.diff(paths, axis=1), flat, axis=1) - explained
    return moments.add(v_samples, rest.reshape(pairs, 2, players).mean(1) + surrogate, valid)


def pilot(
    v: Game, layer: Layer, key: jax.Array, *, num_permutations: int, chunk_size: int, rows: Rows = ALONE
) -> Pilot:
    """The state after the pilot: `explore` and `begin` come next."""
    players = layer.table.shape[0]
    of_game, of_free, of_prior = jax.random.split(key, 3)
    v_full, v_empty = ends(v, players)
    ranks = ordering_ranks(of_game, jnp.arange(pilot_pairs(num_permutations)), players, True).reshape(-1, players)
    values = rows(lambda some: path_values(v, some, v_full, v_empty, chunk_size), ranks)
    weights = fitted_weights(layer, ranks, values, of_prior).astype(v_full.dtype)
    free = moments.none(weights.shape[0] * players, weights.dtype)
    return Pilot(raw_key(of_game), raw_key(of_free), weights, values, free, v_full, v_empty)


def explore(layer: Layer, state: Pilot, pairs: int, *, at_most: int, impl: str, rows: Rows = ALONE) -> Pilot:
    """The state with some `at_most` more antithetic pairs of the surrogates, of `pairs` in all."""
    players, count = layer.table.shape[0], state.weights.shape[0]
    key = jax.random.wrap_key_data(state.free_key, impl=impl)
    size = max(1, min(pairs, CACHED // (2 * layer.base.shape[0]))) * rows.devices

    def marginals(index):
        ranks = ordering_ranks(key, index, players, True).reshape(-1, players)
        return surrogate_marginals(layer, state.weights, ranks).reshape(-1, 2, count * players).mean(1)

    def more(_, found):
        index = found.count + jnp.arange(size)
        return moments.add(found, rows(marginals, index), index < pairs)

    return state._replace(free=jax.lax.fori_loop(0, -(-at_most // size), more, state.free))


def begin(layer: Layer, state: Pilot, *, impl: str) -> AdjustedState:
    """The state to `advance` from, with the pilot's orderings, each met by a surrogate that it had no part in."""
    players = layer.table.shape[0]
    pairs = state.paths.shape[0] // 2
    key = jax.random.wrap_key_data(state.key, impl=impl)
    ranks = ordering_ranks(key, jnp.arange(pairs), players, True)
    surrogate, error = state.free.mean.reshape(-1, players), state.free.standard_error[-players:]
    samples = moments.none(players, state.v_full.dtype)
    each = pairs // FOLDS
    for i in range(FOLDS):
        some = slice(i * each, (i + 1) * each)
        path = state.paths[2 * i * each : 2 * (i + 1) * each]
        samples = _sample(samples, layer, state.weights[i], surrogate[i], ranks[some], path, jnp.ones(each, bool))
    spent = jnp.asarray(2 + 2 * pairs * (players - 1) + _GRADIENT_COST * GRADIENTS, jnp.int32)
    return AdjustedState(
        state.key, state.weights[-1], surrogate[-1], error, samples, state.v_full, state.v_empty, spent
    )


def advance(
    v: Game, layer: Layer, state: AdjustedState, total, *, size: int, chunk_size: int, impl: str, rows: Rows = ALONE
) -> AdjustedState:
    """The state with the next `size` pairs in it, but never more than `total`."""
    players = layer.table.shape[0]
    index = state.samples.count + jnp.arange(size)
    ranks = ordering_ranks(jax.random.wrap_key_data(state.key, impl=impl), index, players, True)
    flat = ranks.reshape(-1, players)
    values = rows(lambda some: path_values(v, some, state.v_full, state.v_empty, chunk_size), flat)
    valid = index < total
    spent = valid.sum(dtype=jnp.int32) * 2 * (players - 1)
    samples = _sample(state.samples, layer, state.weights, state.surrogate, ranks, values, valid, rows)
    return state._replace(samples=samples, evaluations=state.evaluations + spent)


def adjusted_shapley(
    v: Game,
    layer: Layer,
    key: jax.Array,
    *,
    num_permutations: int,
    chunk_size: int = 4096,
    tolerance: float | None = None,
) -> Estimate:
    """Shapley values by antithetic orderings of the game minus a fitted surrogate. Pure; works under `jax.jit`.

    Unbiased: an ordering's surrogate is fitted on other orderings, and its own Shapley values are added.
    The values sum to `v_full - v_empty` to rounding. Below 10 orderings it is `permutation_shapley`.

    Args:
      v: the game, `masks (n, K) -> (n,)`.
      layer: the layer through which it reads its coalitions.
      key: a `jax.random` key. The answer does not depend on `chunk_size`.
      num_permutations: orderings, even; each costs K - 1 evaluations.
      chunk_size: the most coalitions in one call of `v`.
      tolerance: as in `permutation_shapley`.

    Returns:
      An `Estimate`; the standard error takes the fitted surrogates as given, and holds the error of their
      Shapley values. `evaluations` counts the gradients of the fit three times each; the surrogate's own
      arithmetic, `16 num_permutations K H` multiply-adds, is not counted.

    Raises:
      JaxcamError: as in `permutation_shapley`.

    References:
      Witter, Liu and Musco, Regression-adjusted Monte Carlo estimators for Shapley values, 2025 (the idea
      of a fitted surrogate whose Shapley values are known).
    """
    players = layer.table.shape[0]
    check_count("num_permutations", num_permutations)
    check_count("chunk_size", chunk_size)
    if num_permutations % 2:
        raise JaxcamError(f"antithetic orderings come in pairs: num_permutations must be even, not {num_permutations}")
    if not pilot_pairs(num_permutations) or players < 2:
        return permutation_shapley(
            v, key, num_players=players, num_permutations=num_permutations, chunk_size=chunk_size, tolerance=tolerance
        )
    total = num_permutations // 2
    size = pairs_at_once(players, total, chunk_size)
    impl = key_impl(key)
    first = pilot(v, layer, key, num_permutations=num_permutations, chunk_size=chunk_size)
    pairs = FREE * total
    state = begin(layer, explore(layer, first, pairs, at_most=pairs, impl=impl), impl=impl)
    step = functools.partial(advance, v, layer, total=total, size=size, chunk_size=chunk_size, impl=impl)
    return jax.lax.while_loop(lambda s: ~done(s, total, tolerance), step, state).estimate


def pairs_at_once(players: int, total: int, chunk_size: int) -> int:
    """Antithetic pairs in one step."""
    return max(1, min(total, chunk_size // (2 * max(1, players - 1))))


def done(state: AdjustedState, total: int, tolerance: float | None) -> jax.Array:
    """Whether the run is over."""
    full = state.samples.count >= total
    if tolerance is None:
        return full
    error = state.estimate.standard_error
    return full | reached(error, state.samples.count, state.v_full - state.v_empty, tolerance)
