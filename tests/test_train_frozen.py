"""Training behind frozen layers: these stay to the bit, what they give is computed once, and the whole is measured."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from networks import RESNET, VGG, colour_folder, network

import jaxcam
from jaxcam.cli import main
from jaxcam.converters import convert, read_tensors, save_torchvision_safetensors
from jaxcam.data.datasets import train_and_validation
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.models.trees import flatten
from jaxcam.training.frozen import trained
from jaxcam.training.outputs import FrozenOutputs
from jaxcam.training.recipe import Recipe
from jaxcam.training.release import measure, release
from jaxcam.training.train import Trainer
from jaxcam.zoo.load import begin_with

RECIPE = Recipe(
    schedule=((32, 3),), eval_size=32, batch_size=6, learning_rate=0.03, warmup=0.5, ema=0.5, label_smoothing=0.0,
    seed=3, freeze="conv4_1", views=2,
)  # fmt: skip
OWN = Preprocessing(size=64, mean=(100.0, 110.0, 120.0), std=(1.0, 2.0, 3.0), scale=1.0, channels="BGR")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def parts(folder):
    return train_and_validation(folder, holdout=0.25)


@pytest.fixture(scope="module")
def source():
    config = dataclasses.replace(VGG, batch_norm=True, width=0.06, num_classes=4)
    return network(config, classes=("a", "b", "c", "d"), preprocessing=OWN)


@pytest.fixture(scope="module")
def run(parts, source, tmp_path_factory):
    config = source.config.replace(num_classes=3)
    trainer = Trainer(config, RECIPE, *parts, tmp_path_factory.mktemp("run"), init=source)
    return trainer, trainer.run()


def test_frozen_layers_stay_and_the_others_learn(run, source):
    trainer, rows = run
    before, after = flatten(source.params), flatten(trainer.averaged_params())
    still = {p for p in before if p.split(".")[0][-3:] in ("1_1", "2_1", "3_1", "3_2", "4_1")}
    assert len(still) == 5 * 6
    for path in after:
        if path.startswith("fc8"):
            continue  # drawn anew, for other classes
        assert np.array_equal(before[path], after[path]) == (path in still), path
    assert rows[-1]["loss"] < rows[0]["loss"]
    optimised = {p for p in flatten(trainer.state["params"])}
    assert optimised and not optimised & still


def test_the_network_as_a_whole_is_what_was_measured(run, parts):
    """The validation figures come from kept outputs, in float16; those of the released network from the pictures."""
    trainer, rows = run
    net = release(trainer, trainer.out / "network", name="colours", command="", source="colours")
    assert net.preprocessing == dataclasses.replace(OWN, size=32, resize="squash", resize_to=32)
    assert measure(net, parts[1]) == pytest.approx(rows[-1]["val_accuracy"])
    logits = np.stack([net.predict(net.params, net.preprocess(p)) for p in parts[1].paths[:3]])
    kept = trainer._logits(trainer.state["average"], trainer.val_data.kept[:3])
    np.testing.assert_allclose(kept, logits, atol=5e-3 * np.abs(logits).max())
    assert net.provenance["source"].startswith("fine-tuned")


def test_outputs_are_computed_once_also_after_a_kill(run, tmp_path):
    trainer, _ = run
    loader, calls = trainer.train_data.loader, []

    def compute(pixels):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(len(pixels))
        return trainer.train_data.compute(pixels)

    served = FrozenOutputs(loader, compute, tmp_path / "f" / "train.npy", size=32, batch_size=6)
    with pytest.raises(KeyboardInterrupt):
        next(served.training(0, 32, 6))
    assert json.loads((tmp_path / "f" / "train.json").read_text()) == {"done": 24}
    calls[:] = [0] * 5
    first = next(served.training(0, 32, 6))
    assert len(calls) == 5 + 6  # 27 pictures in two views, of which 24 were there
    np.testing.assert_array_equal(served.kept, trainer.train_data.kept)
    again = FrozenOutputs(loader, lambda p: 1 / 0, tmp_path / "f" / "train.npy", size=32, batch_size=6)
    for a, b in zip(first, next(again.training(0, 32, 6)), strict=True):
        np.testing.assert_array_equal(a, b)
    views = [set(map(bytes, np.concatenate([x for x, _ in again.training(e, 32, 6)]))) for e in (0, 1)]
    assert len(views[0]) == 24 and views[0] != views[1]


@pytest.mark.parametrize(("layer", "first"), [("layer3", "layer4"), ("layer4.0", "layer4.1"), ("avgpool", "fc")])
def test_a_part_of_a_block_list_can_be_frozen(layer, first):
    from jaxcam.training.frozen import resolved

    found = trained(RESNET, resolved(RESNET, layer), 64)
    assert found and all(p.startswith((first, "layer4.1", "fc")) for p in found)


def test_a_file_without_dense_layers_is_begun_with(folder, source, tmp_path, capsys):
    """Convolutions in Caffe's names, in a packed .npz, as they are handed on: the rest is drawn as options say."""
    plain = network(dataclasses.replace(VGG, num_classes=3, width=0.06), size=32)
    convs = {k: v for k, v in plain.params.items() if k.startswith("conv")}
    arrays = {f"{k}/w": np.asarray(v["kernel"]).transpose(3, 2, 0, 1).astype("f2") for k, v in convs.items()}
    arrays |= {f"{k}/b": np.asarray(v["bias"]) for k, v in convs.items()}
    file, out = tmp_path / "convolutions.npz", tmp_path / "run"
    np.savez_compressed(file, **arrays)
    for name, value in read_tensors(file).items():
        np.testing.assert_array_equal(value, arrays[name].astype("f4"))
    with pytest.raises(JaxcamError, match="nearest is vgg11, of whose 22 tensors it has 16"):
        convert(file)
    assert convert(file, partial=True).config.depth == 11
    command = ["train", str(folder), "--out", str(out), "--init", str(file), "--arch", "vgg11", "--hidden", "6",
               "--pool-size", "1", "--freeze", "pool5", "--views", "1", "--schedule", "32x2", "--eval-size", "32",
               "--batch-size", "9", "--holdout", "0.25"]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "frozen layers' outputs, training pictures: 27 views kept" in printed.out
    net = jaxcam.load(out / "network")
    assert (net.config.hidden, net.config.num_classes, net.preprocessing.channels) == (6, 3, "BGR")
    for name, value in convs.items():
        np.testing.assert_array_equal(net.params[name]["kernel"], np.asarray(value["kernel"]).astype("f2"))
    assert net.provenance["from"]["absent"] == ["fc6", "fc7", "fc8"]
    x = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    assert net.predict(net.params, x).shape == (3,)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"freeze": "conv9_1"}, "no layer called 'conv9_1'; did you mean conv"),
        ({"freeze": "fc8"}, "behind fc8 nothing is left to train"),
    ],
)
def test_layers_that_cannot_be_frozen(parts, source, tmp_path, fields, why):
    config = source.config.replace(num_classes=3)
    with pytest.raises(JaxcamError, match=why):
        Trainer(config, dataclasses.replace(RECIPE, **fields), *parts, tmp_path, init=source)


def test_what_cannot_be_frozen_says_why(parts, source, tmp_path):
    config = source.config.replace(num_classes=3)
    with pytest.raises(JaxcamError, match="nothing to freeze in freshly drawn weights"):
        Trainer(config, RECIPE, *parts, tmp_path / "none")
    headless = dataclasses.replace(source, provenance={"absent": ["fc6", "fc7", "fc8"]})
    with pytest.raises(JaxcamError, match="tiny has no weights of fc6, which would be frozen"):
        Trainer(config, dataclasses.replace(RECIPE, freeze="fc6"), *parts, tmp_path / "head", init=headless)
    with pytest.raises(JaxcamError, match="see pictures of eval_size, 32 pixels, alone; schedule must be like 32x3"):
        dataclasses.replace(RECIPE, schedule=((32, 2), (64, 1)))
    with pytest.raises(JaxcamError, match="views must be at least 1"):
        dataclasses.replace(RECIPE, views=0)


def test_a_file_to_begin_with_tells_its_classes_as_one_to_load_does(tmp_path):
    """Else its last layer would be drawn anew for the very classes that it knows."""
    net = network(dataclasses.replace(VGG, num_classes=1000, hidden=2), classes=tuple(map(str, range(1000))))
    save_torchvision_safetensors(tmp_path / "w.safetensors", net)
    assert begin_with(tmp_path / "w.safetensors").classes == jaxcam.load(tmp_path / "w.safetensors").classes
    assert begin_with(tmp_path / "w.safetensors").classes[0] == "tench"
