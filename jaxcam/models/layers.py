"""What the modules of all families share: stages that run by name, and pooling that Flax does not have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Staged(nnx.Module):
    """A network as an ordered list of named stages.

    Attributes:
      layers: names of the stages in order; `run` starts and stops at any of them. Those that give no map are called
        `avgpool` or begin with `fc`.
    """

    layers: tuple[str, ...]

    def stage(self, name: str, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """Runs the one stage called `name`."""
        raise NotImplementedError

    def run(
        self,
        x: jax.Array,
        *,
        after: str | None = None,
        until: str | None = None,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the stages that follow `after` (None: the image) up to and including `until`."""
        start = 0 if after is None else self.layers.index(after) + 1
        stop = len(self.layers) if until is None else self.layers.index(until) + 1
        for name in self.layers[start:stop]:
            x = self.stage(name, x, train=train, key=key)
        return x

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        """Logits `(b, num_classes)` of images `x (b, h, w, 3)`."""
        return self.run(x, train=train, key=key)


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Max pooling of `x (b, h, w, k)` with explicit symmetric padding, floor mode."""
    return nnx.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)


def _averaging_matrix(size_in: int, size_out: int) -> np.ndarray:
    """`(size_out, size_in)` matrix whose row i averages the i-th adaptive bin."""
    matrix = np.zeros((size_out, size_in), np.float32)
    for i in range(size_out):
        start, stop = (i * size_in) // size_out, -((-(i + 1) * size_in) // size_out)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Average `x (b, h, w, k)` into `(b, size, size, k)` bins, as PyTorch's adaptive pooling does.

    The identity (no operation at all) where the map already has that size.
    """
    _, h, w, _ = x.shape
    if h != size:
        x = jnp.einsum("oh,bhwk->bowk", _averaging_matrix(h, size).astype(x.dtype), x, precision="highest")
    if w != size:
        x = jnp.einsum("ow,bhwk->bhok", _averaging_matrix(w, size).astype(x.dtype), x, precision="highest")
    return x
