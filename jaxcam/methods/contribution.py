"""The methods that propagate contributions of the activations through the head: by DeepLIFT, or by relevance."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.methods.result import (
    CAM,
    HeadFn,
    Params,
    Target,
    cam_of_coefficients,
    cam_of_contributions,
    check_activations,
    check_references,
    pick,
    scalar_score,
)
from jaxcam.transforms.arithmetic import quotient
from jaxcam.transforms.deeplift import deeplift
from jaxcam.transforms.lrp import Relevance, lrp
from jaxcam.transforms.lrp.layer_rules import RuleChoice


def _multipliers(score, activations, reference):
    """`(multipliers (h, w, K), F(A), F(reference))`."""
    paired = deeplift(score, with_reference=True)
    logit, pull, base = jax.vjp(lambda a: paired(a, reference), activations, has_aux=True)
    (multiplier,) = pull(jnp.ones_like(logit))
    return multiplier, logit, base


def _contributions(score, activations, reference):
    """`(contributions (h, w, K), F(A), F(reference))`."""
    multiplier, logit, base = _multipliers(score, activations, reference)
    return (activations - reference) * multiplier, logit, base


def _lift(params, activations, head, target):
    """DeepLIFT's multipliers `(h, w, K)` against zero, the values F(A) and F(0), and what the contributions lack."""
    check_activations(activations)
    multiplier, logit, base = _multipliers(scalar_score(head, params, target), activations, None)
    gap = jnp.sum(jnp.sum(activations * multiplier, axis=(0, 1))) - (logit - base)
    return multiplier, {"logit": logit, "logit_zero": base}, gap


def lift_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """LIFT-CAM: `alpha_k = sum over positions of the DeepLIFT contributions of A_k`, reference 0.

    Complete: `sum_k alpha_k = F(A) - F(0)` on any head. Equal to the exact Shapley values on a
    linear head, and close to them on others. A channel that is zero everywhere gets exactly 0.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function `logits -> ()`.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A), `logit_zero` F(0) and `completeness_gap`. Cost: one
      evaluation of the head on A, one on 0 (shared by a batch), and one backward pass.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, or the class does not exist (a traced one gives NaN
        throughout instead).
      UnsupportedPrimitive: the head uses an operation without a DeepLIFT rule; named with its place.

    References:
      Jung & Oh, Towards Better Explanations of Class Activation Mapping, ICCV 2021, eq. 9.
    """
    multiplier, values, gap = _lift(params, activations, head, target)
    alpha = jnp.sum(activations * multiplier, axis=(0, 1))
    return cam_of_coefficients(alpha, activations, **values, completeness_gap=gap)


def hires_lift_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """HiRes-LIFT-CAM: the map is `relu(sum_k C_k)`, C `(h, w, K)` the DeepLIFT contributions of `lift_cam`.

    What HiResCAM is to Grad-CAM: the contributions stay where they are, instead of being summed over the positions
    and multiplied by the activations again. Complete by position: before the ReLU the map adds up to F(A) - F(0) on
    any head. The coefficients, `sum over positions of C_k`, are those of `lift_cam`, as are arguments, diagnostics,
    cost and errors.

    References:
      Jung & Oh, ICCV 2021, eq. 9; Shrikumar et al., Learning Important Features Through Propagating Activation
      Differences, ICML 2017; Draelos & Carin, arXiv:2011.08891, 2020.
    """
    multiplier, values, gap = _lift(params, activations, head, target)
    return cam_of_contributions(activations * multiplier, **values, completeness_gap=gap)


def multiplier_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Multiplier-CAM: `alpha_k = mean over positions of the DeepLIFT multipliers of A_k`, reference 0.

    Grad-CAM with the multipliers of `lift_cam` in place of the gradient: slopes from 0 to A instead of slopes at A, so
    that a class that is saturated keeps its evidence. On a linear head it is Grad-CAM. The coefficients hold no
    activation, so the map is right where activations are negative as well; they add up to nothing in particular,
    and that of a channel that is zero everywhere, which is nowhere in the map, is the mean slope there.

    Arguments, errors and cost as in `lift_cam`, and so are `diagnostics` but for the gap, which is of the
    contributions `A * multiplier` over all positions.

    References:
      Shrikumar et al., Learning Important Features Through Propagating Activation Differences, ICML 2017, eq. 4;
      Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1.
    """
    multiplier, values, gap = _lift(params, activations, head, target)
    return cam_of_coefficients(jnp.mean(multiplier, axis=(0, 1)), activations, **values, contribution_gap=gap)


def deep_shap_cam(
    params: Params, activations: jax.Array, *, head: HeadFn, target: Target, references: jax.Array | None = None
) -> CAM:
    """DeepSHAP-CAM: the mean of DeepLIFT contributions over several references.

    With the single zero reference (the default) it is LIFT-CAM. Complete with respect to the mean
    of F over the references. A reference at which F is not finite, as where a norm of 0 divides, says nothing and is
    left out; NaN where all are.

    Args:
      params, activations, head, target: as in `lift_cam`.
      references: `(R, h, w, K)` reference activations, for example those of other images.

    Returns:
      A `CAM`; `diagnostics` as in `lift_cam`, with `logit_zero` the mean of F over the references, and
      `references_left_out`, how many. Cost: R times that of `lift_cam`.

    Raises:
      JaxcamError: as in `lift_cam`, and for references of another shape.

    References:
      Lundberg & Lee, NeurIPS 2017, section 4.2; Jung & Oh, supplement, section 5.1.
    """
    check_activations(activations)
    if references is None:
        return lift_cam(params, activations, head=head, target=target)
    check_references(references, activations)
    score = scalar_score(head, params, target)
    # One reference after the other: vectorised over references as well as over a batch, attention heads come
    # out wrong on CPUs with jaxlib 0.10.2, whose compiler miscompiles them (eager mode and 0.12 are right).
    contributions, logits, bases = jax.lax.map(lambda r: _contributions(score, activations, r), references)
    known = jnp.isfinite(bases)
    count = jnp.sum(known, dtype=bases.dtype)
    each = jnp.where(known[:, None, None, None], contributions, 0)
    alpha = jnp.sum(jnp.sum(each, axis=0) / count.astype(each.dtype), axis=(0, 1))
    logit, base = logits[0], jnp.sum(jnp.where(known, bases, 0)) / count
    return cam_of_coefficients(
        alpha, activations, logit=logit, logit_zero=base, completeness_gap=jnp.sum(alpha) - (logit - base),
        references_left_out=len(bases) - count,
    )  # fmt: skip


def lrp_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    rule: RuleChoice = "epsilon",
    epsilon: float = 1e-9,
    gamma: float = 0.25,
    attention: str = "fixed",
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
      attention: "fixed" or "attnlrp": whether relevance passes the softmax of an attention, see `transforms.lrp.lrp`.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A), `relevance_sum` (of alpha), `absorbed_by_biases`,
      `absorbed_by_stabiliser` and `conservation_gap`: the three together minus the logit, 0 up to rounding. Cost: one
      evaluation of the head and one backward pass; other rules than epsilon run layers with weights
      two to four times.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, the class does not exist (a traced one gives NaN
        throughout instead), or the rule does not.
      UnsupportedPrimitive: the head uses an operation without an LRP rule; named with its place.

    References:
      Jung & Oh, ICCV 2021, supplement, eq. 1; Bach et al., PLoS ONE 10(7), 2015.
    """
    relevance, diagnostics = _relevance(params, activations, head, target, rule, epsilon, gamma, attention)
    return cam_of_coefficients(jnp.sum(relevance, axis=(0, 1)), activations, **diagnostics)


def hires_lrp_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    rule: RuleChoice = "epsilon",
    epsilon: float = 1e-9,
    gamma: float = 0.25,
    attention: str = "fixed",
) -> CAM:
    """HiRes-LRP-CAM: the map is `relu(sum_k R_k)`, R `(h, w, K)` the relevance of `lrp_cam`.

    To LRP-CAM what `hires_lift_cam` is to LIFT-CAM: the relevance stays where it is, instead of being summed over the
    positions and multiplied by the activations again. Before the ReLU the map adds up to F(A) less what biases and
    stabiliser absorb. The coefficients are those of `lrp_cam`, as are arguments, diagnostics, cost and errors. With the
    epsilon rule on a head of ReLUs, maxima and linear layers it is HiResCAM.

    References:
      Bach et al., PLoS ONE 10(7), 2015; Draelos & Carin, arXiv:2011.08891, 2020.
    """
    relevance, diagnostics = _relevance(params, activations, head, target, rule, epsilon, gamma, attention)
    return cam_of_contributions(relevance, **diagnostics)


def lrp_multiplier_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    rule: RuleChoice = "epsilon",
    epsilon: float = 1e-9,
    gamma: float = 0.25,
    attention: str = "fixed",
) -> CAM:
    """LRP-Multiplier-CAM: `alpha_k = mean over positions of R_k / A_k`, R the relevance of `lrp_cam`.

    To LRP-CAM what `multiplier_cam` is to LIFT-CAM: relevance per unit of activation, so that the map, which multiplies
    by the activations, does so once, and is right where they are negative as well. Where an activation is 0 it has no
    relevance, and the quotient counts as 0 (0/0); a channel that is zero everywhere gets exactly 0. With the epsilon
    rule on a head of ReLUs, maxima and linear layers it is Grad-CAM with the slopes at activations of 0 left out.
    Arguments, diagnostics, which are those of the relevance, cost and errors as in `lrp_cam`.

    References:
      Bach et al., PLoS ONE 10(7), 2015; Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1.
    """
    relevance, diagnostics = _relevance(params, activations, head, target, rule, epsilon, gamma, attention)
    slopes = quotient(relevance, activations)
    return cam_of_coefficients(jnp.mean(slopes, axis=(0, 1)), activations, **diagnostics)


def relevance_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    rule: RuleChoice = "z_plus",
    epsilon: float = 1e-9,
    gamma: float = 0.25,
) -> CAM:
    """Relevance-CAM: `alpha_k = sum over positions of the contrastive relevance of A_k`.

    As `lrp_cam`, with relevance that begins at the logits with `z_c` for the class and `-z_c / (C - 1)` for every
    other, and so adds up to 0: what speaks for all classes alike cancels. Of a function of the logits, each class has
    its share `z df/dz`, and the classes that it does not depend on the opposite of their sum; of one that depends on
    all classes there is no contrast. Dead channels get exactly 0, and 0/0 is 0, as in `lrp_cam`.

    Args:
      params, activations, head, target: as in `lrp_cam`.
      rule: the paper's is "z_plus"; as in `lrp_cam`.
      epsilon, gamma: as in `lrp_cam`.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A), `relevance_sum`, `absorbed_by_biases`, `absorbed_by_stabiliser` and
      `conservation_gap`: the three together less what relevance began with, 0 up to rounding. Cost as `lrp_cam`.

    Raises:
      JaxcamError, UnsupportedPrimitive: as in `lrp_cam`.

    References:
      Lee et al., Relevance-CAM: Your Model Already Knows Where to Look, CVPR 2021, section 3; Gu, Yang & Tresp,
      Understanding Individual Decisions of CNNs via Contrastive Backpropagation, ACCV 2018.
    """
    check_activations(activations)

    def against_the_others(logits: jax.Array) -> jax.Array:
        slope = jax.grad(pick)(logits, target)
        own, others = slope * logits, slope == 0
        count = jnp.sum(others, dtype=own.dtype)
        return jnp.where(others, -jnp.sum(own) / jnp.maximum(count, 1), own)

    propagate = lrp(lambda a: head(params, a), rule, epsilon=epsilon, gamma=gamma, begin=against_the_others)
    explained = propagate(activations)
    return cam_of_coefficients(
        jnp.sum(explained.relevance, axis=(0, 1)), activations,
        **_conserved(explained, pick(explained.value, target), jnp.sum(against_the_others(explained.value))),
    )  # fmt: skip


def _relevance(params, activations, head, target, rule, epsilon, gamma, attention):
    """The relevance `(h, w, K)` of the activations, and the diagnostics of `lrp_cam`."""
    check_activations(activations)
    score = scalar_score(head, params, target)
    explained = lrp(score, rule, epsilon=epsilon, gamma=gamma, attention=attention)(activations)
    return explained.relevance, _conserved(explained, explained.value, explained.value)


def _conserved(explained: Relevance, logit: jax.Array, begun: jax.Array) -> dict[str, jax.Array]:
    """The diagnostics of relevance that began as `begun ()`."""
    total, absorbed = jnp.sum(jnp.sum(explained.relevance, axis=(0, 1))), explained.absorbed
    return {
        "logit": logit,
        "relevance_sum": total,
        "absorbed_by_biases": absorbed["biases"],
        "absorbed_by_stabiliser": absorbed["stabiliser"],
        "conservation_gap": total + absorbed["biases"] + absorbed["stabiliser"] - begun,
    }
