"""Control flow on active values: a scan stays one scan, a cond stays one cond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.transforms.custom_derivatives import has_own_jvp
from jaxcam.transforms.deeplift.pairs import Pair
from jaxcam.transforms.walker import Rule, UnsupportedPrimitive, opened, walk


class Kind(NamedTuple):
    """A transformation's active values, as loops and branches carry them.

    Attributes:
      active: their class.
      pack: a value as a tuple of arrays; also one that is active only in another branch or iteration.
      unpack: the inverse.
      whole: which calls are not entered, as in `walk`.
    """

    active: type
    pack: Callable[[Any], tuple]
    unpack: Callable[[tuple], Any]
    whole: Callable[[Any], bool] | None = None


def _pack_pair(value: Any) -> tuple:
    if isinstance(value, Pair):
        return (value.x, value.reference)
    return (jnp.asarray(value), jnp.asarray(value))  # its own reference


PAIRS = Kind(Pair, _pack_pair, lambda packed: Pair(*packed), has_own_jvp)


def _flatten(values: list, active: list[bool], kind: Kind) -> list:
    return [kind.pack(v) if is_active else v for v, is_active in zip(values, active, strict=True)]


def _unflatten(flat: list, kind: Kind) -> list:
    return [kind.unpack(v) if isinstance(v, tuple) else v for v in flat]


def scan(eqn: Any, ins: list, rule: Rule, name: str, kind: Kind = PAIRS) -> list:
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
    active = [isinstance(v, kind.active) for v in ins]

    def run(values):
        return walk(eqn.params["jaxpr"], values, active=kind.active, rule=rule, whole=kind.whole)

    while True:
        kinds: list[bool] = []

        def probe(values, kinds=kinds):
            outs = run(_unflatten(values, kind))
            kinds[:] = [isinstance(o, kind.active) for o in outs]
            return [kind.pack(o) if isinstance(o, kind.active) else o for o in outs]

        flat = _flatten(ins, active, kind)
        slices = [jax.tree.map(lambda a: a[0], v) if i >= fixed + carried else v for i, v in enumerate(flat)]
        jax.eval_shape(probe, slices)
        grown = [a or k for a, k in zip(active[fixed : fixed + carried], kinds[:carried], strict=True)]
        if grown == active[fixed : fixed + carried]:
            break
        active[fixed : fixed + carried] = grown

    flat = _flatten(ins, active, kind)
    out_active = [a or k for a, k in zip(active[fixed : fixed + carried], kinds[:carried], strict=True)]
    out_active += kinds[carried:]

    def step(carry, slices):
        outs = _flatten(run(_unflatten([*flat[:fixed], *carry, *slices], kind)), out_active, kind)
        return outs[:carried], outs[carried:]

    carry, stacked = jax.lax.scan(
        step, flat[fixed : fixed + carried], flat[fixed + carried :], length=length, reverse=reverse
    )
    return _unflatten([*carry, *stacked], kind)


def cond(eqn: Any, ins: list, rule: Rule, name: str, kind: Kind = PAIRS) -> list:
    """`jax.lax.cond` and `switch` whose predicate does not depend on the input."""
    index, *operands = ins
    if isinstance(index, kind.active):
        raise UnsupportedPrimitive(name, eqn, "the branch taken depends on the input")
    branches = eqn.params["branches"]
    active = [isinstance(v, kind.active) for v in operands]
    kinds: list[list[bool]] = []

    def probe(branch, values):
        outs = walk(branch, _unflatten(values, kind), active=kind.active, rule=rule, whole=kind.whole)
        kinds.append([isinstance(o, kind.active) for o in outs])
        return [kind.pack(o) if isinstance(o, kind.active) else o for o in outs]

    flat = _flatten(operands, active, kind)
    for branch in branches:
        jax.eval_shape(lambda values, branch=branch: probe(branch, values), flat)
    out_active = [any(column) for column in zip(*kinds, strict=True)]

    def run(branch, values):
        return _flatten(
            walk(branch, _unflatten(values, kind), active=kind.active, rule=rule, whole=kind.whole), out_active, kind
        )

    outs = jax.lax.switch(index, [lambda v, b=b: run(b, v) for b in branches], flat)
    return _unflatten(outs, kind)


RULES = {"scan": scan, "cond": cond}
