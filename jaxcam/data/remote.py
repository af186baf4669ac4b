"""Pictures that lie elsewhere: folders and tar shards behind any URL that fsspec reads, and random-access sources.

A data set is its listing: names, classes and sizes. Bytes are fetched one picture at a time, by the threads or
processes that decode it, as ranges where pictures lie in shards; one that cannot be fetched is a picture that cannot be
read, and is named as such. Credentials and endpoints are those of fsspec's implementations: their environment
variables and files.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import operator
import pathlib
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxcam.data.annotations import Problem
from jaxcam.data.datasets import SUFFIXES
from jaxcam.data.images import MAX_BYTES, Picture, first_line
from jaxcam.data.samples import Dataset, Item
from jaxcam.errors import JaxcamError

_URL = re.compile(r"[a-z][a-z0-9+.-]+://.")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS, _MOST_CLASSES = 1_000_000, 100_000
#: Parts of a data set, of which the first that is there is read.
PARTS = ("val", "validation", "test")


def is_url(place: str) -> bool:
    """Whether a place is one that fsspec is asked for."""
    return bool(_URL.match(place))


@functools.lru_cache(maxsize=64)
def _reached(place: str) -> tuple[Any, str]:
    """The file system of a place, and what it is called there."""
    import fsspec

    with reading(place):
        try:
            return fsspec.core.url_to_fs(place)
        except ImportError as e:  # which names the package
            raise JaxcamError(f"{place}: {first_line(e)}") from None


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """What is raised while a place is read, of as many kinds as there are libraries and file systems, as one line."""
    try:
        yield
    except JaxcamError:
        raise
    except Exception as e:
        raise JaxcamError(f"{place}: cannot be read ({first_line(e)})") from None


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Fetches the bytes of a picture.

    Attributes:
      place: a URL or path of the file system.
      path: of the file, as the file system calls it.
      size: bytes.
      start: where they begin in the file.
    """

    place: str
    path: str
    size: int
    start: int = 0

    def __call__(self) -> bytes:
        if self.size > MAX_BYTES:
            raise JaxcamError(f"{self.path}: takes {self.size:,} bytes; of such files up to {MAX_BYTES:,} are read")
        with reading(self.path):
            data = _reached(self.place)[0].cat_file(self.path, start=self.start, end=self.start + self.size)
        if not data:
            raise JaxcamError(f"{self.path}: is empty (0 bytes)")
        return data


def read_folder(place: str, *, split: str | None = None) -> Dataset:
    """A folder behind a URL: CLASS/PICTURE, also below `val`; or tar shards and no pictures.

    Raises:
      JaxcamError: it cannot be listed, or holds neither.
    """
    fs, root = _reached(place)
    with reading(place):
        found = fs.find(root, detail=True)
    sizes = {path[len(root.rstrip("/")) + 1 :]: (path, int(told.get("size") or 0)) for path, told in found.items()}
    parts = {name.split("/")[0] for name in sizes if "/" in name}
    part = split or next((p for p in PARTS if p in parts), None)
    if part is not None:
        if part not in parts:
            raise JaxcamError(f"{place}: has no folder {part!r}")
        sizes = {name[len(part) + 1 :]: told for name, told in sizes.items() if name.startswith(f"{part}/")}
        place = f"{place.rstrip('/')}/{part}"
    pictures = {name: told for name, told in sizes.items() if _is_picture(name)}
    if not pictures and (shards := [path for name, (path, _) in sizes.items() if name.endswith(".tar")]):
        return _read_shards(place, fs, sorted(shards))
    classes = sorted({name.split("/")[0] for name in pictures if "/" in name})
    if not classes:
        raise JaxcamError(f"{place}: holds no class folders with pictures, and no tar shards")
    alone = [Problem("picture without class folder", name, "") for name in sorted(pictures) if "/" not in name]
    labelled = {name: [name.split("/")[0]] for name in pictures if "/" in name}
    fetch = {name: Fetch(place, path, size) for name, (path, size) in pictures.items()}
    return _assembled(place, "folder", labelled, fetch, alone)


def is_shards(place: str) -> bool:
    """Whether a place is tar files: their name, pattern or range, or a folder of nothing else."""
    if place.endswith(".tar"):
        return True
    folder = pathlib.Path(place)
    return (
        not is_url(place)
        and folder.is_dir()
        and any(folder.glob("*.tar"))
        and not any(p.is_dir() for p in folder.iterdir())
    )


def read_shards(place: str, *, split: str | None = None) -> Dataset:
    """Tar files in WebDataset's format: files of one name but for the ending are a sample.

    `KEY.jpg` (or another picture) is the picture, and `KEY.cls` its class, a number or a name; where there is none, the
    folder that it lies in is. Only headers are read.

    Args:
      place: a file, a pattern (`train-*.tar`), a range (`train-{000..127}.tar`) or a folder, also as a URL.
      split: must be None: the name says it.

    Raises:
      JaxcamError: there is no such file, one is not a tar file, or none holds pictures with classes.
    """
    if split is not None:
        raise JaxcamError(f"{place}: of shards the part is chosen by their names, not by a split")
    fs, pattern = _reached(place)
    with reading(place):
        if place.endswith(".tar"):
            found = [p for one in _ranges(pattern) for p in (fs.glob(one) if any(c in one for c in "*?[") else [one])]
        else:
            found = fs.glob(f"{pattern.rstrip('/')}/*.tar")
    if not found:
        raise JaxcamError(f"{place}: there is no such file")
    return _read_shards(place, fs, sorted(found))


def _ranges(pattern: str) -> Iterator[str]:
    """`a-{00..02}.tar` as `a-00.tar`, `a-01.tar`, `a-02.tar`."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = int(match[1]), int(match[2])
    if last - first >= _MOST_SHARDS:
        raise JaxcamError(f"{pattern}: names more than {_MOST_SHARDS:,} files")
    for i in range(first, last + 1):
        yield from _ranges(f"{pattern[: match.start()]}{i:0{len(match[1])}}{pattern[match.end() :]}")


def _read_shards(place: str, fs: Any, shards: Sequence[str]) -> Dataset:
    labelled: dict[str, list[str]] = {}
    fetch: dict[str, Fetch] = {}
    problems: list[Problem] = []
    samples = [(shard, *sample) for shard in shards for sample in _samples(place, fs, shard)]
    own = collections.Counter(name for _, name, _, _ in samples)
    for shard, name, label, where in samples:
        called = name if own[name] == 1 else f"{shard.rsplit('/', 1)[-1]}/{name}"
        if label is None:
            problems.append(Problem("picture without class", called, ""))
        elif called in fetch:
            problems.append(Problem("picture named twice", called, ""))
        else:
            labelled[called], fetch[called] = [label], where
    if not fetch:
        raise JaxcamError(f"{place}: holds no picture with a class (KEY.jpg and KEY.cls, or CLASS/KEY.jpg)")
    return _assembled(place, "tar", labelled, fetch, problems)


def _samples(place: str, fs: Any, shard: str) -> list[tuple[str, str | None, Fetch]]:
    """Name, class and place of each picture of a shard."""
    pictures: dict[str, tuple[str, Fetch]] = {}
    classes: dict[str, str] = {}
    with reading(shard):
        try:
            with fs.open(shard, "rb") as f, tarfile.open(fileobj=f, mode="r:") as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    folder, _, file = name.rpartition("/")
                    key = f"{folder}/{file.split('.')[0]}"
                    if not member.isreg() or file.startswith("."):
                        continue
                    if _is_picture(name):
                        pictures[key] = (name, Fetch(place, shard, member.size, member.offset_data))
                    elif file.endswith(".cls") and member.size < 1000:
                        read = tar.extractfile(member)
                        classes[key] = (read.read() if read else b"").decode("utf-8", "replace").strip()
        except FileNotFoundError:
            raise JaxcamError(f"{shard}: there is no such file") from None
        except tarfile.TarError as e:
            raise JaxcamError(f"{shard}: is not a tar file, is compressed, or is cut off ({first_line(e)})") from None
    found = []
    for key, (name, where) in pictures.items():
        folder = name.rpartition("/")[0].rpartition("/")[2]
        found.append((name, classes.get(key) or folder or None, where))
    return found


def _is_picture(name: str) -> bool:
    path = pathlib.PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


class RandomAccess(Protocol):
    """What gives a record by its number: a source of Grain, a data set of Hugging Face's or TFDS's, a list."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """Fetches the picture of a record."""

    source: RandomAccess
    index: int
    picture: Callable[[Any], Picture]
    size: int = -1

    def __call__(self) -> Picture:
        with reading(f"record {self.index}"):
            return self.picture(self.source[self.index])


def from_source(
    source: RandomAccess, *, classes: Sequence[str], picture: str | Callable[[Any], Picture] = "image",
    label: str | Callable[[Any], Any] = "label", labels: Iterable | None = None, name: str = "source",
) -> Dataset:  # fmt: skip
    """The records of a random-access source, read one at a time, when they are decoded.

    Args:
      source: such as `grain.sources.ArrayRecordDataSource`, `tfds.data_source(...)`, a `datasets.Dataset`.
      classes: what the labels are.
      picture: of a record: its key, or a function; what comes of it is as in `jaxcam.data.images.to_picture`.
      label: likewise its class, by number or name, or a list of classes.
      labels: of all records, where they are known without reading these, as a column of them.
      name: what to call the data set.

    Raises:
      JaxcamError: there is no such class, or a record cannot be read for its label.
    """
    of = picture if callable(picture) else operator.itemgetter(picture)
    which = label if callable(label) else operator.itemgetter(label)
    with reading(name):
        known = list(labels) if labels is not None else [which(source[i]) for i in range(len(source))]
    known = [own.tolist() if isinstance(own, np.ndarray) else own for own in known]
    return Dataset.of([Record(source, i, of) for i in range(len(source))], known, classes=classes, name=name)


def numbered_classes(ids: Collection[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes that pictures name, in order, and the number of each; numbers are those of the network's classes."""
    if ids and all(one.isdecimal() and int(one) < _MOST_CLASSES for one in ids):  # whatever these are called
        index = {one: int(one) for one in ids}
        return tuple(map(str, range(max(index.values()) + 1))), index
    classes = tuple(sorted(ids))
    return classes, {one: i for i, one in enumerate(classes)}


def _assembled(
    place: str, kind: str, labelled: Mapping[str, list[str]], fetch: Mapping[str, Fetch], problems: Iterable[Problem]
) -> Dataset:
    """A data set of pictures to fetch, by name, with the ids of their classes."""
    classes, index = numbered_classes({one for own in labelled.values() for one in own})
    items = [
        Item(name, pathlib.Path(name), tuple(sorted(index[one] for one in own)), picture=fetch[name])
        for name, own in sorted(labelled.items())
    ]
    root = pathlib.Path(place.rstrip("/").rsplit("/", 1)[-1] if is_url(place) else place)
    return Dataset(root, kind, classes, classes, tuple(items), False, tuple(problems), url=place)
