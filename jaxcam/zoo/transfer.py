"""One file on its way from a server to this disk: resumed where it broke off, and checked before it is used."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import ipaddress
import json
import os
import pathlib
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from jaxcam import __version__
from jaxcam.errors import JaxcamError

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_PAUSES = (1.0, 2.0, 4.0, 8.0)  # before the second, third ... attempt that follows one without progress
_LATER = {408, 425, 429, 500, 502, 503, 504}  # answers that may be better in a moment
#: What an operating system says when there is no way to a machine at all; waiting does not help.
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ENETDOWN, errno.EADDRNOTAVAIL}


class _Broken(Exception):
    """An attempt that failed and may succeed when made again."""


def mismatch(path: pathlib.Path, digest: str) -> str | None:
    """How a file's digest differs from the published one; None where it does not, or none is known."""
    algorithm, _, known = digest.partition(":")
    if not known:
        return None
    try:
        with open(path, "rb") as f:
            found = hashlib.file_digest(f, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as e:
        raise JaxcamError(f"{path}: cannot be read ({e.strerror or e})") from None
    return None if found.startswith(known) else f"{algorithm} {found[: max(16, len(known))]}, not {known}"


def _loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check_address(url: str, origin: str | None = None) -> None:
    """Refuses to send or receive anything in the clear, except between programs on this machine."""
    parts = urllib.parse.urlsplit(url)
    plain = parts.scheme == "http" and _loopback(parts.hostname)
    if parts.scheme != "https" and not (plain and (origin is None or origin.startswith("http:"))):
        raise JaxcamError(
            f"{origin or url}: " + (f"leads to {url}, which" if origin else "") + " is not an https address"
        )


class _Redirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_address(newurl, req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Transfer:
    """One file on its way: `X.part` holds the bytes so far, `X.part.json` says which file they are of."""

    def __init__(self, url: str, target: pathlib.Path, digest: str, largest: int | None):
        _check_address(url)
        self.url, self.target, self.digest, self.largest = url, target, digest, largest
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")
        handlers: list[Any] = [_Redirect()]
        if _loopback(urllib.parse.urlsplit(url).hostname):
            handlers.append(urllib.request.ProxyHandler({}))
        self.opener = urllib.request.build_opener(*handlers)

    def run(self) -> None:
        """Fetches the file and puts it in its place."""
        resumed = self._here() > 0
        while True:
            self._all_bytes()
            wrong = mismatch(self.part, self.digest)
            if not wrong:
                break
            self._discard()
            if not resumed:
                raise JaxcamError(f"{self.url}: does not hold the published file ({wrong}); nothing was kept")
            resumed = False  # the bytes from the earlier run may be to blame: once more, from the start
        with open(self.part, "rb") as f:
            os.fsync(f.fileno())
        os.replace(self.part, self.target)
        self.note.unlink(missing_ok=True)

    def _here(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _all_bytes(self) -> None:
        """Makes attempts until the part is whole; gives up after several in a row without progress."""
        failures, furthest = 0, self._here()
        with _progress(self.target.name, self.url) as show:
            while True:
                try:
                    return self._attempt(show)
                except _Broken as e:
                    reason = str(e)
                if self._here() >= furthest + _CHUNK:
                    failures, furthest = 0, self._here()
                if failures == len(_PAUSES):
                    raise self._unreachable(f"broke off {failures + 1} times in a row ({reason})")
                time.sleep(_PAUSES[failures])
                failures += 1

    def _unreachable(self, why: str) -> JaxcamError:
        kept = f" ({self._here():,} bytes are kept, the next run goes on from there)" if self._here() else ""
        return JaxcamError(
            f"{self.target.name}: {why}{kept}; or fetch {self.url} on another machine and put it at {self.target}"
        )

    def _attempt(self, show: Callable[[int, int | None], None]) -> None:
        """One request, and its answer appended to the part."""
        request, start = self._request()
        try:
            answer = self.opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as e:
            with e:
                return self._refused(e, start)
        except (OSError, http.client.HTTPException) as e:
            raise self._failed(e) from None
        with answer:
            start, total = self._plan(answer, start)
            self._append(answer, start, total, show)
        if total is None and not (getattr(answer, "chunked", False) or self.digest):
            self._discard()  # an end of the connection may be an end of the file, or not
            raise JaxcamError(f"{self.url}: the server does not say how long the file is, so that nothing was kept")
        if total is not None and self._here() < total:
            raise _Broken(f"{self._here():,} of {total:,} bytes came")

    def _request(self) -> tuple[urllib.request.Request, int]:
        """The request for what is missing, and where that begins."""
        headers = {"User-Agent": f"jaxcam/{__version__}", "Accept-Encoding": "identity"}
        start = self._here()
        note: dict = {}
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self.note.read_text())
        if not isinstance(note, dict) or note.get("url") != self.url:
            start = 0
        elif start and isinstance(note.get("version"), str):
            headers["If-Range"] = note["version"]  # the server sends all of it if the file has changed
        elif not self.digest:
            start = 0  # nothing would tell that the two halves belong together
        if start:
            headers["Range"] = f"bytes={start}-"
        return urllib.request.Request(self.url, headers=headers), start

    def _refused(self, answer: urllib.error.HTTPError, start: int) -> None:
        """An answer other than the file."""
        if answer.code == 416 and start:
            if answer.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
                return  # there is nothing after what is here already
            self._discard()
            raise _Broken("the part here is longer than the file there")
        if answer.code in _LATER:
            raise _Broken(f"the server answers {answer.code} {answer.reason}")
        if 300 <= answer.code < 400:
            raise self._unreachable(f"the server redirects in a circle, or to no address ({answer.code})")
        raise JaxcamError(
            f"{self.url}: the server answers {answer.code} {answer.reason}; if the file is to be had elsewhere, put it "
            f"at {self.target}"
        )

    def _failed(self, error: Exception) -> Exception:
        """The exception for a request that got no answer."""
        reason = getattr(error, "reason", error)
        reason = reason if isinstance(reason, BaseException) else error
        told = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        offline = isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in _NO_WAY
        if (offline and not self._here()) or "CERTIFICATE" in str(reason):
            host = urllib.parse.urlsplit(self.url).netloc
            return self._unreachable(f"is not in the cache, and {host} cannot be reached ({told})")
        return _Broken(told)

    def _plan(self, answer: Any, start: int) -> tuple[int, int | None]:
        """Where the answer's bytes belong, and how long the whole file is; a note of which file they are of."""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise JaxcamError(f"{self.url}: came in an encoding that nobody asked for")
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if answer.status == 206:
            extent, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if extent.partition("-")[0] != str(start):
                self._discard()
                raise _Broken("the server sent another part than the one asked for")
            total = int(whole) if whole.isdecimal() else None if total is None else start + total
        else:
            start = 0
        if self.largest is not None and (total or 0) > self.largest:
            raise JaxcamError(f"{self.url}: has {total:,} bytes, more than the published file can have")
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise OSError(errno.ENOSPC, f"{total - start:,} bytes are needed, {free:,} are free")
        etag = answer.headers.get("ETag") or "W/"  # a weak one does not promise equal bytes
        version = answer.headers.get("Last-Modified") if etag.startswith("W/") else etag
        if not start:
            self._discard()
            self.note.write_text(json.dumps({"url": self.url, "version": version}))
        return start, total

    def _append(self, answer: Any, start: int, total: int | None, show: Callable[[int, int | None], None]) -> None:
        done = start
        show(done, total)
        with open(self.part, "ab") as f:
            while True:
                try:
                    chunk = answer.read1(_CHUNK) if total is not None else answer.read(_CHUNK)
                except (OSError, http.client.HTTPException) as e:  # of the network; the disk's are another matter
                    raise _Broken(str(e) or type(e).__name__) from None
                if not chunk:
                    return
                done += len(chunk)
                if done > (total if total is not None else self.largest or done):
                    raise JaxcamError(f"{self.url}: sends more bytes than the published file can have")
                f.write(chunk)
                show(done, total)


@contextlib.contextmanager
def _progress(name: str, url: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, one line elsewhere; on stderr, as the results may go to stdout."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"jaxcam: fetching {url}", file=sys.stderr)
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
