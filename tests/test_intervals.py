"""Intervals and verdicts keep their level: for few pictures, shares near 0, skewed values, many comparisons."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import scipy.stats

from benchmarks.claims import best, verdict
from jaxcam.errors import JaxcamError
from jaxcam.evaluate.intervals import SURE_FROM, bootstrap, holm, p_values
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import summarise
from jaxcam.metrics import METRICS

SIZES = (10, 60, 300)


def covered(values, truth, **options) -> float:
    found = bootstrap(values, np.arange(len(values)), replicates=1000, **options)
    return float(np.mean((found.low <= truth) & (truth <= found.high)))


def share_coverage(n: int, p: float) -> float:
    """Exact, of Wilson's interval for every count, whose ends solve (x/n - p)^2 = z^2 p (1-p) / n."""
    z, x = scipy.stats.norm.ppf(0.975), np.arange(n + 1)
    ends = np.stack([np.roots([1 + z * z / n, -(2 * k / n + z * z / n), (k / n) ** 2]) for k in x])
    inside = (ends.min(1) <= p + 1e-12) & (p <= ends.max(1) + 1e-12)
    return float(scipy.stats.binom.pmf(x, n, p)[inside].sum())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("p", [0.02, 0.2, 0.5])
def test_shares_cover_as_far_as_counts_allow(n, p):
    values = (np.random.default_rng(0).random((n, 4000)) < p) * 100.0
    metric = METRICS["ic"]
    found = covered(values, 100 * p, bounds=metric.published_bounds, shares=metric.shares)
    exact = share_coverage(n, p)
    assert found == pytest.approx(exact, abs=0.012)
    # Counts are few: one set of them fewer would cover in 0.817 (none of ten) and in 0.891 (three to seven of ten).
    beyond = {(10, 0.02): 0.9838, (10, 0.5): 0.9785}
    assert exact == pytest.approx(beyond[n, p], abs=1e-4) if (n, p) in beyond else 0.935 < exact < 0.97


def ad(rng, zeros, shape):
    return np.where(rng.random(shape) < zeros, 0, 100 * rng.beta(0.7, 3, shape)), (1 - zeros) * 100 * 0.7 / 3.7


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("zeros", [0.9, 0.8, 0.5])
def test_average_drops_cover(zeros, n):
    values, truth = ad(np.random.default_rng(1), zeros, (n, 600 if n == 300 else 1500))
    assert 0.93 < covered(values, truth, bounds=METRICS["ad"].published_bounds) < 0.975  # with the draws' own error
    assert 0.925 < covered(values, truth) < 0.975  # the range of what is there for the bounds


def test_values_at_a_bound_keep_together_by_picture_and_below_the_bounds():
    """Two classes of each picture that are alike tell no more than one; unequal numbers are ratios."""
    values, truth = ad(np.random.default_rng(5), 0.7, (40, 300))
    one = bootstrap(values, np.arange(40), bounds=(0, 100))
    two = bootstrap(np.repeat(values, 2, axis=0), np.repeat(np.arange(40), 2), bounds=(0, 100))
    np.testing.assert_allclose((one.low, one.high), (two.low, two.high), rtol=1e-5)
    some = np.where(np.arange(80)[:, None] % 4 == 3, np.nan, np.repeat(values, 2, axis=0))
    uneven = bootstrap(some, np.repeat(np.arange(40), 2), bounds=(0, 100))
    assert 0.91 < np.mean((uneven.low <= truth) & (truth <= uneven.high)) < 0.985
    wide = bootstrap(values, np.arange(40), bounds=(0, 100), level=0.99)
    assert (wide.low < one.low).all() and (wide.high > one.high).all() and (wide.low >= 0).all()
    full = bootstrap(100 - values, np.arange(40), bounds=(0, 100))
    np.testing.assert_allclose((full.low, full.high), (100 - one.high, 100 - one.low), rtol=1e-5)


@pytest.mark.parametrize("n", SIZES)
def test_means_and_differences_cover(n):
    rng = np.random.default_rng(2)
    assert 0.92 < covered(50 + 10 * rng.normal(size=(n, 2000)), 50) < 0.97
    for zeros in (0.8, 0.5):  # differences of a method and another, most of them 0
        (a, mean), (b, other) = ad(rng, 0.8, (n, 2000)), ad(rng, zeros, (n, 2000))
        assert 0.93 < covered(a - b, mean - other, bounds=(-100, 100), differences=True) < (1.0 if n == 10 else 0.985)
    for p, q in ((0.5, 0.5), (0.3, 0.1)):
        x = (rng.random((n, 2000)) < p) * 100.0 - (rng.random((n, 2000)) < q) * 100.0
        assert 0.93 < covered(x, 100 * (p - q), bounds=(-100, 100), differences=True, shares=True) < 0.985


def test_shares_of_two_classes_a_picture_are_worth_between_one_and_two_values():
    rng = np.random.default_rng(3)
    width = {}
    for alike in (0.0, 0.5, 1.0):
        both = np.repeat(rng.random((60, 2000)) < 0.2, 2, axis=0)
        x = np.where(rng.random(both.shape) < alike, both, rng.random(both.shape) < 0.2) * 100.0
        found = bootstrap(x, np.repeat(np.arange(60), 2), bounds=(0, 100), shares=True)
        assert 0.935 < np.mean((found.low <= 20) & (found.high >= 20)) < 0.975
        width[alike] = np.median(found.high - found.low)
    assert width[0.0] < width[0.5] < width[1.0]


def test_intervals_keep_within_the_bounds_and_zeros_alone_have_wilsons():
    zeros = bootstrap(np.zeros((10, 1)), np.arange(10), bounds=(0, 100))
    z = scipy.stats.norm.ppf(0.975)
    np.testing.assert_allclose((zeros.low[0], zeros.high[0]), (0, 100 * z * z / (10 + z * z)), atol=1e-9)
    few = np.zeros((10, 1))
    few[:2, 0] = 90, 100
    found = bootstrap(few, np.arange(10), bounds=(0, 100))
    assert 0 <= found.low[0] < 19 < found.high[0] <= 100
    gap = bootstrap(np.random.default_rng(0).exponential(size=(10, 50)), np.arange(10), bounds=(0, np.inf))
    assert (gap.low >= 0).all() and np.isfinite(gap.high).all()
    same = bootstrap(np.zeros((10, 1)), np.arange(10), bounds=(-100, 100), differences=True)
    assert same.low[0] == same.high[0] == 0


def test_p_values_are_students_and_holms_are_by_hand():
    x = np.random.default_rng(4).normal(0.3, 1, (25, 3))
    np.testing.assert_allclose(p_values(bootstrap(x, np.arange(25))), scipy.stats.ttest_1samp(x, 0).pvalue)
    few = bootstrap(x[: SURE_FROM - 1] + 9, np.arange(SURE_FROM - 1))
    np.testing.assert_array_equal(p_values(few), 1)
    np.testing.assert_allclose(holm(np.asarray([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_a_metric_says_what_its_values_are():
    assert [name for name, m in METRICS.items() if m.shares] == ["ic"]
    assert METRICS["gap"].published_bounds == (0, np.inf) and METRICS["ic"].published_bounds == (0, 100)
    with pytest.raises(JaxcamError, match="least and the greatest value"):
        dataclasses.replace(METRICS["ad"], bounds=(0, np.inf), shares=True)


METHODS, MEASURED = tuple("abcdef"), ("insertion", "ad", "add")


def simulated(rng, n, advantage=0.0, rivals=5):
    """A summary of six methods on three metrics that see the same; the first `rivals` others are worse than a."""
    skill = rng.normal(size=(n, 6)) + rng.normal(size=(n, 1))
    skill[:, 1 : 1 + rivals] -= advantage
    index, method = np.repeat(np.arange(n), 6), np.tile(METHODS, n)
    nothing = np.full(6 * n, np.nan)
    columns = {"index": index, "target": np.zeros(6 * n, int), "method": method, "empty": np.full(6 * n, "")}
    columns |= {"seconds": nothing, "evaluations": nothing}
    for name in MEASURED:
        columns[name] = METRICS[name].sign * (skill + rng.normal(size=(n, 6))).ravel()
    manifest = {"settings": {"methods": METHODS, "metrics": MEASURED}}
    run = Run(pathlib.Path(), manifest, columns, {}, [], complete=True, spoilt=0)
    return summarise(run, replicates=1)


@pytest.mark.parametrize("n", [10, 60, 300])
def test_verdicts_are_false_in_a_twentieth_of_the_cases_at_most(n):
    """Twenty-one of a hundred equal methods were "refuted" at 300 pictures when each comparison stood alone."""
    rng, runs = np.random.default_rng(n), 200
    equal = [simulated(rng, n) for _ in range(runs)]
    refuted = np.mean([best(s, "", MEASURED, method="a").verdict == "refuted" for s in equal])
    held = np.mean([best(s, "", MEASURED, method="a").verdict == "held" for s in equal])
    marked = np.mean([bool((s.sure != 0).any()) for s in equal])
    assert refuted <= 0.05 and held <= 0.05 and marked <= 0.05
    # The hardest case for "held": better than four by far, and equal to the fifth.
    near = [simulated(rng, n, advantage=5.0, rivals=4) for _ in range(runs)]
    assert np.mean([best(s, "", MEASURED, method="a").verdict == "held" for s in near]) <= 0.05
    # And where there is something to find it is found.
    clear = [simulated(rng, n, advantage=5.0) for _ in range(20)]
    assert {best(s, "", MEASURED, method="a").verdict for s in clear} == {"held"}
    assert {best(s, "", MEASURED, method="b").verdict for s in clear} == {"refuted"}


def test_few_pictures_give_no_verdict():
    clear = simulated(np.random.default_rng(0), SURE_FROM - 1, advantage=50.0)
    assert best(clear, "", MEASURED, method="a").verdict == "undecided" and not clear.sure.any()
    assert verdict(np.asarray([1.0, 2.0]), np.asarray([0.04, 0.01])) == "held"
    assert verdict(np.asarray([1.0, -2.0]), np.asarray([0.04, 0.03])) == "undecided"
    assert verdict(np.asarray([1.0, -2.0]), np.asarray([0.01, 0.02])) == "refuted"


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize(
    "options", [{}, {"bounds": (-np.inf, np.inf), "differences": True}], ids=["mean", "difference"]
)
def test_a_few_pictures_of_a_metric_without_bounds_are_not_taken_for_all_that_it_can_be(n, options):
    """Two values had an interval of 1.6 standard errors in all, which covered half the time."""
    rng, hits, runs = np.random.default_rng(0), 0, 250
    for _ in range(runs):  # one column at a time: others would lend their range
        found = bootstrap(rng.normal(size=(n, 1)), np.arange(n), replicates=200, **options)
        hits += bool((found.low <= 0) & (found.high >= 0))
    assert hits / runs > 0.9


def test_equal_values_have_no_spread_by_rounding():
    with np.errstate(all="raise"):
        found = bootstrap(np.full((3, 1), 0.1), np.arange(3))
    assert found.error == 0 and found.low == found.mean == found.high == 0.1
