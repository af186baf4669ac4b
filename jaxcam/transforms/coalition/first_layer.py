"""The first non-linear layer of a coalition game: what a coalition's score is, all but linearly, made of."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.transforms.coalition.game import Game
from jaxcam.transforms.coalition.lazy import Additive, Affine, Deferred, Diagonal, Lazy, evaluate, template
from jaxcam.transforms.coalition.tables import acts_on_elements


class FirstLayer(NamedTuple):
    """`activation(base + masks @ table)`, through which alone the game sees the mask.

    Attributes:
      base: `(H,)`.
      table: `(K, H)`.
      activation: elementwise `(n, H) -> (n, H)`.
      gradient: `masks (n, K) -> (n, H)`, the derivative of the game's value in the layer's output.
    """

    base: jax.Array
    table: jax.Array
    activation: Any
    gradient: Any


def first_layer(game: Game) -> FirstLayer | None:
    """The first layer of a game, or None where there is no single one."""
    if not isinstance(game.output, Deferred | Affine):
        return None
    if isinstance(game.output, Affine) and game.output.weights is not None:  # a way around the layer
        return None
    values, readers = _graph(game.output)
    tables = [v for v in values.values() if isinstance(v, Additive)]
    if len(tables) != 1 or any(isinstance(v, Diagonal) for v in values.values()):
        return None
    [table] = tables
    local: dict[Any, bool] = {table.identity: True}
    for identity, value in values.items():  # operands come before what is made of them
        local.setdefault(identity, False)
        if isinstance(value, Deferred):
            lazy = [v for v in value.task.operands if isinstance(v, Lazy)]
            local[identity] = (
                acts_on_elements(value.task.eqn)
                and value.aval.shape == table.base.shape
                and all(local.get(v.identity, False) for v in lazy)
            )
    seen = [i for i in values if local.get(i) and any(not local[r] for r in readers[i])]
    if len(seen) != 1 or local[game.output.identity]:
        return None
    if not jnp.issubdtype(template(values[seen[0]]).dtype, jnp.floating):
        return None
    layer, shape = values[seen[0]], table.base.shape
    size = math.prod(shape)

    def activation(z):
        given = {table.identity: z.reshape(-1, *shape)}
        return evaluate(layer, None, game.products, given).reshape(z.shape)

    def gradient(masks):
        reached = evaluate(layer, masks, game.products)
        after = lambda out: evaluate(game.output, masks, game.products, {layer.identity: out}).sum()  # noqa: E731
        return jax.grad(after)(reached).reshape(-1, size)

    return FirstLayer(table.base.reshape(size), table.delta.reshape(-1, size), activation, gradient)


def _graph(output: Lazy) -> tuple[dict[Any, Lazy], dict[Any, list]]:
    """Every lazy value behind the output, operands first, and by whose operands each is read."""
    values: dict[Any, Lazy] = {}
    readers: dict[Any, list] = {}

    def visit(value: Lazy) -> None:
        if value.identity in readers:
            return
        readers[value.identity] = []
        for operand in value.operands:
            if isinstance(operand, Lazy):
                visit(operand)
                readers[operand.identity].append(value.identity)
        values[value.identity] = value

    visit(output)
    return values, readers
