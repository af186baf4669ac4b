"""Mistakes on the command line that used to be passed over, or were told with another reason than their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from evaluation_sets import class_folders
from PIL import Image

from jaxcam.cli import main
from jaxcam.data.evaluation import load_dataset
from jaxcam.errors import JaxcamError
from jaxcam.methods.registry import request
from jaxcam.zoo.load import load
from jaxcam.zoo.store import save_network


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (
            ["convert", "missing.pth", "--out", "o"],
            "no such file or folder, and no model called 'missing.pth'",
        ),
        (["convert", "some/where", "--out", "o"], "there is no such file or folder, and no model called 'some/where'"),
        (["convert", "missing", "--out", "o"], "no model called 'missing'"),
        (["train", "data", "--out", "r", "--init", "missing.safetensors"], "there is no such file"),
        (["convert", "resnet50_slim", "--out", "o", "--table", "ema"], "--table goes with one"),
        (["explain", "a.png", "--no-figure", "--box", "--signed"], "leave out --box and --signed"),
        (["explain", "a.png", "--no-figure", "--alpha", "0.5"], "leave out --alpha"),
        (["explain", "a.png", "--method", "all:seed=3"], "all stands for every method"),
        (["explain", "a.png", "--method", "shap_cam:num_permutations=5,num-permutations=6"], "is given twice"),
    ],
)
def test_a_mistake_is_told_with_its_own_reason(tmp_path, monkeypatch, capsys, command, why):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "data", 2)
    assert main(command) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_options_of_a_method_are_given_once():
    with pytest.raises(JaxcamError, match="shap_cam: the option num_permutations is given twice"):
        request("shap_cam:num_permutations=5,num_permutations=6")


@pytest.mark.parametrize("to", [None, "safetensors", "orbax"])
def test_a_name_that_ends_in_safetensors_is_a_file(tmp_path, to):
    out = tmp_path / "x.safetensors"
    assert main(["convert", "resnet50_slim", "--out", str(out), *(["--to", to] if to else [])]) == 0
    assert out.is_file() == (to != "orbax")


@pytest.mark.parametrize("value", ["false", 0, None, []])
def test_a_manifest_says_true_or_false(tmp_path, value):
    """Of sigmoids: a text would be true, whatever it says."""
    save_network(tmp_path, load("resnet50_slim"))
    file = tmp_path / "network.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"multi_label": value}))
    with pytest.raises(JaxcamError, match="multi_label is true or false"):
        load(tmp_path)


def test_pictures_are_no_masks_of_themselves(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((9, 9, 3), 99, np.uint8)).save(tmp_path / name / f"{name}.png")
    with pytest.raises(JaxcamError, match="holds no mask"):
        load_dataset(tmp_path, masks=tmp_path)


@pytest.mark.parametrize("out", ["data/run", "data", "data/train/run"])
def test_a_training_run_is_no_class_of_its_data(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "data", 2)
    if "train" in out:
        for part in ("train", "val"):
            class_folders(tmp_path / "data" / part, 2)
    assert main(["train", "data", "--out", out]) == 2
    assert "of which every folder is read as a class; give another --out" in capsys.readouterr().err
    assert main(["train", "data", "--out", "run"]) == 2
    assert "do not fill one batch of 64; make it smaller" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "environment", "status", "said"),
    [
        ("methods >&-", {}, 0, ""), ("methods nope >&-", {}, 2, "no method called"), ("methods nope 2>&-", {}, 2, ""),
        ("explain --example --quiet --no-figure", {"JAX_PLATFORMS": "nope"}, 2, "Unable to initialize backend 'nope'"),
        ("explain --example --quiet --method grad_cam", {"MPLBACKEND": "module://nowhere"}, 0, ""),
    ],
)  # fmt: skip
def test_closed_outputs_and_settings_of_others(tmp_path, command, environment, status, said):
    run = subprocess.run(
        f"'{sys.executable}' -m jaxcam {command}", shell=True, env=os.environ | environment, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == status, run.stderr
    assert said in run.stderr and "Traceback" not in run.stderr
    assert said or not run.stderr
