"""What a command says beside its results: how far it has come, as a bar on a terminal and a line a minute elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from jaxcam.errors import visible

if TYPE_CHECKING:
    from rich.console import Console

#: Called with a picture, a method and how many of its maps, or what part of one, are new.
Done = Callable[[str, str, float], None]


#: Seconds between two lines.
INTERVAL = 60.0


def note(text: str) -> None:
    """A line on standard error."""
    print("jaxcam: " + visible(text), file=sys.stderr, flush=True)


class Lines:
    """Writes a line to standard error every minute: for a log, where a bar would be nothing but noise."""

    def __init__(self) -> None:
        self._last = self.begun = time.monotonic()

    def __call__(self, text: Callable[[], str]) -> None:
        """Writes what `text()` is, unless the last line is less than a minute old."""
        now = time.monotonic()
        if now - self._last >= INTERVAL:
            self._last = now
            note(text())


@contextlib.contextmanager
def maps_bar(console: Console, total: int) -> Iterator[Done]:
    """A bar over `total` maps with their rate and the time left, while the block runs."""
    if console.quiet:
        yield lambda source, method, maps: None
        return
    if not console.is_terminal:
        lines, made = Lines(), 0.0

        def count(source: str, method: str, maps: float) -> None:
            nonlocal made
            made += maps
            speed = made / (time.monotonic() - lines.begun)
            lines(lambda: f"{made:.0f} of {total} maps, {rate(speed)}, {clock((total - made) / speed)} left")

        yield count
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


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
