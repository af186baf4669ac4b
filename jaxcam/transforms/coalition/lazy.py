"""Values of a program as functions of a coalition: which channels of the activations are present.

`Diagonal` and `Additive` are tables that cost nothing per coalition; `Deferred` is what is left to do, and `Affine`
the end of it, where all that is left to do is one sum.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.transforms.walker import bind


class Lazy:
    """A value that depends on the mask `m (K,)`."""

    @property
    def identity(self) -> Any:
        """Equal for the same value met twice."""
        return id(self)

    @property
    def operands(self) -> tuple:
        """What it is made of, per coalition: lazy values and ordinary ones."""
        return ()


@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal(Lazy):
    """Each element depends on one channel only: `on` where its owner is present, `off` elsewhere.

    Attributes:
      on, off: arrays of the value's shape.
      owner: the channel of each element; a NumPy array, known while tracing.
      players: K.
    """

    on: jax.Array
    off: jax.Array
    owner: np.ndarray
    players: int

    def at(self, masks: jax.Array) -> jax.Array:
        """`(n, *shape)` for `masks (n, K)`."""
        weights = jnp.take(masks, self.owner.reshape(-1), axis=1).reshape(-1, *self.owner.shape)
        if not jnp.issubdtype(self.on.dtype, jnp.inexact):  # predicates have no differences
            return jnp.where(weights != 0, self.on[None], self.off[None])
        return self.off[None] + weights.astype(self.on.dtype) * self.change[None]

    @property
    def change(self) -> jax.Array:
        """What the owner adds; 0 for equal infinities, as of a padding."""
        return jnp.where(self.on == self.off, jnp.zeros_like(self.on), self.on - self.off)

    def additive(self) -> Additive:
        """The same value as a sum over channels; K times as large."""
        owned = self.owner[None] == np.arange(self.players).reshape(-1, *[1] * self.owner.ndim)
        return Additive(self.off, jnp.where(owned, self.change, 0))


@dataclasses.dataclass(frozen=True, eq=False)
class Additive(Lazy):
    """`base + sum_k m_k delta[k]`, with `delta (K, *shape)`."""

    base: jax.Array
    delta: jax.Array

    @property
    def players(self) -> int:
        """K."""
        return self.delta.shape[0]

    def at(self, masks: jax.Array, precision: str | None = "highest") -> jax.Array:
        """`(n, *shape)` for `masks (n, K)`."""
        table = self.delta.reshape(self.delta.shape[0], -1)
        summed = jnp.matmul(masks.astype(table.dtype), table, precision=precision)
        return self.base[None] + summed.reshape(-1, *self.base.shape)


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

    @property
    def operands(self) -> tuple:
        """Those of the equation."""
        return self.task.operands


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """An equation with its operands, lazy or not."""

    eqn: Any
    operands: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Lazy):
    """A scalar, `base + m . weights + sum_i <slopes_i, parts_i>`.

    Attributes:
      base: `()`.
      weights: `(K,)`, what each channel adds by itself; None where none does.
      parts: pending values.
      slopes: an array of the shape of each.
    """

    base: jax.Array
    weights: jax.Array | None
    parts: tuple[Deferred, ...]
    slopes: tuple[jax.Array, ...]

    @property
    def operands(self) -> tuple:
        """The pending values."""
        return self.parts


def template(value: Lazy) -> Any:
    """Something with the shape and dtype of a lazy value."""
    if isinstance(value, Deferred):
        return value.aval
    return value.on if isinstance(value, Diagonal) else value.base  # type: ignore[attr-defined]


def evaluate(
    value: Any, masks: jax.Array | None, precision: str | None = "highest", given: dict[Any, jax.Array] | None = None
) -> jax.Array:
    """`(n, *shape)`: a lazy value for every mask, each pending equation run once.

    Args:
      given: what some lazy values are, by `Lazy.identity`, `(n, *shape)`; the masks may be None where
        the value depends on nothing else.
    """
    done: dict[int, list] = {}
    given = given or {}

    def at(v: Any) -> Any:
        if isinstance(v, Lazy) and v.identity in given:
            return given[v.identity]
        if isinstance(v, Deferred):
            return run(v.task)[v.index]
        if isinstance(v, Affine):
            return summed(v)
        if not isinstance(v, Additive | Diagonal):
            return v
        assert masks is not None, "a value that depends on the mask was not given"
        return v.at(masks, precision) if isinstance(v, Additive) else v.at(masks)

    def run(task: Task) -> list:
        if id(task) not in done:
            operands = [at(v) for v in task.operands]
            axes = [0 if isinstance(v, Lazy) else None for v in task.operands]
            done[id(task)] = jax.vmap(lambda *values: bind(task.eqn, values), in_axes=axes)(*operands)
        return done[id(task)]

    def summed(v: Affine) -> jax.Array:
        total = v.base
        if v.weights is not None:
            assert masks is not None, "a value that depends on the mask was not given"
            total = total + jnp.matmul(masks.astype(v.weights.dtype), v.weights, precision=precision)
        for part, slope in zip(v.parts, v.slopes, strict=True):
            values = at(part)
            total = total + jnp.matmul(values.reshape(len(values), -1), slope.reshape(-1), precision=precision)
        return total

    return at(value)


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
