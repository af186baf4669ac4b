"""Energy-based pointing game, cosine, completeness gap: against float64, by hand, and at 0/0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracle_metrics as oracle
import pytest

from jaxcam import metrics
from jaxcam.errors import JaxcamError
from jaxcam.metrics.registry import chosen

SIZE = (6, 8)
coverage = jax.jit(metrics.box_coverage, static_argnums=2)
pointing = jax.jit(metrics.energy_pointing)


@pytest.mark.parametrize("seed", range(4))
def test_union_of_boxes_is_exact(seed):
    rng = np.random.default_rng(seed)
    boxes = rng.integers(-8, 36, (4, 4)) / 4  # edges at quarters, some boxes inverted, some beyond the edge
    boxes[:3, 2:] = boxes[:3, :2] + rng.integers(1, 16, (3, 2)) / 4
    want = oracle.coverage(boxes[:3], SIZE, 4)  # the last is padding
    valid = np.array([True, True, True, False])
    np.testing.assert_allclose(coverage(boxes.astype(np.float32), valid, SIZE), want, atol=1e-6)
    heatmap = rng.uniform(0, 1, SIZE).astype(np.float32)
    share = (heatmap * want).sum() / heatmap.sum()
    np.testing.assert_allclose(pointing(heatmap, boxes.astype(np.float32), valid), share, rtol=1e-5)
    np.testing.assert_allclose(pointing(7 * heatmap, boxes.astype(np.float32), valid), share, rtol=1e-5)


def test_pointing_by_hand():
    heatmap = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    yes, no = jnp.ones(1, bool), jnp.zeros(1, bool)

    def box(*edges):
        return jnp.asarray([edges], jnp.float32)

    assert pointing(heatmap, box(0, 0, 1, 2), yes) == pytest.approx(0.4)
    assert pointing(heatmap, box(0, 0, 1.5, 2), yes) == pytest.approx(0.7)
    assert pointing(heatmap, box(-5, -5, 50, 50), yes) == 1
    assert pointing(heatmap, box(2, 0, 3, 1), yes) == 0  # beside the picture
    assert pointing(heatmap, box(1, 1, 1, 2), yes) == 0  # no area
    # The same box twice is one box, and two that overlap are counted once.
    twice = jnp.concatenate([box(0, 0, 1, 2), box(0, 0, 1, 2), box(0, 1, 2, 2)])
    assert pointing(heatmap, twice, jnp.ones(3, bool)) == pytest.approx(0.8)
    assert pointing(jnp.zeros((2, 2)), box(0, 0, 1, 2), yes) == 0  # 0/0
    assert np.isnan(pointing(heatmap, box(0, 0, 1, 2), no))
    assert np.isnan(pointing(heatmap.at[0, 0].set(jnp.nan), box(0, 0, 1, 2), yes))
    inside = jnp.zeros(SIZE).at[1:3, 2:5].set(0.5)  # a perfect map
    assert pointing(inside, box(2, 1, 5, 3), yes) == pytest.approx(1)
    with pytest.raises(JaxcamError, match="boxes must be"):
        metrics.energy_pointing(heatmap, jnp.zeros(4), yes)


def test_pointing_under_vmap():
    rng = np.random.default_rng(0)
    maps, corner = rng.uniform(0, 1, (5, *SIZE)), rng.uniform(0, 4, (5, 2, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.5, 4, (5, 2, 2))], axis=-1)
    valid = np.array([[True, i % 2 == 0] for i in range(5)])
    together = jax.jit(jax.vmap(metrics.energy_pointing))(*map(jnp.asarray, (maps, boxes, valid)))
    alone = [pointing(*map(jnp.asarray, row)) for row in zip(maps, boxes, valid, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_cosine():
    rng = np.random.default_rng(0)
    cosine = jax.jit(metrics.coefficient_cosine)
    for scale in (1.0, 1e-30, 1e30):  # whose squares are 0 and infinite in 32 bits
        a, b = (rng.normal(size=2048).astype(np.float32) for _ in range(2))
        b = (0.3 * a + b).astype(np.float32)
        assert cosine(a * np.float32(scale), b) == pytest.approx(oracle.cosine(a, b), abs=1e-6)
        assert cosine(a * np.float32(scale), -2 * a) == pytest.approx(-1, abs=1e-6)
    assert cosine(jnp.asarray([1.0, 0.0]), jnp.asarray([1.0, 1.0])) == pytest.approx(np.sqrt(0.5))
    assert cosine(a, 0 * a) == 0 and cosine(0 * a, 0 * a) == 0
    assert np.isnan(cosine(a, a.at[0].set(np.nan) if hasattr(a, "at") else np.where(np.arange(2048) == 0, np.nan, a)))
    with pytest.raises(JaxcamError, match="two vectors"):
        metrics.coefficient_cosine(jnp.zeros(3), jnp.zeros(4))


def test_completeness_gap():
    assert metrics.completeness_gap(jnp.asarray([1.0, 2.0, -0.5]), 3.0, 0.25) == pytest.approx(-0.25)


def test_catalogue_says_what_is_better():
    better = {name: m.better for name, m in metrics.METRICS.items()}
    assert better.items() >= {
        "ic": "higher", "ad": "lower", "add": "higher", "insertion": "higher", "deletion": "lower",
        "pointing": "higher", "hit": "higher", "iou": "higher", "weighting": "higher", "mask_iou": "higher",
        "gini": "higher", "entropy": "lower", "complexity": "lower", "cosine": "higher", "gap": "zero",
    }.items()  # fmt: skip
    for name, m in metrics.METRICS.items():
        assert name == m.name and m.kind in metrics.KINDS, name
        assert (m.unit == "%") == (m.scale == 100 or m.bounds == (0, 100)), name
    assert len({m.short for m in metrics.METRICS.values()}) == len(metrics.METRICS)


def test_a_kind_is_all_its_metrics_that_the_data_allow():
    kind = {name for name, m in metrics.METRICS.items() if m.kind == "localisation"}
    assert set(chosen("Localisation")) == kind > {"pointing", "weighting"}
    assert set(chosen("localisation", masks=False)) == {n for n in kind if not metrics.METRICS[n].needs_masks}
    assert "cosine" not in chosen("agreement") and chosen("EPG") == ("pointing",)
    assert set(chosen("all", boxes=False, masks=False)).isdisjoint({*kind, "cosine"})
    assert all(metrics.METRICS[name].variation is None for name in chosen("all"))
    with pytest.raises(JaxcamError, match="localisation none is defined"):
        chosen("localisation", boxes=False, masks=False)
