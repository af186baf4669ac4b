"""What the installed JAX makes of common layers and functions is in the vocabulary, or on a list with the reason.

A new JAX that writes an old operation with a new primitive, and a library with a new layer, fail here, by name.
"""

from __future__ import annotations

import collections
from typing import Any

import pytest
from jax.extend import core as jex
from library_layers import LIBRARIES, NO_LAYERS, calls, layers_of

from jaxcam.transforms.primitives import VOCABULARY, describe
from jaxcam.transforms.walker import called, opened

#: Primitives that the vocabulary does not know, and why.
_RAW = "of JAX's own insides, met only where they are called by name"
UNKNOWN: dict[str, str] = {
    **dict.fromkeys(("geqrf", "ormqr", "householder_product", "dce_sink", "rng_bit_generator", "igamma_grad_a"), _RAW),
    **dict.fromkeys(("pmax", "pmin"), "an extreme over devices"),
    "bitcast_convert_type": "the bits of a number, by which its sign or its exponent is read",
    "reduce": "a reduction by any program, by which JAX 0.12 makes jnp.minmax",
    "scaled_dot": "a product of blocks of 8 bits with scales of their own",
}


def primitives_on(program: Any, active: list[bool]) -> tuple[set[str], list[bool]]:
    """The primitives that act on what depends on the active inputs, and which outputs depend on these."""
    jaxpr, _ = opened(program)
    found: set[str] = set()
    live = {v for v, a in zip(jaxpr.invars, active, strict=True) if a}
    for eqn in jaxpr.eqns:
        ins = [not isinstance(v, jex.Literal) and v in live for v in eqn.invars]
        if not any(ins):
            continue
        found.add(eqn.primitive.name)
        outs = [True] * len(eqn.outvars)
        for body, given in bodies(eqn, ins):
            inside, body_outs = primitives_on(body, given)
            found |= inside
            if describe(eqn).kind == "call":
                outs = body_outs
        live.update(v for v, a in zip(eqn.outvars, outs, strict=True) if a)
    return found, [not isinstance(v, jex.Literal) and v in live for v in jaxpr.outvars]


def bodies(eqn: Any, ins: list[bool]) -> list[tuple[Any, list[bool]]]:
    """The programs inside an equation, and which of their inputs depend on something."""
    known = describe(eqn)
    if known.kind == "call":
        return [(called(eqn), ins)]
    if eqn.primitive.name == "scan":
        return [(eqn.params["jaxpr"], [True] * len(ins))]
    if eqn.primitive.name == "cond":
        return [(branch, ins[1:]) for branch in eqn.params["branches"]]
    return []


def news(programs: Any) -> dict[str, list[str]]:
    """Primitives that nobody knows, and where they were met."""
    found = collections.defaultdict(list)
    for where, (program, active) in programs:
        for name in primitives_on(program, active)[0] - set(VOCABULARY) - set(UNKNOWN):
            found[name].append(where)
    return dict(found)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_layer_is_tried_or_is_none(library):
    module, base, layers = LIBRARIES[library]
    assert layers_of(module, base) - set(NO_LAYERS) <= set(layers)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_primitives_of_every_layer_are_known(library):
    module, base, layers = LIBRARIES[library]
    there = layers_of(module, base)  # an older version has fewer
    assert not news((f"{library}.{name}", make()) for name, make in layers.items() if name in there)


@pytest.mark.filterwarnings("ignore")  # of functions that are on their way out, or take such numbers unwillingly
def test_the_primitives_of_every_function_are_known():
    found, names = [], set()
    for name, program in calls():
        found.append((name, program))
        names.add(name.split("/")[0])
    assert len(names) > 400, len(names)
    assert not news(found)


def test_a_primitive_that_nobody_declared_is_shown(monkeypatch):
    monkeypatch.delitem(VOCABULARY, "logistic")
    layers = LIBRARIES["flax.nnx"][2]
    assert news([("lstm", layers["LSTMCell"]())]) == {"logistic": ["lstm"]}
    assert news([("linear", layers["Linear"]())]) == {}


def test_what_is_listed_as_unknown_is_not_known():
    assert not set(UNKNOWN) & set(VOCABULARY) and all(UNKNOWN.values())
