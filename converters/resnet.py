"""ResNet's weights as others name them.

torchvision: its source; the same names serve timm's ResNets.
TorchRay: only its loader (the files themselves were not at hand): `conv1` is biased, and batch norms are in two parts
`bn1.0` and `bn1.1`, of which the loader drops the number, as `canonical` does. It takes blue, green, red, which is
turned round here, as it was converted from Caffe.
Keras: its source and files written by it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from jaxcam.converters.rules import (
    KERAS,
    KERAS_PREPROCESSING,
    TORCH,
    TORCHRAY_PREPROCESSING,
    Dialect,
    Rule,
    affine,
    torch_norm,
)  # fmt: skip
from jaxcam.models.resnet import RESNET_LAYERS, ResNetConfig


def _blocks(config: ResNetConfig) -> Iterator[tuple[int, int, int, bool]]:
    """Layer, block, number of convolutions, and whether there is a projection."""
    counts, bottleneck = RESNET_LAYERS[config.depth]
    for layer, count in enumerate(counts, 1):
        for i in range(count):
            yield layer, i, 3 if bottleneck else 2, i == 0 and (bottleneck or layer > 1)


def _torch(config: ResNetConfig, *, caffe: bool) -> Iterator[Rule]:
    yield Rule("conv1.kernel", "conv_bgr" if caffe else "conv", ("conv1.weight",))
    for rule in torch_norm("bn1", "bn1"):
        if caffe and rule.target == "bn1.mean":  # the bias before a batch norm shifts its mean
            rule = Rule(rule.target, "minus", (*rule.sources, "conv1.bias"))
        yield rule
    for layer, i, convs, projected in _blocks(config):
        block = f"layer{layer}.{i}"
        for k in range(1, convs + 1):
            yield Rule(f"{block}.conv{k}.kernel", "conv", (f"{block}.conv{k}.weight",))
            yield from torch_norm(f"{block}.bn{k}", f"{block}.bn{k}")
        if projected:
            yield Rule(f"{block}.downsample.conv1.kernel", "conv", (f"{block}.downsample.0.weight",))
            yield from torch_norm(f"{block}.downsample.bn1", f"{block}.downsample.1")
    yield from affine("fc", "dense", "fc", TORCH)


def _keras_conv(conv: str, norm: str, source: str) -> Iterator[Rule]:
    """A biased convolution and its batch norm; the bias moves into the mean."""
    yield Rule(f"{conv}.kernel", "same", (f"{source}_conv/kernel",))
    yield Rule(f"{norm}.scale", "same", (f"{source}_bn/gamma",))
    yield Rule(f"{norm}.bias", "same", (f"{source}_bn/beta",))
    yield Rule(f"{norm}.mean", "minus", (f"{source}_bn/moving_mean", f"{source}_conv/bias"))
    yield Rule(f"{norm}.var", "keras_var", (f"{source}_bn/moving_variance",))


def _keras(config: ResNetConfig) -> Iterator[Rule]:
    yield from _keras_conv("conv1", "bn1", "conv1")
    for layer, i, convs, projected in _blocks(config):
        block, source = f"layer{layer}.{i}", f"conv{layer + 1}_block{i + 1}"
        for k in range(1, convs + 1):
            yield from _keras_conv(f"{block}.conv{k}", f"{block}.bn{k}", f"{source}_{k}")
        if projected:
            yield from _keras_conv(f"{block}.downsample.conv1", f"{block}.downsample.bn1", f"{source}_0")
    yield from affine("fc", "same", "predictions", KERAS)


def _refusal(config: ResNetConfig) -> str:
    """torchvision has the networks of v1.5 only, and none without batch norm."""
    if config.stride_first or config.ceil_pool:
        return (
            f"torchvision's resnet{config.depth} strides and pools elsewhere, so that these weights would give other "
            "logits there; keep them in jaxcam's format"
        )
    return "" if config.batch_norm else "torchvision's ResNets have batch norm, and this one's was folded away"


_ALL = tuple(ResNetConfig(depth=depth) for depth in RESNET_LAYERS)
_DEEP = tuple(config for config in _ALL if RESNET_LAYERS[config.depth][1])
_FIRST = (("stride_first", True),)
_CAFFE = (*_FIRST, ("ceil_pool", True))
DIALECTS = (
    Dialect("torchvision", _ALL, functools.partial(_torch, caffe=False), refusal=_refusal),
    Dialect(
        "torchray", tuple(c.replace(**dict(_CAFFE)) for c in _DEEP), functools.partial(_torch, caffe=True),
        TORCHRAY_PREPROCESSING, multi_label=True, options=_CAFFE, parted=True,
    ),
    Dialect("keras", tuple(c.replace(**dict(_FIRST)) for c in _DEEP), _keras, KERAS_PREPROCESSING, options=_FIRST),
)  # fmt: skip
