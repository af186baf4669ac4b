"""The ResNet family as one Flax NNX module built from a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcam.models.config import scaled
from jaxcam.models.layers import Staged, max_pool
from jaxcam.models.resnet import RESNET_LAYERS, ResNetConfig


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
        for index, count in enumerate(counts, 1):
            c_mid = scaled(64 * 2 ** (index - 1), config.width)
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and index > 1 else 1
                blocks.append(Block(c_in, c_mid, stride, bottleneck=bottleneck, config=config, rngs=rngs))
                c_in = 4 * c_mid if bottleneck else c_mid
            setattr(self, f"layer{index}", _Layer(blocks))
        self.fc = nnx.Linear(c_in, config.num_classes, rngs=rngs)
        self.layers = config.layers

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
