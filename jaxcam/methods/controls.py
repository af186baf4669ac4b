"""What every comparison needs beside its methods: maps that know nothing of the class, or of the picture."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.methods.result import (
    CAM,
    HeadFn,
    Params,
    Target,
    cam_of_coefficients,
    cam_of_map,
    check_activations,
    scalar_score,
)
from jaxcam.shapley.result import check_key


def random_cam(params: Params, activations: jax.Array, key: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Random-CAM: `alpha_k` drawn evenly from -1 to 1, of the key alone.

    The control of a table: what a map owes to the activations, and nothing to the head. A method that is not better
    than this shows where the layer is active. It is no uniform map.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example.
      key: random key.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function `logits -> ()`.

    Returns:
      A `CAM`; `diagnostics` holds `logit`, for which the head is evaluated once. No coefficient depends on it, nor on
      the activations: derivatives are 0.

    Raises:
      JaxcamError: as in `grad_cam`.

    References:
      Gildenblat et al., pytorch-grad-cam, 2021, with the same interval.
    """
    check_activations(activations)
    check_key(key)
    logit = scalar_score(head, params, target)(activations)
    alpha = jax.random.uniform(key, activations.shape[-1:], jnp.float32, -1, 1).astype(activations.dtype)
    return cam_of_coefficients(alpha, activations, logit=logit)


def uniform_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Uniform map: 1 at every position, whatever the picture and the class.

    The control of a table that says what a measure gives to a map that shows nothing: the share of the picture that is
    in the boxes, no drop where nothing is hidden. Scaled over its maximum, as its entry says, it keeps all of a
    picture; from its least to its greatest value it would hide all of it. Every channel has an equal part of it.

    Arguments and errors as in `grad_cam`. Cost: one evaluation of the head, for the logit. Derivatives are 0.

    References:
      None: what chance is to a score.
    """
    check_activations(activations)
    logit = scalar_score(head, params, target)(activations)
    return cam_of_map(jnp.ones(activations.shape[:2], activations.dtype), activations, logit=logit)
