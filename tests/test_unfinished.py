"""A run that is stopped within a unit goes on within it, and ends with the table of one that was not."""

from __future__ import annotations

import math
import pathlib
import time

import jax
import numpy as np
import pytest
from evaluations import assert_same, pictures, tiny

from jaxcam.evaluate import evaluate, unfinished
from jaxcam.evaluate.measures import Measures
from jaxcam.evaluate.unfinished import Unfinished, close, forget
from jaxcam.explanation.engine import Engine
from jaxcam.explanation.stepped import SteppedMaps

#: With a method that takes many steps, and a metric that calls the methods again.
HOW = {
    "methods": ("grad_cam", "shap_cam:num_permutations=3,estimator=plain,chunk_size=8", "lift_cam"),
    "metrics": ("ic", "insertion", "deletion", "max_sensitivity"), "batch_size": 2, "steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """Four pictures, two units."""
    return pictures(tmp_path_factory.mktemp("data") / "set", 1, broken=False)


@pytest.fixture(scope="module")
def net():
    return tiny()


def run(net, data, out):
    return evaluate(net, data, out=out, devices=jax.local_devices()[:1], **HOW)


@pytest.fixture(scope="module")
def whole(net, data, tmp_path_factory):
    """Nothing of which was kept on the way; and how often maps were made for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfinished, "LEAST", math.inf)
        seen = calls(patch, Engine, "_maps")
        made = run(net, data, tmp_path_factory.mktemp("whole"))
    object.__setattr__(made, "calls", len(seen))
    return made


@pytest.fixture
def everything(monkeypatch):
    """Every step is kept, however short."""
    monkeypatch.setattr(unfinished, "LEAST", 0.0)


def kept(out: pathlib.Path) -> list[pathlib.Path]:
    return sorted((out / "unfinished").glob("*.npz"))


def calls(monkeypatch, owner, name: str, stop: int | None = None) -> list:
    """Counts calls of a method; the run is stopped at the `stop`-th."""
    seen, real = [], getattr(owner, name)

    def counted(self, *args, **more):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(args)
        return real(self, *args, **more)

    monkeypatch.setattr(owner, name, counted)
    return seen


@pytest.mark.parametrize(
    ("owner", "name", "stop"),
    [(Engine, "_maps", 2), (Measures, "_scores", 4), (Measures, "_values", 9), (Unfinished, "save", 3)],
    ids=["between methods", "between perturbations", "between metrics", "within a map"],
)
def test_stopped_within_a_unit(net, data, whole, everything, tmp_path, monkeypatch, owner, name, stop):
    with monkeypatch.context() as patch:
        calls(patch, owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run(net, data, tmp_path)
    there = len(kept(tmp_path))
    assert there and not (tmp_path / "records.jsonl").read_bytes()
    made = calls(monkeypatch, Engine, "_maps")
    assert_same(run(net, data, tmp_path), whole)
    assert len(made) < whole.calls and not (tmp_path / "unfinished").exists()


def test_a_map_goes_on_from_its_last_state(net, data, whole, everything, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        calls(patch, Unfinished, "save", 3)
        with pytest.raises(KeyboardInterrupt):
            run(net, data, tmp_path)
    loaded = []
    real = SteppedMaps.run

    def told(self, stepped, inputs, where, done):
        loaded.append(self.states.load(*where, stepped.steps.states))
        return real(self, stepped, inputs, where, done)

    monkeypatch.setattr(SteppedMaps, "run", told)
    assert_same(run(net, data, tmp_path), whole)
    assert loaded[0] is not None and sum(state is not None for state in loaded) <= 2  # none where a metric asks again


def test_what_is_damaged_or_of_another_step_is_made_again(net, data, whole, everything, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        calls(patch, Measures, "_values", 9)
        with pytest.raises(KeyboardInterrupt):
            run(net, data, tmp_path)
    first, second, third, *_ = kept(tmp_path)
    contents = first.read_bytes(), second.read_bytes(), third.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0][:-1])
    third.write_bytes(contents[2][:40] + bytes([contents[2][40] ^ 1]) + contents[2][41:])
    (tmp_path / "unfinished" / ".x.npz.1.tmp").touch()
    assert_same(run(net, data, tmp_path), whole)
    assert not (tmp_path / "unfinished").exists()


def test_other_pictures_and_other_settings_find_nothing(everything, tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3.0)}

    one = Unfinished(tmp_path, 3, lambda: "these")
    for _ in range(2):
        np.testing.assert_array_equal(one.once(("maps",), make)["x"], np.arange(3.0))
    assert len(made) == 1
    for other in (Unfinished(tmp_path, 3, lambda: "those"), Unfinished(tmp_path, 4, lambda: "these"), Unfinished()):
        other.once(("maps",), make)
    with one.within("grad_cam"):
        one.once(("maps",), make)
    one.once(("values",), make)
    assert len(made) == 6
    written = tmp_path / "unfinished" / ".unit-000004-x.npz.1.tmp"
    written.touch()
    forget(tmp_path, [3])
    assert len(kept(tmp_path)) == 1 and written.exists()  # by another device, now
    forget(tmp_path, [4])
    assert not written.exists()
    close(tmp_path)
    assert not (tmp_path / "unfinished").exists()


def test_the_time_of_a_step_is_that_of_its_result(tmp_path, monkeypatch):
    class Later:
        """An array that is still being computed."""

        def block_until_ready(self):
            time.sleep(0.02)

        def __array__(self, *args, **more):
            return np.ones(2)

    monkeypatch.setattr(unfinished, "LEAST", 0.01)
    Unfinished(tmp_path, 0, lambda: "these").once(("scores",), lambda: {"x": Later()})
    assert len(kept(tmp_path)) == 1


def test_steps_that_take_a_moment_are_not_kept(tmp_path):
    Unfinished(tmp_path, 0, lambda: "these").once(("maps",), lambda: {"x": np.zeros(1)})
    assert not list(tmp_path.iterdir())
