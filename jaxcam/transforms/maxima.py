"""What a maximum is taken of, computed once.

JAX finds the place of a maximum, for its derivative, by comparing every element with the maximum. XLA may compute the
elements twice for that, once with a rounding more than the other time (a product and a sum in one step); then no
element equals the maximum, and derivatives are lost without a word: from jaxlib 0.12 on those of
`jnp.max(x * scale + bias, axis)` on CPUs, and others on GPUs (jax-ml/jax, issue 40564). An optimization barrier keeps
the elements.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
from jax.extend import core as jex

from jaxcam.transforms.primitives import describe


def once(values: Any) -> Any:
    """The same arrays, which no program computes anew for each reader."""
    return lax.optimization_barrier(values)


def held_maxima(eqns: list[jex.JaxprEqn]) -> list[jex.JaxprEqn]:
    """Equations in order, with a barrier behind what both a maximum and a comparison read."""
    taken = {id(v) for eqn in eqns if describe(eqn).kind == "maximum" for v in eqn.invars}
    taken &= {id(v) for eqn in eqns if eqn.primitive.name == "eq" for v in eqn.invars}
    held: dict[int, Any] = {}
    found = []
    for eqn in eqns:
        again = [held.get(id(v), v) for v in eqn.invars]
        found.append(eqn.replace(invars=again) if any(id(v) in held for v in eqn.invars) else eqn)
        for v in eqn.outvars:
            if id(v) in taken:
                aval: Any = v.aval
                [barrier] = jax.make_jaxpr(once)(jax.ShapeDtypeStruct(aval.shape, aval.dtype)).eqns
                found.append(barrier.replace(invars=[v]))
                held[id(v)] = barrier.outvars[0]
    return found
