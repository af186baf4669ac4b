"""How far a command has come: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from jaxcam.errors import visible

if TYPE_CHECKING:
    from rich.console import Console

#: Called with a picture, a method and how many of its maps, or what part of one, are new.
Done = Callable[[str, str, float], None]


@contextlib.contextmanager
def maps_bar(console: Console, total: int) -> Iterator[Done]:
    """A bar over `total` maps with their rate and the time left, while the block runs."""
    if not console.is_terminal or console.quiet:
        yield lambda source, method, maps: None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    # A long map takes many minutes: its rate is that of the last ten minutes, not of half a minute.
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, speed_estimate_period=600)
    with bar:
        task = bar.add_task("explaining", total=total, rate="")

        def done(source: str, method: str, maps: float) -> None:
            bar.update(task, advance=maps, description=escape(visible(f"{source} {method}".strip())))
            bar.update(task, rate=rate(bar.tasks[0].speed))

        yield done


def rate(speed: float | None) -> str:
    """Maps per second, or seconds per map, whichever is at least 1."""
    if not speed:
        return ""
    return f"{speed:.1f} maps/s" if speed >= 1 else f"{1 / speed:.1f} s/map"
