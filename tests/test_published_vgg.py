"""The published VGG16's convolutions, read as they are handed on, beside an independent float64 forward pass."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from networks import picture

from jaxcam.converters import convert
from jaxcam.models.graph import graph
from jaxcam.models.network import Part
from jaxcam.models.vgg import VGGConfig

SIDE = 32
MEAN = (103.939, 116.779, 123.68)  # blue, green, red


def convolution(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """3 x 3 with zeros around, `x (h, w, c)`, `w (out, c, 3, 3)`."""
    padded, (h, width, _) = np.pad(x, ((1, 1), (1, 1), (0, 0))), x.shape
    out = np.zeros((h, width, len(w))) + b
    for i in range(3):
        for j in range(3):
            out += padded[i : i + h, j : j + width] @ w[:, :, i, j].T
    return out


def test_its_activations_are_those_of_a_float64_pass(data_dir):
    file = data_dir / "vgg16_conv_f16.npz"
    if not file.is_file():
        pytest.skip(f"no {file.name} among the test data")
    config = VGGConfig(16, hidden=8, num_classes=2, pool_size=1)
    found = convert(file, architecture=config, partial=True)
    assert found.provenance["absent"] == ["fc6", "fc7", "fc8"]
    dense = {
        k: jax.tree.map(lambda p: np.zeros(p.shape, np.float32), graph(config)[2][k]) for k in ("fc6", "fc7", "fc8")
    }
    params = dense | found.params
    rgb = picture(SIDE, SIDE)
    rules = dataclasses.replace(found.preprocessing, size=SIDE, resize="squash")
    ours = jax.jit(Part(config, None, "conv5_3"))(params, rules.normalize(rgb))
    x = rgb[..., ::-1].astype(np.float64) - MEAN
    with np.load(file) as stored:
        for block, count in enumerate((2, 2, 3, 3, 3), 1):
            for i in range(1, count + 1):
                w, b = (stored[f"conv{block}_{i}/{k}"].astype(np.float64) for k in "wb")
                x = np.maximum(convolution(x, w, b), 0)
            if block < 5:
                x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))
    np.testing.assert_allclose(ours, x, rtol=0, atol=1e-5 * np.abs(x).max())
    assert 0.02 < (x > 0).mean() < 0.98 and x.max() > 10
