"""Keras's files in every layout; logits against Keras itself (tests/reference/make_keras_networks.py)."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
import zipfile

import numpy as np
import pytest

from jaxcam.converters import convert, export_torchvision, read_tensors
from jaxcam.errors import JaxcamError
from jaxcam.models.network import Network
from jaxcam.models.trees import flatten

h5py = pytest.importorskip("h5py")
REFERENCE = pathlib.Path(__file__).parent / "reference"
sys.path.insert(0, str(REFERENCE))
import seeded_keras as keras_seeded  # noqa: E402
import seeded_networks as seeded  # noqa: E402

KEPT = np.load(REFERENCE / "keras_networks.npz")
_NUMBER = {"kernel": 0, "bias": 1, "gamma": 0, "beta": 1, "moving_mean": 2, "moving_variance": 3}


def published(path: pathlib.Path, state: dict[str, np.ndarray], *, root: str = "", old: bool = False) -> pathlib.Path:
    """HDF5 as `keras.applications` publishes it: `layer/layer/kernel:0`; the oldest as `layer/layer_W_1:0`."""
    with h5py.File(path, "w") as f:
        for name, array in state.items():
            layer, leaf = name.split("/")
            inner = f"{layer}_{'W' if leaf == 'kernel' else 'b'}_1:0" if old else f"{layer}/{leaf}:0"
            f[f"{root}{layer}/{inner}"] = array
            f[f"{root}{layer}"].attrs["weight_names"] = [inner.encode()]
        f.create_group(f"{root}flatten").attrs["weight_names"] = []
        if root:
            f["optimizer_weights/adam/m"] = np.zeros(3)
    return path


def numbered(path, state: dict[str, np.ndarray], *, named: bool = True) -> dict[str, str]:
    """HDF5 of Keras 3: `layers/conv2d_1/vars/0`, with the layer's name as an attribute in later releases."""
    counts: dict[str, int] = {}
    groups: dict[str, str] = {}
    with h5py.File(path, "w") as f:
        for name, array in state.items():
            layer, leaf = name.split("/")
            if layer not in groups:
                kind = {4: "conv2d", 2: "dense", 1: "batch_normalization"}[array.ndim]
                number = counts[kind] = counts.get(kind, -1) + 1
                groups[layer] = f"{kind}_{number}" if number else kind
            f[f"layers/{groups[layer]}/vars/{_NUMBER[leaf]}"] = array
            if named:
                f[f"layers/{groups[layer]}/vars"].attrs["name"] = layer
        f["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint8)
        f["optimizer/vars/0"] = np.zeros(3)
    return groups


def archive(path: pathlib.Path, state: dict[str, np.ndarray], *, named: bool = True) -> pathlib.Path:
    """A `.keras` archive."""
    groups = numbered(path.with_suffix(".h5"), state, named=named)
    kinds = {"conv2d": "Conv2D", "dense": "Dense", "batch": "BatchNormalization"}
    layers = [{"class_name": kinds[g.split("_")[0]], "config": {"name": name}} for name, g in groups.items()]
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("metadata.json", "{}")
        z.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
        z.write(path.with_suffix(".h5"), "model.weights.h5")
    return path


def same(a: Network, b: Network) -> None:
    assert a.config == b.config
    for k, v in flatten(a.params).items():
        np.testing.assert_array_equal(v, flatten(b.params)[k], err_msg=k)


def test_vgg16_in_every_layout(tmp_path):
    state = keras_seeded.vgg16(1 / 64, 6)
    first = convert(published(tmp_path / "a.h5", state))
    assert first.config.depth == 16 and first.config.num_classes == 6 and first.config.width == 1 / 64
    assert first.preprocessing.channels == "BGR" and first.preprocessing.scale == 1.0
    assert first.preprocessing.mean == (103.939, 116.779, 123.68) and first.preprocessing.std == (1.0, 1.0, 1.0)
    for name in ("conv3_2", "fc6", "fc8"):
        layer = {"conv3_2": "block3_conv2", "fc6": "fc1", "fc8": "predictions"}[name]
        np.testing.assert_array_equal(first.params[name]["kernel"], state[f"{layer}/kernel"])
    same(convert(published(tmp_path / "b.h5", state, old=True)), first)
    same(convert(published(tmp_path / "c.h5", state, root="model_weights/")), first)
    for i, root in enumerate(("vgg16/", "model_weights/vgg16/", "model_weights/model/vgg16/")):  # a model in a model
        same(convert(published(tmp_path / f"nested{i}.h5", state, root=root)), first)
        same(convert(published(tmp_path / f"oldest{i}.h5", state, root=root, old=True)), first)
    numbered(tmp_path / "d.weights.h5", state)
    same(convert(tmp_path / "d.weights.h5"), first)
    same(convert(archive(tmp_path / "e.keras", state)), first)
    same(convert(archive(tmp_path / "f.keras", state, named=False)), first)
    assert set(read_tensors(tmp_path / "a.h5")) == set(state)


def test_resnet50_strides_first_and_its_biases_move_into_the_means(tmp_path):
    state = keras_seeded.resnet50(1 / 32, 4)
    network = convert(published(tmp_path / "r.h5", state))
    assert network.config.stride_first and not network.config.ceil_pool and network.config.width == 1 / 32
    same(convert(archive(tmp_path / "r.keras", state, named=False)), network)
    for ours, conv in (("layer2.0.bn1", "conv3_block1_1"), ("layer3.0.downsample.bn1", "conv4_block1_0")):
        flat = flatten(network.params)
        mean = state[f"{conv}_bn/moving_mean"].astype(np.float64) - state[f"{conv}_conv/bias"]
        np.testing.assert_allclose(flat[f"{ours}.mean"], mean, rtol=1e-6, atol=1e-8)
        variance = state[f"{conv}_bn/moving_variance"].astype(np.float64) + 1e-8
        np.testing.assert_allclose(flat[f"{ours}.var"], variance, rtol=1e-7)
    with pytest.raises(JaxcamError, match="torchvision"):
        export_torchvision(network)


def test_h5py_missing_is_said(tmp_path, monkeypatch):
    path = published(tmp_path / "a.h5", {"fc1/kernel": np.zeros((2, 2), np.float32)})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(JaxcamError, match=r"pip install 'jaxcam-xai\[keras\]'"):
        convert(path)


def _spoil(path: pathlib.Path, how: str, state: dict[str, np.ndarray]) -> None:
    """Replaces one kernel of a good file by something that is not to be trusted."""
    place = "block2_conv1/block2_conv1/kernel:0"
    with h5py.File(path, "a") as f:
        del f[place]
        if how == "external link":
            f[place] = h5py.ExternalLink("/etc/hostname", "/x")
        elif how == "soft link":
            f[place] = h5py.SoftLink("/block1_conv1")
        elif how == "external storage":
            f.create_dataset(place, (3, 3, 1, 2), "f4", external=[("/etc/hostname", 0, 72)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((3, 3, 1, 2), "f4")
            layout[...] = h5py.VirtualSource("/etc/hostname", "x", (3, 3, 1, 2))
            f.create_virtual_dataset(place, layout)
        elif how == "never written":
            f.create_dataset(place, (10**6, 10**6), "f4")
        elif how == "compressed zeros":
            f.create_dataset(place, (3, 3, 2000, 2000), "f4", chunks=(3, 3, 200, 200), compression="gzip", fillvalue=0)
        elif how == "text":
            f[place] = "kernel"
        elif how == "NaN":
            f[place] = np.full((3, 3, 1, 2), np.nan, np.float32)
        elif how == "transposed":
            f[place] = state["block2_conv1/kernel"].T.copy()
        elif how == "integers":
            f[place] = np.ones((3, 3, 1, 2), np.int32)
        elif how == "twice":
            f[place] = state["block2_conv1/kernel"]
            f["block2_conv1/kernel"] = state["block2_conv1/kernel"]


@pytest.mark.parametrize(
    "how",
    ["external link", "soft link", "external storage", "virtual", "never written", "compressed zeros", "text", "NaN",
     "transposed", "integers", "twice", "missing"],
)  # fmt: skip
def test_hdf5_that_is_not_to_be_trusted(how, tmp_path):
    state = keras_seeded.vgg16(1 / 64, 6)
    path = published(tmp_path / "w.h5", state)
    _spoil(path, how, state)
    with pytest.raises(JaxcamError) as e:
        convert(path)
    assert str(e.value).startswith(str(path)) and str(e.value).isprintable()


@pytest.mark.parametrize("cut", [9, 100, 2000, 20_000, 0.5, 0.99])
def test_truncated_hdf5(cut, tmp_path):
    state = keras_seeded.vgg16(1 / 64, 6)
    for path in (published(tmp_path / "w.h5", state), archive(tmp_path / "w.keras", state)):
        data = path.read_bytes()
        path.write_bytes(data[: int(cut * len(data)) if cut < 1 else cut])
        with pytest.raises(JaxcamError) as e:
            convert(path)
        assert str(e.value).startswith(str(path)) and str(e.value).isprintable()


@pytest.mark.parametrize("write", [published, archive])
def test_flipped_bytes_of_hdf5_never_do_harm(write, tmp_path):
    """HDF5 has no checksums here, so that a flipped weight may pass; every other damage gives one line."""
    path = write(tmp_path / "w.keras", keras_seeded.vgg16(1 / 64, 6))
    data, refusals = path.read_bytes(), 0
    rng = np.random.RandomState(0)
    for at in [*rng.randint(0, 6000, 60), *rng.randint(0, len(data), 40)]:
        bad = bytearray(data)
        bad[at : at + 8] = (
            b"\xff" * 8 if rng.randint(2) else bytes([bad[at] ^ 1 << rng.randint(8)]) + bad[at + 1 : at + 8]
        )
        path.write_bytes(bad)
        began = time.process_time()
        try:
            assert all(np.isfinite(v).all() for v in flatten(convert(path).params).values())
        except JaxcamError as e:
            refusals += 1
            assert str(e).startswith(str(path)) and str(e).isprintable() and len(str(e)) < 2000
        assert time.process_time() - began < 20
    print(refusals)
    assert refusals >= (20 if write is published else 90)  # an archive has checksums


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("JAXCAM_SLOW_TESTS"), reason="set JAXCAM_SLOW_TESTS=1 (minutes, 3 GB)")
@pytest.mark.parametrize("layout", [published, archive])
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_full_networks_compute_what_keras_computes(name, layout, tmp_path):
    network = convert(layout(tmp_path / "w.keras", getattr(keras_seeded, name)()))
    inputs = 40.0 * seeded.pictures(224)
    logits = np.asarray(network.predict(network.params, inputs))
    worst = {"logits": np.abs(logits - KEPT[f"{name}/logits"]).max() / np.abs(logits).max()}
    for key in (k for k in KEPT if k.startswith(name) and not k.endswith("logits")):
        features, _ = network.split(at=key.split("/")[1])
        values = seeded.sample(features(network.params, inputs))
        worst[key] = np.abs(values - KEPT[key]).max() / np.abs(KEPT[key]).max()
    print(worst)
    assert max(worst.values()) < 1e-4
