"""Predicates and counts that depend on the input, as the step functions they are.

Which case holds has no derivative, but it has a difference from the reference, and a multiplier can pass that on: the
rescale rule of a function with a jump. So `where(x > mean(x), x, 0)`, `where(any(x > 0), x / n, 0)` and an average over
those that exceed a threshold are complete, too.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.arithmetic import quotient
from jaxcam.transforms.deeplift.multipliers import change, part_of_the_second, through
from jaxcam.transforms.deeplift.pairs import Pair, at_input, at_reference

#: How far beyond what it hides a mask's fill is brought: exp makes 0 of that, also of a sixteenth of it.
REACH = 128.0
_brought: contextvars.ContextVar[list | None] = contextvars.ContextVar("brought", default=None)


@contextlib.contextmanager
def noting_fills() -> Iterator[list]:
    """The fills that were brought within reach (`choose`) meanwhile: with any, values may be others."""
    found: list = []
    token = _brought.set(found)
    try:
        yield found
    finally:
        _brought.reset(token)


def as_number(operand: Any) -> Any:
    """A pair as a pair of real numbers, None where a predicate or an index has none; arrays as floats."""
    if not isinstance(operand, Pair):
        array = jnp.asarray(operand)
        return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(jnp.float32)
    if operand.differentiable:
        return operand
    return operand.number() if operand.number is not None else None


def as_numbers(values: Sequence[Any]) -> list | None:
    """Operands as numbers of one type; None where one of them is none, or there are none."""
    numbers = [as_number(v) for v in values]
    if not numbers or any(v is None for v in numbers):
        return None
    dtype = max((at_input(v).dtype for v in numbers), key=lambda d: jnp.finfo(d).bits)
    return [
        Pair(v.x.astype(dtype), v.reference.astype(dtype)) if isinstance(v, Pair) else v.astype(dtype) for v in numbers
    ]


def stepped(found: Pair, cause: Pair) -> Pair:
    """A predicate or a count as a number that its cause answers for, element by element: the rescale rule.

    In float32 at least, which holds counts up to 16 million.
    """
    dtype = max(cause.x.dtype, jnp.dtype(jnp.float32), key=lambda d: jnp.finfo(d).bits)
    x, r = found.x.astype(dtype), found.reference.astype(dtype)
    return Pair(_secant(x, r, jnp.broadcast_to(cause.x, x.shape), jnp.broadcast_to(cause.reference, x.shape)), r)


def compared(found: Pair, a: Any, b: Any) -> Pair:
    """A comparison of two numbers as a number: a step function of their difference."""
    return stepped(found, Pair(_difference(at_input(a), at_input(b)), _difference(at_reference(a), at_reference(b))))


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a - b`, whose derivative is its own where they are equal; 0 for equal infinities."""
    both = (a == b) & ~jnp.isfinite(a)
    return jnp.where(both, 0, a - jnp.where(both, 0, b))


def apart(found: Pair, axis: int) -> list[Pair]:
    """Several predicates along an axis, each by itself."""
    number = as_number(found)
    assert number is not None

    def at(pair: Pair, i: int) -> Pair:
        x, r = (jax.lax.index_in_dim(v, i, axis, keepdims=False) for v in (pair.x, pair.reference))
        return Pair(x, r)

    return [at(found, i).numbered(functools.partial(at, number, i)) for i in range(found.x.shape[axis])]


def choose(which: Pair, off: Any, on: Any) -> Pair | None:
    """`where(which, on, off)` whose predicate depends on the input: it changes first, at the reference.

    The values get what they bring where they are chosen, so that a guard of what is there, such as `sum(x) > 0`, takes
    nothing from it; the predicate answers for the jump from one case to the other at the reference alone. A predicate
    that is as it was answers for nothing. Where the numbers of that order are larger than those of the other one, in
    which the values change first, and would cancel, the other takes over little by little, as in `multiply`. What is
    chosen neither at the input nor at the reference counts for nothing, whatever it is there; what is chosen at the
    input and has no value at the reference (`x / |x|`) counts as 0 there.

    A constant that hides something by its size, as a mask's -inf, `finfo.min` or -1e9, is brought to within `REACH` of
    what it hides: a softmax or a maximum makes the same of it, and of differences of 1e38 nothing would be left.
    """
    number = as_number(which)
    if number is None:
        return None
    holds, held = which.x != 0, which.reference != 0
    off_x, on_x, off_r, on_r = at_input(off), at_input(on), at_reference(off), at_reference(on)
    shape = jnp.broadcast_shapes(holds.shape, jnp.shape(off_x), jnp.shape(on_x))
    found = Pair(jnp.where(holds, on_x, off_x), jnp.where(held, on_r, off_r))
    if not found.differentiable:
        numbers = as_numbers((off, on))
        return found if numbers is None else found.numbered(lambda: choose(which, *numbers))
    dtype = found.x.dtype
    if isinstance(on, Pair) and not isinstance(off, Pair):
        off_x = off_r = _within_reach(off_x, on)
    elif isinstance(off, Pair) and not isinstance(on, Pair):
        on_x = on_r = _within_reach(on_x, off)
    parts = [number.x, off_x, on_x, number.reference, off_r, on_r]
    n, a, b, n_r, a_r, b_r = (jnp.broadcast_to(v, shape).astype(dtype) for v in parts)
    return Pair(_choice(n, a, b, n_r, a_r, b_r), jnp.where(held, b_r, a_r))


def _within_reach(fill: Any, hidden: Pair) -> jax.Array:
    """A constant as it is, but where it is further away from what it is an alternative to than numbers go."""
    both = jax.lax.stop_gradient(jnp.stack([hidden.x, hidden.reference]))
    finite = jnp.isfinite(both)
    low, high = jnp.min(both, initial=0, where=finite), jnp.max(both, initial=0, where=finite)
    far = jnp.asarray(REACH, both.dtype)
    if (noted := _brought.get()) is not None:
        noted.append(fill)
    fill = jnp.asarray(fill)
    low, high, far = (v.astype(fill.dtype) for v in (low, high, far))
    return jnp.where(fill < low - 4 * far, low - far, jnp.where(fill > high + 4 * far, high + far, fill))


@jax.custom_vjp
def _secant(y, y_ref, x, r):
    return y


def _secant_forward(y, y_ref, x, r):
    dx = change(x, r)
    return y, (y, quotient(change(y, y_ref).astype(x.dtype), dx))


def _secant_backward(saved, g):
    y, slope = saved
    zero = jnp.zeros_like(y)
    return zero, zero, through(g.astype(slope.dtype), slope), jnp.zeros_like(slope)


_secant.defvjp(_secant_forward, _secant_backward)


@jax.custom_vjp
def _choice(number, off, on, number_ref, off_ref, on_ref):
    return jnp.where(number != 0, on, off)


def _choice_forward(number, off, on, number_ref, off_ref, on_ref):
    holds, held = number != 0, number_ref != 0
    changed = holds != held
    on_ref = jnp.where(held | jnp.isfinite(on_ref), on_ref, 0)
    off_ref = jnp.where(~held | jnp.isfinite(off_ref), off_ref, 0)
    jump, jump_ref = change(on, off), change(on_ref, off_ref)
    first = jnp.abs(jump_ref) + jnp.abs(jnp.where(holds, change(on, on_ref), change(off, off_ref)))
    last = jnp.abs(jump) + jnp.abs(jnp.where(held, change(on, on_ref), change(off, off_ref)))
    last = jnp.where(jnp.isfinite(last), last, jnp.inf)
    late = jnp.where(changed, jnp.maximum(2 * part_of_the_second(first, last) - 1, 0), 0)
    to_number = (1 - late) * jump_ref + late * jnp.where(late == 0, 0, jump)
    to_on = jnp.where(holds, 1 - late, late)
    return jnp.where(holds, on, off), (jnp.where(changed, to_number, 0), to_on)


def _choice_backward(saved, g):
    to_number, to_on = saved
    zero = jnp.zeros_like(g)
    return through(g, to_number), g * (1 - to_on), g * to_on, zero, zero, zero


_choice.defvjp(_choice_forward, _choice_backward)
