"""The same weights in every format give the same network; files that PyTorch itself wrote are read."""

from __future__ import annotations

import pathlib
import struct
import sys

import foreign_files as ff
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxcam.converters import convert, export, export_torchvision, read_tensors, save_torchvision_safetensors, tensors
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.models.graph import graph
from jaxcam.models.network import Network
from jaxcam.models.resnet import ResNetConfig
from jaxcam.models.trees import flatten
from jaxcam.models.vgg import VGGConfig
from jaxcam.zoo.store import load_network, save_network

REFERENCE = pathlib.Path(__file__).parent / "reference"
sys.path.insert(0, str(REFERENCE))
import seeded_networks as seeded  # noqa: E402

TINY = (11, False, 1 / 64, 5, 512)
CONFIG = VGGConfig(depth=11, num_classes=5, width=1 / 64, hidden=8)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return {k: seeded.draw(k, s) for k, s in seeded.vgg_shapes(*TINY).items()}


@pytest.fixture(scope="module")
def expected(state, tmp_path_factory) -> Network:
    return convert(ff.write_zip(tmp_path_factory.mktemp("zip") / "w.pth", state))


def same(a: Network, b: Network) -> None:
    assert a.config == b.config
    ours, theirs = flatten(a.params), flatten(b.params)
    assert set(ours) == set(theirs)
    for k in ours:
        np.testing.assert_array_equal(ours[k], theirs[k], err_msg=k)


def test_architecture_classes_and_preprocessing_are_told_from_the_file(expected, state):
    assert expected.config == CONFIG
    assert expected.classes == ("0", "1", "2", "3", "4")
    assert not expected.multi_label and expected.preprocessing.channels == "RGB"
    assert expected.provenance["names"] == "torchvision" and expected.provenance["tensors"] == len(state)
    assert len(expected.provenance["sha256"]) == 64
    kernel = np.asarray(expected.params["conv1_1"]["kernel"])
    np.testing.assert_array_equal(kernel[2, 0, 1], state["features.0.weight"][:, 1, 2, 0])
    # fc6: PyTorch flattens (channel, row, column), we flatten (row, column, channel).
    fc6, theirs = np.asarray(expected.params["fc6"]["kernel"]).reshape(7, 7, 8, 8), state["classifier.0.weight"]
    np.testing.assert_array_equal(fc6[3, 5, 6], theirs.reshape(8, 8, 7, 7)[:, 6, 3, 5])


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("write", [ff.write_zip, ff.write_legacy])
def test_pth_layouts_and_wrappers(write, prefix, wrap, state, expected, tmp_path):
    same(convert(write(tmp_path / "w.pth", {prefix + k: v for k, v in state.items()}, wrap=wrap)), expected)


@pytest.mark.parametrize("spell", [dict, ff.timm_vgg, lambda s: ff.timm_vgg(s, dense=True)])
def test_safetensors_in_every_spelling(spell, state, expected, tmp_path):
    save_file(spell(state), tmp_path / "w.safetensors")
    same(convert(tmp_path / "w.safetensors"), expected)


def test_torchray_vgg_is_turned_to_rgb_and_multi_label(state, expected, tmp_path):
    network = convert(ff.write_legacy(tmp_path / "w.pth.tar", ff.torchray_vgg(state)), classes=list("abcde"))
    same(network, expected)
    assert network.multi_label and network.classes == tuple("abcde")
    assert network.preprocessing.scale == 1.0 and network.preprocessing.channels == "RGB"
    assert network.preprocessing.mean == (123.68, 116.779, 103.939)


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_files_that_pytorch_wrote(name, state, expected):
    tensors = read_tensors(REFERENCE / name)
    assert set(tensors) == set(state)
    for k, v in state.items():
        np.testing.assert_array_equal(tensors[k], v)
    same(convert(REFERENCE / name), expected)


def test_a_training_checkpoint_that_pytorch_wrote():
    network = convert(REFERENCE / "torch_parallel.pth")  # DataParallel, an optimizer, an epoch
    assert network.config == VGGConfig(depth=11, batch_norm=True, num_classes=5, width=1 / 64, hidden=8)
    assert network.provenance["ignored"] == 8  # num_batches_tracked
    drawn = {k: seeded.draw(k, s) for k, s in seeded.vgg_shapes(11, True, 1 / 64, 5, 512).items()}
    exported = export_torchvision(network)
    for k, v in drawn.items():
        np.testing.assert_array_equal(exported[k], v)


def test_bfloat16_and_channels_last_that_pytorch_wrote(state):
    for k, v in export_torchvision(convert(REFERENCE / "torch_bfloat16_channels_last.pth")).items():
        assert v.dtype == np.float32
        np.testing.assert_allclose(v, state[k], rtol=2**-8)


def test_the_real_checkpoint_is_read_and_refused_as_a_network(data_dir):
    file = data_dir / "resnet20-12fca82f.th"
    if not file.is_file():
        pytest.skip(f"no {file}")
    tensors = read_tensors(file)
    assert len(tensors) == 97 and tensors["module.conv1.weight"].shape == (16, 3, 3, 3)
    assert all(np.isfinite(t).all() for t in tensors.values())
    with pytest.raises(JaxcamError, match="not an architecture that jaxcam knows") as e:
        convert(file)
    assert "\n" not in str(e.value) and str(file) in str(e.value)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 0.0), ("float16", 2**-10), ("bfloat16", 2**-7)])
@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_other_floating_point_types_become_float32(layout, dtype, tolerance, state, tmp_path):
    if dtype == "bfloat16":  # the upper half of a float32
        cast = {k: (v.view(np.uint32) >> 16).astype(np.uint16) for k, v in state.items()}
    else:
        cast = {k: v.astype(dtype) for k, v in state.items()}
    path = tmp_path / "w"
    if layout != "safetensors":
        (ff.write_zip if layout == "zip" else ff.write_legacy)(path, cast)
    else:
        save_file(cast, path)
        if dtype == "bfloat16":  # safetensors' NumPy half has no such type: rename it, and lengthen the header
            data = path.read_bytes().replace(b'"U16"', b'"BF16"')
            path.write_bytes(struct.pack("<Q", struct.unpack("<Q", data[:8])[0] + len(state)) + data[8:])
    for k, v in export_torchvision(convert(path)).items():
        assert v.dtype == np.float32
        np.testing.assert_allclose(v, state[k], rtol=tolerance, atol=tolerance * 1e-3)


def test_round_trip_is_bit_identical(state, tmp_path):
    first = convert(ff.write_zip(tmp_path / "w.pth", state))
    save_network(tmp_path / "folder", first)
    save_torchvision_safetensors(tmp_path / "out.safetensors", load_network(tmp_path / "folder"))
    for back in (load_file(tmp_path / "out.safetensors"), export_torchvision(first)):
        assert set(back) == set(state)
        for k, v in state.items():
            assert back[k].tobytes() == v.tobytes() and back[k].shape == v.shape
    same(convert(tmp_path / "out.safetensors"), first)


@pytest.mark.parametrize("write", [ff.write_zip, ff.write_legacy, lambda path, state: save_file(state, path) or path])
def test_large_tensors_are_read_and_written_a_few_rows_at_a_time(write, state, expected, tmp_path, monkeypatch):
    """Every small number of rows, so that the last part is often shorter; what is in it is looked at as well."""
    for size in (1, 1000, 3000):
        monkeypatch.setattr(tensors, "_STRETCH", size)
        monkeypatch.setattr(export, "_PART", size)
        same(convert(write(tmp_path / "w", state)), expected)
        save_torchvision_safetensors(tmp_path / "back", expected)
        back = load_file(tmp_path / "back")
        assert all(np.array_equal(back[k], v) for k, v in state.items()) and len(back) == len(state)
        for row in (0, -1):
            spoiled = {k: state[k].copy() for k in ("classifier.0.weight", "features.3.weight")}
            for array in spoiled.values():
                array[row].flat[-1] = np.nan
            with pytest.raises(JaxcamError) as e:
                convert(write(tmp_path / "w", state | spoiled))
            assert all(str(e.value).count(f"{k} holds NaN") == 1 for k in spoiled)


def test_export_of_a_resnet_has_the_counters_that_pytorch_keeps(tmp_path):
    shapes = seeded.resnet_shapes(18, False, 1 / 64, 3)
    network = convert(ff.write_zip(tmp_path / "r.pth", {k: seeded.draw(k, s) for k, s in shapes.items()}))
    assert network.config == ResNetConfig(depth=18, width=1 / 64, num_classes=3)
    arrays = export_torchvision(network)
    counters = {k for k in arrays if k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in arrays.items() if k not in counters} == shapes
    assert len(counters) == 20 and all(arrays[k] == 0 and arrays[k].dtype == np.int64 for k in counters)
    save_torchvision_safetensors(tmp_path / "r.safetensors", network)
    same(convert(tmp_path / "r.safetensors"), network)


@pytest.mark.parametrize("change", [{"stride_first": True}, {"ceil_pool": True}, {"batch_norm": False}])
def test_what_torchvision_cannot_compute_is_not_exported(change):
    config = ResNetConfig(depth=18, width=1 / 64, num_classes=3, **change)
    params = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), graph(config)[2])
    network = Network("n", config, params, tuple("abc"), Preprocessing())
    with pytest.raises(JaxcamError, match="torchvision"):
        export_torchvision(network)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>" * 20, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x00" * 257 + b"ustar" + b"\x00" * 300, "tar archive"),
        (b"PNG is not it", "no file of weights"),
    ],
)
def test_files_that_are_something_else(content, says, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(JaxcamError, match=says) as e:
        read_tensors(path)
    assert str(e.value).startswith(str(path))


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(JaxcamError, match="none.pth: there is no such file|is a folder; name a file in it"):
            convert(path)
