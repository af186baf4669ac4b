"""The plots of a report: intervals by method, mean curves, cost against faithfulness, agreement of coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxcam.evaluate import svg
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import Cube, Summary
from jaxcam.evaluate.tables import number, titles
from jaxcam.metrics.registry import METRICS, Metric, Perturbation

_WIDTH = 360.0
_PAIRS_AT_ONCE = 256


def short_titles(run: Run) -> list[str]:
    """Names for axes: without options, or with their bare values where two methods differ in nothing else."""
    bare = [titles(run)[m].split(" (")[0] for m in run.methods]
    names = []
    for label, title in zip(run.methods, bare, strict=True):
        values = [part.split("=")[-1] for part in label.partition(":")[2].split(",") if part]
        names.append(" ".join((title, *values)) if bare.count(title) > 1 else title)
    return [n if len(n) <= 20 else n[:18] + "…" for n in names]


def axis_title(metric: str) -> str:
    """What an axis of a metric says."""
    m = METRICS[metric]
    arrow = m.direction
    return f"{m.title}{f' ({m.unit})' if m.unit else ''} — {arrow}"


def interval_plot(run: Run, summary: Summary, metric: str) -> str:
    """A dot for the mean and a bar for the interval of each method."""
    j, names = summary.metrics.index(metric), short_titles(run)
    s = summary.score
    left, row, top = 14 + 7.4 * max(map(len, names)), 22, 10
    height = top + row * len(names) + 26
    low, high = svg.domain(np.concatenate([s.low[:, j], s.high[:, j], s.mean[:, j]]))
    x = svg.scale(low, high, left, _WIDTH - 10)
    bottom = top + row * len(names)
    body = []
    for t in svg.ticks(low, high, 3):
        body += [svg.line(x(t), top, x(t), bottom, "grid"), svg.text(x(t), bottom + 16, svg.plain(t), anchor="middle")]
    for i, name in enumerate(names):
        y = top + row * (i + 0.5)
        best = bool(summary.best[i, j])
        body.append(svg.text(left - 8, y + 4, name, anchor="end", kind="strong" if best else ""))
        mean = s.mean[i, j]
        if not np.isfinite(mean):
            continue
        kind = "bar best" if best else "bar tied" if summary.tied[i, j] else "bar"
        if np.isfinite(s.low[i, j]):
            body.append(svg.line(x(s.low[i, j]), y, x(s.high[i, j]), y, kind))
        body.append(f'<circle cx="{x(mean):.1f}" cy="{y:.1f}" r="4.5" class="{kind.replace("bar", "dot")}"/>')
    return svg.frame(_WIDTH, height, f"{axis_title(metric)}: mean and interval of each method", body)


def cost_plots(run: Run, summary: Summary) -> list[tuple[str, str]]:
    """Pairs of a title and a chart: mean time per map (logarithmic) against up to three metrics."""
    seconds = summary.seconds * 1000
    timed = np.isfinite(seconds) & (seconds > 0)
    if not timed.any():
        return []
    low, high = float(seconds[timed].min()) / 1.4, float(seconds[timed].max()) * 1.4
    charts = []
    for metric in sorted((k for k in summary.metrics if METRICS[k].cost_chart), key=lambda k: METRICS[k].cost_chart)[
        :3
    ]:
        j, s = summary.metrics.index(metric), summary.score
        bounds = svg.domain(np.concatenate([s.low[:, j], s.high[:, j], s.mean[:, j]]))
        x, y, body = _axes((low, high), bounds, log=True, x_title="time per map (ms, logarithmic)")
        for i in np.flatnonzero(timed & np.isfinite(s.mean[:, j])).tolist():
            at, kind = x(float(seconds[i])), f"whisker {svg.series(i)}"
            if np.isfinite(s.low[i, j]):
                body.append(svg.line(at, y(s.low[i, j]), at, y(s.high[i, j]), kind))
            body.append(svg.mark(at, y(s.mean[i, j]), i))
        charts.append((axis_title(metric), svg.frame(_WIDTH, 250, f"{axis_title(metric)}, against time per map", body)))
    return charts


def curve_plots(run: Run, cube: Cube) -> list[tuple[str, str]]:
    """Pairs of a title and a chart: the mean curves of each method, where curves were kept."""
    charts = []
    for p, m in perturbations(run).items():
        curves = _mean_curves(run, cube, p.array)
        if curves is None:
            continue
        top = float(np.nanmax(curves, initial=0.0)) * 1.06 or 1.0
        x, y, body = _axes((0.0, 100.0), (0.0, top), x_title=f"pixels {p.says.split()[0]}, most relevant first (%)")
        for i, curve in enumerate(curves):
            if np.isfinite(curve).all():
                at = zip(np.linspace(0, 100, len(curve)), curve, strict=True)
                points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in at)
                body.append(f'<polyline points="{points}" class="curve {svg.series(i)}"{svg.dash(i)}/>')
        title = f"{p.name.capitalize()}: mean score of the class — {m.direction}"
        charts.append((title, svg.frame(_WIDTH, 250, title, body)))
    return charts


def perturbations(run: Run) -> dict[Perturbation, Metric]:
    """The perturbations of the run's metrics, each with the first metric that has it."""
    found: dict[Perturbation, Metric] = {}
    for m in (METRICS[k] for k in run.metrics):
        if m.perturbation:
            found.setdefault(m.perturbation, m)
    return found


def _axes(xs: tuple[float, float], ys: tuple[float, float], *, x_title: str, log: bool = False):
    """Scales of a chart 360 x 250, and its grid, ticks and the title of its abscissa."""
    left, right, top, bottom = 44.0, _WIDTH - 12, 10.0, 206.0
    x, y = svg.scale(*xs, left, right, log=log), svg.scale(*ys, bottom, top)
    body = []
    for t in svg.ticks(*ys):
        body += [svg.line(left, y(t), right, y(t), "grid"), svg.text(left - 6, y(t) + 4, svg.plain(t), anchor="end")]
    for t in svg.log_ticks(*xs) if log else svg.ticks(*xs):
        body += [
            svg.line(x(t), bottom, x(t), bottom + 4, "axis"),
            svg.text(x(t), bottom + 17, svg.plain(t), anchor="middle"),
        ]
    body += [
        svg.line(left, bottom, right, bottom, "axis"),
        svg.text((left + right) / 2, bottom + 36, x_title, anchor="middle"),
    ]
    return x, y, body


def legend(run: Run, *, lines: bool) -> str:
    """An HTML list of the methods with their lines or marks."""
    items = []
    for i, name in enumerate(short_titles(run)):
        sign = (
            f'<polyline points="1,7 27,7" class="curve {svg.series(i)}"{svg.dash(i)}/>' if lines else svg.mark(14, 7, i)
        )
        items.append(f'<li><svg viewBox="0 0 28 14" aria-hidden="true">{sign}</svg>{svg.escape(name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def agreement(run: Run, cube: Cube) -> np.ndarray | None:
    """`(M, M)` mean cosine between the coefficients of two methods for the same map; None where none were kept.

    A method without coefficients on some map, or with zero ones, is left out of that map's mean.
    """
    m = len(run.methods)
    total, count = np.zeros((m, m)), np.zeros((m, m))
    for rows in _chunks(cube):
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


def _chunks(cube: Cube) -> Iterator[np.ndarray]:
    """The rows of some pairs at a time; pairs that lack a method are left out."""
    rows = cube.rows[(cube.rows >= 0).all(1)]
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        yield rows[start : start + _PAIRS_AT_ONCE]


def _mean_curves(run: Run, cube: Cube, kind: str) -> np.ndarray | None:
    total: np.ndarray | float = 0.0
    count = 0
    for rows in _chunks(cube):
        curves = run.arrays(kind, rows=rows.ravel())
        if curves is None:
            return None
        total = total + curves.reshape(*rows.shape, -1).sum(0, dtype=np.float64)
        count += len(rows)
    return np.asarray(total) / count if count else None


def heat_map(run: Run, values: np.ndarray) -> str:
    """The agreement of the methods as an HTML table of coloured cells."""
    names = short_titles(run)
    heads = "".join(f'<th scope="col"><span>{svg.escape(n)}</span></th>' for n in names)
    rows = []
    for i, name in enumerate(names):
        cells = "".join(_heat_cell(values[i, j]) for j in range(len(names)))
        rows.append(f'<tr><th scope="row">{svg.escape(name)}</th>{cells}</tr>')
    return f'<table class="heat"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _heat_cell(value: float) -> str:
    if not np.isfinite(value):
        return "<td>–</td>"
    strength = round(100 * abs(float(value)) ** 2)  # most agreements are high: squared, they spread
    side = "minus" if value < 0 else "plus"
    dark = " deep" if strength > 55 else ""
    return f'<td class="{side}{dark}" style="--v:{strength}%">{number(float(value))}</td>'


def defined(metrics: Sequence[str], summary: Summary) -> list[str]:
    """The metrics that have a value for some method."""
    return [k for k in metrics if np.isfinite(summary.score.mean[:, summary.metrics.index(k)]).any()]
