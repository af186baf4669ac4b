"""The ResNet family (He et al., CVPR 2016), v1.5, as one Flax NNX module built from a table.

v1.5 means that a bottleneck strides in its 3x3 convolution, as torchvision's weights expect; the
options `stride_first` and `ceil_pool` make the networks that Keras and Caffe trained.
Stages are named `conv1` (convolution, batch norm, ReLU), `maxpool`, `layer1.0` ... `layer4.2` (one
residual block each, after its final ReLU), `avgpool` and `fc`; `layer4` is short for its last block.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcam.models.layers import Config, Staged, max_pool, scaled

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
        return ResNet(self, rngs=rngs)

    @property
    def default_layer(self) -> str:
        """The last block, which `layer4` is short for."""
        return "layer4"

    @property
    def channels(self) -> dict[str, int]:
        """Of the stem and of the first convolution of each layer."""
        return {"conv1.kernel": 64} | {f"layer{i}.0.conv1.kernel": 32 * 2**i for i in range(1, 5)}


class _Normed(nnx.Module):
    """A base for modules that hold `convN`/`bnN` pairs, with the batch norm present or folded."""

    def add_conv(self, index, c_in, c_out, kernel, stride, *, config, rngs, scale=1.0):
        conv = nnx.Conv(
            c_in, c_out, (kernel, kernel), strides=stride, padding=kernel // 2, use_bias=not config.batch_norm,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"), rngs=rngs,
        )  # fmt: skip
        setattr(self, f"conv{index}", conv)
        if config.batch_norm:
            norm = nnx.BatchNorm(
                c_out, use_running_average=True, momentum=0.9, epsilon=1e-5,
                scale_init=nnx.initializers.constant(scale), rngs=rngs,
            )  # fmt: skip
            setattr(self, f"bn{index}", norm)

    def conv(self, index, x, train):
        x = getattr(self, f"conv{index}")(x)
        norm = getattr(self, f"bn{index}", None)
        return x if norm is None else norm(x, use_running_average=not train)


class _Shortcut(_Normed):
    """The 1x1 projection of a residual block whose shape changes."""

    def __init__(self, c_in, c_out, stride, *, config, rngs):
        self.add_conv(1, c_in, c_out, 1, stride, config=config, rngs=rngs)


class Block(_Normed):
    """One residual block: basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1)."""

    def __init__(self, c_in, c_mid, stride, *, bottleneck: bool, config: ResNetConfig, rngs: nnx.Rngs):
        c_out = 4 * c_mid if bottleneck else c_mid
        first, second = (stride, 1) if config.stride_first else (1, stride)
        plan = [(1, first), (3, second), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        channels = [c_in, *[c_mid] * (len(plan) - 1), c_out]
        for i, (kernel, s) in enumerate(plan):
            last = i == len(plan) - 1
            scale = 0.0 if last and config.zero_init_residual else 1.0
            self.add_conv(i + 1, channels[i], channels[i + 1], kernel, s, config=config, rngs=rngs, scale=scale)
        self.depth = len(plan)
        if stride != 1 or c_in != c_out:
            self.downsample = _Shortcut(c_in, c_out, stride, config=config, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        shortcut = self.downsample.conv(1, x, train) if hasattr(self, "downsample") else x
        for i in range(1, self.depth + 1):
            x = self.conv(i, x, train)
            if i < self.depth:
                x = jax.nn.relu(x)
        return jax.nn.relu(x + shortcut)


class _Layer(nnx.Module):
    """A run of blocks, held as attributes "0", "1", ... so that parameter paths read `layer4.2`."""

    def __init__(self, blocks: list[Block]):
        for i, block in enumerate(blocks):
            setattr(self, str(i), block)


class ResNet(_Normed, Staged):
    """A ResNet as an ordered list of named stages."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        counts, bottleneck = RESNET_LAYERS[config.depth]
        c_in = scaled(64, config.width)
        self.add_conv(1, 3, c_in, 7, 2, config=config, rngs=rngs)
        names = ["conv1", "maxpool"]
        for index, count in enumerate(counts, 1):
            c_mid = scaled(64 * 2 ** (index - 1), config.width)
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and index > 1 else 1
                blocks.append(Block(c_in, c_mid, stride, bottleneck=bottleneck, config=config, rngs=rngs))
                c_in = 4 * c_mid if bottleneck else c_mid
                names.append(f"layer{index}.{i}")
            setattr(self, f"layer{index}", _Layer(blocks))
        self.fc = nnx.Linear(c_in, config.num_classes, rngs=rngs)
        self.layers = (*names, "avgpool", "fc")

    def stage(self, name: str, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """Runs the one stage called `name`; there is nothing random in it."""
        if name == "conv1":
            return jax.nn.relu(self.conv(1, x, train))
        if name == "maxpool":
            if not self.config.ceil_pool:
                return max_pool(x, 3, 2, 1)
            reach = [(0, (side + 1) % 2) for side in x.shape[1:3]]  # the last window of an even side looks one beyond
            return nnx.max_pool(x, (3, 3), (2, 2), reach)
        if name == "avgpool":
            return jnp.mean(x, axis=(1, 2))
        if name == "fc":
            return self.fc(x)
        layer, block = name.split(".")
        return getattr(getattr(self, layer), block)(x, train=train)
