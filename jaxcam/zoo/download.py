"""Files from the internet, fetched once into a cache folder: resumed, checked, and whole or not there at all.

pooch carries the bytes. Around it is what it does not promise: one process fetches a file and the others wait for it, a
download that broke off goes on where it stopped, and of the digest its beginning is enough, as publishers often give
only that.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from jaxcam import __version__
from jaxcam.errors import JaxcamError, visible
from jaxcam.files import locked

_CHUNK = 1 << 16
_PROGRESS = 1 << 20  # bytes after which an attempt was worth making
_TIMEOUT = 30.0  # seconds without a byte
_PAUSES = (1.0, 2.0, 4.0, 8.0)  # before the second, third ... attempt that follows one without progress
_LATER = {408, 425, 429, 500, 502, 503, 504}  # answers that may be better in a moment
#: What an operating system says when there is no way to a machine at all; waiting does not help.
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ENETDOWN, errno.EADDRNOTAVAIL}


def cache_folder() -> pathlib.Path:
    """Where files are kept: `JAXCAM_CACHE`, else `jaxcam` in `XDG_CACHE_HOME`, else `~/.cache/jaxcam`."""
    if asked := os.environ.get("JAXCAM_CACHE"):
        return pathlib.Path(asked).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(xdg) if os.path.isabs(xdg) else pathlib.Path.home() / ".cache") / "jaxcam"


def fetch(url: str, name: str, *, digest: str, largest: int | None = None) -> pathlib.Path:
    """The path of a file in the cache, which is downloaded first unless it is there.

    A download that broke off goes on where it stopped, in this call or the next. A second process that wants the
    same file waits for the first. Only a whole file with the right digest ever bears the name.

    Args:
      url: an https address (http for this machine itself).
      name: the file's name in the cache.
      digest: `sha256:` or `md5:` and the digest or its beginning.
      largest: refuse files of more bytes.

    Raises:
      JaxcamError: it cannot be had, or is not the file that was published; one line.
    """
    _check_address(url)
    target = cache_folder() / name
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"jaxcam: waiting for another process that fetches {name}"
            with locked(target.with_name(f".{name}.lock"), waiting=waiting):
                if not target.is_file():  # else another process fetched it meanwhile
                    _download(url, target, digest, largest)
                    return target
        except OSError as e:
            raise JaxcamError(
                f"{target}: cannot be written ({e.strerror or e}); make room there, or name another folder in "
                "JAXCAM_CACHE"
            ) from None
    if wrong := _mismatch(target, digest):
        raise JaxcamError(f"{target}: is not the published file ({wrong}); remove it, and it is fetched anew")
    return target


def _mismatch(path: pathlib.Path, digest: str) -> str | None:
    """How a file's digest differs from the published one; None where it does not."""
    algorithm, _, known = digest.partition(":")
    try:
        with open(path, "rb") as f:
            found = hashlib.file_digest(f, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as e:
        raise JaxcamError(f"{path}: cannot be read ({e.strerror or e})") from None
    return None if found.startswith(known) else f"{algorithm} {found[: max(16, len(known))]}, not {known}"


def _check_address(url: str, origin: str = "") -> None:
    """Refuses to send or receive anything in the clear, except between programs on this machine."""
    parts = urllib.parse.urlsplit(url)
    plain = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme != "https" and not (plain and not origin.startswith("https:")):
        raise JaxcamError((f"{origin}: leads to {url}, which" if origin else url) + " is not an https address")


class _Part:
    """The bytes of a file so far, to which pooch appends.

    Attributes:
      size: how many there are.
      resumed: whether they came in several answers, which may be of different files.
    """

    def __init__(self, path: pathlib.Path, url: str, largest: int | None, show: Callable[[int, int | None], None]):
        self.path, self.url, self.largest, self.show = path, url, largest, show
        self.file = open(path, "ab")  # noqa: SIM115  # until `close`
        self.size, self.resumed = self.file.tell(), False
        self.whole: int | None = None

    def clear(self) -> None:
        self.file.truncate(0)
        self.size = 0

    def expect(self, answer: Any, **_: Any) -> None:
        """Judges an answer of the server by its head, before its bytes come."""
        if answer.is_redirect:
            _check_address(urllib.parse.urljoin(answer.url, answer.headers["Location"]), answer.url)
        elif answer.ok:
            if answer.status_code != 206:  # all of it, whatever was asked for
                self.clear()
                self.resumed = False
            coming, free = int(answer.headers.get("Content-Length", 0)), shutil.disk_usage(self.path.parent).free
            self.whole = self.size + coming if coming else None
            if self.largest is not None and self.size + coming > self.largest:
                raise JaxcamError(f"{self.url}: has {self.whole:,} bytes, more than the published file can have")
            if coming > free:
                raise OSError(errno.ENOSPC, f"{coming:,} bytes are needed, {free:,} are free")

    def write(self, data: bytes) -> None:
        if self.largest is not None and self.size + len(data) > self.largest:
            self.clear()
            raise JaxcamError(f"{self.url}: sends more bytes than the published file can have")
        self.file.write(data)
        self.size += len(data)
        self.show(self.size, self.whole)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        os.fsync(self.file.fileno())
        self.file.close()


def _download(url: str, target: pathlib.Path, digest: str, largest: int | None) -> None:
    """Fetches a file into `X.part`, which takes its name when it is whole and the right one."""
    path = target.with_name(target.name + ".part")
    try:
        with _progress(target.name, url) as show, contextlib.closing(_Part(path, url, largest, show)) as part:
            _receive(part, target)
            wrong = _mismatch(path, digest)
            if wrong and part.resumed:  # the older bytes may be to blame: once more, from the start
                part.clear()
                _receive(part, target)
                wrong = _mismatch(path, digest)
            if wrong:
                part.clear()
                raise JaxcamError(f"{url}: does not hold the published file ({wrong}); nothing was kept")
        os.replace(path, target)
    finally:
        if path.is_file() and not path.stat().st_size:
            path.unlink()


def _receive(part: _Part, target: pathlib.Path) -> None:
    """Makes attempts until all bytes are there; gives up after several in a row without progress."""
    import pooch  # slow to import, and seldom needed
    import requests

    failures, furthest = 0, part.size
    while True:
        headers = {"User-Agent": f"jaxcam/{__version__}", "Accept-Encoding": "identity"}
        part.resumed = part.size > 0
        if part.resumed:
            headers["Range"] = f"bytes={part.size}-"
        carry = pooch.HTTPDownloader(
            chunk_size=_CHUNK, timeout=_TIMEOUT, headers=headers, hooks={"response": part.expect}
        )
        try:
            return carry(part.url, part, None)
        except requests.RequestException as e:
            if part.resumed and e.response is not None and e.response.status_code == 416:
                return None  # there is nothing after what is here already; the digest tells whether it is the file
            reason = _reason(e, part, target)
        if part.size >= furthest + _PROGRESS:
            failures, furthest = 0, part.size
        if failures == len(_PAUSES):
            raise _unreachable(f"broke off {failures + 1} times in a row ({reason})", part, target)
        time.sleep(_PAUSES[failures])
        failures += 1


def _reason(error: Any, part: _Part, target: pathlib.Path) -> str:
    """Why an attempt failed, in a few words; raises a JaxcamError where another one would fail as well."""
    import requests

    answer = error.response
    if isinstance(error, requests.HTTPError):
        told = f"the server answers {answer.status_code} {answer.reason}"
        if answer.status_code not in _LATER:
            raise JaxcamError(f"{part.url}: {told}; if the file is to be had elsewhere, put it at {target}") from None
        return told
    if isinstance(error, requests.TooManyRedirects):
        raise _unreachable("the server redirects in a circle", part, target) from None
    first: BaseException = error
    while inner := first.__cause__ or first.__context__:
        first = inner
    told = getattr(first, "strerror", None) or str(first) or type(first).__name__
    offline = isinstance(first, socket.gaierror) or getattr(first, "errno", None) in _NO_WAY
    if (offline and not part.size) or isinstance(error, requests.exceptions.SSLError):
        host = urllib.parse.urlsplit(part.url).netloc
        raise _unreachable(f"is not in the cache, and {host} cannot be reached ({told})", part, target) from None
    return told


def _unreachable(why: str, part: _Part, target: pathlib.Path) -> JaxcamError:
    kept = f" ({part.size:,} bytes are kept, the next run goes on from there)" if part.size else ""
    return JaxcamError(f"{target.name}: {why}{kept}; or fetch {part.url} on another machine and put it at {target}")


@contextlib.contextmanager
def _progress(name: str, url: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, one line elsewhere; on stderr, as the results may go to stdout."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        print(visible(f"jaxcam: fetching {url}"), file=sys.stderr)
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
