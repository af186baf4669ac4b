"""ROAD, ADCC, ARCC, pixel flipping, infidelity and sensitivity-n: against float64 and SciPy, by hand, and at 0/0."""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import oracle_faithfulness as oracle
import oracle_metrics
import pytest

from jaxcam import metrics
from jaxcam.errors import JaxcamError
from jaxcam.metrics import fidelity
from jaxcam.metrics.composite import ARCC_PERCENTILES

SIZE = (16, 12)
TARGET = 1
STORED = pathlib.Path(__file__).parent / "reference" / "torch_measures.npz"
KEY = jax.random.key(3)


def predict(params, image):
    """Three classes, not linear, of coarse cells."""
    cells = image.reshape(4, 4, 4, 3, 3).mean((1, 3)).ravel()
    return jnp.tanh(cells @ params["in"]) @ params["out"]


@functools.cache
def example(seed: int = 0):
    rng = np.random.default_rng(seed)
    params = {"in": rng.normal(size=(48, 10)), "out": 2 * rng.normal(size=(10, 3))}
    image, heatmap = rng.normal(size=(*SIZE, 3)), rng.uniform(size=SIZE)
    heatmap = (heatmap - heatmap.min()) / np.ptp(heatmap)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, image, heatmap))


def scores(params, images, target=TARGET):
    """Of the class, in float64."""
    logits = np.asarray(jax.jit(jax.vmap(predict, (None, 0)))(params, jnp.asarray(np.stack(images), jnp.float32)))
    return np.asarray([oracle_metrics.probability(z, target, "softmax") for z in logits]), logits[:, target]


impute = jax.jit(metrics.noisy_linear_imputation, static_argnames=("noise", "steps"))


@pytest.mark.parametrize("share", (0.1, 0.5, 0.9))
@pytest.mark.parametrize("kind", ("blob", "scattered"))
def test_imputation_is_the_solution_of_the_sparse_system(kind, share):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(24, 31, 2)).astype(np.float32)
    order = rng.uniform(size=(24, 31))
    if kind == "blob":
        order = np.hypot(*np.meshgrid(np.arange(24) - 8, np.arange(31) - 20, indexing="ij"))
    removed = order <= np.quantile(order, share)
    found = np.asarray(impute(jnp.asarray(image), jnp.asarray(removed), KEY, noise=0.0))
    wanted = oracle.imputed(image, removed)
    np.testing.assert_array_equal(found[~removed], image[~removed])
    # A few steps leave less than a twentieth of the noise of 0.01 that is added; more steps, nothing.
    assert np.sqrt(np.mean((found - wanted)[removed] ** 2)) < 5e-4
    exact = np.asarray(impute(jnp.asarray(image), jnp.asarray(removed), KEY, noise=0.0, steps=20))
    np.testing.assert_allclose(exact, wanted, atol=2e-5)


def test_imputation_of_nothing_of_everything_and_its_noise():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(24, 31, 2)), jnp.float32)
    none, everything = jnp.zeros((24, 31), bool), jnp.ones((24, 31), bool)
    np.testing.assert_array_equal(impute(image, none, KEY, noise=0.01), image)
    np.testing.assert_array_equal(impute(image, everything, KEY, noise=0.0), 0)  # 0/0
    np.testing.assert_allclose(impute(0 * image + 2.5, everything.at[3, 4].set(False), KEY, noise=0.0), 2.5, rtol=1e-5)
    noise = np.asarray(impute(image, everything, KEY, noise=0.01))
    assert noise.std() == pytest.approx(0.01, rel=0.05) and abs(noise.mean()) < 1e-3


road = jax.jit(metrics.road, static_argnames=("predict", "score", "percentiles", "noise", "steps"))


def test_road_removes_by_the_order_of_the_map():
    params, image, heatmap = example()
    found = road(params, image, heatmap, KEY, predict=predict, target=TARGET, percentiles=(25, 50), noise=0.0, steps=20)
    order = np.argsort(-np.asarray(heatmap).ravel(), kind="stable")
    n, removed = order.size, np.zeros((4, order.size), bool)
    for i, share in enumerate((0.25, 0.5)):
        removed[i, order[: round(share * n)]] = True
        removed[2 + i, order[n - round(share * n) :]] = True
    images = [oracle.imputed(np.asarray(image), r.reshape(SIZE)) for r in removed]
    p, _ = scores(params, images)
    assert found.morf == pytest.approx(p[:2].mean(), abs=1e-4) and found.lerf == pytest.approx(p[2:].mean(), abs=1e-4)
    assert found.combined == pytest.approx((p[2:].mean() - p[:2].mean()) / 2, abs=1e-4)
    upside_down = road(params, image, -heatmap, KEY, predict=predict, target=TARGET, percentiles=(25, 50), noise=0.0,
                       steps=20)  # fmt: skip
    assert float(upside_down.combined) == pytest.approx(-float(found.combined), abs=1e-4)
    for bad in ((), (0,), (50, 100)):
        with pytest.raises(JaxcamError, match="between 0 and 100"):
            metrics.road_points(bad)
    with pytest.raises(JaxcamError, match="its image's size"):
        metrics.road(params, image, heatmap[1:], KEY, predict=predict, target=TARGET)


@functools.cache
def composite():
    return jax.jit(lambda heatmap, again, original, odds, points: {
        "adcc": metrics.adcc(heatmap, again, original, odds), "coherency": metrics.coherency(heatmap, again),
        "arcc": metrics.arcc(heatmap, again, points),
    })  # fmt: skip


def logit(p):
    return jnp.log(jnp.float32(p) / (1 - jnp.float32(p)))


@pytest.mark.parametrize("seed", range(3))
def test_adcc_and_arcc(seed):
    rng = np.random.default_rng(seed)
    heatmap, again = rng.uniform(size=(2, *SIZE)).astype(np.float32)
    again = (again + seed * heatmap) / (1 + seed)
    before, after = rng.uniform(0.2, 0.9, 2)
    points = np.sort(rng.uniform(size=18)).astype(np.float32)
    found = composite()(heatmap, again[None], logit(before), logit(after)[None], points)
    wanted = oracle.adcc(heatmap, again, before, after)
    np.testing.assert_allclose(found["adcc"], wanted, rtol=1e-4, atol=1e-6)
    assert found["coherency"] == found["adcc"].coherency
    # Of ROAD's nine percentages the second, fourth, sixth and eighth.
    assert tuple(metrics.road_points()[i] for i in (1, 3, 5, 7)) == ARCC_PERCENTILES
    twice = min(1.0, max(0.0, points[[10, 12, 14, 16]].mean() - points[[1, 3, 5, 7]].mean()))
    parts = twice, wanted[1], 1 - wanted[2]
    assert found["arcc"] == pytest.approx(3 / sum(1 / p for p in parts), rel=1e-4)
    worse = composite()(heatmap, again[None], logit(before), logit(after)[None], points[::-1])
    assert worse["arcc"] == 0


def test_adcc_where_a_part_is_nothing():
    ones, zeros, sure = np.ones(SIZE, np.float32), np.zeros(SIZE, np.float32), logit(0.5)
    one = zeros.copy()
    one[3, 3] = 1
    points = np.zeros(18, np.float32)
    everything = composite()(ones, ones[None], sure, sure[None], points)
    assert everything["adcc"].adcc == 0 and everything["coherency"] == 0.5  # a constant map has no correlation
    nothing = composite()(zeros, zeros[None], sure, logit(0.1)[None], points)
    np.testing.assert_allclose(nothing["adcc"], (3 / (2 + 1 + 1 / 0.2), 0.5, 0, 0.8), rtol=1e-5)
    perfect = composite()(one, one[None], sure, sure[None], points)
    assert perfect["adcc"].adcc == pytest.approx(3 / (2 + 1 / (1 - 1 / one.size)), rel=1e-5)
    assert composite()(one, 1 - one[None], sure, sure[None], points)["adcc"].adcc == pytest.approx(0, abs=1e-5)
    assert metrics.harmonic_mean(jnp.float32(0.5), jnp.float32(1)) == pytest.approx(2 / 3)


def test_pixel_flipping_is_what_deletion_leaves():
    params, image, heatmap = example()
    curve = jax.jit(metrics.deletion_curve, static_argnames=("predict", "steps"))(
        params, image, heatmap, predict=predict, target=TARGET, steps=6
    )
    wanted, _ = oracle_metrics.curve(
        lambda x: predict(params, jnp.asarray(x, jnp.float32)), np.asarray(heatmap), np.asarray(image),
        np.zeros((*SIZE, 3)), TARGET, "softmax", 6,
    )  # fmt: skip
    assert metrics.aopc(curve.scores) == pytest.approx(np.mean(wanted[0] - wanted), abs=1e-5)


infidelity = jax.jit(metrics.infidelity, static_argnames=("predict", "num_parts"))
sensitivity = jax.jit(metrics.sensitivity_n, static_argnames=("predict", "num_parts"))


def parts(part, count):
    """The removed pixels of each draw."""
    draw = jax.jit(jax.vmap(lambda i: part(jax.random.fold_in(KEY, i), SIZE)))
    return np.asarray(draw(jnp.arange(count, dtype=jnp.uint32)))


def test_infidelity_and_sensitivity_n():
    params, image, heatmap = example()
    squares, cells = parts(fidelity.random_square, 9), parts(fidelity.random_cells, 9)
    assert squares.sum((1, 2)).tolist() == [9] * 9 and len({tuple(np.argwhere(s)[0]) for s in squares}) > 4
    assert np.all(np.ptp([np.argwhere(s) for s in squares], axis=1) == 2)
    assert cells.mean() == pytest.approx(0.25, abs=0.05) and (cells.any(0)).mean() > 0.8
    for removed, found in ((squares, infidelity), (cells, sensitivity)):
        _, logits = scores(params, [np.where(r[..., None], 0.5, image) for r in removed] + [np.asarray(image)])
        said, lost = [(np.asarray(heatmap) * r).sum(dtype=np.float64) for r in removed], logits[-1] - logits[:-1]
        value = found(params, image, heatmap, KEY, predict=predict, target=TARGET, baseline=0.5, num_parts=9)
        if found is infidelity:
            np.testing.assert_allclose(value, oracle.infidelity(said, lost), rtol=1e-3)
            larger = found(params, image, 7 * heatmap, KEY, predict=predict, target=TARGET, baseline=0.5, num_parts=9)
            np.testing.assert_allclose(larger, value, rtol=1e-3)
            nothing = found(params, image, 0 * heatmap, KEY, predict=predict, target=TARGET, baseline=0.5, num_parts=9)
            np.testing.assert_allclose(nothing, [np.mean(lost**2), 1], rtol=1e-4)  # 0/0: no scale helps
            flat = found(jax.tree.map(jnp.zeros_like, params), image, heatmap, KEY, predict=predict, target=TARGET,
                         baseline=0.5, num_parts=9)  # fmt: skip
            assert tuple(flat) == (0, 0)
        else:
            assert value == pytest.approx(oracle.correlation(said, lost), abs=1e-4)
            nothing = found(params, image, 0 * heatmap, KEY, predict=predict, target=TARGET, baseline=0.5, num_parts=9)
            assert nothing == 0
    with pytest.raises(JaxcamError, match="at least 2"):
        metrics.infidelity(params, image, heatmap, KEY, predict=predict, target=TARGET, num_parts=1)


def test_a_map_that_is_the_contribution_is_faithful():
    """Of a network that sums what the map weighs, sensitivity-n is 1 and infidelity 0."""
    rng = np.random.default_rng(5)
    weights = jnp.asarray(rng.uniform(size=SIZE), jnp.float32)

    def summing(params, image):
        total = jnp.sum(params * image[..., 0])
        return jnp.stack([total, -total])

    image = jnp.ones((*SIZE, 3))
    kind = {"predict": summing, "target": 0, "num_parts": 9}
    assert sensitivity(weights, image, weights, KEY, **kind) == pytest.approx(1, abs=1e-4)
    assert infidelity(weights, image, weights, KEY, **kind).share == pytest.approx(0, abs=1e-5)


def test_the_same_as_pytorch_grad_cam_and_captum():
    """Values that tests/reference/make_torch_measures.py stored, where the definitions agree."""
    stored = np.load(STORED)
    for image, removed, wanted in zip(stored["images"], stored["removed"], stored["imputed"], strict=True):
        found = impute(jnp.asarray(image), jnp.asarray(removed), KEY, noise=0.0, steps=20)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(
        [metrics.coherency(*pair) for pair in zip(stored["maps"], stored["again"][:, None], strict=True)],
        stored["coherency"], atol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose([metrics.map_complexity(m) for m in stored["maps"]], stored["complexity"], rtol=1e-5)
    np.testing.assert_allclose(
        [metrics.max_sensitivity(m, a[None]) for m, a in zip(stored["maps"], stored["again"], strict=True)],
        stored["sensitivity"], rtol=1e-5,
    )  # fmt: skip
    for said, lost, wanted in zip(stored["said"], stored["lost"], stored["infidelity"], strict=True):
        scale = (said @ lost) / (said @ said)
        assert np.mean((scale * said - lost) ** 2) == pytest.approx(wanted, rel=1e-4)
        assert oracle.infidelity(said, lost)[0] == pytest.approx(wanted, rel=1e-4)
