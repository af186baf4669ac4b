"""The one result type of every method, and what the methods share."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam import notebooks
from jaxcam.errors import JaxcamError
from jaxcam.methods.maps import combine, scale_map
from jaxcam.transforms.arithmetic import of_class

#: Whatever the head takes first: a pytree of arrays.
Params = Any
#: `(params, activations (h, w, K)) -> logits (C,)`.
HeadFn = Callable[[Params, jax.Array], jax.Array]
#: `(params, image (H, W, 3)) -> logits (C,)`, a whole network.
NetworkFn = Callable[[Params, jax.Array], jax.Array]
#: A class index (an array, so that a new class never recompiles) or a function `logits (C,) -> ()`. An index that is
#: none, below 0 or too large, is an error where it is known, and NaN throughout where it is traced.
Target = int | jax.Array | Callable[[jax.Array], jax.Array]


class CAM(NamedTuple):
    """A class activation map of one example.

    Attributes:
      coefficients: `(K,)` alpha: one weight per channel, in the units of the method; of a map that is made position
        by position, what each channel gets, summed over the positions.
      map: `(h, w)` at the layer's resolution, not scaled: `relu(sum_k alpha_k A_k)`, or `relu(sum_k C_k)` of
        contributions `C (h, w, K)`. The method's entry in `METHODS` says which.
      diagnostics: per method, arrays such as `logit` F(A), `logit_zero` F(0), `completeness_gap`
        `sum_k alpha_k - (F(A) - F(0))`, `evaluations` (head evaluations spent); and of all `signed_map (h, w)`, the
        map before its ReLU: below zero where what is seen speaks against the class.
    """

    coefficients: jax.Array
    map: jax.Array
    diagnostics: dict[str, jax.Array]

    def __repr__(self) -> str:
        """Shapes, and of concrete arrays what they hold, in a few lines."""
        told = [f"{name}={_told(value)}" for name, value in self.diagnostics.items()]
        return (
            f"CAM(\n  coefficients={_told(self.coefficients)},\n  map={_told(self.map)},\n"
            f"  diagnostics: {', '.join(told)}\n)"
        )

    def _repr_html_(self) -> str:
        """The map in colours and a small table, which a notebook shows; of a batch or under a trace, the text."""
        if isinstance(self.map, jax.core.Tracer) or jnp.ndim(self.map) != 2:
            return f"<pre>{html.escape(repr(self))}</pre>"
        named = [("coefficients", self.coefficients), ("map", self.map), *self.diagnostics.items()]
        rows = [(name, _told(value)) for name, value in named]
        return notebooks.embedded(notebooks.heat_png(scale_map(self.map)), "the map") + notebooks.table(rows)


def _told(value: Any) -> str:
    """An array in a few words; of one that is traced, or not all of it here, the shape."""
    shape = f"{jnp.result_type(value)}{list(jnp.shape(value))}"
    if isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True) or not jnp.size(value):
        return shape
    if jnp.ndim(value) == 0:
        return f"{float(value):.4g}"
    least, most = float(jnp.min(value)), float(jnp.max(value))
    return f"{shape} in [{least:.4g}, {most:.4g}]"


class Inputs(NamedTuple):
    """Everything that a method may be given of one example; `Method.call` hands over what the method declares.

    Attributes:
      params: what `head` takes first.
      activations: `(h, w, K)`.
      head: `(params, activations) -> logits (C,)`.
      target: class index, or a function of the logits.
      key: a random key.
      references: `(R, h, w, K)`.
      image: `(H, W, 3)`, the input of the network.
      network: `(network_params, image) -> logits (C,)`, the whole of it.
      network_params: what `network` takes first.
    """

    params: Any
    activations: jax.Array
    head: HeadFn
    target: Target
    key: jax.Array | None = None
    references: jax.Array | None = None
    image: jax.Array | None = None
    network: NetworkFn | None = None
    network_params: Any = None


def scalar_score(head: HeadFn, params: Params, target: Target) -> Callable[[jax.Array], jax.Array]:
    """`F`: activations `(h, w, K)` to the explained logit `()`; NaN for a traced class out of range."""

    return lambda activations: pick(head(params, activations), target)


def pick(logits: jax.Array, target: Target) -> jax.Array:
    """The target `()` of logits `(C,)`, or of what was made of them; NaN for a traced class out of range."""
    if callable(target):
        value = target(logits)
        if jnp.ndim(value) != 0:
            raise JaxcamError(f"a target function must return a scalar, not shape {jnp.shape(value)}")
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise JaxcamError(f"a target function must return a real number, not {jnp.result_type(value)}")
        return value
    if jnp.ndim(logits) != 1:
        raise JaxcamError(
            f"the head must return the logits (C,) of one example, not shape {jnp.shape(logits)}; take its batch "
            "axis away, as in head(params, activations[None])[0]"
        )
    if isinstance(target, str):
        raise JaxcamError(
            f"a method takes the index of a class, not its name; network.class_index({target!r}) finds it, and "
            "jaxcam.explain takes names"
        )
    try:
        is_index = jnp.ndim(target) == 0 and jnp.issubdtype(jnp.result_type(target), jnp.integer)
    except TypeError:  # nothing that arrays are made of
        is_index = False
    if not is_index:
        raise JaxcamError("a target is one class index or a function of the logits; use jax.vmap for several")
    return of_class(logits, target)


def check_activations(activations: jax.Array) -> None:
    """Raises a JaxcamError unless `activations` is one example `(h, w, K)` of real numbers."""
    if jnp.ndim(activations) != 3:
        raise JaxcamError(
            f"activations must have shape (h, w, K), not {jnp.shape(activations)}; use jax.vmap for a batch"
        )
    if not jnp.issubdtype(jnp.result_type(activations), jnp.floating):
        raise JaxcamError(f"activations must be floating point, not {jnp.result_type(activations)}")


def check_references(references: jax.Array, activations: jax.Array) -> None:
    """Raises a JaxcamError unless `references` are `(R, h, w, K)`, some examples of the activations' shape."""
    if jnp.ndim(references) != 4 or jnp.shape(references)[1:] != activations.shape:
        raise JaxcamError(
            f"references must have shape (R, {', '.join(map(str, activations.shape))}), not {jnp.shape(references)}"
        )


def cam_of_coefficients(
    coefficients: jax.Array, activations: jax.Array, *, logit: jax.Array, **diagnostics: jax.Array
) -> CAM:
    """The result of a method that gives every channel `(K,)` a weight: the map is `relu(sum_k alpha_k A_k)`.

    Where the logit is NaN, as that of a traced class that does not exist, all of it is.
    """
    alpha = _of_a_logit(logit, coefficients)
    signed = combine(alpha, activations)
    return CAM(alpha, jax.nn.relu(signed), {"logit": logit, "signed_map": signed} | diagnostics)


def cam_of_contributions(contributions: jax.Array, *, logit: jax.Array, **diagnostics: jax.Array) -> CAM:
    """The result of a method that gives every element `(h, w, K)` a contribution: the map is `relu(sum_k C_k)`.

    Where the logit is NaN, as that of a traced class that does not exist, all of it is.
    """
    found = _of_a_logit(logit, contributions)
    signed = jnp.sum(found, -1)
    return CAM(jnp.sum(found, (0, 1)), jax.nn.relu(signed), {"logit": logit, "signed_map": signed} | diagnostics)


def cam_of_map(map: jax.Array, activations: jax.Array, *, logit: jax.Array, **diagnostics: jax.Array) -> CAM:
    """The result of a method that makes a map `(h, w)` and tells no channel from another: each has an equal part.

    `alpha_k` is the sum of the map behind its ReLU, over K. Where the logit is NaN, all of it is.
    """
    signed = _of_a_logit(logit, map)
    shown = jax.nn.relu(signed)
    alpha = jnp.broadcast_to(jnp.sum(shown) / activations.shape[-1], activations.shape[-1:])
    return CAM(alpha, shown, {"logit": logit, "signed_map": signed} | diagnostics)


def _of_a_logit(logit: jax.Array, found: jax.Array) -> jax.Array:
    """What was found, and NaN where there is no logit to explain: a gradient of nothing would be 0."""
    return jnp.where(jnp.isnan(logit), logit.astype(found.dtype), found)
