"""A family of networks is a configuration, the module that it builds, an entry, and a table of others' names."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import pytest
from flax import nnx
from networks import colour_folder, network
from safetensors.numpy import load_file, save_file

import jaxcam
from jaxcam.cli import main
from jaxcam.converters import convert, export_torchvision, names
from jaxcam.converters.rules import TORCH, Dialect, affine
from jaxcam.errors import JaxcamError
from jaxcam.models.config import Config, scaled
from jaxcam.models.layers import Staged
from jaxcam.models.registry import FAMILIES, Family, architecture, architectures, name_of
from jaxcam.models.trees import flatten
from jaxcam.zoo.store import save_checkpoint, save_network


@dataclasses.dataclass(frozen=True)
class DotConfig(Config):
    """One convolution and a dense layer."""

    family: ClassVar[str] = "dot"
    last_layer: ClassVar[str] = "fc"
    smallest_input: ClassVar[int] = 4

    side: int = 3
    num_classes: int = 3
    width: float = 1.0
    batch_norm: bool = False

    def build(self, *, rngs):
        return Dot(self, rngs=rngs)

    @property
    def default_layer(self):
        return "conv1"

    @property
    def channels(self):
        return {"conv1.kernel": 8}


class Dot(Staged):
    layers = ("conv1", "avgpool", "fc")

    def __init__(self, config, *, rngs):
        channels = scaled(8, config.width)
        self.conv1 = nnx.Conv(3, channels, (config.side, config.side), rngs=rngs)
        self.fc = nnx.Linear(channels, config.num_classes, rngs=rngs)

    def stage(self, name, x, *, train=False, key=None):
        if name == "avgpool":
            return x.mean((1, 2))
        return jax.nn.relu(self.conv1(x)) if name == "conv1" else self.fc(x)


def _table(config):
    yield from affine("conv1", "conv", "body", TORCH)
    yield from affine("fc", "dense", "head", TORCH)


@pytest.fixture(autouse=True)
def family(monkeypatch):
    monkeypatch.setitem(
        FAMILIES, "dot", Family("Dot", f"{__name__}:DotConfig", {"dot3": {"side": 3}, "dot5": {"side": 5}})
    )
    dialect = Dialect("torchvision", (DotConfig(),), _table)
    monkeypatch.setattr(names, "DIALECTS", (*names.DIALECTS, dialect))


def _same(a, b):
    a, b = flatten(a.params), flatten(b.params)
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key])


def test_an_entry_is_all_that_names_and_manifests_need(tmp_path, capsys):
    config = architecture("dot5", num_classes=4, width=0.5)
    assert config == DotConfig(side=5, num_classes=4, width=0.5) and name_of(config) == "dot5"
    assert set(architectures()) > {"vgg16_bn", "resnet50", "dot3"}
    net = network(config)
    assert net.layers == ("conv1",) and net.resolve_layer() == "conv1" and net.layer_shape("conv1") == (64, 64, 4)
    save_network(tmp_path / "a", net)
    save_checkpoint(tmp_path / "b", net)
    for folder in ("a", "b"):
        after = jaxcam.load(tmp_path / folder)
        assert after.config == config
        _same(net, after)
    assert main(["models", str(tmp_path / "a")]) == 0
    assert "Dot5, width 0.5, 324 numbers" in capsys.readouterr().out


def test_a_table_of_names_is_all_that_conversion_needs(tmp_path):
    net = network(DotConfig(num_classes=4, width=0.25))
    tensors = export_torchvision(net)
    assert {k: v.shape for k, v in tensors.items()} == {
        "body.weight": (2, 3, 3, 3), "body.bias": (2,), "head.weight": (4, 2), "head.bias": (4,),
    }  # fmt: skip
    save_file(tensors, tmp_path / "dot.safetensors")
    after = convert(tmp_path / "dot.safetensors")
    assert after.config == net.config and after.name == "dot3"
    _same(net, after)
    broken = load_file(tmp_path / "dot.safetensors") | {"more": np.zeros(1, np.float32)}
    save_file(broken, tmp_path / "dot.safetensors")
    after = convert(tmp_path / "dot.safetensors")  # what belongs to no layer is left, and named
    assert after.provenance["beside"] == ["more"] and after.provenance["left"] == 1
    _same(net, after)
    broken["head.weight"] = np.zeros((4, 3), np.float32)
    save_file(broken, tmp_path / "dot.safetensors")
    with pytest.raises(JaxcamError, match="head.weight"):
        convert(tmp_path / "dot.safetensors")


def test_the_command_trains_it_and_refuses_what_it_has_not(tmp_path, capsys):
    data = colour_folder(tmp_path)
    command = ["train", str(data), "--out", str(tmp_path / ".run"), "--arch", "dot3", "--schedule", "16x1"]
    command += ["--eval-size", "16", "--batch-size", "9", "--warmup", "0"]
    assert main([*command, "--hidden", "9"]) == 2
    assert "--hidden is for VGG networks, not dot3" in capsys.readouterr().err
    assert main([*command[:-2], "--warmup", "0", "--eval-size", "2"]) == 2
    assert "at least 4 pixels, not 2" in capsys.readouterr().err
    assert main(command) == 0
    assert jaxcam.load(tmp_path / ".run" / "network").config == DotConfig()
