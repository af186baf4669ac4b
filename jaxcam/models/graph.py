"""The structure of a network of this library's own families, without its weights."""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx

from jaxcam.models.config import Config


@functools.cache
def graph(config: Config) -> tuple[nnx.GraphDef, tuple[str, ...], Any]:
    """The graph definition, the stage names and the abstract parameters of a network; no weights are made."""
    model = nnx.eval_shape(lambda: config.build(rngs=_one_key()))
    graphdef, state = nnx.split(model)
    return graphdef, model.layers, nnx.to_pure_dict(state)


class _Still(nnx.RngStream):
    """The same key at every call: counting calls inside of a trace takes longer than all the rest of a network."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def _one_key() -> nnx.Rngs:
    """Keys for weights that are not made."""
    rngs = nnx.Rngs()
    setattr(rngs, "default", _Still(0, tag="default"))  # noqa: B010
    return rngs
