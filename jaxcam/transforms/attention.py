"""The attention weights inside a traced program, softmaxes over as many values as there are rows, and their slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from jaxcam.transforms.custom_derivatives import has_its_own
from jaxcam.transforms.precision import resolved
from jaxcam.transforms.primitives import describe
from jaxcam.transforms.walker import UnsupportedPrimitive, bind, trace, walk


def attention_weights(fn: Callable) -> Callable[[Any], tuple[jax.Array, ...]]:
    """The function `x -> weights` of every attention inside `fn(x)`: see `with_attention_weights`."""
    return lambda x: with_attention_weights(fn)(x)[1]


def with_attention_weights(fn: Callable) -> Callable[[Any], tuple[Any, tuple[jax.Array, ...]]]:
    """The function `x -> (fn(x), weights)`, the weights of every attention inside it, in the order of the program.

    Weights are what a softmax over the last axis makes `(..., n, n)`, n at least 2, wherever it stands: whichever
    library wrote it, `exp(s) / sum exp(s)` is a softmax. A fused kernel, which has none in its program, shows nothing.

    Args:
      fn: a pure function of one pytree of arrays.

    Raises:
      UnsupportedPrimitive: an attention lies in a loop or a branch, whose values a program does not show.
    """

    def weights(x):
        closed, tree = trace(fn, x)
        found: list[jax.Array] = []

        def rule(eqn: Any, ins: list) -> list:
            results = bind(eqn, [v.x if isinstance(v, _Value) else v for v in ins])
            mark = _mark(eqn, ins)
            if mark == "softmax" and _is_square(results[0]):
                found.append(results[0])
            if describe(eqn).kind == "control" and _holds_exponential(eqn):
                raise UnsupportedPrimitive("attention_weights", eqn, "the attentions in it do not come out")
            return [_Value(r, mark) for r in results]

        outs = walk(closed, [_Value(jnp.asarray(leaf)) for leaf in jax.tree.leaves(x)], active=_Value, rule=rule)
        return jax.tree.unflatten(tree, [o.x if isinstance(o, _Value) else o for o in outs]), tuple(found)

    return weights


def attention_slopes(fn: Callable) -> Callable[[Any], tuple[jax.Array, tuple[jax.Array, ...]]]:
    """The function `x -> (fn(x), slopes)`: the derivative of a scalar by every attention's weights `(..., n, n)`.

    Weights are found as by `attention_weights`, and its errors are those here; what comes before an attention does not
    change with its weights, what comes behind does.
    """

    def slopes(x):
        shapes = jax.eval_shape(attention_weights(fn), x)

        def moved(by: list) -> jax.Array:
            closed, tree = trace(fn, x, precision=resolved(None).products)
            left = iter(by)

            def rule(eqn: Any, ins: list) -> list:
                results = bind(eqn, [v.x if isinstance(v, _Value) else v for v in ins])
                mark = _mark(eqn, ins)
                if mark == "softmax" and _is_square(results[0]):
                    results = [results[0] + next(left)]
                return [_Value(r, mark) for r in results]

            values = [_Value(jnp.asarray(leaf)) for leaf in jax.tree.leaves(x)]
            outs = walk(closed, values, active=_Value, rule=rule, as_one=_keeps_its_derivative)
            return jax.tree.unflatten(tree, [o.x if isinstance(o, _Value) else o for o in outs])

        value, found = jax.value_and_grad(moved)([jnp.zeros(s.shape, s.dtype) for s in shapes])
        return value, tuple(found)

    return slopes


class _Value:
    """A value that depends on the input; and of exponentials and their sums over the last axis, which they are of."""

    __slots__ = ("mark", "x")

    def __init__(self, x: Any, mark: Any = None):
        self.x, self.mark = x, mark


def _mark(eqn: Any, ins: list) -> Any:
    name, first = eqn.primitive.name, ins[0] if ins else None
    if name == "exp":
        return ("exp", object())
    if not isinstance(first, _Value) or first.mark is None:
        return None
    mark = first.mark
    if name == "reduce_sum" and mark[0] == "exp" and tuple(eqn.params["axes"]) == (first.x.ndim - 1,):
        return ("sum", mark[1])
    if name == "div" and mark[0] == "exp" and isinstance(ins[1], _Value) and ins[1].mark == ("sum", mark[1]):
        return "softmax"
    if describe(eqn).kind in ("moves", "identity") or name == "convert_element_type":
        return mark if mark[0] == "sum" else None
    return None


def _is_square(x: jax.Array) -> bool:
    return x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1


def _keeps_its_derivative(eqn: Any) -> bool:
    """Of calls with derivatives of their own, those that hide no softmax."""
    return has_its_own(eqn) and not _holds_exponential(eqn)


def _holds_exponential(eqn: Any) -> bool:
    inside = (e for jaxpr in jex.jaxprs_in_params(eqn.params) for e in jaxpr.eqns)
    return any(e.primitive.name == "exp" or _holds_exponential(e) for e in inside)
