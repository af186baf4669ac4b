"""Metrics at the edges of their numbers: NaN is not lost, halves do not overflow, targets and masks that are none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcam
from jaxcam import metrics
from jaxcam.errors import JaxcamError

BOX = jnp.asarray([[100.0, 50.0, 220.0, 300.0]]), jnp.ones(1, bool)
MASK = jnp.zeros((384, 384)).at[50:300, 100:220].set(1)
OF_A_MAP = {
    "gini_sparsity": metrics.gini_sparsity,
    "map_entropy": metrics.map_entropy,
    "map_complexity": metrics.map_complexity,
    "energy_pointing": lambda s: metrics.energy_pointing(s, *BOX),
    "box_iou": lambda s: metrics.box_iou(s, *BOX),
    "mask_energy": lambda s: metrics.mask_energy(s, MASK),
    "max_sensitivity": lambda s: metrics.max_sensitivity(s, s[None, ::-1]),
    "pearson": lambda s: metrics.pearson(s, s[::-1] + s),
    "spearman": lambda s: metrics.spearman(s[:64, :64], s[64:128, :64] + s[:64, :64]),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", OF_A_MAP)
def test_maps_in_half_precision_have_the_measures_of_the_same_numbers_in_single(name, dtype):
    heatmap = jax.random.uniform(jax.random.key(0), (384, 384)).astype(dtype)
    measure = OF_A_MAP[name]
    if name in ("pearson", "spearman"):
        heatmap = heatmap.astype(jnp.float32).round(2).astype(dtype)  # sums of two halves are rounded
    np.testing.assert_allclose(
        np.asarray(measure(heatmap), np.float64), measure(heatmap.astype(jnp.float32)), rtol=1e-2, atol=5e-3
    )


def test_a_score_that_is_nan_is_not_taken_for_one_that_falls():
    scores = jnp.asarray([0.5, jnp.nan, 0.2])
    cells = jnp.arange(64.0).at[3].set(jnp.nan)
    assert jnp.isnan(metrics.monotonicity(scores))
    assert jnp.isnan(metrics.irof(scores[1:], jnp.arange(2)))
    assert jnp.isnan(metrics.non_sensitivity(jnp.ones((8, 8)), cells, jnp.zeros(2), jnp.asarray(0)))
    assert jnp.isnan(metrics.pearson(jnp.asarray([jnp.inf, 1.0, 2.0]), jnp.arange(3.0)))
    assert metrics.monotonicity(jnp.asarray([0.5, 0.6, 0.2])) == 0.5
    assert metrics.irof(jnp.zeros(3), jnp.arange(3)) == 0


def test_vectors_as_large_as_numbers_go_have_a_direction():
    large = jnp.asarray([3e38, -3e38, 0.0])
    assert metrics.coefficient_cosine(large, large) == pytest.approx(1, abs=1e-6)
    assert metrics.pearson(large, large) == pytest.approx(1, abs=1e-6)
    assert metrics.pearson(jnp.asarray([1e6, 1e6 + 1, 1e6 + 2]), jnp.arange(3.0)) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(jaxcam.scale_map(large[None]), [[1, 0, 0.5]], atol=1e-6)
    np.testing.assert_array_equal(jaxcam.scale_map(jnp.asarray([[jnp.inf, 1.0, 0.0]])), 0)


def predict(params, image):
    return image.mean((0, 1))


@pytest.mark.parametrize("target", [-1, 3, 1.0, "cat", jnp.asarray([0, 1])], ids=str)
def test_a_target_that_is_no_class_is_refused_by_every_measure_that_takes_one(target):
    image, heatmap, key = jnp.ones((16, 16, 3)), jnp.ones((16, 16)), jax.random.key(0)
    for measure in (metrics.infidelity, metrics.sensitivity_n, metrics.road):
        with pytest.raises(jaxcam.JaxcamError, match="class"):
            measure(None, image, heatmap, key, predict=predict, target=target)
    for curve in (metrics.confidence, metrics.insertion_curve, metrics.deletion_curve):
        with pytest.raises(jaxcam.JaxcamError, match="class"):
            curve(None, image, heatmap, predict=predict, target=target)


def test_a_traced_target_of_minus_one_has_no_drops():
    image, heatmap, key = jnp.ones((16, 16, 3)), jnp.ones((16, 16)), jax.random.key(0)
    run = jax.jit(lambda t: metrics.infidelity(None, image, heatmap, key, predict=predict, target=t))
    assert jnp.isnan(run(jnp.asarray(-1)).value) and jnp.isfinite(run(jnp.asarray(2)).value)


def test_masks_of_another_size_or_unit_and_steps_that_are_no_number_are_refused():
    heatmap = jnp.ones((8, 8))
    for measure in (metrics.mask_energy, metrics.mask_iou):
        for mask in (jnp.ones((8, 1)), jnp.ones((4, 4))):
            with pytest.raises(jaxcam.JaxcamError, match="size"):
                measure(heatmap, mask)
        with pytest.raises(jaxcam.JaxcamError, match="mask > 0"):
            measure(heatmap, np.full((8, 8), 255, np.uint8))
        assert measure(heatmap, np.ones((8, 8), bool)) == 1
    with pytest.raises(jaxcam.JaxcamError, match="whole number"):
        metrics.step_counts((8, 8), 2.5)
    with pytest.raises(jaxcam.JaxcamError, match="of one shape"):
        metrics.pearson(jnp.ones(3), jnp.ones(4))


@pytest.mark.parametrize("threshold", [0, -0.1, 1.5, float("nan")])
def test_a_threshold_is_a_share_of_the_greatest_value(threshold):
    heatmap = jnp.ones((4, 4))
    with pytest.raises(JaxcamError, match="above 0 and up to 1"):
        metrics.box_iou(heatmap, *BOX, threshold=threshold)
    with pytest.raises(JaxcamError, match="above 0 and up to 1"):
        metrics.mask_iou(heatmap, jnp.ones((4, 4)), threshold=threshold)
