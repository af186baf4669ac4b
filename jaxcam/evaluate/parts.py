"""Parts of the records of a run in columns: Parquet files, for runs that outgrow lines.

A part holds whole units: their records, one column per fact, and their commit lines among the file's metadata. It
appears whole or not at all, and its name ends in a digest of all its bytes: a part that does not fit its name does not
exist, and its units are made again. What is not a number, or not known, is NaN; text is told once and then by number.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.files import open_file, whole_file

#: Records in a part, at least: what their lines take is 40 MB, and is read again when a run goes on.
ROWS = 100_000
#: Columns that are whole numbers, and those that are text; all others are float64.
WHOLE, TEXT = ("index", "target", "predicted"), ("image", "class", "method", "empty", "boxes")
_PART = re.compile(r"part-(\d+)-(\d+)-([0-9a-f]{16})\.parquet")
_UNITS = b"jaxcam.units"


class Coded(NamedTuple):
    """Text: of each row the number of its word."""

    codes: np.ndarray
    words: list[str]


def available() -> bool:
    """Whether parts can be written and read here."""
    return importlib.util.find_spec("pyarrow") is not None


def coded(values: Sequence[Any]) -> Coded:
    """Text as numbers of words; what is none as ""."""
    place: dict[str, int] = {}
    codes = [place.setdefault("" if v is None else v, len(place)) for v in values]
    return Coded(np.asarray(codes, np.int32), list(place))


def typed(name: str, values: Sequence[Any]) -> np.ndarray | Coded:
    """The column of a name from what JSON says."""
    if name in TEXT:
        return coded(values)
    if name in WHOLE:
        return np.asarray([v if type(v) is int and abs(v) < 1 << 62 else -1 for v in values], np.int64)
    return np.asarray([np.nan if v is None else float(v) for v in values], np.float64)


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray | Coded]:
    """The columns of records as JSON tells them."""
    names = dict.fromkeys(key for record in records for key in record)
    return {name: typed(name, [record.get(name) for record in records]) for name in names}


def write(folder: pathlib.Path, summaries: Sequence[dict], columns: Mapping[str, np.ndarray | Coded]) -> None:
    """Writes units as a part; when this returns it is on the disk. The same units make the same file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = {k: pa.DictionaryArray.from_arrays(*v) if isinstance(v, Coded) else pa.array(v) for k, v in columns.items()}
    lines = b"".join(json.dumps(s, separators=(",", ":")).encode() + b"\n" for s in summaries)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(made).replace_schema_metadata({_UNITS: lines}), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()[:16]
    with whole_file(folder / f"part-{summaries[0]['unit']:06}-{len(summaries)}-{digest}.parquet", durable=True) as f:
        f.write(data)


class Part:
    """Units in columns.

    Args:
      file: whole.
    """

    def __init__(self, file: pathlib.Path):
        import pyarrow.parquet as pq

        self._file = file
        self._metadata = pq.read_metadata(file)

    def summaries(self) -> Iterator[dict]:
        """Its commit lines."""
        return map(json.loads, self._metadata.metadata[_UNITS].splitlines())

    def column(self, name: str) -> np.ndarray | Coded:
        """What each record says."""
        import pyarrow.parquet as pq

        if name not in self._metadata.schema.names:
            return typed(name, [None] * sum(summary["records"] for summary in self.summaries()))
        with pq.ParquetFile(self._file, metadata=self._metadata) as f:
            column = f.read(columns=[name], use_threads=False).column(0)
        if name not in TEXT:
            return column.to_numpy()
        column = column.unify_dictionaries()
        codes = [np.asarray(chunk.indices, np.int32) for chunk in column.chunks]
        return Coded(np.concatenate(codes), column.chunk(0).dictionary.to_pylist())


def read(folder: pathlib.Path) -> tuple[list[Part], int]:
    """The parts of a run, in the order of their first units; and how many units are in damaged ones.

    Raises:
      JaxcamError: there are some and pyarrow is missing; or one cannot be read.
    """
    found, damaged = [], 0
    for file, count, whole in _files(folder):
        if not whole:
            damaged += count
        elif not available():
            raise JaxcamError(f"{folder}: its records are in columns; to read them, pip install 'jaxcam-xai[scale]'")
        else:
            found.append(Part(file))
    return found, damaged


def put_damaged_aside(folder: pathlib.Path) -> None:
    """Renames damaged parts, whose units are to be made again."""
    for file, _, whole in _files(folder):
        if not whole:
            file.replace(file.with_suffix(".damaged"))


def _files(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, int, bool]]:
    """Each part, how many units it holds, and whether it fits its name."""
    for name in sorted(os.listdir(folder)):
        if match := _PART.fullmatch(name):
            with open_file(folder / name) as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()[:16]
            yield folder / name, int(match[2]), digest == match[3]
