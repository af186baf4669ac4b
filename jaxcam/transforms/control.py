"""Control flow on active values: a scan stays one scan, a cond stays one cond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxcam.transforms.walker import Rule, UnsupportedPrimitive, opened, walk


class ActiveValues(NamedTuple):
    """A transformation's active values, as loops and branches carry them.

    Attributes:
      active: their class.
      pack: a value as a tuple of arrays; also one that is active only in another branch or iteration.
      unpack: the inverse.
      rule: the transformation's rule.
      transformation: its name, for messages.
      as_one: which calls are not entered, as in `walk`.
      choose: `(index, off, on)`, the second of two results where an active index is not 0; None where there is no
        such thing.
    """

    active: type
    pack: Callable[[Any], tuple]
    unpack: Callable[[tuple], Any]
    rule: Rule
    transformation: str
    as_one: Callable[[Any], bool] | None = None
    choose: Callable[[Any, Any, Any], Any] | None = None

    def walk(self, program: Any, values: list) -> list:
        """The program's outputs, active or ordinary."""
        return walk(program, values, active=self.active, rule=self.rule, as_one=self.as_one)


def _flatten(values: list, active: list[bool], how: ActiveValues) -> list:
    return [how.pack(v) if is_active else v for v, is_active in zip(values, active, strict=True)]


def _unflatten(flat: list, how: ActiveValues) -> list:
    return [how.unpack(v) if isinstance(v, tuple) else v for v in flat]


def scan(eqn: Any, ins: list, how: ActiveValues) -> list:
    """`jax.lax.scan` (and `fori_loop` with a static trip count): the body runs on active values.

    Which carried values become active is found by iterating the body's dependences to a fixed point.
    """
    body, _ = opened(eqn.params["jaxpr"])

    def rank(atom: Any) -> int:
        return len(atom.aval.shape)

    length, reverse = eqn.params["length"], eqn.params["reverse"]
    # Told from the ranks, as the parameters that say so differ between versions of JAX.
    carried = sum(rank(o) == rank(b) for o, b in zip(eqn.outvars, body.outvars, strict=True))
    scanned = sum(rank(i) == rank(b) + 1 for i, b in zip(eqn.invars, body.invars, strict=True))
    fixed = len(ins) - carried - scanned
    active = [isinstance(v, how.active) for v in ins]

    while True:
        kinds: list[bool] = []

        def probe(values, kinds=kinds):
            outs = how.walk(eqn.params["jaxpr"], _unflatten(values, how))
            kinds[:] = [isinstance(o, how.active) for o in outs]
            return [how.pack(o) if isinstance(o, how.active) else o for o in outs]

        flat = _flatten(ins, active, how)
        slices = [jax.tree.map(lambda a: a[0], v) if i >= fixed + carried else v for i, v in enumerate(flat)]
        jax.eval_shape(probe, slices)
        grown = [a or k for a, k in zip(active[fixed : fixed + carried], kinds[:carried], strict=True)]
        if grown == active[fixed : fixed + carried]:
            break
        active[fixed : fixed + carried] = grown

    flat = _flatten(ins, active, how)
    out_active = [a or k for a, k in zip(active[fixed : fixed + carried], kinds[:carried], strict=True)]
    out_active += kinds[carried:]

    def step(carry, slices):
        outs = _flatten(
            how.walk(eqn.params["jaxpr"], _unflatten([*flat[:fixed], *carry, *slices], how)), out_active, how
        )
        return outs[:carried], outs[carried:]

    carry, stacked = jax.lax.scan(
        step, flat[fixed : fixed + carried], flat[fixed + carried :], length=length, reverse=reverse
    )
    return _unflatten([*carry, *stacked], how)


def cond(eqn: Any, ins: list, how: ActiveValues) -> list:
    """`jax.lax.cond` and `switch`; of two branches, one of which the input picks, both run."""
    index, *operands = ins
    branches = eqn.params["branches"]
    if isinstance(index, how.active):
        if how.choose is not None and len(branches) == 2:
            both = zip(*(how.walk(branch, operands) for branch in branches), strict=True)
            found = [how.choose(index, off, on) for off, on in both]
            if not any(v is None for v in found):
                return found
        raise UnsupportedPrimitive(how.transformation, eqn, "the branch taken depends on the input")
    active = [isinstance(v, how.active) for v in operands]
    kinds: list[list[bool]] = []

    def probe(branch, values):
        outs = how.walk(branch, _unflatten(values, how))
        kinds.append([isinstance(o, how.active) for o in outs])
        return [how.pack(o) if isinstance(o, how.active) else o for o in outs]

    flat = _flatten(operands, active, how)
    for branch in branches:
        jax.eval_shape(lambda values, branch=branch: probe(branch, values), flat)
    out_active = [any(column) for column in zip(*kinds, strict=True)]

    def run(branch, values):
        return _flatten(how.walk(branch, _unflatten(values, how)), out_active, how)

    outs = jax.lax.switch(index, [lambda v, b=b: run(b, v) for b in branches], flat)
    return _unflatten(outs, how)


_RULES = {"scan": scan, "cond": cond}


def control(eqn: Any, ins: list, how: ActiveValues) -> list:
    """The outputs of an equation of the kind "control"."""
    return _RULES[eqn.primitive.name](eqn, ins, how)
