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

    def actives(self, values: list) -> list[bool]:
        """Which values are active."""
        return [isinstance(v, self.active) for v in values]

    def packed(self, values: list, active: list[bool]) -> list:
        """Values as JAX carries them, those packed that are said to be active."""
        return [self.pack(v) if is_active else v for v, is_active in zip(values, active, strict=True)]

    def unpacked(self, packed: list) -> list:
        """The inverse of `packed`."""
        return [self.unpack(v) if isinstance(v, tuple) else v for v in packed]

    def run(self, program: Any, packed: list, active: list[bool]) -> list:
        """A program on packed values, its outputs packed as well."""
        return self.packed(self.walk(program, self.unpacked(packed)), active)

    def actives_of(self, program: Any, packed: list) -> list[bool]:
        """Which outputs of a program on packed values are active; it is traced on shapes."""
        found: list[bool] = []

        def probe(packed):
            outs = self.walk(program, self.unpacked(packed))
            found[:] = self.actives(outs)
            return self.packed(outs, found)

        jax.eval_shape(probe, packed)
        return found


def scan(eqn: Any, ins: list, how: ActiveValues) -> list:
    """`jax.lax.scan` (and `fori_loop` with a static trip count): the body runs on active values.

    Which carried values become active is found by iterating the body's dependences to a fixed point.
    """
    program = eqn.params["jaxpr"]
    body, _ = opened(program)

    def rank(atom: Any) -> int:
        return len(atom.aval.shape)

    length, reverse = eqn.params["length"], eqn.params["reverse"]
    # Told from the ranks, as the parameters that say so differ between versions of JAX.
    carried = sum(rank(o) == rank(b) for o, b in zip(eqn.outvars, body.outvars, strict=True))
    scanned = sum(rank(i) == rank(b) + 1 for i, b in zip(eqn.invars, body.invars, strict=True))
    fixed = len(ins) - carried - scanned
    active = how.actives(ins)
    while True:
        flat = how.packed(ins, active)
        slices = [jax.tree.map(lambda a: a[0], v) if i >= fixed + carried else v for i, v in enumerate(flat)]
        kinds = how.actives_of(program, slices)
        grown = [a or k for a, k in zip(active[fixed : fixed + carried], kinds[:carried], strict=True)]
        if grown == active[fixed : fixed + carried]:
            break
        active[fixed : fixed + carried] = grown
    out_active = [*grown, *kinds[carried:]]

    def step(carry, slices):
        outs = how.run(program, [*flat[:fixed], *carry, *slices], out_active)
        return outs[:carried], outs[carried:]

    carry, stacked = jax.lax.scan(
        step, flat[fixed : fixed + carried], flat[fixed + carried :], length=length, reverse=reverse
    )
    return how.unpacked([*carry, *stacked])


def cond(eqn: Any, ins: list, how: ActiveValues) -> list:
    """`jax.lax.cond` and `switch`; of branches, one of which the input picks, all run."""
    index, *operands = ins
    branches = eqn.params["branches"]
    if isinstance(index, how.active):
        found = _chosen(eqn, index, [how.walk(branch, operands) for branch in branches], how) if how.choose else None
        if found is not None:
            return found
        raise UnsupportedPrimitive(how.transformation, eqn, "the branch taken depends on the input")
    flat = how.packed(operands, how.actives(operands))
    kinds = [how.actives_of(branch, flat) for branch in branches]
    out_active = [any(column) for column in zip(*kinds, strict=True)]
    outs = jax.lax.switch(index, [lambda v, b=b: how.run(b, v, out_active) for b in branches], flat)
    return how.unpacked(outs)


def _chosen(eqn: Any, index: Any, results: list[list], how: ActiveValues) -> list | None:
    """Of the results of branches those that an active index picks; None where it cannot be told how it does."""
    assert how.choose is not None
    number = jax.ShapeDtypeStruct((), eqn.invars[0].aval.dtype)
    found: list = results[0]
    for i, more in enumerate(results[1:], 1):
        which = index
        if len(results) > 2:
            (which,) = how.walk(jax.make_jaxpr(lambda k, i=i: k >= i)(number), [index])
        found = [how.choose(which, off, on) for off, on in zip(found, more, strict=True)]
        if any(v is None for v in found):
            return None
    return found


_RULES = {"scan": scan, "cond": cond}


def control(eqn: Any, ins: list, how: ActiveValues) -> list:
    """The outputs of an equation of the kind "control"."""
    return _RULES[eqn.primitive.name](eqn, ins, how)
