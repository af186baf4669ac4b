"""Values of a program as functions of a coalition: which channels of the activations are present.

`Diagonal` and `Additive` are tables that cost nothing per coalition; `Deferred` is what is left to do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Lazy:
    """A value that depends on the mask `m (K,)`."""

    @property
    def identity(self) -> Any:
        """Equal for the same value met twice."""
        return id(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal(Lazy):
    """Each element depends on one channel only: `on` where its owner is present, `off` elsewhere.

    Attributes:
      on, off: arrays of the value's shape.
      owner: the channel of each element; a NumPy array, known while tracing.
    """

    on: jax.Array
    off: jax.Array
    owner: np.ndarray

    def at(self, masks: jax.Array) -> jax.Array:
        """`(n, *shape)` for `masks (n, K)`."""
        weights = jnp.take(masks, self.owner.reshape(-1), axis=1).reshape(-1, *self.owner.shape)
        return self.off + weights.astype(self.on.dtype) * (self.on - self.off)

    def additive(self, players: int) -> Additive:
        """The same value as a sum over channels; `players` times as large."""
        owned = self.owner[None] == np.arange(players).reshape(-1, *[1] * self.owner.ndim)
        return Additive(self.off, jnp.where(owned, self.on - self.off, 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Additive(Lazy):
    """`base + sum_k m_k delta[k]`, with `delta (K, *shape)`."""

    base: jax.Array
    delta: jax.Array

    def at(self, masks: jax.Array, precision: str | None = "highest") -> jax.Array:
        """`(n, *shape)` for `masks (n, K)`."""
        table = self.delta.reshape(self.delta.shape[0], -1)
        summed = jnp.matmul(masks.astype(table.dtype), table, precision=precision)
        return self.base + summed.reshape(-1, *self.base.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred(Lazy):
    """Output number `index` of an equation that must run per coalition.

    Attributes:
      task: shared by the outputs of one equation.
      index: which output.
      aval: its shape and dtype.
    """

    task: Task
    index: int
    aval: Any

    @property
    def identity(self) -> Any:
        """The equation and which of its outputs."""
        return id(self.task), self.index


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """An equation with its operands, lazy or not."""

    eqn: Any
    operands: tuple


def regular(owner: np.ndarray, players: int) -> tuple[str, int] | None:
    """How a flat array of owners cycles: ("inner", P) for `i % K`, ("outer", P) for `i // P`, else None."""
    if owner.size % players:
        return None
    repeats = owner.size // players
    channels = np.arange(players)
    if np.array_equal(owner, np.tile(channels, repeats)):
        return "inner", repeats
    if np.array_equal(owner, np.repeat(channels, repeats)):
        return "outer", repeats
    return None
