"""PyTorch's two file layouts: the zip archive (since 1.6) and the row of pickles before it."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from jaxcam.converters import pickles
from jaxcam.converters.budget import MOST_DEPTH, Budget, checked_name
from jaxcam.converters.tensors import DTYPES, Span, Tensor, itemsize, shown, strided, unsupported
from jaxcam.errors import JaxcamError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
#: Names under which training scripts put the weights beside their other state.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")


def zip_span(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> Span:
    """Where the bytes of an archive's member lie.

    Raises:
      JaxcamError: it is compressed (what it would grow to is unknown) or does not lie inside the file.
    """
    what = shown(info.filename)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise JaxcamError(f"its member {what} is compressed or encrypted, as no library writes it; refused")
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise JaxcamError(f"its member {what} is damaged")
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > size:
        raise JaxcamError(f"its member {what} reaches beyond the end of the file")
    return Span(file, start, info.file_size, info.CRC)


def read_member(span: Span, what: str, budget: Budget) -> bytes:
    """A small member of an archive, whole."""
    budget.spend(size=span.size)
    span.verify(shown(what))
    span.file.seek(span.start)
    return span.file.read(span.size)


def open_zip(path: pathlib.Path, file: BinaryIO, archive: zipfile.ZipFile, budget: Budget) -> dict[str, Tensor]:
    """The tensors of an archive that `torch.save` wrote."""
    size = os.path.getsize(path)
    members = {i.filename: i for i in archive.infolist()}
    index, *others = (n for n in members if n == "data.pkl" or n.endswith("/data.pkl"))
    if others:
        raise JaxcamError(f"holds two descriptions, {shown(index)} and {shown(others[0])}; refused")
    root = index[: -len("data.pkl")]
    if root + "constants.pkl" in members:
        raise JaxcamError("is a TorchScript program; save model.state_dict() instead")
    order = members.get(root + "byteorder")
    if order and read_member(zip_span(file, order, size), order.filename, budget) != b"little":
        raise JaxcamError("was written on a big-endian machine; save it anew on another")
    described = zip_span(file, members[index], size)
    described.verify(shown(index))
    spans: dict[str, Span] = {}

    def find(ref: pickles.StorageRef) -> Span:
        if ref.key not in spans:
            member = members.get(f"{root}data/{ref.key}")
            if member is None:
                raise JaxcamError(f"its storage {shown(ref.key)} is missing")
            spans[ref.key] = zip_span(file, member, size)
        return spans[ref.key]

    return _tensors(pickles.load(described.open(), budget), find)


def open_legacy(path: pathlib.Path, file: io.BufferedReader, budget: Budget) -> dict[str, Tensor]:
    """The tensors of a file in the older layout: five pickles, then every storage behind its length."""
    if pickles.load(file, budget) != LEGACY_MAGIC or pickles.load(file, budget) != 1001:
        raise JaxcamError("is a pickle, but not one of PyTorch's; save it with torch.save")
    system = pickles.load(file, budget)
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise JaxcamError("was written on a big-endian machine; save it anew on another")
    refs: dict[str, pickles.StorageRef] = {}

    def remember(pid: Any) -> pickles.StorageRef:
        ref = pickles.storage(pid)
        if refs.setdefault(ref.key, ref).dtype != ref.dtype:
            raise ValueError("one storage with two types")
        return ref

    found = pickles.load(file, budget, persistent=remember)
    keys = pickles.load(file, budget)
    if not isinstance(keys, list):
        raise ValueError("no list of storages")
    spans: dict[str, Span] = {}
    size = os.path.getsize(path)
    for key in keys:
        if type(key) is not str or key not in refs or key in spans:
            raise ValueError("a storage that no tensor names")
        header = file.read(8)
        start = file.tell()
        if refs[key].dtype not in DTYPES:  # how long such a storage is, nothing tells
            raise JaxcamError(f"its storage {shown(key)} has the type {refs[key].dtype}, which is not supported")
        length = struct.unpack("<q", header)[0] * itemsize(refs[key].dtype)
        if not 0 <= length <= size - start:
            raise JaxcamError(f"its storage {shown(key)} reaches beyond the end of the file")
        spans[key] = Span(file, start, length)
        file.seek(start + length)
    if file.tell() != size:
        raise JaxcamError("has bytes behind its last storage: it is damaged")
    return _tensors(found, lambda ref: spans[ref.key])


def _tensors(found: Any, find: Callable[[pickles.StorageRef], Span]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, ref in _flat(found):
        span, offset = find(ref.storage), ref.offset
        checked_name(name)
        if ref.storage.dtype not in DTYPES:
            tensors[name] = unsupported(name, (), ref.storage.dtype, "float32")
            continue
        item = itemsize(ref.storage.dtype)
        if type(offset) is not int or (ref.storage.base + ref.storage.numel) * item > span.size:
            raise JaxcamError(f"{shown(name)}: its storage is shorter than it should be: the file is damaged")
        tensors[name] = strided(name, span, ref.storage.dtype, offset + ref.storage.base, ref.shape, ref.strides)
    if not tensors:
        raise JaxcamError("holds no table of weights; save model.state_dict()")
    return tensors


def _flat(found: Any) -> Iterator[tuple[str, pickles.TensorRef]]:
    """The tensors in a dictionary and those within it, as `state_dict/conv1.weight`; each dictionary is seen once."""
    seen: set[int] = set()

    def walk(table: dict, path: str, depth: int) -> Iterator[tuple[str, pickles.TensorRef]]:
        if depth > MOST_DEPTH or id(table) in seen:
            return
        seen.add(id(table))
        for key, value in table.items():
            if isinstance(value, pickles.TensorRef):
                yield path + key, value
            elif isinstance(value, dict):  # not an epoch, an option ...
                yield from walk(value, f"{path}{checked_name(key)}/", depth + 1)

    if isinstance(found, dict):
        yield from walk(found, "", 0)


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights among the tensors of a training script, without the keys under which it put them."""
    for _ in range(4):
        wrapper = next((w for w in WRAPPERS if any(n.startswith(w + "/") for n in tensors)), None)
        if wrapper is None:
            break
        tensors = {n[len(wrapper) + 1 :]: t for n, t in tensors.items() if n.startswith(wrapper + "/")}
    return {n: t for n, t in tensors.items() if "/" not in n} or tensors
