"""A vision transformer and a ConvNeXt in Linen, as small as they go: the modules of two of the guests."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn


class EncoderBlock(nn.Module):
    """Attention and a perceptron, each after a LayerNorm and beside a residual."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm(name="norm2")(x))))


class ViT(nn.Module):
    """A vision transformer, classified by its class token or by the mean of its patches."""

    num_classes: int
    class_token: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), strides=4, name="patches")(x)
        x = x.reshape(x.shape[0], -1, 8)
        if self.class_token:
            first = self.param("class_token", nn.initializers.normal(), (1, 1, 8))
            x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, 8)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(), x.shape[1:])
        for i in range(2):
            x = EncoderBlock(name=f"block{i}")(x)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.num_classes)(x[:, 0] if self.class_token else x.mean(1))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, GELU and a scaled residual."""

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(8, (5, 5), feature_group_count=8, name="depthwise")(x)
        y = nn.Dense(8, name="down")(nn.gelu(nn.Dense(24, name="up")(nn.LayerNorm(name="norm")(y))))
        return x + self.param("scale", nn.initializers.ones, (8,)) * y


class ConvNeXt(nn.Module):
    """A patch stem, two blocks, a norm and a linear classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="stem_norm")(nn.Conv(8, (2, 2), strides=2, name="stem")(x))
        for i in range(2):
            x = ConvNeXtBlock(name=f"block{i}")(x)
        return nn.Dense(self.num_classes)(nn.LayerNorm(name="norm")(x.mean((1, 2))))
