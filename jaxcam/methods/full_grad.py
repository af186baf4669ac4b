"""FullGrad: what the activations and every bias behind them have of the logit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.result import CAM, HeadFn, Params, Target, cam_of_contributions, check_activations, scalar_score
from jaxcam.transforms.full_gradient import full_gradient


def full_grad(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """FullGrad: the map is `sum_k psi(g A)_k + sum over biases of sum_c psi(b dF/db)_c`, resized to the layer.

    psi is the absolute value, scaled from its least to its greatest value over a whole layer (0 where it is constant).
    The full gradient `g A`, `b dF/db` adds up to F(A) exactly, on any head; the map, which has no signs, does not. A
    bias is whatever is added that does not depend on the activations, found in the traced program, maps that go around
    the layer too; and of functions that are no lines between kinks that of the tangent. Only biases of maps have a
    place: those of dense layers, and of tokens, are in `diagnostics` alone. At the layer "input" this is the paper's;
    at any other the biases before it are left out. A channel's coefficient is the sum of its `psi(g A)` and of an equal
    part of the biases.

    Arguments and errors as in `grad_cam`.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit`, `input_part` (the sum of `g A`), `bias_part` (of all `b dF/db`),
      `placed_part` (of those that have a place) and `full_gradient_gap`, the first two less the logit: 0 but for
      rounding.
      Cost: one evaluation of the head and one backward pass, and tangents of functions that are no ReLUs.

    References:
      Srinivas & Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019, eqs. 4 and 8.
    """
    check_activations(activations)
    parts = full_gradient(scalar_score(head, params, target))(activations)
    size = activations.shape[:2]
    biases = jnp.zeros(size, activations.dtype)
    total = placed = jnp.zeros((), parts.value.dtype)
    for bias in parts.biases:
        total += jnp.sum(bias).astype(total.dtype)
        if bias.ndim > 3 and all(n == 1 for n in bias.shape[:-3]):  # a batch of one
            bias = bias.reshape(bias.shape[-3:])
        if bias.ndim == 3:
            placed += jnp.sum(bias).astype(placed.dtype)
            biases += resize_map(jnp.sum(scale_map(jnp.abs(bias)), -1), size).astype(biases.dtype)
    own = scale_map(jnp.abs(parts.inputs))
    contributions = own + (biases / activations.shape[-1])[..., None]
    inputs = jnp.sum(jnp.sum(parts.inputs, (0, 1)))
    gap = inputs + total - parts.value
    # Scaled, what is no number would be 0 in the map, and nothing said.
    contributions = contributions + 0 * gap
    return cam_of_contributions(
        contributions, logit=parts.value, input_part=inputs, bias_part=total, placed_part=placed,
        full_gradient_gap=gap,
    )  # fmt: skip
