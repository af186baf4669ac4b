"""KernelSHAP and the weighted Lasso against float64 solvers on the same samples."""

from __future__ import annotations

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapley_games as games

from jaxcam import shapley
from jaxcam.errors import JaxcamError

KEY = jax.random.key(3)


def constrained_oracle(masks, values, v_full, v_empty):
    """The KKT system of the constrained least squares, in float64."""
    n, players = masks.shape
    system = np.zeros((players + 1, players + 1))
    system[:players, :players] = masks.T @ masks / n
    system[:players, players] = system[players, :players] = 1
    right = np.append(masks.T @ (values - v_empty) / n, v_full - v_empty)
    return np.linalg.solve(system, right)[:players]


coalitions = jax.jit(shapley.sample_coalitions, static_argnames=("num_players", "num_samples", "paired"))
least_squares, lasso = jax.jit(shapley.constrained_least_squares), jax.jit(shapley.weighted_lasso)


@functools.partial(jax.jit, static_argnames=("players", "count", "paired"))
def kernel(v, key, players, count, paired):
    return shapley.kernel_shapley(v, key, num_players=players, num_samples=count, paired=paired, chunk_size=97)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("players, count", [(6, 12), (64, 640)])
def test_kernel_is_the_constrained_least_squares(players, count, paired):
    v = games.game(5, players)
    got = kernel(v, KEY, players, count, paired)
    masks = np.asarray(coalitions(KEY, num_players=players, num_samples=count, paired=paired), np.float64)
    values = np.asarray(jax.jit(v)(masks.astype(np.float32)), np.float64)
    want = constrained_oracle(masks, values, float(got.v_full), float(got.v_empty))
    scale = np.abs(want).max()
    np.testing.assert_allclose(got.values / scale, want / scale, atol=2e-6)
    np.testing.assert_allclose(got.values.sum(), got.v_full - got.v_empty, atol=2e-6 * scale * players)
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) for a in (masks, values, got.v_full, got.v_empty)]
        exact = least_squares(*wide).values
    np.testing.assert_allclose(exact, want, rtol=1e-9, atol=1e-9 * scale)


def test_coalition_sizes_follow_the_kernel():
    masks = np.asarray(coalitions(KEY, num_players=8, num_samples=20_000))
    size = np.arange(1, 8)
    odds = 1 / (size * (8 - size))
    share = np.bincount(masks.sum(1), minlength=9) / 20_000
    np.testing.assert_allclose(share[1:8], odds / odds.sum(), atol=0.012)
    assert share[0] == share[8] == 0
    np.testing.assert_allclose(masks.mean(0), 0.5, atol=0.015)
    pairs = np.asarray(coalitions(KEY, num_players=8, num_samples=50, paired=True))
    np.testing.assert_array_equal(pairs[1::2], ~pairs[::2])
    np.testing.assert_array_equal(pairs[::2], masks[:25])  # sample i depends on the key and on i alone


@pytest.mark.parametrize("paired", [False, True])
def test_kernel_finds_the_shapley_values_within_its_errors(paired):
    z = []
    for seed in range(20):
        players = 8
        got = kernel(games.game(seed, players), jax.random.fold_in(KEY, seed), players, 4000, paired)
        z.append((np.asarray(got.values) - games.truth(seed, players)) / np.asarray(got.standard_error))
    z = np.concatenate(z)
    coverage = np.mean(np.abs(z) < 1.96)
    print(f"KernelSHAP coverage, paired={paired}: {coverage:.3f} of {z.size}")
    assert 0.90 <= coverage <= 0.99 and abs(z.mean()) < 3 * 2 / np.sqrt(z.size)


def test_too_few_coalitions_are_refused():
    with pytest.raises(JaxcamError, match="take at least num_samples=5, and 10 to"):
        shapley.kernel_shapley(games.game(0, 6), KEY, num_players=6, num_samples=4)
    with pytest.raises(JaxcamError, match="even num_samples"):
        shapley.kernel_shapley(games.game(0, 6), KEY, num_players=6, num_samples=31)


def lasso_problem(seed: int, count: int, players: int):
    r = np.random.default_rng(seed)
    x = (r.random((count, players)) < 0.5).astype(np.float64)
    y = games.net(games.weights(seed, players), x)
    return x, y, np.exp(-4 * r.random(count))


def objective(x, y, w, beta, alpha, b):
    return np.mean(w * (y - b - x @ alpha) ** 2) + beta * np.abs(alpha).sum()


def lasso_oracle(x, y, w, beta, sweeps=4000):
    """Coordinate descent on the objective as it is written, intercept and all, in float64."""
    n, players = x.shape
    alpha, b = np.zeros(players), 0.0
    for _ in range(sweeps):
        before = alpha.copy()
        b = np.sum(w * (y - x @ alpha)) / w.sum()
        for k in range(players):
            rest = y - b - x @ alpha + x[:, k] * alpha[k]
            c, q = 2 * np.mean(w * x[:, k] * rest), 2 * np.mean(w * x[:, k] ** 2)
            alpha[k] = np.sign(c) * max(abs(c) - beta, 0) / q if q else 0.0
        if np.abs(alpha - before).max() < 1e-12:
            break
    return alpha, b


LASSOS = [(0, 60, 12, 0.01), (1, 20, 20, 0.05), (2, 300, 30, 0.2), (3, 40, 40, 0.01), (4, 50, 8, 100.0)]


@pytest.mark.parametrize("seed, count, players, beta", LASSOS)
def test_lasso_is_optimal_and_equals_the_oracle(seed, count, players, beta):
    x, y, w = lasso_problem(seed, count, players)
    fit = lasso(*(jnp.asarray(a, jnp.float32) for a in (x, y, w)), beta=beta)
    alpha, b = np.asarray(fit.coefficients, np.float64), float(fit.intercept)
    slope = 2 * (w * (y - b - x @ alpha)) @ x / count
    scale = max(np.abs(y).max(), beta)
    np.testing.assert_allclose(slope[alpha != 0], beta * np.sign(alpha[alpha != 0]), atol=2e-5 * scale)
    assert (np.abs(slope) <= beta + 2e-5 * scale).all()
    want, want_b = lasso_oracle(x, y, w, beta)
    assert objective(x, y, w, beta, alpha, b) <= objective(x, y, w, beta, want, want_b) * (1 + 1e-5) + 1e-7
    if count > players:  # otherwise the solution need not be unique, and is badly determined
        np.testing.assert_allclose(alpha, want, atol=1e-4 * max(1, np.abs(want).max()))
        np.testing.assert_allclose(b, want_b, atol=1e-4 * max(1, abs(want_b)))


def test_lasso_zeroes_everything_under_a_large_penalty_and_skips_constant_columns():
    x, y, w = (jnp.asarray(a, jnp.float32) for a in lasso_problem(1, 30, 5))
    fit = shapley.weighted_lasso(x, y, w, beta=1e4)
    assert not fit.coefficients.any()
    np.testing.assert_allclose(fit.intercept, (w * y).sum() / w.sum(), rtol=1e-5)
    fit = shapley.weighted_lasso(x.at[:, 2].set(1.0), y, w, beta=1e-3)
    assert fit.coefficients[2] == 0 and np.isfinite(fit.coefficients).all()


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed")
@pytest.mark.parametrize("seed, count, players, beta", LASSOS)
def test_lasso_equals_scikit_learn(seed, count, players, beta):
    from sklearn.linear_model import Lasso

    x, y, w = lasso_problem(seed, count, players)
    fit = lasso(*(jnp.asarray(a, jnp.float32) for a in (x, y, w)), beta=beta)
    want = Lasso(alpha=beta / (2 * w.mean()), tol=1e-12, max_iter=100_000).fit(x, y, sample_weight=w)
    np.testing.assert_allclose(fit.coefficients, want.coef_, atol=1e-4 * max(1, np.abs(want.coef_).max()))
    np.testing.assert_allclose(fit.intercept, want.intercept_, atol=1e-4 * max(1, abs(want.intercept_)))


def test_lime_weighs_the_coalitions_it_drew():
    v, players = games.game(2, 6), 6
    near = lambda m: jnp.exp(-4 * (1 - m).mean(1))  # noqa: E731
    options = {"num_players": players, "num_samples": 200, "weight": near, "beta": 0.01, "chunk_size": 64}
    got = jax.jit(lambda key: shapley.lime_lasso(v, key, **options))(KEY)
    masks = np.asarray(jax.random.bernoulli(KEY, 0.5, (200, players)), np.float64)
    values = np.asarray(jax.jit(v)(masks.astype(np.float32)), np.float64)
    want, _ = lasso_oracle(masks, values, np.exp(-4 * (1 - masks).mean(1)), 0.01)
    np.testing.assert_allclose(got.values, want, atol=1e-4)
    assert int(got.evaluations) == 202 and np.isnan(got.standard_error).all()


def _least_norm(masks, values, full, empty):
    """The shortest deviation from the even split that fits best, by NumPy's pseudo-inverse in float64."""
    masks, values = np.asarray(masks, np.float64), np.asarray(values, np.float64)
    n, players = masks.shape
    centred = masks - masks.mean(1, keepdims=True)
    target = values - empty - (full - empty) * masks.mean(1)
    x = np.linalg.lstsq(centred, target, rcond=1e-3)[0]
    return (full - empty) / players + x - x.mean(), np.linalg.matrix_rank(
        centred, tol=1e-3 * np.linalg.norm(centred, 2)
    )


@pytest.mark.parametrize(("players", "count", "paired"), [(48, 48, False), (10, 18, True), (40, 45, False)])
def test_singular_designs_have_the_solution_of_least_norm(players, count, paired):
    """As many coalitions as players: with an unpivoted QR, values reached 1e6 for a game within [-1, 1]."""
    rng = np.random.default_rng(0)
    table, bias, out = rng.normal(size=(players, 64)) / 8, rng.normal(size=64) / 2, rng.normal(size=64) / 8
    v = lambda m: jax.nn.relu(m @ jnp.asarray(table, jnp.float32) + bias) @ jnp.asarray(out, jnp.float32)  # noqa: E731

    @jax.jit
    def run(key):
        found = shapley.kernel_shapley(v, key, num_players=players, num_samples=count, paired=paired)
        masks = shapley.sample_coalitions(key, num_players=players, num_samples=count, paired=paired)
        values = v(masks.astype(jnp.float32))
        return found, masks, values, shapley.constrained_least_squares(masks, values, found.v_full, found.v_empty)

    deficient = 0
    for seed in range(12):
        found, masks, values, fit = run(jax.random.key(seed))
        expected, rank = _least_norm(masks, values, float(found.v_full), float(found.v_empty))
        assert fit.rank == rank
        np.testing.assert_allclose(found.values, expected, atol=2e-3 * np.abs(expected).max())
        np.testing.assert_allclose(found.values.sum(), found.v_full - found.v_empty, atol=1e-5)
        assert jnp.abs(found.values).max() < 5
        deficient += int(rank < players - 1)
        free = count // (2 if paired else 1) - rank
        assert free > 0 or jnp.isinf(found.standard_error).all()
        assert rank == players - 1 or jnp.isinf(found.standard_error).any()
    assert deficient or count > players  # the third design is merely close to one


def test_pairs_that_determine_half_of_the_players_split_the_rest_evenly():
    """As many pairs as span half the players: the shortest solution, which fits all, and no error that pretends."""
    players, rng = 20, np.random.default_rng(0)
    linear = rng.normal(size=players)
    game = lambda masks: masks.astype(jnp.float32) @ jnp.asarray(linear, jnp.float32)  # noqa: E731
    half = functools.partial(shapley.kernel_shapley, game, num_players=players, num_samples=players, paired=True)
    got = jax.jit(half)(KEY)
    masks = np.asarray(coalitions(KEY, num_players=players, num_samples=players, paired=True), float)
    span = linear.sum()
    plane = masks - masks.mean(1, keepdims=True)
    want = span / players + np.linalg.pinv(plane) @ (masks @ linear - span * masks.mean(1))
    np.testing.assert_allclose(got.values, want, atol=2e-5)
    np.testing.assert_allclose(got.values.sum(), span, rtol=1e-5)
    assert np.isinf(got.standard_error).all() and np.abs(want - linear).max() > 0.1
    with pytest.raises(JaxcamError, match="18 coalitions say too little of 20 players; take at least num_samples=19"):
        shapley.kernel_shapley(game, KEY, num_players=players, num_samples=18, paired=True)
