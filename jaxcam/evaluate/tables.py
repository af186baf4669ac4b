"""The tables of a run: as data, and written as terminal text, Markdown, LaTeX and CSV. `report` writes them as HTML."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcam.errors import JaxcamError, visible
from jaxcam.evaluate.intervals import MANY, SURE_FROM
from jaxcam.evaluate.paper_figures import published
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import Seeds, Summary, controls
from jaxcam.methods.registry import METHODS, told_together
from jaxcam.metrics.registry import DIRECTIONS, METRICS

DAGGER = "†"


@dataclasses.dataclass(frozen=True)
class Column:
    """The head of a column: `text` and `unit`; which way is `better`, or ""; whether the column holds numbers."""

    text: str
    unit: str = ""
    better: str = ""
    numeric: bool = True
    title: str = ""

    @property
    def arrow(self) -> str:
        """Which way is better, behind a space; or ""."""
        return f" {DIRECTIONS[self.better][0]}" if self.better else ""

    @property
    def line(self) -> str:
        """The head on one line."""
        return self.text + (f" ({self.unit})" if self.unit else "") + self.arrow


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
    """Rows under the heads of columns; the first cell of a row names it. `notes` are sentences that belong below."""

    name: str
    caption: str
    columns: tuple[Column, ...]
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


def metric_head(metric: str) -> Column:
    """The head of a metric's column."""
    m = METRICS[metric]
    return Column(f"|{m.short}|" if m.absolute else m.short, m.unit, m.better, title=m.title)


def how(summary: Summary) -> str:
    """How the intervals were made, as a clause for captions."""
    shares = [METRICS[k].short for k in summary.metrics if METRICS[k].shares]
    others = len(shares) < len(summary.metrics)
    many = summary.images >= MANY
    samples = f"from {summary.replicates:,} samples of the pictures, seed {summary.seed}"
    made = [f"bootstrap-t {'by its expansion' if many else samples}"] if others else []
    made += ["by empirical likelihood where values pile up at a bound"] if others and not many else []
    made += [f"Wilson's for shares ({', '.join(shares)})"] if shares else []
    return f"{100 * summary.level:g} % intervals ({'; '.join(made)})"


def corrected(summary: Summary) -> str:
    """What "sure" means of a difference, as a sentence for notes."""
    if summary.images < SURE_FROM:
        return f"Of fewer than {SURE_FROM} pictures no difference is called sure."
    return (
        f"Sure: at the {100 * (1 - summary.level):g} % level after Holm's correction for all "
        f"{count(summary.comparisons, 'comparison')} of two methods on a metric."
    )


def count(n: int, noun: str) -> str:
    """`n` of something."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def how_many(summary: Summary) -> str:
    """n, in words."""
    pictures = count(summary.images, "picture")
    return pictures if summary.pairs == summary.images else f"{pictures}, {summary.pairs:,} pairs of picture and class"


def main_table(run: Run, summary: Summary, *, paper: bool = True) -> Table:
    """Methods down, metrics across, the number of empty maps, and the paper's figures where there are any.

    Args:
      paper: whether these are shown.
    """
    name = titles(run)
    figures = {
        (m, k): published(run.manifest, m, k) if paper else None for m in summary.methods for k in summary.metrics
    }
    heads = [Column("Method", numeric=False)]
    with_paper = [k for k in summary.metrics if any(figures[m, k] for m in summary.methods)]
    for k in summary.metrics:
        heads.append(metric_head(k))
        if k in with_paper:
            heads.append(Column("paper", METRICS[k].unit, title=f"{METRICS[k].title} in the paper"))
    heads.append(Column("Empty", title="Maps that show nothing"))
    rows = []
    for i, m in enumerate(summary.methods):
        cells = [Cell(name[m])]
        for j, k in enumerate(summary.metrics):
            cells.append(score_cell(summary, i, j))
            if k in with_paper:
                figure = figures[m, k]
                cells.append(Cell(number(figure.value, METRICS[k].digits) if figure else "–", muted=True))
        cells.append(Cell(str(summary.empty[i])))
        rows.append(tuple(cells))
    caption = f"Mean over {how_many(summary)}; in brackets {how(summary)}."
    notes = [
        f"Bold: the best mean. {DAGGER}: the paired difference to the best is not sure. {corrected(summary)}",
        "An empty map counts: the picture behind it is all baseline.",
        *_controls(run),
        *_undefined(summary),
        *_doubts(run),
    ]
    if with_paper:
        numbers = sorted({f.table for f in figures.values() if f})
        notes.append(
            f"paper: table{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} of the supplement of Jung & Oh "
            "(ICCV 2021): its networks, weights and pictures are others."
        )
    return Table("results", caption, tuple(heads), tuple(rows), tuple(notes))


def _controls(run: Run) -> list[str]:
    """What the rows of controls are for, a sentence; where there are none, none."""
    names = [titles(run)[label] for label in controls(run)]
    if not names or len(names) == len(run.methods):
        return []
    return [
        f"Controls, never bold: {' and '.join(names)}. They know nothing of the class, and a method that is not better "
        "than they are is not better for what it knows."
    ]


def _doubts(run: Run) -> list[str]:
    """What speaks against the maps of whole methods, a sentence each, the same ones told together."""
    found = []
    negative, left = run.columns["negative"], run.columns["left_over"]
    for rank, (method, title) in enumerate(titles(run).items()):
        own = run.ranks == rank
        info = METHODS.get(method.partition(":")[0])
        if info is not None and own.any():
            doubts = info.doubt_at(float(negative[own].mean())), info.doubt_left(float(np.median(left[own])))
            found += [(title, doubt) for doubt in doubts]
    return told_together(found)


def together(tables: Sequence[tuple[str, Table]]) -> Table:
    """The same table of several runs as one: a line with the name of each above its rows.

    Raises:
      JaxcamError: they have other columns, as runs with other metrics do.
    """
    (first, table), *others = tables
    for name, other in others:
        if other.columns != table.columns:
            raise JaxcamError(
                f"{name} has other columns than {first}; measure the same, or leave the paper's figures out"
            )
    rows = [row for name, one in tables for row in ((Cell(name),), *one.rows)]
    captions = dict.fromkeys(f"{name}: {one.caption}" for name, one in tables)
    notes = dict.fromkeys(note for _, one in tables for note in one.notes)
    return dataclasses.replace(table, caption=" ".join(captions), rows=tuple(rows), notes=tuple(notes))


def score_cell(summary: Summary, i: int, j: int) -> Cell:
    """Method i, metric j."""
    digits = METRICS[summary.metrics[j]].digits
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
            why = " (no boxes)" if METRICS[k].needs_boxes else " (no masks)" if METRICS[k].needs_masks else ""
            notes.append(f"{METRICS[k].short} is defined for {some} of {summary.pairs:,} maps of each method{why}.")
    if absolute := [METRICS[k].short for k in summary.metrics if METRICS[k].absolute]:
        notes.append(f"Of the {' and the '.join(absolute)} the mean absolute value is given.")
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
            digits = METRICS[k].digits
            low, high = d.low[i, j, c], d.high[i, j, c]
            interval = _interval(low, high, lambda v, n=digits: signed(v, n))
            cells.append(Cell(signed(d.mean[i, j, c], digits), interval, muted=not summary.sure[i, j, c]))
        rows.append(tuple(cells))
    caption = (
        f"Difference to {name[reference]} on the same maps, mean over {how_many(summary)}; in brackets {how(summary)}."
    )
    heads = (Column("Method", numeric=False), *map(metric_head, summary.metrics))
    return Table("differences", caption, heads, tuple(rows), (f"Grey: not sure. {corrected(summary)}",))


def seeds_table(run: Run, seeds: Seeds, metric: str) -> Table:
    """One metric on every random subset, as the paper's tables 7 to 10, with mean and standard deviation."""
    name, k, m = titles(run), run.metrics.index(metric), METRICS[metric]

    def bests(values: np.ndarray) -> np.ndarray:
        towards = m.sign * values
        return towards == (np.nanmax(towards) if np.isfinite(towards).any() else np.inf)

    columns = [*seeds.means[:, :, k], seeds.mean[:, k]]
    marks = [bests(c) for c in columns]
    rows = []
    for i, method in enumerate(run.methods):
        values = [Cell(number(c[i], m.digits), best=bool(b[i])) for c, b in zip(columns, marks, strict=True)]
        rows.append((Cell(name[method]), *values, Cell(number(seeds.deviation[i, k], m.digits))))
    heads = (Column("Seed", numeric=False), *(Column(str(s)) for s in seeds.seeds), Column("mean"), Column("s.d."))
    limit = run.manifest["settings"].get("limit")
    caption = (
        f"{m.title_and_unit}, {m.direction}: "
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
        Column("Method", numeric=False), Column("Time per map", "ms"), Column("Head evaluations", "per map"),
        Column("Cost in theory", numeric=False), Column("Promise", numeric=False), Column("Source", numeric=False),
    )  # fmt: skip
    caption = "Mean time of a map within its batch, without the forward pass that all methods share."
    return Table("cost", caption, heads, tuple(rows))


def terminal(table: Table, width: int) -> Any:
    """The table for `rich` to print, in parts of so many letters across; an interval stands below its value."""
    from rich.console import Group
    from rich.table import Table as Rich
    from rich.text import Text

    def needs(column: int) -> int:
        cells = [row[column] for row in table.rows if column < len(row)]
        longest = max(
            (max(len(visible(c.text)) + c.tied, len(c.interval) + 2 * bool(c.interval)) for c in cells), default=0
        )
        return max(longest, len(table.columns[column].line)) + 3

    parts: list[list[int]] = [[]]
    room = width - needs(0) - 1
    for column in range(1, len(table.columns)):
        if parts[-1] and sum(map(needs, parts[-1])) + needs(column) > room:
            parts.append([])
        parts[-1].append(column)
    result: list[Any] = []
    for part in parts:
        grid = Rich(header_style="bold")
        for column in (0, *part):
            head = table.columns[column]
            grid.add_column(
                Text(head.line), justify="right" if head.numeric else "left", no_wrap=head.numeric,
                overflow="fold", min_width=None if column else 12,
            )  # fmt: skip
        for row in table.rows:
            grid.add_row(*(_terminal_cell(row[column]) for column in (0, *part) if column < len(row)))
        result.append(grid)
    return Group(*result, *(Text(visible(line)) for line in (table.caption, *table.notes)))


def _terminal_cell(cell: Cell) -> Any:
    from rich.text import Text

    text = Text(
        visible(cell.text) + (DAGGER if cell.tied else ""), "bold green" if cell.best else "dim" if cell.muted else ""
    )
    if cell.interval:
        text.append(f"\n[{cell.interval}]", "not bold dim")
    return text


def markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table with its caption above and its notes below."""
    heads = [_markdown_text(h.line) for h in table.columns]
    rule = ["---:" if h.numeric else ":---" for h in table.columns]
    width = len(table.columns)
    rows = [[*map(_markdown_cell, row), *[""] * (width - len(row))] for row in table.rows]
    lines = [_markdown_text(table.caption), ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows)]
    lines += [line for note in table.notes for line in ("", _markdown_text(note))]
    return "\n".join(lines) + "\n"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", visible(text))


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    if cell.best:
        text = f"**{text}**"
    return text + (DAGGER if cell.tied else "") + (rf" \[{cell.interval}\]" if cell.interval else "")


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "−": "$-$", "–": "--", "→": r"$\to$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "†": r"$^\dagger$", '"': "''", "`": r"\textasciigrave{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(c, c) for c in visible(text))


def latex(table: Table, *, intervals: str = "stacked", label: str | None = None, caption: str | None = None) -> str:
    """A `table` environment for the booktabs package.

    Args:
      intervals: "stacked" below the values, which with four metrics fits a column of two; "beside" them; or "none".
      label: of the table; `tab:` and its name unless given.
      caption: its text, as LaTeX; what the table says of itself unless given.
    """
    numeric = [head.numeric for head in table.columns]
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    apart = r"\addlinespace[2pt] " if intervals == "stacked" else ""
    rows = [
        apart + " & ".join(map(_latex_cell, row, numeric, [intervals] * len(row))) + r" \\"
        if len(row) == len(table.columns)
        else rf"\addlinespace \multicolumn{{{len(columns)}}}{{l}}{{\emph{{{latex_text(row[0].text)}}}}} \\"
        for row in table.rows
    ]  # fmt: skip
    told = latex_text(" ".join((table.caption, *table.notes))) if caption is None else caption
    lines = [
        "% \\usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small",
        rf"\setlength{{\tabcolsep}}{{{2 if apart else 4}pt}}", r"\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{told}}}", rf"\label{{{label or f'tab:{table.name}'}}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule",
        " & ".join(_latex_head(h) for h in table.columns) + r" \\", r"\midrule", *rows, r"\bottomrule",
        r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_head(head: Column) -> str:
    """The head of a column, its unit on a second line where it has one."""
    text = latex_text(head.text + head.arrow)
    return rf"\shortstack[r]{{{text}\\ {{\scriptsize ({latex_text(head.unit)})}}}}" if head.unit else text


def _latex_cell(cell: Cell, numeric: bool, intervals: str) -> str:
    name, _, options = cell.text.partition(" (")
    if not numeric and options:  # of a method: each on a line below its name
        return _below("l", latex_text(name), *(latex_text(o) for o in options.removesuffix(")").split(", ")))
    text = latex_text(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    text += r"$^\dagger$" if cell.tied else ""
    if not cell.interval or intervals == "none":
        return text
    range_ = f"[{latex_text(cell.interval)}]"
    return (
        _below("r", text, range_.replace(", ", r",\,"))
        if intervals == "stacked"
        else rf"{text} {{\scriptsize {range_}}}"
    )


def _below(side: str, text: str, *lines: str) -> str:
    """A cell with small lines below its text, which stands at the height of the row."""
    small = "".join(rf"\\[-2pt] {{\tiny {line}}}" for line in lines)
    return rf"\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}{text}{small}\end{{tabular}}"


#: The columns of `comma_separated`.
CSV_COLUMNS = (
    "method", "metric", "unit", "better", "mean", "standard_error", "low", "high", "n", "pictures", "best",
    "not_distinguishable_from_best", "empty_maps", "difference_to", "difference", "difference_low", "difference_high",
    "difference_p", "surely_better", "paper", "paper_table",
)  # fmt: skip


def comma_separated(run: Run, summary: Summary, reference: str) -> str:
    """One line per method and metric with every digit; undefined values are empty fields.

    The differences are the method minus `reference`, their p-values not corrected; `surely_better` is 1 or -1 where
    the method is better or worse after the correction, else 0.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    r = summary.methods.index(reference)
    s, d = summary.score, summary.difference
    for i, m in enumerate(summary.methods):
        for j, k in enumerate(summary.metrics):
            figure = published(run.manifest, m, k)
            writer.writerow(_plain((
                m, k, METRICS[k].unit, METRICS[k].better, s.mean[i, j], s.error[i, j], s.low[i, j], s.high[i, j],
                s.defined[i, j], summary.images, int(summary.best[i, j]), int(summary.tied[i, j]), summary.empty[i],
                reference, d.mean[i, r, j], d.low[i, r, j], d.high[i, r, j],
                summary.p[i, r, j], int(summary.sure[i, r, j]),
                figure.value if figure else "", figure.table if figure else "",
            )))  # fmt: skip
    return out.getvalue()


def _plain(values: Sequence[Any]) -> list[Any]:
    return ["" if isinstance(v, float) and not math.isfinite(v) else repr(float(v)) if isinstance(v, float) else v
            for v in values]  # fmt: skip
