"""Random coalitions of what a surrogate of the game leaves unexplained.

A surrogate whose Shapley values are known in closed form is fitted to the first pairs of a coalition and its
complement: the units of a known layer (`jaxcam.shapley.surrogate`), or main effects and a few sets of players
(`jaxcam.shapley.sparse`). The Shapley values of the game less the surrogate are estimated from the same pairs, and
from all later ones. In a pair's own estimate the surrogate is one that was fitted without it (leave-one-out, in closed
form for a ridge regression of fixed penalty; by folds where the data choose penalty and features), hence the sum is
unbiased.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley import moments, pairs, sparse, surrogate
from jaxcam.shapley.permutations import (
    check_resumable,
    check_values,
    estimate_within,
    finished,
    key_impl,
    permutation_shapley,
    raw_key,
)
from jaxcam.shapley.result import Estimate, GameFn, Problem, check_count, check_tolerance, checked, ends, matmul
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding
from jaxcam.shapley.stepping import run
from jaxcam.shapley.surrogate import GameLayer, SineUnits

#: Orderings at whose cost the surrogate is fitted, at most; more hardly helped on trained heads.
PILOT = 64
#: Fewer pairs, and fewer for each player where no layer is known and where one is, are not worth a surrogate.
LEAST, LEAST_ALONE, LEAST_OF_LAYER = 24, 4, 0.5
#: Gradients of which the mean is the first guess of the weights, at most; and the share of the cost that they may take.
GRADIENTS, GRADIENT_SHARE = 16, 0.05
GRADIENT_COST = 3
#: Numbers in one piece of the table of features.
_ELEMENTS = 1 << 22


class Pilot(NamedTuple):
    """The state between the pilot and the rest: values to fit a surrogate to.

    Attributes:
      key, fit_key: raw random keys, of the coalitions and of the surrogate.
      present: `(K,)` bool: the players that may contribute.
      differences: `(P,)` v of the coalitions less v of their complements.
      v_full, v_empty: `()`.
    """

    key: jax.Array
    fit_key: jax.Array
    present: jax.Array
    differences: jax.Array
    v_full: jax.Array
    v_empty: jax.Array


class AdjustedState(NamedTuple):
    """All that a run has found so far: a pytree of arrays that can be saved, and resumed from.

    Attributes:
      key: the raw random key of the run.
      present: `(K,)` bool: the players that may contribute.
      fit: the surrogate, a `surrogate.LayerFit` or a `sparse.SparseFit`.
      surrogate: `(K,)` its Shapley values.
      samples: `Moments` of the independent samples (a coalition and its complement).
      v_full, v_empty: `()`.
      evaluations: `()`, gradients included.
      reach: `()` the largest difference between a coalition and its complement.
    """

    key: jax.Array
    present: jax.Array
    fit: Any
    surrogate: jax.Array
    samples: moments.Moments
    v_full: jax.Array
    v_empty: jax.Array
    evaluations: jax.Array
    reach: jax.Array

    @property
    def estimate(self) -> Estimate:
        """What is known at this point."""
        return Estimate(self.samples.mean, self.samples.standard_error, self.evaluations, self.v_full, self.v_empty)


class Budget(NamedTuple):
    """How evaluations are spent: pairs in all, those of the pilot, and gradients."""

    total: int
    pilot: int
    gradients: int


def budget(num_players: int, num_permutations: int, layer: GameLayer | None) -> Budget | None:
    """What the cost of so many orderings is spent on; None where it is too little for a surrogate."""
    allowed = num_permutations * (num_players - 1)
    gradients = 0
    if layer is not None:
        gradients = int(np.clip(int(allowed * GRADIENT_SHARE / GRADIENT_COST) // 2 * 2, 2, GRADIENTS))
    total = -(-(allowed - GRADIENT_COST * gradients) // 2)
    if total < max(LEAST, num_players * (LEAST_ALONE if layer is None else LEAST_OF_LAYER)):
        return None
    most = PILOT * (num_players - 1) // 2
    if layer is None:
        most = min(most, sparse.most_pairs(num_players))
    return Budget(total, min(total, most), gradients)


def _fitted(layer: GameLayer | None, state: Pilot, spend: Budget, impl: str) -> AdjustedState:
    """The state with the pilot's pairs in it, each met by a surrogate that it had no part in."""
    of_game, of_fit = (jax.random.wrap_key_data(k, impl=impl) for k in (state.key, state.fit_key))
    dtype, count, present = state.differences.dtype, spend.pilot, state.present
    signs = pairs.draw(of_game, jnp.arange(count), present)

    def adding_up(found):
        missing = (state.v_full - state.v_empty) - found.sum(1, keepdims=True)
        return jnp.where(present[None], found + missing / jnp.maximum(present.sum(), 1).astype(dtype), 0)

    fit: Any
    if layer is None:
        fit, rest, others = sparse.cross_fitted(signs, state.differences, present)
        found = adding_up(fit.shapley_values(present)[None])[0]
        others = adding_up(others)
    else:
        units = surrogate.fit_units(layer, of_fit, present, spend.gradients)
        penalty = surrogate.penalties(units, of_fit, present).astype(dtype)
        weights, mean_weights, rest = _leave_one_out(units, signs, state.differences, penalty)
        # All surrogates' values at once, as they are linear in the weights.
        both = surrogate.shapley_values(units, jnp.stack([weights, mean_weights]), present).astype(dtype)
        found, mean = adding_up(both)
        fit, others = surrogate.LayerFit(units, weights), mean[None]
    samples = moments.none(present.shape[0], dtype)
    samples = moments.add(samples, pairs.contributions(signs, rest) + others, jnp.ones(count, bool))
    spent = jnp.asarray(2 + 2 * count + GRADIENT_COST * spend.gradients, jnp.int32)
    reach = jnp.maximum(jnp.abs(state.differences).max(), jnp.abs(state.v_full - state.v_empty))
    return AdjustedState(state.key, present, fit, found, samples, state.v_full, state.v_empty, spent, reach)


def _leave_one_out(
    units: SineUnits, signs: jax.Array, values: jax.Array, penalty: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights `(J,)` of the surrogate fitted to all pairs; the mean of those fitted to all but one; and
    `(n,)` what each of the latter leaves of the pair that it was fitted without.

    The ridge `penalty (J,)` must know nothing of the pairs, or a pair has a part in its own surrogate.
    """
    count, width = signs.shape[0], penalty.shape[0]
    root = jnp.sqrt(pairs.weights(signs)).astype(values.dtype)
    size = max(1, min(count, _ELEMENTS // width))
    pieces = -(-count // size)
    at = jnp.minimum(jnp.arange(pieces * size), count - 1).reshape(pieces, size)
    real = (jnp.arange(pieces * size) < count).reshape(pieces, size)

    def rows(i, valid):
        x, known = surrogate.features(units, signs[i])
        scale = jnp.where(valid, root[i], 0)
        return x * scale[:, None], (values[i] - known) * scale

    def add(sums, piece):
        x, y = rows(*piece)
        gram, moment = sums
        return (gram + matmul(x.T, x), moment + matmul(x.T, y)), None

    zero = jnp.zeros((width, width), values.dtype), jnp.zeros(width, values.dtype)
    (gram, moment), _ = jax.lax.scan(add, zero, (at, real))
    factor = jnp.linalg.cholesky(gram + jnp.diag(penalty))
    solve = functools.partial(jax.scipy.linalg.cho_solve, (factor, True))
    weights = solve(moment)

    def leave(piece):
        x, y = rows(*piece)
        leverage = (jax.scipy.linalg.solve_triangular(factor, x.T, lower=True) ** 2).sum(0)
        left = (y - matmul(x, weights)) / jnp.maximum(1 - leverage, 1e-3)
        return left, matmul(x.T, left)

    left, back = jax.lax.map(leave, (at, real))
    mean_weights = weights - solve(back.sum(0)) / count
    return weights, mean_weights, left.reshape(-1)[:count] / root


@dataclasses.dataclass(frozen=True)
class Adjusted:
    """Random coalitions of the game less a surrogate, as `Steps`: a pilot, the fit, and the rest of the pairs.

    Attributes:
      spend: what the evaluations go to.
      size: pairs of coalitions in a step.
      chunk_size: the most coalitions at once, on each device.
      impl: of the random key.
      tolerance: as in `permutation_shapley`; no part of what is compiled.
    """

    spend: Budget
    size: int
    chunk_size: int
    impl: str
    tolerance: float | None = dataclasses.field(default=None, compare=False)

    @property
    def states(self) -> tuple[type, ...]:
        return (Pilot, AdjustedState)

    @property
    def count(self) -> int:
        return -(-self.spend.total // self.size)

    @property
    def repeats(self) -> int | None:
        return -((self.spend.pilot - self.spend.total) // self.size) if self.tolerance is None else None

    def start(self, problem: Problem, sharding: RowSharding = ONE_DEVICE) -> Pilot:
        of_game, of_fit = jax.random.split(jax.random.wrap_key_data(problem.key, impl=self.impl))
        present, layer = problem.present, problem.layer
        v_full, v_empty = ends(problem.v, present.shape[0])
        if layer is not None:
            present = present & (layer.table != 0).any(1)
        signs = pairs.draw(of_game, jnp.arange(self.spend.pilot), present)
        values = sharding(lambda some: pairs.differences(problem.v, some, self.chunk_size), signs)
        return Pilot(raw_key(of_game), raw_key(of_fit), present, values, v_full, v_empty)

    def advance(
        self, problem: Problem, state: Pilot | AdjustedState, sharding: RowSharding = ONE_DEVICE
    ) -> AdjustedState:
        """After the pilot the fit; then the state with the next `size` pairs in it, but never more than the total."""
        if isinstance(state, Pilot):
            return _fitted(problem.layer, state, self.spend, self.impl)
        index = state.samples.count + jnp.arange(self.size, dtype=jnp.int32)
        signs = pairs.draw(jax.random.wrap_key_data(state.key, impl=self.impl), index, state.present)

        def both(some):
            found = pairs.differences(problem.v, some, self.chunk_size)
            return jnp.stack([found, found - state.fit(some)], 1)

        valid = index < self.spend.total
        found, left = sharding(both, signs).T
        samples = pairs.contributions(signs, left) + state.surrogate[None]
        return state._replace(
            samples=moments.add(state.samples, samples, valid),
            evaluations=state.evaluations + valid.sum(dtype=jnp.int32) * 2,
            reach=jnp.maximum(state.reach, jnp.abs(jnp.where(valid, found, 0)).max()),
        )

    def done(self, state: Pilot | AdjustedState) -> jax.Array | bool:
        return False if isinstance(state, Pilot) else finished(state, self.spend.total, self.tolerance)

    def share(self, state: Pilot | AdjustedState) -> float:
        if isinstance(state, Pilot):
            return 0.9 * state.differences.shape[0] / self.spend.total
        return float(state.samples.count) / self.spend.total

    def check(self, data: Any, state: Pilot | AdjustedState, resumed: bool) -> None:
        check_values(state.v_full, state.v_empty, state.differences if isinstance(state, Pilot) else state.samples.mean)
        if resumed:
            begun = jax.random.split(jax.random.wrap_key_data(jnp.asarray(data.key), impl=self.impl))[0]
            check_resumable(data.players, state.present.shape[0], state.key, raw_key(begun))


def adjusted_shapley(
    v: GameFn,
    key: jax.Array,
    *,
    num_players: int,
    num_permutations: int,
    layer: GameLayer | None = None,
    present: jax.Array | None = None,
    chunk_size: int = 4096,
    tolerance: float | None = None,
) -> Estimate:
    """Shapley values by random coalitions of the game less a fitted surrogate. Pure; works under `jax.jit`.

    Unbiased: a coalition's surrogate is fitted on other coalitions, and its own Shapley values are added.
    The values sum to `v_full - v_empty` to rounding. Below 24 pairs of coalitions, and below 4 K without a layer,
    it is `permutation_shapley`.

    Args:
      v: the game, `masks (n, K) -> (n,)`.
      key: a `jax.random` key. The answer does not depend on `chunk_size`.
      num_players: K, at least 2.
      num_permutations: the cost allowed, in orderings of K - 1 evaluations (a gradient counts three).
      layer: the layer through which the game reads its coalitions, if there is one: the surrogate is made of its
        units, and explains more.
      present: `(K,)` bool, False for players that are known to contribute nothing, which get 0. What the layer does
        not read is known without.
      chunk_size: the most coalitions in one call of `v`.
      tolerance: as in `permutation_shapley`, R the largest difference between a coalition and its complement.

    Returns:
      An `Estimate`; the standard error takes the fitted surrogates as given. The surrogate's own arithmetic is
      not among the `evaluations`: with a layer per evaluation some K H multiply-adds, and those of a regression on
      `3 K + min(H, 1024)` features at the first 64 orderings' cost; without one those of some hundred regressions on
      `3 K` features (`2 K` above 256 players).

    Raises:
      JaxcamError: as in `permutation_shapley`.

    References:
      Witter, Liu and Musco, Regression-adjusted Monte Carlo estimators for Shapley values, NeurIPS 2025.
      Fumagalli, Witter and Musco, PolySHAP, ICLR 2026 (why a coalition with its complement).
      Liu et al., First-order efficiency for probabilistic value estimation, 2026 (the law of the sizes).
    """
    players = check_count("num_players", num_players, 2)
    check_count("num_permutations", num_permutations)
    check_count("chunk_size", chunk_size)
    check_tolerance(tolerance)
    if num_permutations % 2:
        raise JaxcamError(f"coalitions come in pairs: num_permutations must be even, not {num_permutations}")
    spend = budget(players, num_permutations, layer)
    if spend is None:
        return permutation_shapley(
            v, key, num_players=players, num_permutations=num_permutations, chunk_size=chunk_size, tolerance=tolerance
        )
    size = max(1, min(spend.total - spend.pilot, chunk_size // 2))
    present = jnp.ones(players, bool) if present is None else present
    steps = Adjusted(spend, size, chunk_size, key_impl(key), tolerance)
    return checked(estimate_within(run(steps, Problem(v, raw_key(key), present, layer)), tolerance))
