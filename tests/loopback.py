"""A server on this machine that hands out one file and can be told to misbehave, and downloads from it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from jaxcam.errors import JaxcamError
from jaxcam.zoo.download import fetch

CONTENT = random.Random(0).randbytes(3_000_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
_SCRIPT = """
import sys
from jaxcam.errors import JaxcamError
from jaxcam.zoo.download import fetch
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    print(fetch(sys.argv[1], "file.bin", digest=sys.argv[2]))
except JaxcamError as e:
    sys.exit(f"JaxcamError: {e}")
"""


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `content` at every path.

    Attributes:
      content: the file.
      cuts: after how many bytes of the body to drop the connection, for one answer after the other.
      statuses: what to answer instead, for one request after the other.
      ranges: whether parts are handed out.
      length: "plain" for Content-Length, "chunked", or "none" (the connection's end is the file's).
      redirects: paths and where they lead.
      pause: seconds before every 16 KiB of the body.
      requests: path and headers of every GET.
      sent: bytes of bodies.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges, self.length, self.pause = True, "plain", 0.0
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.encoding: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that hangs up is what some of the tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    server: FileServer

    def log_message(self, *args):
        pass

    def _empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        files = self.server
        files.requests.append((self.path, dict(self.headers)))
        if self.path in files.redirects:
            return self._empty(302, Location=files.redirects[self.path])
        if files.statuses:
            return self._empty(files.statuses.pop(0))
        start, asked = 0, self.headers.get("Range")
        if asked and files.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(files.content):
                return self._empty(416, Content_Range=f"bytes */{len(files.content)}")
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(files.content) - 1}/{len(files.content)}")
        if files.encoding:
            self.send_header("Content-Encoding", files.encoding)
        if files.length == "plain":
            self.send_header("Content-Length", str(len(files.content) - start))
        elif files.length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        self.close_connection = True
        self.end_headers()
        self._body(files.content[start:], files.cuts.pop(0) if files.cuts else None)

    def _body(self, body: bytes, cut: int | None) -> None:
        files = self.server
        step = 1 << (14 if files.pause else 16)
        stop = len(body) if cut is None else cut
        for at in range(0, stop, step):
            time.sleep(files.pause)
            piece = body[at : min(at + step, stop)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if files.length == "chunked" else piece)
            self.wfile.flush()
            files.sent += len(piece)
        if cut is not None:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        elif files.length == "chunked":
            self.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """A server in a thread, as long as the block lasts."""
    server = FileServer(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def get(server, path="/file.bin", digest=DIGEST, **options) -> pathlib.Path:
    """Downloads the file."""
    return fetch(server.address + path, "file.bin", digest=digest, **options)


def left(cache: pathlib.Path) -> set[str]:
    """What a download left behind, its lock aside."""
    return {p.name for p in cache.iterdir()} - {".file.bin.lock"}


def starts(server) -> list[int]:
    """From which byte on each request asked."""
    return [int(headers.get("Range", "bytes=0-")[6:-1]) for _, headers in server.requests]


def refused(server, match: str, **options) -> str:
    """The one line of a download that must fail."""
    with pytest.raises(JaxcamError, match=match) as e:
        get(server, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def process(server, *arguments) -> subprocess.Popen:
    """Another process that downloads the file; its files cannot grow beyond the bytes given."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    command = [sys.executable, "-c", _SCRIPT, f"{server.address}/file.bin", DIGEST, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
