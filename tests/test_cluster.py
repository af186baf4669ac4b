"""A Ray cluster makes the table of one process, whatever dies in it."""

from __future__ import annotations

import dataclasses
import os
import signal

import jax
import pytest
from evaluations import SETTINGS, assert_same, pictures, tiny
from guests import GUESTS
from wrapped import wrapped

from jaxcam.cli import main
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate, read_run
from jaxcam.evaluate.cluster import Cluster

pytest.importorskip("ray", reason="a cluster needs Ray: pip install 'jaxcam-xai[ray]'")
#: Few programs to compile, in each actor, and again in each that is killed.
LIGHT = SETTINGS | {
    "methods": ("grad_cam", "lift_cam"),
    "metrics": ("ic", "insertion"),
    "reference": None,
    "batch_size": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, which keep what they compile, so that one that is killed is there again soon."""
    kept = {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
            "jax_persistent_cache_min_compile_time_secs": 0.0}  # fmt: skip
    before = {name: jax.config.values[name] for name in kept}
    for name, value in kept.items():
        jax.config.update(name, value)
    made = Cluster("local", workers=2)
    yield made
    made.close()
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # as Ray starts, when JAX has threads already
def test_two_workers_of_which_one_is_killed_make_the_table_of_one_process(data, cluster, tmp_path):
    net, killed, states = tiny(), [], []

    def progress(state):
        states.append(state)
        if len(states) == 3:  # with units on their way
            killed.append(cluster.pids[0])
            os.kill(killed[-1], signal.SIGKILL)

    run = evaluate(net, data, out=tmp_path / "cluster", cluster=cluster, progress=progress, **LIGHT)
    alone = evaluate(net, data, out=tmp_path / "alone", devices=jax.local_devices()[:1], **LIGHT)
    assert len(killed) == 1
    assert [u["unit"] for u in run.units] == list(range(10)) and len(states) == 11
    assert_same(run, alone)
    assert_same(read_run(run.folder), alone)
    assert run.manifest["settings"] == alone.manifest["settings"]


def test_errors_of_an_actor_are_told_as_of_this_process(data, cluster, tmp_path):
    with pytest.raises(JaxcamError, match="CAM is defined for"):
        evaluate(tiny(), data, out=tmp_path, cluster=cluster, limit=2, **{**LIGHT, "methods": ("cam",)})


def test_a_network_that_cannot_be_sent_and_one_that_is_another_there(data, cluster, tmp_path, monkeypatch):
    functions = wrapped(next(iter(GUESTS.values()))())
    with pytest.raises(JaxcamError, match="cannot be sent to the workers; tell them how to make it"):
        evaluate(functions, data, out=tmp_path, cluster=cluster, targets="predicted", limit=2, **LIGHT)
    one = tiny()
    monkeypatch.setattr(cluster, "_network", lambda: one)
    other = dataclasses.replace(one, name="other", params=jax.tree.map(lambda x: x + 1, one.params))
    with pytest.raises(JaxcamError, match="is another network on"):
        evaluate(other, data, out=tmp_path / "other", cluster=cluster, limit=2, **LIGHT)


def test_mistakes(monkeypatch):
    with pytest.raises(JaxcamError, match="workers must be at least 1"):
        Cluster("local", workers=0)

    def refused(*args, **more):
        raise ConnectionError("no connection") from RuntimeError("several lines\nInvalidAuthToken: missing")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refused)
    with pytest.raises(JaxcamError, match="head:6379: the Ray cluster asks for its token; set RAY_AUTH_MODE=token"):
        Cluster("head:6379")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--workers", "2"], "--workers and --worker-resources are for --ray"),
        (["--ray", "local", "--worker-resources", "GPU"], "must be NAME=N, as in GPU=1, not 'GPU'"),
    ],
)
def test_options_that_mean_nothing(data, tmp_path, capsys, words, why):
    assert main(["evaluate", str(data), "--out", str(tmp_path / "run"), *words]) == 2
    assert why in capsys.readouterr().err
