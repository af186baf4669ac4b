"""Files from the internet, fetched once into a cache folder: resumed, checked, and whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator

from jaxcam.errors import JaxcamError
from jaxcam.files import try_lock
from jaxcam.zoo.transfer import Transfer, mismatch


def cache_folder() -> pathlib.Path:
    """Where files are kept: `JAXCAM_CACHE`, else `jaxcam` in `XDG_CACHE_HOME`, else `~/.cache/jaxcam`."""
    if asked := os.environ.get("JAXCAM_CACHE"):
        return pathlib.Path(asked).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(xdg) if os.path.isabs(xdg) else pathlib.Path.home() / ".cache") / "jaxcam"


def fetch(url: str, name: str, *, digest: str = "", largest: int | None = None) -> pathlib.Path:
    """The path of a file in the cache, which is downloaded first unless it is there.

    A download that broke off goes on where it stopped, in this call or the next. A second process that wants the
    same file waits for the first. Only a whole file with the right digest ever bears the name.

    Args:
      url: an https address (http for this machine itself).
      name: the file's name in the cache.
      digest: `sha256:` or `md5:` and the digest or its beginning; without one the length alone is checked.
      largest: refuse files of more bytes.

    Raises:
      JaxcamError: it cannot be had, or is not the file that was published; one line.
    """
    target = cache_folder() / name
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target):
                if not target.is_file():  # else another process fetched it meanwhile
                    Transfer(url, target, digest, largest).run()
                    return target
        except OSError as e:
            raise JaxcamError(
                f"{target}: cannot be written ({e.strerror or e}); make room there, or name another folder in "
                "JAXCAM_CACHE"
            ) from None
    if wrong := mismatch(target, digest):
        raise JaxcamError(f"{target}: is not the published file ({wrong}); remove it, and it is fetched anew")
    return target


@contextlib.contextmanager
def _locked(target: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from the same file. A process that dies lets go of its lock, so none is ever stale."""
    with open(target.with_name(f".{target.name}.lock"), "a") as f:
        told = False
        while not try_lock(f.fileno()):
            if not told:
                print(f"jaxcam: waiting for another process that fetches {target.name}", file=sys.stderr)
                told = True
            time.sleep(0.1)
        yield
