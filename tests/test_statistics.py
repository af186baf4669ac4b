"""Means, cluster bootstrap intervals, paired differences and subsets, against slow versions and known cases."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats
from evaluation_runs import make_run

from jaxcam.errors import JaxcamError
from jaxcam.evaluate.run import read_run
from jaxcam.evaluate.statistics import bootstrap, cube, over_seeds, summarise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(make_run(tmp_path_factory.mktemp("statistics")))


def _mean_and_error(pools):
    """Of all values of some pools; the error by the ratio's linearisation."""
    pools = [p for p in pools if p]
    mean, total = np.mean([v for p in pools for v in p]), sum(map(len, pools))
    deviations = [sum(p) - mean * len(p) for p in pools]
    return mean, np.sqrt(sum(d * d for d in deviations) * len(pools) / max(1, len(pools) - 1)) / total


def _slow(values, clusters, level, replicates, seed, differences=False):
    """The bootstrap-t with lists: draw clusters, pool their values, take the mean and its error."""
    names = sorted(set(clusters.tolist()))
    pools = [[v for v, c in zip(values, clusters, strict=True) if c == name and not np.isnan(v)] for name in names]
    mean, error = _mean_and_error(pools)
    t = []
    for draw in np.random.default_rng(seed).integers(0, len(names), (replicates, len(names))):
        if any(pools[i] for i in draw):
            some, own = _mean_and_error([pools[i] for i in draw])
            t.append((some - mean) / own if own > 1e-9 else np.sign(some - mean) * np.inf)
    if differences:
        q = np.quantile(np.abs(t), level, method="inverted_cdf")
        return mean - error * q, mean + error * q
    return tuple(mean - error * np.quantile(t, [(1 + level) / 2, (1 - level) / 2], method="inverted_cdf"))


def test_bootstrap_is_the_slow_one_with_clusters_of_unequal_size_and_undefined_values():
    rng = np.random.default_rng(1)
    clusters = rng.permutation(np.repeat([7, 3, 11, 5, 2, 40, 41, 42], [1, 2, 3, 1, 2, 4, 1, 1]))
    values = rng.normal(50, 9, (len(clusters), 3))
    values[::4, 1] = np.nan
    result = bootstrap(values, clusters, level=0.9, replicates=400, seed=5)
    for c in range(3):
        defined = values[~np.isnan(values[:, c]), c]
        assert result.defined[c] == len(defined)
        np.testing.assert_allclose(result.mean[c], defined.mean())
        np.testing.assert_allclose(
            (result.low[c], result.high[c]), _slow(values[:, c], clusters, 0.9, 400, 5), rtol=1e-9
        )
    result = bootstrap(values, clusters, level=0.9, replicates=400, seed=5, differences=True)
    slow = _slow(values[:, 1], clusters, 0.9, 400, 5, differences=True)
    np.testing.assert_allclose((result.low[1], result.high[1]), slow, rtol=1e-9)


def test_bootstrap_resamples_as_scipy_does():
    """The distribution of t over scipy's own resamples of the same generator, for a statistic that is t itself."""
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    values = rng.normal(50, 9, len(clusters))
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters).astype(float)
    mean = values.mean()

    def t(s, n, axis):
        m = s.sum(axis, keepdims=True) / n.sum(axis, keepdims=True)
        error = np.sqrt(((s - m * n) ** 2).sum(axis) * 30 / 29) / n.sum(axis)
        return (m.squeeze(axis) - mean) / error

    theirs = scipy.stats.bootstrap(
        (sums, sizes), t, paired=True, vectorized=True, n_resamples=500, method="percentile",
        rng=np.random.default_rng(3),
    ).bootstrap_distribution  # fmt: skip
    ours = bootstrap(values[:, None], clusters, level=0.9, replicates=500, seed=3)
    quantiles = np.quantile(theirs, [0.95, 0.05], method="inverted_cdf")
    np.testing.assert_allclose((ours.low[0], ours.high[0]), mean - ours.error[0] * quantiles, rtol=1e-9)


def test_standard_error_is_s_over_root_n_for_one_value_a_cluster_and_that_of_the_ratio_otherwise():
    rng = np.random.default_rng(2)
    x = rng.normal(size=50)
    np.testing.assert_allclose(bootstrap(x[:, None], np.arange(50)).error[0], x.std(ddof=1) / np.sqrt(50))
    # Every value twice, in the same cluster: nothing is known that was not known before.
    double = bootstrap(np.repeat(x, 2)[:, None], np.repeat(np.arange(50), 2))
    np.testing.assert_allclose(double.error[0], x.std(ddof=1) / np.sqrt(50))
    naive = bootstrap(np.repeat(x, 2)[:, None], np.arange(100))
    assert naive.high[0] - naive.low[0] < 0.8 * (double.high[0] - double.low[0])


def test_intervals_cover_what_they_promise():
    rng = np.random.default_rng(3)
    # 400 experiments of 60 clusters side by side; the clusters share an effect, so that records alone would cover less.
    effect = np.repeat(rng.normal(size=(60, 400)), 2, axis=0)
    values = effect + 0.5 * rng.normal(size=(120, 400))
    result = bootstrap(values, np.repeat(np.arange(60), 2), level=0.9, replicates=500)
    covered = np.mean((result.low <= 0) & (result.high >= 0))
    assert 0.84 < covered < 0.95


def test_the_seed_decides_and_the_level_widens():
    values, clusters = np.random.default_rng(4).normal(size=(40, 1)), np.arange(40)
    a, b = (bootstrap(values, clusters, seed=s) for s in (0, 0))
    np.testing.assert_array_equal(a, b)
    assert bootstrap(values, clusters, seed=1).low[0] != a.low[0]
    wide = bootstrap(values, clusters, level=0.99)
    assert wide.low[0] < a.low[0] < a.high[0] < wide.high[0]


def test_equal_values_have_an_interval_of_no_width_and_one_cluster_has_none():
    same = bootstrap(np.full((9, 1), 0.1), np.arange(9))
    assert same.low[0] == same.high[0] == 0.1
    alone = bootstrap(np.asarray([[1.0], [2.0]]), np.zeros(2, int))
    assert np.isnan([alone.error[0], alone.low[0], alone.high[0]]).all() and alone.mean[0] == 1.5
    nothing = bootstrap(np.full((3, 1), np.nan), np.arange(3))
    assert np.isnan(nothing.mean[0]) and nothing.defined[0] == 0


def test_cube_holds_the_records_in_published_units(run):
    made = cube(run)
    values, pairs, rows = made.values, made.pairs, made.rows
    for p, m in ((0, 0), (5, 2), (len(pairs) - 1, 3)):
        row = rows[p, m]
        assert (run.columns["index"][row], run.columns["target"][row]) == tuple(pairs[p])
        assert run.columns["method"][row] == run.methods[m]
        scaled = {"ic": 100, "ad": 1, "pointing": 100}
        for name, scale in scaled.items():
            np.testing.assert_equal(values[p, m, run.metrics.index(name)], scale * run.columns[name][row])
        assert values[p, m, run.metrics.index("gap")] == abs(run.columns["gap"][row])


def test_differences_are_paired(run):
    summary = summarise(run)
    values, pairs = cube(run).values, cube(run).pairs
    k = run.metrics.index("pointing")
    difference = values[:, 0, k] - values[:, 2, k]
    np.testing.assert_allclose(summary.difference.mean[0, 2, k], np.nanmean(difference))
    slow = _slow(difference, pairs[:, 0], 0.95, 2000, 0, differences=True)
    np.testing.assert_allclose((summary.difference.low[0, 2, k], summary.difference.high[0, 2, k]), slow)
    np.testing.assert_allclose(summary.difference.low[2, 0, k], -slow[1])
    # What the pictures share cancels: sharper than two separate intervals.
    width = summary.difference.high[0, 2, k] - summary.difference.low[0, 2, k]
    assert width < summary.score.high[0, k] - summary.score.low[0, k]
    assert summary.score.defined[0, k] == np.isfinite(values[:, 0, k]).sum() < len(pairs)


def test_best_follows_the_direction_and_ties_are_those_that_are_not_surely_worse(run):
    columns = dict(run.columns)
    grad, lift = columns["method"] == "grad_cam", columns["method"] == "lift_cam"
    columns["insertion"] = columns["insertion"].copy()
    columns["insertion"][grad] = columns["insertion"][lift] + 1e-3 * np.random.default_rng(0).normal(size=grad.sum())
    columns["ad"] = np.where(grad, columns["ad"][lift].repeat(len(run.methods))[: len(grad)], columns["ad"])
    columns["ad"][grad] = columns["ad"][lift] * (1 + 1e-7)  # the same but for rounding
    summary = summarise(dataclasses.replace(run, columns=columns))
    best = {
        k: [m for m, b in zip(run.methods, summary.best[:, j], strict=True) if b] for j, k in enumerate(run.metrics)
    }
    assert best["deletion"] == best["add"] == best["gap"] == ["lift_cam"]
    assert best["ad"] == ["lift_cam", "grad_cam"]
    upper = np.triu_indices(4, 1)
    p = summary.p[upper].ravel()
    by_hand = np.zeros(len(p), bool)  # Holm: from the least on, as long as each is below the level over what is left
    for rank, k in enumerate(np.argsort(p, kind="stable")):
        if p[k] >= 0.05 / (len(p) - rank):
            break
        by_hand[k] = True
    assert len(p) == summary.comparisons == 6 * len(run.metrics) and 0 < by_hand.sum() < len(p)
    np.testing.assert_array_equal(summary.sure[upper].ravel() != 0, by_hand)
    np.testing.assert_array_equal(summary.sure, -summary.sure.swapaxes(0, 1))
    insertion = run.metrics.index("insertion")
    assert (summary.best | summary.tied)[:2, insertion].all() and not (summary.best | summary.tied)[2:, insertion].any()


def test_subsets_by_seed(run):
    seeds = over_seeds(run)
    j = run.metrics.index("ad")
    for s, seed in enumerate(run.seeds):
        chosen = run.in_subset(seed) & (run.columns["method"] == "grad_cam")
        np.testing.assert_allclose(seeds.means[s, 1, j], run.columns["ad"][chosen].mean())
    np.testing.assert_allclose(seeds.deviation[1, j], np.std(seeds.means[:, 1, j], ddof=1))


def test_counts_of_empty_maps_and_cost(run):
    summary = summarise(run, replicates=10)
    assert summary.empty.tolist() == [0, 0, 0, int((run.columns["empty"] != "").sum())] and summary.empty[3] > 0
    np.testing.assert_allclose(summary.seconds, 0.002 * 3.0 ** np.arange(4))
    assert summary.evaluations[0] == 3 and np.isnan(summary.evaluations[1])


def test_a_run_without_results_and_senseless_settings_are_refused(run, tmp_path):
    with pytest.raises(JaxcamError, match="holds no results yet"):
        summarise(read_run(make_run(tmp_path, units=0)))
    with pytest.raises(JaxcamError, match="between 0 and 1"):
        summarise(run, level=1.0)
    with pytest.raises(JaxcamError, match="at least 1"):
        summarise(run, replicates=0)
