"""Downloads from a server on this machine that cuts, lies and redirects."""

from __future__ import annotations

import hashlib
import re
import signal
import time

import pytest
from loopback import CONTENT, get, left, process, refused, starts

from jaxcam.errors import JaxcamError
from jaxcam.zoo import download
from jaxcam.zoo.download import fetch


def test_a_file_is_fetched_once_and_then_found(cache, server):
    path = get(server)
    assert path == cache / "file.bin" and path.read_bytes() == CONTENT
    assert left(cache) == {"file.bin"}
    assert get(server) == path
    assert len(server.requests) == 1 and server.sent == len(CONTENT)


def test_a_terminal_gets_a_bar_and_anything_else_a_line(cache, server, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a stream for a terminal
    get(server)
    out, err = capsys.readouterr()
    assert not out and "file.bin" in err and "3.0/3.0 MB" in err and "fetching" not in err
    monkeypatch.delenv("FORCE_COLOR")
    (cache / "file.bin").unlink()
    get(server)
    assert capsys.readouterr() == ("", f"jaxcam: fetching {server.address}/file.bin\n")


def test_a_lock_that_a_dead_process_left_does_not_matter(cache, server):
    cache.mkdir()
    (cache / ".file.bin.lock").write_text("4711")
    assert get(server).read_bytes() == CONTENT


def test_a_cut_connection_resumes(cache, server):
    server.cuts = [1_000_000, 500_000]
    assert get(server).read_bytes() == CONTENT
    first, *asked = starts(server)
    assert first == 0 and len(asked) == 2
    assert 900_000 < asked[0] <= 1_000_000 and 1_400_000 < asked[1] <= 1_500_000
    assert server.sent - len(CONTENT) < 200_000  # all but the chunk that the cut fell into is used


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(cache, server, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", ())
    server.cuts = [400_000]
    kept = re.search("([0-9,]+) bytes are kept", refused(server, "broke off"))
    assert left(cache) == {"file.bin.part"}
    size = (cache / "file.bin.part").stat().st_size
    assert 300_000 < size <= 400_000 and kept and kept[1] == f"{size:,}"
    assert get(server).read_bytes() == CONTENT and left(cache) == {"file.bin"}
    assert starts(server) == [0, size]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(cache, server, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", ())
    server.cuts = [400_000]
    refused(server, "broke off")
    server.content = CONTENT[::-1]
    changed = "sha256:" + hashlib.sha256(server.content).hexdigest()
    assert get(server, digest=changed).read_bytes() == server.content
    assert [start > 0 for start in starts(server)] == [False, True, False]


def test_a_server_without_ranges_starts_over(cache, server):
    server.cuts, server.ranges = [2_000_000], False
    assert get(server).read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_leaves_nothing_behind(cache, server):
    told = refused(server, "does not hold the published file", digest="sha256:12345678")
    assert "not 12345678" in told and len(server.requests) == 1
    assert left(cache) == set()


def test_bytes_of_an_earlier_run_that_do_not_fit_are_fetched_anew(cache, server, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", ())
    server.cuts = [1_000_000]
    refused(server, "broke off")
    (cache / "file.bin.part").write_bytes(bytes(1_000_000))
    assert get(server).read_bytes() == CONTENT
    assert starts(server) == [0, 1_000_000, 0]


def test_a_part_that_is_whole_already_is_used(cache, server, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", ())
    server.cuts = [1_000_000]
    refused(server, "broke off")
    (cache / "file.bin.part").write_bytes(CONTENT)
    sent = server.sent
    assert get(server).read_bytes() == CONTENT and server.sent == sent


def test_a_file_that_a_person_put_there_is_checked(cache, server):
    cache.mkdir()
    (cache / "file.bin").write_bytes(b"<html>")
    assert str(cache / "file.bin") in refused(server, "remove it") and not server.requests
    (cache / "file.bin").write_bytes(CONTENT)
    assert get(server).is_file() and not server.requests
    assert get(server, digest="md5:" + hashlib.md5(CONTENT).hexdigest()).is_file()


def test_two_processes_at_once_fetch_once(cache, server):
    server.pause = 0.015  # the file takes three seconds, in which the second one starts
    both = [process(server), process(server)]
    answers = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], answers
    assert {out for out, _ in answers} == {f"{cache / 'file.bin'}\n"}
    assert len(server.requests) == 1 and (cache / "file.bin").read_bytes() == CONTENT
    assert sum("waiting for another process" in err for _, err in answers) == 1


def test_a_killed_process_leaves_no_whole_looking_file_and_no_lock(cache, server):
    server.pause = 0.03
    first = process(server)
    deadline = time.monotonic() + 30
    while server.sent < 200_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert "file.bin" not in left(cache) and "file.bin.part" in left(cache)
    server.pause = 0.0
    assert get(server).read_bytes() == CONTENT
    assert starts(server)[-1] > 0


def test_a_redirect_is_followed(cache, server):
    server.redirects = {"/old": "/new", "/new": f"{server.address}/file.bin"}
    server.cuts = [1_000_000]
    assert get(server, "/old").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/old", "/new", "/file.bin"] * 2
    assert 900_000 < starts(server)[-1] <= 1_000_000


def test_redirects_in_a_circle_or_into_the_clear_are_refused(cache, server):
    server.redirects = {"/a": "/b", "/b": "/a", "/c": "http://example.com/file.bin", "/d": "file:///etc/hostname"}
    refused(server, "redirects in a circle", path="/a")
    refused(server, "leads to http://example.com/file.bin, which is not an https", path="/c")
    refused(server, "leads to file:///etc/hostname, which is not an https", path="/d")
    with pytest.raises(JaxcamError, match="not an https address"):
        download._check_address(f"{server.address}/file.bin", "https://example.com/file.bin")
    with pytest.raises(JaxcamError, match="not an https address"):
        fetch("http://example.com/file.bin", "file.bin", digest="")
    assert left(cache) == set()
