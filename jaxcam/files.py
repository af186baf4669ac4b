"""Writing files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import IO

from jaxcam.errors import JaxcamError

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def try_lock(descriptor: int) -> bool:
    """Locks an open file for this process; False where another one holds it.

    The lock goes when the file is closed, or with the process, so that none is ever stale.
    """
    try:
        _lock(descriptor)
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise
        return False
    return True


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file to write to, which takes its name, and an older file's place, only when the block succeeds.

    Raises:
      JaxcamError: the file cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")  # beside it: a rename never crosses disks
    try:
        with open(temporary, "wb") as f:
            yield f
        os.replace(temporary, path)
    except OSError as e:
        raise JaxcamError(f"{path}: cannot be written ({e.strerror or e})") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def check_writable(folder: str | os.PathLike) -> pathlib.Path:
    """Creates the folder where it is missing and proves that a file can be put there.

    Raises:
      JaxcamError: it cannot.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".jaxcam.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise JaxcamError(f"{folder}: cannot be written to ({e.strerror or e}); choose another folder") from None
    return folder
