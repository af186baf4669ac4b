"""The command for an accelerator, run small on a processor: it measures, saves, goes on, and says what failed."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import pytest

from benchmarks import accelerator
from jaxcam.methods.registry import METHODS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def run(folder, *more: str) -> tuple[int, dict]:
    few = ["--small", "--out", str(folder), "--methods", "lift_cam"]
    status = accelerator.main([*few, "--torch-python", "/nowhere/python", *more])
    [file] = folder.glob("accelerator-*.json")
    return status, json.loads(file.read_text())["parts"]


def one_row(part):
    """A part, and only the first of its rows: each costs a compilation."""
    return dataclasses.replace(part, rows=lambda settings: itertools.islice(part.rows(settings), 1))


@pytest.mark.slow
def test_every_part_measures_something_and_a_second_run_nothing_again(folder, capsys, monkeypatch):
    monkeypatch.setitem(accelerator.PARTS, "more_costs", one_row(accelerator.PARTS["more_costs"]))
    status, parts = run(folder)
    assert status == 0 and list(parts) == list(accelerator.PARTS)
    [exact], [rounded] = parts["correctness"].values(), parts["precision"].values()
    assert exact["highest"] < 1e-5 < rounded["bfloat16"] < 0.5 and "tf32" not in rounded  # which a processor has not
    for row in parts["shap_cam"].values():
        assert row["seconds"] > 0 and row["coalitions"] > 0 and row["value_error"] < 2e-2
    assert any("lift_cam" in name and row["forwards"] > 0 for name, row in parts["costs"].items())
    assert all(row["pictures"] == 8 for row in parts["evaluation"].values())
    assert all(row["rate"] > 0 for row in parts["decoding"].values())
    [report] = folder.glob("accelerator-*.md")
    assert all(part.title in report.read_text() for part in accelerator.PARTS.values())
    assert "not a measurement" in report.read_text()
    assert "| lift_cam |" in capsys.readouterr().out

    def none(*args, **more):
        raise AssertionError("measured again")

    for name in ("errors", "shap_at", "cost", "evaluated", "decoded"):
        monkeypatch.setattr(accelerator.parts, name, none)
    assert run(folder) == (0, parts)


def test_no_row_is_begun_when_the_time_is_up(tmp_path, capsys):
    status = accelerator.main(["--small", "--out", str(tmp_path), "--minutes", "0"])
    assert status == 0 and "the same command measures the rest" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_row_that_fails_hides_no_other_and_is_told(tmp_path, monkeypatch, capsys):
    def fails(*args):
        raise RuntimeError("not on this card")

    monkeypatch.setattr(accelerator.parts, "errors", fails)
    status, parts = run(tmp_path, "--parts", "correctness")
    assert status == 1 and all("not on this card" in row["failed"] for row in parts["correctness"].values())
    assert "failed: correctness lift_cam" in capsys.readouterr().err
    monkeypatch.setattr(accelerator.parts, "errors", lambda *args: {"highest": 0.0})
    assert run(tmp_path, "--parts", "correctness")[0] == 1  # a failure stays until it is asked for again
    status, parts = run(tmp_path, "--parts", "correctness", "--again")
    assert status == 0 and all(row["highest"] == 0 for row in parts["correctness"].values())


def test_all_methods_are_asked_for_by_their_declarations():
    settings = accelerator.parts.Settings(small=True, methods=(), torch_python="")
    names = [row.name.split(":")[0] for row in accelerator.parts.correctness(settings)]
    assert names == list(METHODS)
    assert accelerator.card() == jax.devices()[0].device_kind.lower()
