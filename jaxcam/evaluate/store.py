"""The records of a run as they are made: append-only JSON lines that survive a kill, a full disk, a cut-off write.

A unit is a fixed batch of pictures. Its lines are one JSON object per (picture, class, method), followed by one
commit line that counts them and ends in a digest of them and of itself; what is not followed by a commit line that
fits does not exist. A unit is
written with one `write` and is on the disk (`fsync`) before the next one is begun, and so are its arrays, which
come first: a commit never speaks of a file that a power cut could still lose. At most the unit that was being
made is lost, whenever a run is stopped, and of a slow one the step (see `unfinished`).

One process writes, whoever makes the units; `parts` makes parts in columns of long files. Floats are written with as
many digits as give the same float64 back; NaN is null, and infinities are the strings "inf" and "-inf".
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.evaluate import parts
from jaxcam.files import read_file, sync_folder, try_lock, whole_file

if TYPE_CHECKING:
    from filelock import FileLock

#: One file; several processes of jaxcam 0.1.0 before its release had one each.
_RECORDS = re.compile(r"records(-\d+-of-\d+)?\.jsonl")
_LOCKS = re.compile(r"records(-\d+-of-\d+)?\.lock")
#: Bytes of a file of records: what a hundred million maps take.
_MOST = 64 << 30
_KEPT = "what was evaluated before is kept: make room and give the command again"
_COMMIT = re.compile(rb'(\{"unit":.*),"sha256":"([0-9a-f]{16})"\}\n')


class Unit(NamedTuple):
    """One committed unit.

    Attributes:
      summary: its commit line: `unit`, `images`, `records`, `broken` (picture: reason), `seconds`, `run` (a digest of
        the settings it was made with).
      lines: its records, not parsed.
    """

    summary: dict
    lines: list[bytes]

    def records(self) -> list[dict]:
        """The records, in the order they were made."""
        return [json.loads(line) for line in self.lines]


def records_file(folder: pathlib.Path) -> pathlib.Path:
    """Where units are committed."""
    return folder / "records.jsonl"


def arrays_file(folder: pathlib.Path, unit: int) -> pathlib.Path:
    """Where the arrays of a unit are."""
    return folder / "arrays" / f"unit-{unit:06}.npz"


#: The name, in a file of arrays, of what says which unit of which run they are of.
MADE = "made"


def made(unit: int, run: str | None) -> str:
    """What a file of arrays holds under `MADE`, so that two of them cannot be exchanged without a word."""
    return f"unit {unit} of run {run}"


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NumPy scalars become Python's, NaN None, infinities strings."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def encode(summary: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> bytes:
    """The bytes of a unit. `unit` must come first in the summary, and in no record: it marks the commit line."""
    lines = [_line({k: plain(v) for k, v in r.items()}) for r in records]
    commit = _line({**summary, "records": len(lines)}).removesuffix(b"}\n")
    return b"".join((*lines, commit, b',"sha256":"', _digest(*lines, commit), b'"}\n'))


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16].encode()


def _line(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def parse(data: bytes) -> tuple[list[Unit], int]:
    """The units in the bytes of a records file, and where the last whole one ends.

    Lines that belong to no whole unit are left out: what a kill cut off at the end, or what a failing disk
    spoilt in the middle.
    """
    return _parse(data)[:2]


def _parse(data: bytes) -> tuple[list[Unit], int, int]:
    """What `parse` gives, and how many units have a commit line and are damaged nevertheless."""
    units: list[Unit] = []
    lines: list[bytes] = []
    position = end = spoilt = 0
    for line in data.splitlines(keepends=True):
        position += len(line)
        if line.startswith(b'{"unit":') and line.endswith(b"\n"):
            summary = _commit(line, lines)
            if summary is not None:
                units.append(Unit(summary, lines))
                end = position
            else:
                spoilt += 1
            lines = []
        else:
            lines.append(line)
    return units, end, spoilt


def _commit(line: bytes, lines: list[bytes]) -> dict | None:
    """The commit line, unless it or what it speaks of is damaged."""
    match = _COMMIT.fullmatch(line)
    # Runs of jaxcam 0.1.0 before its release digested the records alone; no line of today's passes for one of theirs.
    if match is None or match[2] not in (_digest(*lines, match[1]), _digest(*lines)):
        return None
    try:
        summary = json.loads(line)
        return summary if summary["records"] == len(lines) else None
    except (ValueError, KeyError):
        return None


def read_lines(folder: pathlib.Path) -> tuple[dict[int, Unit], int]:
    """Every committed unit in the lines of a run, by number.

    Returns:
      The units, and how many others were found damaged.

    Raises:
      JaxcamError, OSError: a file, or the folder, cannot be read.
    """
    units: dict[int, Unit] = {}
    damaged = 0
    for file in sorted(p for p in folder.iterdir() if _RECORDS.fullmatch(p.name)):
        found, _, spoilt = _parse(read_file(file, _MOST))
        damaged += spoilt
        for unit in found:
            units.setdefault(unit.summary["unit"], unit)  # the same whoever made it
    return dict(sorted(units.items())), damaged


def in_use(folder: pathlib.Path) -> bool:
    """Whether a process has a records file of the run open for writing."""
    return any(_held(file) for file in folder.iterdir() if _LOCKS.fullmatch(file.name))


def _held(file: pathlib.Path) -> bool:
    lock = try_lock(file)
    if lock is not None:
        lock.release()
    return lock is None


class Writer:
    """The records file of a run, locked for as long as it is open.

    Args:
      folder: the run's.
      run: a digest of the run's settings, for every commit line.

    Where pyarrow is installed, a file of `parts.ROWS` records is moved into a part in columns; the part is on the disk
    before the lines go, so that a kill in between leaves units twice and never lost. Opening finishes such a move, and
    puts damaged parts aside.

    Raises:
      JaxcamError: another process writes the run; the folder cannot be written to.
    """

    def __init__(self, folder: pathlib.Path, run: str | None = None):
        self.folder, self.file = folder, records_file(folder)
        self._stamp = {} if run is None else {"run": run}
        with contextlib.ExitStack() as stack:
            try:
                stack.callback(self._claim().release)
                self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
                stack.callback(os.close, self._descriptor)
                units, self._end = parse(read_file(self.file, _MOST))
                self._rows = sum(len(unit.lines) for unit in units)
                if os.fstat(self._descriptor).st_size != self._end:
                    os.ftruncate(self._descriptor, self._end)
                os.lseek(self._descriptor, self._end, os.SEEK_SET)
                sync_folder(folder)
                for half in folder.glob("arrays/.*.tmp"):  # what a kill left of some
                    half.unlink()
                parts.put_damaged_aside(folder)
                self._move()
            except OSError as e:
                raise self._failed(self.file, e) from None
            self._stack = stack.pop_all()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _claim(self) -> FileLock:
        if in_use(self.folder) or (lock := try_lock(self.file.with_suffix(".lock"))) is None:
            raise JaxcamError(f"{self.folder}: another process is at work on this run; wait for it, or end it")
        return lock

    def append(
        self, summary: Mapping[str, Any], records: Iterable[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Commits a unit; when this returns it is on the disk.

        Raises:
          JaxcamError: the disk is full or fails; nothing of the unit is left, and a later attempt may succeed.
        """
        if arrays:
            told = {MADE: np.asarray(made(summary["unit"], self._stamp.get("run")))}
            self._write_arrays(arrays_file(self.folder, summary["unit"]), {**arrays, **told})
        records = list(records)
        data = memoryview(encode({**summary, **self._stamp}, records))
        length = len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as e:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
                os.lseek(self._descriptor, self._end, os.SEEK_SET)
            raise self._failed(self.file, e) from None
        self._end += length
        self._rows += len(records)
        self._move()

    def _move(self) -> None:
        """Moves the lines into a part in columns, where there are enough of them."""
        if self._rows < parts.ROWS or not parts.available():
            return
        units = sorted(parse(read_file(self.file, _MOST))[0], key=lambda unit: unit.summary["unit"])
        try:
            parts.write(self.folder, [u.summary for u in units], parts.columns([r for u in units for r in u.records()]))
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.fsync(self._descriptor)
        except OSError as e:
            raise self._failed(self.file, e) from None
        except JaxcamError as e:  # of a part
            raise JaxcamError(f"{e}; {_KEPT}") from None
        self._end = self._rows = 0

    def _write_arrays(self, file: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
        try:
            file.parent.mkdir(exist_ok=True)
            with whole_file(file, durable=True) as f:
                np.savez(f, **dict(arrays))  # type: ignore[arg-type]
        except OSError as e:
            raise self._failed(file, e) from None
        except JaxcamError as e:
            raise JaxcamError(f"{e}; {_KEPT}") from None

    @staticmethod
    def _failed(file: pathlib.Path, error: OSError) -> JaxcamError:
        return JaxcamError(f"{file}: cannot be written ({error.strerror or error}); {_KEPT}")
