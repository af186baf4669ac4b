"""Guided backpropagation and deconvolution as program transformations: other derivatives for the ReLUs of a program."""

from __future__ import annotations

import functools
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

    return _with_relus(fn, _guided_relu, precision)


def deconvolved(fn: Callable, *, precision: str | None = None) -> Callable:
    """The function `x -> fn(x)` whose derivative passes a ReLU where what comes back is positive, on or off.

    Maxima pass back to where they came from, as the paper's switches do. Finding ReLUs, arguments and all else as in
    `guided`.

    References:
      Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 2.1.
    """
    return _with_relus(fn, _open_relu, precision)


def _with_relus(fn: Callable, relu: Callable, precision: str | None) -> Callable:
    rule, _ = _rules(relu)

    def transformed(x):
        closed, tree = trace(fn, x, precision=resolved(precision).products)
        values = [_Active(jnp.asarray(leaf)) for leaf in jax.tree.leaves(x)]
        outs = walk(closed, values, active=_Active, rule=rule, as_one=has_its_own)
        return jax.tree.unflatten(tree, [o.x if isinstance(o, _Active) else o for o in outs])

    return transformed


class _Active:
    """A value that depends on the input."""

    __slots__ = ("x",)

    def __init__(self, x: jax.Array):
        self.x = x

    @property
    def is_number(self) -> bool:
        return jnp.issubdtype(self.x.dtype, jnp.inexact)


def _relu(backward: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable:
    """A ReLU with another derivative: of `(on, what comes back)`."""

    @jax.custom_vjp
    def relu(x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)

    relu.defvjp(lambda x: (jax.nn.relu(x), x > 0), lambda on, back: (backward(on, back),))
    return relu


_guided_relu = _relu(lambda on, back: jnp.where(on, jax.nn.relu(back), jnp.zeros_like(back)))
_open_relu = _relu(lambda on, back: jax.nn.relu(back))


@functools.cache
def _rules(relu: Callable) -> tuple[Callable, ActiveValues]:
    """The rule of a walk, and how its values are carried through control flow."""

    def rule(eqn: Any, ins: list) -> list:
        if describe(eqn).kind == "control":  # which branch is taken is a constant nearby
            return control(eqn, [v.x if isinstance(v, _Active) and not v.is_number else v for v in ins], carried)
        active = [v for v in ins if isinstance(v, _Active)]
        if is_relu(eqn) and len(active) == 1 and active[0].x.shape == eqn.outvars[0].aval.shape:
            return [_Active(relu(active[0].x))]
        return [_Active(r) for r in bind(eqn, [v.x if isinstance(v, _Active) else v for v in ins])]

    carried = ActiveValues(
        _Active, lambda v: (v.x if isinstance(v, _Active) else jnp.asarray(v),), lambda packed: _Active(*packed), rule,
        "guided backpropagation", has_its_own,
    )  # fmt: skip
    return rule, carried
