"""NumPy's `.npz`: an archive with one `.npy` for each array, packed or not."""

from __future__ import annotations

import functools
import math
import os
import pathlib
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from jaxcam.converters.budget import Budget, checked_name
from jaxcam.converters.tensors import DTYPES, Tensor, aligned, check_shape, shown, unreadable, unsupported
from jaxcam.errors import JaxcamError

#: The longest header of an array that is read; NumPy's own limit.
_LONGEST_HEADER = 10_000


def open_npz(path: pathlib.Path, archive: zipfile.ZipFile, budget: Budget) -> dict[str, Tensor]:
    """The arrays of an archive that `numpy.savez` or `numpy.savez_compressed` wrote; what is no number is not read."""
    size, tensors = os.path.getsize(path), {}
    for info in archive.infolist():
        name = checked_name(info.filename.removesuffix(".npy"))
        if info.filename == name:
            raise JaxcamError(f"its member {shown(name)} is no array of NumPy's")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise JaxcamError(f"{shown(name)}: is encrypted, or packed otherwise than NumPy does; refused")
        if info.compress_size > size:
            raise JaxcamError(f"{shown(name)}: reaches beyond the end of the file")
        with archive.open(info) as member:
            data: Any = member
            shape, fortran, dtype = _header(data, name, budget)
            start = data.tell()
        kind = next((k for k, v in DTYPES.items() if k != "bfloat16" and np.dtype(v) == dtype), None)
        check_shape(name, shape)
        if dtype.byteorder == ">":
            why = "was written on a big-endian machine; save it anew on another"
            tensors[name] = unreadable(name, shape, shown(dtype), why)
            continue
        if kind is None or dtype.hasobject:
            tensors[name] = unsupported(name, shape, dtype, "float32")
            continue
        if start + math.prod(shape) * dtype.itemsize != info.file_size:
            raise JaxcamError(f"{shown(name)}: its shape {shape} is not that of its {info.file_size - start} bytes")
        packed = info.compress_type != zipfile.ZIP_STORED
        read = functools.partial(_values, path, info, start, shape, dtype, fortran)
        tensors[name] = Tensor(shape, kind, read, packed=packed)
    return tensors


def _header(member: BinaryIO, name: str, budget: Budget) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type at the beginning of an array."""
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise JaxcamError(f"{shown(name)}: is of version {version} of NumPy's format, of which 1.0 and 2.0 are known")
    budget.spend(size=_LONGEST_HEADER // 8, objects=8)
    shape, fortran, dtype = read(member, max_header_size=_LONGEST_HEADER)
    return shape, fortran, dtype


def _values(
    path: pathlib.Path, info: zipfile.ZipInfo, start: int, shape: tuple[int, ...], dtype: np.dtype, fortran: bool
) -> np.ndarray:
    """The values of one array, which begin at a place in a member."""
    values = aligned(shape[::-1] if fortran else shape, dtype)
    view, done = values.reshape(-1).view(np.uint8).data, 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as member:
            member.read(start)
            while done < len(view):
                part = member.read(min(len(view) - done, 1 << 20))
                if not part:
                    raise EOFError("it ends early")
                view[done : done + len(part)] = part
                done += len(part)
            member.read(1)  # which compares the checksum
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as e:
        raise JaxcamError(f"{shown(info.filename)}: is cut off or damaged ({shown(e)})") from None
    return values.T if fortran else values
