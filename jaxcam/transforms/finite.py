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
    """A value that depends on the input, and where it stopped being finite; None where it is."""

    value: Any
    origin: Origin | None = None


def origin_of_nonfinite(fn: Callable, *args: Any) -> Origin | None:
    """Which operation of `fn(*args)` makes the result NaN or infinite; None where it is finite, or where that came in.

    Infinities that were written into the program, as in masks of -inf, are nobody's fault: the one named is the
    operation that makes a NaN of them. Loops and branches are named as a whole.

    Args:
      fn: a pure function of pytrees of arrays.
      args: concrete.

    Cost: one evaluation, operation by operation.
    """
    # What is looked for here is what these modes forbid.
    with jax.debug_nans(False), jax.debug_infs(False), jax.transfer_guard("allow"):
        closed, _ = trace(fn, *args)
        outs = walk(closed, [_Traced(v) for v in jax.tree.leaves(args)], active=_Traced, rule=_rule)
    return next((v.origin for v in outs if isinstance(v, _Traced) and v.origin is not None), None)


def _rule(eqn: Any, ins: list) -> list:
    values = [v.value if isinstance(v, _Traced) else v for v in ins]
    inherited = [v.origin for v in ins if isinstance(v, _Traced) and v.origin is not None]
    return [_Traced(out, _origin(eqn, out, inherited, values)) for out in bind(eqn, values)]


def _origin(eqn: Any, out: Any, inherited: list[Origin], operands: list) -> Origin | None:
    what = _not_finite(out)
    if what is None or inherited:
        return inherited[0] if what else None
    there = {_not_finite(v) for v in operands} - {None}
    came_in = "NaN" in there if what == "NaN" else bool(there)
    return None if came_in else Origin(name_of(eqn), location(eqn), what)


def _not_finite(value: Any) -> str | None:
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return None
    if bool(jnp.isnan(value).any()):
        return "NaN"
    return "infinity" if bool(jnp.isinf(value).any()) else None
