"""The records of a run: what a kill, a full disk or a spoilt byte leaves behind is whole units, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from jaxcam.errors import JaxcamError
from jaxcam.evaluate.store import Writer, arrays_file, encode, in_use, parse, read_lines, records_file
from jaxcam.files import try_lock


def unit(number: int, rows: int = 2) -> tuple[dict, list[dict], dict]:
    rng = np.random.default_rng(number)
    records = [{"index": i, "image": f"ä {i}\u2028", "ic": np.float32(rng.normal())} for i in range(rows)]
    summary = {"unit": number, "images": rows, "broken": {}, "seconds": {}}
    return summary, records, {"maps": rng.normal(size=(rows, 2, 2)).astype(np.float32)}


def stored(folder) -> dict:
    return {n: u.records() for n, u in read_lines(folder)[0].items()}


def expected(*numbers) -> dict:
    return {n: [{**r, "ic": float(r["ic"])} for r in unit(n)[1]] for n in numbers}


def test_numbers_come_back_bit_for_bit():
    rng = np.random.default_rng(0)
    values = [*rng.normal(size=50) * 10.0 ** rng.integers(-300, 300, 50), 5e-324, 0.1, -0.0, 2.0**53]
    singles = rng.normal(size=50).astype(np.float32)
    records = [{"index": np.int64(3), "v": v} for v in [*values, *singles]]
    units, end = parse(data := encode({"unit": 0}, records))
    back = [r["v"] for r in units[0].records()]
    assert end == len(data) and [math.copysign(1, v) for v in back] == [
        math.copysign(1, float(v)) for v in [*values, *singles]
    ]
    assert back == [*values, *map(float, singles)]
    odd = encode({"unit": 0}, [{"index": 0, "a": np.nan, "b": np.float32(np.inf), "c": -np.inf}])
    assert parse(odd)[0][0].records() == [{"index": 0, "a": None, "b": "inf", "c": "-inf"}]


def test_cut_off_at_every_byte():
    pieces = [encode(*unit(n)[:2]) for n in range(3)]
    data = b"".join(pieces)
    ends = np.cumsum([0, *map(len, pieces)])
    for length in range(len(data) + 1):
        whole = int(np.searchsorted(ends, length, side="right")) - 1
        units, end = parse(data[:length])
        assert [u.summary["unit"] for u in units] == list(range(whole)) and end == ends[whole]


def test_a_spoilt_byte_costs_units_and_never_makes_wrong_ones():
    pieces = [encode(*unit(n)[:2]) for n in range(4)]
    data = b"".join(pieces)
    true = [(u.summary, u.records()) for u in parse(data)[0]]
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= 0x15
        units = parse(bytes(spoilt))[0]
        assert len(units) >= 2, at
        for u in units:
            assert (u.summary, u.records()) in true


def test_every_bit_of_a_commit_line_counts():
    pieces = [encode(*unit(n)[:2]) for n in range(3)]
    first = len(pieces[0]) + pieces[1].rindex(b"{")
    for at in range(first, len(pieces[0]) + len(pieces[1])):
        for bit in range(8):
            spoilt = bytearray(b"".join(pieces))
            spoilt[at] ^= 1 << bit
            found = {u.summary["unit"]: u.records() for u in parse(bytes(spoilt))[0]}
            assert found in ({n: expected(n)[n] for n in (0, 2)}, {0: expected(0)[0]}), (at, bit)


def test_units_of_runs_that_digested_their_records_alone_are_read():
    *lines, commit = encode(*unit(0)[:2]).splitlines(keepends=True)
    old = (
        commit[: commit.index(b',"sha256"')]
        + f',"sha256":"{hashlib.sha256(b"".join(lines)).hexdigest()[:16]}"}}\n'.encode()
    )
    assert [u.records() for u in parse(b"".join([*lines, old]))[0]] == [expected(0)[0]]


def test_what_was_cut_off_is_dropped_and_made_again(tmp_path):
    with Writer(tmp_path) as writer:
        writer.append(*unit(0))
        writer.append(*unit(1))
    file = records_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-30])
    assert stored(tmp_path) == expected(0)
    with Writer(tmp_path) as writer:
        writer.append(*unit(1))
        writer.append(*unit(2))
    assert stored(tmp_path) == expected(0, 1, 2)
    assert file.read_bytes() == b"".join(encode(*unit(n)[:2]) for n in range(3))


def test_a_full_disk_leaves_whole_units_and_the_run_can_go_on(tmp_path, monkeypatch):
    real = os.write
    with Writer(tmp_path) as writer:
        writer.append(*unit(0))

        def full(descriptor, data):
            if len(data) < 60:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data[:50])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(JaxcamError, match="No space left on device.*make room and give the command again"):
            writer.append(*unit(1))
        monkeypatch.setattr(os, "write", real)
        assert records_file(tmp_path).read_bytes() == encode(*unit(0)[:2])
        writer.append(*unit(1))
    assert stored(tmp_path) == expected(0, 1)


FULL = """
import resource, signal, sys, pathlib
sys.path.insert(0, sys.argv[1])
from test_store_run import unit
from jaxcam.evaluate.store import Writer
from jaxcam.errors import JaxcamError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
with Writer(pathlib.Path(sys.argv[2])) as writer:
    try:
        for n in range(100):
            writer.append(*unit(n))
    except JaxcamError as e:
        print(n, e)
"""


def test_a_file_that_the_system_lets_grow_no_more(tmp_path):
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", FULL, here, str(tmp_path)], capture_output=True, text=True, check=True)
    count, message = done.stdout.split(" ", 1)
    assert 1 < int(count) < 20 and message.count("\n") == 1 and "File too large" in message
    assert stored(tmp_path) == expected(*range(int(count)))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 2000


def test_arrays_that_cannot_be_written_leave_no_record(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Writer(tmp_path) as writer:
        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(JaxcamError, match="No space left"):
            writer.append(*unit(0))
    assert stored(tmp_path) == {} and list((tmp_path / "arrays").iterdir()) == []


def test_arrays_are_there_before_their_record(tmp_path):
    with Writer(tmp_path) as writer:
        writer.append(*unit(0))
    with np.load(arrays_file(tmp_path, 0)) as f:
        np.testing.assert_array_equal(f["maps"], unit(0)[2]["maps"])


@pytest.mark.parametrize("other", ["records.lock", "records-1-of-2.lock"])
def test_one_process_at_a_time(tmp_path, other):
    """Also beside one of several that jaxcam knew before its release."""
    lock = try_lock(tmp_path / other)
    assert in_use(tmp_path)
    with pytest.raises(JaxcamError, match="another process is at work"):
        Writer(tmp_path)
    lock.release()
    assert not in_use(tmp_path)
    with Writer(tmp_path) as writer:
        assert in_use(tmp_path)
        with pytest.raises(JaxcamError, match="another process is at work"):
            Writer(tmp_path)
        writer.append(*unit(5))
    assert stored(tmp_path) == expected(5)


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JaxcamError, match="cannot be written"):
        Writer(tmp_path / "file" / "folder")
