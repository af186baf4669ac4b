"""The EfficientNet-Lite family as one Flax NNX module built from a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcam.models.config import scaled
from jaxcam.models.efficientnet import HEAD, LITE_SIZES, STEM, Block, EfficientNetLiteConfig, lite_blocks
from jaxcam.models.layers import Staged


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
        c_in = scaled(STEM, config.width)
        self.stem = _ConvNorm(3, c_in, 3, 2, config=config, rngs=rngs)
        for i, block in enumerate(blocks):
            c_out = scaled(block.channels, config.width)
            setattr(self, f"block{i}", InvertedResidual(c_in, c_out, block, config=config, rngs=rngs))
            c_in = c_out
        c_out = scaled(HEAD, config.width)
        self.head = _ConvNorm(c_in, c_out, 1, 1, config=config, rngs=rngs)
        self.fc = nnx.Linear(c_out, config.num_classes, rngs=rngs)
        self.layers = config.layers

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
