"""The safetensors layout: the header's length, the header in JSON, then the bytes of every tensor."""

from __future__ import annotations

import json
import os
import pathlib
import struct
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np

from jaxcam.converters.budget import MOST_BYTES, Budget, checked_name
from jaxcam.converters.tensors import Span, Tensor, check_shape, dense_strides, shown, strided, unsupported
from jaxcam.errors import JaxcamError
from jaxcam.files import whole_file

_TYPES = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def open_safetensors(path: pathlib.Path, file: BinaryIO, budget: Budget) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    size = os.path.getsize(path)
    file.seek(0)
    length = struct.unpack("<Q", file.read(8))[0]
    if length > size - 8:
        raise JaxcamError("its header reaches beyond the end of the file: it is cut off or damaged")
    if length > MOST_BYTES:
        budget.spend(size=length)
    header = budget.json(file.read(length))
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda e: e[1]["data_offsets"]):
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if type(start) is not int or type(stop) is not int or start != end or not start <= stop <= size - 8 - length:
            raise JaxcamError(f"{shown(name)}: its bytes overlap others or lie beyond the end of the file")
        check_shape(checked_name(name), shape)
        if dtype not in _TYPES:
            tensors[name], end = unsupported(name, shape, dtype, "F32"), stop
            continue
        span = Span(file, 8 + length + start, stop - start)
        tensor = strided(name, span, _TYPES[dtype], 0, shape, dense_strides(shape))
        if tensor.nbytes != stop - start:
            raise JaxcamError(f"{shown(name)}: its shape {shape} is not that of its {stop - start} bytes")
        tensors[name], end = tensor, stop
    if 8 + length + end != size:
        raise JaxcamError("is longer or shorter than its header says: it is damaged")
    return tensors


def write_safetensors(
    path: str | os.PathLike,
    tensors: Iterable[tuple[str, tuple[int, ...], str]],
    read: Callable[[str], Iterable[np.ndarray]],
    *,
    metadata: dict[str, str],
) -> None:
    """Writes a safetensors file a part of a tensor at a time, so that the weights are never held twice.

    Args:
      tensors: name, shape and type ("F32", "I64") of each.
      read: gives the values of the tensor of a name, in one array or several that follow each other.
      metadata: texts to keep in the header.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape, dtype in tensors:
        stop = end + int(np.prod(shape, dtype=np.int64)) * {"F32": 4, "I64": 8}[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, stop]}
        end = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight, as readers that map the file like it
    with whole_file(path) as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in header:
            if name != "__metadata__":
                for part in read(name):
                    f.write(np.ascontiguousarray(part).data)
