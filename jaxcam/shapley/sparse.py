"""A surrogate of a game of which no layer is known: main effects and a few odd sets of players, cross-fitted.

With `x = 2 m - 1` the difference of a coalition and its complement has odd parts only. The surrogate is a weighted sum
of `x_k z^2p`, z the mean of x, and of products of x over sets of 3, 5, 7 or 9 players, of which every member's share is
the same. Penalties, sets and weights are all chosen by the data. The pairs are dealt into
folds, and whatever a fold meets was chosen by the others alone.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.shapley import pairs
from jaxcam.shapley.result import matmul
from jaxcam.shapley.surrogate import EVEN, own_shares

#: Folds that pairs are dealt into.
FOLDS = 8
#: Candidates are the triples of so many players of the strongest main effects, and all odd sets of the very strongest.
STRONG, STRONGEST = 16, 9
#: Sets in a surrogate, at most, and pairs for each of them, at least.
MAX_SETS, PAIRS_A_SET = 128, 8
#: Ridge penalties in eighths of a pair for each player, of main effects and of what bends with z: at first, and what
#: is tried in place of each, the latter first; then of sets.
BEGIN = (0.03, 1.0)
MAIN, BENT, OF_SETS = (1e-4, 1.0), (100.0, 10.0, 1.0, 0.1), (10.0, 0.3, 0.01)
#: The squared error on pairs held back must fall to this share before sets are taken.
WORTH_IT = 0.97
#: Players beyond whom the highest power of z costs more than it explains.
MANY = 256
#: Numbers in the table of features, at most: beyond, fewer pairs are fitted to.
MAX_ELEMENTS = 1 << 26


class SparseFit(NamedTuple):
    """A fitted surrogate of differences between coalitions and their complements.

    Attributes:
      sets: `(T, K)` of 0 and 1: the members of each set; an empty one counts nothing.
      weights: `(J + T,)` of the features: main effects, then sets.
    """

    sets: jax.Array
    weights: jax.Array

    def __call__(self, signs: jax.Array) -> jax.Array:
        """`(n,)` at `signs (n, K)`."""
        count = self.weights.shape[0] - self.sets.shape[0]
        x = signs.astype(self.weights.dtype)
        return matmul(_main(x), self.weights[:count]) + matmul(_products(x, self.sets), self.weights[count:])

    def shapley_values(self, present: jax.Array) -> jax.Array:
        """`(K,)` Shapley values of half the surrogate, as it is the difference of a coalition and its complement."""
        players = present.shape[0]
        powers = len(_even(players))
        main, of_sets = jnp.split(self.weights, [powers * players])
        main = jnp.where(present[None], main.reshape(powers, players), 0)
        count = present.sum()
        own = jnp.asarray(own_shares(players)[:, :powers], main.dtype)[count][:, None]
        others = (1 - own) / jnp.maximum(count - 1, 1).astype(own.dtype)
        found = (own * main + others * (main.sum(1, keepdims=True) - main)).sum(0)
        members = jnp.maximum(self.sets.sum(1), 1)
        return jnp.where(present, found + matmul(of_sets / members, self.sets), 0)


def most_pairs(num_players: int) -> int:
    """Pairs that a surrogate is fitted to, at most."""
    return MAX_ELEMENTS // _width(num_players)


def megaflops(num_players: int, pilot: int, total: int) -> float:
    """The arithmetic of a surrogate fitted to `pilot` pairs and asked at `total`."""
    wide, sets = _width(num_players), _number_of_sets(num_players, pilot)
    trials = len(BENT) + len(MAIN) + 2
    fits = trials * wide**3 + pilot * (wide * (wide + 2 * sets) + 2 * STRONG * len(_candidates(num_players)))
    return 1e-6 * ((FOLDS + 1) * fits + 2 * total * (wide + num_players * sets))


def cross_fitted(
    signs: jax.Array, differences: jax.Array, present: jax.Array
) -> tuple[SparseFit, jax.Array, jax.Array]:
    """The surrogate fitted to all pairs, and what those fitted without a pair's fold make of the pair.

    Args:
      signs: `(n, K)`.
      differences: `(n,)`, v of the coalitions less v of their complements.
      present: `(K,)` bool.

    Returns:
      The surrogate; `(n,)` what is left of each difference by the surrogate of the other folds; and `(n, K)` the
      Shapley values of that one.
    """
    count, players = signs.shape
    dtype = differences.dtype
    rows = -(-count // FOLDS)
    at = np.arange(FOLDS)[:, None] + FOLDS * np.arange(rows)[None]
    real = jnp.asarray(at < count)
    at = np.minimum(at, count - 1)
    root = jnp.where(real, jnp.sqrt(pairs.weights(signs)).astype(dtype)[at], 0)
    x = signs.astype(dtype)[at]
    data = _Data(x, _main(x) * root[..., None], differences[at] * root, root, present, count)
    features, y = data.features, data.y
    gram = jnp.einsum("fni,fnj->fij", features, features, precision="highest")
    sums = _Sums(gram, jnp.einsum("fni,fn->fi", features, y, precision="highest"), (y**2).sum(1))
    fits = jax.lax.map(functools.partial(_fit, data, sums), jnp.arange(FOLDS + 1))
    whole = SparseFit(*jax.tree.map(lambda a: a[-1], fits))
    by_fold = SparseFit(*jax.tree.map(lambda a: a[:-1], fits))
    fold = np.arange(count) % FOLDS
    predicted = jax.lax.map(lambda given: SparseFit(*given[0])(given[1]), (tuple(by_fold), x))
    left = differences - predicted[fold, np.arange(count) // FOLDS]
    values = jax.lax.map(lambda fit: SparseFit(*fit).shapley_values(present), tuple(by_fold))
    return whole, left, values[fold]


class _Data(NamedTuple):
    """The pairs by fold: signs `(F, R, K)`, weighted features `(F, R, J)`, weighted differences and roots `(F, R)`."""

    signs: jax.Array
    features: jax.Array
    y: jax.Array
    root: jax.Array
    present: jax.Array
    count: Any


class _Sums(NamedTuple):
    """Sums over the pairs of a fold, or of several: `X'X (J, J)`, `X'y (J,)`, `y'y ()`."""

    gram: jax.Array
    moment: jax.Array
    square: jax.Array


def _fit(data: _Data, sums: _Sums, fold: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sets and weights fitted to all folds but one; to all where `fold` is FOLDS."""
    players, dtype = data.present.shape[0], data.y.dtype
    # Sets are chosen without one more fold, on which they must show their worth.
    held = (fold + 1) % FOLDS
    folds = jnp.arange(FOLDS)
    outer, inner = folds != fold, (folds != fold) & (folds != held)
    some = jax.tree.map(lambda a: jnp.tensordot(outer.astype(dtype), a, 1), sums)
    aside = jax.tree.map(lambda a: a[held], sums)
    pairs_there = data.count * (FOLDS - (fold < FOLDS).astype(dtype)) / FOLDS
    penalty = _chosen_penalty(jax.lax.stop_gradient(some), pairs_there, data.present)
    number = _number_of_sets(players, data.count)
    factor = jnp.linalg.cholesky(some.gram + jnp.diag(penalty))
    if not number:
        return jnp.zeros((0, players), dtype), _solve(factor, some.moment)
    less = jax.tree.map(lambda a, b: a - b, some, aside)
    less_factor = jnp.linalg.cholesky(less.gram + jnp.diag(penalty))
    main = _solve(less_factor, less.moment)
    rest = (data.y - jnp.einsum("fnj,j->fn", data.features, main, precision="highest")) * inner[:, None].astype(dtype)
    sets = _screened(data, main, rest, number)
    # With the sets among the features: sums of products by fold, of which the training ones are added up.
    products = _products(data.signs, sets) * data.root[..., None]

    def with_sets(chosen):
        weight = chosen.astype(dtype)
        z = products * weight[:, None, None]
        return (
            jnp.einsum("fnj,fnt->jt", data.features, z, precision="highest"),
            jnp.einsum("fns,fnt->st", products, z, precision="highest"),
            jnp.einsum("fnt,fn->t", z, data.y, precision="highest"),
        )

    of_held, of_inner = with_sets(folds == held), with_sets(inner)
    # Where no fold is left out, the one held back is among those fitted to in the end, as otherwise.
    of_outer = jax.tree.map(jnp.add, of_held, of_inner)
    base = jnp.asarray(players / 8, dtype)

    def error(strength):
        weights = _jointly(less_factor, less.moment, of_inner, strength * base)
        first, second = jnp.split(weights, [main.shape[0]])
        cross, own, moment = of_held
        of_main = first @ (matmul(aside.gram, first) + 2 * matmul(cross, second) - 2 * aside.moment)
        return aside.square + of_main + second @ (matmul(own, second) - 2 * moment)

    strengths = jnp.asarray(OF_SETS, dtype)
    errors = jax.lax.stop_gradient(jax.lax.map(error, strengths))
    without = jax.lax.stop_gradient(aside.square - 2 * main @ aside.moment + main @ matmul(aside.gram, main))
    best = jnp.argmin(errors)
    better = errors[best] < WORTH_IT * without
    weights = _jointly(factor, some.moment, of_outer, strengths[best] * base)
    alone = jnp.concatenate([_solve(factor, some.moment), jnp.zeros(number, dtype)])
    return jnp.where(better, sets, 0), jnp.where(better, weights, alone)


def _chosen_penalty(sums: _Sums, count: jax.Array, present: jax.Array) -> jax.Array:
    """`(J,)` ridge penalties with the least error by generalised cross-validation, one kind after the other."""
    dtype = sums.gram.dtype
    players = present.shape[0]
    powers = len(_even(players))
    alive = jnp.maximum(present.sum(), 1).astype(dtype)
    energy = (jnp.diagonal(sums.gram) / count).reshape(powers, players).sum(1) / alive
    unit = jnp.maximum(energy, 1e-4) * alive / 8

    def penalty(main, bent):
        each = unit * jnp.stack([main, *(bent for _ in range(powers - 1))])
        return jnp.repeat(each, players, total_repeat_length=_width(players))

    def error(strengths):
        each = penalty(*strengths)
        factor = jnp.linalg.cholesky(sums.gram + jnp.diag(each))
        inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(each.shape[0], dtype=dtype), lower=True)
        weights = matmul(inverse.T, matmul(inverse, sums.moment))
        free = each.shape[0] - ((inverse**2).sum(0) * each).sum()
        left = sums.square - 2 * weights @ sums.moment + weights @ matmul(sums.gram, weights)
        found = left / jnp.maximum(1 - free / count, 0.05) ** 2
        # What is below rounding is not told apart: the least penalty, then.
        found = jnp.where(left < 1e-6 * sums.square, 1e-6 * sums.square * strengths[0], found)
        return jnp.where(jnp.isfinite(found), found, jnp.inf)

    def step(best, trial):
        lowest, strengths = best
        tried = jnp.where(trial > 0, trial, strengths)
        found = error(tried)
        return (jnp.minimum(found, lowest), jnp.where(found < lowest, tried, strengths)), None

    begin = (jnp.asarray(jnp.inf, dtype), jnp.asarray(BEGIN, dtype))
    trials = jnp.asarray([*((0.0, b) for b in BENT), *((a, 0.0) for a in MAIN)], dtype)
    return penalty(*jax.lax.scan(step, begin, trials)[0][1])


def _screened(data: _Data, main: jax.Array, rest: jax.Array, number: int) -> jax.Array:
    """`(T, K)` the candidates that say most about what main effects leave, `rest (F, R)`."""
    players, dtype = data.present.shape[0], rest.dtype
    candidates = _candidates(players)
    even = np.asarray(_even(players))
    main = main[: len(even) * players].reshape(-1, players)
    strength = (main**2 / jnp.asarray(2 * even + 1, dtype)[:, None]).sum(0)
    strong = jax.lax.top_k(jnp.where(data.present, jax.lax.stop_gradient(strength), -1), candidates.shape[1])[1]
    here = data.present[strong]
    products = _products(data.signs[..., strong], jnp.asarray(candidates, dtype))
    said = jnp.abs(jnp.einsum("fnc,fn->c", products, jax.lax.stop_gradient(rest) * data.root, precision="highest"))
    valid = ~(jnp.asarray(candidates > 0) & ~here[None]).any(1)
    chosen = jax.lax.top_k(jnp.where(valid, said, -1), number)[1]
    sets = jnp.asarray(candidates, dtype)[chosen] * valid[chosen][:, None].astype(dtype)
    return jnp.zeros((number, players), dtype).at[:, strong].set(sets)


@functools.lru_cache(maxsize=32)
def _candidates(players: int) -> np.ndarray:
    """`(C, min(STRONG, K))` of 0 and 1: odd sets among the strongest, in order of strength."""
    among = min(STRONG, players)
    sets: list[tuple[int, ...]] = list(itertools.combinations(range(among), 3))
    for size in range(5, STRONGEST + 1, 2):
        sets += itertools.combinations(range(min(STRONGEST, among)), size)
    table = np.zeros((len(sets), among))
    for row, members in zip(table, sets, strict=True):
        row[list(members)] = 1
    return table


def _number_of_sets(players: int, count: int) -> int:
    return min(max(4, count // PAIRS_A_SET), MAX_SETS, len(_candidates(players)))


def _width(players: int) -> int:
    return len(_even(players)) * players


def _even(players: int) -> tuple[int, ...]:
    return EVEN if players <= MANY else EVEN[:2]


def _main(signs: jax.Array) -> jax.Array:
    """`(..., n, J)` features without sets, at `signs (..., n, K)`."""
    mean = signs.sum(-1, keepdims=True) / jnp.maximum(jnp.abs(signs).sum(-1, keepdims=True), 1)
    even = _even(signs.shape[-1])
    return jnp.concatenate([signs * mean**p for p in even], -1)


def _products(signs: jax.Array, sets: jax.Array) -> jax.Array:
    """`(..., n, T)` products of the signs over the members of `sets (T, K)`; 0 for an empty set."""
    outside = matmul((signs < 0).astype(sets.dtype), sets.T)
    odd = outside - 2 * jnp.floor(outside / 2)
    return (1 - 2 * odd) * sets.any(1).astype(sets.dtype)


def _jointly(factor: jax.Array, moment: jax.Array, of_sets: tuple, penalty: jax.Array) -> jax.Array:
    """`(J + T,)` ridge weights of main effects, whose Gram matrix has this Cholesky `factor`, and of sets."""
    cross, own, own_moment = of_sets
    lower = functools.partial(jax.scipy.linalg.solve_triangular, factor, lower=True)
    a, b = lower(cross), lower(moment)
    schur = own - matmul(a.T, a) + penalty * jnp.eye(own.shape[0], dtype=own.dtype)
    second = _solve(jnp.linalg.cholesky(schur), own_moment - matmul(a.T, b))
    first = jax.scipy.linalg.solve_triangular(factor, b - matmul(a, second), lower=True, trans=1)
    return jnp.concatenate([first, second])


def _solve(factor: jax.Array, right: jax.Array) -> jax.Array:
    return jax.scipy.linalg.cho_solve((factor, True), right)
