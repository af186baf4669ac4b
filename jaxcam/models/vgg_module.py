"""The VGG family as one Flax NNX module built from a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcam.models.config import scaled
from jaxcam.models.layers import Staged, adaptive_avg_pool, max_pool
from jaxcam.models.vgg import CHANNELS, VGG_BLOCKS, VGGConfig


class VGG(Staged):
    """A VGG network as an ordered list of named stages."""

    def __init__(self, config: VGGConfig, *, rngs: nnx.Rngs):
        self.config = config
        he = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        c_in = 3
        for block, count in enumerate(VGG_BLOCKS[config.depth], 1):
            c_out = scaled(CHANNELS[block - 1], config.width)
            for i in range(1, count + 1):
                conv = nnx.Conv(c_in, c_out, (3, 3), padding=1, kernel_init=he, rngs=rngs)
                setattr(self, f"conv{block}_{i}", conv)
                if config.batch_norm:
                    norm = nnx.BatchNorm(c_out, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)
                    setattr(self, f"bn{block}_{i}", norm)
                c_in = c_out
        hidden = scaled(4096, config.width) if config.hidden is None else config.hidden
        dense = nnx.initializers.he_normal()
        self.fc6 = nnx.Linear(config.pool_size**2 * c_in, hidden, kernel_init=dense, rngs=rngs)
        self.fc7 = nnx.Linear(hidden, hidden, kernel_init=dense, rngs=rngs)
        self.fc8 = nnx.Linear(hidden, config.num_classes, rngs=rngs)
        self.layers = config.layers

    def stage(self, name: str, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """Runs the one stage called `name`."""
        if name.startswith("pool"):
            return max_pool(x, 2, 2)
        if name.startswith("conv"):
            x = getattr(self, name)(x)
            if self.config.batch_norm:
                x = getattr(self, "bn" + name[4:])(x, use_running_average=not train)
            return jax.nn.relu(x)
        if name == "fc6":
            x = adaptive_avg_pool(x, self.config.pool_size)
            x = x.reshape(x.shape[0], -1)
        x = getattr(self, name)(x)
        if name == "fc8":
            return x
        x = jax.nn.relu(x)
        if train and key is not None and self.config.dropout > 0:
            keep = 1.0 - self.config.dropout
            kept = jax.random.bernoulli(jax.random.fold_in(key, int(name[2:])), keep, x.shape)
            x = jnp.where(kept, x / keep, 0.0)
        return x
