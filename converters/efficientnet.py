"""EfficientNet-Lite's weights as others name them.

timm: its source; `tf_efficientnet_lite0` to `lite4`, which are TensorFlow's weights. timm's own `efficientnet_lite0`,
trained anew, has the same names but pads otherwise and has another epsilon, and is not what this gives.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxcam.converters.rules import TORCH, Dialect, Rule, affine, torch_norm
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.models.efficientnet import LITE_SIZES, EfficientNetLiteConfig, lite_blocks


def _conv_norm(target: str, conv: str, norm: str) -> Iterator[Rule]:
    yield Rule(f"{target}.conv.kernel", "conv", (f"{conv}.weight",))
    yield from torch_norm(f"{target}.bn", norm)


def _timm(config: EfficientNetLiteConfig) -> Iterator[Rule]:
    yield from _conv_norm("stem", "conv_stem", "bn1")
    for i, block in enumerate(lite_blocks(config.variant)):
        source = f"blocks.{block.run}.{block.place}"
        parts = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        if block.expansion == 1:
            parts = {"depthwise": "conv_dw", "project": "conv_pw"}
        for number, (ours, theirs) in enumerate(parts.items(), 1):
            yield from _conv_norm(f"block{i}.{ours}", f"{source}.{theirs}", f"{source}.bn{number}")
    yield from _conv_norm("head", "conv_head", "bn2")
    yield from affine("fc", "dense", "classifier", TORCH)


#: As TensorFlow's weights were trained: (x - 127) / 128.
LITE_PREPROCESSING = Preprocessing(interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
DIALECTS = (
    Dialect("timm", tuple(EfficientNetLiteConfig(variant) for variant in LITE_SIZES), _timm, LITE_PREPROCESSING),
)
