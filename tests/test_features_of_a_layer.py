"""FEM and deep feature factorisation against slow NumPy versions and scikit-learn, and at 0/0."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from masked_network import A32, CONSTANT, DEAD, A, close

import jaxcam
from jaxcam.errors import JaxcamError

KEY = jax.random.key(2)


def test_fem_is_the_slow_one():
    """Fuad et al. 2020: binary maps of what lies above the threshold, weighted by the channels' means."""
    h, w, channels = A.shape
    want = np.zeros(A.shape)
    for k in range(channels):
        threshold = A[..., k].mean() + 1.5 * A[..., k].std()
        for i, j in np.ndindex(h, w):
            if k != CONSTANT and A[i, j, k] > threshold:
                want[i, j, k] = A[..., k].mean()
    got = jax.jit(lambda a: jaxcam.fem_cam(None, a, head=lambda _, a: jnp.sum(a, (0, 1)), target=0, sigmas=1.5))(A32)
    close(got.map, want.sum(-1))
    close(got.coefficients, want.sum((0, 1)))
    assert got.coefficients[CONSTANT] == got.coefficients[DEAD] == 0 and (want != 0).any((0, 1)).sum() > 2


@functools.cache
def factors(concepts, steps=100):
    return jax.jit(lambda a, key: jaxcam.deep_feature_factorisation(a, key, num_concepts=concepts, steps=steps))


def slow_factors(x, w, h, steps):
    """Cichocki & Phan 2009: of all other concepts' rest, the best row that is nowhere below 0; then the columns."""
    for _ in range(steps):
        for r in range(len(h)):
            rest = x - w @ h + np.outer(w[:, r], h[r])
            h[r] = np.maximum(w[:, r] @ rest / (w[:, r] @ w[:, r]), 0)
        for r in range(len(h)):
            rest = x - w @ h + np.outer(w[:, r], h[r])
            w[:, r] = np.maximum(rest @ h[r] / (h[r] @ h[r]), 0)
    length = np.linalg.norm(h, axis=1)
    order = np.argsort(-np.linalg.norm(w * length, axis=0))
    return (w * length)[:, order], (h / length[:, None])[order]


def test_factorisation_is_the_slow_one_and_as_good_as_a_peers():
    x = A.reshape(-1, A.shape[-1])
    size = np.sqrt(x.mean() / 3)
    starts = [
        size * np.asarray(jax.random.uniform(k, s), np.float64)
        for k, s in zip(jax.random.split(KEY), ((len(x), 3), (3, x.shape[1])), strict=True)
    ]
    w, h = slow_factors(x, *starts, 4)
    got = factors(3, 4)(A32, KEY)
    close(got.maps, w.reshape(*A.shape[:2], 3), 1e-4)
    close(got.concepts, h, 1e-4)
    np.testing.assert_allclose(got.error, np.linalg.norm(x - w @ h) / np.linalg.norm(x), rtol=1e-4)
    peer = pytest.importorskip("sklearn.decomposition").NMF(3, init="nndsvda", max_iter=2000, tol=1e-7).fit(x)
    best = min(float(factors(3)(A32, jax.random.key(i)).error) for i in range(3))
    assert best < 1.01 * peer.reconstruction_err_ / np.linalg.norm(x)


def test_the_parts_of_a_sum_are_found_in_two_pictures_at_once():
    rng = np.random.default_rng(0)
    concepts = np.eye(3, 8) + 0.3 * np.eye(3, 8, 3)
    maps = rng.uniform(size=(2, 4, 5, 3)) * (rng.uniform(size=(2, 4, 5, 3)) < 0.5)
    got = factors(3, 300)(jnp.asarray(maps @ concepts, jnp.float32), KEY)
    assert got.maps.shape == maps.shape and got.error < 1e-3
    alike = np.asarray(got.concepts) @ (concepts / np.linalg.norm(concepts, axis=1, keepdims=True)).T
    assert (alike.max(1) > 0.999).all() and len(set(alike.argmax(1))) == 3


def test_factorisation_of_nothing_and_of_what_is_none():
    nothing = factors(3)(0 * A32, KEY)
    assert not nothing.maps.any() and not nothing.concepts.any() and nothing.error == 0
    assert factors(3)(-A32, KEY).error == 0  # what is below 0 counts as 0
    with pytest.raises(JaxcamError, match="activations must be"):
        jaxcam.deep_feature_factorisation(A32[0], KEY)
    with pytest.raises(JaxcamError, match="num_concepts must be"):
        jaxcam.deep_feature_factorisation(A32, KEY, num_concepts=0)


@pytest.mark.parametrize(("unit", "dtype"), [(1e25, "float32"), (1e-25, "float32"), (200, "float16")])
def test_what_is_unusual_does_not_depend_on_the_unit(unit, dtype):
    """Squares overflowed: of halves from 256 on, and nothing was unusual."""
    a = jnp.asarray(np.random.default_rng(3).integers(0, 4, (6, 6, 5)) ** 3, jnp.float32)

    def run(a):
        return jaxcam.fem_cam(None, a, head=lambda p, a: jnp.mean(a, (0, 1)), target=0).map

    assert run(a).max() > 0
    np.testing.assert_allclose(np.asarray(run((a * unit).astype(dtype)), np.float64) / unit, run(a), rtol=3e-3)
