"""Sizes of chunks and batches from the memory of a device; on this processor what they have always been."""

from __future__ import annotations

import functools

import heads
import jax
import jax.numpy as jnp
import networks
import pytest
from evaluations import pictures

import jaxcam
from jaxcam.evaluate import evaluate
from jaxcam.methods import score
from jaxcam.methods.result import scalar_score
from jaxcam.transforms import coalition, memory
from jaxcam.transforms.coalition import coalition_game

GB = 1 << 30


class Device:
    """A device with so much memory, of which some is in use; no CPU."""

    platform = "gpu"

    def __init__(self, limit=None, used=0):
        self.stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": used}

    def memory_stats(self):
        return self.stats


@pytest.mark.parametrize(
    ("limit", "used", "bytes", "times"),
    [(60 * GB, 0, 4 * GB, 16), (60 * GB, 30 * GB, 2 * GB, 8), (18 * GB, GB, 2 * GB, 8), (2 * GB, 0, GB // 4, 1),
     (GB // 2, 0, GB // 16, 1), (GB // 2, GB, 1 << 20, 1)],
)  # fmt: skip
def test_an_eighth_of_what_is_free_as_a_power_of_two(limit, used, bytes, times):
    device = Device(limit, used)
    assert memory.working_bytes(device) == bytes
    assert memory.room_for(12, device=device) == 12 * times
    device.stats["bytes_in_use"] += GB  # sizes are parts of programs, and of runs that go on: they stay
    assert memory.working_bytes(device) == bytes


def test_no_more_than_there_are_and_no_less_than_on_a_processor():
    large = Device(60 * GB)
    assert memory.room_for(12, most=100, device=large) == 100
    assert memory.room_for(12, most=5, device=large) == 12
    assert memory.room_for(12, most=1000, device=large) == 192


def test_a_processor_has_what_was_measured_there_and_less_where_it_has_less(monkeypatch):
    assert memory.working_bytes() == memory.working_bytes(Device()) == 1 << 28
    assert coalition.chunk_elements() == 1 << 26 and memory.room_for(8) == 8
    monkeypatch.setattr(memory, "_of_this_machine", lambda: GB)
    assert memory.working_bytes(Device()) == 1 << 27


class Silent:
    def memory_stats(self):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED")


def test_a_runtime_that_does_not_count_is_taken_for_a_processor():
    assert memory.working_bytes(Silent()) == 1 << 28


@pytest.fixture
def large(monkeypatch):
    """As if the default device had 60 GB."""
    device = Device(60 * GB)
    monkeypatch.setattr(memory, "_default_device", lambda: device)


def test_what_is_chosen_by_it(large, tmp_path):
    head = heads.HEADS["gelu_tanh"]
    a = jnp.ones(heads.SHAPE)
    game = coalition_game(scalar_score(head.fn, heads.to_jax(head.params), 1), a)
    assert game.default_chunk(10**12) > 0.9 * GB // game.elements
    stepped = score.stepped_score_cam({}, jnp.ones((2, 2, 500)), a, predict=lambda p, x: x.mean((0, 1)), target=0)
    assert stepped.steps.size == 192
    net = networks.network(networks.VGG, size=32)
    data = pictures(tmp_path / "data", each=1, broken=False)
    run = evaluate(net, data, metrics=["ad"], methods="grad_cam", out=tmp_path / "run")
    assert run.manifest["settings"]["batch_size"] == max(12, len(run.images))


def test_a_run_that_goes_on_keeps_its_batches(monkeypatch, tmp_path):
    net, data = networks.network(networks.VGG, size=32), pictures(tmp_path / "data", each=1, broken=False)
    again = functools.partial(evaluate, net, data, metrics=["ad"], methods="grad_cam", out=tmp_path / "run")
    assert again().manifest["settings"]["batch_size"] == 12
    device = Device(60 * GB)
    monkeypatch.setattr(memory, "_default_device", lambda: device)
    assert again().complete
    assert jaxcam.explain(net, networks.picture(30, 30), methods="grad_cam")[0].results
