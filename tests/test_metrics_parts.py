"""Measures by parts, of stability and of sanity: against float64, by hand, and at 0/0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracle_faithfulness
import oracle_parts as oracle
import pytest
from test_metrics_faithfulness import KEY, TARGET, example, scores

from jaxcam import metrics
from jaxcam.metrics import METRICS, parts
from jaxcam.metrics.stability import nearby_image

SIZE = (16, 12)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def probed():
    """Every image of the probes by parts, of one image and map."""
    _, image, heatmap = example()

    @jax.jit
    def run(image, heatmap):
        known = {"image": image, "heatmap": heatmap, "baseline": jnp.full_like(image, 0.5), "key": KEY}
        found = {}
        for name in ("non_sensitivity", "selectivity", "irof", "relative_output"):
            probes = METRICS[name].perturbation
            one = lambda point, p=probes: p.image(point, **{k: known[k] for k in p.needs})  # noqa: E731
            found[name] = jax.vmap(one)(jnp.asarray(probes.points(SIZE, 0)))
        return found | {"superpixels": metrics.superpixels(image)}

    return jax.tree.map(np.asarray, run(image, heatmap))


@pytest.fixture(scope="module")
def alone():
    return jax.jit(lambda *args: (metrics.monotonicity_correlation(*args), metrics.faithfulness_estimate(*args),
                                  metrics.non_sensitivity(*args)))  # fmt: skip


def test_each_cell_alone(probed, alone):
    params, image, heatmap = (np.asarray(x) if not isinstance(x, dict) else x for x in example())
    cells = oracle.cells(SIZE)
    np.testing.assert_array_equal(probed["non_sensitivity"], [np.where(c[..., None], 0.5, image) for c in cells])
    _, logits = scores(params, [*probed["non_sensitivity"], image])
    heatmap = np.where(heatmap > 0.6, heatmap, 0).astype(np.float32)  # some cells say nothing
    said, lost = np.asarray([heatmap[c].sum(dtype=np.float64) for c in cells]), logits[-1] - logits[:-1]
    lost[:20] = 0  # and some do nothing
    found = alone(jnp.asarray(heatmap), jnp.asarray(logits[-1] - lost), jnp.full(3, logits[-1]), jnp.asarray(TARGET))
    differ = (said <= 0.01 * said.max()) != (np.abs(lost) <= 0.01 * np.abs(lost).max())
    want = [oracle_faithfulness.rank_correlation(said, lost**2), oracle_faithfulness.correlation(said, lost),
            differ.mean()]  # fmt: skip
    assert 0.1 < differ.mean() < 0.9
    np.testing.assert_allclose(found, want, atol=1e-4)
    nothing = alone(jnp.zeros(SIZE), jnp.asarray(logits[-1] - lost), jnp.full(3, logits[-1]), jnp.asarray(TARGET))
    np.testing.assert_allclose(nothing, [0, 0, (np.abs(lost) > 0.01 * np.abs(lost).max()).mean()], atol=1e-6)
    neither = alone(jnp.zeros(SIZE), jnp.zeros(64), jnp.zeros(3), jnp.asarray(TARGET))
    np.testing.assert_array_equal(neither, [0, 0, 0])


def test_superpixels_are_the_slow_ones_and_follow_colours(probed):
    _, image, _ = example()
    np.testing.assert_array_equal(probed["superpixels"], oracle.superpixels(np.asarray(image, np.float64)))
    halves = np.zeros((64, 64, 3), np.float32)
    halves[:, 29:] = 9  # a line between two columns of centres: no part lies across it
    which = np.asarray(jax.jit(metrics.superpixels)(halves))
    assert which.shape == (64, 64) and 40 < len(np.unique(which)) <= 64
    assert not set(which[:, :28].ravel()) & set(which[:, 30:].ravel())


def test_parts_go_in_the_order_of_the_map(probed):
    params, image, heatmap = example()
    image, heatmap = np.asarray(image), np.asarray(heatmap)
    cells = oracle.cells(SIZE)
    segments = np.stack([probed["superpixels"] == s for s in np.unique(probed["superpixels"])])
    assert len(segments) > 20
    for name, pieces, said in (
        ("selectivity", cells, [heatmap[c].sum(dtype=np.float64) for c in cells]),
        ("irof", segments, [heatmap[s].mean(dtype=np.float64) for s in segments]),
    ):
        gone = oracle.in_order(pieces, said, parts.SHARES)
        np.testing.assert_array_equal(probed[name], [np.where(g[..., None], 0.5, image) for g in gone], err_msg=name)
        y, _ = scores(params, probed[name])
        want = oracle.area(y if name == "selectivity" else 1 - y / y[0], parts.SHARES)
        found = METRICS[name].function(jnp.asarray(y, jnp.float32), np.asarray(parts.SHARES))
        assert found == pytest.approx(want, abs=1e-5)
    assert metrics.irof(jnp.zeros(9), np.asarray(parts.SHARES)) == 0  # 0/0


def test_monotonicity_counts_steps():
    assert metrics.monotonicity(jnp.asarray([0.9, 0.9, 0.5, 0.6, 0.1])) == pytest.approx(3 / 4)
    assert metrics.monotonicity(jnp.linspace(1, 0, 9)) == 1 and metrics.monotonicity(jnp.linspace(0, 1, 9)) == 0


def test_lipschitz_and_relative_stability(probed):
    _, image, heatmap = example()
    again = jnp.asarray(np.asarray(heatmap) + 0.1 * RNG.normal(size=(10, *SIZE)), jnp.float32)
    logits, answers = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in (3, (10, 3)))

    @jax.jit
    def run(heatmap, again):
        return (
            metrics.local_lipschitz(heatmap, again, image, KEY),
            metrics.relative_input_stability(heatmap, again, image, KEY),
            metrics.relative_output_stability(heatmap, again, logits, answers),
        )

    images = np.asarray(jax.jit(metrics.nearby_images)(image, KEY))
    np.testing.assert_array_equal(probed["relative_output"], images)
    assert nearby_image(jnp.asarray(3.0), image=image, key=KEY).shape == image.shape
    h, x = np.asarray(heatmap, np.float64), np.asarray(image, np.float64)
    want = [oracle.lipschitz(h, again, x, images), oracle.relative(h, again, x, images),
            oracle.relative(h, again, np.asarray(logits), np.asarray(answers))]  # fmt: skip
    np.testing.assert_allclose(run(heatmap, again), want, rtol=1e-4)
    np.testing.assert_array_equal(run(0 * heatmap, 0 * again), 0)  # 0/0
    assert metrics.relative_stability(heatmap, again, jnp.ones(4), jnp.ones((10, 4))) > 1e4  # at most by 1e-6


def test_random_logit_is_the_likeness_of_two_maps_and_the_other_class_is_another():
    _, _, heatmap = example()
    other = jnp.flip(heatmap, 0)
    want = oracle_faithfulness.structural_similarity(heatmap, other)
    run = jax.jit(metrics.random_logit)
    assert run(heatmap, other[None]) == pytest.approx(want, abs=1e-4)
    assert run(heatmap, heatmap[None]) == pytest.approx(1)
    drawn = jax.jit(lambda key: jax.vmap(lambda k: metrics.another_class(k, jnp.asarray(2), 4))(
        jax.random.split(key, 300)))(KEY)  # fmt: skip
    counts = np.bincount(drawn, minlength=4)
    assert counts[2] == 0 and (counts[[0, 1, 3]] > 60).all()
    assert jax.jit(lambda key: metrics.another_class(key, jnp.asarray(0), 1))(KEY) == 0


def test_input_invariance_is_of_what_reads_the_zero_point():
    image, weights = (jnp.asarray(RNG.normal(size=(4, 5, 3)), jnp.float32) for _ in range(2))
    predict = lambda x: jnp.sum(jnp.tanh(weights * x))[None]  # noqa: E731
    gradient = lambda f, x: jnp.sum(jax.grad(lambda x: f(x)[0])(x), -1)  # noqa: E731
    product = lambda f, x: jnp.sum(x * jax.grad(lambda x: f(x)[0])(x), -1)  # noqa: E731
    nothing = lambda f, x: jnp.zeros((4, 5))  # noqa: E731
    run = jax.jit(lambda x: [metrics.input_invariance(m, predict, x, 0.5) for m in (gradient, product, nothing)])
    slope = np.asarray(weights, np.float64) / np.cosh(np.asarray(weights * image, np.float64)) ** 2
    want = np.linalg.norm(0.5 * slope.sum(-1)) / np.linalg.norm((slope * np.asarray(image)).sum(-1))
    np.testing.assert_allclose(run(image), [0, want, 0], rtol=1e-4, atol=1e-5)


def test_sufficiency_is_who_has_the_class_among_pictures_with_like_maps():
    one, two = RNG.uniform(size=(2, 6, 6))
    maps = jnp.asarray([one, one + 0.05 * two, 2 * one, two, -one], jnp.float32)
    found = jax.jit(metrics.sufficiency)(maps, jnp.asarray([1, 1, 0, 0, 1]))
    np.testing.assert_allclose(found, [0.5, 0.5, 0, np.nan, np.nan])
