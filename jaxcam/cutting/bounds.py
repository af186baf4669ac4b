"""Between which numbers the outputs of a program lie, whatever goes in: what its last operations say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex

from jaxcam.transforms.primitives import describe
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

    A share of a sum of what is not negative, as a softmax is, lies between 0 and 1; its logarithm is not above 0.
    """
    jaxpr, consts = opened(program)
    known: dict[Any, Bounds] = dict(zip(jaxpr.invars, inputs or [_ANY] * len(jaxpr.invars), strict=True))
    known.update((v, _of(value)) for v, value in zip(jaxpr.constvars, consts, strict=False))
    terms = _Terms()

    def read(atom):
        return _of(atom.val) if isinstance(atom, jex.Literal) else known.get(atom, _ANY)

    for eqn in jaxpr.eqns:
        name, operands, held = eqn.primitive.name, [read(v) for v in eqn.invars], called(eqn)
        kind = describe(eqn).kind
        out: Any = eqn.outvars[0] if eqn.outvars else None
        if held is not None:
            found = bounds(held, operands) if len(opened(held)[0].invars) == len(operands) else []
            known.update(zip(eqn.outvars, found, strict=False))
        elif kind == "identity" or name in _ROUNDS:
            known.update(zip(eqn.outvars, operands, strict=False))
        elif kind == "moves":
            where = range(len(operands))[describe(eqn).indices]
            known.update(dict.fromkeys(eqn.outvars, _hull(*(b for i, b in enumerate(operands) if i not in where))))
        elif kind == "maximum":
            known[out] = operands[0]
        elif name == "reduce_sum":
            before: Any = eqn.invars[0]
            n = math.prod(before.aval.shape) // max(1, math.prod(out.aval.shape))
            known[out] = _product(Bounds(n, n), operands[0])
        elif name == "div" and operands[0].low >= 0 and terms.is_share(eqn):
            known[out] = Bounds(0, 1)
        elif name == "sub" and terms.is_log_share(eqn):
            known[out] = Bounds(-math.inf, 0)
        elif name == "select_n" and terms.tells_nan(eqn.invars[0]):
            known[out] = operands[1]
        elif name in _RULES:
            known[out] = _RULES[name](*operands)
        if held is None:
            terms.see(eqn, as_it_is=name in _ROUNDS or name == "abs" and operands[0].low >= 0)
    return [read(v) for v in jaxpr.outvars]


class _Terms:
    """What values of a program are made of, as far as softmaxes and their logarithms ask."""

    def __init__(self) -> None:
        self.same: dict[Any, Any] = {}  # of a value that has another's numbers, all of them: that one
        self.made: dict[Any, tuple] = {}  # of a value: the operation and the operands

    def source(self, atom: Any) -> Any:
        """The value whose numbers these are; a literal stands for itself."""
        return id(atom) if isinstance(atom, jex.Literal) else self.same.get(atom, atom)

    def made_by(self, name: str, value: Any) -> tuple:
        """The operands of the operation of that name that a value is the result of; otherwise none."""
        operation, *operands = self.made.get(value, ("",))
        return tuple(operands) if operation == name else ()

    def see(self, eqn: Any, as_it_is: bool) -> None:
        """Takes note of an equation, and of whether it leaves its operand as it is."""
        if len(eqn.outvars) != 1:
            return
        out, known = eqn.outvars[0], describe(eqn)
        moved = (
            known.kind == "moves" and len(eqn.invars) == 1 and out.aval.size >= eqn.invars[0].aval.size
        )  # all of them
        if as_it_is or known.kind == "identity" or moved:
            self.same[out] = self.source(eqn.invars[0])
        self.made[out] = (eqn.primitive.name, *map(self.source, eqn.invars))

    def is_share(self, eqn: Any) -> bool:
        """Whether something is divided by its sum."""
        part, whole = map(self.source, eqn.invars)
        return self.made_by("reduce_sum", whole) == (part,)

    def is_log_share(self, eqn: Any) -> bool:
        """Whether the logarithm of the sum of the exponentials of something is subtracted from it."""
        part, less = map(self.source, eqn.invars)
        if self._exponents(less) == part:
            return True
        sum_of = self.made_by("add", less)  # the greatest of them was subtracted first, and is added again
        return any(
            self.made_by("sub", self._exponents(total)) == (part, top)
            for total, top in itertools.permutations(sum_of, 2)
        )

    def _exponents(self, value: Any) -> Any:
        """What the logarithm of a sum of exponentials is made of."""
        for name in ("log", "reduce_sum", "exp"):
            (value,) = self.made_by(name, value) or (None,)
        return value

    def tells_nan(self, atom: Any) -> bool:
        """Whether a predicate asks which elements are NaN: those that differ from themselves."""
        operands = self.made_by("ne", self.source(atom))
        return len(operands) == 2 and operands[0] == operands[1]


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


#: Elementwise ones that give the same number, rounded.
_ROUNDS = frozenset(("convert_element_type", "reduce_precision"))
_RULES: dict[str, Callable[..., Bounds]] = {
    "logistic": _fixed(0, 1), "tanh": _fixed(-1, 1), "erf": _fixed(-1, 1), "erfc": _fixed(0, 2),
    "exp": lambda a: Bounds(0.0 if a.low == -math.inf else _exp(a.low), _exp(a.high)),
    "abs": _fixed(0, math.inf), "sqrt": _fixed(0, math.inf), "neg": lambda a: Bounds(-a.high, -a.low),
    "add": lambda a, b: Bounds(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: Bounds(a.low - b.high, a.high - b.low),
    "mul": _product, "div": _quotient,
    "square": lambda a: Bounds(0.0, max(a.low * a.low, a.high * a.high)),
    "log": lambda a: Bounds(_log(a.low), _log(a.high)), "log1p": lambda a: Bounds(_log(1 + a.low), _log(1 + a.high)),
    "expm1": lambda a: Bounds(-1.0 if a.low == -math.inf else _exp(a.low) - 1, _exp(a.high) - 1),
    "select_n": lambda which, *cases: _hull(*cases),
    "max": lambda a, b: Bounds(max(a.low, b.low), max(a.high, b.high)),
    "min": lambda a, b: Bounds(min(a.low, b.low), min(a.high, b.high)),
    "clamp": lambda low, a, high: Bounds(max(low.low, min(a.low, high.low)), min(high.high, max(a.high, low.high))),
}  # fmt: skip


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
