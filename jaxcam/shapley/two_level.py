"""Shapley values where the game has a gradient: many cheap gradients, and few exact marginals to correct them.

In an ordering cut into blocks, the marginal contribution of a player in block q is nearly
`h = a_q g(players before the block) + b_q g(players up to its end)`, g the gradient in that player.
The Shapley value is `E[h] + E[marginal - h]`. The first needs gradients only, and one gradient serves
all players at once; the second has little variance. Both are sampled independently, so the sum is
unbiased for any weights a, b; a pilot run that is then thrown away chooses them, and the two sample counts.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley import moments
from jaxcam.shapley.permutations import ordering_marginals, ordering_ranks, permutation_shapley, reached
from jaxcam.shapley.result import Estimate, Game, Gradient, check_count, ends, float_dtype, in_chunks

#: Below this, a pilot would cost more than gradients can save (measured on trained heads).
MIN_PERMUTATIONS = 40
#: A gradient costs a forward and a backward pass, in evaluations.
GRADIENT_COST = 3
#: Gradients of one sample of the lower level, in each direction of its ordering.
_DRAWS = 4
_PILOT_DRAWS = 8


class _Plan(NamedTuple):
    """What the pilot found: weights `(B,)` of the gradients at both ends of a block, centre `(K,)`, sample counts."""

    before: jax.Array
    after: jax.Array
    centre: jax.Array
    cheap: jax.Array
    exact: jax.Array


def block_ends(num_players: int) -> np.ndarray:
    """Sizes at which an ordering is cut: 0, 1, 2, 4, then every eighth player (fewer for few players), K.

    The first players of an ordering bend a ReLU network most, hence the short blocks there.
    """
    step = min(8, max(1, num_players // 16))
    early = [s for s in (1, 2, 4, 8, 16) if s < step]
    return np.unique([0, *early, *range(step, num_players, step), num_players])


def _gradients(gradient: Gradient, ranks: jax.Array, sizes: jax.Array, chunk_size: int) -> jax.Array:
    """`(n, b, K)` gradients at the first `sizes (n, b)` players of the orderings `ranks (n, K)`."""
    count, blocks = sizes.shape

    def at(i):
        masks = ranks[i // blocks] < sizes.reshape(-1)[i][:, None]
        out = gradient(masks.astype(float_dtype()))
        if jnp.shape(out) != masks.shape:
            raise JaxcamError(f"the gradient must map masks {masks.shape} to the same shape, not {jnp.shape(out)}")
        return out

    return in_chunks(at, count * blocks, chunk_size).reshape(count, blocks, ranks.shape[1])


def _around(inner: jax.Array, g_empty: jax.Array, g_full: jax.Array, ranks: jax.Array, cuts: np.ndarray):
    """The gradients `(n, K)` before and after each player's block, given those `(n, B - 1, K)` at inner cuts."""
    count, players = ranks.shape
    edge = [jnp.broadcast_to(g, (count, 1, players)) for g in (g_empty, g_full)]
    g = jnp.concatenate([edge[0], inner, edge[1]], 1)
    block = jnp.asarray(np.searchsorted(cuts, np.arange(players), side="right") - 1)[ranks]
    take = lambda q: jnp.take_along_axis(g, q[:, None], 1)[:, 0]  # noqa: E731
    return block, take(block), take(block + 1)


def _fit(block, before, after, marginals, blocks: int):
    """Least squares of the marginals on both gradients, block by block, drawn a little towards 0."""
    one_hot = jax.nn.one_hot(block, blocks, dtype=marginals.dtype)
    total = lambda a, b: jnp.einsum("nk,nkq->q", a * b, one_hot, precision="highest")  # noqa: E731
    aa, ab, bb = total(before, before), total(before, after), total(after, after)
    ay, by = total(before, marginals), total(after, marginals)
    # The weight of a pseudo-observation: with few players per block, noise would be fitted.
    ridge = 2.0 * (jnp.mean(before**2) + jnp.mean(after**2)) + jnp.finfo(aa.dtype).tiny
    aa, bb = aa + ridge, bb + ridge
    det = aa * bb - ab * ab
    return (bb * ay - ab * by) / det, (aa * by - ab * ay) / det


def _cut_weights(plan: _Plan, cuts: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """`(B + 1,)` weight of each cut's gradient for a player outside and inside the first so many players."""
    share = jnp.asarray(np.diff(cuts) / cuts[-1], plan.before.dtype)
    zero = jnp.zeros(1, share.dtype)
    return jnp.concatenate([share * plan.before, zero]), jnp.concatenate([zero, share * plan.after])


def _cheap_samples(gradient, keys, index, plan, g_empty, g_full, *, cuts, chunk_size):
    """`(u, K)` unbiased samples of E[h], from `_DRAWS` gradients along an ordering and as many along its reverse.

    A gradient at a random set of given size serves the players inside as well as those outside,
    each with the inverse of its chance to be there (Horvitz-Thompson).
    """
    players = cuts[-1]
    of_order, of_cut = jax.random.split(keys)
    outside, inside = _cut_weights(plan, cuts)
    ranks = ordering_ranks(of_order, index, players, True)
    inner = slice(1, -1)
    # Cuts by systematic sampling in proportion to their weight.
    mass = jnp.abs(outside[inner]) + jnp.abs(inside[inner])
    chance = (mass + 1e-3 * mass.mean() + jnp.finfo(mass.dtype).tiny) / (
        mass.sum() * 1.001 + mass.size * jnp.finfo(mass.dtype).tiny
    )
    edges = jnp.cumsum(chance)
    start = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(of_cut, i), dtype=mass.dtype))(index)
    place = (jnp.arange(_DRAWS) + start[:, None]) / _DRAWS
    drawn = jnp.minimum(jnp.searchsorted(edges, place * edges[-1]), mass.size - 1)  # (u, draws)
    sizes = jnp.asarray(cuts[inner])[drawn]
    flat = ranks.reshape(-1, players)
    g = _gradients(gradient, flat, jnp.repeat(sizes, 2, 0), chunk_size)
    g = g.reshape(len(index), 2, _DRAWS, players)
    member = ranks[:, :, None] < sizes[:, None, :, None]
    part = (sizes / players)[:, None, :, None].astype(g.dtype)
    weight = jnp.where(member, inside[inner][drawn][:, None, :, None] / part,
                       outside[inner][drawn][:, None, :, None] / (1 - part))  # fmt: skip
    weight = weight / (_DRAWS * chance[drawn] / edges[-1])[:, None, :, None]
    sampled = (weight * (g - plan.centre)).sum(2).mean(1)
    known = outside[0] * g_empty + inside[-1] * g_full
    return sampled + plan.centre * (outside[inner].sum() + inside[inner].sum()) + known


def _exact_samples(v, gradient, key, index, plan, g_empty, g_full, v_full, v_empty, *, cuts, chunk_size):
    """`(u, K)` samples of marginal - h from antithetic pairs, and the parts they are made of."""
    players = cuts[-1]
    ranks = ordering_ranks(key, index, players, True).reshape(-1, players)
    marginals = ordering_marginals(v, ranks, v_full, v_empty, chunk_size)

    def control():
        sizes = jnp.broadcast_to(jnp.asarray(cuts[1:-1]), (len(ranks), len(cuts) - 2))
        inner = _gradients(gradient, ranks, sizes, chunk_size).astype(marginals.dtype)
        return _around(inner, g_empty, g_full, ranks, cuts)

    def none():
        return jnp.zeros_like(ranks), jnp.zeros_like(marginals), jnp.zeros_like(marginals)

    # Where the pilot found gradients no help there are none to pay for.
    block, before, after = control() if plan is None else jax.lax.cond(plan.cheap > 0, control, none)
    if plan is None:
        return block, before, after, marginals
    rest = marginals - plan.before[block] * before - plan.after[block] * after
    return rest.reshape(len(index), 2, players).mean(1)


def _make_plan(cheap_samples, pilot, cuts: np.ndarray, budget: int, cost_plain: int, cost_exact: int) -> _Plan:
    """Weights from the pilot's pairs; counts that minimise the variance `V0 / n0 + V1 / n1` at the budget."""
    block, before, after, marginals = pilot
    blocks = len(cuts) - 1
    a, b = _fit(block, before, after, marginals, blocks)
    plan = _Plan(a, b, (before + after).mean(0) / 2, jnp.asarray(1), jnp.asarray(1))
    trial = cheap_samples(plan=plan)
    v0 = trial.var(0, ddof=1).sum()
    # Of residuals that the fit has seen: made honest by its two parameters per block.
    rest = marginals - a[block] * before - b[block] * after
    honest = marginals.size / max(marginals.size - 2 * blocks, 1)
    paired = lambda x: x.reshape(-1, 2, cuts[-1]).mean(1)  # noqa: E731
    v_plain, v1 = (paired(x).var(0, ddof=1).sum() for x in (marginals, rest))
    v1 = v1 * honest
    cost_cheap = 2 * _DRAWS * GRADIENT_COST
    two = (jnp.sqrt(v0 * cost_cheap) + jnp.sqrt(v1 * cost_exact)) ** 2
    worth = two < v_plain * cost_plain
    # n0 / n1 = sqrt(V0 C1 / (V1 C0)); at least two of each, for a standard error.
    unit = jnp.sqrt(v1 / cost_exact) / jnp.maximum(jnp.sqrt(two), jnp.finfo(two.dtype).tiny)
    exact = jnp.clip(jnp.floor(budget * unit), 2, max(2, (budget - 2 * cost_cheap) // cost_exact))
    cheap = jnp.maximum(jnp.floor((budget - exact * cost_exact) / cost_cheap), 2)
    off = lambda x: jnp.where(worth, x, 0)  # noqa: E731
    exact = jnp.where(worth, exact, max(2, budget // cost_plain))
    return _Plan(off(a), off(b), plan.centre, off(cheap).astype(jnp.int32), exact.astype(jnp.int32))


def two_level_shapley(
    v: Game,
    gradient: Gradient,
    key: jax.Array,
    *,
    num_players: int,
    num_permutations: int,
    chunk_size: int = 4096,
    tolerance: float | None = None,
) -> Estimate:
    """Shapley values from gradients and exact marginals together, unbiased. Pure; works under `jax.jit`.

    A pilot of about a twentieth of the budget (two antithetic pairs at least) fits how gradients
    foretell marginals, and decides how many of each to take; where they foretell too little, what is
    left is antithetic permutation sampling, as it is below 40 orderings, where a pilot does not pay.
    The values need not sum to `v_full - v_empty` exactly: the gradients only do in expectation.

    Args:
      v: the game, `masks (n, K) -> (n,)`.
      gradient: `masks (n, K) -> (n, K)`, its derivative, at masks of 0 and 1.
      key: a `jax.random` key; as in `permutation_shapley`, the answer does not depend on `chunk_size`.
      num_players: K, at least 4.
      num_permutations: the cost allowed, in orderings of K - 1 evaluations (a gradient counts three); at least 2.
      chunk_size: the most coalitions in one call of `v` or `gradient`.
      tolerance: as in `permutation_shapley`.

    Returns:
      An `Estimate`; `evaluations` counts each gradient three times, the pilot included.

    Raises:
      JaxcamError: as `permutation_shapley`, and for a gradient of the wrong shape.

    References:
      Giles, Multilevel Monte Carlo methods, Acta Numerica 2015.
    """
    players = check_count("num_players", num_players, 4)
    check_count("num_permutations", num_permutations, 2)
    check_count("chunk_size", chunk_size)
    cuts = block_ends(players)
    cost_plain = 2 * (players - 1)
    cost_exact = cost_plain + 2 * GRADIENT_COST * (len(cuts) - 2)
    allowed = num_permutations * (players - 1)
    if num_permutations < MIN_PERMUTATIONS:
        even = num_permutations // 2 * 2
        return permutation_shapley(
            v, key, num_players=players, num_permutations=even, chunk_size=chunk_size, tolerance=tolerance
        )
    pilots = int(np.clip(num_permutations // 20, 2, 16))
    pilot_cost = pilots * cost_exact + _PILOT_DRAWS * 2 * _DRAWS * GRADIENT_COST + 2 * GRADIENT_COST + 2
    budget = max(allowed - pilot_cost, 2 * cost_plain)

    v_full, v_empty = ends(v, players)
    of_pilot, of_cheap, of_exact, of_trial = jax.random.split(key, 4)
    g_empty, g_full = gradient(jnp.stack([jnp.zeros(players), jnp.ones(players)])).astype(v_full.dtype)
    options: dict[str, Any] = {"cuts": cuts, "chunk_size": chunk_size}
    cheap = functools.partial(_cheap_samples, gradient, g_empty=g_empty, g_full=g_full, **options)
    exact: Any = functools.partial(
        _exact_samples, v, gradient, g_empty=g_empty, g_full=g_full, v_full=v_full, v_empty=v_empty, **options
    )
    pilot = exact(of_pilot, jnp.arange(pilots), plan=None)
    trial = functools.partial(cheap, of_trial, jnp.arange(_PILOT_DRAWS))
    plan = _make_plan(trial, pilot, cuts, budget, cost_plain, cost_exact)

    def advance(sample, key, size, total, state):
        index = state.count + jnp.arange(size)
        return moments.add(state, sample(key, index, plan=plan).astype(v_full.dtype), index < total)

    def run(sample, key, size, total, stop):
        start = moments.none(players, v_full.dtype)
        step = functools.partial(advance, sample, key, size, total)
        return jax.lax.while_loop(lambda s: (s.count < total) & ~stop(s), step, start)

    low = run(cheap, of_cheap, max(1, min(64, chunk_size // (2 * _DRAWS))), plan.cheap, lambda s: jnp.asarray(False))
    low_error = jnp.where(low.count > 0, low.standard_error, 0.0)

    def near_enough(s):
        if tolerance is None:
            return jnp.asarray(False)
        return reached(jnp.hypot(s.standard_error, low_error), s.count, v_full - v_empty, tolerance)

    size = max(1, min(chunk_size // cost_plain, budget // cost_plain))
    high = run(exact, of_exact, size, plan.exact, near_enough)
    each = jnp.where(plan.cheap > 0, cost_exact, cost_plain)
    spent = pilot_cost + low.count * 2 * _DRAWS * GRADIENT_COST + high.count * each
    return Estimate(low.mean + high.mean, jnp.hypot(high.standard_error, low_error), spent, v_full, v_empty)
