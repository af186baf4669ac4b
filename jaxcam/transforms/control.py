"""Control flow on pairs: a scan stays one scan, a cond stays one cond."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.pairs import Pair
from jaxcam.transforms.walker import Rule, UnsupportedPrimitive, opened, walk


def _flatten(values: list, active: list[bool]) -> list:
    """Active values as (value, reference) tuples, the others as they are."""
    flat = []
    for value, is_active in zip(values, active, strict=True):
        if not is_active:
            flat.append(value)
        elif isinstance(value, Pair):
            flat.append((value.x, value.reference))
        else:  # active in another branch or iteration: its own reference here
            flat.append((jnp.asarray(value), jnp.asarray(value)))
    return flat


def _unflatten(flat: list) -> list:
    return [Pair(*v) if isinstance(v, tuple) else v for v in flat]


def scan(eqn: Any, ins: list, rule: Rule, name: str) -> list:
    """`jax.lax.scan` (and `fori_loop` with a static trip count): the body runs on pairs.

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
    active = [isinstance(v, Pair) for v in ins]

    def run(values):
        return walk(eqn.params["jaxpr"], values, active=Pair, rule=rule)

    while True:
        kinds: list[bool] = []

        def probe(values, kinds=kinds):
            outs = run(_unflatten(values))
            kinds[:] = [isinstance(o, Pair) for o in outs]
            return [(o.x, o.reference) if isinstance(o, Pair) else o for o in outs]

        slices = [
            jax.tree.map(lambda a: a[0], v) if i >= fixed + carried else v for i, v in enumerate(_flatten(ins, active))
        ]
        jax.eval_shape(probe, slices)
        grown = [a or k for a, k in zip(active[fixed : fixed + carried], kinds[:carried], strict=True)]
        if grown == active[fixed : fixed + carried]:
            break
        active[fixed : fixed + carried] = grown

    flat = _flatten(ins, active)
    out_active = [a or k for a, k in zip(active[fixed : fixed + carried], kinds[:carried], strict=True)]
    out_active += kinds[carried:]

    def step(carry, slices):
        outs = _flatten(run(_unflatten([*flat[:fixed], *carry, *slices])), out_active)
        return outs[:carried], outs[carried:]

    carry, stacked = jax.lax.scan(
        step, flat[fixed : fixed + carried], flat[fixed + carried :], length=length, reverse=reverse
    )
    return _unflatten([*carry, *stacked])


def cond(eqn: Any, ins: list, rule: Rule, name: str) -> list:
    """`jax.lax.cond` and `switch` whose predicate does not depend on the input."""
    index, *operands = ins
    if isinstance(index, Pair):
        raise UnsupportedPrimitive(name, eqn, "the branch taken depends on the input; the reference may take another")
    branches = eqn.params["branches"]
    active = [isinstance(v, Pair) for v in operands]
    kinds: list[list[bool]] = []

    def probe(branch, values):
        outs = walk(branch, _unflatten(values), active=Pair, rule=rule)
        kinds.append([isinstance(o, Pair) for o in outs])
        return [o.x if isinstance(o, Pair) else o for o in outs]

    flat = _flatten(operands, active)
    for branch in branches:
        jax.eval_shape(lambda values, branch=branch: probe(branch, values), flat)
    out_active = [any(column) for column in zip(*kinds, strict=True)]

    def run(branch, values):
        return _flatten(walk(branch, _unflatten(values), active=Pair, rule=rule), out_active)

    outs = jax.lax.switch(index, [lambda v, b=b: run(b, v) for b in branches], flat)
    return _unflatten(outs)


RULES = {"scan": scan, "cond": cond}
