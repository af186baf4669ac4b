"""Predicates and counts that depend on the input, as the step functions they are.

Which case holds has no derivative, but it has a difference from the reference, and a multiplier can pass that on: the
rescale rule of a function with a jump. So `where(x > mean(x), x, 0)`, `where(any(x > 0), x / n, 0)` and an average over
those that exceed a threshold are complete, too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.deeplift.multipliers import change
from jaxcam.transforms.deeplift.pairs import Pair


def as_number(value: Any) -> Any:
    """A pair as a pair of real numbers, None where a predicate or an index has none; arrays as floats."""
    if not isinstance(value, Pair):
        value = jnp.asarray(value)
        return value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(jnp.result_type(float))
    if value.differentiable:
        return value
    return value.number() if value.number is not None else None


def stepped(found: Pair, cause: Pair) -> Pair:
    """A predicate or a count as a number that its cause answers for, element by element: the rescale rule."""
    dtype = cause.x.dtype
    x, r = found.x.astype(dtype), found.reference.astype(dtype)
    return Pair(_secant(x, r, jnp.broadcast_to(cause.x, x.shape), jnp.broadcast_to(cause.reference, x.shape)), r)


def compared(found: Pair, a: Any, b: Any) -> Pair:
    """A comparison of two numbers as a number: a step function of their difference."""
    return stepped(found, Pair(_x(a) - _x(b), _r(a) - _r(b)))


def choose(which: Pair, off: Any, on: Any) -> Pair | None:
    """`where(which, on, off)` whose predicate depends on the input: it changes first, at the reference.

    The values get what they bring where they are chosen, so that a guard of what is there, such as `sum(x) > 0`, takes
    nothing from it; the predicate answers for the jump from one case to the other at the reference alone. A predicate
    that is as it was answers for nothing.
    """
    number = as_number(which)
    if number is None:
        return None
    shape = jnp.broadcast_shapes(number.x.shape, *(jnp.shape(_x(v)) for v in (off, on)))
    dtype = jnp.result_type(_x(off), _x(on))
    parts = [_x(number), _x(off), _x(on), _r(number), _r(off), _r(on)]
    n, a, b, n_r, a_r, b_r = (jnp.broadcast_to(v, shape).astype(dtype) for v in parts)
    return Pair(_choice(n, a, b, n_r, a_r, b_r), jnp.where(n_r != 0, b_r, a_r))


@jax.custom_vjp
def _secant(y, y_ref, x, r):
    return y


def _secant_forward(y, y_ref, x, r):
    dx = change(x, r)
    return y, jnp.where(dx == 0, 0, (y - y_ref) / jnp.where(dx == 0, 1, dx))


def _secant_backward(slope, g):
    zero = jnp.zeros_like(g)
    return zero, zero, g * slope, zero


_secant.defvjp(_secant_forward, _secant_backward)


@jax.custom_vjp
def _choice(number, off, on, number_ref, off_ref, on_ref):
    return jnp.where(number != 0, on, off)


def _choice_forward(number, off, on, number_ref, off_ref, on_ref):
    changed = (number != 0) != (number_ref != 0)
    return jnp.where(number != 0, on, off), (number != 0, jnp.where(changed, on_ref - off_ref, 0))


def _choice_backward(saved, g):
    holds, jump = saved
    zero = jnp.zeros_like(g)
    return g * jump, jnp.where(holds, 0, g), jnp.where(holds, g, 0), zero, zero, zero


_choice.defvjp(_choice_forward, _choice_backward)


def _x(value: Any) -> Any:
    return value.x if isinstance(value, Pair) else value


def _r(value: Any) -> Any:
    return value.reference if isinstance(value, Pair) else value
