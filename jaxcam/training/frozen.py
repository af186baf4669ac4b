"""The part of a network that is not trained, and the rest: layers and their parameters told apart."""

from __future__ import annotations

import jax
import numpy as np

from jaxcam.errors import JaxcamError, unknown
from jaxcam.models.config import Config
from jaxcam.models.graph import graph
from jaxcam.models.network import Part
from jaxcam.models.trees import flatten, unflatten


def resolved(config: Config, layer: str) -> str:
    """The full name of the last layer that is kept as it is.

    Raises:
      JaxcamError: there is no such layer, or nothing is left to train behind it.
    """
    stages = config.layers
    within = [n for n in stages if n == layer or n.startswith(layer + ".")]
    if not within:
        raise unknown("layer", layer, stages)
    if within[-1] == stages[-1]:
        raise JaxcamError(f"behind {layer} nothing is left to train")
    return within[-1]


def trained(config: Config, after: str, size: int) -> set[str]:
    """Paths of the parameters and statistics that the layers behind `after` use, for inputs of `size` pixels."""
    flat = flatten(graph(config)[2])
    image = jax.ShapeDtypeStruct((size, size, 3), np.float32)
    a = jax.eval_shape(Part(config, None, after), graph(config)[2], image)
    part = Part(config, after, None, rank=len(a.shape))
    program = jax.make_jaxpr(lambda values, x: part(unflatten(dict(zip(flat, values, strict=True))), x))(
        list(flat.values()), a
    )
    read = {id(v) for eqn in program.jaxpr.eqns for v in eqn.invars}
    return {path for path, v in zip(flat, program.jaxpr.invars, strict=False) if id(v) in read}


def divided(tree: dict, paths: set[str]) -> tuple[dict, dict]:
    """A nested dict in two: what lies at `paths`, and the rest."""
    flat = flatten(tree)
    return tuple(unflatten({p: v for p, v in flat.items() if (p in paths) is inside}) for inside in (True, False))  # type: ignore[return-value]


def joined(a: dict, b: dict) -> dict:
    """The inverse of `divided`."""
    return unflatten(flatten(a) | flatten(b))
