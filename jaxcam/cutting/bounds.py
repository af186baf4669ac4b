"""Between which numbers the outputs of a program lie, whatever goes in: what its last operations say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex

from jaxcam.transforms.walker import called, opened


class Bounds(NamedTuple):
    """The least and the greatest value that there can be."""

    low: float = -math.inf
    high: float = math.inf

    def within(self, low: float, high: float) -> bool:
        """Whether nothing lies outside of these."""
        return low <= self.low and self.high <= high


_ANY = Bounds()


def bounds(program: Any, inputs: Sequence[Bounds] | None = None) -> list[Bounds]:
    """The bounds of each output of a program, by interval arithmetic; what cannot be told is unbounded.

    A share of a sum of what is not negative, as a softmax is, lies between 0 and 1.
    """
    jaxpr, consts = opened(program)
    known: dict[Any, Bounds] = dict(zip(jaxpr.invars, inputs or [_ANY] * len(jaxpr.invars), strict=True))
    known.update((v, _of(value)) for v, value in zip(jaxpr.constvars, consts, strict=False))
    moved: dict[Any, Any] = {}  # of a value whose numbers are another's: that one
    sums: dict[Any, Any] = {}  # of a value that is a sum of another's numbers: that one

    def read(atom):
        return _of(atom.val) if isinstance(atom, jex.Literal) else known.get(atom, _ANY)

    def source(atom):
        return None if isinstance(atom, jex.Literal) else moved.get(atom, atom)

    for eqn in jaxpr.eqns:
        name, operands, held = eqn.primitive.name, [read(v) for v in eqn.invars], called(eqn)
        if held is not None:
            found = bounds(held, operands) if len(opened(held)[0].invars) == len(operands) else []
            known.update(zip(eqn.outvars, found, strict=False))
        elif name in _MOVES:
            known[eqn.outvars[0]] = operands[0]
            moved[eqn.outvars[0]] = source(eqn.invars[0])
        elif name in _PICKS:
            known.update(dict.fromkeys(eqn.outvars, operands[0]))
        elif name == "reduce_sum":
            out: Any = eqn.outvars[0]
            before: Any = eqn.invars[0]
            n = math.prod(before.aval.shape) // max(1, math.prod(out.aval.shape))
            known[out] = _product(Bounds(n, n), operands[0])
            sums[out] = source(before)
        elif name == "div" and operands[0].low >= 0 and source(eqn.invars[0]) is sums.get(source(eqn.invars[1]), eqn):
            known[eqn.outvars[0]] = Bounds(0, 1)
        elif name in _RULES:
            known[eqn.outvars[0]] = _RULES[name](*operands)
    return [read(v) for v in jaxpr.outvars]


def _of(value: Any) -> Bounds:
    """Of a number, itself; of arrays nothing, as their values may not be there yet."""
    number = not isinstance(value, jax.Array) and np.size(value) == 1 and np.isrealobj(value)
    return Bounds(float(np.min(value)), float(np.max(value))) if number else _ANY


def _hull(*operands: Bounds) -> Bounds:
    return Bounds(min(b.low for b in operands), max(b.high for b in operands))


def _product(a: Bounds, b: Bounds) -> Bounds:
    if _ANY in (a, b):
        return _ANY
    ends = [x * y if x and y else 0.0 for x in a for y in b]  # 0 times what is beyond all bounds stays 0
    return Bounds(min(ends), max(ends))


def _quotient(a: Bounds, b: Bounds) -> Bounds:
    return _product(a, Bounds(1 / b.high, 1 / b.low)) if b.low > 0 else _ANY


def _fixed(low: float, high: float) -> Callable[..., Bounds]:
    return lambda *_: Bounds(low, high)


#: What moves values and makes none; or takes some of them.
_MOVES = frozenset(
    "reshape squeeze expand_dims transpose broadcast_in_dim rev copy convert_element_type name stop_gradient "
    "reduce_precision optimization_barrier".split()
)
_PICKS = frozenset("slice unstack reduce_max reduce_min".split())
_RULES: dict[str, Callable[..., Bounds]] = {
    "logistic": _fixed(0, 1), "tanh": _fixed(-1, 1), "erf": _fixed(-1, 1), "erfc": _fixed(0, 2),
    "exp": lambda a: Bounds(0.0 if a.low == -math.inf else _exp(a.low), _exp(a.high)),
    "abs": _fixed(0, math.inf), "sqrt": _fixed(0, math.inf), "neg": lambda a: Bounds(-a.high, -a.low),
    "add": lambda a, b: Bounds(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: Bounds(a.low - b.high, a.high - b.low),
    "mul": _product, "div": _quotient, "concatenate": _hull, "stack": _hull,
    "select_n": lambda which, *cases: _hull(*cases),
    "max": lambda a, b: Bounds(max(a.low, b.low), max(a.high, b.high)),
    "min": lambda a, b: Bounds(min(a.low, b.low), min(a.high, b.high)),
    "clamp": lambda low, a, high: Bounds(max(low.low, min(a.low, high.low)), min(high.high, max(a.high, low.high))),
}  # fmt: skip


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
