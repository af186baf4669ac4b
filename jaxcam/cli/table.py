"""The table that `jaxcam explain` shows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxcam.errors import visible

if TYPE_CHECKING:
    from rich.table import Table

    from jaxcam.explanation.explain import Explanation


_FEW, _LETTERS = 100, 120


def rows_of(explanation: Explanation) -> list[tuple]:
    """A row for each result of a picture."""
    return [
        (
            explanation.source, r.class_name, "" if r.target is None else f"{100 * r.probability:.1f} %",
            f"{r.logit:.3f}", r.method,
            f"{r.completeness_gap:.1e}", f"{1000 * r.seconds:.1f}", _short(r.empty or ""),
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
    return textwrap.shorten(f"{len(classes)} classes: {', '.join(classes)}", _LETTERS, placeholder=" ...")


def table_of(rows: Sequence[tuple], model: str, layer: str, classes: Sequence[str]) -> Table:
    """The table of all rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(f"{model}, knows {known(classes)}; maps at {layer}")), title_justify="left")
    for name in ("image", "class", "probability", "logit", "method", "completeness gap", "ms"):
        right = name in ("probability", "logit", "completeness gap", "ms")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    notes = any(row[-1] for row in rows)
    if notes:
        table.add_column("empty map", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in (row if notes else row[:-1])))
    return table
