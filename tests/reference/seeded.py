"""Weights and activations from a seed, in NumPy alone: the same for the PyTorch script and for the tests.

`RandomState` on purpose: NumPy promises that its stream never changes, which it does not promise of `default_rng`.
"""

from __future__ import annotations

import hashlib

import numpy as np


def activations(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A map as a ReLU leaves it: non-negative, about four in ten elements exactly zero, float64 `shape`."""
    return np.maximum(np.random.RandomState(seed).standard_normal(shape) + 0.25, 0.0)


def vgg_head(seed: int, shape: tuple[int, int, int], hidden: int, classes: int) -> dict[str, np.ndarray]:
    """Parameters of the head 2x2 max pool -> flatten (h, w, K order) -> dense+ReLU -> dense+ReLU -> dense.

    The biases are large on purpose: without them DeepLIFT, LRP and gradient x activation coincide.
    """
    rng = np.random.RandomState(seed)
    h, w, channels = shape
    sizes = [(h // 2) * (w // 2) * channels, hidden, hidden, classes]
    params = {}
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True), start=1):
        params[f"w{layer}"] = rng.standard_normal((fan_in, fan_out))
        params[f"w{layer}"] *= np.sqrt(2.0 / fan_in)  # in place: VGG-16's first layer is 0.8 GB
        params[f"b{layer}"] = 0.5 * rng.standard_normal(fan_out)
    return params


def digest(arrays: dict[str, np.ndarray]) -> str:
    """A short hash of the arrays, so that a changed random stream is told from a changed result."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(np.ascontiguousarray(arrays[name], np.float32))
    return sha.hexdigest()[:16]


def dense_chain(seed: int, width: int, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`depth` square layers (weight (in, out), bias (out,)) with biases far from zero."""
    rng = np.random.RandomState(seed)
    return [(rng.standard_normal((width, width)) / np.sqrt(width), rng.standard_normal(width)) for _ in range(depth)]


def conv_head(seed: int, channels: int) -> dict[str, np.ndarray]:
    """conv 3x3 stride 2 pad 1 (6) + ReLU, conv 3x3 pad 1 (6) + ReLU, 2x2 average pool, dense (7) + ReLU, dense (4).

    Kernels are (height, width, in, out), dense weights (in, out) on features in (h, w, channel) order.
    """
    rng = np.random.RandomState(seed)
    shapes = {"k1": (3, 3, channels, 6), "k2": (3, 3, 6, 6), "w3": (2 * 2 * 6, 7), "w4": (7, 4)}
    params = {}
    for name, shape in shapes.items():
        params[name] = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[:-1]))
        params["b" + name[1:]] = 0.3 * rng.standard_normal(shape[-1])
    return params


def coin_coalitions(seed: int, count: int, players: int) -> np.ndarray:
    """Coalitions `(count, players)` of 0 and 1 in which a coin decides on every player."""
    return (np.random.RandomState(seed).random_sample((count, players)) < 0.5).astype(np.float64)


def kernel_coalitions(seed: int, count: int, players: int) -> np.ndarray:
    """Coalitions `(count, players)` of 0 and 1, neither empty nor full, with sizes as the Shapley kernel has them."""
    rng = np.random.RandomState(seed)
    sizes = np.arange(1, players)
    odds = 1 / (sizes * (players - sizes))
    drawn = rng.choice(sizes, count, p=odds / odds.sum())
    return np.stack([rng.permutation(players) < s for s in drawn]).astype(np.float64)


def score_network(seed: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """A kernel `k` (3, 3, 3, 6) with bias `b`, dense weights `w1` and `w3` (in, 5) for strides 1 and 3, bias `c`."""
    rng = np.random.RandomState(seed)
    h, w = size
    shapes = {"k": (3, 3, 3, 6), "b": (6,), "w1": (h * w * 6, 5), "w3": (h // 3 * (w // 3) * 6, 5), "c": (5,)}
    scale = {"k": 0.3, "b": 0.3, "w1": 0.1, "w3": 0.3, "c": 0.5}
    return {name: scale[name] * rng.standard_normal(shape) for name, shape in shapes.items()}
