"""Opening a file of weights of any supported kind; the kind is told by the content, not by the name."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from jaxcam.converters.budget import Budget, Metered
from jaxcam.converters.keras_files import open_hdf5, open_keras
from jaxcam.converters.numpy_files import open_npz
from jaxcam.converters.safetensors_files import open_safetensors
from jaxcam.converters.tensors import FLOATS, Tensor, check_total, floats, shown
from jaxcam.converters.torch_files import open_legacy, open_zip, unwrapped
from jaxcam.errors import JaxcamError, visible
from jaxcam.files import open_file

#: What a parser may stumble over in a broken file.
_BROKEN = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OverflowError, RecursionError, RuntimeError,
    StopIteration, MemoryError, struct.error, zipfile.BadZipFile, zlib.error, OSError,
)  # fmt: skip


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Opens a file of weights.

    Yields:
      The kind of file ("PyTorch zip", "safetensors" ...) and its tensors by name; they can be read while the
      block lasts. Nothing is read yet but names, shapes and types, and these fit the size of the file.

    Raises:
      JaxcamError: it is none, is damaged, or is not to be trusted. One line, which begins with the path.
    """
    path = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        with _refusing(path):
            file = stack.enter_context(open_file(path))
            kind, tensors = _open(path, file, stack, Budget())
        with _refusing(path, (OSError,)):
            yield kind, tensors


@contextlib.contextmanager
def _refusing(path: pathlib.Path, broken: tuple[type[Exception], ...] = _BROKEN) -> Iterator[None]:
    """Turns whatever a parser stumbles over into the one line that the user sees."""
    try:
        yield
    except JaxcamError as e:
        message = str(e)
        raise JaxcamError(message if message.startswith(visible(path)) else f"{path}: {message}") from None
    except broken as e:
        raise JaxcamError(f"{path}: is cut off or damaged ({type(e).__name__}: {shown(e)})") from None


def _open(
    path: pathlib.Path, file: io.FileIO, stack: contextlib.ExitStack, budget: Budget
) -> tuple[str, dict[str, Tensor]]:
    size, start = os.path.getsize(path), file.read(512)
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        archive = stack.enter_context(zipfile.ZipFile(Metered(file, budget)))
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise JaxcamError("two of its members have one name, of which readers take one or the other; refused")
        if "model.weights.h5" in names:
            return "Keras archive", stack.enter_context(open_keras(file, archive, size, budget))
        if any(n == "data.pkl" or n.endswith("/data.pkl") for n in names):
            return "PyTorch zip", open_zip(path, file, archive, budget)
        if any(n.endswith(".npy") for n in names):
            return "NumPy archive", open_npz(path, archive, budget)
        raise JaxcamError("is an archive, but neither PyTorch nor Keras nor NumPy wrote it")
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return "Keras HDF5", stack.enter_context(open_hdf5(io.BufferedReader(file), budget))
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return "PyTorch legacy", open_legacy(path, io.BufferedReader(file), budget)
    if start[8:9] == b"{":
        return "safetensors", open_safetensors(path, file, budget)
    raise JaxcamError(_guess(start))


def _guess(start: bytes) -> str:
    """What a file that holds no weights probably is."""
    text = start.lstrip().lower()
    if not start:
        return "is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a file of weights: fetch it anew"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run git lfs pull"
    if start[257:262] == b"ustar":
        return "is a tar archive: PyTorch's layout of 2016, or one to unpack first"
    return "is no file of weights that jaxcam knows (PyTorch .pth, .safetensors, NumPy .npz, Keras .h5 or .keras)"


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every tensor of a file of weights, by name.

    Reads PyTorch's `.pth` (both layouts, plain or inside `state_dict`, `model` ...), `.safetensors`, NumPy's `.npz`,
    and Keras's `.h5` and `.keras` (names are `layer/kernel`, `layer/bias` ... then). Nothing in the file is executed.

    Returns:
      float32 arrays, whatever kind of floating-point number is stored; integers as they are.

    Raises:
      JaxcamError: the file is none of these, is damaged, or is not to be trusted.
    """
    with open_checkpoint(path) as (kind, tensors):
        if kind.startswith("PyTorch"):
            tensors = unwrapped(tensors)
        check_total(path, tensors)
        return {name: floats(t) if t.dtype in FLOATS else t.read() for name, t in tensors.items()}
