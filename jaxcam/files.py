"""Files that appear whole or not at all, and locks that die with their process."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from jaxcam.errors import JaxcamError

if TYPE_CHECKING:
    from filelock import FileLock


def try_lock(path: str | os.PathLike) -> FileLock | None:
    """Locks a file, which need not exist, for this process; None where another one holds it.

    The lock goes with its `release`, or with the process, so that none is ever stale.

    Raises:
      OSError: the file cannot be made.
    """
    import filelock  # slow to import, and few need it

    lock = filelock.FileLock(path, thread_local=False)  # whichever thread lets go of it
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return None
    return lock


@contextlib.contextmanager
def locked(path: str | os.PathLike, *, waiting: str = "") -> Iterator[None]:
    """Holds the lock of a file while the block runs; says `waiting`, once, where another process has to end first."""
    while (lock := try_lock(path)) is None:
        if waiting:
            print(waiting, file=sys.stderr)
            waiting = ""
        time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()


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
