"""Other equations in place of some, in a whole program: in the calls and the control flow in it as well."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from jax.extend import core as jex

from jaxcam.transforms.primitives import describe
from jaxcam.transforms.walker import opened

#: Programs that are entered, besides calls and control flow.
_ENTERED = ("while", "custom_vmap_call")


def rewritten(
    program: Any,
    instead: Callable[[jex.JaxprEqn], jex.JaxprEqn],
    among: Callable[[list[jex.JaxprEqn]], list[jex.JaxprEqn]] = lambda eqns: eqns,
    known: dict[int, Any] | None = None,
) -> Any:
    """A jaxpr, closed or not, with other equations in place of some; itself where none is another.

    Args:
      instead: the equation to take for one that holds no program; the same object to leave it.
      among: the equations to take for all those of one program, in order; the same objects to leave them.
      known: what was made of the programs met so far, by identity: one that is called often stays one.
    """
    known = {} if known is None else known
    if id(program) not in known:
        jaxpr, _ = opened(program)
        eqns = among([_instead(eqn, instead, among, known) for eqn in jaxpr.eqns])
        if len(eqns) == len(jaxpr.eqns) and all(map(operator.is_, eqns, jaxpr.eqns)):
            known[id(program)] = program
        else:
            new = jaxpr.replace(eqns=eqns)
            known[id(program)] = program.replace(jaxpr=new) if hasattr(program, "jaxpr") else new
    return known[id(program)]


def calling(eqn: jex.JaxprEqn, make: Callable[..., jex.JaxprEqn | None]) -> jex.JaxprEqn:
    """An equation that calls a program in place of another, or that one itself.

    Args:
      make: `(primitive, parameters, *(shape, dtype))` of its operands and its result, all of which can be hashed, to a
        call; None to leave the equation. The same one for all equations that are alike, which are compiled once.
    """
    params = tuple(sorted(eqn.params.items(), key=lambda item: item[0]))
    avals: list[Any] = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    call = make(eqn.primitive, params, *((aval.shape, aval.dtype) for aval in avals))
    return eqn if call is None else call.replace(invars=eqn.invars, outvars=eqn.outvars, source_info=eqn.source_info)


def _instead(eqn: jex.JaxprEqn, instead: Callable, among: Callable, known: dict[int, Any]) -> jex.JaxprEqn:
    if describe(eqn).kind not in ("call", "control") and eqn.primitive.name not in _ENTERED:
        return instead(eqn)

    def new(value):
        if isinstance(value, tuple):
            several = tuple(map(new, value))
            return value if all(map(operator.is_, several, value)) else several
        return rewritten(value, instead, among, known) if isinstance(value, jex.Jaxpr | jex.ClosedJaxpr) else value

    params = {name: new(value) for name, value in eqn.params.items()}
    return eqn if all(params[name] is value for name, value in eqn.params.items()) else eqn.replace(params=params)
