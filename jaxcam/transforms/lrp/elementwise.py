"""How relevance passes elementwise operations, and which of their results only weigh other values.

Relevance passes an activation function whole (Montavon et al., 2019, section 10.2). An expression in which one value
meets itself again position by position (SiLU, GELU, softplus) is the one function of it that it is. In a product of
two values, one that is a gate (a sigmoid), the weights of an attention (a softmax) or the inverse of a norm is held
fixed, and the other gets everything (Arras et al., 2017; Ali et al., 2022); two ordinary factors get half each
(Achtibat et al., 2024). A sum is shared in proportion to the summands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.lrp.layer_rules import Epsilon, stabilised
from jaxcam.transforms.lrp.values import Linear, Value, absorbed, common, plain, propagate, run_of, unbroadcast
from jaxcam.transforms.maxima import once
from jaxcam.transforms.primitives import describe
from jaxcam.transforms.walker import UnsupportedPrimitive, bind, bound

NAME = "lrp"

#: A product with one of these is a gate.
_GATES = frozenset({"logistic"})
#: A product with one of these is a normalisation.
_NORMS = frozenset({"sqrt", "rsqrt", "cbrt", "pow"})
#: Their quotient by the sum of themselves is a softmax.
_EXPONENTIALS = frozenset({"exp"})
_NOT_ZERO = "it is not 0 at 0, so that relevance in proportion to its value has nowhere to go"
_STEPS = "a step function of the input"
COMPLEX = "relevance of complex numbers is not defined"
#: Why relevance has no way back through a function of one value, by name.
REFUSED = (
    dict.fromkeys(
        "exp exp2 log log2 erfc cos acos cosh acosh lgamma digamma one_minus_square polynomial".split(), _NOT_ZERO
    )
    | dict.fromkeys("sign floor ceil round nextafter".split(), _STEPS)
    | dict.fromkeys(_NORMS, "relevance has no published rule for it, other than as a norm that weighs a product")
)
_UNPUBLISHED = "relevance has no published rule for it"


def refuse(eqn: Any, why: str) -> UnsupportedPrimitive:
    """The error for an operation that relevance cannot come back through."""
    return UnsupportedPrimitive(NAME, eqn, why)


def elementwise(eqn: Any, ins: list) -> list:
    """The rule of elementwise operations; what only depends on predicates is a constant."""
    return [_elementwise(eqn, ins)]


def activation(eqn: Any, ins: list) -> list:
    """The rule of a function of one value, position by position, that all relevance passes."""
    (v,) = [v for v in ins if isinstance(v, Value)]
    (y,) = bind(eqn, plain(ins))
    return [_passed(v, y) if v.refusal is None else Value(y, v.run, refusal=v.refusal)]


def _elementwise(eqn: Any, ins: list) -> Any:
    run = run_of(ins)
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    (y,) = bind(eqn, plain(ins))
    active = list({id(v): v for v in ins if isinstance(v, Value)}.values())
    root = common(active, out.shape)
    lineage = root.chain if root is not None else ()
    if jnp.issubdtype(out.dtype, jnp.complexfloating):
        raise refuse(eqn, COMPLEX)
    if not jnp.issubdtype(out.dtype, jnp.floating):
        return Value(y, run, lineage=lineage)
    if not all(v.floating for v in active) and name == "convert_element_type":
        return Value(y, run, lineage=lineage, weighs=True, refusal=refuse(eqn, _STEPS))
    repeated = sum(isinstance(v, Value) for v in ins) > len(active)
    if len(active) == 1 and active[0].floating and not repeated:
        return _of_one(eqn, ins, active[0], y)

    refused = next((v.refusal for v in active if v.refusal is not None), None)
    if name in _SUMS and refused is None and all(v.floating for v in active):
        result = _sum(eqn, ins, y)
        if name == "sub" and ins[1].mark is not None and ins[1].mark[0] == "maximum" and ins[1].mark[1] is ins[0]:
            result.mark = ("less its maximum", ins[0])
        return result
    if root is not None:  # one function of one value, however many operations it takes
        return _passed(root, y)
    if name == "select_n" and isinstance(ins[0], Value):  # which case holds is a constant nearby
        ins = [ins[0].plain, *ins[1:]]
        if not any(isinstance(v, Value) for v in ins):
            return y
        active = [v for v in ins if isinstance(v, Value)]
    if name in ("mul", "div") and len(ins) == 2:
        weighs = [v.weighs for v in ins]
        if name == "div" and _is_softmax(*ins):
            source, axes = ins[0].mark[2], ins[1].mark[2]
            if run.through_softmax and source.refusal is None and source.plain.shape == y.shape:
                return _softmax(source, axes, y)
            return Value(y, run, weighs=True, refusal=refuse(eqn, "a softmax, other than as weights of a sum"))
        if weighs == [False, True] or (name == "mul" and weighs == [True, False]):
            return _elementwise(eqn, [v.plain if v.weighs else v for v in ins])
    if refused is not None:
        return Value(y, run, refusal=refused, weighs=all(v.weighs for v in active))
    if name == "mul":
        return _halves(ins, y)
    if name in ("max", "min", "select_n"):
        return moved(eqn, ins)[0]
    return Value(y, run, refusal=refuse(eqn, "its operands depend on the input through different values"))


def _of_one(eqn: Any, ins: list, v: Value, y: Any) -> Value:
    """One operand is active; the others are constants."""
    name = eqn.primitive.name
    lineage = v.chain if v.plain.shape == y.shape else ()
    if v.refusal is not None:
        mark = v.mark if name in ("convert_element_type", "select_n") else None
        return Value(y, v.run, lineage=lineage, refusal=v.refusal, weighs=v.weighs or name in _NORMS, mark=mark)
    if name in _AFFINE and not (name == "div" and ins[0] is not v):
        return _affine(eqn, ins, v, y)
    if name in ("select_n", "convert_element_type"):
        (result,) = moved(eqn, ins)
        result.lineage, result.weighs = lineage, v.weighs
        return result
    if describe(eqn).passes and eqn.params.get("y", 1) > 0:
        result = _passed(v, y)
        result.lineage, result.weighs = lineage, name in _GATES
        return result
    mark = None
    if name in _EXPONENTIALS:
        source = v.mark[1] if v.mark is not None and v.mark[0] == "less its maximum" else v
        mark = ("exponential", object(), source)
    why = REFUSED.get(name, _UNPUBLISHED)
    return Value(y, v.run, lineage=lineage, refusal=refuse(eqn, why), weighs=v.weighs or name in _NORMS, mark=mark)


#: `(layer, the constant, whether the constant comes first) -> layer`: affine operations with one active operand.
_AFFINE: dict[str, Callable[[Linear, Any, bool], Linear]] = {
    "neg": lambda layer, by, first: layer.scaled(-1.0),
    "mul": lambda layer, by, first: layer.scaled(by),
    "div": lambda layer, by, first: layer.scaled(1 / by),
    "add": lambda layer, by, first: layer.shifted(by),
    "add_any": lambda layer, by, first: layer.shifted(by),
    "sub": lambda layer, by, first: layer.scaled(-1.0).shifted(by) if first else layer.shifted(-by),
}
#: `+ 1` or `- 1` for each of two active summands.
_SUMS = {"add": (1, 1), "add_any": (1, 1), "sub": (1, -1)}


def _affine(eqn: Any, ins: list, v: Value, y: Any) -> Value:
    """A constant factor or summand: part of the linear layer before it, or a layer of its own."""
    first = len(ins) == 2 and ins[1] is v
    other = None if len(ins) == 1 else jnp.asarray(ins[0] if first else ins[1])
    layer, shape = v.linear, y.shape
    if v.plain.shape != shape:
        layer = Linear(v, lambda x, _: jnp.broadcast_to(x, shape), None, Epsilon(v.run.epsilon))
    elif layer is None:
        layer = Linear(v, lambda x, _: x, None, Epsilon(v.run.epsilon))
    layer = _AFFINE[eqn.primitive.name](layer, other, first)
    return Value(y, v.run, linear=layer, lineage=v.chain if v.plain.shape == y.shape else (), weighs=v.weighs)


def _passed(v: Value, y: Any) -> Value:
    """All relevance of y is that of v."""
    shape = v.plain.shape
    carrier = propagate(lambda _, r: (unbroadcast(r, shape), 0.0, 0.0), v.carrier, v.run.sinks, (), y)
    return Value(y, v.run, carrier, lineage=v.chain if shape == y.shape else ())


def _sum(eqn: Any, ins: list, y: Any) -> Value:
    """A sum of two active values: relevance in proportion to the summands (Bach et al., 2015, eq. 56)."""
    run, signs = run_of(ins), _SUMS[eqn.primitive.name]
    epsilon = run.epsilon

    def backward(residual, relevance):
        *parts, total = residual
        s = relevance / stabilised(total, epsilon)
        shares = tuple(unbroadcast(sign * part * s, part.shape) for sign, part in zip(signs, parts, strict=True))
        return shares, 0.0, jnp.sum(relevance - s * total)

    carriers = tuple(v.carrier for v in ins)
    root = common(ins, y.shape)
    carrier = propagate(backward, carriers, run.sinks, (*plain(ins), y), y)
    return Value(y, run, carrier, lineage=() if root is None else root.chain)


def _halves(ins: list, y: Any) -> Value:
    """A product of two ordinary values: half of the relevance to each."""
    run, shapes = run_of(ins), [v.plain.shape for v in ins]
    carriers = tuple(v.carrier for v in ins)
    backward = lambda _, r: (tuple(unbroadcast(r / 2, shape) for shape in shapes), 0.0, 0.0)  # noqa: E731
    return Value(y, run, propagate(backward, carriers, run.sinks, (), y))


def _is_softmax(e: Value, total: Value) -> bool:
    return e.mark is not None and total.mark is not None and total.mark[:2] == ("sum", e.mark[1])


def _softmax(x: Value, axes: tuple[int, ...], y: Any) -> Value:
    """`R_i = x_i (R_i - y_i sum_j R_j)`: the first order of a Taylor series (Achtibat et al., 2024, eq. 13)."""

    def backward(residual, relevance):
        x, y = residual
        back = x * (relevance - y * jnp.sum(relevance, axes, keepdims=True))
        return back, jnp.sum(relevance) - jnp.sum(back), 0.0

    return Value(y, x.run, propagate(backward, x.carrier, x.run.sinks, (x.plain, y), y))


def moved(eqn: Any, ins: Sequence[Any]) -> list[Value]:
    """An equation that moves or picks elements: relevance goes where each element came from.

    What comes from a constant operand is absorbed as by a bias.
    """
    run = run_of(ins)
    at = [i for i, v in enumerate(ins) if isinstance(v, Value) and v.floating]
    values = plain(ins)
    constants = [i for i, v in enumerate(values) if i not in at and jnp.issubdtype(jnp.result_type(v), jnp.floating)]
    carriers = [ins[i].carrier for i in at] + [absorbed(values[i], run.sinks) for i in constants]
    places = at + constants

    def backward(residual, relevance):
        residual = once(residual) if describe(eqn).kind == "maximum" else residual
        (back,) = jax.vjp(bound(eqn, residual, places), [residual[i] for i in places])[1](relevance)
        return back, 0.0, 0.0

    results = bind(eqn, values)
    outs = propagate(backward, carriers, run.sinks, [jnp.asarray(v) for v in values], results)
    return [Value(result, run, carrier) for result, carrier in zip(results, outs, strict=True)]
