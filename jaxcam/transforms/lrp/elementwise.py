"""How relevance passes elementwise operations, and which of their results only weigh other values.

Relevance passes an activation function whole (Montavon et al., 2019, section 10.2). An expression in which one value
meets itself again position by position (SiLU, GELU, softplus) is the one function of it that it is. In a product of
two values, one that is a gate (a sigmoid), the weights of an attention (a softmax) or the inverse of a norm is held
fixed, and the other gets everything (Arras et al., 2017; Ali et al., 2022); two ordinary factors get half each
(Achtibat et al., 2024). A sum is shared in proportion to the summands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.lrp.layer_rules import Epsilon, stabilised
from jaxcam.transforms.lrp.values import Linear, Sinks, Value, common, plain, shell, tap, unbroadcast
from jaxcam.transforms.walker import UnsupportedPrimitive, bind

NAME = "lrp"

# f(0) = 0, so that relevance in proportion to the value passes whole; the logistic function by custom.
_ACTIVATIONS = frozenset(
    "tanh logistic max min clamp abs square integer_pow erf expm1 log1p sin tan asin atan sinh asinh atanh".split()
)
_OTHERS = frozenset(
    "exp exp2 log erfc erf_inv cos acos cosh acosh sqrt rsqrt cbrt pow sign floor ceil round atan2 rem nextafter "
    "is_finite eq ne lt le gt ge and or not xor lgamma digamma".split()
)
_AFFINE = frozenset("add sub add_any neg mul div".split())
ELEMENTWISE = _ACTIVATIONS | _OTHERS | _AFFINE | {"select_n", "convert_element_type"}
#: A product with one of these is a normalisation.
_NORMS = frozenset("sqrt rsqrt cbrt pow".split())


def refuse(eqn: Any, why: str) -> UnsupportedPrimitive:
    """The error for an operation that relevance cannot come back through."""
    return UnsupportedPrimitive(NAME, eqn, why)


def elementwise(eqn: Any, ins: list, sinks: Sinks, epsilon: float) -> Any:
    """The result of an elementwise equation, active or (if it only depends on predicates) not."""
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    (y,) = bind(eqn, plain(ins))
    active = list({id(v): v for v in ins if isinstance(v, Value)}.values())
    root = common(active, out.shape)
    lineage = root.chain if root is not None else ()
    if not jnp.issubdtype(out.dtype, jnp.floating):
        return Value(y, lineage=lineage)
    if not all(v.floating for v in active) and name == "convert_element_type":
        why = "a step function of the input"
        return Value(y, lineage=lineage, steady=True, refusal=refuse(eqn, why))
    repeated = sum(isinstance(v, Value) for v in ins) > len(active)
    if len(active) == 1 and active[0].floating and not repeated:
        return _of_one(eqn, ins, active[0], y, sinks, epsilon)

    refused = next((v.refusal for v in active if v.refusal is not None), None)
    if name in ("add", "sub", "add_any") and refused is None and all(v.floating for v in active):
        return _sum(eqn, ins, y, sinks, epsilon)
    if root is not None:  # one function of one value, however many operations it takes
        return _passed(root, y, sinks)
    if name == "select_n" and isinstance(ins[0], Value):  # which case holds is a constant nearby
        ins = [ins[0].plain, *ins[1:]]
        if not any(isinstance(v, Value) for v in ins):
            return y
        active = [v for v in ins if isinstance(v, Value)]
    if name in ("mul", "div") and len(ins) == 2:
        steady = [v.steady for v in ins]
        if name == "div" and _is_softmax(*ins):
            return Value(y, steady=True, refusal=refuse(eqn, "a softmax, other than as weights of a sum"))
        if steady == [False, True] or (name == "mul" and steady == [True, False]):
            ins = [v.plain if v.steady else v for v in ins]
            return elementwise(eqn, ins, sinks, epsilon)
    if refused is not None:
        return Value(y, refusal=refused, steady=all(v.steady for v in active))
    if name == "mul":
        return _halves(ins, y, sinks)
    if name in ("max", "min", "select_n"):
        return moved(eqn, ins, sinks)[0]
    return Value(y, refusal=refuse(eqn, "its operands depend on the input through different values"))


def _of_one(eqn: Any, ins: list, v: Value, y: Any, sinks: Sinks, epsilon: float) -> Value:
    """One operand is active; the others are constants."""
    name = eqn.primitive.name
    lineage = v.chain if v.plain.shape == y.shape else ()
    affine = name in _AFFINE and not (name == "div" and ins[0] is not v)
    if v.refusal is not None:
        mark = v.mark if name in ("convert_element_type", "select_n") else None
        return Value(y, lineage=lineage, refusal=v.refusal, steady=v.steady or name in _NORMS, mark=mark)
    if affine:
        return _affine(eqn, ins, v, y, sinks, epsilon)
    if name in ("select_n", "convert_element_type"):
        (result,) = moved(eqn, ins, sinks)
        result.lineage, result.steady = lineage, v.steady
        return result
    if name in _ACTIVATIONS and eqn.params.get("y", 1) > 0:
        result = _passed(v, y, sinks)
        result.lineage, result.steady = lineage, name == "logistic"
        return result
    why = "relevance has no published rule for it"
    mark = ("exponential", object()) if name == "exp" else None
    return Value(y, lineage=lineage, refusal=refuse(eqn, why), steady=v.steady or name in _NORMS, mark=mark)


def _affine(eqn: Any, ins: list, v: Value, y: Any, sinks: Sinks, epsilon: float) -> Value:
    """A constant factor or summand: part of the linear layer before it, or a layer of its own."""
    name, second = eqn.primitive.name, len(ins) == 2 and ins[1] is v
    other = None if len(ins) == 1 else jnp.asarray(ins[0] if second else ins[1])
    layer = v.linear
    if v.plain.shape != y.shape:
        layer = Linear(v, lambda x, _: jnp.broadcast_to(x, y.shape), None, Epsilon(epsilon))
    elif layer is None:
        layer = Linear(v, lambda x, _: x, None, Epsilon(epsilon))
    if name == "neg" or (name == "sub" and second):
        layer = layer.scaled(jnp.asarray(-1, y.dtype))
    if name == "mul":
        layer = layer.scaled(other)
    elif name == "div":
        assert other is not None
        layer = layer.scaled(1 / other)
    elif name != "neg":
        layer = layer.shifted(-other if name == "sub" and not second else other)  # type: ignore[operator]
    return Value(y, sinks, linear=layer, lineage=v.chain if v.plain.shape == y.shape else (), steady=v.steady)


def _passed(v: Value, y: Any, sinks: Sinks) -> Value:
    """All relevance of y is that of v."""
    shape = v.plain.shape
    carrier = shell(lambda _, r: (unbroadcast(r, shape), 0.0, 0.0), v.carrier, sinks, (), y)
    return Value(y, sinks, carrier, lineage=v.chain if shape == y.shape else ())


def _sum(eqn: Any, ins: list, y: Any, sinks: Sinks, epsilon: float) -> Value:
    """A sum of two active values: relevance in proportion to the summands (Bach et al., 2015, eq. 56)."""
    signs = (1, -1) if eqn.primitive.name == "sub" else (1, 1)

    def backward(residual, relevance):
        *parts, total = residual
        s = relevance / stabilised(total, epsilon)
        shares = tuple(unbroadcast(sign * part * s, part.shape) for sign, part in zip(signs, parts, strict=True))
        return shares, 0.0, jnp.sum(relevance - s * total)

    carriers = tuple(v.carrier for v in ins)
    root = common(ins, y.shape)
    return Value(
        y, sinks, shell(backward, carriers, sinks, (*plain(ins), y), y), lineage=() if root is None else root.chain
    )


def _halves(ins: list, y: Any, sinks: Sinks) -> Value:
    """A product of two ordinary values: half of the relevance to each."""
    shapes = [v.plain.shape for v in ins]
    carriers = tuple(v.carrier for v in ins)
    backward = lambda _, r: (tuple(unbroadcast(r / 2, shape) for shape in shapes), 0.0, 0.0)  # noqa: E731
    return Value(y, sinks, shell(backward, carriers, sinks, (), y))


def _is_softmax(e: Value, total: Value) -> bool:
    return e.mark is not None and total.mark is not None and total.mark == ("sum", e.mark[1])


def moved(eqn: Any, ins: Sequence[Any], sinks: Sinks) -> list[Value]:
    """An equation that moves or picks elements: relevance goes where each element came from.

    What comes from a constant operand is absorbed as by a bias.
    """
    at = [i for i, v in enumerate(ins) if isinstance(v, Value) and v.floating]
    values = plain(ins)
    constants = [i for i, v in enumerate(values) if i not in at and jnp.issubdtype(jnp.result_type(v), jnp.floating)]
    carriers = [ins[i].carrier for i in at] + [tap(values[i], sinks) for i in constants]
    places = at + constants

    def backward(residual, relevance):
        def run(moving):
            operands = list(residual)
            for i, v in zip(places, moving, strict=True):
                operands[i] = v
            return bind(eqn, operands)

        (back,) = jax.vjp(run, [residual[i] for i in places])[1](relevance)
        return back, 0.0, 0.0

    results = bind(eqn, values)
    outs = shell(backward, carriers, sinks, [jnp.asarray(v) for v in values], results)
    return [Value(result, sinks, carrier) for result, carrier in zip(results, outs, strict=True)]
