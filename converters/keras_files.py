"""Keras's files: HDF5 as `keras.applications` publishes it, Keras 3's weights files, and `.keras` archives.

Whatever the layout, a tensor is called `layer/kernel`, `layer/bias`, `layer/gamma` ... here.
"""

from __future__ import annotations

import contextlib
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from jaxcam.converters.budget import LONGEST_NAME, MOST_DEPTH, Budget, checked_name
from jaxcam.converters.tensors import DTYPES, Tensor, aligned, check_shape, shown, unsupported, widen
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
#: What one object of HDF5 costs of the budget: to open one takes as long as twenty instructions of a pickle.
_OBJECT = 20
#: Bytes of a piece of a small tensor.
_LARGEST_CHUNK = 4 << 20
#: HDF5's numbers of the filters that it brings itself; for others it would load programs.
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3


@contextlib.contextmanager
def open_hdf5(file: BinaryIO, budget: Budget) -> Iterator[dict[str, Tensor]]:
    """The tensors of an open HDF5 file, readable while the block lasts."""
    try:
        import h5py
    except ImportError:
        raise JaxcamError("is a Keras file; to read it, pip install 'jaxcam-xai[keras]'") from None
    with h5py.File(file, "r") as f:
        yield _tensors(h5py, f, budget)


@contextlib.contextmanager
def open_keras(file: BinaryIO, archive: zipfile.ZipFile, size: int, budget: Budget) -> Iterator[dict[str, Tensor]]:
    """The tensors of a `.keras` archive, readable while the block lasts."""
    members = {i.filename: i for i in archive.infolist()}
    span = zip_span(file, members["model.weights.h5"], size)
    span.verify("model.weights.h5")
    with open_hdf5(span.open(), budget) as tensors:
        if "config.json" in members:
            text = read_member(zip_span(file, members["config.json"], size), "config.json", budget)
            tensors = _renamed(tensors, budget.json(text))
        yield tensors


def _tensors(h5py: Any, root: Any, budget: Budget) -> dict[str, Tensor]:
    """Walks the groups that hold layers. What leads out of the file, or to a place twice, is refused unopened."""
    for name in ("model_weights", "layers"):
        if _linked(h5py, root.id, name.encode(), name) and isinstance(
            inner := _opened(h5py, root.id, name), h5py.Group
        ):
            root = inner
            break
    tensors: dict[str, Tensor] = {}
    limit = root.file.id.get_filesize()
    seen: set[int] = set()

    def walk(group: Any, path: tuple[str, ...]) -> None:
        if len(path) > MOST_DEPTH:
            raise JaxcamError("its groups are nested too deeply")
        for key in group:
            budget.spend(objects=_OBJECT, size=len(key))
            where = shown("/".join((*path, key)))
            if not _linked(h5py, group.id, key.encode("utf-8", "surrogateescape"), where):
                raise JaxcamError(f"{where}: is missing: the file is damaged")
            item = _opened(h5py, group.id, key)
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:
                raise JaxcamError(f"{where}: stands in the file under another name as well; refused")
            seen.add(place)
            if isinstance(item, h5py.Group):
                walk(item, (*path, key))
            elif isinstance(item, h5py.Dataset):
                name = checked_name(_name(h5py, path, key, group))
                if name in tensors:
                    raise JaxcamError(f"{where}: is the second tensor called {shown(name)}")
                tensors[name] = _tensor(h5py, item, where, limit)

    walk(root, ())
    return tensors


def _linked(h5py: Any, group: Any, key: bytes, where: str) -> bool:
    """Whether a group has such an entry; one that leads elsewhere is refused, and not followed."""
    if not group.links.exists(key):
        return False
    if group.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise JaxcamError(f"{where}: is a link to another place; refused")
    return True


def _opened(h5py: Any, group: Any, key: str) -> Any:
    """The object under a name, without the questions that h5py asks and that open what a virtual one consists of."""
    found = h5py.h5o.open(group, key.encode("utf-8", "surrogateescape"))
    kinds = {h5py.h5g.GroupID: h5py.Group, h5py.h5d.DatasetID: h5py.Dataset}
    return kinds[type(found)](found) if type(found) in kinds else h5py.Datatype(found)


def _label(h5py: Any, item: Any, name: str) -> str:
    """A short text among the attributes of an object; "" where there is none."""
    if not h5py.h5a.exists(item.id, name.encode()):
        return ""
    attribute = h5py.h5a.open(item.id, name.encode())
    if attribute.shape != () or attribute.get_storage_size() > LONGEST_NAME:
        return ""
    value = item.attrs.get(name)
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) and len(value) <= LONGEST_NAME else ""


def _tensor(h5py: Any, data: Any, where: str, limit: int) -> Tensor:
    stored_as = data.id.get_create_plist()
    if stored_as.get_layout() == h5py.h5d.VIRTUAL:
        raise JaxcamError(f"{where}: is virtual, put together from other files; refused")
    if stored_as.get_external_count():
        raise JaxcamError(f"{where}: lies in another file (external storage); refused")
    filters = [stored_as.get_filter(i)[0] for i in range(stored_as.get_nfilters())]
    if set(filters) - {_DEFLATE, _SHUFFLE, _FLETCHER32}:
        raise JaxcamError(f"{where}: is stored by a filter that is not gzip's; refused")
    shape, kind = tuple(data.shape or ()), data.dtype
    check_shape(where, shape)
    dtype = kind.name
    if _label(h5py, data, "dtype") == "bfloat16" and dtype != "float32":
        dtype = "bfloat16" if kind.kind in "uV" and kind.itemsize == 2 else f"bfloat16 stored as {dtype}"
    if dtype not in DTYPES:
        return unsupported(where, shape, dtype, "float32")
    stored, size = data.id.get_storage_size(), math.prod(shape) * kind.itemsize
    if size > limit or (data.chunks is None and size > stored > 0):
        raise JaxcamError(f"{where}: its shape {shape} does not fit the {stored} bytes stored for it; refused")
    if data.chunks is None:
        parts, there = size, stored
    else:
        parts = math.prod(-(-n // c) for n, c in zip(shape, data.chunks, strict=True))
        there = data.id.get_num_chunks()
        if math.prod(data.chunks) * kind.itemsize > max(size, _LARGEST_CHUNK):
            raise JaxcamError(f"{where}: is stored in pieces that are larger than itself; refused")
    if there < parts:
        raise JaxcamError(f"{where}: was never written, or not all of it; refused")
    packed = data.chunks is not None and _DEFLATE in filters
    return Tensor(shape, dtype, lambda: _values(data, dtype, where, packed))


def _values(data: Any, dtype: str, where: str, packed: bool) -> np.ndarray:
    values = aligned(data.shape, data.dtype)
    try:
        if packed:
            _check_growth(data, where)
        if values.size:
            data.read_direct(values)
    except JaxcamError:
        raise
    except (zlib.error, OSError, RuntimeError, OverflowError, TypeError, ValueError) as e:
        raise JaxcamError(f"{where}: is cut off or damaged ({shown(e)})") from None
    if dtype != "bfloat16":
        return values
    return widen(values.view("<u2") if values.dtype.kind == "V" else values.astype("<u2"))


def _check_growth(data: Any, where: str) -> None:
    """Refuses pieces that would unpack to more than they should be: HDF5 believes the packed bytes, not the shape."""
    size = math.prod(data.chunks) * data.dtype.itemsize
    for i in range(data.id.get_num_chunks()):
        piece = data.id.get_chunk_info(i)
        if piece.size > 2 * size + 1024:
            raise JaxcamError(f"{where}: is stored in pieces that are larger than itself; refused")
        if piece.filter_mask == 0:
            unpacked = zlib.decompressobj().decompress(data.id.read_direct_chunk(piece.chunk_offset)[1], size + 64)
            if len(unpacked) > size + 8:  # a checksum may be packed with it
                raise JaxcamError(f"{where}: would unpack to more than its shape; refused")


def _name(h5py: Any, path: tuple[str, ...], key: str, group: Any) -> str:
    """`layer/kernel` from the place of a data set."""
    if path and path[-1] == "vars" and key.isdigit():
        layer = _label(h5py, group, "name") or "/".join(path[:-1])
        names = _NUMBERED.get(len(group), ())
        return f"{layer}/{names[int(key)] if int(key) < len(names) else key}"
    leaf = key.split(":")[0]
    for name, pattern in _LEAVES.items():
        if re.search(pattern, leaf) and path:
            # A layer's tensors lie in a group of its name once more; a model within a model holds several layers.
            again = len(path) > 1 and path[-1] == path[-2]
            within = again or (len(path) > 1 and len(group.parent) > 1)
            return f"{'/'.join(path[:-1] if again else path) if within else path[0]}/{name}"
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
