"""Weights for Keras's networks from a seed, by the layer's name: NumPy alone, for the Keras script and the tests."""

from __future__ import annotations

import zlib

import numpy as np

VGG16 = (2, 2, 3, 3, 3)
RESNET50 = (3, 4, 6, 3)


def fill(layer: str, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor, float32; the first kernel expects pixel values up to 255, the later ones what it makes of them."""
    rng = np.random.RandomState(zlib.crc32(f"{layer}/{leaf}".encode()))
    if leaf == "kernel":
        scale = np.sqrt(2.0 / np.prod(shape[:-1])) / (40.0 if layer in ("block1_conv1", "conv1_conv") else 1.0)
        values = np.empty(shape, np.float32)
        for row in values:
            row[...] = scale * rng.standard_normal(row.shape)
        return values
    if leaf == "moving_variance":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "gamma":
        return rng.uniform(0.7, 1.1, shape).astype(np.float32)
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def _conv(layer: str, kernel: int, c_in: int, c_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{layer}/kernel": (kernel, kernel, c_in, c_out), f"{layer}/bias": (c_out,)}


def vgg16(width: float = 1.0, classes: int = 1000) -> dict[str, np.ndarray]:
    """`keras.applications.VGG16`, its channels times `width`, as `layer/kernel` ... -> array."""
    shapes: dict[str, tuple[int, ...]] = {}
    c_in = 3
    for block, (base, count) in enumerate(zip((64, 128, 256, 512, 512), VGG16, strict=True), 1):
        for i in range(1, count + 1):
            shapes |= _conv(f"block{block}_conv{i}", 3, c_in, round(base * width))
            c_in = round(base * width)
    sizes = (49 * c_in, round(4096 * width), round(4096 * width), classes)
    for layer, rows, columns in zip(("fc1", "fc2", "predictions"), sizes[:-1], sizes[1:], strict=True):
        shapes |= {f"{layer}/kernel": (rows, columns), f"{layer}/bias": (columns,)}
    return _drawn(shapes)


def resnet50(width: float = 1.0, classes: int = 1000) -> dict[str, np.ndarray]:
    """`keras.applications.ResNet50`, its channels times `width`."""
    shapes: dict[str, tuple[int, ...]] = {}

    def normed(source: str, kernel: int, c_in: int, c_out: int) -> None:
        shapes.update(_conv(f"{source}_conv", kernel, c_in, c_out))
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{source}_bn/{leaf}"] = (c_out,)

    c_in = round(64 * width)
    normed("conv1", 7, 3, c_in)
    for layer, count in enumerate(RESNET50):
        c_mid = round(64 * width) * 2**layer
        for i in range(1, count + 1):
            block = f"conv{layer + 2}_block{i}"
            if i == 1:
                normed(f"{block}_0", 1, c_in, 4 * c_mid)
            for k, (kernel, a, b) in enumerate([(1, c_in, c_mid), (3, c_mid, c_mid), (1, c_mid, 4 * c_mid)], 1):
                normed(f"{block}_{k}", kernel, a, b)
            c_in = 4 * c_mid
    return _drawn(shapes | {"predictions/kernel": (c_in, classes), "predictions/bias": (classes,)})


def _drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: fill(*name.split("/"), shape) for name, shape in shapes.items()}
