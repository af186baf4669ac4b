"""Small charts as inline SVG, coloured by the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

import numpy as np

#: Series differ by colour (classes c0 ... of the page, safe for colour-blind eyes) and, past these, by dash and mark.
COLOURS = 7
_DASHES = ("", "6 3", "2 2.5", "8 2.5 2 2.5")


def escape(text: object) -> str:
    """Text for HTML or SVG, in an element or an attribute."""
    printable = "".join(c if c.isprintable() or c in " \n" else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return html.escape(printable, quote=True)


def frame(width: float, height: float, label: str, body: Sequence[str]) -> str:
    """An SVG element with its alternative text."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(body)}</svg>"
    )


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "") -> str:
    """A piece of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" class="{kind}"/>'


def series(i: int) -> str:
    """The CSS class of the colour of series i."""
    return f"c{i % COLOURS}"


def dash(i: int) -> str:
    """The dash of series i."""
    pattern = _DASHES[i // COLOURS % len(_DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def mark(x: float, y: float, i: int, *, size: float = 4.5, hollow: bool = False) -> str:
    """The mark of series i: a circle, square, triangle or diamond of its colour."""
    kind = f"mark {series(i)}{' hollow' if hollow else ''}"
    form = i // COLOURS % 4
    if form == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" class="{kind}"/>'
    points = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
        3: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    }[form]
    at = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in points)
    return f'<polygon points="{at}" class="{kind}"/>'


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values between `low` and `high`, about `count` of them."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low] if math.isfinite(low) else []
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2s and 5s where there is room, between `low` and `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high * 1.0001]
    if len(tens) > 2:
        return tens
    values = [f * 10.0**p for p in powers for f in (1, 2, 5)]
    return [v for v in values if low <= v <= high * 1.0001]


def domain(values: np.ndarray, margin: float = 0.06) -> tuple[float, float]:
    """The range of the finite values with some room around it."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = margin * (high - low) or max(abs(high), 1.0) * margin
    return low - room, high + room


def scale(low: float, high: float, start: float, stop: float, *, log: bool = False) -> Callable[[float], float]:
    """A function from values to positions."""
    bend = math.log10 if log else float
    a, b = bend(low), bend(high)
    return lambda v: start + (bend(v) - a) / ((b - a) or 1.0) * (stop - start)


def plain(value: float) -> str:
    """A tick's number, as short as it goes."""
    if 1e4 <= abs(value) < 1e7:
        shown = f"{value:,.0f}"
    else:
        shown = f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.0e}"
    return shown.replace("-", "−")
