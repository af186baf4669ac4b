"""Tensors that still lie in a file: shape and type are known and checked, the values are read on demand."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from jaxcam.converters.budget import MOST_DIMENSIONS
from jaxcam.errors import JaxcamError, visible

#: Every element type that can be read, with its NumPy type on disk (little endian).
DTYPES: dict[str, str] = {
    "float16": "<f2",
    "bfloat16": "<u2",
    "float32": "<f4",
    "float64": "<f8",
    "int8": "<i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "<u1",
    "bool": "?",
}
FLOATS = ("float16", "bfloat16", "float32", "float64")
_BLOCK = 1 << 20
_LARGEST = 2**62
#: How many times the file's own size the tensors of a packed one may take; weights hardly ever shrink to a fifth.
_MOST_GROWTH = 16
_ALIGNMENT = 64
#: Bytes of a tensor that are read and turned round at once.
_STRETCH = 16 << 20


def itemsize(dtype: str) -> int:
    """Bytes of one element in a file."""
    return np.dtype(DTYPES[dtype]).itemsize


def shown(name: object) -> str:
    """A name out of an untrusted file as it may appear in a message: on one line, and not long."""
    text = str(name)
    return visible(text if len(text) <= 80 else text[:60] + "..." + text[-10:])


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    Attributes:
      shape: its dimensions, already checked against the size of the file.
      dtype: a key of `DTYPES`; what the file calls it, of one that cannot be read.
      read: returns the values, in a fresh array of that type (bfloat16 as float32).
      rows: the same of the rows from one number to another, where they lie in one piece in the file.
      packed: whether the file holds them compressed, so that they may take more than it.
      why: of one that cannot be read, the reason; empty of others.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    rows: Callable[[int, int], np.ndarray] | None = None
    packed: bool = False
    why: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes that the values take in the file; 0 where they cannot be read."""
        return 0 if self.why else math.prod(self.shape) * itemsize(self.dtype)

    def stretches(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number of a row and the values from it on as float32, a few megabytes at a time where that is possible.

        What float32 cannot hold becomes infinite.
        """
        if self.rows is None:
            yield 0, floats(self)
            return
        step = max(1, _STRETCH // max(1, math.prod(self.shape[1:]) * itemsize(self.dtype)))
        for start in range(0, self.shape[0], step):
            yield start, _float32(self.rows(start, min(start + step, self.shape[0])))


def unreadable(name: str, shape: tuple[int, ...], dtype: str, why: str) -> Tensor:
    """A tensor of which nothing but its name is known to be right: no harm where no network needs it."""

    def read() -> np.ndarray:
        raise JaxcamError(f"{shown(name)}: {why}")

    return Tensor(shape, dtype, read, packed=True, why=why)


def unsupported(name: str, shape: tuple[int, ...], dtype: object, instead: str) -> Tensor:
    """An unreadable tensor, of a type that is not in `DTYPES`; `instead` is the type to store it as."""
    told = shown(dtype)
    return unreadable(name, shape, told, f"has the type {told}, which is not supported; store it as {instead}")


@dataclasses.dataclass
class Span:
    """A stretch of a file that holds the elements of one storage.

    Attributes:
      file: the open file.
      start, size: where it lies, in bytes.
      crc: the checksum the file gives for it; None where the format has none.
    """

    file: BinaryIO
    start: int
    size: int
    crc: int | None = None

    def open(self) -> io.BufferedReader:
        """The stretch as a file of its own."""
        return io.BufferedReader(_Window(self))

    def verify(self, what: str) -> None:
        """Compares the checksum, once; a bit that flipped on a disk would otherwise go unseen."""
        if self.crc is None:
            return
        crc, left = 0, self.size
        self.file.seek(self.start)
        while left:
            block = self.file.read(min(left, _BLOCK))
            if not block:
                raise JaxcamError(f"{what}: is cut off")
            crc, left = zlib.crc32(block, crc), left - len(block)
        if crc != self.crc:
            raise JaxcamError(f"{what}: its checksum is wrong: the file is damaged, or was saved without checksums")
        self.crc = None

    def elements(self, dtype: str, first: int, count: int, what: str) -> np.ndarray:
        """`count` elements from number `first` on, `(count,)`."""
        self.verify(what)
        values = aligned((count,), DTYPES[dtype])
        self.file.seek(self.start + first * values.itemsize)
        view = values.data.cast("B") if count else memoryview(b"")
        done = 0
        while done < len(view):
            got = self.file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise JaxcamError(f"{what}: is cut off")
            done += got
        return widen(values) if dtype == "bfloat16" else values


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, span: Span):
        self.span, self.at = span, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, self.span.size)[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.span.size - self.at))
        self.span.file.seek(self.span.start + self.at)
        count = self.span.file.readinto(view[:count])  # type: ignore[attr-defined]
        self.at += count
        return count


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An array of unset values that begins where JAX on a CPU takes it as it is, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def widen(values: np.ndarray) -> np.ndarray:
    """bfloat16 given as its 16 bits -> float32, exactly."""
    wide = values.astype("<u4")
    wide <<= 16
    return wide.view(np.float32)


def strided(name: str, span: Span, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A tensor that looks at a storage from `offset` on, with `strides` in elements.

    Raises:
      JaxcamError: it reaches beyond the storage, or repeats elements (a tiny file must not grow large).
    """
    check_shape(name, shape)
    if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < _LARGEST for n in (offset, *strides)):
        raise JaxcamError(f"{shown(name)}: its shape is not one of a tensor")
    count = math.prod(shape)
    extent = 1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True)) if count else 0
    room = span.size // itemsize(dtype) - offset
    if extent > room or count > extent:
        raise JaxcamError(f"{shown(name)}: its shape {shape} does not fit the {max(room, 0)} elements stored for it")

    def read() -> np.ndarray:
        flat = span.elements(dtype, offset, extent, shown(name))
        steps = tuple(s * flat.itemsize if d > 1 else 0 for d, s in zip(shape, strides, strict=True))
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, steps)) if count else flat[:0]

    def rows(start: int, stop: int) -> np.ndarray:
        row = math.prod(shape[1:])
        values = span.elements(dtype, offset + start * row, (stop - start) * row, shown(name))
        return values.reshape(stop - start, *shape[1:])

    whole = bool(count and shape) and strides == dense_strides(shape)
    return Tensor(shape, dtype, read, rows if whole else None)


def check_shape(name: str, shape: tuple[Any, ...]) -> None:
    """Refuses what is no shape of a tensor, before anything is computed of it."""
    few = len(shape) <= MOST_DIMENSIONS and all(type(n) is int and 0 <= n < _LARGEST for n in shape)
    if not few or math.prod(n for n in shape if n) >= _LARGEST:
        raise JaxcamError(f"{shown(name)}: its shape is not one of a tensor")


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of an array that lies in one piece in C order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def check_total(path: pathlib.Path, tensors: dict[str, Tensor]) -> None:
    """Refuses a file whose tensors, taken together, are larger than the file itself, or than it can have packed."""
    total, size = sum(t.nbytes for t in tensors.values()), os.path.getsize(path)
    if total > size * (_MOST_GROWTH if all(t.packed for t in tensors.values()) else 1):
        raise JaxcamError(f"{path}: is {size} bytes long but describes {total} bytes of tensors; refused")


def floats(tensor: Tensor) -> np.ndarray:
    """The values as float32; what float32 cannot hold becomes infinite."""
    return _float32(tensor.read())


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)
