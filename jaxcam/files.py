"""Writing files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import IO

from jaxcam.errors import JaxcamError


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
