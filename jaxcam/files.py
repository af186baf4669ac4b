"""Files that appear whole or not at all, and locks that die with their process."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import stat
import sys
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from jaxcam.errors import JaxcamError, visible

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
            print(visible(waiting), file=sys.stderr)
            waiting = ""
        time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()


def open_file(path: str | os.PathLike) -> io.FileIO:
    """Opens a file for reading, unbuffered; never waits, as a pipe that nobody writes to would make one wait.

    Raises:
      JaxcamError: there is none, it cannot be opened, or it is a folder, a pipe or a device. One line.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        kind = os.fstat(handle).st_mode
    except FileNotFoundError:
        raise JaxcamError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as e:  # ValueError: a null byte in the name
        raise JaxcamError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from None
    if stat.S_ISREG(kind):
        return os.fdopen(handle, "rb", buffering=0)
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise JaxcamError(f"{path}: is a folder; name a file in it")
    raise JaxcamError(f"{path}: is a pipe or a device; save what comes out of it in a file first")


#: Bytes of a file that is read whole: twice what the annotations of the largest data sets take, and of lists and
#: descriptions, which no person or tool writes so long.
MOST_BYTES, MOST_LISTED = 2 << 30, 64 << 20


def read_file(path: str | os.PathLike, most: int = MOST_BYTES) -> bytes:
    """A file, whole; never waits, and takes no memory for one that is too large.

    Raises:
      JaxcamError: as of `open_file`; or it takes more than `most` bytes. One line.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = (file.readall() if size <= most else b"") or b""  # None of what is no file, and would make one wait
        except OSError as e:
            raise JaxcamError(f"{path}: cannot be read ({e.strerror or e})") from None
    if max(size, len(data)) > most:
        raise JaxcamError(f"{path}: takes {max(size, len(data)):,} bytes; of such files up to {most:,} are read")
    return data


def read_text(path: str | os.PathLike) -> str:
    """A list or a description in UTF-8, whole.

    Raises:
      JaxcamError: as of `read_file`; or it is no such text. One line.
    """
    try:
        return read_file(path, MOST_LISTED).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise JaxcamError(f"{path}: cannot be read ({e})") from None


def clipped(name: str, most: int) -> str:
    """The beginning of a file name that takes at most so many bytes on disk; no letter is cut in two."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def _possible(path: str | os.PathLike) -> pathlib.Path:
    """A path that a file can have."""
    if "\0" in os.fspath(path):
        raise JaxcamError(f"{path}: no file can be called so; choose another name")
    return pathlib.Path(path)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A binary file to write to, which takes its name, and an older file's place, only when the block succeeds.

    Through a symbolic link the file that it leads to is written, and the link stays. What is no file, such as
    `/dev/stdout`, a pipe or a device, is written to at the end of the block.

    Args:
      durable: whether it is to be on the disk when the block has ended, whatever happens to the machine then.

    Raises:
      JaxcamError: the file cannot be written.
    """
    path = _possible(path)
    temporary = None
    try:
        if _is_stream(path):
            memory = io.BytesIO()
            yield memory
            sys.stdout.flush()
            with open(path, "ab", buffering=0) as stream:
                stream.write(memory.getbuffer())
            return
        target = pathlib.Path(os.path.realpath(path))
        # Beside it, as a rename never crosses disks; a name of 255 bytes is the longest that most disks take.
        temporary = target.with_name(f".{clipped(target.name, 200)}.{os.getpid()}.tmp")
        with open(temporary, "wb") as f:
            yield f
            if durable:
                f.flush()
                os.fsync(f.fileno())
        os.replace(temporary, target)
        if durable:
            sync_folder(target.parent)
    except OSError as e:
        raise JaxcamError(f"{path}: cannot be written ({e.strerror or e})") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _is_stream(path: pathlib.Path) -> bool:
    """Whether a path is an open descriptor, or anything else that can be written to and is not a file or a folder."""
    if str(path) in ("/dev/stdout", "/dev/stderr") or str(path).startswith(("/dev/fd/", "/proc/self/fd/")):
        return True
    with contextlib.suppress(OSError):
        kind = path.stat().st_mode
        return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)
    return False


def check_writable(folder: str | os.PathLike) -> pathlib.Path:
    """Creates the folder where it is missing and proves that a file can be put there.

    Raises:
      JaxcamError: it cannot.
    """
    folder = _possible(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".jaxcam.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise JaxcamError(f"{folder}: cannot be written to ({e.strerror or e}); choose another folder") from None
    return folder


def sync_folder(folder: pathlib.Path) -> None:
    """Makes the names in a folder durable, where the system has a way to."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
