"""The affine end of a coalition game: the layers after the last non-linear one, as one sum.

A head ends in a dense layer with a logit for each class, of which one is explained; often an average over positions
comes before it. Of all that, the explained logit is one linear functional of the last non-linear values. It is found
once for a game, by differentiation, and no coalition pays for the other classes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.coalition.lazy import Additive, Affine, Deferred, Diagonal, Lazy, evaluate, template
from jaxcam.transforms.primitives import is_affine


def with_affine_end(output: Any, players: int, precision: str | None) -> Any:
    """A scalar output with its affine end folded, `Additive` where that is all; unchanged where there is none."""
    if not isinstance(output, Deferred) or output.aval.shape:
        return output
    ends = _before(output)
    if output.identity in ends or any(not _is_float(v) for v in ends.values()):
        return output

    def tail(*values: jax.Array) -> jax.Array:
        given = {i: x[None] for i, x in zip(ends, values, strict=True)}
        return evaluate(output, None, precision, given)[0]

    base, pull = jax.vjp(tail, *(jnp.zeros(template(v).shape, template(v).dtype) for v in ends.values()))
    weights: jax.Array | None = None
    parts: list[Deferred] = []
    slopes: list[jax.Array] = []
    for value, slope in zip(ends.values(), pull(jnp.ones_like(base)), strict=True):
        if isinstance(value, Deferred):
            parts.append(value)
            slopes.append(slope)
        else:
            offset, own = _by_channel(value, slope, players, precision)
            base, weights = base + offset, own if weights is None else weights + own
    if not parts:  # all of it was affine, but too large for a table before the class was chosen
        assert weights is not None
        return Additive(base, weights)
    return Affine(base, weights, tuple(parts), tuple(slopes))


def _before(output: Deferred) -> dict[Any, Lazy]:
    """The values that the affine end of a program begins with, by identity."""
    ends: dict[Any, Lazy] = {}
    seen: set[Any] = set()
    pending: list[Lazy] = [output]
    while pending:
        value = pending.pop()
        if value.identity in seen:
            continue
        seen.add(value.identity)
        if (
            isinstance(value, Deferred)
            and _is_float(value)
            and is_affine(value.task.eqn, [isinstance(v, Lazy) for v in value.operands])
        ):
            pending += [v for v in value.operands if isinstance(v, Lazy)]
        else:
            ends[value.identity] = value
    return ends


def _is_float(value: Lazy) -> bool:
    return jnp.issubdtype(template(value).dtype, jnp.inexact)


def _by_channel(value: Any, slope: jax.Array, players: int, precision: str | None) -> tuple[jax.Array, jax.Array]:
    """`<slope, value>` of a table as `(base (), weights (K,))`."""
    if isinstance(value, Diagonal):
        own = (slope * (value.on - value.off)).reshape(-1)
        weights = jnp.zeros(players, own.dtype).at[value.owner.reshape(-1)].add(own)
        return jnp.sum(slope * value.off), weights
    assert isinstance(value, Additive)
    weights = jnp.matmul(value.delta.reshape(players, -1), slope.reshape(-1), precision=precision)
    return jnp.sum(slope * value.base), weights
