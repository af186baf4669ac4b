"""The ResNet family (He et al., CVPR 2016), v1.5: what distinguishes its members.

v1.5 means that a bottleneck strides in its 3x3 convolution, as torchvision's weights expect; the
options `stride_first` and `ceil_pool` make the networks that Keras and Caffe trained.
Stages are named `conv1` (convolution, batch norm, ReLU), `maxpool`, `layer1.0` ... `layer4.2` (one
residual block each, after its final ReLU), `avgpool` and `fc`; `layer4` is short for its last block.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from jaxcam.models.config import Config

if TYPE_CHECKING:
    from flax import nnx

    from jaxcam.models.resnet_module import ResNet


#: Blocks per layer, and whether they are bottlenecks.
RESNET_LAYERS: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


@dataclasses.dataclass(frozen=True)
class ResNetConfig(Config):
    """What distinguishes one ResNet from another.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      num_classes: number of logits.
      width: multiplier on every layer's channels.
      batch_norm: False for a network whose batch norm was folded into biased convolutions.
      zero_init_residual: start the last batch norm of each block at zero (Goyal et al., 2017).
      stride_first: stride in a bottleneck's first 1x1 convolution (v1: Keras, Caffe), not in its 3x3.
      ceil_pool: the max pool pads below and to the right only, and rounds up (Caffe).
    """

    family: ClassVar[str] = "resnet"
    last_layer: ClassVar[str] = "fc"

    depth: int = 50
    num_classes: int = 1000
    width: float = 1.0
    batch_norm: bool = True
    zero_init_residual: bool = False
    stride_first: bool = False
    ceil_pool: bool = False

    def __post_init__(self):
        if self.depth not in RESNET_LAYERS:
            raise ValueError(f"no ResNet of depth {self.depth}; there are {sorted(RESNET_LAYERS)}")

    def build(self, *, rngs: nnx.Rngs) -> ResNet:
        """A freshly initialised network."""
        from jaxcam.models.resnet_module import ResNet

        return ResNet(self, rngs=rngs)

    @property
    def layers(self) -> tuple[str, ...]:
        """The stem, the blocks of the four layers, and the head."""
        counts = enumerate(RESNET_LAYERS[self.depth][0], 1)
        blocks = (f"layer{index}.{i}" for index, count in counts for i in range(count))
        return ("conv1", "maxpool", *blocks, "avgpool", "fc")

    @property
    def default_layer(self) -> str:
        """The last block, which `layer4` is short for."""
        return "layer4"

    @property
    def channels(self) -> dict[str, int]:
        """Of the stem and of the first convolution of each layer."""
        return {"conv1.kernel": 64} | {f"layer{i}.0.conv1.kernel": 32 * 2**i for i in range(1, 5)}
