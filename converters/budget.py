"""What a file of weights may cost before a tensor of it is read: one budget, stated here, that every reader shares."""

from __future__ import annotations

import json
import time
from typing import Any, BinaryIO

from jaxcam.errors import JaxcamError, visible

#: Bytes that describe tensors: headers, directories, names. A table of 10,000 tensors takes about two million.
MOST_BYTES = 16 << 20
#: Things that a description may consist of: instructions of a pickle, items of a header, objects of HDF5.
MOST_OBJECTS = 500_000
#: Groups within groups, and tables within tables.
MOST_DEPTH = 12
MOST_DIMENSIONS = 8
#: Letters of a tensor's name.
LONGEST_NAME = 1000
#: Seconds until the tensors are known. The others end a hostile file in one or two; this is for slow disks as well.
MOST_SECONDS = 60.0


class Budget:
    """Counts what one file has cost so far."""

    def __init__(self):
        self.bytes, self.objects, self._end = MOST_BYTES, MOST_OBJECTS, time.monotonic() + MOST_SECONDS

    def spend(self, *, size: int = 0, objects: int = 0) -> None:
        """Takes note of bytes and objects.

        Raises:
          JaxcamError: there have been too many, or reading takes too long.
        """
        self.bytes, self.objects = self.bytes - size, self.objects - objects
        if self.bytes < 0:
            raise JaxcamError(f"its description takes more than {MOST_BYTES:,} bytes; refused")
        if self.objects < 0:
            raise JaxcamError(f"its description consists of more than {MOST_OBJECTS:,} parts; refused")
        if time.monotonic() > self._end:
            raise JaxcamError(f"its tensors cannot be told within {MOST_SECONDS:.0f} seconds; refused")

    def json(self, data: bytes) -> Any:
        """A text in JSON, in which no name stands twice in a table; its parts are counted before they are built."""
        self.spend(size=len(data), objects=sum(map(data.count, (b",", b"{", b"["))))
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return dict(pairs)


def checked_name(name: str) -> str:
    """The name of a tensor.

    Raises:
      JaxcamError: it is too long for one.
    """
    if len(name) > LONGEST_NAME:
        raise JaxcamError(f"a name of {len(name):,} letters ({visible(name[:20])}...) is none of a tensor")
    return name


class Metered:
    """A file of which no more is read than a budget grants, for readers that are not ours."""

    def __init__(self, file: BinaryIO, budget: Budget):
        self.file, self.budget = file, budget
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """As of any file."""
        if size > self.budget.bytes:
            self.budget.spend(size=size)
        data = self.file.read(size if size >= 0 else self.budget.bytes + 1)
        self.budget.spend(size=len(data))
        return data
