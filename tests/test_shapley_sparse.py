"""The surrogate of a game without a layer: closed-form values, folds that know nothing of themselves, sets found."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import shapley_games as games

from jaxcam import shapley
from jaxcam.shapley import pairs, sparse

KEY = jax.random.key(3)
PLAYERS, COUNT = 7, 160
_fitted = jax.jit(sparse.cross_fitted)


@jax.jit
def drawn(alive):
    return pairs.draw(KEY, jnp.arange(COUNT), jnp.arange(PLAYERS) < alive)


@functools.partial(jax.jit, static_argnums=0)
def differences(v, signs):
    return v(jnp.asarray(signs > 0, jnp.float32)) - v(jnp.asarray(signs < 0, jnp.float32))


@jax.jit
def values_of(fit, present):
    return fit.shapley_values(present)


@jax.jit
def at(fit, signs):
    return fit(signs)


def test_its_values_are_the_textbook_sum_and_triples_are_found():
    net = games.game(3, PLAYERS)
    for alive, v in ((7, lambda m: m @ jnp.arange(7.0) + jnp.prod(2 * m[:, 1:4] - 1, 1)), (5, lambda m: net(m))):
        present = jnp.arange(PLAYERS) < alive
        signs = drawn(alive)
        fit, left, _ = _fitted(signs, differences(v, signs), present)

        def half(masks, fit=fit, alive=alive):
            signs = np.where(np.arange(PLAYERS) < alive, 2 * masks - 1, 0)
            return np.asarray(at(fit, np.asarray(signs, np.float32)), np.float64) / 2

        want = games.brute_force(half, PLAYERS)
        found = np.asarray(values_of(fit, present))
        np.testing.assert_allclose(found, want, atol=3e-5 * np.abs(want).max())
        assert not found[alive:].any()
        if alive == 7:  # main effects and a triple, which are among the features
            assert np.abs(left).max() < 0.1  # of values to 20
            sets = np.asarray(fit.sets)
            assert (sets == [0, 1, 1, 1, 0, 0, 0]).all(1).any() and set(sets.sum(1)) <= {3, 5, 7}


def test_a_fold_has_no_part_in_what_it_meets():
    present, signs = jnp.ones(PLAYERS, bool), drawn(PLAYERS)
    net = games.game(1, PLAYERS)
    given = differences(lambda m: net(m), signs)
    mine = np.arange(COUNT) % sparse.FOLDS == 2
    more = 3 * np.asarray(signs)[:, [0, 3, 5]].prod(1) + 1
    other = given + np.where(mine, more, 0).astype(np.float32)
    both = jax.tree.map(np.asarray, [_fitted(signs, d, present) for d in (given, other)])
    (_, left, values), (whole, left_after, values_after) = both
    np.testing.assert_array_equal(values[mine], values_after[mine])
    given, other = np.asarray(given), np.asarray(other)
    np.testing.assert_allclose((given - left)[mine], (other - left_after)[mine], atol=1e-5)
    assert (np.abs(values - values_after).max(1)[~mine] > 1e-3).all() and np.isfinite(whole.weights).all()


def test_unbiased_over_400_keys():
    players = 8
    net = games.game(5, players)
    v = lambda m: net(m) + jnp.prod(m[:, :5], 1) - jnp.prod(2 * m[:, 2:5] - 1, 1)  # noqa: E731
    want = jax.jit(lambda: shapley.exact_shapley(v, num_players=players).values)()
    run = functools.partial(shapley.adjusted_shapley, v, num_players=players, num_permutations=40)
    got = jax.jit(lambda keys: jax.lax.map(run, keys))(jax.random.split(KEY, 400))
    values = np.asarray(got.values, np.float64)
    z = (values.mean(0) - want) / (values.std(0, ddof=1) / 20)
    covered = float((np.abs(values - want) <= 1.96 * np.asarray(got.standard_error)).mean())
    print(f"largest z of 400 keys {np.abs(z).max():.2f}, covered {covered:.3f}")
    assert np.abs(z).max() < 3.5 and 0.92 <= covered <= 0.98


def test_sparse_games_cost_a_fraction_of_orderings():
    players, count = 40, 20
    v = lambda m: 2 * jnp.prod(2 * m[:, :3] - 1, 1) + m[:, 3]  # noqa: E731
    want = np.array([4 / 3] * 3 + [1] + [0] * (players - 4))
    errors = []
    for estimator in (shapley.permutation_shapley, shapley.adjusted_shapley):
        run = jax.jit(functools.partial(estimator, v, num_players=players, num_permutations=count))
        errors.append(((np.asarray(run(KEY).values) - want) ** 2).sum())
    assert errors[1] < 0.2 * errors[0]


def test_a_linear_game_is_solved_but_for_rounding():
    """As by antithetic orderings; a quadratic one, too, whose differences are linear."""
    signs, w = drawn(PLAYERS), jnp.arange(1.0, 1.0 + PLAYERS)
    quadratic = lambda m: m @ w + 3 * m[:, 0] * m[:, 1]  # noqa: E731
    fit, left, _ = _fitted(signs, differences(quadratic, signs), jnp.ones(PLAYERS, bool))
    want = np.asarray(w) + [1.5, 1.5, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(values_of(fit, jnp.ones(PLAYERS, bool)), want, rtol=1e-4)
    assert np.abs(left).max() < 1e-2
