"""The methods that ask for the logit when only some channels are present: Ablation-CAM."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.methods.result import CAM, HeadFn, Params, Target, cam_of_coefficients, check_activations, scalar_score
from jaxcam.transforms.arithmetic import quotient
from jaxcam.transforms.coalition import coalition_game


def ablation_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    relative: bool = False,
    chunk_size: int | None = None,
) -> CAM:
    """Ablation-CAM: `alpha_k = F(A) - F(A without k)`, the drop of the logit when a channel is set to zero.

    A channel that is zero everywhere gets exactly 0. On a linear head the coefficients are the
    Shapley values, and no coalition is evaluated at all.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function `logits -> ()`.
      relative: divide by F(A), as in the method's own paper (0 where F(A) is 0). This flips the sign of
        every coefficient where the logit is negative.
      chunk_size: coalitions evaluated at once; chosen from the head's size when None.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A). Cost: K + 1 evaluations of the head behind its first
      dense layer or convolution, which is shared by all of them.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, or the class does not exist (a traced one gives NaN
        throughout instead).

    References:
      Desai & Ramaswamy, Ablation-CAM, WACV 2020, eq. 3.
    """
    check_activations(activations)
    game = coalition_game(scalar_score(head, params, target), activations)
    players = game.num_players
    if game.is_additive:
        base, alpha = game.marginals()
        logit = base + jnp.sum(alpha)
    else:
        masks = jnp.concatenate([jnp.ones((1, players)), 1.0 - jnp.eye(players)])
        values = game.chunked(masks, chunk_size=chunk_size)
        logit, alpha = values[0], values[0] - values[1:]
        alpha = jnp.where(jnp.any(activations != 0, axis=(0, 1)), alpha, 0.0)
    if relative:
        alpha = quotient(alpha, logit)
    return cam_of_coefficients(alpha, activations, logit=logit)
