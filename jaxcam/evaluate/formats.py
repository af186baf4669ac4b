"""Tables as terminal text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from jaxcam.evaluate.paper_figures import published
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import Summary
from jaxcam.evaluate.tables import ARROWS, DAGGER, Cell, Head, Table
from jaxcam.metrics.registry import METRICS


def visible(text: str) -> str:
    """`text` on one line: control characters, which a terminal or a table would obey, become their codes."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _head(head: Head) -> str:
    unit = f" ({head.unit})" if head.unit else ""
    arrow = f" {ARROWS[head.better]}" if head.better else ""
    return head.text + unit + arrow


def terminal(table: Table, width: int) -> Any:
    """The table for `rich` to print, in parts of so many letters across; an interval stands below its value."""
    from rich.console import Group
    from rich.table import Table as Rich
    from rich.text import Text

    def needs(column: int) -> int:
        cells = [row[column] for row in table.rows]
        longest = max(
            (max(len(visible(c.text)) + c.tied, len(c.interval) + 2 * bool(c.interval)) for c in cells), default=0
        )
        return max(longest, len(_head(table.heads[column]))) + 3

    parts: list[list[int]] = [[]]
    room = width - needs(0) - 1
    for column in range(1, len(table.heads)):
        if parts[-1] and sum(map(needs, parts[-1])) + needs(column) > room:
            parts.append([])
        parts[-1].append(column)
    result: list[Any] = []
    for part in parts:
        grid = Rich(header_style="bold")
        for column in (0, *part):
            head = table.heads[column]
            grid.add_column(
                Text(_head(head)), justify="right" if head.numeric else "left", no_wrap=head.numeric,
                overflow="fold", min_width=None if column else 12,
            )  # fmt: skip
        for row in table.rows:
            grid.add_row(*(_terminal_cell(row[column]) for column in (0, *part)))
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
    heads = [_markdown_text(_head(h)) for h in table.heads]
    rule = ["---:" if h.numeric else ":---" for h in table.heads]
    rows = [[_markdown_cell(c) for c in row] for row in table.rows]
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
    "†": r"$^\dagger$", '"': "''", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(c, c) for c in visible(text))


def latex(table: Table) -> str:
    """A `table` environment for the booktabs package (needs textcomp, which LaTeX has had inside since 2020)."""
    columns = "".join("r" if h.numeric else "l" for h in table.heads)
    rows = [" & ".join(_latex_cell(c) for c in row) + r" \\" for row in table.rows]
    lines = [
        "% \\usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small",
        rf"\caption{{{latex_text(' '.join((table.caption, *table.notes)))}}}", rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
        " & ".join(latex_text(_head(h)) for h in table.heads) + r" \\", r"\midrule", *rows, r"\bottomrule",
        r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    text += r"$^\dagger$" if cell.tied else ""
    return text + (rf" {{\scriptsize [{latex_text(cell.interval)}]}}" if cell.interval else "")


#: The columns of `comma_separated`.
CSV_COLUMNS = (
    "method", "metric", "unit", "better", "mean", "standard_error", "low", "high", "n", "pictures", "best",
    "not_distinguishable_from_best", "empty_maps", "difference_to", "difference", "difference_low", "difference_high",
    "paper", "paper_table",
)  # fmt: skip


def comma_separated(run: Run, summary: Summary, reference: str) -> str:
    """One line per method and metric with every digit; undefined values are empty fields.

    The differences are the method minus `reference`.
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
                figure.value if figure else "", figure.table if figure else "",
            )))  # fmt: skip
    return out.getvalue()


def _plain(values: Sequence[Any]) -> list[Any]:
    return ["" if isinstance(v, float) and not math.isfinite(v) else repr(float(v)) if isinstance(v, float) else v
            for v in values]  # fmt: skip
