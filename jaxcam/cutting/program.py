"""Surgery on a traced program: which layers it names, and the two halves on either side of one of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex

from jaxcam.cutting import tags
from jaxcam.errors import JaxcamError
from jaxcam.transforms.arithmetic import numbers
from jaxcam.transforms.walker import called, location, opened, variables


class Place(NamedTuple):
    """A named value in a program.

    Attributes:
      name, kind: of the layer that returns it.
      shape, dtype: of the value, batch axis included.
      inside: the loop or branch that it lies in, as `scan at file:line`, and cannot be cut in; None elsewhere.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    inside: str | None


def places(program: Any, inside: str | None = None) -> Iterator[Place]:
    """The named values of a program in the order of execution, those inside calls included."""
    jaxpr, _ = opened(program)
    for eqn in jaxpr.eqns:
        label = tags.read(eqn)
        if label is not None:
            aval: Any = eqn.outvars[0].aval
            yield Place(label[1], label[0], aval.shape, aval.dtype, inside)
        held = called(eqn)
        if held is not None:
            yield from places(held, inside)
        else:
            where = inside or f"{eqn.primitive.name} at {location(eqn) or 'an unknown place'}"
            for inner in jex.jaxprs_in_params(eqn.params):
                yield from places(inner, where)


class Flat(NamedTuple):
    """A program in which the wanted name stands at the top level, whatever calls it was in.

    Attributes:
      invars, outvars, eqns, constvars, consts: of the program.
      marks: the equations that put the wanted name on a value, in the order of execution.
    """

    invars: list
    outvars: list
    eqns: list[jex.JaxprEqn]
    constvars: list
    consts: list
    marks: list[jex.JaxprEqn]


def flatten(closed: jex.ClosedJaxpr, name: str) -> Flat:
    """Enters the calls around one name, and no others.

    The others stay calls: a relu keeps its own derivative, and an activation function its name. The
    other labels at the top level go: they have served.
    """
    flat = Flat([jex.Var(v.aval) for v in closed.jaxpr.invars], [], [], [], [], [])

    def enter(program, args):
        jaxpr, consts = opened(program)
        env: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = jex.Var(var.aval)
            flat.constvars.append(env[var])
            flat.consts.append(value)

        def read(atom):
            return atom if isinstance(atom, jex.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            label, held = tags.read(eqn), called(eqn)
            if held is not None and any(p.name == name for p in places(held)):
                env.update(zip(eqn.outvars, enter(held, operands), strict=True))
            elif label is not None and label[1] != name:
                env[eqn.outvars[0]] = operands[0]
            else:
                outputs = [jex.Var(v.aval) for v in eqn.outvars]
                flat.eqns.append(eqn.replace(invars=operands, outvars=outputs))
                env.update(zip(eqn.outvars, outputs, strict=True))
                if label is not None:
                    flat.marks.append(flat.eqns[-1])
        return [read(v) for v in jaxpr.outvars]

    flat.outvars.extend(enter(closed, flat.invars))
    return flat


class Halves(NamedTuple):
    """A program cut at a value.

    Attributes:
      features: `(*params, image) -> (value, *bypass)`.
      head: `(*params, *bypass, value) -> outputs`.
      bypass: for each value that goes around the cut, its shape and where it comes from, for messages.
    """

    features: jex.ClosedJaxpr
    head: jex.ClosedJaxpr
    bypass: list[str]


def halve(closed: jex.ClosedJaxpr, name: str, occurrence: int, num_params: int) -> Halves:
    """Cuts a program `(*params, image) -> outputs` behind one named value.

    The head holds all that depends on the value, and what follows from the parameters alone. What
    it needs besides, computed from the image around the cut, enters it as the bypass.

    Args:
      occurrence: which of the values of that name, from 0.

    Raises:
      JaxcamError: the outputs do not depend on the value, or the value not on the image.
    """
    flat = flatten(closed, name)
    mark = flat.marks[occurrence]
    params, image = flat.invars[:num_params], flat.invars[num_params:]
    (value,), (after,) = mark.invars, mark.outvars
    from_image = _dependent(flat.eqns, image)
    from_value = _dependent(flat.eqns, [after])
    if isinstance(value, jex.Literal) or value not in from_image:
        raise JaxcamError(f"{name!r} does not depend on the image")
    if not any(v in from_value for v in variables(flat.outvars)):
        raise JaxcamError(f"the logits do not depend on what {name!r} returns: its output is not used")

    needed = set(variables(flat.outvars))
    later: list[jex.JaxprEqn] = []
    bypass: dict[Any, jex.JaxprEqn | None] = {}  # ordered, without repetition
    for eqn in reversed(flat.eqns):
        wanted = [v for v in eqn.outvars if v in needed]
        if not wanted or eqn is mark:
            continue
        if any(v in from_image and v not in from_value for v in wanted):
            bypass.update(dict.fromkeys(wanted, eqn))
        else:
            later.append(eqn)
            needed.update(variables(eqn.invars))
    bypass.update((v, None) for v in image if v in needed)
    around = list(bypass)
    told = [
        f"{v.aval.shape} " + ("the image itself" if eqn is None else f"from {location(eqn) or eqn.primitive.name}")
        for v, eqn in bypass.items()
    ]

    needed = {value, *around}
    earlier: list[jex.JaxprEqn] = []
    for eqn in reversed(flat.eqns):
        if any(v in needed for v in eqn.outvars):
            earlier.append(eqn)
            needed.update(variables(eqn.invars))
    return Halves(
        _assemble(closed, flat, flat.invars, [value, *around], earlier[::-1]),
        _assemble(closed, flat, [*params, *around, after], flat.outvars, later[::-1]),
        told,
    )


def _dependent(eqns: list[jex.JaxprEqn], sources: Sequence[Any]) -> set:
    found = set(sources)
    for eqn in eqns:
        if any(v in found for v in variables(eqn.invars)):
            found.update(eqn.outvars)
    return found


def _assemble(closed: Any, flat: Flat, invars: list, outvars: list, eqns: list[jex.JaxprEqn]) -> jex.ClosedJaxpr:
    used = {v for eqn in eqns for v in variables(eqn.invars)} | set(variables(outvars))
    held = [(v, c) for v, c in zip(flat.constvars, flat.consts, strict=True) if v in used]
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    told = closed.jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    jaxpr = jex.Jaxpr([v for v, _ in held], invars, outvars, eqns, effects, told)
    return jex.ClosedJaxpr(jaxpr, [c for _, c in held])


def fingerprint(closed: jex.ClosedJaxpr) -> str:
    """The SHA-256 of a program: its text, and the constants in it and in the programs that it calls."""
    total = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(closed.jaxpr)).encode())
    for value in _constants(closed):
        array = numbers(value)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _constants(program: Any) -> Iterator[Any]:
    jaxpr, consts = opened(program)
    yield from consts
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from _constants(inner)
