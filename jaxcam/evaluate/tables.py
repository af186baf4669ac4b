"""The tables of a run, as data: what `formats` and `html` then write in one form or another."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxcam.evaluate.paper_figures import published
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import Seeds, Summary
from jaxcam.metrics.registry import METRICS

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
DAGGER = "†"


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of a column: `text` and `unit`; which way is `better`, or ""; whether the column holds numbers."""

    text: str
    unit: str = ""
    better: str = ""
    numeric: bool = True
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value as `text`, and behind it the `interval` in brackets; `best` is bold, `tied` carries a dagger."""

    text: str
    interval: str = ""
    best: bool = False
    tied: bool = False
    muted: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under heads; the first cell of a row names it. `notes` are sentences that belong below."""

    name: str
    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def titles(run: Run) -> dict[str, str]:
    """What to call each method of a run: its title in the literature, with the options that were given."""
    info = run.manifest.get("method_info", {})
    result = {}
    for label in run.methods:
        name, _, options = label.partition(":")
        title = str(info.get(label, {}).get("title", name))
        result[label] = f"{title} ({options.replace(',', ', ')})" if options else title
    return result


#: What the sum of a mean rounds off is below.
_ROUNDING = 1e-12


def number(value: float, digits: int = 2) -> str:
    """A number with so many digits behind the point; a dash where it is undefined, an exponent where it is tiny."""
    if not math.isfinite(value):
        return "–"
    if _ROUNDING < abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}".replace("-", "−")
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def signed(value: float, digits: int = 2) -> str:
    """`number` with its sign, also where that is a plus."""
    return f"+{number(value, digits)}" if math.isfinite(value) and value > _ROUNDING else number(value, digits)


def digits_of(metric: str) -> int:
    """Digits behind the point: two for percentages, three for plain numbers."""
    return 2 if METRICS[metric].unit == "%" else 3


def metric_head(metric: str) -> Head:
    """The head of a metric's column."""
    m = METRICS[metric]
    return Head(f"|{m.short}|" if m.better == "zero" else m.short, m.unit, m.better, title=m.title)


def how(summary: Summary) -> str:
    """How the intervals were made, as a clause for captions."""
    return (
        f"{100 * summary.level:g} % percentile intervals from {summary.replicates:,} bootstrap samples of the "
        f"pictures (seed {summary.seed})"
    )


def count(n: int, noun: str) -> str:
    """`n` of something."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def how_many(summary: Summary) -> str:
    """n, in words."""
    pictures = count(summary.images, "picture")
    return pictures if summary.pairs == summary.images else f"{pictures}, {summary.pairs:,} pairs of picture and class"


def main_table(run: Run, summary: Summary, *, paper: bool = True) -> Table:
    """Methods down, metrics across, the number of empty maps, and the paper's figures where there are any."""
    name = titles(run)
    figures = {
        (m, k): published(run.manifest, m, k) if paper else None for m in summary.methods for k in summary.metrics
    }
    heads = [Head("Method", numeric=False)]
    with_paper = [k for k in summary.metrics if any(figures[m, k] for m in summary.methods)]
    for k in summary.metrics:
        heads.append(metric_head(k))
        if k in with_paper:
            heads.append(Head("paper", METRICS[k].unit, title=f"{METRICS[k].title} in the paper"))
    heads.append(Head("Empty", title="Maps that show nothing"))
    rows = []
    for i, m in enumerate(summary.methods):
        cells = [Cell(name[m])]
        for j, k in enumerate(summary.metrics):
            cells.append(score_cell(summary, i, j))
            if k in with_paper:
                figure = figures[m, k]
                cells.append(Cell(number(figure.value, digits_of(k)) if figure else "–", muted=True))
        cells.append(Cell(str(summary.empty[i])))
        rows.append(tuple(cells))
    caption = f"Mean over {how_many(summary)}; in brackets {how(summary)}."
    notes = [
        f"Bold: the best mean. {DAGGER}: the interval of the paired difference to the best holds 0; no correction "
        "for the number of comparisons.",
        "An empty map counts: the picture behind it is all baseline.",
        *_undefined(summary),
    ]
    if with_paper:
        numbers = sorted({f.table for f in figures.values() if f})
        notes.append(
            f"paper: table{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of the supplement of Jung & Oh "
            "(ICCV 2021): its networks, weights and pictures are others."
        )
    if summary.images < 30:
        notes.append("Percentile intervals of fewer than 30 pictures tend to be too short.")
    return Table("results", caption, tuple(heads), tuple(rows), tuple(notes))


def score_cell(summary: Summary, i: int, j: int) -> Cell:
    """Method i, metric j."""
    digits = digits_of(summary.metrics[j])
    s = summary.score
    return Cell(
        number(s.mean[i, j], digits), _interval(s.low[i, j], s.high[i, j], lambda v: number(v, digits)),
        bool(summary.best[i, j]), bool(summary.tied[i, j]),
    )  # fmt: skip


def _interval(low: float, high: float, write) -> str:
    return f"{write(low)}, {write(high)}" if math.isfinite(low) and math.isfinite(high) else ""


def _undefined(summary: Summary) -> list[str]:
    notes = []
    for j, k in enumerate(summary.metrics):
        least, most = int(summary.score.defined[:, j].min()), int(summary.score.defined[:, j].max())
        if least < summary.pairs:
            some = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            why = " (no boxes)" if METRICS[k].needs_boxes else ""
            notes.append(f"{METRICS[k].short} is defined for {some} of {summary.pairs:,} maps of each method{why}.")
    if any(METRICS[k].better == "zero" for k in summary.metrics):
        notes.append("Of the gap the mean absolute value is given.")
    return notes


def difference_table(run: Run, summary: Summary, reference: str) -> Table:
    """Every method minus `reference`, on the same pictures and classes."""
    name = titles(run)
    j = summary.methods.index(reference)
    d = summary.difference
    rows = []
    for i, m in enumerate(summary.methods):
        if i == j:
            continue
        cells = [Cell(name[m])]
        for c, k in enumerate(summary.metrics):
            digits = digits_of(k)
            low, high = d.low[i, j, c], d.high[i, j, c]
            interval = _interval(low, high, lambda v, n=digits: signed(v, n))
            cells.append(Cell(signed(d.mean[i, j, c], digits), interval, muted=bool(low <= 0 <= high)))
        rows.append(tuple(cells))
    caption = (
        f"Difference to {name[reference]} on the same maps, mean over {how_many(summary)}; in brackets {how(summary)}."
    )
    heads = (Head("Method", numeric=False), *map(metric_head, summary.metrics))
    return Table("differences", caption, heads, tuple(rows), ("Grey: the interval holds 0.",))


def seeds_table(run: Run, seeds: Seeds, metric: str) -> Table:
    """One metric on every random subset, as the paper's tables 7 to 10, with mean and standard deviation."""
    name, k, digits = titles(run), run.metrics.index(metric), digits_of(metric)
    m = METRICS[metric]
    sign = 1 if m.better == "higher" else -1

    def bests(values: np.ndarray) -> np.ndarray:
        return sign * values == np.nanmax(sign * values) if np.isfinite(values).any() else np.zeros(len(values), bool)

    columns = [*seeds.means[:, :, k], seeds.mean[:, k]]
    marks = [bests(c) for c in columns]
    rows = []
    for i, method in enumerate(run.methods):
        values = [Cell(number(c[i], digits), best=bool(b[i])) for c, b in zip(columns, marks, strict=True)]
        rows.append((Cell(name[method]), *values, Cell(number(seeds.deviation[i, k], digits))))
    heads = (Head("Seed", numeric=False), *(Head(str(s)) for s in seeds.seeds), Head("mean"), Head("s.d."))
    limit = run.manifest["settings"].get("limit")
    better = "0 is best" if m.better == "zero" else f"{m.better} is better"
    caption = (
        f"{m.title}{f' ({m.unit})' if m.unit else ''}, {better}: "
        f"means over {count(len(seeds.seeds), 'random subset')}{f' of {limit:,} pictures' if limit else ''}, by seed."
    )
    return Table(f"seeds-{metric}", caption, heads, tuple(rows))


def _milliseconds(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:,.0f}" if ms >= 1000 else number(ms, 1)


def cost_table(run: Run, summary: Summary) -> Table:
    """What each method costs and promises."""
    name, info = titles(run), run.manifest.get("method_info", {})
    rows = []
    for i, m in enumerate(summary.methods):
        evaluations = summary.evaluations[i]
        more = info.get(m, {})
        rows.append((
            Cell(name[m]), Cell(_milliseconds(summary.seconds[i])),
            Cell(f"{evaluations:,.0f}" if math.isfinite(evaluations) else "–"),
            Cell(str(more.get("cost", ""))), Cell(str(more.get("promise", ""))), Cell(str(more.get("paper", ""))),
        ))  # fmt: skip
    heads = (
        Head("Method", numeric=False), Head("Time per map", "ms"), Head("Head evaluations", "per map"),
        Head("Cost in theory", numeric=False), Head("Promise", numeric=False), Head("Source", numeric=False),
    )  # fmt: skip
    caption = "Mean time of a map within its batch, without the forward pass that all methods share."
    return Table("cost", caption, heads, tuple(rows))
