"""Games, players and options that are none: refused in a line, or NaN where only a trace could know."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcam
from jaxcam import shapley
from jaxcam.errors import JaxcamError

KEY = jax.random.key(0)
K = 4
ESTIMATORS = {
    "exact": lambda v: shapley.exact_shapley(v, num_players=K),
    "permutation": lambda v: shapley.permutation_shapley(v, KEY, num_players=K, num_permutations=40),
    "adjusted": lambda v: shapley.adjusted_shapley(v, KEY, num_players=K, num_permutations=100),
    "kernel": lambda v: shapley.kernel_shapley(v, KEY, num_players=K, num_samples=40),
    "lime": lambda v: shapley.lime_lasso(v, KEY, num_players=K, num_samples=40, weight=lambda m: jnp.ones(len(m))),
    "interactions": lambda v: shapley.shapley_interactions(v, KEY, num_players=K, players=jnp.arange(3), num_samples=8),
    "additive": lambda v: shapley.additive_shapley(v, num_players=K),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_vote_is_a_game(name):
    def vote(masks):
        return masks @ jnp.asarray([3.0, 2.0, 1.0, 1.0]) > 3

    run = ESTIMATORS[name]
    np.testing.assert_array_equal(run(vote).values, run(lambda m: vote(m).astype(jnp.float32)).values)
    np.testing.assert_array_equal(run(lambda m: vote(m).astype(jnp.int32)).values, run(vote).values)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"additive"}))
@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf], ids=str)
def test_a_game_that_is_not_finite_for_some_coalitions_is_refused(name, wrong):
    def v(masks):
        return jnp.where(masks.sum(1) == 2, wrong, masks.sum(1))

    with pytest.raises(jaxcam.JaxcamError, match="not finite"):
        ESTIMATORS[name](v)
    assert not jnp.isfinite(jax.jit(lambda: ESTIMATORS[name](v).values)()).all()


def test_a_complex_game_is_refused():
    with pytest.raises(jaxcam.JaxcamError, match="real values"):
        ESTIMATORS["exact"](lambda m: m.sum(1) + 1j)


@pytest.mark.parametrize("players", [[0, 0], [0, 4], [-1, 0]], ids=str)
def test_players_that_are_none_have_no_interactions(players):
    def run(players):
        return shapley.shapley_interactions(
            lambda m: jnp.prod(1 + m, 1), KEY, num_players=K, players=players, num_samples=2
        )

    with pytest.raises(jaxcam.JaxcamError, match="numbers from 0 to 3, each once"):
        run(jnp.asarray(players))
    assert jnp.isnan(jax.jit(run)(jnp.asarray(players)).values[0, 1])


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf"), "0.1"], ids=str)
def test_a_tolerance_that_is_none_is_refused(tolerance):
    for run in (shapley.permutation_shapley, shapley.adjusted_shapley):
        with pytest.raises(jaxcam.JaxcamError, match="positive number"):
            run(lambda m: m.sum(1), KEY, num_players=K, num_permutations=200, tolerance=tolerance)
    a = jnp.ones((2, 2, 3))
    with pytest.raises(jaxcam.JaxcamError, match="positive number"):
        jaxcam.shap_cam(None, a, KEY, head=lambda p, a: a.mean((0, 1)), target=0, tolerance=tolerance)


def test_coalitions_drawn_again_are_no_evidence():
    """Of three players a few pairs are often one and the same: the fit has no residual, and is no nearer for it."""

    def v(masks):
        return jnp.tanh(masks @ jnp.arange(1.0, 4)) + jnp.prod(masks, 1)

    exact = shapley.exact_shapley(v, num_players=3).values
    run = jax.jit(jax.vmap(lambda k: shapley.kernel_shapley(v, k, num_players=3, num_samples=6)))
    found = run(jax.random.split(KEY, 200))
    sure = found.standard_error < 1e-5
    assert not sure[jnp.abs(found.values - exact) > 1e-4].any()
    two = shapley.kernel_shapley(lambda m: v(jnp.pad(m, ((0, 0), (0, 1)))), KEY, num_players=2, num_samples=6)
    assert jnp.isfinite(two.standard_error).all()


def test_a_lasso_of_what_is_none():
    x = jax.random.bernoulli(KEY, 0.5, (20, 3)).astype(jnp.float32)
    y, w = x.sum(1), jnp.ones(20)
    for arguments, beta in (((x, y[:3], w), 0.1), ((x, y[:, None], w), 0.1), ((x[:0], y[:0], w[:0]), 0.1)):
        with pytest.raises(jaxcam.JaxcamError, match="takes x"):
            shapley.weighted_lasso(*arguments, beta=beta)
    with pytest.raises(jaxcam.JaxcamError, match="negative"):
        shapley.weighted_lasso(x, y, -w, beta=0.1)
    for beta in (-1.0, float("nan"), float("inf")):
        with pytest.raises(jaxcam.JaxcamError, match="at least 0"):
            shapley.weighted_lasso(x, y, w, beta=beta)
    assert jnp.isnan(shapley.weighted_lasso(x, y.at[0].set(jnp.nan), w, beta=0.1).coefficients).all()


@pytest.mark.parametrize("scale, dtype", [(1e-25, "float32"), (1e25, "float32"), (400.0, "float16")])
def test_lime_weighs_coalitions_alike_whatever_the_unit_of_the_activations(scale, dtype):
    a = jax.random.uniform(jax.random.key(1), (3, 3, 5)).astype(jnp.float16).astype(jnp.float32)

    def alpha(a, unit):
        def head(p, a):
            z = a.astype(jnp.float32).mean((0, 1)) / unit
            return jnp.stack([jnp.tanh(z @ jnp.arange(1.0, 6)), z[0] * z[1]])

        return jaxcam.lime_cam(None, a, KEY, head=head, target=0, num_samples=40, beta=1e-4).coefficients

    got = alpha((a * scale).astype(dtype), scale)
    np.testing.assert_allclose(got, alpha(a, 1.0), atol=2e-3)
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(jaxcam.JaxcamError, match="gamma"):
            jaxcam.lime_cam(None, a, KEY, head=lambda p, a: a.mean((0, 1)), target=0, gamma=gamma)


# --- games that are not JAX's ---------------------------------------------------------------------------------------

_HOST = np.random.default_rng(5).normal(size=(8, 6))


def _on_the_host(masks):
    return np.maximum(masks @ _HOST, 0).sum(1)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda v: shapley.permutation_shapley(v, KEY, num_players=8, num_permutations=20),
        lambda v: shapley.adjusted_shapley(v, KEY, num_players=8, num_permutations=20),
        lambda v: shapley.kernel_shapley(v, KEY, num_players=8, num_samples=300, chunk_size=100),
        lambda v: shapley.exact_shapley(v, num_players=8),
        lambda v: shapley.shapley_interactions(v, KEY, num_players=8, players=jnp.arange(3), num_samples=20),
    ],
)
def test_a_game_in_numpy(estimate):
    """As itself it is told what to do where it is compiled; as `numpy_game` it has the values of the same in JAX."""
    exact = shapley.exact_shapley(lambda m: jax.nn.relu(m @ jnp.asarray(_HOST, jnp.float32)).sum(1), num_players=8)
    game = shapley.numpy_game(_on_the_host)
    for found in (estimate(game), jax.jit(lambda: estimate(game))()):
        if found.values.ndim == 1:
            np.testing.assert_allclose(found.values.sum(), exact.values.sum(), rtol=1e-4)
            np.testing.assert_allclose(found.values, exact.values, atol=0.6)
    with pytest.raises(JaxcamError, match=r"shapley\.numpy_game\(v\)"):
        jax.jit(lambda: estimate(_on_the_host))()


def test_a_game_in_numpy_over_keys_and_with_mistakes():
    game = shapley.numpy_game(_on_the_host)
    run = lambda key: shapley.permutation_shapley(game, key, num_players=8, num_permutations=10).values  # noqa: E731
    keys = jax.random.split(KEY, 3)
    np.testing.assert_allclose(jax.vmap(run)(keys), [run(k) for k in keys], rtol=1e-5)
    with pytest.raises(JaxcamError, match=r"masks \(2, 8\) it gave \(2, 6\)"):
        shapley.leave_one_out(shapley.numpy_game(lambda m: m @ _HOST), num_players=8)
    with pytest.raises(JaxcamError, match="real values, not complex"):
        shapley.leave_one_out(shapley.numpy_game(lambda m: m.sum(1) * 1j), num_players=8)
    with pytest.raises(JaxcamError, match="TracerBoolConversionError"):
        shapley.permutation_shapley(
            lambda m: jnp.array([1.0 if r.sum() > 3 else 0.0 for r in m]), KEY, num_players=8, num_permutations=10
        )
