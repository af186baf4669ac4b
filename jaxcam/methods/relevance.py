"""LRP-CAM: the coefficients are sums of relevances."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.methods.result import CAM, Head, Params, Target, check_activations, make_cam, scalar_score
from jaxcam.transforms.lrp import lrp
from jaxcam.transforms.lrp.layer_rules import RuleChoice


def lrp_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: Head,
    target: Target,
    rule: RuleChoice = "epsilon",
    epsilon: float = 1e-9,
    gamma: float = 0.25,
) -> CAM:
    """LRP-CAM: `alpha_k = sum over positions of the relevance of A_k` for the explained logit.

    The default is what the authors of LIFT-CAM ran: the epsilon rule on every layer, biases absorbing relevance; on a
    head of ReLUs, maxima and linear layers that is `sum A dF/dA`, and on a linear one the exact Shapley values. A
    channel that is zero everywhere gets exactly 0, unless the head begins with a function that is
    not 0 at 0 (a sigmoid, or softplus). A sum of zero shares out nothing (0/0 is 0).

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function `logits -> ()`.
      rule: "epsilon", "z_plus", "alpha1_beta0", "alpha2_beta1", "gamma", "epsilon_plus", "epsilon_gamma"; or a
        rule, a sequence of rules (one per layer with weights) or a function of the layer: see `transforms.lrp.lrp`.
      epsilon: the stabiliser.
      gamma: of the gamma rules.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A), `relevance_sum` (of alpha), `absorbed_by_biases`,
      `absorbed_by_stabiliser` and `conservation_gap`: the three together minus the logit, 0 up to rounding. Cost: one
      evaluation of the head and one backward pass; other rules than epsilon run layers with weights
      two to four times.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, the class does not exist, or the rule.
      UnsupportedPrimitive: the head uses an operation without an LRP rule; named with its place.

    References:
      Jung & Oh, ICCV 2021, supplement, eq. 1; Bach et al., PLoS ONE 10(7), 2015.
    """
    check_activations(activations)
    explained = lrp(scalar_score(head, params, target), rule, epsilon=epsilon, gamma=gamma)(activations)
    alpha = jnp.sum(explained.relevance, axis=(0, 1))
    total, absorbed = jnp.sum(alpha), explained.absorbed
    return make_cam(
        alpha,
        activations,
        logit=explained.value,
        relevance_sum=total,
        absorbed_by_biases=absorbed["biases"],
        absorbed_by_stabiliser=absorbed["stabiliser"],
        conservation_gap=total + absorbed["biases"] + absorbed["stabiliser"] - explained.value,
    )
