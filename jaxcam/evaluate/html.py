"""HTML pieces of a report: the page, its tables, figures and galleries. Every text passes through `escape`."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Sequence

from jaxcam.evaluate.svg import escape
from jaxcam.evaluate.tables import DAGGER, Cell, Column, Table
from jaxcam.metrics.registry import DIRECTIONS

#: Nothing may be loaded from anywhere, and no script may run: what a name smuggled in could do is nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, body: Iterable[str]) -> str:
    """A whole page that needs nothing beside itself."""
    style = importlib.resources.files("jaxcam.evaluate").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def section(name: str, title: str, *content: str) -> str:
    """A section with an anchor."""
    head = f'<h2 id="{name}-h">{escape(title)}</h2>'
    return f'\n<section id="{name}" aria-labelledby="{name}-h">{head}{"".join(content)}</section>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(t: Table, *, label: str = "") -> str:
    """A table in a box of its own that scrolls where it is too wide, the first column staying."""
    heads = "".join(_head(h) for h in t.heads)
    rows = "".join(
        "<tr>" + "".join(_cell(c, h, i) for i, (c, h) in enumerate(zip(row, t.heads, strict=True))) + "</tr>"
        for row in t.rows
    )
    notes = "".join(f"<p>{escape(n)}</p>" for n in t.notes)
    return (
        f'<figure class="table"><figcaption>{escape(t.caption)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label or t.caption)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        + (f'<div class="notes">{notes}</div>' if notes else "")
        + "</figure>"
    )


def _head(head: Column) -> str:
    arrow = (
        f' <span class="arrow" aria-label="{DIRECTIONS[head.better][1]}" role="img">{DIRECTIONS[head.better][0]}</span>'
        if head.better
        else ""
    )
    unit = f'<span class="unit">{escape(head.unit)}</span>' if head.unit else ""
    title = f' title="{escape(head.title)}"' if head.title else ""
    return f'<th scope="col"{title}{"" if head.numeric else " class=name"}>{escape(head.text)}{arrow}{unit}</th>'


def _cell(cell: Cell, head: Column, column: int) -> str:
    if column == 0:
        return f'<th scope="row">{breakable(cell.text)}</th>'
    value = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
    if cell.tied:
        value += f'<sup title="not distinguishable from the best">{DAGGER}</sup>'
    if cell.interval:
        value += f'<span class="interval">[{escape(cell.interval)}]</span>'
    kinds = [k for k, on in (("best", cell.best), ("muted", cell.muted), ("words", not head.numeric)) if on]
    return f'<td class="{" ".join(kinds)}">{value}</td>' if kinds else f"<td>{value}</td>"


def figures(charts: Sequence[tuple[str, str]], caption: str, *, after: str = "") -> str:
    """Charts side by side where there is room, with one caption."""
    cells = "".join(f'<div class="chart">{_chart_title(title)}{chart}</div>' for title, chart in charts)
    return f'<figure><div class="charts">{cells}</div>{after}<figcaption>{escape(caption)}</figcaption></figure>'


def _chart_title(title: str) -> str:
    what, _, rest = title.partition(" — ")
    return f"<h3>{escape(what)}<span>{escape(rest)}</span></h3>"


def breakable(text: str) -> str:
    """A method's title; its options on a line of their own, broken behind an underscore where need be."""
    return escape(text).replace("_", "_<wbr>").replace(" (", "<br>(")


def boxed(content: str, caption: str) -> str:
    """Something wide in a box that scrolls."""
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{content}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def strip(heading: str, photo: tuple[str, str, str], overlays: Sequence[tuple[str, str, str, str]]) -> str:
    """One case: the photo, then a map per method.

    Args:
      heading: what is seen.
      photo: data URI, alternative text, caption.
      overlays: per method, data URI, alternative text, name, value.
    """
    cells = [
        f'<figure><img src="{photo[0]}" alt="{escape(photo[1])}" width="160" height="160">'
        f"<figcaption>{escape(photo[2])}</figcaption></figure>"
    ]
    for uri, alternative, name, value in overlays:
        cells.append(
            f'<figure><img src="{uri}" alt="{escape(alternative)}" width="160" height="160">'
            f"<figcaption>{escape(name)}<span>{escape(value)}</span></figcaption></figure>"
        )
    label = escape(heading)
    strip = f'<div class="strip" tabindex="0" role="region" aria-label="{label}">{"".join(cells)}</div>'
    return f'<div class="case"><h4>{label}</h4>{strip}</div>'


def facts(items: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in items) + "</dl>"


def details(summary: str, content: str, *, shown: bool = False) -> str:
    """Something folded away until it is asked for."""
    return f"<details{' open' if shown else ''}><summary>{escape(summary)}</summary>{content}</details>"
