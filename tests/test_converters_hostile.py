"""Broken and hostile files: no code runs, nothing hangs, memory stays small, and the error is one line."""

from __future__ import annotations

import pathlib
import re
import struct
import time
import tracemalloc

import foreign_files as ff
import numpy as np
import pytest
from hostile_files import (
    STATE,
    WRITERS,
    Variants,
    absurd,
    archives,
    headers,
    misfits,
    pickled,
    seeded,
    truncated,
    written,
)  # fmt: skip

from jaxcam.converters import convert, read_tensors
from jaxcam.errors import JaxcamError


@pytest.fixture
def honest(tmp_path) -> int:
    """Peak memory of an honest conversion, in bytes."""
    path = ff.write_zip(tmp_path / "honest", STATE)
    convert(path)
    tracemalloc.start()
    convert(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def process_peak(*, reset: bool = False) -> int:
    """The most memory that the whole process has held, in bytes; 0 where the system does not tell."""
    try:
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
    except (OSError, TypeError):
        return 0


def refused(variants: Variants, path: pathlib.Path, *, allowed: int, maybe: bool = False) -> int:
    """Opens every variant; each must give one JaxcamError of one line, soon, in little memory. Returns how many did.

    Args:
      allowed: bytes that an honest conversion takes; half as much again is granted, and the file itself.
      maybe: a variant may also be accepted (a flipped bit in a weight without a checksum cannot be known).
    """
    count = 0
    for what, data in variants:
        path.write_bytes(data)
        began = time.process_time()
        tracemalloc.start()
        try:
            network = convert(path)
            assert maybe, f"{what}: accepted"
            assert all(np.isfinite(v).all() for layer in network.params.values() for v in layer.values()), what
        except JaxcamError as e:
            count += 1
            message = str(e)
            assert message.startswith(str(path)) and message.isprintable() and len(message) < 2000, (what, message)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert time.process_time() - began < 20, what
        assert peak < 1.5 * (allowed + len(data)), f"{what}: took {peak} bytes"
    return count


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path, monkeypatch):
    """No test here may leave the file that the commands would make, nor reach the standard pickle."""

    def forbidden(*args, **kwargs):
        raise AssertionError("the standard unpickler was used")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", forbidden)
    yield
    assert not (tmp_path / "ran").exists()


def test_at_least_200_hostile_files_are_refused(tmp_path, honest):
    counts: dict[str, int] = {}
    path = tmp_path / "w.pth"
    convert(ff.write_zip(tmp_path / "honest", STATE))
    start = process_peak(reset=True)
    for layout in WRITERS:
        for make in (truncated, misfits):
            counts[f"{layout} {make.__name__}"] = refused(make(layout, tmp_path), path, allowed=honest)
    for layout in ("zip", "legacy"):
        for make in (absurd, pickled):
            counts[f"{layout} {make.__name__}"] = refused(make(layout, tmp_path), path, allowed=honest)
    counts["archives"] = refused(archives(tmp_path), path, allowed=honest)
    counts["headers"] = refused(headers(), path, allowed=honest)
    print(counts, sum(counts.values()))
    assert sum(counts.values()) >= 200
    assert min(counts.values()) >= 10
    assert process_peak() <= 1.5 * start  # with what libraries take behind Python's back, and over all files


@pytest.mark.parametrize("layout", WRITERS)
def test_flipped_bytes_never_do_harm(layout, tmp_path, honest):
    data = written(layout, tmp_path, STATE)

    def flipped() -> Variants:
        rng = np.random.RandomState(0)
        first = {"zip": 6000, "legacy": 4000, "safetensors": 8 + struct.unpack("<Q", data[:8])[0]}[layout]
        for at in [*rng.randint(0, first, 110), *rng.randint(0, len(data), 20)]:  # names, shapes and offsets come first
            bad = bytearray(data)
            bad[at] ^= 1 << rng.randint(8)
            yield f"{layout} byte {at}", bytes(bad)

    refusals = refused(flipped(), tmp_path / "w.pth", allowed=honest, maybe=True)
    print(layout, refusals)
    assert refusals >= {"zip": 115, "legacy": 50, "safetensors": 70}[layout]  # only a zip has checksums


def test_all_problems_are_told_together(tmp_path):
    state = {k: v for k, v in STATE.items() if k != "features.3.bias"}
    state["features.6.weight"] = state["features.6.weight"].transpose(2, 3, 1, 0).copy()
    state["classifier.6.bias"] = state["classifier.6.bias"].astype(np.int32)
    state["extra"] = np.zeros((2, 7), np.float32)
    with pytest.raises(JaxcamError) as e:
        convert(ff.write_zip(tmp_path / "w.pth", state))
    for part in (
        "features.3.bias (2,) is missing", "features.6.weight has shape (3, 3, 2, 4), not (4, 2, 3, 3)",
        "classifier.6.bias holds int32", "extra (2, 7) belongs to no layer", "vgg11 in torchvision's names",
    ):  # fmt: skip
        assert part in str(e.value)


def test_negative_variances_are_refused(tmp_path):
    state = {k: seeded.draw(k, s) for k, s in seeded.vgg_shapes(11, True, 1 / 64, 5, 512).items()}
    state["features.1.running_var"] = -state["features.1.running_var"]
    with pytest.raises(JaxcamError, match="features.1.running_var holds negative variances"):
        convert(ff.write_zip(tmp_path / "w.pth", state))


@pytest.mark.parametrize("unit", [b"\x85", b"N\x94", b"]\x94", b"}]s", b"(]]]]]]]]e", b"X\x01\x00\x00\x00a\x94"])
def test_a_pickle_cannot_pile_up_objects(unit, tmp_path):
    """A few bytes make an object of many, so their number is limited: these files hold a million and more."""
    data = b"\x80\x02}]" + unit * 1_000_000 + b"."
    path = ff.write_zip(tmp_path / "w.pth", {}, pickled=data)
    tracemalloc.start()
    with pytest.raises(JaxcamError):
        convert(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{unit!r}: {peak / 1e6:.0f} MB")
    assert peak < 64e6 + len(data)


def test_read_tensors_refuses_small_files_of_large_tensors(tmp_path):
    """Many tensors that all look at one storage would grow a file without lying about any size."""
    one = np.ones(1000, np.float32)
    table = b"".join(ff.text(f"t{i}") + ff.tensor("0", one, legacy=False) for i in range(300))
    path = ff.write_zip(tmp_path / "w.pth", {"t": one}, pickled=b"\x80\x02}(" + table + b"u.")
    with pytest.raises(JaxcamError, match="bytes of tensors"):
        read_tensors(path)
