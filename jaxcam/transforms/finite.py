"""Where a program stops being finite: the operation that makes the first NaN or infinity on the way to its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.transforms.custom_derivatives import name_of
from jaxcam.transforms.walker import bind, location, trace, walk


class Origin(NamedTuple):
    """An operation whose operands are finite, and whose result is not.

    Attributes:
      primitive: its name.
      place: `file:line (function)` in the user's code, if known.
      value: "NaN" or "infinity".
    """

    primitive: str
    place: str | None
    value: str

    def __str__(self) -> str:
        return f"{self.primitive!r}{f' at {self.place}' if self.place else ''} gives {self.value}"


@dataclasses.dataclass(frozen=True, eq=False)
class _Traced:
    """A value that depends on the input, and the equations where it stopped being finite; none where it is."""

    value: Any
    origins: dict[Any, Origin] = dataclasses.field(default_factory=dict)


def origin_of_nonfinite(fn: Callable, *args: Any) -> Origin | None:
    """Which operation of `fn(*args)` makes the result NaN or infinite; None where it is finite, or where that came in.

    Infinities that were written into the program, as in masks of -inf, are nobody's fault: the one named is the
    operation that makes a NaN of them. Of several that came together in one array, as the logits of all classes, it is
    the one without which the result is finite; the first where there is none. Loops and branches are named as a whole.

    Args:
      fn: a pure function of pytrees of arrays.
      args: concrete.

    Cost: one evaluation, operation by operation; where several operations may be meant, one more for each.
    """
    # What is looked for here is what these modes forbid.
    with jax.debug_nans(False), jax.debug_infs(False), jax.transfer_guard("allow"):
        closed, _ = trace(fn, *args)
        inputs = [_Traced(v) for v in jax.tree.leaves(args)]
        found = _origins(closed, inputs, None)
        for without, origin in found.items() if len(found) > 1 else ():
            if not _origins(closed, inputs, without):
                return origin
    return next(iter(found.values()), None)


def _origins(closed: Any, inputs: list[_Traced], without: Any) -> dict[Any, Origin]:
    """The operations that the results may owe their being not finite to, had that of one equation been finite."""

    def rule(eqn: Any, ins: list) -> list:
        values = [v.value if isinstance(v, _Traced) else v for v in ins]
        outs = bind(eqn, values)
        if eqn is without:
            outs = [jnp.where(jnp.isfinite(v), v, 0) if _not_finite(v) else v for v in outs]
        inherited: dict[Any, Origin] = {}
        for v in ins:
            inherited |= v.origins if isinstance(v, _Traced) else {}
        return [_Traced(out, _origin(eqn, out, inherited, values)) for out in outs]

    outs = walk(closed, inputs, active=_Traced, rule=rule)
    return {eqn: o for v in outs if isinstance(v, _Traced) for eqn, o in v.origins.items()}


def _origin(eqn: Any, out: Any, inherited: dict[Any, Origin], operands: list) -> dict[Any, Origin]:
    what = _not_finite(out)
    if what is None or inherited:
        return inherited if what else {}
    there = {_not_finite(v) for v in operands} - {None}
    came_in = "NaN" in there if what == "NaN" else bool(there)
    return {} if came_in else {eqn: Origin(name_of(eqn), location(eqn), what)}


def _not_finite(value: Any) -> str | None:
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return None
    if bool(jnp.isnan(value).any()):
        return "NaN"
    return "infinity" if bool(jnp.isinf(value).any()) else None
