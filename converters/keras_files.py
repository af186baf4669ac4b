"""Keras's files: HDF5 as `keras.applications` publishes it, Keras 3's weights files, and `.keras` archives.

Whatever the layout, a tensor is called `layer/kernel`, `layer/bias`, `layer/gamma` ... here.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from jaxcam.converters.tensors import DTYPES, Span, Tensor, aligned, shown, widen
from jaxcam.converters.torch_files import read_member, zip_span
from jaxcam.errors import JaxcamError

#: The spellings of twelve years, the oldest `block1_conv1_W_1:0`; the first group found names the tensor.
_LEAVES = {
    "kernel": r"kernel$|_W(_\d+)?$",
    "bias": r"bias$|_b(_\d+)?$",
    "gamma": r"gamma(_\d+)?$",
    "beta": r"beta(_\d+)?$",
    "moving_mean": r"(moving|running)_mean(_\d+)?$",
    "moving_variance": r"(moving_variance|running_std)(_\d+)?$",
}
#: Keras 3 numbers the variables of a layer.
_NUMBERED = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
_DEEPEST = 12


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own, for HDF5 inside an archive."""

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
        count = self.span.file.readinto(view[:count])
        self.at += count
        return count


@contextlib.contextmanager
def open_hdf5(file: Any) -> Iterator[dict[str, Tensor]]:
    """The tensors of an open HDF5 file, readable while the block lasts."""
    try:
        import h5py
    except ImportError:
        raise JaxcamError("is a Keras file; to read it, pip install 'jaxcam-xai[keras]'") from None
    with h5py.File(file, "r") as f:
        yield _tensors(h5py, f)


@contextlib.contextmanager
def open_keras(file: BinaryIO, archive: zipfile.ZipFile, size: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of a `.keras` archive, readable while the block lasts."""
    members = {i.filename: i for i in archive.infolist()}
    span = zip_span(file, members["model.weights.h5"], size)
    span.verify("model.weights.h5")
    with open_hdf5(_Window(span)) as tensors:
        if "config.json" in members:
            text = read_member(zip_span(file, members["config.json"], size), "config.json")
            tensors = _renamed(tensors, json.loads(text))
        yield tensors


def _tensors(h5py: Any, root: Any) -> dict[str, Tensor]:
    """Walks the groups that hold layers; links out of the file and stored recipes for data are refused."""
    for name in ("model_weights", "layers"):
        if root.get(name, getclass=True) is h5py.Group:
            root = root[name]
            break
    tensors: dict[str, Tensor] = {}
    limit = root.file.id.get_filesize()

    def walk(group: Any, path: tuple[str, ...]) -> None:
        if len(path) > _DEEPEST:
            raise JaxcamError("its groups are nested too deeply")
        for key in group:
            where = shown("/".join((*path, key)))
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise JaxcamError(f"{where}: is a link to another place; refused")
            item = group[key]
            if isinstance(item, h5py.Group):
                walk(item, (*path, key))
            elif isinstance(item, h5py.Dataset):
                name = _name(path, key, group)
                if name in tensors:
                    raise JaxcamError(f"{where}: is the second tensor called {shown(name)}")
                tensors[name] = _tensor(item, where, limit)

    walk(root, ())
    return tensors


def _tensor(data: Any, where: str, limit: int) -> Tensor:
    shape, dtype = tuple(data.shape or ()), data.dtype.name
    if data.attrs.get("dtype") == "bfloat16":
        dtype = "bfloat16"
    if dtype not in DTYPES:
        raise JaxcamError(f"{where}: has the type {shown(dtype)}, which is not supported")
    stored = data.id.get_storage_size()
    tensor = Tensor(shape, dtype, lambda: _values(data, dtype))
    if data.is_virtual or data.external or tensor.nbytes > limit or (data.chunks is None and tensor.nbytes > stored):
        raise JaxcamError(f"{where}: its shape {shape} does not fit the {stored} bytes stored for it; refused")
    return tensor


def _values(data: Any, dtype: str) -> np.ndarray:
    values = aligned(data.shape, data.dtype)
    if values.size:
        data.read_direct(values)
    if dtype == "bfloat16":
        return widen(values.view(np.uint16)) if values.dtype.itemsize == 2 else values.astype(np.float32)
    return values


def _name(path: tuple[str, ...], key: str, group: Any) -> str:
    """`layer/kernel` from the place of a data set."""
    if path and path[-1] == "vars" and key.isdigit():
        label = group.attrs.get("name")
        layer = label if isinstance(label, str) and label else "/".join(path[:-1])
        names = _NUMBERED.get(len(group), ())
        return f"{layer}/{names[int(key)] if int(key) < len(names) else key}"
    leaf = key.split(":")[0]
    for name, pattern in _LEAVES.items():
        if re.search(pattern, leaf) and path:
            return f"{path[0]}/{name}"
    return "/".join((*path, key))


def _renamed(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Names for the layers of early Keras 3 archives, which count the layers of each class instead of naming them."""
    counted: dict[str, int] = {}
    names: dict[str, str] = {}
    for layer in config["config"]["layers"]:
        kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", layer["class_name"]))
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        number = counted[kind] = counted.get(kind, -1) + 1
        names[f"{kind}_{number}" if number else kind] = str(layer["config"]["name"])
    if any(k.split("/")[0] in names.values() for k in tensors):
        return tensors  # named already
    return {f"{names.get(k.split('/')[0], k.split('/')[0])}/{k.split('/', 1)[-1]}": t for k, t in tensors.items()}
