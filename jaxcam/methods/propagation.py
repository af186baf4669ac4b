"""The methods that propagate contributions instead of gradients: LIFT-CAM and DeepSHAP-CAM."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.methods.result import CAM, Head, Params, Target, check_activations, make_cam, scalar_score
from jaxcam.transforms.deeplift import deeplift


def _contributions(score, activations, reference):
    """`(contributions (h, w, K), F(A), F(reference))`."""
    paired = deeplift(score, with_reference=True)
    logit, pull, base = jax.vjp(lambda a: paired(a, reference), activations, has_aux=True)
    (multiplier,) = pull(jnp.ones_like(logit))
    delta = activations if reference is None else activations - reference
    return delta * multiplier, logit, base


def lift_cam(params: Params, activations: jax.Array, *, head: Head, target: Target) -> CAM:
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
      JaxcamError: activations are not `(h, w, K)` floats, or the class does not exist.
      UnsupportedPrimitive: the head uses an operation without a DeepLIFT rule; named with its place.

    References:
      Jung & Oh, Towards Better Explanations of Class Activation Mapping, ICCV 2021, eq. 9.
    """
    check_activations(activations)
    contributions, logit, base = _contributions(scalar_score(head, params, target), activations, None)
    alpha = jnp.sum(contributions, axis=(0, 1))
    gap = jnp.sum(alpha) - (logit - base)
    return make_cam(alpha, activations, logit=logit, logit_zero=base, completeness_gap=gap)


def deep_shap_cam(
    params: Params, activations: jax.Array, *, head: Head, target: Target, references: jax.Array | None = None
) -> CAM:
    """DeepSHAP-CAM: the mean of DeepLIFT contributions over several references.

    With the single zero reference (the default) it is LIFT-CAM. Complete with respect to the mean
    of F over the references.

    Args:
      params, activations, head, target: as in `lift_cam`.
      references: `(R, h, w, K)` reference activations, for example those of other images.

    Returns:
      A `CAM`; `diagnostics` as in `lift_cam`, with `logit_zero` the mean of F over the references.
      Cost: R times that of `lift_cam`.

    Raises:
      JaxcamError: as in `lift_cam`, and for references of another shape.

    References:
      Lundberg & Lee, NeurIPS 2017, section 4.2; Jung & Oh, supplement, section 5.1.
    """
    check_activations(activations)
    if references is None:
        return lift_cam(params, activations, head=head, target=target)
    if jnp.ndim(references) != 4 or jnp.shape(references)[1:] != activations.shape:
        raise JaxcamError(
            f"references must have shape (R, {', '.join(map(str, activations.shape))}), not {jnp.shape(references)}"
        )
    score = scalar_score(head, params, target)
    # One reference after the other: vectorised over references as well as over a batch, attention heads come
    # out wrong on CPUs with jaxlib 0.10.2, whose compiler miscompiles them (eager mode and 0.12 are right).
    contributions, logits, bases = jax.lax.map(lambda r: _contributions(score, activations, r), references)
    alpha = jnp.sum(jnp.mean(contributions, axis=0), axis=(0, 1))
    logit, base = logits[0], jnp.mean(bases)
    gap = jnp.sum(alpha) - (logit - base)
    return make_cam(alpha, activations, logit=logit, logit_zero=base, completeness_gap=gap)
