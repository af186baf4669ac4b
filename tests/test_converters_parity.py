"""Converted networks against PyTorch: logits and activations at every layer that is explained.

The reference values were made by tests/reference/make_torch_networks.py; the weights are drawn anew here.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import tarfile

import foreign_files as ff
import jax
import numpy as np
import pytest
from PIL import Image

from jaxcam.converters import convert
from jaxcam.models.network import Part

REFERENCE = pathlib.Path(__file__).parent / "reference"
sys.path.insert(0, str(REFERENCE))
import seeded_networks as seeded  # noqa: E402

KEPT = np.load(REFERENCE / "torch_networks.npz")
LAYERS = ("conv5_1", "conv5_2", "conv5_3", "layer3", "layer4")
slow = pytest.mark.skipif(not os.environ.get("JAXCAM_SLOW_TESTS"), reason="set JAXCAM_SLOW_TESTS=1 (minutes, 3 GB)")


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    difference = float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())
    print(f"{difference:.1e}")
    return difference


def check(network, case: str, inputs: np.ndarray) -> None:
    layers = [at for at in LAYERS if f"{case}/{at}" in KEPT]
    cuts = [None, *(network.resolve_layer(at) for at in layers), None]
    parts = [Part(network.config, a, b) for a, b in itertools.pairwise(cuts)]

    @jax.jit  # the whole network is compiled once, and lets itself be looked into
    def run(params, x):
        seen = []
        for part in parts:
            x = part(params, x)
            seen.append(x)
        return seen

    *activations, logits = run(network.params, inputs)
    assert apart(logits, KEPT[f"{case}/logits"][: len(inputs)]) < 1e-4
    for at, values in zip(layers, activations, strict=True):
        assert apart(seeded.sample(values[:2]), KEPT[f"{case}/{at}"]) < 1e-4


def written(path: pathlib.Path, case: str, layout: str) -> pathlib.Path:
    state = seeded.state(case)
    if case == "resnet50_caffe_quarter":
        return ff.write_zip(path, ff.torchray_resnet(state))
    if layout == "legacy":
        return ff.write_legacy(path, {f"module.{k}": v for k, v in state.items()}, wrap="state_dict")
    return ff.write_zip(path, state)


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        ("vgg16_quarter", "zip"),
        ("vgg16_bn_quarter", "legacy"),
        ("resnet18_quarter", "legacy"),
        ("resnet50_quarter", "zip"),
        ("resnet50_caffe_quarter", "torchray"),
    ],
)
def test_quarter_width_networks_compute_what_pytorch_computes(case, layout, tmp_path):
    inputs = seeded.pictures(seeded.CASES[case][-1])
    network = convert(written(tmp_path / "weights.pth", case, layout))
    if layout == "torchray":
        # Its table turns the first kernel round, so the network takes what PyTorch's took with the kernel as drawn.
        assert network.multi_label and network.config.stride_first and network.config.ceil_pool
    check(network, case, inputs)


@slow
@pytest.mark.slow
@pytest.mark.parametrize("case", ["vgg16_full", "resnet50_full"])
def test_full_networks_compute_what_pytorch_computes(case, tmp_path, data_dir):
    network = convert(written(tmp_path / "weights.pth", case, "zip"))
    side = seeded.CASES[case][-1]
    real = []
    with tarfile.open(data_dir / "imagenette-144-val.tar") as tar:
        for name in sorted(n for n in tar.getnames() if n.endswith(".JPEG"))[:2]:
            real.append(seeded.enlarge(np.asarray(Image.open(tar.extractfile(name)).convert("RGB")), side))
    check(network, case, np.concatenate([seeded.pictures(side), real]))


_MEASURE = """
import re, sys
from jaxcam.cli import main
assert main(sys.argv[1:]) == 0
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


def vgg16_file(path: pathlib.Path, layout: str) -> pathlib.Path:
    """A full VGG16 in a layout; ten counters of training steps, which carry nothing, beside it where names are free."""
    state = seeded.state("vgg16_full")
    if layout == "safetensors":
        from safetensors.numpy import save_file

        save_file(state | {f"features.{i}.num_batches_tracked": np.zeros((), np.int64) for i in range(10)}, path)
    elif layout == "h5":
        h5py = pytest.importorskip("h5py")
        import seeded_keras

        with h5py.File(path, "w") as f:
            for name, array in seeded_keras.vgg16().items():
                f[f"{name.split('/')[0]}/{name}:0"] = array
    else:
        written(path, "vgg16_full", layout)
    return path


@slow
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("layout", "to"),
    [("zip", "orbax"), ("legacy", "orbax"), ("safetensors", "orbax"), ("h5", "orbax"), ("zip", "safetensors")],
)
def test_converting_vgg16_takes_little_more_memory_than_the_file_and_is_told(layout, to, tmp_path):
    """The whole command is measured, with the interpreter and its libraries."""
    path, out = vgg16_file(tmp_path / "weights", layout), tmp_path / "out"
    command = [sys.executable, "-c", _MEASURE, "convert", str(path), "--to", to, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and not done.stderr, done.stderr
    told, peak = done.stdout.splitlines()
    ratio = int(peak) / path.stat().st_size
    print(f"{layout} to {to}: peak {ratio:.2f} times the file's size; {told}")
    assert 1.0 <= ratio <= 2.2  # less than the weights themselves would be a mistake in the measurement
    kind = {"zip": "PyTorch zip", "legacy": "PyTorch legacy", "h5": "Keras HDF5"}.get(layout, layout)
    ignored = "10 more ignored" if layout == "safetensors" else "none ignored"
    where = f"{out} as an Orbax checkpoint" if to == "orbax" else f"{out / 'weights.safetensors'} as safetensors"
    for part in (
        f"{path}: {kind}, vgg16 of 32 tensors in {'keras' if layout == 'h5' else 'torchvision'}'s names ({ignored})",
        "138,357,544 numbers for 1000 classes", f"written to {where}",
    ):  # fmt: skip
        assert part in told
