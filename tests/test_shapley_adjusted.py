"""The adjusted estimator: its law, its surrogates' values in closed form, leave-one-out, unbiasedness, null players."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapley_games as games

from jaxcam import shapley
from jaxcam.errors import JaxcamError
from jaxcam.shapley import adjusted, pairs, surrogate

KEY = jax.random.key(5)


def layer_of(v) -> shapley.GameLayer:
    """The first layer of a game made by `shapley_games.game`."""
    (p,) = v.args

    def rest(phi):
        return jax.nn.relu(phi @ p["w"] + p["c"]) @ p["u"]

    def gradient(masks):
        return jax.grad(lambda phi: rest(phi).sum())(jax.nn.relu(masks @ p["v"] + p["b"]))

    return shapley.GameLayer(p["b"], p["v"], jax.nn.relu, gradient)


@functools.partial(jax.jit, static_argnames=("players", "count", "layered", "chunk_size", "tolerance"))
def estimate(v, key, players, count, layered, present=None, chunk_size=256, tolerance=None):
    return shapley.adjusted_shapley(
        v, key, num_players=players, num_permutations=count, layer=layer_of(v) if layered else None,
        present=present, chunk_size=chunk_size, tolerance=tolerance,
    )  # fmt: skip


#: As many pairs as the law of their sizes needs; and few of them: one program each for all tests of so many players.
draw, units_of = jax.jit(pairs.draw), jax.jit(lambda v, present: surrogate.fit_units(layer_of(v), KEY, present, 4))
MANY = jnp.arange(40_000)


@pytest.mark.parametrize("players, alive", [(2, 2), (9, 9), (9, 4), (9, 3), (40, 40)])
def test_sizes_follow_the_stated_law_and_sides_are_not_empty(players, alive):
    present = jnp.arange(players) < alive
    signs = np.asarray(draw(KEY, MANY, present))
    assert not signs[:, alive:].any() and (np.abs(signs[:, :alive]) == 1).all()
    size = (signs > 0).sum(1)
    assert size.min() >= 1 and size.max() <= alive - 1
    law = pairs.size_laws(players)[alive]
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(law, law[: alive + 1][::-1].tolist() + [0] * (players - alive), atol=1e-12)
    np.testing.assert_allclose(np.bincount(size, minlength=players + 1) / 40_000, law, atol=0.01)
    np.testing.assert_allclose(signs[:, :alive].mean(0), 0, atol=0.02)
    few = draw(KEY, jnp.asarray([7, 3]), present)
    np.testing.assert_array_equal(few, signs[[7, 3]])  # a pair depends on the key and on its number alone


def test_a_drawn_pair_is_unbiased_for_all_players_at_once():
    """Summed over all coalitions with their chances: the textbook's values."""
    players, v = 6, functools.partial(games.net, games.weights(2, 6))
    signs = 2.0 * np.array(list(itertools.product([0, 1], repeat=players)))[1:-1] - 1
    size = (signs > 0).sum(1)
    chance = pairs.size_laws(players)[players][size] / np.array([len(signs[size == s]) for s in size])
    with jax.enable_x64(True):
        each = np.asarray(jax.jit(pairs.contributions)(signs, v(signs / 2 + 0.5) - v(0.5 - signs / 2)))
    np.testing.assert_allclose(each.sum(1), 0, atol=1e-12)
    full, empty = v(np.stack([np.ones(players), np.zeros(players)]))
    np.testing.assert_allclose(chance @ each + (full - empty) / players, games.truth(2, 6), rtol=1e-9)


#: One function object each, compiled once.
values_of, features_of = jax.jit(surrogate.shapley_values), jax.jit(surrogate.features)


@pytest.mark.parametrize("alive", [9, 5, 1])
def test_the_surrogates_values_are_the_textbook_sum(alive):
    players, v = 9, games.game(3, 9, 24)
    present = np.arange(players) < alive
    p = v.args[0] | {"v": v.args[0]["v"] * present[:, None]}
    units = units_of(jax.tree_util.Partial(games.net, p), jnp.asarray(present))
    width = len(surrogate.EVEN) * players + len(surrogate.ODD) + 24
    weights = np.random.default_rng(0).normal(size=(2, width)).astype(np.float32)
    got = values_of(units, weights, present)

    def half(masks, w):
        signs = np.where(np.arange(players) < alive, 2 * masks - 1, 0)
        x, known = features_of(units, np.asarray(signs, np.float32))
        return (np.asarray(x, np.float64) @ w + np.asarray(known)) / 2

    for row, w in zip(got, weights, strict=True):
        want = games.brute_force(functools.partial(half, w=w), players)
        np.testing.assert_allclose(row, want, atol=3e-5 * np.abs(want).max())


def test_leaving_one_out_is_fitting_without_it():
    players, count = 9, 60
    v = games.game(1, players, 24)
    present = jnp.ones(players, bool)
    units, signs = units_of(v, present), draw(KEY, MANY, present)[:count]

    @jax.jit
    def of(v, units, signs):
        values = pairs.differences(v, signs, 1000)
        penalty = surrogate.penalties(units, jax.random.key(9), present)
        left_out = adjusted._leave_one_out(units, signs, values, penalty)
        return left_out, surrogate.features(units, signs), pairs.weights(signs), values, penalty

    (whole, mean, rest), *found = of(v, units, signs)
    (x, known), w, values, penalty = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
    y = values - known
    energy = (w[:, None] * x**2).mean(0)[:players]  # of the signs themselves: about 1 each, an eighth for each player
    np.testing.assert_allclose(penalty[:players], energy.mean() * players / 8, rtol=0.3)
    fits, left = [], []
    for i in [None, *range(count)]:
        some = np.arange(count) != i
        gram = (x[some] * w[some, None]).T @ x[some] + np.diag(penalty)
        fits.append(np.linalg.solve(gram, x[some].T @ (w * y)[some]))
        left.append(0 if i is None else y[i] - x[i] @ fits[-1])
    np.testing.assert_allclose(whole, fits[0], atol=2e-4 * np.abs(fits[0]).max())
    np.testing.assert_allclose(mean, np.mean(fits[1:], 0), atol=2e-4 * np.abs(fits[0]).max())
    np.testing.assert_allclose(rest, left[1:], atol=1e-3 * np.abs(left).max())


@pytest.mark.parametrize("layered", [True, False])
def test_unbiased_and_its_errors_cover(layered):
    z, players = [], 9
    each_key = jax.vmap(estimate, in_axes=(None, 0, None, None, None))
    for seed in range(32):
        got = each_key(games.game(seed, players, 24), jax.random.split(jax.random.key(seed), 10), players, 60, layered)
        z.append((np.asarray(got.values) - games.truth(seed, players, 24)) / np.asarray(got.standard_error))
        np.testing.assert_allclose(got.values.sum(1), got.v_full - got.v_empty, rtol=1e-4, atol=1e-5)
        assert ((got.evaluations >= 60 * 8 + 2) & (got.evaluations <= 60 * 8 + 3)).all()
    z = np.concatenate([a.ravel() for a in z])
    coverage = np.mean(np.abs(z) < 1.96)
    print(f"coverage of the nominal 95 % interval, layer {layered}: {coverage:.3f} of {z.size}")
    assert 0.92 <= coverage <= 0.98 and np.abs(z).max() < 6
    assert abs(z.mean()) < 3 * 2 / np.sqrt(z.size)


def test_after_the_pilot_too():
    """Many more pairs than the surrogate is fitted to, few of them in a step."""
    players = 5
    z = []
    for seed in range(24):
        got = estimate(games.game(seed, players, 24), jax.random.key(seed), players, 400, True)
        z.append((np.asarray(got.values) - games.truth(seed, players, 24)) / np.asarray(got.standard_error))
    z = np.concatenate(z)
    assert 0.90 <= np.mean(np.abs(z) < 1.96) <= 0.99 and abs(z.mean()) < 3 * 2 / np.sqrt(z.size)


def test_much_better_than_orderings_at_equal_cost():
    players, count, v = 64, 30, games.game(0, 64, 48)
    sample = jax.jit(functools.partial(shapley.permutation_shapley, num_players=players, num_permutations=count))
    want = np.mean([sample(v, key).values for key in jax.random.split(jax.random.key(99), 200)], 0)
    error = {name: [] for name in ("antithetic", "alone", "layer")}
    for key in jax.random.split(KEY, 4):
        for name, got in (
            ("antithetic", sample(v, key)),
            ("alone", estimate(v, key, players, count, False)),
            ("layer", estimate(v, key, players, count, True)),
        ):
            error[name].append(float(((got.values - want) ** 2).sum()))
    mean = {name: np.mean(e) for name, e in error.items()}
    print(mean)
    assert mean["alone"] < 0.75 * mean["antithetic"] and mean["layer"] < 0.5 * mean["antithetic"]


@pytest.mark.parametrize("layered", [True, False])
def test_null_players_get_nothing(layered):
    players, count = (5, 400) if layered else (6, 200)
    p = games.weights(3, players, 24)
    p["v"][2] = 0
    v = jax.tree_util.Partial(games.net, jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), p))
    got = estimate(v, KEY, players, count, layered, None if layered else jnp.arange(players) != 2)
    want = games.brute_force(functools.partial(games.net, p), players)
    assert got.values[2] == 0 and got.standard_error[2] == 0
    assert (np.abs(got.values - want) <= 4 * got.standard_error + 1e-6).all()


def test_additive_games_and_one_player_or_none_that_counts():
    for w in ([1.5, -2.0, 0.0, 4.0, 0.25, 1.0], [3.0, 0, 0, 0, 0, 0], [0.0] * 6):
        # `m @ w + 10` as a net of the test above: its units hand the players on, and 10 keeps the last one above 0.
        p = {"v": np.eye(6, 24), "b": np.zeros(24), "w": np.zeros((24, 24)), "c": 10 * np.eye(1, 24)[0]}
        p["w"][:6, 0] = w
        v = jax.tree_util.Partial(
            games.net, {k: jnp.asarray(a, jnp.float32) for k, a in {**p, "u": p["c"] / 10}.items()}
        )
        got = estimate(v, KEY, 6, 200, False, jnp.asarray(w) != 0)
        assert (np.abs(got.values - np.asarray(w)) <= 4 * got.standard_error + 1e-5).all()
        assert not got.values[np.asarray(w) == 0].any()


def test_chunks_do_not_change_the_answer_and_a_tolerance_stops_early():
    v = games.game(1, 5, 24)
    for a, b in zip(estimate(v, KEY, 5, 400, True, None, 37), estimate(v, KEY, 5, 400, True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    got = estimate(v, KEY, 5, 20_000, True, None, 256, 0.02)
    assert got.standard_error.max() <= 0.02 * abs(got.v_full - got.v_empty)
    assert int(got.evaluations) < 20_000 * 4


def test_too_little_for_a_surrogate_and_bad_input():
    v = games.game(0, 9)
    few, want = (
        jax.jit(functools.partial(estimator, num_players=9, num_permutations=4))(v, KEY)
        for estimator in (shapley.adjusted_shapley, shapley.permutation_shapley)
    )
    np.testing.assert_array_equal(few.values, want.values)
    with pytest.raises(JaxcamError, match="num_permutations must be even, not 3"):
        shapley.adjusted_shapley(v, KEY, num_players=9, num_permutations=3)
    with pytest.raises(JaxcamError, match="num_players must be a whole number of at least 2, not 1"):
        shapley.adjusted_shapley(v, KEY, num_players=1, num_permutations=4)
