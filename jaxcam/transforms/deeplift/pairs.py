"""The values that `deeplift` runs a program on: a value, its reference, and how it came to be."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.walker import bind


class Pair:
    """An active value: the value itself, its reference, and where it came from elementwise.

    Attributes:
      x: the value.
      r: the reference, or None for a reference known to be zero everywhere. Linear operations on
        such a reference cost nothing.
      root: the pair from which elementwise operations alone lead to this one (itself if none do).
      expr: those operations.
      number: of a predicate or a count: makes the pair of real numbers that it is (`predicates`), where there is one.
      cases: of the first of several predicates that holds, its place: makes the pairs of these predicates.
    """

    __slots__ = ("cases", "expr", "number", "r", "root", "x")

    def __init__(self, x: jax.Array, r: jax.Array | None, root: Pair | None = None, expr: Any = None):
        self.x, self.r = x, r
        self.root: Pair = self if root is None else root
        self.expr: Any = None if root is None else expr
        self.number: Callable[[], Pair | None] | None = None
        self.cases: Callable[[], list[Pair]] | None = None

    def numbered(self, make: Callable[[], Pair | None]) -> Pair:
        """Itself, with a number that is made once, however many ask for it."""
        self.number = functools.cache(make)
        return self

    @property
    def reference(self) -> jax.Array:
        """The reference as an array."""
        return jnp.zeros_like(self.x) if self.r is None else self.r

    @property
    def differentiable(self) -> bool:
        """Whether the value is a real or complex number; predicates and indices are not."""
        return jnp.issubdtype(self.x.dtype, jnp.inexact)


def at_input(operand: Any) -> Any:
    """An operand as the program sees it: of a pair the value."""
    return operand.x if isinstance(operand, Pair) else operand


def at_reference(operand: Any) -> Any:
    """An operand at the reference; what is no pair is its own."""
    return operand.reference if isinstance(operand, Pair) else operand


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One elementwise equation applied to the root: operands are steps, None (the root) or constants."""

    eqn: Any
    operands: tuple

    @property
    def tells_nan(self) -> bool:
        """Whether it asks which elements are NaN: those that differ from themselves."""
        return self.eqn.primitive.name == "ne" and self.operands[0] is self.operands[1]


def extend(eqn: Any, operands: list) -> Step:
    """The step that applies an equation to active operands of one root and to constants."""
    return Step(eqn, tuple(v.expr if isinstance(v, Pair) else _Const(v) for v in operands))


@dataclasses.dataclass(frozen=True, eq=False)
class _Const:
    value: Any


def compile_steps(step: Step) -> tuple[Any, list]:
    """A step as `(function (root value, constants) -> value, constants)`.

    The constants are handed over rather than closed over, so that derivatives flow through them.
    """
    order: list[Step] = []
    consts: list[Any] = []
    slots: dict[int, int] = {}

    def visit(node):
        if isinstance(node, _Const):
            if id(node) not in slots:
                slots[id(node)] = len(consts)
                consts.append(node.value)
        elif node is not None and id(node) not in slots:
            slots[id(node)] = -1
            for operand in node.operands:
                visit(operand)
            order.append(node)

    visit(step)

    def function(root, constants):
        values: dict[int, Any] = {}

        def read(node):
            if node is None:
                return root
            return constants[slots[id(node)]] if isinstance(node, _Const) else values[id(node)]

        for node in order:
            (values[id(node)],) = bind(node.eqn, [read(operand) for operand in node.operands])
        return values[id(step)]

    return function, consts
