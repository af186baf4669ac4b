"""The EfficientNet-Lite family (Tan & Le, ICML 2019, without squeeze-and-excitation and with ReLU6), in Flax NNX.

Stages are named `stem`, `block0` ... (one inverted residual each; `block15` is Lite0's last), `head` (the 1x1
convolution behind them), `avgpool` and `fc`. A block ends in a batch norm with no activation behind it, so that about
half of the activations of every `block` are negative; those of `head` never are. Padding is TensorFlow's SAME.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcam.models.layers import Config, Staged, scaled


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
_STEM, _HEAD = 32, 1280


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
        return EfficientNetLite(self, rngs=rngs)

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
        return {"stem.conv.kernel": _STEM, **ends, "head.conv.kernel": _HEAD}


class _ConvNorm(nnx.Module):
    """A convolution and, unless it was folded away, its batch norm."""

    def __init__(self, c_in, c_out, kernel, stride, *, groups=1, config, rngs):
        self.conv = nnx.Conv(
            c_in, c_out, (kernel, kernel), strides=stride, padding="SAME", feature_group_count=groups,
            use_bias=not config.batch_norm,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"), rngs=rngs,
        )  # fmt: skip
        if config.batch_norm:
            self.bn = nnx.BatchNorm(
                c_out, use_running_average=True, momentum=0.99, epsilon=config.epsilon, rngs=rngs
            )  # fmt: skip

    def __call__(self, x, train):
        x = self.conv(x)
        return self.bn(x, use_running_average=not train) if hasattr(self, "bn") else x


class InvertedResidual(nnx.Module):
    """1x1 to many channels, depthwise, 1x1 to few; added to its input where the shape allows."""

    def __init__(self, c_in: int, c_out: int, block: Block, *, config: EfficientNetLiteConfig, rngs: nnx.Rngs):
        inner = c_in * block.expansion
        if block.expansion != 1:
            self.expand = _ConvNorm(c_in, inner, 1, 1, config=config, rngs=rngs)
        self.depthwise = _ConvNorm(inner, inner, block.kernel, block.stride, groups=inner, config=config, rngs=rngs)
        self.project = _ConvNorm(inner, c_out, 1, 1, config=config, rngs=rngs)
        self.residual = block.place > 0

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        y = jax.nn.relu6(self.expand(x, train)) if hasattr(self, "expand") else x
        y = self.project(jax.nn.relu6(self.depthwise(y, train)), train)
        return x + y if self.residual else y


class EfficientNetLite(Staged):
    """An EfficientNet-Lite as an ordered list of named stages."""

    def __init__(self, config: EfficientNetLiteConfig, *, rngs: nnx.Rngs):
        self.config = config
        blocks = lite_blocks(config.variant)
        c_in = scaled(_STEM, config.width)
        self.stem = _ConvNorm(3, c_in, 3, 2, config=config, rngs=rngs)
        for i, block in enumerate(blocks):
            c_out = scaled(block.channels, config.width)
            setattr(self, f"block{i}", InvertedResidual(c_in, c_out, block, config=config, rngs=rngs))
            c_in = c_out
        c_out = scaled(_HEAD, config.width)
        self.head = _ConvNorm(c_in, c_out, 1, 1, config=config, rngs=rngs)
        self.fc = nnx.Linear(c_out, config.num_classes, rngs=rngs)
        self.layers = ("stem", *(f"block{i}" for i in range(len(blocks))), "head", "avgpool", "fc")

    def stage(self, name: str, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """Runs the one stage called `name`."""
        if name == "avgpool":
            return jnp.mean(x, axis=(1, 2))
        if name == "fc":
            dropout = LITE_SIZES[self.config.variant].dropout
            if train and key is not None:
                x = jnp.where(jax.random.bernoulli(key, 1 - dropout, x.shape), x / (1 - dropout), 0.0)
            return self.fc(x)
        if name.startswith("block"):
            return getattr(self, name)(x, train=train)
        return jax.nn.relu6(getattr(self, name)(x, train))
