"""Downloads that cannot succeed: each ends in one line, and leaves nothing that would be taken for the file."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys

import pytest
from loopback import CONTENT, get, left, process, refused, starts

from jaxcam.errors import JaxcamError
from jaxcam.zoo import download
from jaxcam.zoo.download import cache_folder, fetch


def test_not_found_is_one_line(cache, server):
    server.statuses = [404]
    told = refused(server, "404 Not Found")
    assert f"{server.address}/file.bin" in told and str(cache / "file.bin") in told
    assert len(server.requests) == 1 and left(cache) == set()


def test_a_busy_server_is_asked_again_but_not_for_ever(cache, server):
    server.statuses = [503, 429]
    assert get(server).read_bytes() == CONTENT
    (cache / "file.bin").unlink()
    server.requests, server.statuses = [], [503] * 100
    refused(server, "503 Service Unavailable")
    assert len(server.requests) == 5


def test_a_machine_that_cannot_be_reached_is_told_with_the_file_and_its_place(cache, server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"
    with pytest.raises(JaxcamError, match="cannot be reached") as e:
        fetch(closed, "file.bin", digest="sha256:0")
    assert closed in str(e.value) and str(cache / "file.bin") in str(e.value)

    def nowhere(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(JaxcamError, match="download.example cannot be reached .Name or service not known.") as e:
        fetch("https://download.example/file.bin", "file.bin", digest="sha256:0")
    assert "\n" not in str(e.value) and str(cache / "file.bin") in str(e.value)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_is_one_line(cache, server):
    child = process(server, 1_000_000)  # writing beyond that fails, as on a full disk
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err.splitlines()[-1].startswith(f"JaxcamError: {cache / 'file.bin'}: cannot be written (")
    assert "Traceback" not in err and "file.bin" not in left(cache)
    assert get(server).read_bytes() == CONTENT and 900_000 < starts(server)[-1] <= 1_000_000


def test_a_disk_without_room_is_found_out_before(cache, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 1000))
    assert "3,000,000 bytes are needed, 1,000 are free" in refused(server, "make room")
    assert left(cache) == set()


def test_a_disk_that_fills_up_meanwhile_is_one_line(cache, server, monkeypatch):
    def full(part, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download._Part, "write", full)
    assert os.strerror(errno.ENOSPC) in refused(server, "make room")
    assert "file.bin" not in left(cache)


def test_a_cache_that_cannot_be_written_is_one_line(cache, server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXCAM_CACHE", str(tmp_path / "file" / "cache"))
    refused(server, "cannot be written .*JAXCAM_CACHE")
    assert not server.requests


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_read_only_cache_is_one_line_unless_the_file_is_there(cache, server):
    cache.mkdir()
    cache.chmod(0o500)
    try:
        refused(server, "cannot be written .*JAXCAM_CACHE")
    finally:
        cache.chmod(0o700)
    assert left(cache) == set()
    (cache / "file.bin").write_bytes(CONTENT)
    cache.chmod(0o500)
    try:
        assert get(server).read_bytes() == CONTENT
    finally:
        cache.chmod(0o700)


def test_a_read_only_disk_is_one_line_unless_the_file_is_there(cache, server, monkeypatch):
    """The same without permissions, which do not bind root: what a disk mounted read-only says."""

    real = os.open

    def read_only(path, flags, *args, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *args, **options)

    cache.mkdir()
    monkeypatch.setattr(os, "open", read_only)
    refused(server, "Read-only file system.*JAXCAM_CACHE")
    (cache / "file.bin").write_bytes(CONTENT)
    assert get(server).read_bytes() == CONTENT and not server.requests


def test_more_bytes_than_the_file_can_have_are_refused(cache, server):
    refused(server, "3,000,000 bytes, more than", largest=2_000_000)
    server.length = "chunked"
    refused(server, "more bytes than", largest=2_000_000)
    assert "file.bin" not in left(cache)


def test_a_length_that_is_not_told_is_no_reason_to_take_half_a_file(cache, server):
    server.length, server.cuts = "chunked", [1_000_000]
    assert get(server).read_bytes() == CONTENT and len(server.requests) == 2  # a broken chunk shows
    (cache / "file.bin").unlink()
    server.length, server.cuts = "none", [1_000_000]
    refused(server, "does not hold the published file")  # the digest shows it
    assert left(cache) == set()
    assert get(server).read_bytes() == CONTENT


def test_an_encoding_that_was_not_asked_for_is_refused(cache, server):
    server.encoding = "gzip"
    refused(server, "decompressing")
    assert left(cache) == set()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("JAXCAM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache" / "jaxcam"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == tmp_path / ".cache" / "jaxcam"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "jaxcam"
    monkeypatch.setenv("JAXCAM_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "weights"
