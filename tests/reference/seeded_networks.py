"""Weights of whole networks from a seed, in torchvision's names, and pictures to show them: NumPy alone.

The PyTorch script, the Keras script and the tests draw the same numbers from here, so that only results are kept.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

VGG = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
RESNET = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}

#: name -> (family, depth, batch norm or Caffe's variant, width, classes, side of the input)
CASES = {
    "vgg16_quarter": ("vgg", 16, False, 0.25, 10, 224),
    "vgg16_bn_quarter": ("vgg", 16, True, 0.25, 10, 224),
    "resnet18_quarter": ("resnet", 18, False, 0.25, 10, 64),
    "resnet50_quarter": ("resnet", 50, False, 0.25, 10, 64),
    "resnet50_caffe_quarter": ("resnet", 50, True, 0.25, 20, 64),
    "vgg16_full": ("vgg", 16, False, 1.0, 1000, 224),
    "resnet50_full": ("resnet", 50, False, 1.0, 1000, 224),
}


def vgg_shapes(depth: int, norm: bool, width: float, classes: int, hidden: int = 4096) -> dict[str, tuple[int, ...]]:
    """torchvision's names and shapes of a VGG whose channels are multiplied by `width`."""
    shapes: dict[str, tuple[int, ...]] = {}
    at, c_in = 0, 3
    for base, count in zip((64, 128, 256, 512, 512), VGG[depth], strict=True):
        c_out = round(base * width)
        for _ in range(count):
            shapes[f"features.{at}.weight"] = (c_out, c_in, 3, 3)
            shapes[f"features.{at}.bias"] = (c_out,)
            if norm:
                shapes |= _norm_shapes(f"features.{at + 1}", c_out)
            at, c_in = at + (3 if norm else 2), c_out
        at += 1
    hidden = round(hidden * width)
    for layer, (rows, columns) in {0: (hidden, c_in * 49), 3: (hidden, hidden), 6: (classes, hidden)}.items():
        shapes[f"classifier.{layer}.weight"] = (rows, columns)
        shapes[f"classifier.{layer}.bias"] = (rows,)
    return shapes


def resnet_shapes(depth: int, biased: bool, width: float, classes: int) -> dict[str, tuple[int, ...]]:
    """torchvision's names and shapes of a ResNet; `biased` adds the bias that Caffe's first convolution has."""
    counts, bottleneck = RESNET[depth]
    c_in = round(64 * width)
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (c_in, 3, 7, 7)}
    if biased:
        shapes["conv1.bias"] = (c_in,)
    shapes |= _norm_shapes("bn1", c_in)
    for layer, count in enumerate(counts, 1):
        c_mid = round(64 * width) * 2 ** (layer - 1)
        c_out = 4 * c_mid if bottleneck else c_mid
        plan = [(1, c_mid), (3, c_mid), (1, c_out)] if bottleneck else [(3, c_mid), (3, c_out)]
        for i in range(count):
            block, channels = f"layer{layer}.{i}", c_in
            for k, (kernel, after) in enumerate(plan, 1):
                shapes[f"{block}.conv{k}.weight"] = (after, channels, kernel, kernel)
                shapes |= _norm_shapes(f"{block}.bn{k}", after)
                channels = after
            if i == 0 and c_in != c_out:
                shapes[f"{block}.downsample.0.weight"] = (c_out, c_in, 1, 1)
                shapes |= _norm_shapes(f"{block}.downsample.1", c_out)
            c_in = c_out
    return shapes | {"fc.weight": (classes, c_in), "fc.bias": (classes,)}


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor, float32, from a seed that its name gives; biases and batch-norm statistics are far from trivial."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) > 1:
        scale = math.sqrt(2.0 / math.prod(shape[1:]))
        values = np.empty(shape, np.float32)
        for row in values:
            row[...] = scale * rng.standard_normal(row.shape)
        return values
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("weight"):  # of a batch norm
        return rng.uniform(0.7, 1.1, shape).astype(np.float32)
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def state(case: str) -> dict[str, np.ndarray]:
    """The whole state dict of a case, without the counters of training steps."""
    family, depth, variant, width, classes, _ = CASES[case]
    shapes = (vgg_shapes if family == "vgg" else resnet_shapes)(depth, variant, width, classes)
    return {name: draw(name, shape) for name, shape in shapes.items()}


def pictures(side: int, count: int = 2) -> np.ndarray:
    """Smooth colour patterns as a network's input, float32 `(count, side, side, 3)`, about -2 to 2."""
    y, x = np.mgrid[:side, :side] / side
    rng = np.random.RandomState(5)
    out = np.zeros((count, side, side, 3))
    for n in range(count):
        for c in range(3):
            for fx, fy, phase in rng.uniform(0.0, 9.0, (6, 3)):
                out[n, ..., c] += np.cos(6.28 * (fx * x + fy * y) + phase)
    return (out * 0.6).astype(np.float32)


def enlarge(pixels: np.ndarray, side: int) -> np.ndarray:
    """A uint8 picture `(h, w, 3)` as ImageNet-normalised input `(side, side, 3)`; nearest pixel, in NumPy alone."""
    rows, columns = (np.arange(side) * n // side for n in pixels.shape[:2])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return ((pixels[rows][:, columns] / 255.0 - mean) / std).astype(np.float32)


def sample(activations: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, maximum and 61 scattered elements of activations `(b, h, w, k)`: `(64,)`."""
    flat = np.asarray(activations, np.float64).ravel()
    picked = flat[np.random.RandomState(3).randint(0, flat.size, 61)]
    return np.concatenate([[flat.mean(), flat.std(), flat.max()], picked]).astype(np.float32)
