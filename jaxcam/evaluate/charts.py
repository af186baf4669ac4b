"""The charts of a report, drawn by matplotlib as SVG that goes into the page and takes its colours and letters."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from jaxcam.errors import visible
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import Cube, Summary, mean_curves
from jaxcam.evaluate.tables import titles
from jaxcam.metrics.registry import METRICS

#: The page's variables that charts are coloured by. Each stands for itself as a colour that is in no chart otherwise,
#: so that a chart follows light and dark.
_VARIABLES = ("ink", "soft", "rule", "card", "accent", "c0", "c1", "c2", "c3", "c4", "c5", "c6")
INK, SOFT, RULE, CARD, ACCENT, *SERIES = (f"#c0de{i:02x}" for i in range(len(_VARIABLES)))
#: Series differ by dash and mark as well as by colour, which not everybody sees, and no printer in black.
_DASHES, _MARKS = ((0, ()), (0, (3, 1.5)), (0, (1, 1.25)), (0, (4, 1.25, 1, 1.25))), "os^DvPX*"
_WIDTH = 360.0  # in points, as letters are; the page scales charts a little
_STYLE: Any = {
    "font.sans-serif": ["DejaVu Sans"],  # measured with; the page has its own
    "font.size": 11.5, "svg.fonttype": "none", "svg.hashsalt": "jaxcam", "text.parse_math": False, "text.color": SOFT,
    "axes.labelcolor": SOFT, "axes.edgecolor": SOFT, "axes.facecolor": "none", "figure.facecolor": "none",
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelsize": 11.5, "ytick.labelsize": 11.5, "grid.color": RULE,
    "grid.linewidth": 1.0, "axes.axisbelow": True, "axes.linewidth": 1.0, "xtick.major.width": 1.0,
    "ytick.major.size": 0, "xtick.major.pad": 5, "lines.solid_capstyle": "butt", "lines.dash_capstyle": "butt",
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "figure.dpi": 72.0,
}  # fmt: skip


class Chart(NamedTuple):
    """A chart under its `title`, with what it `says` of its direction."""

    title: str
    says: str
    svg: Markup


def interval_chart(run: Run, summary: Summary, metric: str) -> Chart:
    """A dot for the mean and a bar for the interval of each method."""
    m, j, names = METRICS[metric], summary.metrics.index(metric), short_titles(run)
    s, rows = summary.score, range(len(names))
    with _axes(36 + 22 * len(names)) as axes:
        axes.grid(axis="x")
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(rows, names)
        axes.xaxis.set_major_locator(_round(3))
        _numbers(axes.xaxis)
        for i in rows:
            best, tied = bool(summary.best[i, j]), bool(summary.tied[i, j])
            if best:
                axes.get_yticklabels()[i].set(color=INK, fontweight="bold")
            colour = ACCENT if best or tied else SOFT
            if np.isfinite(s.low[i, j]):
                look: dict[str, Any] = {"color": colour, "alpha": 0.55 if tied else None, "lw": 3 if best else 2}
                axes.plot((s.low[i, j], s.high[i, j]), (i, i), **look)
            axes.plot(s.mean[i, j], i, "o", ms=9, mew=2, mec=colour, mfc=colour if best else CARD)
        return Chart(m.title_and_unit, m.direction, _svg(axes, f"{m.title_and_unit}: mean and interval of each method"))


def cost_charts(run: Run, summary: Summary) -> list[Chart]:
    """Mean time per map (logarithmic) against up to three metrics; none where no time is known."""
    milliseconds = summary.seconds * 1000
    timed = np.isfinite(milliseconds) & (milliseconds > 0)
    chosen = sorted((METRICS[k].cost_chart, k) for k in summary.metrics if METRICS[k].cost_chart and timed.any())
    charts = []
    for _, metric in chosen[:3]:
        m, j, s = METRICS[metric], summary.metrics.index(metric), summary.score
        with _axes(250) as axes:
            axes.set_xscale("log")
            low, high = milliseconds[timed].min() / 1.4, milliseconds[timed].max() * 1.4
            axes.set_xlim(low, high)
            _x_axis(axes, "time per map (ms, logarithmic)")
            axes.xaxis.set_major_locator(_log_ticks(high / low))
            for i in np.flatnonzero(timed & np.isfinite(s.mean[:, j])).tolist():
                at = (milliseconds[i], milliseconds[i])
                if np.isfinite(s.low[i, j]):
                    axes.plot(at, (s.low[i, j], s.high[i, j]), color=_colour(i), alpha=0.6, lw=1.5)
                axes.plot(at[0], s.mean[i, j], **_mark(i))
            label = f"{m.title_and_unit}, {m.direction}, against time per map"
            charts.append(Chart(m.title_and_unit, m.direction, _svg(axes, label)))
    return charts


class Curves(NamedTuple):
    """The chart of a perturbation, with its name, and what it `says` is done to the pixels."""

    name: str
    says: str
    chart: Chart


def curve_charts(run: Run, cube: Cube) -> list[Curves]:
    """The mean scores of each method along the perturbations of the run's metrics, where they were kept."""
    found: dict[str, Curves] = {}
    for m in (METRICS[k] for k in run.metrics):
        p = m.perturbation
        curves = mean_curves(run, cube, p.array) if p and p.says and p.name not in found else None
        if p is None or curves is None:
            continue
        with _axes(250) as axes:
            _x_axis(axes, f"pixels {p.says.split()[0]}, most relevant first (%)")
            axes.set_xlim(0, 100)
            axes.set_ylim(0, float(np.nanmax(curves, initial=0.0)) * 1.06 or 1.0)
            for i, curve in enumerate(curves):
                axes.plot(np.linspace(0, 100, len(curve)), curve, **_line(i))
            title = f"{p.name.capitalize()}: mean score of the class"
            chart = Chart(title, m.direction, _svg(axes, f"{title}, {m.direction}"))
        found[p.name] = Curves(p.name, p.says, chart)
    return list(found.values())


class Key(NamedTuple):
    """What stands for a method in a chart, and its name."""

    svg: Markup
    name: str


def legend(run: Run, *, lines: bool) -> list[Key]:
    """The methods with their lines or marks."""
    keys = []
    for i, name in enumerate(short_titles(run)):
        with _axes(14, 28) as axes:
            axes.set_axis_off()
            if lines:
                axes.plot((0, 0.5, 1), (0, 0, 0), **{**_line(i), "markevery": [1]})
            else:
                axes.plot(0, 0, **_mark(i))
            axes.margins(x=0)
            keys.append(Key(_svg(axes), name))
    return keys


def short_titles(run: Run) -> list[str]:
    """Names for axes: without options, or with their bare values where two methods differ in nothing else."""
    bare = [visible(titles(run)[m]).split(" (")[0] for m in run.methods]
    names = []
    for label, title in zip(run.methods, bare, strict=True):
        values = [part.split("=")[-1] for part in label.partition(":")[2].split(",") if part]
        names.append(" ".join((title, *values)) if bare.count(title) > 1 else title)
    return [n if len(n) <= 20 else n[:18] + "…" for n in names]


def _colour(i: int) -> str:
    return SERIES[i % len(SERIES)]


def _line(i: int) -> dict:
    """Of the first 32, no two have the same dash and mark."""
    dash = _DASHES[(i + i // len(_MARKS)) % len(_DASHES)]
    return {"color": _colour(i), "lw": 2, "ls": dash, "marker": _MARKS[i % len(_MARKS)], "ms": 6, "mew": 1,
            "mec": CARD, "markevery": (0.03 + 0.07 * (i % 3), 0.25)}  # fmt: skip


def _mark(i: int) -> dict:
    return {"marker": _MARKS[i % len(_MARKS)], "ls": "", "ms": 9, "mew": 1, "mfc": _colour(i), "mec": CARD}


@contextlib.contextmanager
def _axes(height: float, width: float = _WIDTH) -> Iterator[Axes]:
    """Axes of a figure, under matplotlib's own style and ours, whatever the user's is."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font of the measurements lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure(figsize=(width / 72, height / 72), layout="constrained").add_subplot()


def _numbers(*axes: Axis) -> None:
    for axis in axes:
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "−")))


def _x_axis(axes: Axes, title: str) -> None:
    """The grid, and both axes' ticks and numbers, of a chart whose abscissa has a title."""
    axes.set_xlabel(title)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(_round(4))
    axes.minorticks_off()
    _numbers(axes.xaxis, axes.yaxis)


def _round(count: int) -> ticker.Locator:
    return ticker.MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])


def _log_ticks(ratio: float) -> ticker.Locator:
    """Powers of ten where the axis has room for some, else more between them."""
    if ratio < 10:
        return _round(3)
    return ticker.LogLocator(subs=(1.0,) if ratio > 200 else (1.0, 2.0, 5.0))


_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def _svg(axes: Axes, label: str = "") -> Markup:
    """The figure as an element of a page: in its colours, and without ids, which another might have too."""
    out = io.StringIO()
    figure: Any = axes.figure
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(out.getvalue())
    shapes = {e.get("id"): e.get("d", "") for e in root.iter(f"{_SVG}path") if e.get("id")}
    for parent in list(root.iter()):
        for child in [e for e in parent if e.tag == f"{_SVG}defs"]:
            parent.remove(child)  # marks, which are put where they are used; clips, of which nothing has need
    for e in root.iter():
        if link := e.attrib.pop(_LINK, None):
            at = f"translate({e.attrib.pop('x')} {e.attrib.pop('y')})"
            e.tag, e.attrib = f"{_SVG}path", {"d": shapes[link[1:]], "transform": at, **e.attrib}
        for name in ("id", "clip-path"):
            e.attrib.pop(name, None)
        if style := e.get("style"):
            e.set("style", re.sub(r"#c0de(\w\w)", lambda m: f"var(--{_VARIABLES[int(m[1], 16)]})", style))
        e.tag, e.text, e.tail = e.tag.removeprefix(_SVG), (e.text or "").strip(), None
    said = {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    root.attrib = {"viewBox": root.attrib["viewBox"], **said}
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))
