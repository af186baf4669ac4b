"""The EfficientNet-Lite family (Tan & Le, ICML 2019, without squeeze-and-excitation and with ReLU6): its members.

Stages are named `stem`, `block0` ... (one inverted residual each; `block15` is Lite0's last), `head` (the 1x1
convolution behind them), `avgpool` and `fc`. A block ends in a batch norm with no activation behind it, so that about
half of the activations of every `block` are negative; those of `head` never are. Padding is TensorFlow's SAME.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from jaxcam.models.config import Config

if TYPE_CHECKING:
    from flax import nnx

    from jaxcam.models.efficientnet_module import EfficientNetLite


class Size(NamedTuple):
    """How a variant is scaled: factors of width and depth, side of the input in pixels, rate of dropout."""

    width: float
    depth: float
    input_size: int
    dropout: float


LITE_SIZES = {
    0: Size(1.0, 1.0, 224, 0.2),
    1: Size(1.0, 1.1, 240, 0.2),
    2: Size(1.1, 1.2, 260, 0.3),
    3: Size(1.2, 1.4, 280, 0.3),
    4: Size(1.4, 1.8, 300, 0.3),
}
#: Blocks, kernel, stride of the first block, expansion and channels of each run; stem and head are never scaled.
_RUNS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280


class Block(NamedTuple):
    """One inverted residual block at full width."""

    run: int
    place: int
    kernel: int
    stride: int
    expansion: int
    channels: int


def lite_blocks(variant: int) -> list[Block]:
    """The blocks of a variant in order; depth scales all runs but the first and the last."""
    size, blocks = LITE_SIZES[variant], []
    for run, (count, kernel, stride, expansion, channels) in enumerate(_RUNS):
        count = count if run in (0, len(_RUNS) - 1) else math.ceil(count * size.depth)
        for i in range(count):
            blocks.append(Block(run, i, kernel, stride if i == 0 else 1, expansion, _eighths(channels * size.width)))
    return blocks


def _eighths(channels: float) -> int:
    """The nearest multiple of eight, not more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig(Config):
    """What distinguishes one EfficientNet-Lite from another.

    Attributes:
      variant: 0 to 4.
      num_classes: number of logits.
      width: multiplier on every layer's channels, besides the variant's own.
      batch_norm: False for a network whose batch norm was folded into biased convolutions.
    """

    family: ClassVar[str] = "efficientnet_lite"
    last_layer: ClassVar[str] = "fc"
    epsilon: ClassVar[float] = 1e-3

    variant: int = 0
    num_classes: int = 1000
    width: float = 1.0
    batch_norm: bool = True

    def __post_init__(self):
        if self.variant not in LITE_SIZES:
            raise ValueError(f"no EfficientNet-Lite{self.variant}; there are {sorted(LITE_SIZES)}")

    def build(self, *, rngs: nnx.Rngs) -> EfficientNetLite:
        """A freshly initialised network."""
        from jaxcam.models.efficientnet_module import EfficientNetLite

        return EfficientNetLite(self, rngs=rngs)

    @property
    def layers(self) -> tuple[str, ...]:
        """Stem, blocks, and head."""
        return ("stem", *(f"block{i}" for i in range(len(lite_blocks(self.variant)))), "head", "avgpool", "fc")

    @property
    def default_layer(self) -> str:
        """The last layer, behind a ReLU6; the blocks before it are signed."""
        return "head"

    @property
    def input_size(self) -> int:
        """224 of Lite0 to 300 of Lite4."""
        return LITE_SIZES[self.variant].input_size

    @property
    def channels(self) -> dict[str, int]:
        """Of stem and head, and of the end of every block."""
        ends = {f"block{i}.project.conv.kernel": b.channels for i, b in enumerate(lite_blocks(self.variant))}
        return {"stem.conv.kernel": STEM, **ends, "head.conv.kernel": HEAD}
