"""Pairwise Shapley interactions against the textbook sum over all coalitions in float64."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapley_games as games

from jaxcam import shapley
from jaxcam.errors import JaxcamError

KEY = jax.random.key(11)
PLAYERS = 6


def brute_force(v, players: int) -> np.ndarray:
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=players)))
    value = dict(zip(map(tuple, masks), v(masks), strict=True))
    found = np.zeros((players, players))
    for i, j in itertools.permutations(range(players), 2):
        for mask in value:
            if not mask[i] and not mask[j]:
                s = int(sum(mask))
                with_i, with_j = (tuple(1.0 if k == p else m for k, m in enumerate(mask)) for p in (i, j))
                both = tuple(1.0 if k in (i, j) else m for k, m in enumerate(mask))
                weight = math.factorial(players - s - 2) * math.factorial(s) / math.factorial(players - 1)
                found[i, j] += weight * (value[both] - value[with_i] - value[with_j] + value[mask])
    return found


@functools.partial(jax.jit, static_argnames="chunk_size")
def estimate(v, key, some, chunk_size=4096):
    return shapley.shapley_interactions(
        v, key, num_players=PLAYERS, players=some, num_samples=200, chunk_size=chunk_size
    )


def test_unbiased_with_error_bars_that_hold():
    some, z = jnp.asarray([4, 0, 2]), []
    at = np.ix_(some, some)
    for seed in range(6):
        want = brute_force(functools.partial(games.net, games.weights(seed, PLAYERS)), PLAYERS)[at]
        got = jax.vmap(estimate, in_axes=(None, 0, None))(
            games.game(seed, PLAYERS), jax.random.split(jax.random.fold_in(KEY, seed), 20), some
        )
        pairs = np.triu_indices(3, 1)
        z.append(((np.asarray(got.values) - want) / np.maximum(got.standard_error, 1e-9))[:, pairs[0], pairs[1]])
        np.testing.assert_array_equal(got.values, np.swapaxes(got.values, 1, 2))
        assert (got.evaluations == 200 * (2 + 3 * 4)).all() and not np.diagonal(got.values, 0, 1, 2).any()
    z = np.concatenate(z).ravel()
    covered = np.mean(np.abs(z) < 1.96)
    print(f"covered {covered:.3f} of {z.size}, mean z {z.mean():.2f}")
    assert 0.92 <= covered <= 0.98 and abs(z.mean()) < 3 / np.sqrt(z.size)


def test_exact_on_linear_and_quadratic_games():
    r = np.random.default_rng(0)
    q = jnp.asarray(np.triu(r.normal(size=(PLAYERS, PLAYERS))), jnp.float32)
    some = jnp.asarray([5, 1, 3])
    for table, want in ((jnp.diag(jnp.diag(q)), 0 * q), (q, q + q.T)):
        v = jax.tree_util.Partial(lambda q, m: jnp.einsum("ni,ij,nj->n", m, q, m, precision="highest"), table)
        got = estimate(v, KEY, some, 100)
        want = np.asarray(want)[np.ix_(some, some)]
        np.testing.assert_allclose(got.values, want - np.diag(np.diag(want)), atol=1e-5)
        assert got.standard_error.max() < 1e-6


def test_bad_input_gets_one_clear_error():
    run = functools.partial(shapley.shapley_interactions, lambda m: m.sum(1), KEY, num_players=4)
    with pytest.raises(JaxcamError, match="row of 2 to 4 players"):
        run(players=jnp.asarray([1]), num_samples=4)
    with pytest.raises(JaxcamError, match="num_samples must be a whole number of at least 2, not 1"):
        run(players=jnp.asarray([1, 2]), num_samples=1)
