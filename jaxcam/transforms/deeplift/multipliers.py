"""The backward rules of DeepLIFT, each a `jax.custom_vjp` whose value is that of the operation itself.

Differentiating such a function once gives multipliers instead of derivatives; differentiating
again gives true derivatives of those multipliers, as the slopes are ordinary functions of the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.transforms.arithmetic import quotient
from jaxcam.transforms.maxima import once

#: Of a product: from how many times the size of the other order one is given up little by little, and altogether.
ORDERS = (4.0, 16.0)


def rescale(fn: Callable, x: jax.Array, r: jax.Array, consts: Any) -> jax.Array:
    """The rescale rule for an elementwise `fn(x, consts)`, whatever it is: jumps, kinks, infinite slopes.

    The multiplier is the secant slope `(f(x) - f(r)) / (x - r)`. Where the two points agree to within a few units of
    half the precision, it is the derivative midway between them, if that tells the difference of the values up to
    their rounding: a secant would be noise there. Where nothing changes it is the derivative, or 0 where that is not
    finite (`sqrt` at 0): then nothing is to be shared out. Two equal infinities do not differ. A reference that is NaN
    counts as 0 where the function makes a number of it (`nan_to_num`).

    References:
      Shrikumar et al., DeepLIFT, ICML 2017, eq. 13 and section 3.5.1.
    """

    @jax.custom_vjp
    def value(x, r, consts):
        return fn(x, consts)

    def forward(x, r, consts):
        y, y_r = fn(x, consts), fn(r, consts)
        r = jnp.where(jnp.isnan(r) & jnp.isfinite(y_r), 0, r)
        dx, dy, eps = change(x, r), change(y, y_r), float(jnp.finfo(x.dtype).eps)
        near = jnp.abs(dx) <= 4 * eps**0.5 * jnp.maximum(jnp.abs(x), jnp.abs(r))
        middle = (x + r) / 2
        # Elsewhere at 1/2, inside the domain of every function there is: an unused infinity would become NaN later.
        finite = jnp.isfinite(middle)
        middle = jnp.where(near & finite, middle, jnp.asarray(0.5, x.dtype))
        try:
            _, derivative = jax.jvp(lambda v: fn(v, consts), (middle,), (jnp.ones_like(x),))
        except NotImplementedError:  # a function that JAX has no derivative of
            derivative = jnp.zeros_like(x)
        derivative = jnp.where(finite & jnp.isfinite(derivative), derivative, jnp.zeros_like(derivative))
        # A function of several operations (GELU) is off by more units than one.
        size = jnp.maximum(jnp.abs(y), jnp.abs(y_r)) + jnp.abs(x * derivative)
        tells = jnp.abs(dy - derivative * dx) <= min(64 * eps, 1 / 16) * size
        smooth = near & tells | (dx == 0)
        return y, (quotient(dy, dx, ~smooth, derivative).astype(x.dtype), r, consts)

    def backward(saved, g):
        slope, r, consts = saved
        return through(g, slope), jnp.zeros_like(r), jax.tree.map(_no_cotangent, consts)

    value.defvjp(forward, backward)
    return value(x, r, consts)


def bilinear(fn: Callable, a: jax.Array, a_ref: jax.Array, b: jax.Array, b_ref: jax.Array) -> jax.Array:
    """The two-player Shapley rule for `fn(a, b)` linear in each operand: product, dot, convolution.

    `a b - a' b' = (a - a') (b + b') / 2 + (b - b') (a + a') / 2`: the derivative at the midpoint.
    """

    @jax.custom_vjp
    def value(a, a_ref, b, b_ref):
        return fn(a, b)

    def forward(a, a_ref, b, b_ref):
        return fn(a, b), ((a + a_ref) / 2, (b + b_ref) / 2)

    def backward(middle, g):
        to_a, to_b = jax.vjp(fn, *middle)[1](g)
        return to_a, jnp.zeros_like(to_a), to_b, jnp.zeros_like(to_b)

    value.defvjp(forward, backward)
    return value(a, a_ref, b, b_ref)


def multiply(a: jax.Array, a_ref: jax.Array, b: jax.Array, b_ref: jax.Array) -> jax.Array:
    """The product, element by element: the two-player Shapley rule, unless its two halves would cancel each other.

    With b changing first, a is given `(a - a') b` and b `a' (b - b')`; with a first, `(a - a') b'` and `a (b - b')`.
    Either adds up to the difference of the products, and so does the mean of both, which is `bilinear`. Where all
    activations are zero the factor `b'` of a norm is a hundred to a million times `b`, by its epsilon alone, and the
    second order would give large numbers that cancel, of which a map shows nothing but the norm: where one order is
    larger than the other, `ORDERS` times, the smaller one takes over, alone from the second number on. What goes
    through a norm is then what is there times its scale, as in LRP (Ali et al., 2022), and still adds up.
    """

    @jax.custom_vjp
    def value(a, a_ref, b, b_ref):
        return a * b

    def forward(a, a_ref, b, b_ref):
        da, db = change(a, a_ref), change(b, b_ref)
        b_first = _size(da, b) + _size(a_ref, db)
        a_first = _size(da, b_ref) + _size(a, db)
        idle = (b_first == 0) & (a_first == 0)  # nothing to share out: the smaller multipliers
        share = part_of_the_second(
            jnp.where(idle, jnp.abs(b) + jnp.abs(a_ref), b_first), jnp.where(idle, jnp.abs(b_ref) + jnp.abs(a), a_first)
        )
        return a * b, (_mixed(b, b_ref, share), _mixed(a_ref, a, share))

    def backward(saved, g):
        to_a, to_b = saved
        return through(g, to_a), jnp.zeros_like(to_a), through(g, to_b), jnp.zeros_like(to_b)

    value.defvjp(forward, backward)
    shape = jnp.broadcast_shapes(a.shape, b.shape)
    return value(*(jnp.broadcast_to(v, shape) for v in (a, a_ref, b, b_ref)))


def _size(a: jax.Array, b: jax.Array) -> jax.Array:
    """`|a b|`, where nothing of what has no bounds is nothing; beyond all bounds where it is not a number."""
    none = (a == 0) | (b == 0)
    size = jnp.abs(jnp.where(none, 0, a) * jnp.where(none, 0, b))
    return jnp.where(jnp.isnan(size), jnp.inf, size)


def _mixed(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """A share of the second, the rest of the first; of one that has no share nothing, whatever it is."""
    return (1 - share) * jnp.where(share == 1, 0, first) + share * jnp.where(share == 0, 0, second)


def through(g: jax.Array, multiplier: jax.Array) -> jax.Array:
    """What comes back through a multiplier: nothing where nothing comes, as from a case that is not chosen."""
    return g * jnp.where(g == 0, 0, multiplier)


def part_of_the_second(first: jax.Array, second: jax.Array) -> jax.Array:
    """How much of the second order, of two of those sizes, is taken: 1/2 of each, or more of the smaller one."""
    larger, smaller = jnp.maximum(first, second), jnp.minimum(first, second)
    low, high = ORDERS
    between = (larger > low * smaller) & (larger < high * smaller)
    times = quotient(larger, smaller, between, low)
    gone = jnp.where((larger >= high * smaller) & (larger > 0), 1, jnp.log(times / low) / math.log(high / low))
    return jnp.where(second > first, 1 - gone, 1 + gone) / 2


def change(x: jax.Array, r: jax.Array) -> jax.Array:
    """`x - r`, 0 for equal infinities."""
    return jnp.where(x == r, jnp.zeros_like(x), x - r)


def select_maximum(fn: Callable, x: Any, r: Any) -> jax.Array:
    """The rule for `fn(x)` that picks maxima of its operands (pooling, `reduce_max`, binary `max`).

    Where the maximum rose, `y - y'` goes to the position that holds it; where it fell, to the
    position that held it at the reference. Both multipliers lie in [0, 1]. Where the maximum is unchanged
    nothing is shared out. With a zero reference and activations >= 0 this is the plain
    max-pooling gradient.

    Args:
      fn: picks among the leaves of its one argument.
      x, r: pytrees of operands and of their references.
    """

    @jax.custom_vjp
    def value(x, r):
        return fn(x)

    def forward(x, r):
        x, r = once((x, r))
        return fn(x), (x, r)

    def backward(saved, g):
        x, r = once(saved)
        dx = jax.tree.map(change, x, r)
        y, rise = jax.jvp(fn, (x,), (dx,))
        y_ref, fall = jax.jvp(fn, (r,), (dx,))
        up, down = y > y_ref, y < y_ref
        # Unchanged: nothing to share out, unless the holder stands still too and its derivative is the limit.
        unchanged = jnp.where(down | (rise != 0), 0, 1)
        # The holder rose by as much at least, but for rounding where an element is a sum (`select_in_order`).
        grown, shrunk = up & (rise > 0), down & (fall < 0)
        to_top = jnp.where(up, jnp.minimum(quotient(y - y_ref, rise, grown), 1), unchanged)
        to_old = jnp.minimum(quotient(y - y_ref, fall, shrunk), 1)
        (from_top,) = jax.vjp(fn, x)[1](g * to_top.astype(g.dtype))
        (from_old,) = jax.vjp(fn, r)[1](g * to_old.astype(g.dtype))
        return jax.tree.map(jnp.add, from_top, from_old), jax.tree.map(jnp.zeros_like, r)

    value.defvjp(forward, backward)
    return value(x, r)


def select_in_order(fn: Callable, axis: int, x: jax.Array, r: jax.Array) -> jax.Array:
    """The rule for `fn(x)` that gives the elements along an axis by size, the greatest first: all, or a few of them.

    The sum of the first j is the maximum of the sums of any j elements, and is shared out as one (`select_maximum`):
    where it rose, among those that are the greatest j, where it fell among those that were. An element of the result
    is the difference of two such sums. With a zero reference this is the plain gradient.
    """
    sums = select_maximum(lambda v: jnp.cumsum(fn(v), axis), x, r)
    first = jax.lax.slice_in_dim(sums, 0, 1, axis=axis)
    found, exact = jnp.concatenate([first, jnp.diff(sums, axis=axis)], axis), jax.lax.stop_gradient(fn(x))
    finite = jnp.isfinite(found) & jnp.isfinite(exact)
    return jnp.where(finite, found + jax.lax.stop_gradient(jnp.where(finite, exact - found, 0)), exact)  # sums round


def _no_cotangent(value: Any) -> Any:
    """The zero cotangent of a constant, of whatever type."""
    value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, jax.dtypes.float0)
