"""Form and localisation: against float64, by hand, against other libraries' values, and at 0/0."""

from __future__ import annotations

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import oracle_form as oracle
import oracle_metrics
import pytest

from jaxcam import metrics

SIZE = (6, 8)
STORED = pathlib.Path(__file__).parent / "reference" / "quantus_form.npz"


@functools.cache
def measured(tolerance: float = 0.0):
    """Every function of one map, in one program."""

    @jax.jit
    def run(heatmap, boxes, valid, mask):
        return {
            "gini": metrics.gini_sparsity(heatmap),
            "entropy": metrics.map_entropy(heatmap),
            "complexity": metrics.map_complexity(heatmap),
            "weighting": metrics.mask_energy(heatmap, mask),
            "mask_iou": metrics.mask_iou(heatmap, mask),
            "iou": metrics.box_iou(heatmap, boxes, valid),
            "low": metrics.box_iou(heatmap, boxes, valid, threshold=0.2),
            "hit": metrics.pointing_hit(heatmap, boxes, valid, tolerance=tolerance),
            "pointing": metrics.energy_pointing(heatmap, boxes, valid),
        }

    return run


def of(heatmap, boxes=((1, 1, 5, 4),), mask=None, valid=True):
    boxes = jnp.asarray(boxes, jnp.float32)
    mask = jnp.zeros(SIZE) if mask is None else jnp.asarray(mask, jnp.float32)
    found = measured()(jnp.asarray(heatmap, jnp.float32), boxes, jnp.full(len(boxes), valid), mask)
    return {k: float(v) for k, v in found.items()}


@pytest.mark.parametrize("seed", range(4))
def test_against_float64(seed):
    rng = np.random.default_rng(seed)
    heatmap = np.maximum(rng.normal(size=SIZE), 0).astype(np.float32)
    heatmap[tuple(rng.integers(SIZE, size=2))] = heatmap.max()
    corner = rng.integers(0, 12, (1, 2)) / 4
    boxes = np.concatenate([corner, corner + rng.integers(4, 16, (1, 2)) / 4], 1)
    inside, mask = oracle_metrics.coverage(boxes, SIZE, 4), (rng.uniform(size=SIZE) > 0.6).astype(np.float32)
    found = of(heatmap, boxes, mask)
    wanted = {
        "gini": oracle.gini(heatmap), "entropy": oracle.entropy(heatmap), "complexity": heatmap.astype(float).mean(),
        "weighting": oracle.energy(heatmap, mask), "mask_iou": oracle.iou(heatmap, mask, 0.5),
        "iou": oracle.iou(heatmap, inside, 0.5), "low": oracle.iou(heatmap, inside, 0.2),
        "hit": oracle.hit(heatmap, inside), "pointing": oracle.energy(heatmap, inside),
    }  # fmt: skip
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert of(7 * heatmap, boxes, mask) == pytest.approx(wanted | {"complexity": 7 * wanted["complexity"]}, rel=1e-5)


def test_of_the_simplest_maps():
    boxes, mask = [(2, 1, 5, 3)], np.zeros(SIZE)
    mask[1:3, 2:5] = 1
    uniform, zero = of(np.ones(SIZE), boxes, mask), of(np.zeros(SIZE), boxes, mask)
    area, n = 6 / 48, 48
    assert uniform == pytest.approx(
        {"gini": 0, "entropy": math.log(n), "complexity": 1, "hit": area}
        | dict.fromkeys(("weighting", "mask_iou", "iou", "low", "pointing"), area), rel=1e-5, abs=1e-6
    )  # fmt: skip
    assert zero == pytest.approx(dict.fromkeys(zero, 0) | {"entropy": math.log(n)})  # 0/0
    perfect = of(mask, boxes, mask)
    assert perfect == pytest.approx(
        dict.fromkeys(perfect, 1) | {"gini": 1 - area, "entropy": math.log(6), "complexity": area}, rel=1e-5, abs=1e-6
    )
    one = np.zeros(SIZE)
    one[1, 5] = 0.3
    assert of(one, boxes, mask) == pytest.approx(
        dict.fromkeys(perfect, 0) | {"gini": 1 - 1 / n, "complexity": 0.3 / n}, abs=1e-6
    )
    assert measured(1.0)(one, jnp.asarray(boxes, jnp.float32), jnp.ones(1, bool), mask)["hit"] == 1
    assert of(one, [(2, 1, 5.25, 3)], mask)["hit"] == 0.25  # a pixel that the box cuts


def test_where_nothing_is_marked_and_where_the_map_is_none():
    nothing = of(np.ones(SIZE), valid=False)
    assert {k for k, v in nothing.items() if math.isnan(v)} == {
        "weighting", "mask_iou", "iou", "low", "hit", "pointing",
    }  # fmt: skip
    broken = np.ones(SIZE)
    broken[0, 0] = np.nan
    assert all(math.isnan(v) for v in of(broken, mask=np.ones(SIZE)).values())


def test_a_batch_is_its_maps():
    rng = np.random.default_rng(0)
    maps, boxes = rng.uniform(size=(3, *SIZE)), np.tile([[[1.0, 1, 4, 4]]], (3, 1, 1))
    args = [jnp.asarray(x, jnp.float32) for x in (maps, boxes)]
    marks = jnp.asarray(maps > 0.5, jnp.float32)
    together = jax.jit(jax.vmap(measured()))(*args, jnp.ones((3, 1), bool), marks)
    for i in range(3):
        alone = of(maps[i], boxes[i], marks[i])
        assert {k: float(v[i]) for k, v in together.items()} == pytest.approx(alone, rel=1e-5)


def test_the_same_as_quantus():
    """Of maps without zeros and with boxes of whole pixels, where the definitions agree."""
    stored = np.load(STORED)
    for i, heatmap in enumerate(stored["maps"]):
        found = of(heatmap, stored["boxes"][i : i + 1], stored["masks"][i])
        for name in ("gini", "entropy", "weighting", "pointing", "hit"):
            assert found[name] == pytest.approx(float(stored[name][i]), rel=1e-4, abs=1e-6), name
