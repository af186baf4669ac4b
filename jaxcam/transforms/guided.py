"""Guided backpropagation as a program transformation: ReLUs pass back what is positive, where they are on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.control import ActiveValues, control
from jaxcam.transforms.custom_derivatives import has_its_own
from jaxcam.transforms.full_gradient import is_relu
from jaxcam.transforms.precision import resolved
from jaxcam.transforms.primitives import describe
from jaxcam.transforms.walker import bind, trace, walk


def guided(fn: Callable, *, precision: str | None = None) -> Callable:
    """The function `x -> fn(x)` whose derivative passes a ReLU where its input and what comes back are both positive.

    ReLUs are found in the traced program: `max(x, 0)`, `jax.nn.relu`, the lower half of a ReLU6, in `jit`, `scan` and
    `cond` as well. All else keeps its derivative; smooth activations have no such rule, and keep theirs too.

    Args:
      fn: a pure function of one pytree of arrays.
      precision: of products that name none: "highest", "tf32" or "bfloat16", see `transforms.at_precision`; what an
        outer one of these says, else the highest.

    References:
      Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR Workshops 2015, section 3.4.
    """

    def transformed(x):
        closed, tree = trace(fn, x, precision=resolved(precision).products)
        values = [_Active(jnp.asarray(leaf)) for leaf in jax.tree.leaves(x)]
        outs = walk(closed, values, active=_Active, rule=_rule, as_one=has_its_own)
        return jax.tree.unflatten(tree, [o.x if isinstance(o, _Active) else o for o in outs])

    return transformed


class _Active:
    """A value that depends on the input."""

    __slots__ = ("x",)

    def __init__(self, x: jax.Array):
        self.x = x


@jax.custom_vjp
def _relu(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.nn.relu(x), x > 0


def _backward(on: jax.Array, back: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(on, jax.nn.relu(back), jnp.zeros_like(back)),)


_relu.defvjp(_forward, _backward)


def _rule(eqn: Any, ins: list) -> list:
    if describe(eqn).kind == "control":
        return control(eqn, ins, _CARRIED)
    active = [v for v in ins if isinstance(v, _Active)]
    if is_relu(eqn) and len(active) == 1 and active[0].x.shape == eqn.outvars[0].aval.shape:
        return [_Active(_relu(active[0].x))]
    return [_Active(r) for r in bind(eqn, [v.x if isinstance(v, _Active) else v for v in ins])]


_CARRIED = ActiveValues(
    _Active, lambda v: (v.x if isinstance(v, _Active) else jnp.asarray(v),), lambda packed: _Active(*packed), _rule,
    "guided backpropagation", has_its_own,
)  # fmt: skip
