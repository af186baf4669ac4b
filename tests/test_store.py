"""A network's folder: what is written is what is read, and what is broken is named."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from networks import VGG, network
from safetensors.numpy import load_file, save_file

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.files import check_writable, whole_file
from jaxcam.models.trees import flatten
from jaxcam.zoo.load import load
from jaxcam.zoo.store import save_network


@pytest.fixture
def folder(tmp_path):
    save_network(tmp_path / "net", network(VGG, provenance={"seed": 7}))
    return tmp_path / "net"


def test_round_trip(folder):
    before, after = network(VGG), load(folder)
    for field in ("name", "config", "classes", "preprocessing", "multi_label"):
        assert getattr(after, field) == getattr(before, field)
    assert after.provenance == {"seed": 7}
    old, new = flatten(before.params), flatten(after.params)
    assert old.keys() == new.keys()
    for key in old:
        np.testing.assert_array_equal(old[key], new[key])
    assert sorted(p.name for p in folder.iterdir()) == ["network.json", "weights.safetensors"]


def test_half_precision_is_rounded_once(tmp_path):
    net = network(VGG)
    save_network(tmp_path, net, dtype="float16")
    after = flatten(load(tmp_path).params)
    for key, value in flatten(net.params).items():
        assert after[key].dtype == jnp.float32
        half = value.ndim > 1  # kernels; there are few of the others
        want = np.asarray(value).astype(np.float16 if half else np.float32).astype(np.float32)
        np.testing.assert_array_equal(after[key], want)


@pytest.mark.parametrize("value", [np.nan, 1e5])
def test_weights_that_cannot_be_written(tmp_path, value):
    net = network(VGG)
    layer = net.params["fc8"]
    params = net.params | {"fc8": layer | {"kernel": jnp.full_like(layer["kernel"], value)}}
    with pytest.raises(JaxcamError, match=r"fc8\.kernel"):
        save_network(tmp_path / "net", dataclasses.replace(net, params=params), dtype="float16")
    assert not (tmp_path / "net").exists()


def _edit(folder, change):
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop("fc7.bias"), "fc7.bias is missing"),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), "extra belongs to no layer"),
        (lambda t: t.update({"fc8.bias": np.zeros(3, np.float32)}), r"fc8.bias has shape \(3,\), not \(4,\)"),
        (lambda t: t["conv1_1.kernel"].fill(np.nan), "conv1_1.kernel holds NaN"),
    ],
    ids=["missing", "extra", "shape", "nan"],
)
def test_weights_that_do_not_fit(folder, change, why):
    _edit(folder, change)
    with pytest.raises(JaxcamError, match=why):
        load(folder)


def test_every_problem_is_told_at_once(folder):
    _edit(folder, lambda t: [t.pop(k) for k in list(t)[:7]])
    with pytest.raises(JaxcamError, match=r"is missing;.*and 2 more problems"):
        load(folder)


def test_broken_files(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(JaxcamError, match="not a safetensors file, or is cut off"):
        load(folder)
    weights.unlink()
    with pytest.raises(JaxcamError, match="weights.safetensors: there is no such file"):
        load(folder)
    manifest = json.loads((folder / "network.json").read_text())
    manifest["architecture"]["depth"] = 12
    (folder / "network.json").write_text(json.dumps(manifest))
    with pytest.raises(JaxcamError, match="no VGG of depth 12"):
        load(folder)
    (folder / "network.json").write_text("{")
    with pytest.raises(JaxcamError, match="not a manifest"):
        load(folder)
    (folder / "network.json").unlink()
    with pytest.raises(JaxcamError, match="network.json: there is no such file; a network's folder holds one"):
        load(folder)


def test_unknown_model():
    with pytest.raises(JaxcamError, match="no model called 'vgg17_slim'"):
        jaxcam.load("vgg17_slim")


def test_a_file_keeps_its_old_content_when_writing_fails(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as f:
        f.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    with whole_file(path) as f:
        f.write(b"new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_unwritable_places(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JaxcamError, match="cannot be written to"):
        check_writable(tmp_path / "file" / "folder")
    with pytest.raises(JaxcamError, match="cannot be written"), whole_file(tmp_path / "no" / "f") as f:
        f.write(b"")
    assert check_writable(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
