"""The records of a run as columns, whichever files they are in: read when they are asked for, one fact at a time.

A million pictures by a dozen methods are twelve million records. What is in parts is never held as records, and of a
large run no column is kept: a table needs a few of them at a time.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.evaluate import parts
from jaxcam.evaluate.parts import TEXT, WHOLE, Coded, Part
from jaxcam.evaluate.store import Unit, read_lines

#: Columns of up to so many records are kept once they were read.
_KEPT = 1_000_000


class _Lines:
    """Units in lines, as a `Part` gives them."""

    def __init__(self, units: Sequence[Unit]):
        self._units = units

    def summaries(self) -> Iterator[dict]:
        return (unit.summary for unit in self._units)

    @functools.cached_property
    def _records(self) -> list[dict]:
        return [record for unit in self._units for record in unit.records()]

    def column(self, name: str) -> np.ndarray | Coded:
        return parts.typed(name, [record.get(name) for record in self._records])


class Records:
    """Every committed unit of a run, once.

    Attributes:
      numbers: `(U,)` of the units, as they are stored.
      counts: `(U,)` records of each.
      faulty: `(U,)` pictures of each that could not be used.
      broken: pictures that could not be used, and why, in the order of the units.
      stamps: of each digest of settings that a unit names, the first unit that does.
      spoilt: how many units were found damaged, and left out.

    Raises:
      JaxcamError: a file cannot be read.
    """

    def __init__(self, folder: pathlib.Path):
        try:
            lines, self.spoilt = read_lines(folder)
            found, damaged = parts.read(folder)
        except OSError as e:
            raise JaxcamError(f"{e.filename or folder}: cannot be read ({e.strerror or e})") from None
        self.spoilt += damaged
        self._blocks: list[Part | _Lines] = [*found, _Lines(list(lines.values()))]
        self._taken: list[np.ndarray | None] = []  # rows of each block, where another holds some of its units, too
        self.stamps: dict[str | None, int] = {}
        seen: set[int] = set()
        numbers, counts, broken, ends = [], [], [], []
        for block in self._blocks:
            first, rows = [], []
            for summary in block.summaries():
                number = summary["unit"]
                first.append(number not in seen)
                rows.append(summary["records"])
                if first[-1]:
                    seen.add(number)
                    numbers.append(number)
                    counts.append(summary["records"])
                    broken.append(summary["broken"])
                    if "run" in summary:
                        self.stamps[summary["run"]] = min(number, self.stamps.get(summary["run"], number))
            self._taken.append(None if all(first) else np.repeat(np.asarray(first, bool), rows))
            ends.append(sum(counts[-sum(first) :]) if any(first) else 0)
        self.numbers, self.counts = np.asarray(numbers, np.int64), np.asarray(counts, np.int64)
        self.faulty = np.asarray([len(b) for b in broken], np.int64)
        some = [i for i in np.argsort(self.numbers).tolist() if self.faulty[i]]
        self.broken = {name: why for i in some for name, why in broken[i].items()}
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        self._ends = np.cumsum(ends)  # of the records of each block

    def __len__(self) -> int:
        return int(self._starts[-1])

    def summaries(self) -> Iterator[dict]:
        """The commit lines, as they are stored."""
        seen: set[int] = set()
        for block in self._blocks:
            for summary in block.summaries():
                if summary["unit"] not in seen:
                    seen.add(summary["unit"])
                    yield summary

    def places(self, rows: np.ndarray) -> np.ndarray:
        """`(R, 2)`: the unit of each row, and its place in there."""
        unit = np.searchsorted(self._starts, rows, side="right") - 1
        return np.stack([self.numbers[unit], rows - self._starts[unit]], axis=1)

    def column(self, name: str) -> np.ndarray:
        """`(R,)` a fact of every record that is no text."""
        return np.concatenate([column for column in self._pieces(name) if not isinstance(column, Coded)])

    def text(self, name: str) -> Coded:
        """`(R,)` a fact that is text."""
        place: dict[str, int] = {}
        codes = []
        for piece in self._pieces(name):
            assert isinstance(piece, Coded)
            own = np.asarray([place.setdefault(word, len(place)) for word in piece.words], np.int32)
            codes.append(own[piece.codes] if len(own) else piece.codes)
        return Coded(np.concatenate(codes), list(place))

    def value(self, name: str, row: int) -> Any:
        """A fact of one record, of which no more is read than the file that it is in."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        piece = self._piece(at, name)
        place = row - (self._ends[at - 1] if at else 0)
        return piece.words[piece.codes[place]] if isinstance(piece, Coded) else piece[place]

    def _pieces(self, name: str) -> Iterable[np.ndarray | Coded]:
        return (self._piece(i, name) for i in range(len(self._blocks)))

    def _piece(self, at: int, name: str) -> np.ndarray | Coded:
        column, taken = self._blocks[at].column(name), self._taken[at]
        if taken is None:
            return column
        return Coded(column.codes[taken], column.words) if isinstance(column, Coded) else column[taken]


class Columns(Mapping[str, np.ndarray]):
    """Columns by name, read when they are asked for, in the order of picture, class and method.

    Args:
      records: of the run.
      methods: in their order.
      metrics: whose columns there are beside the others.
    """

    def __init__(self, records: Records, methods: Sequence[str], metrics: Sequence[str]):
        self.records = records
        others = ("label", "score", "logit", "completeness_gap", "evaluations", "seconds", "negative", "left_over")
        self._names = dict.fromkeys((*WHOLE, *TEXT, *others, *metrics))
        self._methods = methods
        self._read: dict[str, np.ndarray] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._read:
            return self._read[name]
        if name not in self._names:
            raise KeyError(name)
        if name in TEXT:
            codes, words = self.records.text(name)
            column = np.asarray(words, object)[codes] if words else np.zeros(0, object)
        else:
            column = self.records.column(name)
        column = self._sorted(column)
        if len(self.records) <= _KEPT:
            self._read[name] = column
        return column

    @functools.cached_property
    def ranks(self) -> np.ndarray:
        """`(R,)` the place of each row's method among the methods."""
        return self._sorted(self._stored_ranks())

    def value(self, name: str, row: int) -> Any:
        """A fact of one row; of a large run not the whole column is read for it."""
        if len(self.records) <= _KEPT:
            return self[name][row]
        return self.records.value(name, int(row if self._order is None else self._order[row]))

    def places(self, rows: np.ndarray) -> np.ndarray:
        """`(r, 2)`: the unit of each of these rows, and its place in there."""
        return self.records.places(rows if self._order is None else self._order[rows])

    def _stored_ranks(self) -> np.ndarray:
        codes, words = self.records.text("method")
        rank = {label: i for i, label in enumerate(self._methods)}
        return np.asarray([rank[word] for word in words], np.int16)[codes] if words else np.zeros(0, np.int16)

    def _sorted(self, column: np.ndarray) -> np.ndarray:
        return column if self._order is None else column[self._order]

    @functools.cached_property
    def _order(self) -> np.ndarray | None:
        """The rows in their order; None where they are in it, as one device leaves them."""
        index, target, ranks = self.records.column("index"), self.records.column("target"), self._stored_ranks()
        if not len(index):
            return None
        key = (index * (target.max() + 1) + target) * len(self._methods) + ranks
        return None if (np.diff(key) > 0).all() else np.argsort(key, kind="stable")
