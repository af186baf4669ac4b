"""What the numbers of a run say, and how sure it is: means, intervals and paired differences.

A run holds one record per picture, class and method. Records of one picture are not independent, so everything here
resamples pictures, not records (the cluster bootstrap), and takes all methods and metrics of a picture along, so
that differences between methods are paired. Values that are undefined (NaN: no boxes, say) are left out of the mean
they would enter, of a difference where either side is undefined, and of the count `n`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcam.errors import JaxcamError, check_known
from jaxcam.evaluate.intervals import LEVEL, REPLICATES, Interval, check, holm, p_values
from jaxcam.evaluate.intervals import bootstrap as bootstrap
from jaxcam.evaluate.run import Run
from jaxcam.methods.registry import METHODS
from jaxcam.metrics.registry import METRICS

#: How near two means are, as a share, that differ by the rounding of float32 alone.
_EQUAL = 1e-5
_PAIRS_AT_ONCE = 256
_AT_ONCE = 4_000_000  # differences
#: Pairs that curves and coefficients, which lie in a file for each unit, are averaged over; spread over all of them.
MOST_KEPT = 20_000
_ROUNDING = 1e-6  # two methods that are one differ by less


@dataclasses.dataclass(frozen=True, eq=False)
class Cube:
    """The values of a run in published units, by pair of picture and class, method and metric.

    Attributes:
      run: whose.
      pairs: `(P, 2)`: index of the picture, class.
      rows: `(P, M)`: the row of the run, -1 where there is none.
    """

    run: Run
    pairs: np.ndarray
    rows: np.ndarray

    def metric(self, name: str) -> np.ndarray:
        """`(P, M)`, NaN where undefined. Of metrics whose ideal is 0 (the completeness gap) the absolute values."""
        metric = METRICS[name]
        column = self.run.columns[name] * metric.scale
        column = np.abs(column) if metric.absolute else column
        return np.where(self.rows >= 0, column[self.rows], np.nan)

    @property
    def values(self) -> np.ndarray:
        """`(P, M, K)`: every metric."""
        return np.stack([self.metric(name) for name in self.run.metrics], axis=-1)


def cube(run: Run) -> Cube:
    """Arranges the records of a run by pair, method and metric.

    Raises:
      JaxcamError: there are no records yet, or there is no metric of that name here.
    """
    if not len(run):
        raise JaxcamError(f"{run.folder}: holds no results yet; give its jaxcam evaluate command again to go on")
    for name in run.metrics:
        check_known("metric", name, METRICS)
    index, target = run.columns["index"], run.columns["target"]
    first = np.concatenate([[True], (np.diff(index) != 0) | (np.diff(target) != 0)])
    rows = np.full((np.count_nonzero(first), len(run.methods)), -1, np.int64)
    rows[np.cumsum(first) - 1, run.ranks] = np.arange(len(run))
    return Cube(run, np.stack([index[first], target[first]], 1), rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """What a run found; see the module for how.

    Attributes:
      methods, metrics: M labels and K names.
      score: `Interval` of `(M, K)` arrays, in published units.
      difference: `Interval` of `(M, M, K)`: row method minus column method, over the pairs defined for both.
      best: `(M, K)`, whose mean is the best one, up to rounding; controls are never best where there are others.
      tied: `(M, K)`, not the best, and not surely different from it.
      p: `(M, M, K)` two-sided p-values of the differences, not corrected.
      sure: `(M, M, K)`, 1 where the row's method is surely better than the column's, -1 where worse, else 0: by
        p-values corrected for all `comparisons`, every pair of methods on every metric (`intervals.holm`).
      pairs, images: how many of each.
      empty: `(M,)` maps that show nothing.
      seconds: `(M,)` mean per map.
      evaluations: `(M,)` mean head evaluations, NaN where the method does not say.
      level, replicates, seed: of the bootstrap.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    score: Interval
    difference: Interval
    best: np.ndarray
    tied: np.ndarray
    p: np.ndarray
    sure: np.ndarray
    pairs: int
    images: int
    empty: np.ndarray
    seconds: np.ndarray
    evaluations: np.ndarray
    level: float
    replicates: int
    seed: int

    @property
    def comparisons(self) -> int:
        """How many differences `sure` is corrected for."""
        return len(self.metrics) * len(self.methods) * (len(self.methods) - 1) // 2


def summarise(run: Run, *, level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0) -> Summary:
    """Means, intervals and paired differences of everything a run holds.

    Raises:
      JaxcamError: there are no records yet; the level or the number of resamples makes no sense.
    """
    check(level, replicates)
    values = cube(run)
    pairs, m, k = values.pairs, len(run.methods), len(run.metrics)
    upper = np.triu_indices(m, 1)
    scores, differences = [], []
    for i in range(k):
        v, metric = values.metric(run.metrics[i]), METRICS[run.metrics[i]]
        least, most = metric.published_bounds
        how: dict[str, Any] = {"level": level, "replicates": replicates, "seed": seed, "shares": metric.shares}
        scores.append(bootstrap(v, pairs[:, 0], bounds=(least, most), **how))
        some = max(1, _AT_ONCE // len(pairs))  # whose order is that of all of them at once
        between = [
            bootstrap(_apart(v, a, b), pairs[:, 0], bounds=(least - most, most - least), differences=True, **how)
            for a, b in zip(*(np.split(u, range(some, len(u), some)) for u in upper), strict=True)
        ]
        differences.append(_square(Interval(*map(np.concatenate, zip(*between, strict=True))), upper, m))
    score = Interval(*(np.stack(x, -1) for x in zip(*scores, strict=True)))
    difference = Interval(*(np.stack(x, -1) for x in zip(*differences, strict=True)))
    signs = np.asarray([METRICS[name].sign for name in run.metrics])
    p = p_values(difference)
    sure = np.zeros(p.shape, np.int64)
    sure[upper] = np.where(holm(p[upper]) < 1 - level, np.sign(difference.mean[upper] * signs), 0)
    sure[upper[::-1]] = -sure[upper]
    best, tied = np.zeros((m, k), bool), np.zeros((m, k), bool)
    control = np.isin(run.methods, controls(run))
    for i, name in enumerate(run.metrics):
        mean = score.mean[:, i] * METRICS[name].sign
        real = np.where(control & ~control.all(), np.nan, mean)
        if np.isfinite(real).any():
            first = int(np.nanargmax(real))
            best[:, i] = np.isclose(real, real[first], rtol=_EQUAL, atol=0)
            tied[:, i] = ~best[:, i] & np.isfinite(mean) & (sure[:, first, i] == 0)
    shows_nothing = run.ranks[run.columns["empty"] != ""]
    seconds, evaluations = (
        np.asarray([_mean(column[run.ranks == i]) for i in range(m)])
        for column in (run.columns[name] for name in ("seconds", "evaluations"))
    )
    return Summary(
        run.methods, run.metrics, score, difference, best, tied, p, sure, len(pairs), len(np.unique(pairs[:, 0])),
        np.bincount(shows_nothing, minlength=m), seconds, evaluations, level, replicates, seed,
    )  # fmt: skip


def _apart(v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The differences of columns of v, 0 where they are none but for rounding."""
    apart = v[:, a] - v[:, b]
    apart[np.abs(apart) < _ROUNDING * np.fmax(np.abs(v[:, a]), np.abs(v[:, b]))] = 0.0
    return apart


def controls(run: Run) -> tuple[str, ...]:
    """The labels of those methods of a run that know nothing of what is explained."""
    known = {label: METHODS.get(label.partition(":")[0]) for label in run.methods}
    return tuple(label for label, info in known.items() if info is not None and info.control)


def _mean(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _square(interval: Interval, upper: tuple[np.ndarray, np.ndarray], m: int) -> Interval:
    """Differences of all ordered pairs of methods from those of the upper triangle."""
    mean, low, high, error = (np.zeros((m, m)) for _ in range(4))
    count, clusters = (np.zeros((m, m), np.int64) for _ in range(2))
    mean[upper], mean[upper[::-1]] = interval.mean, -interval.mean
    low[upper], low[upper[::-1]] = interval.low, -interval.high
    high[upper], high[upper[::-1]] = interval.high, -interval.low
    error[upper] = error[upper[::-1]] = interval.error
    count[upper] = count[upper[::-1]] = interval.defined
    clusters[upper] = clusters[upper[::-1]] = interval.clusters
    return Interval(mean, error, low, high, count, clusters)


def agreement(run: Run, cube: Cube) -> np.ndarray | None:
    """`(M, M)` mean cosine between the coefficients of two methods for the same map; None where none were kept.

    A method without coefficients on some map, or with zero ones, is left out of that map's mean.
    """
    m = len(run.methods)
    total, count = np.zeros((m, m)), np.zeros((m, m))
    for rows in _whole_pairs(cube):
        values = run.arrays("coefficients", rows=rows.ravel())
        if values is None:
            return None
        vectors = values.reshape(*rows.shape, -1).astype(np.float64)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        defined = np.isfinite(length) & (length > 0)
        unit = np.where(defined, vectors / np.where(defined, length, 1.0), 0.0)
        total += np.einsum("pik,pjk->ij", unit, unit, optimize=True)
        count += np.einsum("pi,pj->ij", defined[..., 0].astype(float), defined[..., 0].astype(float))
    with np.errstate(invalid="ignore"):
        return total / count


def _whole_pairs(cube: Cube) -> Iterator[np.ndarray]:
    """The rows of some pairs at a time, of `MOST_KEPT` pairs at most; pairs that lack a method are left out."""
    whole = np.flatnonzero((cube.rows >= 0).all(1))
    rows = cube.rows[whole[:: -(-len(whole) // MOST_KEPT) or 1]]
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        yield rows[start : start + _PAIRS_AT_ONCE]


def mean_curves(run: Run, cube: Cube, kind: str) -> np.ndarray | None:
    """`(M, S)` means over the maps of the scores kept as `kind`; None where none were kept."""
    total: np.ndarray | float = 0.0
    count = 0
    for rows in _whole_pairs(cube):
        curves = run.arrays(kind, rows=rows.ravel())
        if curves is None:
            return None
        total = total + curves.reshape(*rows.shape, -1).sum(0, dtype=np.float64)
        count += len(rows)
    return np.asarray(total) / count if count else None


class Seeds(NamedTuple):
    """Means over the random subsets of a run, as in the paper's tables 7 to 10.

    Attributes:
      seeds: the S seeds whose subset holds results.
      means: `(S, M, K)`.
      mean, deviation: `(M, K)` over the seeds; the deviation with S - 1, NaN for one seed. The subsets may share
        pictures, and then it understates how much independent samples would differ.
    """

    seeds: tuple[int, ...]
    means: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def over_seeds(run: Run) -> Seeds:
    """The means of every random subset of a run."""
    values = cube(run)
    subsets = {s: np.isin(values.pairs[:, 0], np.asarray(run.manifest["subsets"][str(s)], np.int64)) for s in run.seeds}
    found = {seed: inside for seed, inside in subsets.items() if inside.any()}
    means = []
    for name in run.metrics:
        column = values.metric(name)
        defined = np.isfinite(column)
        column[~defined] = 0.0
        with np.errstate(invalid="ignore"):
            means.append(np.stack([column[i].sum(0) / defined[i].sum(0) for i in found.values()]))
    stacked = np.stack(means, axis=-1)
    deviation = stacked.std(0, ddof=1) if len(found) > 1 else np.full(stacked.shape[1:], np.nan)
    return Seeds(tuple(found), stacked, stacked.mean(0), deviation)
