"""Classifiers written once and run in any framework, with weights drawn by name: what `benchmarks.forward` times.

Needs NumPy alone, for the interpreter that has no JAX. A network is a function `(ops, x) -> logits (b, 1000)`, where
`ops` has the operations of one framework; every weight is `ops.weight(name, shape)`, in Flax's layouts.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of a name: kernels as He et al. draw them, norms and biases neither zero nor one."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    kind = name.rpartition(".")[2]
    if kind == "kernel":
        noise *= np.sqrt(2 / np.prod(shape[:-1]))
    elif kind in ("scale", "var"):
        noise = np.exp(0.1 * noise)
    else:
        noise *= 0.05
    return noise.astype(np.float32)


def _normed(ops: Any, x: Any, path: str, channels: int, kernel: int, stride: int = 1, **more: Any) -> Any:
    return ops.norm(ops.conv(x, f"{path}.conv", channels, kernel, stride, **more), f"{path}.bn", 1e-3)


def vgg16(ops: Any, x: Any) -> Any:
    """VGG16, as `jaxcam.models.vgg` names its weights."""
    for block, (count, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for i in range(1, count + 1):
            x = ops.relu(ops.conv(x, f"conv{block}_{i}", channels, 3, bias=True))
        x = ops.max_pool(x, 2, 2, 0)
    x = ops.relu(ops.dense(ops.flat(x), "fc6", 4096))
    return ops.dense(ops.relu(ops.dense(x, "fc7", 4096)), "fc8", 1000)


def resnet50(ops: Any, x: Any) -> Any:
    """ResNet50, as `jaxcam.models.resnet` names its weights."""

    def normed(x, path, i, channels, kernel, stride=1):
        x = ops.conv(x, f"{path}conv{i}", channels, kernel, stride, padding=kernel // 2)
        return ops.norm(x, f"{path}bn{i}", 1e-5)

    x = ops.max_pool(ops.relu(normed(x, "", 1, 64, 7, 2)), 3, 2, 1)
    for layer, count in enumerate([3, 4, 6, 3], 1):
        for i in range(count):
            path, channels, stride = f"layer{layer}.{i}.", 32 * 2**layer, 2 if layer > 1 and i == 0 else 1
            y = ops.relu(normed(x, path, 1, channels, 1))
            y = normed(ops.relu(normed(y, path, 2, channels, 3, stride)), path, 3, 4 * channels, 1)
            x = normed(x, f"{path}downsample.", 1, 4 * channels, 1, stride) if i == 0 else x
            x = ops.relu(x + y)
    return ops.dense(ops.mean(x), "fc", 1000)


def efficientnet_lite0(ops: Any, x: Any) -> Any:
    """EfficientNet-Lite0, as `jaxcam.models.efficientnet` names its weights."""
    x, index, before = ops.relu6(_normed(ops, x, "stem", 32, 3, 2)), 0, 32
    for count, kernel, first, expansion, channels in [
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ]:  # fmt: skip
        for i in range(count):
            path, inner, stride = f"block{index}", expansion * before, first if i == 0 else 1
            y = x if expansion == 1 else ops.relu6(_normed(ops, x, f"{path}.expand", inner, 1))
            y = ops.relu6(_normed(ops, y, f"{path}.depthwise", inner, kernel, stride, groups=inner))
            y = _normed(ops, y, f"{path}.project", channels, 1)
            x, index, before = y if i == 0 else x + y, index + 1, channels
    x = ops.relu6(_normed(ops, x, "head", 1280, 1))
    return ops.dense(ops.mean(x), "fc", 1000)


def convnext(ops: Any, x: Any) -> Any:
    """A ConvNeXt-T (Liu et al. 2022): 7x7 depthwise convolutions, layer norms, wide dense layers."""
    for stage, (count, channels) in enumerate([(3, 96), (3, 192), (9, 384), (3, 768)]):
        if stage == 0:
            x = ops.layer_norm(ops.conv(x, "stem", channels, 4, 4, bias=True), "stem.norm")
        else:
            x = ops.conv(ops.layer_norm(x, f"down{stage}.norm"), f"down{stage}", channels, 2, 2, bias=True)
        for i in range(count):
            path = f"stage{stage}.{i}"
            y = ops.layer_norm(ops.conv(x, f"{path}.dw", channels, 7, groups=channels, bias=True), f"{path}.norm")
            y = ops.gelu(ops.conv(y, f"{path}.wide", 4 * channels, 1, bias=True))
            x = x + ops.scaled(ops.conv(y, f"{path}.narrow", channels, 1, bias=True), f"{path}.layer")
    return ops.dense(ops.mean(x), "fc", 1000)


def mobilenet(ops: Any, x: Any) -> Any:
    """A MobileNetV3-like network (Howard et al. 2019): depthwise convolutions, squeeze-and-excitation, hard swish."""
    x, index, before = ops.hard_swish(_normed(ops, x, "stem", 16, 3, 2)), 0, 16
    for kernel, inner, channels, excited, stride in [
        (3, 16, 16, False, 1), (3, 64, 24, False, 2), (3, 72, 24, False, 1), (5, 72, 40, True, 2),
        (5, 120, 40, True, 1), (5, 120, 40, True, 1), (3, 240, 80, False, 2), (3, 200, 80, False, 1),
        (3, 184, 80, False, 1), (3, 480, 112, True, 1), (3, 672, 112, True, 1),
        (5, 672, 160, True, 2), (5, 960, 160, True, 1), (5, 960, 160, True, 1),
    ]:  # fmt: skip
        path, act = f"block{index}", ops.relu if index < 6 else ops.hard_swish
        y = act(_normed(ops, x, f"{path}.expand", inner, 1))
        y = act(_normed(ops, y, f"{path}.depthwise", inner, kernel, stride, groups=inner))
        if excited:
            gate = ops.relu(ops.conv(ops.mean(y, keep=True), f"{path}.squeeze", inner // 4, 1, bias=True))
            y = y * ops.hard_sigmoid(ops.conv(gate, f"{path}.excite", inner, 1, bias=True))
        y = _normed(ops, y, f"{path}.project", channels, 1)
        x, index, before = x + y if stride == 1 and channels == before else y, index + 1, channels
    return ops.dense(ops.mean(ops.hard_swish(_normed(ops, x, "head", 960, 1))), "fc", 1000)


def densenet(ops: Any, x: Any) -> Any:
    """A DenseNet-121 (Huang et al. 2017): 1x1 convolutions of concatenated maps, 3x3 ones of few channels."""
    x = ops.max_pool(ops.relu(_normed(ops, x, "stem", 64, 7, 2)), 3, 2, 1)
    channels = 64
    for block, count in enumerate([6, 12, 24, 16]):
        for i in range(count):
            path = f"block{block}.{i}"
            y = ops.conv(ops.relu(ops.norm(x, f"{path}.bn1", 1e-5)), f"{path}.conv1", 128, 1)
            y = ops.conv(ops.relu(ops.norm(y, f"{path}.bn2", 1e-5)), f"{path}.conv2", 32, 3)
            x, channels = ops.concatenate([x, y]), channels + 32
        x = ops.relu(ops.norm(x, f"block{block}.bn", 1e-5))
        if block < 3:
            channels //= 2
            x = ops.mean_pool(ops.conv(x, f"block{block}.conv", channels, 1))
    return ops.dense(ops.mean(x), "fc", 1000)


def resnext50(ops: Any, x: Any) -> Any:
    """A ResNeXt50 (Xie et al. 2017): 3x3 convolutions in 32 groups."""
    x = ops.max_pool(ops.relu(_normed(ops, x, "stem", 64, 7, 2)), 3, 2, 1)
    for layer, count in enumerate([3, 4, 6, 3]):
        for i in range(count):
            path, channels, stride = f"layer{layer}.{i}", 128 * 2**layer, 2 if layer and i == 0 else 1
            y = ops.relu(_normed(ops, x, f"{path}.a", channels, 1))
            y = ops.relu(_normed(ops, y, f"{path}.b", channels, 3, stride, groups=32))
            y = _normed(ops, y, f"{path}.c", 2 * channels, 1)
            x = ops.relu(y + (x if i else _normed(ops, x, f"{path}.d", 2 * channels, 1, stride)))
    return ops.dense(ops.mean(x), "fc", 1000)


NETWORKS = {f.__name__: f for f in (efficientnet_lite0, resnet50, vgg16, convnext, mobilenet, densenet, resnext50)}
