"""The table that `jaxcam explain` shows."""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxcam.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from jaxcam.explanation.result import Explanation


_FEW, _LETTERS = 100, 120


def new_console(width: int = 160, stream: Any = None, *, quiet: bool = False) -> Console:
    """Standard output, or another stream; so many letters wide where it is no terminal.

    A pipe or a file has no width of its own, and the default of 80 would cut tables.
    """
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    return Console(file=stream, width=None if stream.isatty() else width, quiet=quiet, highlight=False)


def rows_of(explanation: Explanation) -> list[tuple]:
    """A row for each result of a picture."""
    from jaxcam.explanation.result import gap_of

    return [
        (
            explanation.source, r.class_name, "" if r.target is None else f"{100 * r.probability:.1f} %",
            f"{r.logit:.3f}", r.method,
            gap_of(r), f"{1000 * r.seconds:.1f}", _short(r.empty or ""),
        )
        for r in explanation.results
    ]  # fmt: skip


def _short(why: str) -> str:
    """A reason, without what is said below the table."""
    return why if len(why) < 100 else why.split(":")[0]


def known(classes: Sequence[str]) -> str:
    """How many classes a network knows; of few their names, as it takes whatever it sees for one of them."""
    if len(classes) > _FEW:
        return f"{len(classes):,} classes"
    told = f"{len(classes)} class{'es' * (len(classes) != 1)}: {', '.join(classes)}"
    if len(told) <= _LETTERS:
        return told
    whole = max(1, told[:_LETTERS].count(", "))  # of the names, of which none is cut
    return f"{len(classes)} classes: {', '.join(classes[:whole])} and {len(classes) - whole} more"


_COLUMNS = ("image", "class", "probability", "logit", "method", "completeness\ngap", "ms")


def show(console: Console, rows: Sequence[tuple], model: str, layer: str, classes: Sequence[str]) -> None:
    """Prints all rows: one table, or one for each picture where names would be broken in a narrow terminal."""
    title = f"{model}, knows {known(classes)}; maps at {layer}"
    pictures = list(dict.fromkeys(row[0] for row in rows))
    names = dict(zip(pictures, short_names(pictures), strict=True))
    named = [(names[row[0]], *row[1:]) for row in rows]
    together = table_of(named, title)
    widest = console.options.update(max_width=10_000)
    if together.__rich_measure__(console, widest).maximum <= console.width:
        console.print(together)
        return
    console.print(visible(title), markup=False, highlight=False, style="italic")
    for name in names.values():
        console.print(table_of([row[1:] for row in named if row[0] == name], name, _COLUMNS[1:]))


def short_names(paths: Sequence[str]) -> list[str]:
    """The names of files; the whole path of those that share a name."""
    names = [os.path.basename(p) or p for p in paths]
    count = collections.Counter(names)
    return [name if count[name] == 1 else path for name, path in zip(names, paths, strict=True)]


def table_of(rows: Sequence[tuple], title: str, columns: Sequence[str] = _COLUMNS) -> Table:
    """A table of rows; the reason of an empty map has a column of its own where there is one."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title)), title_justify="left")
    for name in columns:
        words, left = name in ("image", "class"), name in ("image", "class", "method")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not words)
    notes = any(row[-1] for row in rows)
    if notes:
        table.add_column("empty map", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in (row if notes else row[:-1])))
    return table
