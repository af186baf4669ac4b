"""Permutation sampling of what a cheap surrogate of the game leaves unexplained.

Where a game reads its coalition through one layer, `v(m) = f(phi(m))` with `phi(m) = activation(base + m @ table)`,
the surrogate `u(m) = w . phi(m)` follows v closely, and its marginal contributions along an ordering cost
next to nothing: the layer's input is a running sum. So the Shapley values of u are sampled as precisely as one
likes, and only `v - u`, with a fraction of the variance, pays for evaluations. The weights w of an
ordering are fitted on other orderings (cross-fitting), hence the sum is unbiased.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.shapley import moments
from jaxcam.shapley.permutations import key_impl, ordering_ranks, path_values, permutation_shapley, raw_key, reached
from jaxcam.shapley.result import Estimate, Game, check_count, ends
from jaxcam.shapley.sharded import ALONE, Rows

#: Orderings that the final weights are fitted on, at most; more no longer helped on trained heads.
PILOT = 64
#: Parts of the pilot; the orderings of a part meet a surrogate fitted on the other parts.
FOLDS = 5
#: Orderings of the surrogate for each one of the game; its error must not show.
FREE = 16
#: Features whose weights are fitted, the most important ones; the others keep the mean gradient.
MAX_FITTED = 2048
_GRADIENT_COST = 3
_GRADIENTS = 16
_ELEMENTS = 1 << 25
#: Numbers that stay in a processor's cache from one player of an ordering to the next.
_CACHED = 1 << 16


class Layer(NamedTuple):
    """The layer `phi(m) = activation(base + m @ table)` through which a game reads its coalitions.

    Attributes:
      base: `(H,)`.
      table: `(K, H)`.
      activation: elementwise `(n, H) -> (n, H)`.
      gradient: `masks (n, K) -> (n, H)`, the derivative of v in phi.
    """

    base: jax.Array
    table: jax.Array
    activation: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array], jax.Array]


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


def _follow(layer: Layer, ranks: jax.Array, of_step: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`(K, n, ...)`: `of_step` of the change of phi `(n, H)` with each player of the orderings `ranks (n, K)`."""
    order = jnp.argsort(ranks, axis=1).T

    def step(carry, players):
        z, phi = carry
        z = z + layer.table[players]
        reached = layer.activation(z)
        return (z, reached), of_step(reached - phi)

    base = jnp.broadcast_to(layer.base, (ranks.shape[0], layer.base.shape[0]))
    return jax.lax.scan(step, (base, layer.activation(base)), order)[1]


def _in_groups(function: Callable, elements: int, layer: Layer, ranks: jax.Array, *more: jax.Array):
    """`function(valid, ranks, *more)` over groups of orderings, stacked; rows that are not valid repeat others."""
    count = ranks.shape[0]
    group = max(1, min(count, elements))
    groups = -(-count // group)
    at = jnp.minimum(jnp.arange(groups * group), count - 1).reshape(groups, group)
    valid = jnp.arange(groups * group).reshape(groups, group) < count
    return jax.lax.map(lambda i: function(i[1], ranks[i[0]], *(x[i[0]] for x in more)), (at, valid))


def _surrogate_marginals(layer: Layer, weights: jax.Array, ranks: jax.Array) -> jax.Array:
    """`(n, S, K)` marginal contribution of each player to the surrogates `weights (S, H)`."""

    def some(valid, ranks):
        by_position = _follow(layer, ranks, lambda change: jnp.matmul(change, weights.T, precision="highest"))
        return jnp.take_along_axis(jnp.transpose(by_position, (1, 2, 0)), ranks[:, None], axis=2)

    out = _in_groups(some, _CACHED // layer.base.shape[0], layer, ranks)
    return out.reshape(-1, *out.shape[2:])[: ranks.shape[0]]


def _fit(layer: Layer, ranks: jax.Array, changes: jax.Array, prior: jax.Array, chosen: jax.Array):
    """Gram matrix `(J, J)` and moment `(J,)` of the chosen features' steps with what the prior leaves of `changes`."""

    def some(valid, ranks, changes):
        steps = jnp.swapaxes(_follow(layer, ranks, lambda change: change), 0, 1) * valid[:, None, None]
        rest = changes * valid[:, None] - jnp.einsum("nkh,h->nk", steps, prior, precision="highest")
        x = steps[:, :, chosen].reshape(-1, chosen.shape[0])
        return jnp.matmul(x.T, x, precision="highest"), jnp.matmul(x.T, rest.reshape(-1), precision="highest")

    gram, moment = _in_groups(some, _ELEMENTS // layer.table.size, layer, ranks, changes)
    return gram.sum(0), moment.sum(0)


def _solve(gram: jax.Array, moment: jax.Array, orderings: int) -> jax.Array:
    """Ridge regression towards the prior; the fewer orderings, the nearer to it."""
    size = gram.shape[0]
    ridge = (0.1 + 1.0 / orderings) * jnp.trace(gram) / size + jnp.finfo(gram.dtype).tiny
    return jax.scipy.linalg.solve(gram + ridge * jnp.eye(size, dtype=gram.dtype), moment, assume_a="pos")


def _weights(layer: Layer, ranks: jax.Array, paths: jax.Array, key: jax.Array) -> jax.Array:
    """`(FOLDS + 1, H)`: each fitted on the pilot without one fold; the last on all of it."""
    players = ranks.shape[1]
    # At coalitions of its own: the folds must know nothing of each other.
    of_order, of_size = jax.random.split(key)
    drawn = ordering_ranks(of_order, jnp.arange(_GRADIENTS), players, False)[:, 0]
    at = jax.random.uniform(of_size, (_GRADIENTS, 1)) * players
    prior = layer.gradient((drawn < at).astype(layer.table.dtype)).mean(0)
    chosen = jax.lax.top_k(jnp.abs(prior) * jnp.abs(layer.table).sum(0), min(MAX_FITTED, prior.shape[0]))[1]
    changes = jnp.diff(paths, axis=1)
    count = ranks.shape[0]
    folds = [slice(i * count // FOLDS, (i + 1) * count // FOLDS) for i in range(FOLDS)]
    parts = [_fit(layer, ranks[fold], changes[fold], prior, chosen) for fold in folds]
    gram, moment = (jnp.stack(x).sum(0) for x in zip(*parts, strict=True))
    solved = [_solve(gram - g, moment - m, count - count // FOLDS) for g, m in parts]
    return jnp.stack([prior.at[chosen].add(w) for w in [*solved, _solve(gram, moment, count)]])


def _sample(
    v_samples: moments.Moments, layer, weights, surrogate, ranks, paths, valid, rows: Rows = ALONE
) -> moments.Moments:
    """The moments with the antithetic pairs `ranks (u, 2, K)`, of the values `paths (2 u, K + 1)`, added."""
    pairs, _, players = ranks.shape
    flat = ranks.reshape(-1, players)
    explained = rows(lambda some: _surrogate_marginals(layer, weights[None], some)[:, 0], flat)
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
    weights = _weights(layer, ranks, values, of_prior).astype(v_full.dtype)
    free = moments.none(weights.shape[0] * players, weights.dtype)
    return Pilot(raw_key(of_game), raw_key(of_free), weights, values, free, v_full, v_empty)


def explore(layer: Layer, state: Pilot, pairs: int, *, at_most: int, impl: str, rows: Rows = ALONE) -> Pilot:
    """The state with some `at_most` more antithetic pairs of the surrogates, of `pairs` in all."""
    players, count = layer.table.shape[0], state.weights.shape[0]
    key = jax.random.wrap_key_data(state.free_key, impl=impl)
    size = max(1, min(pairs, _CACHED // (2 * layer.base.shape[0]))) * rows.devices

    def marginals(index):
        ranks = ordering_ranks(key, index, players, True).reshape(-1, players)
        return _surrogate_marginals(layer, state.weights, ranks).reshape(-1, 2, count * players).mean(1)

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
    spent = jnp.asarray(2 + 2 * pairs * (players - 1) + _GRADIENT_COST * _GRADIENTS, jnp.int32)
    ends_ = (state.v_full, state.v_empty)
    return AdjustedState(state.key, state.weights[-1], surrogate[-1], error, samples, *ends_, spent)


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
