"""The VGG family (Simonyan & Zisserman, ICLR 2015): what distinguishes its members.

Layers carry the names of the literature: `conv1_1` ... `conv5_3` (convolution, batch norm where
the variant has it, and ReLU), `pool1` ... `pool5`, `fc6`, `fc7` (with ReLU) and `fc8` (logits).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from jaxcam.models.config import Config, scaled

if TYPE_CHECKING:
    from flax import nnx

    from jaxcam.models.vgg_module import VGG


#: Convolutions per block; the channels of the five blocks are always 64, 128, 256, 512, 512.
VGG_BLOCKS: dict[int, tuple[int, int, int, int, int]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
CHANNELS = (64, 128, 256, 512, 512)


@dataclasses.dataclass(frozen=True)
class VGGConfig(Config):
    """What distinguishes one VGG from another.

    Attributes:
      depth: 11, 13, 16 or 19.
      batch_norm: whether each convolution is followed by batch norm.
      num_classes: number of logits.
      width: multiplier on every convolution's channels.
      hidden: neurons in each of the two hidden dense layers; 4096 times `width` when None.
      pool_size: side of the adaptive average pool before the classifier (7 at 224 px).
      dropout: rate in the classifier while training; no effect otherwise.
    """

    family: ClassVar[str] = "vgg"
    last_layer: ClassVar[str] = "fc8"
    smallest_input: ClassVar[int] = 32  # halved five times

    depth: int = 16
    batch_norm: bool = False
    num_classes: int = 1000
    width: float = 1.0
    hidden: int | None = None
    pool_size: int = 7
    dropout: float = 0.5

    def __post_init__(self):
        if self.depth not in VGG_BLOCKS:
            raise ValueError(f"no VGG of depth {self.depth}; there are {sorted(VGG_BLOCKS)}")

    def build(self, *, rngs: nnx.Rngs) -> VGG:
        """A freshly initialised network."""
        from jaxcam.models.vgg_module import VGG

        return VGG(self, rngs=rngs)

    @property
    def layers(self) -> tuple[str, ...]:
        """Convolutions and pools by block, then the dense layers."""
        blocks = enumerate(VGG_BLOCKS[self.depth], 1)
        named = [(*(f"conv{b}_{i}" for i in range(1, count + 1)), f"pool{b}") for b, count in blocks]
        return (*(name for block in named for name in block), "fc6", "fc7", "fc8")

    @property
    def default_layer(self) -> str:
        """The last convolution, `conv5_3` of VGG16."""
        return f"conv5_{VGG_BLOCKS[self.depth][-1]}"

    @property
    def input_size(self) -> int:
        """32 times the side of the average pool, so that it changes nothing; 224 where that is 1."""
        return 32 * self.pool_size if self.pool_size > 1 else 224

    @property
    def flat_side(self) -> int:
        """The side of the average pool."""
        return self.pool_size

    @property
    def channels(self) -> dict[str, int]:
        """Of every convolution."""
        blocks = enumerate(VGG_BLOCKS[self.depth], 1)
        return {f"conv{b}_{i}.kernel": CHANNELS[b - 1] for b, count in blocks for i in range(1, count + 1)}

    def fitted(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """As in `Config`; with the side of the pool and the hidden neurons."""
        config = super().fitted(shapes)
        if len(shapes.get("fc6.kernel", ())) != 2:
            return config
        flat, hidden = shapes["fc6.kernel"]
        side = math.isqrt(flat // scaled(512, config.width))
        usual = hidden == scaled(4096, config.width) or not hidden
        return config.replace(pool_size=side if 1 <= side <= 64 else config.pool_size, hidden=None if usual else hidden)
