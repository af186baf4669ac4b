"""The full gradient as a program transformation: what the input, and what every bias of a program, has of its result.

A program that is linear between its kinks and has no biases is `sum x df/dx`. `full_gradient(fn)` finds, equation by
equation, what is missing to that: the constants that are added, and of a function that is no line through 0, the bias
of its tangent. Each is a summand of the result, `b df/db`, and together with `x df/dx` they are all of it, whatever fn
is made of. Affine operations in a row count as one bias: that of a convolution and of the batch norm behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from jaxcam.errors import JaxcamError
from jaxcam.transforms.custom_derivatives import BACKWARD, has_its_own
from jaxcam.transforms.maxima import once
from jaxcam.transforms.precision import resolved
from jaxcam.transforms.primitives import describe, is_affine, keeps_zero
from jaxcam.transforms.walker import bind, bound, called, opened, trace, walk


class FullGradient(NamedTuple):
    """A result, taken apart.

    Attributes:
      value: `fn(x)`.
      inputs: `x df/dx`, in the structure of x.
      biases: `b df/db` of every bias, each in the shape of the value that it is added to, in the order of the program.
        These and `inputs` add up to the value.
    """

    value: jax.Array
    inputs: Any
    biases: tuple[jax.Array, ...]


def full_gradient(fn: Callable, *, precision: str | None = None) -> Callable[[Any], FullGradient]:
    """The function `x -> FullGradient` that takes the scalar `fn(x)` apart.

    Complete: `inputs` and `biases` add up to `fn(x)` on any program that has a derivative. Of maxima and ReLUs nothing
    is missing; of any other function of one number it is `y - x dy/dx`, of a product of two values `-y`, and of a loop
    or a branch what is missing to its result. It can be jitted, vmapped and differentiated.

    Args:
      fn: a pure function of one pytree of floating-point arrays, with a scalar result.
      precision: of products that name none: "highest", "tf32" or "bfloat16", see `transforms.at_precision`; what an
        outer one of these says, else the highest.

    Returns:
      `decompose(x) -> FullGradient`. Cost: one evaluation of fn and one backward pass, and a tangent of every function
      that is neither linear nor a maximum.

    Raises:
      JaxcamError: the result is not a scalar.

    References:
      Srinivas & Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019, eqs. 3 and 4;
      biases of functions that are not linear between kinks as in its section 3.2.
    """

    def decompose(x):
        closed, _ = trace(fn, x, precision=resolved(precision).products)
        if [v.aval.shape for v in closed.jaxpr.outvars] != [()]:
            raise JaxcamError("a full gradient is of a function with one scalar result; pick a class, or sum")
        leaves, tree = jax.tree.flatten(x)
        leaves = [jnp.asarray(leaf) for leaf in leaves]

        def go(leaves, probes):
            run = _Run(probes)
            (out,) = walk(closed, [_Value(leaf, run) for leaf in leaves], active=_Value, rule=_rule, as_one=has_its_own)
            # What no input changes nearby is a bias as a whole.
            value = out.complete if isinstance(out, _Value) else run.add(jnp.asarray(out), out)
            return value, run.biases

        shapes = jax.eval_shape(lambda leaves: go(leaves, None)[1], leaves)
        probes = [jnp.zeros(s.shape, s.dtype) for s in shapes]
        value, pull, biases = jax.vjp(go, leaves, probes, has_aux=True)
        slopes, effects = pull(jnp.ones_like(value))
        # What is 0 has no part, however steep the function is there.
        inputs = [leaf * jnp.where(leaf == 0, 0, slope) for leaf, slope in zip(leaves, slopes, strict=True)]
        # A mask of -inf has no effect, and 0 of the result.
        parts = tuple(jnp.where(e == 0, 0, jnp.real(b * e)) for b, e in zip(biases, effects, strict=True))
        return FullGradient(value, jax.tree.unflatten(tree, inputs), parts)

    return decompose


class _Run:
    """One walk: the biases met so far, and what is added to each to see its effect; None where only shapes count."""

    def __init__(self, probes: list[jax.Array] | None):
        self.probes = probes
        self.biases: list[jax.Array] = []

    def add(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        self.biases.append(jnp.broadcast_to(bias, x.shape).astype(x.dtype))
        return x if self.probes is None else x + self.probes[len(self.biases) - 1]


class _Value:
    """A value that depends on the input, and the bias in it that more affine operations may still change."""

    __slots__ = ("_complete", "bias", "run", "x")

    def __init__(self, x: jax.Array, run: _Run, bias: jax.Array | None = None):
        self.x, self.run, self.bias = x, run, bias
        self._complete: jax.Array | None = None

    @property
    def complete(self) -> jax.Array:
        """The value with its bias counted; once, whoever asks."""
        if self._complete is None:
            self._complete = self.x if self.bias is None else self.run.add(self.x, self.bias)
        return self._complete


def _rule(eqn: Any, ins: list) -> list:
    active = [isinstance(v, _Value) for v in ins]
    run = next(v.run for v in ins if isinstance(v, _Value))
    if describe(eqn).kind == "effect":
        return bind(eqn, [v.complete if isinstance(v, _Value) else v for v in ins])
    out = eqn.outvars[0].aval
    if sum(active) == 1 and describe(eqn).kind == "elementwise" and is_affine(eqn, active):
        (value,) = (v for v in ins if isinstance(v, _Value))
        if value._complete is None and value.x.shape == out.shape and jnp.issubdtype(out.dtype, jnp.floating):
            return [_affine(eqn, ins, active, value)]
    values = [v.complete if isinstance(v, _Value) else v for v in ins]
    values = once(values) if describe(eqn).kind == "maximum" else values
    results = bind(eqn, values)
    if not any(map(_is_number, results)):
        return results  # a predicate or an index: a constant nearby
    missing = [None] * len(results) if _homogeneous(eqn, active) else _missing(eqn, values, active, results)
    return [_Value(r, run, m) if _is_number(r) else r for r, m in zip(results, missing, strict=True)]


def _affine(eqn: Any, ins: list, active: list[bool], value: _Value) -> _Value:
    """Its bias goes through the operation, and what the operation adds joins it."""

    def of(x: jax.Array) -> jax.Array:
        return bind(eqn, [x if a else v for v, a in zip(ins, active, strict=True)])[0]

    bias = value.bias
    if bias is not None:  # its image, and what the operation adds
        bias = of(jnp.broadcast_to(bias, value.x.shape).astype(value.x.dtype))
    elif not keeps_zero(eqn, active):
        bias = of(jnp.zeros_like(value.x))
    return _Value(of(value.x), value.run, bias)


def _homogeneous(eqn: Any, active: list[bool]) -> bool:
    """Whether the result is `J x` of its active operands: linear in them, a maximum of them and 0, or their order."""
    known = describe(eqn)
    if known.kind in ("maximum", "order") or is_relu(eqn):
        return True
    return not known.stops and is_affine(eqn, active) and keeps_zero(eqn, active)


def is_relu(eqn: Any) -> bool:
    """Whether an equation is `max(x, 0)`, or calls nothing but that."""
    if called(eqn) is not None:
        inner = opened(called(eqn))[0].eqns
        return bool(inner) and all(is_relu(e) or describe(e).kind == "identity" for e in inner)
    return eqn.primitive.name == "max" and any(
        isinstance(v, jex.Literal) and np.ndim(v.val) == 0 and v.val == 0 for v in eqn.invars
    )


def _missing(eqn: Any, values: list, active: list[bool], results: list) -> list:
    """What each result has beside `J x`, x the active operands that are numbers."""
    at = [i for i, (v, a) in enumerate(zip(values, active, strict=True)) if a]
    of, moving = bound(eqn, values, at), [values[i] for i in at]
    # Where an operand is infinite, a result that is not has no slope: the bias is all of it.
    along = [jnp.where(jnp.isfinite(v), v, 0) if _is_number(v) else v for v in moving]
    if eqn.primitive.name in BACKWARD:  # it has no tangents: those of what it does backwards, which is linear
        _, pull = jax.vjp(of, moving)
        _, forward = jax.vjp(pull, [jnp.zeros_like(r) for r in results])
        (tangents,) = forward((along,))
    else:
        _, tangents = jax.jvp(of, (moving,), (along,))
    return [r - t if _is_number(r) else None for r, t in zip(results, tangents, strict=True)]


def _is_number(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)
