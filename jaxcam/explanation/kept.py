"""Programs of this library's own networks, kept between processes: neither traced nor compiled a second time.

JAX's own cache saves what XLA does, by the program; to trace that again takes longer than to explain a photo. A file
here goes by what makes the program instead: its description, the arguments' shapes, JAX's settings and devices, and
the source code of this library.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from jaxcam.files import whole_file

_folder: pathlib.Path | None = None
_most = 0
#: Threads that compile without JAX's cache, and where it is else.
_compiling, _aside = 0, None
_lock = threading.Lock()


def keep_in(folder: pathlib.Path | None, most: int = 0) -> None:
    """From now on, programs are kept in a folder that nobody else writes to; None: no longer.

    Args:
      most: bytes; what was used longest ago goes first.
    """
    global _folder, _most
    _folder, _most = folder, most


def kept(said: str | None, arguments: Any, make: Callable[[], Any]) -> tuple[Any, Callable[[], Any] | None]:
    """A compiled program: the one that an earlier process kept, or what `make` returns.

    Args:
      said: what the program computes, the same in every process; None where there are no words for it.
      arguments: what else it depends on, by its `repr`.
      make: compiles it.

    Returns:
      The program; and for one that was kept what makes it anew, should it not run: that is not known before.
    """
    if said is None or _folder is None or jax.process_count() > 1:
        return make(), None
    file = _folder / hashlib.sha256(f"{said}\n{arguments!r}\n{_surroundings()}".encode()).hexdigest()
    # Whatever is wrong with a file, such as another machine's instructions in it: it is made anew.
    with contextlib.suppress(Exception):
        data = file.read_bytes()
        digest, content = data[:32], data[32:]
        if hashlib.sha256(content).digest() == digest:
            program = deserialize_and_load(*pickle.loads(content))
            os.utime(file)
            return program, lambda: _made(file, make)
    return _made(file, make), None


def _made(file: pathlib.Path, make: Callable[[], Any]) -> Any:
    """The program, compiled here and kept in a file."""
    with _compiling_here():
        program = make()
    with contextlib.suppress(Exception):  # a full disk; a program that cannot be written
        content = pickle.dumps(serialize(program))
        with whole_file(file) as f:
            f.write(hashlib.sha256(content).digest() + content)
        _make_room(file.parent)
    return program


@contextlib.contextmanager
def _compiling_here() -> Iterator[None]:
    """Without JAX's own cache: what that gives back runs, but on CPUs lacks the code to be written once more."""
    global _compiling, _aside
    with _lock:
        if not _compiling:
            _aside = _exchange(None)
        _compiling += 1
    try:
        yield
    finally:
        with _lock:
            _compiling -= 1
            if not _compiling:
                _exchange(_aside)


def _exchange(folder: str | None) -> str | None:
    """Has JAX keep its cache in a folder; returns where it was."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()
    return before


def _make_room(folder: pathlib.Path) -> None:
    """Removes what was used longest ago, where there is too much."""
    files = sorted(((s.st_mtime, s.st_size, p) for p in folder.iterdir() for s in [p.stat()]), reverse=True)
    total = 0
    for _, size, file in files:
        total += size
        if total > _most:
            file.unlink(missing_ok=True)


@functools.cache
def _surroundings() -> str:
    """What a program depends on besides its arguments."""
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")]
    settings = {k: str(v) for k, v in jax.config.values.items() if "cache" not in k}
    variables = {k: v for k, v in os.environ.items() if k.startswith(("JAX", "XLA", "LIBTPU", "CUDA_VISIBLE"))}
    package = pathlib.Path(__file__).parents[1]
    sources = [(str(p), s.st_size, s.st_mtime_ns) for p in sorted(package.rglob("*.py")) for s in [p.stat()]]
    devices = [(d, d.device_kind) for d in jax.devices()]
    return repr((versions, sorted(settings.items()), sorted(variables.items()), devices, sources))
