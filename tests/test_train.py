"""Training: it learns, it survives a kill, it reads its data right, and what it releases is what it measured."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from networks import RESNET, VGG, TinyConfig, colour_folder, network, voc_folder
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.data.datasets import LabelledImages, train_and_validation
from jaxcam.errors import JaxcamError
from jaxcam.models.config import fold_batch_norm
from jaxcam.models.vgg import VGGConfig
from jaxcam.training.losses import accuracy, multi_label_loss
from jaxcam.training.recipe import Recipe
from jaxcam.training.release import measure
from jaxcam.training.train import Trainer

RECIPE = Recipe(
    schedule=((24, 4),), eval_size=24, batch_size=6, learning_rate=0.03, warmup=0.5, ema=0.9, label_smoothing=0.0,
    seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def parts(folder):
    return train_and_validation(folder, holdout=0.25)


@pytest.fixture(scope="module")
def uninterrupted(parts, tmp_path_factory):
    trainer = Trainer(TinyConfig(), RECIPE, *parts, tmp_path_factory.mktemp("run"), checkpoint_every=2)
    return trainer, trainer.run()


def test_it_learns(uninterrupted):
    trainer, rows = uninterrupted
    assert [r["epoch"] for r in rows] == [0, 1, 2, 3]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] and rows[-1]["val_accuracy"] > 0.9
    assert json.loads((trainer.out / "metrics.json").read_text()) == rows


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from networks import TinyConfig
from test_train import RECIPE
from jaxcam.data.datasets import train_and_validation
from jaxcam.training.train import Trainer

def report(figures):
    if figures["epoch"] == 2:  # after the last step of the third epoch, before its checkpoint
        os.kill(os.getpid(), signal.SIGKILL)

parts = train_and_validation(pathlib.Path(sys.argv[2]), holdout=0.25)
Trainer(TinyConfig(), RECIPE, *parts, sys.argv[3], checkpoint_every=2, report=report).run()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this platform")
def test_a_killed_run_resumes_to_the_same_bits(uninterrupted, folder, parts, tmp_path):
    here = pathlib.Path(__file__).parent
    env = os.environ | {"PYTHONPATH": str(here.parent)}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(here), str(folder), str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(json.loads((tmp_path / "metrics.json").read_text())) == 2
    steps = []
    resumed = Trainer(TinyConfig(), RECIPE, *parts, tmp_path, checkpoint_every=2)
    step = resumed._step
    resumed._step = lambda state, *batch: steps.append(int(state["step"])) or step(state, *batch)
    rows = resumed.run()
    trainer, expected_rows = uninterrupted
    last = 4 * trainer.steps_per_epoch
    assert steps[0] > 0 and steps == list(range(steps[0], last))  # it went on, and did not begin again
    expected = jax.tree.leaves_with_path(trainer.state)
    found = jax.tree.leaves(resumed.state)
    for (path, a), b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    for a, b in zip(expected_rows, rows, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_a_folder_with_another_run_is_refused(uninterrupted, parts, tmp_path):
    trainer, _ = uninterrupted
    other = Recipe(**{**vars(RECIPE), "seed": 4})
    with pytest.raises(JaxcamError, match="holds a run with other settings"):
        Trainer(TinyConfig(), other, *parts, trainer.out)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(JaxcamError, match=r"settings.json: cannot be read"):
        Trainer(TinyConfig(), RECIPE, *parts, tmp_path)


def test_fine_tuning_takes_the_weights_and_for_other_classes_a_new_last_layer(parts, tmp_path):
    config = VGGConfig(11, num_classes=3, width=0.06, hidden=8, pool_size=1)
    source = jaxcam.Network.create(config, seed=7, classes=parts[0].classes)
    recipe = Recipe(**{**vars(RECIPE), "schedule": ((32, 2),), "eval_size": 32})

    def started(out, train, init=source):
        fitting = dataclasses.replace(config, num_classes=len(train.classes))
        return Trainer(fitting, recipe, train, train, out, init=init).state["params"]

    same = started(tmp_path / "same", parts[0])
    jax.tree.map(np.testing.assert_array_equal, same, source.params)
    others = dataclasses.replace(parts[0], classes=("a", "b", "c", "d"))
    found = started(tmp_path / "others", others)
    assert found["fc8"]["kernel"].shape == (8, 4)
    jax.tree.map(np.testing.assert_array_equal, found | {"fc8": 0}, source.params | {"fc8": 0})
    renamed = started(tmp_path / "renamed", dataclasses.replace(parts[0], classes=("a", "b", "c")))
    assert not np.array_equal(renamed["fc8"]["kernel"], source.params["fc8"]["kernel"])
    with pytest.raises(JaxcamError, match="differs in its architecture"):
        wider = jaxcam.Network.create(dataclasses.replace(config, hidden=9), classes=parts[0].classes)
        started(tmp_path / "wider", parts[0], wider)
    with pytest.raises(JaxcamError, match="holds a run with other settings"):
        started(tmp_path / "same", parts[0], dataclasses.replace(source, params=same | {"fc8": found["fc8"]}))


def test_mistakes_in_the_settings(parts, tmp_path):
    with pytest.raises(JaxcamError, match="27 training pictures do not fill one batch of 40"):
        Trainer(TinyConfig(), Recipe(schedule=((24, 2),), batch_size=40), *parts, tmp_path)
    with pytest.raises(JaxcamError, match="at least 32 pixels"):
        Trainer(VGGConfig(11, num_classes=3), RECIPE, *parts, tmp_path)
    for fields in ({"schedule": ()}, {"learning_rate": float("nan")}, {"ema": 1.0}, {"warmup": 16.0}, {"min_scale": 0}):
        with pytest.raises(JaxcamError, match="cannot be run: " + next(iter(fields)).replace("schedule", "sizes")):
            Recipe(**fields)


def test_a_loss_that_explodes_is_an_error(parts, tmp_path):
    recipe = Recipe(**{**vars(RECIPE), "learning_rate": 1e38, "warmup": 0.0, "weight_decay": 10.0})
    with pytest.raises(JaxcamError, match="the loss is (nan|inf); start again with a lower learning rate"):
        Trainer(TinyConfig(), recipe, *parts, tmp_path).run()


def test_multi_label_training(tmp_path):
    recipe = Recipe(schedule=((24, 2),), eval_size=24, batch_size=2, warmup=0.0)
    trainer = Trainer(TinyConfig(2), recipe, *train_and_validation(voc_folder(tmp_path), holdout=0.4), tmp_path / "run")
    rows = trainer.run()
    # One of the two pictures, 05, holds both classes: the precision of a class is 1 or 1/2 by its rank.
    assert all(0 < r["loss"] < 10 and r["val_accuracy"] in (0.5, 0.75, 1.0) for r in rows)


def test_unknown_labels_have_no_weight():
    logits = np.array([[2.0, -1.0], [0.5, 3.0]], np.float32)
    labels = np.array([[1, -1], [0, -1]], np.float32)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))) / 2
    np.testing.assert_allclose(multi_label_loss(logits, labels), expected, rtol=1e-6)


def test_mean_average_precision():
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.7, 0.3], [0.6, 0.2]])
    labels = np.array([[1, 0], [0, 1], [1, -1], [-1, 0]], np.float32)
    # First class: hits at ranks 1 and 3 of three known; second: at rank 1.
    assert accuracy(scores, labels) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


@pytest.mark.parametrize("config", [VGG, RESNET], ids=["vgg", "resnet"])
def test_folding_batch_norm_keeps_the_function(config):
    config = type(config)(**{**vars(config), "batch_norm": True})
    net = network(config, size=32)
    folded_config, folded = fold_batch_norm(config, net.params)
    assert not folded_config.batch_norm and "bn" not in str(jax.tree.structure(folded))
    after = network(folded_config, size=32)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    a = np.asarray(jax.jit(net.predict)(net.params, x))
    b = np.asarray(jax.jit(after.predict)(folded, x))
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
    assert np.ptp(a) > 0.01


CLI = [
    "--arch", "vgg11_bn", "--width", "0.002", "--hidden", "4", "--pool-size", "1", "--dropout", "0.1",
    "--schedule", "32x2", "--eval-size", "32", "--batch-size", "9", "--ema", "0.5", "--holdout", "0.25",
]  # fmt: skip


def test_the_command_end_to_end(folder, tmp_path, capsys):
    out = tmp_path / "run"
    (tmp_path / "names.csv").write_text("n1,red\nn2,green\nn3,blue\n")
    command = ["train", str(folder), "--out", str(out), *CLI, "--fold", "--dtype", "float16", "--name", "colours"]
    command += ["--class-names", str(tmp_path / "names.csv")]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "epoch 2/2, 32 px" in captured.out
    with open(out / "metrics.csv") as f:
        rows = list(csv.DictReader(f))
    assert [r["epoch"] for r in rows] == ["0", "1"] and float(rows[1]["val_loss"]) > 0
    with Image.open(out / "learning_curve.png") as curve:
        assert curve.width > curve.height > 300
    net = jaxcam.load(out / "network")
    assert net.name == "colours" and net.classes == ("red", "green", "blue") and not net.config.batch_norm
    p = net.provenance
    assert p["command"].startswith("jaxcam train ") and "--width 0.002" in p["command"]
    assert (p["seed"], p["training_pictures"], p["validation_pictures"]) == (0, 27, 9)
    assert p["versions"]["jax"] == jax.__version__ and p["recipe"]["schedule"] == [[32, 2]]
    _, val = train_and_validation(folder, holdout=0.25)
    assert p["accuracy"] == pytest.approx(measure(net, val), abs=1e-5)
    # The same command again: nothing left to train, the same network.
    before = (out / "network" / "weights.safetensors").read_bytes()
    assert main(command) == 0
    assert "epoch" not in capsys.readouterr().out
    assert (out / "network" / "weights.safetensors").read_bytes() == before


def test_measure_counts_right_answers(parts):
    net = network(VGG, size=32)
    paths = parts[0].paths[:5]
    inputs = np.stack([net.preprocess(p) for p in paths])
    labels = np.array(jax.jit(net.predict)(net.params, inputs)).argmax(-1)
    labels[0] = (labels[0] + 1) % 4
    assert measure(net, LabelledImages(paths, labels, net.classes), batch_size=2) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--arch", "vgg15"], "no architecture called 'vgg15'; did you mean vgg"),
        (["--arch", "resnet18", "--hidden", "9"], "--hidden is for VGG networks"),
        (["--zero-init-residual"], "--zero-init-residual is for ResNet networks"),
        (["--schedule", "32-2"], "--schedule must be like"),
        (["--dropout", "1"], "--dropout must lie in"),
        (["--width", "0"], "--width must be positive"),
        (["--batch-size", "64"], "do not fill one batch of 64"),
        (["--eval-every", "0"], "--eval-every must be at least 1"),
        (["--class-names", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["--out", "{folder}/n1/00.png"], "cannot be written to"),
        (["--dtype", "int8"], "invalid choice"),
    ],
)
def test_mistakes_on_the_command_line(folder, tmp_path, capsys, arguments, why):
    arguments = [a.format(folder=folder) for a in arguments]
    assert main(["train", str(folder), "--out", str(tmp_path), *CLI, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxcam: error: ") and why in line


def test_a_broken_picture_in_the_data_is_named(folder, tmp_path, capsys):
    for c in ("x", "y"):
        (tmp_path / c).mkdir()
        for i in range(5):
            (tmp_path / c / f"{i}.png").write_bytes((folder / "n1" / f"{i:02}.png").read_bytes()[:-200])
    command = ["train", str(tmp_path), "--out", str(tmp_path / ".run"), *CLI, "--arch", "vgg11", "--batch-size", "2"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken or cut off" in line and ".png" in line
