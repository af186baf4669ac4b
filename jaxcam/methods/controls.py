"""What every comparison needs beside its methods: a map that knows nothing of the class."""

from __future__ import annotations

import jax

from jaxcam.methods.result import CAM, HeadFn, Params, Target, cam_of_coefficients, check_activations, scalar_score


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
    logit = scalar_score(head, params, target)(activations)
    alpha = jax.random.uniform(key, activations.shape[-1:], activations.dtype, -1, 1)
    return cam_of_coefficients(alpha, activations, logit=logit)
