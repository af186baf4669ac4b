"""Walking a traced program equation by equation: what the program transformations share.

A transformation runs a jaxpr on values of its own (pairs, relevances, lazy coalitions). The walker
keeps the environment, runs what does not depend on the input as it is, enters calls, and says where
in the source a primitive stands for which the transformation has no rule. Primitives are matched
by name, and only public interfaces of JAX are used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from jaxcam.errors import JaxcamError
from jaxcam.transforms.primitives import describe

#: `(equation, operands) -> outputs` of one transformation; coalitions may answer None.
Rule = Callable[[Any, list], Any]


class UnsupportedPrimitive(JaxcamError, NotImplementedError):
    """A transformation met a primitive that it has no rule for; the message says which and where.

    Attributes:
      primitive: its name.
      place: `file:line (function)` in the user's code, if known.
    """

    def __init__(self, transformation: str, eqn: jex.JaxprEqn, why: str):
        super().__init__()
        self.transformation, self.primitive, self.why = transformation, eqn.primitive.name, why
        self.place = location(eqn)

    def __str__(self) -> str:
        place = self.place or "an unknown place"
        return f"{self.transformation} has no rule for {self.primitive!r} at {place}: {self.why}"


def location(eqn: jex.JaxprEqn) -> str | None:
    """`file:line (function)` of the user's code behind an equation; of a library's if there is no other."""
    frames: Sequence[Any] = eqn.source_info.traceback.frames if eqn.source_info.traceback is not None else []
    transforms = os.path.dirname(os.path.abspath(__file__))
    here = (transforms, os.path.join(os.path.dirname(transforms), "cutting"))
    places: tuple[list[str], list[str]] = ([], [])
    for frame in frames:
        parts = set(frame.file_name.split(os.sep))
        if frame.file_name.startswith((*here, "<")) or parts & {"jax", "jaxlib", "flax"} and "site-packages" in parts:
            continue
        places["site-packages" in parts].append(f"{frame.file_name}:{frame.line_num} ({frame.function_name})")
    return next(iter(places[0] + places[1]), None)


def bind(eqn: jex.JaxprEqn, values: Sequence[Any]) -> list:
    """Runs one equation on ordinary values; a list of its outputs."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def bound(eqn: jex.JaxprEqn, values: Sequence[Any], places: Sequence[int]) -> Callable[[Sequence[Any]], list]:
    """An equation as a function of its operands at some places, the others being fixed."""

    def of(moving: Sequence[Any]) -> list:
        operands = list(values)
        for i, v in zip(places, moving, strict=True):
            operands[i] = v
        return bind(eqn, operands)

    return of


def variables(atoms: Sequence[Any]) -> list[Any]:
    """Those of the operands or results of an equation that are no literals."""
    return [v for v in atoms if not isinstance(v, jex.Literal)]


def called(eqn: jex.JaxprEqn) -> Any | None:
    """The program that an equation merely wraps (jit, remat, custom derivatives); None if it is no call."""
    known = describe(eqn)
    return next((eqn.params[name] for name in known.body.split() if name in eqn.params), None)


def opened(program: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
    """The jaxpr and the constants of a sub-program, however this version of JAX stores it."""
    if hasattr(program, "jaxpr"):
        return program.jaxpr, program.consts
    return program, getattr(program, "consts", ())


def walk(
    program: Any, args: Sequence[Any], *, active: type, rule: Rule, as_one: Callable[[jex.JaxprEqn], bool] | None = None
) -> list:
    """Evaluates a jaxpr with `rule` for every equation that has an active operand.

    Args:
      program: a (closed) jaxpr.
      args: its inputs; those that are instances of `active` depend on what is explained.
      active: the class of the transformation's own values; one may hold, as `refusal`, an `UnsupportedPrimitive` that
        is raised only if the value is needed.
      rule: `(equation, operands) -> outputs`, where operands and outputs mix active and ordinary
        values. Calls never reach it, but for those that are taken `as_one`.
      as_one: which calls are not entered; by default all are.

    Returns:
      The outputs, active or ordinary.
    """
    jaxpr, consts = opened(program)
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, jex.Literal) else env[atom]

    last_use = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in variables(eqn.invars)}
    kept = set(variables(jaxpr.outvars))
    for i, eqn in enumerate(jaxpr.eqns):
        operands = [read(v) for v in eqn.invars]
        if not any(isinstance(v, active) for v in operands):
            outputs = bind(eqn, operands)
        else:
            inner = None if as_one is not None and as_one(eqn) else called(eqn)
            try:
                if inner is None:
                    outputs = rule(eqn, operands)
                else:
                    outputs = walk(inner, operands, active=active, rule=rule, as_one=as_one)
            except UnsupportedPrimitive as error:
                # Programs that JAX keeps (the inside of jnp.sort, say) do not know who called them.
                error.place = error.place or location(eqn)
                raise
            for refusal in [getattr(v, "refusal", None) for v in outputs if isinstance(v, active)]:
                if refusal is not None and refusal.place is None:  # it may be raised elsewhere
                    refusal.place = location(eqn)
        env.update(zip(eqn.outvars, outputs, strict=True))
        for v in variables(eqn.invars):  # let buffers go as soon as the program itself would
            if last_use[v] == i and v not in kept:
                env.pop(v, None)
    return [read(v) for v in jaxpr.outvars]


def trace(fn: Callable, *args: Any, precision: str | None = None) -> tuple[Any, Any]:
    """The closed jaxpr of `fn(*args)` and the tree of its output.

    Args:
      precision: matmul precision for the operations that do not name their own.
    """
    with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return closed, jax.tree.structure(shape)


def equivalent(eqn: Any, program: Callable | None) -> Any:
    """The jaxpr of `program(*operands, **params)`, which computes the same as an equation, for its operands."""
    assert program is not None
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    return jax.make_jaxpr(lambda *operands: program(*operands, **eqn.params))(*shapes)
