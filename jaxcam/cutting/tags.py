"""Names on values of a program: what people write into their code, and what the adapters add to a model's layers."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core as jex

from jaxcam.errors import JaxcamError

T = TypeVar("T")

_PREFIX = "jaxcam/"


def tag(x: T, name: str) -> T:
    """Names a value of your own network, so that it can be cut there: `x = jaxcam.tag(x, "conv5")`.

    The identity, under every transformation (jit, vmap, grad, remat), and nothing at all in the compiled program.

    Args:
      x: an array `(h, w, K)`, with or without a batch axis; or a pytree, whose leaves get
        names such as `conv5[0]`.
      name: what `jaxcam.split(..., at=name)` calls it. A name used twice is told apart as `name#1`, `name#2`.

    Raises:
      JaxcamError: the name is empty, or holds the `#` that numbers repeated names.
    """
    if not name or "#" in name:
        raise JaxcamError(f"a tag's name must not be empty or hold '#', as {name!r} does")
    return mark(x, name, "tag")


def mark(x: T, name: str, kind: str) -> T:
    """Every array in `x` labelled with a layer's name and kind (the class of the layer)."""

    def label(path, leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        return checkpoint_name(leaf, f"{_PREFIX}{kind}/{name}{jax.tree_util.keystr(path)}")

    return jax.tree_util.tree_map_with_path(label, x)


def read(eqn: jex.JaxprEqn) -> tuple[str, str] | None:
    """`(kind, name)` of the label that an equation puts on its value; None for any other equation."""
    label: Any = eqn.params.get("name")
    if eqn.primitive.name != "name" or not str(label).startswith(_PREFIX):
        return None
    kind, name = label[len(_PREFIX) :].split("/", 1)
    return kind, name
