"""Guests wrapped, and what cutting them by hand gives."""

from __future__ import annotations

import functools

import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import CLASSES, picture

import jaxcam
from jaxcam import cutting
from jaxcam.methods.registry import METHODS

RULES = jaxcam.Preprocessing(size=16, resize="squash", resize_to=16)
EXAMPLE_INPUT = jax.ShapeDtypeStruct(guests.IMAGE, jnp.float32)
PICTURES = [picture(40, 70, 1), picture(90, 50, 2), picture(64, 64, 3)]
NAMES = (*CLASSES, "other")


def made(name: str) -> guests.Guest:
    """A guest; skips where its library is absent."""
    if name not in guests.GUESTS:
        pytest.skip(f"{name} needs a library that is not installed")
    return guests.GUESTS[name]()


def wrapped(guest: guests.Guest, **options):
    """A guest through `jaxcam.wrap`."""
    return jaxcam.wrap(
        guest.model, guest.params, **({"preprocessing": RULES, "classes": NAMES} | guest.options | options)
    )


@functools.cache
def by_hand(name: str, layer: str, *methods: str):
    """`(pixels, target) -> (logits, CAM by method, F(0))` without `wrap` or the engine; compiled once."""
    guest = made(name)
    cut = cutting.cut(guest.model, guest.params, at=layer, example=EXAMPLE_INPUT, **guest.options)

    @jax.jit
    def run(params, x, target):
        activations, head_params = cut.features.with_head_params(params, x)
        results = {m: METHODS[m].function(head_params, activations, head=cut.head, target=target) for m in methods}
        return cut.predict(params, x), results, cut.head(head_params, jnp.zeros_like(activations))

    return lambda pixels, target: run(guest.params, RULES(pixels), target)


def same(ours, theirs, scale=1.0):
    """Equal up to rounding in another order."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale)
