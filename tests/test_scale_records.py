"""Records in columns: the same run as from lines, whatever is killed or damaged, and never read whole."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
from evaluation_runs import make_run

from jaxcam.errors import JaxcamError
from jaxcam.evaluate import intervals, parts, records, statistics
from jaxcam.evaluate.estimate import bytes_on_disk
from jaxcam.evaluate.intervals import bootstrap
from jaxcam.evaluate.report import report
from jaxcam.evaluate.run import read_run
from jaxcam.evaluate.statistics import cube, over_seeds, summarise
from jaxcam.evaluate.store import Writer, read_lines, records_file

pytest.importorskip("pyarrow", reason="records in columns need pyarrow: pip install 'jaxcam-xai[scale]'")


@pytest.fixture
def lined(tmp_path) -> pathlib.Path:
    """A run in lines."""
    return make_run(tmp_path / "lines")


@pytest.fixture
def parted(tmp_path, monkeypatch) -> pathlib.Path:
    """The same in parts of one unit each, the last of three in lines still."""
    monkeypatch.setattr(parts, "ROWS", 32)
    folder = make_run(tmp_path / "parts")
    rewrite(folder, keep=1)
    assert len(files(folder)) == 2 and len(read_lines(folder)[0]) == 1
    return folder


def rewrite(folder: pathlib.Path, keep: int = 0) -> None:
    """Commits the units again, one by one, so that they are moved; the last `keep` stay in lines."""
    units = list(read_lines(folder)[0].values())
    records_file(folder).unlink()
    for i, unit in enumerate(units):
        with Writer(folder) as writer:
            if i >= len(units) - keep:
                writer._move = lambda: None  # type: ignore[method-assign]
            summary = {k: v for k, v in unit.summary.items() if k not in ("records", "sha256")}
            writer.append(summary, unit.records(), {})


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("part-*.parquet"))


def assert_alike(run, other) -> None:
    assert run.broken == other.broken and run.complete == other.complete and len(run) == len(other)
    assert [u["unit"] for u in run.units] == [u["unit"] for u in other.units]
    for name, column in other.columns.items():
        np.testing.assert_array_equal(run.columns[name], column, err_msg=name)
    for kind in ("maps", "insertion_curve"):
        np.testing.assert_array_equal(run.arrays(kind), other.arrays(kind))


def test_a_run_in_parts_is_the_run_in_lines(lined, parted):
    one, other = read_run(lined), read_run(parted)
    assert_alike(other, one)
    assert report(other, summarise(other)).replace(str(parted), str(lined)) == report(one, summarise(one))


@pytest.mark.parametrize("rows", [1000, 10_000])
def test_the_disk_that_is_foretold_is_what_a_run_takes(tmp_path, monkeypatch, rows):
    """From the first of a hundred units, of a run in parts and the rest in lines, and of one in lines alone."""
    monkeypatch.setattr(parts, "ROWS", rows)
    how = {"images": 800, "seeds": (0,), "pictures": False, "keep": ("maps",)}
    whole, begun = make_run(tmp_path / "whole", **how), make_run(tmp_path / "begun", **how, units=4)
    for folder in (whole, begun):
        tell(folder)
    assert len(files(whole)) == (4 if rows == 1000 else 0)
    taken = sum(f.stat().st_size for f in whole.rglob("*") if f.is_file())
    assert bytes_on_disk(read_run(begun)) == pytest.approx(taken, rel=0.03)
    for file in [f for folder in (whole, begun) for f in folder.glob("arrays/*")]:
        file.unlink()
    taken = sum(f.stat().st_size for f in whole.rglob("*") if f.is_file())
    assert bytes_on_disk(read_run(begun)) == pytest.approx(taken, rel=0.1)


def tell(folder: pathlib.Path) -> None:
    """Commits the units of a made-up run as a real one does."""
    units = list(read_lines(folder)[0].values())
    records_file(folder).unlink()
    rng = np.random.default_rng(0)
    with Writer(folder) as writer:
        for unit in units:
            summary = {k: v for k, v in unit.summary.items() if k not in ("records", "sha256")}
            pair = {}
            for record in (made := unit.records()):
                own = pair.setdefault((record["image"], record["target"]), np.float32(rng.random()))
                record |= {"score": float(own), "logit": float(9 * own), "negative": float(own / 2)}
            writer.append(summary | {"images": len(summary["images"])}, made, {})


@pytest.mark.parametrize("kept", [records._KEPT, 0])
def test_values_of_single_rows_are_those_of_the_columns(parted, monkeypatch, kept):
    run = read_run(parted)
    expected = dict(run.columns)
    monkeypatch.setattr(records, "_KEPT", kept)
    run = read_run(parted)
    for row in (0, 33, len(run) - 1):
        for name in ("image", "empty", "ad", "target"):
            np.testing.assert_equal(run.value(name, row), expected[name][row])


def test_units_in_any_order_and_twice_are_read_once_and_sorted(lined, tmp_path, monkeypatch):
    """As a kill between a part and the end of its lines leaves them, and devices that are not equally fast."""
    one = read_run(lined)
    units = list(read_lines(lined)[0].values())
    summaries, rows = [u.summary for u in units], [u.records() for u in units]
    parts.write(lined, [summaries[2], summaries[0]], parts.columns([*rows[2], *rows[0]]))
    parts.write(lined, summaries[1:], parts.columns([*rows[1], *rows[2]]))
    both = read_run(lined)
    assert len(both.units) == 3 and both.spoilt == 0
    records_file(lined).unlink()
    alone = read_run(lined)
    for run in (both, alone):
        assert_alike(run, one)
        monkeypatch.setattr(records, "_KEPT", 0)
        assert [run.value("image", i) for i in range(len(run))] == one.columns["image"].tolist()
        monkeypatch.undo()


def test_a_move_that_was_killed_is_finished(lined, monkeypatch):
    before = read_run(lined)
    expected = {name: before.columns[name] for name in before.columns}
    monkeypatch.setattr(parts, "ROWS", 40)
    real = os.ftruncate

    def killed(descriptor, length):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "ftruncate", killed)
    with pytest.raises(KeyboardInterrupt):
        Writer(lined)
    assert len(files(lined)) == 1 and len(read_lines(lined)[0]) == 3
    monkeypatch.setattr(os, "ftruncate", real)
    Writer(lined).__exit__()
    assert len(files(lined)) == 1 and read_lines(lined) == ({}, 0)
    after = read_run(lined)
    for name, column in expected.items():
        np.testing.assert_array_equal(after.columns[name], column, err_msg=name)


@pytest.mark.parametrize("at", [5, 400, -10])
def test_a_damaged_part_is_told_left_out_and_put_aside(parted, at):
    first, second = files(parted)
    data = bytearray(first.read_bytes())
    data[at] ^= 4
    first.write_bytes(data)
    run = read_run(parted)
    assert run.spoilt == 1 and not run.complete and [u["unit"] for u in run.units] == [1, 2]
    Writer(parted).__exit__()
    assert first not in files(parted) and second in files(parted) and first.with_suffix(".damaged").exists()
    assert read_run(parted).spoilt == 0


def test_without_pyarrow_lines_stay_and_parts_say_what_is_missing(parted, lined, monkeypatch):
    monkeypatch.setattr(parts, "available", lambda: False)
    with pytest.raises(JaxcamError, match="pip install 'jaxcam-xai\\[scale\\]'"):
        read_run(parted)
    rewrite(lined)
    assert not files(lined) and read_run(lined).complete


def test_columns_and_statistics_of_a_large_run_are_those_of_a_small_one(parted, lined, monkeypatch):
    small = read_run(lined)
    expected, seeds = summarise(small), over_seeds(small)
    monkeypatch.setattr(records, "_KEPT", 0)
    monkeypatch.setattr(statistics, "_AT_ONCE", 1)
    large = read_run(parted)
    found = summarise(large)
    assert not large.columns._read
    for name in ("score", "difference"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    np.testing.assert_array_equal(over_seeds(large).means, seeds.means)
    np.testing.assert_array_equal(cube(large).values, cube(small).values)


def test_curves_of_many_pairs_are_means_over_some_and_the_page_says_so(lined, monkeypatch):
    run = read_run(lined)
    monkeypatch.setattr(statistics, "MOST_KEPT", 9)
    monkeypatch.setattr("jaxcam.evaluate.report.MOST_KEPT", 9)
    assert sum(map(len, statistics._whole_pairs(cube(run)))) == 8  # every fourth
    assert "Mean over 8 of 31 maps of the score" in report(run, summarise(run, replicates=5))


@pytest.mark.parametrize("sizes", [False, True])
def test_the_expansion_is_what_many_resamples_say(monkeypatch, sizes):
    """To a term in 1/N: of skewed values, also where large clusters have small values."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(300), rng.integers(1, 6, 300) if sizes else 1)
    values = rng.exponential(size=(len(clusters), 1)) ** 1.3 - (np.bincount(clusters)[clusters] / 2)[:, None] * sizes
    how = {"level": 0.9, "replicates": 40_000}
    for differences in (False, True):
        monkeypatch.setattr(intervals, "MANY", 10**9)
        drawn = bootstrap(values, clusters, differences=differences, **how)
        monkeypatch.setattr(intervals, "MANY", 100)
        closed = bootstrap(values, clusters, differences=differences, **how)
        width = (drawn.high - drawn.low)[0]
        assert abs(closed.low - drawn.low) < 0.02 * width
        assert abs(closed.high - drawn.high) < 0.02 * width
        normal = closed.mean + 1.6449 * closed.error
        assert differences or sizes or abs(normal - drawn.high) > 0.04 * width  # the normal interval is further away


def test_a_mean_that_few_values_make_is_resampled(monkeypatch):
    monkeypatch.setattr(intervals, "MANY", 100)
    values = np.zeros((200, 2))
    values[0, 0], values[:, 1] = 1e4, np.random.default_rng(0).normal(size=200)
    values[:, 0] += np.random.default_rng(1).normal(size=200)
    with monkeypatch.context() as none:
        none.setattr(intervals, "_resamples", None)  # no resample is drawn where all columns are good
        bootstrap(values[:, 1:], np.arange(200))
    closed = bootstrap(values, np.arange(200), replicates=50)
    other = bootstrap(values, np.arange(200), replicates=80)
    assert closed.high[0] != other.high[0] and closed.high[1] == other.high[1]
