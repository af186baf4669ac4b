"""VGG's weights as others name them.

torchvision and timm: their source. timm's `vgg16.tv_in1k` keeps its classifier as convolutions `pre_logits.fc1`,
`pre_logits.fc2` and a dense `head.fc`; files in torchvision's spelling exist as well, and both are read.
TorchRay: only its loader (the files themselves were not at hand): the classifier is `classifier.0/2/4`, stored as
convolutions; it takes blue, green, red, which is turned round here, as it was converted from Caffe.
Keras: its source and files written by it.
Caffe: the names of its own model, `conv1_1` to `fc8`, with `/w` and `/b` in a `.npz`; kernels as Caffe lays them out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from jaxcam.converters.rules import (
    CAFFE,
    KERAS,
    KERAS_PREPROCESSING,
    TORCH,
    TORCHRAY_PREPROCESSING,
    Dialect,
    Rule,
    affine,
    torch_norm,
)  # fmt: skip
from jaxcam.models.vgg import VGG_BLOCKS, VGGConfig

_LAYERS = ("fc6", "fc7", "fc8")


def _torch(config: VGGConfig, classifier: tuple[str, str, str], first: str = "conv") -> Iterator[Rule]:
    """The names of PyTorch's libraries: each has its own for the dense layers, and a kind of its first convolution."""
    at = 0
    for block, count in enumerate(VGG_BLOCKS[config.depth], 1):
        for i in range(1, count + 1):
            yield from affine(f"conv{block}_{i}", "conv" if at else first, f"features.{at}", TORCH)
            if config.batch_norm:
                yield from torch_norm(f"bn{block}_{i}", f"features.{at + 1}")
            at += 3 if config.batch_norm else 2  # with the ReLU
        at += 1  # the pool
    for layer, source in zip(_LAYERS, classifier, strict=True):
        yield from affine(layer, "flat" if layer == "fc6" else "dense", source, TORCH)


def _keras(config: VGGConfig) -> Iterator[Rule]:
    for block, count in enumerate(VGG_BLOCKS[config.depth], 1):
        for i in range(1, count + 1):
            yield from affine(f"conv{block}_{i}", "same", f"block{block}_conv{i}", KERAS)
    for layer, source in zip(_LAYERS, ("fc1", "fc2", "predictions"), strict=True):
        yield from affine(layer, "same", source, KERAS)


def _caffe(config: VGGConfig) -> Iterator[Rule]:
    for block, count in enumerate(VGG_BLOCKS[config.depth], 1):
        for i in range(1, count + 1):
            yield from affine(f"conv{block}_{i}", "conv", f"conv{block}_{i}", CAFFE)
    for layer in _LAYERS:
        yield from affine(layer, "flat" if layer == "fc6" else "dense", layer, CAFFE)


_ALL = tuple(VGGConfig(depth=depth, batch_norm=norm) for depth in VGG_BLOCKS for norm in (False, True))
_TORCHVISION = functools.partial(_torch, classifier=("classifier.0", "classifier.3", "classifier.6"))
_TIMM = functools.partial(_torch, classifier=("pre_logits.fc1", "pre_logits.fc2", "head.fc"))
_TORCHRAY = functools.partial(_torch, classifier=("classifier.0", "classifier.2", "classifier.4"), first="conv_bgr")
_PLAIN = tuple(config for config in _ALL if not config.batch_norm)
DIALECTS = (
    Dialect("torchvision", _ALL, _TORCHVISION),
    Dialect("timm", _ALL, _TIMM),
    Dialect("torchray", _PLAIN, _TORCHRAY, TORCHRAY_PREPROCESSING, multi_label=True),
    Dialect("keras", _PLAIN, _keras, KERAS_PREPROCESSING),
    Dialect("caffe", _PLAIN, _caffe, KERAS_PREPROCESSING),
)
