"""The methods made of gradients of the head: CAM, Grad-CAM and its kin.

In the formulas A is the activations `(h, w, K)`, F the explained logit as a function of A,
g = dF/dA, and sums run over positions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.methods.heads import GAP_LINEAR
from jaxcam.methods.result import (
    CAM,
    HeadFn,
    Params,
    Target,
    cam_of_coefficients,
    cam_of_contributions,
    check_activations,
    scalar_score,
)
from jaxcam.shapley.result import check_count, check_key
from jaxcam.transforms.arithmetic import quotient


def _value_and_gradient(params, activations, head, target):
    check_activations(activations)
    return jax.value_and_grad(scalar_score(head, params, target))(activations)


def product(activations: jax.Array, gradient: jax.Array) -> jax.Array:
    """`A g`, 0 where A is, also where g is infinite or NaN."""
    return activations * jnp.where((activations == 0) & ~jnp.isfinite(gradient), jnp.zeros_like(gradient), gradient)


def _of_live(coefficients: jax.Array, activations: jax.Array) -> jax.Array:
    """The coefficients, 0 of a channel that is zero everywhere and where the head is infinitely steep."""
    dead = jnp.all(activations == 0, axis=(0, 1))
    return jnp.where(dead & ~jnp.isfinite(coefficients), jnp.zeros_like(coefficients), coefficients)


def grad_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Grad-CAM: `alpha_k = mean over positions of g_k`.

    A channel that is zero everywhere has no part of the map: where g is infinite or NaN there, as a root's or a norm's
    at 0 is, its `alpha_k` is 0.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function `logits -> ()`.

    Returns:
      A `CAM`; `diagnostics` holds `logit`. Cost: one evaluation of the head and one backward pass.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, the class does not exist (a traced one gives
        NaN throughout instead), or the target function is not scalar.

    References:
      Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1.
    """
    logit, g = _value_and_gradient(params, activations, head, target)
    return cam_of_coefficients(_of_live(jnp.mean(g, axis=(0, 1)), activations), activations, logit=logit)


def grad_cam_pp(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Grad-CAM++: `alpha_k = sum w relu(g)` with `w = g^2 / (2 g^2 + (sum A) g^3)`.

    Derived for the score exp(F), whose higher derivatives are powers of g; the common factor
    exp(F) is left out, as it only scales the map. w is 0 where its denominator is 0.
    Channels that are zero everywhere, arguments, cost and errors as in `grad_cam`.

    References:
      Chattopadhay et al., Grad-CAM++, WACV 2018, eq. 19.
    """
    logit, g = _value_and_gradient(params, activations, head, target)
    total = jnp.sum(activations, axis=(0, 1), keepdims=True)
    # g^2 / (2 g^2 + S g^3) = 1 / (2 + S g) where g is not 0: no underflow of g^3 for small gradients.
    w = jnp.where(g != 0, quotient(jnp.ones_like(g), 2.0 + total * g), 0.0)
    alpha = jnp.sum(w * jax.nn.relu(g), axis=(0, 1))
    return cam_of_coefficients(_of_live(alpha, activations), activations, logit=logit)


def xgrad_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """XGrad-CAM: `alpha_k = sum of (A_k / sum A_k) g_k`; 0 for a channel with `sum A_k = 0`.

    What is zero counts for nothing, however steep the head is there (a root at 0).
    Arguments, cost and errors as in `grad_cam`.

    References:
      Fu et al., Axiom-based Grad-CAM, BMVC 2020, eq. 9.
    """
    logit, g = _value_and_gradient(params, activations, head, target)
    total = jnp.sum(activations, axis=(0, 1))
    return cam_of_coefficients(quotient(jnp.sum(product(activations, g), axis=(0, 1)), total), activations, logit=logit)


def hires_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """HiResCAM: the map is `relu(sum_k g_k * A_k)`, position by position.

    Grad-CAM with the gradient not averaged first. `alpha_k = sum of g_k * A_k` is what each channel gets in all;
    before the ReLU the map adds up to their sum, which on a linear head is F(A) - F(0). A channel that is zero
    everywhere gets exactly 0, however steep the head is there (a root at 0). Arguments, cost and errors as in
    `grad_cam`.

    References:
      Draelos & Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks,
      arXiv:2011.08891, 2020.
    """
    logit, g = _value_and_gradient(params, activations, head, target)
    return cam_of_contributions(product(activations, g), logit=logit)


def layer_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """LayerCAM: the map is `relu(sum_k relu(g_k) * A_k)`, position by position.

    HiResCAM of the positive gradients alone: behind a ReLU nothing counts against the class, so the map is the larger
    and the more alike for any two classes. `alpha_k = sum of relu(g_k) * A_k` is what each channel gets in all. A
    channel that is zero everywhere gets exactly 0, however steep the head is there. One layer; the paper adds up those
    of several. Arguments, cost and errors as in `grad_cam`.

    References:
      Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, TIP 2021, eqs. 6 to 8.
    """
    logit, g = _value_and_gradient(params, activations, head, target)
    return cam_of_contributions(product(activations, jax.nn.relu(g)), logit=logit)


def grad_cam_elementwise(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Grad-CAM element-wise: the map is `sum_k relu(g_k * A_k)`, position by position.

    HiResCAM with the ReLU before the sum: what speaks against the class at a position takes nothing off. Behind a ReLU,
    where A is nowhere negative, it is LayerCAM. `alpha_k = sum of relu(g_k * A_k)` is what each channel gets in all; 0
    for a channel that is zero everywhere. Arguments, cost and errors as in `grad_cam`.

    References:
      No paper: in use since Gildenblat et al., pytorch-grad-cam, 2021.
    """
    logit, g = _value_and_gradient(params, activations, head, target)
    return cam_of_contributions(jax.nn.relu(product(activations, g)), logit=logit)


def shapley_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Shapley-CAM: `alpha_k = mean over positions of (g - H A / 2)_k`, H the Hessian of F in the activations at A.

    `A (g - H A / 2)` are the Shapley values of F's expansion to second order at A, against zero. Grad-CAM where H is
    zero: on a linear head, and on one of ReLUs, maxima and linear layers. The explained logit is taken as it is; the
    paper's own target adds its softmax, `target=lambda z: z[c] + jax.nn.softmax(z)[c]`. Nothing is sampled: that is
    `shap_cam`.

    Channels that are zero everywhere as in `grad_cam`, unless what follows a root of one is curved: then H A is NaN.
    Arguments and errors as in `grad_cam`. Cost: one evaluation of the head and one
    backward pass, both with a tangent:
    twice that of `grad_cam`.

    References:
      Cai, CAMs as Shapley Value-based Explainers, The Visual Computer 2025, arXiv:2501.06261.
    """
    check_activations(activations)
    valued = jax.value_and_grad(scalar_score(head, params, target))
    (logit, g), (_, bend) = jax.jvp(valued, (activations,), (activations,))
    alpha = jnp.mean(g - 0.5 * bend, axis=(0, 1))
    return cam_of_coefficients(_of_live(alpha, activations), activations, logit=logit)


def with_noise(activations: jax.Array, sigma: float, key: jax.Array) -> jax.Array:
    """With normal noise, whose standard deviation is `sigma` of the range of the activations."""
    spread = jnp.asarray(sigma, activations.dtype) * (jnp.max(activations) - jnp.min(activations))
    return activations + spread * jax.random.normal(key, activations.shape, jnp.float32).astype(activations.dtype)


def smooth_grad_cam_pp(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_samples: int = 16,
    sigma: float = 0.1,
) -> CAM:
    """Smooth Grad-CAM++: Grad-CAM++ of the mean powers of the gradient under noise.

    `alpha_k = sum w relu(D1)` with `w = D2 / (2 D2 + (sum A) D3)`, where D1, D2 and D3 are the means of g, g^2 and g^3
    at noisy activations. w is 0 where its denominator is 0. Without noise it is Grad-CAM++. The paper adds the noise to
    the picture; here it is added to the activations, of which all else is a function. It prints D1 for the numerator's
    D2, with which Grad-CAM++ would not be the case without noise.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example.
      key: random key.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function `logits -> ()`.
      num_samples: draws of the noise.
      sigma: its standard deviation, as a share of the range of the activations.

    Returns:
      A `CAM`; `diagnostics` holds `logit`, without noise. Cost: `num_samples + 1` evaluations of the head and
      backward passes, one after the other.

    Raises:
      JaxcamError: as in `grad_cam`, and for fewer than one sample.

    References:
      Omeiza et al., Smooth Grad-CAM++, arXiv:1908.01224, 2019, eqs. 6 to 8; Chattopadhay et al., WACV 2018.
    """
    check_activations(activations)
    check_count("num_samples", num_samples)
    check_key(key)
    score = scalar_score(head, params, target)
    logit, g = jax.value_and_grad(score)(activations)
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(g)))  # of which nothing depends: powers neither over- nor underflow
    size = jnp.where(size > 0, size, 1).astype(g.dtype)

    def added(sums: tuple[jax.Array, ...], key: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
        here = jax.grad(score)(with_noise(activations, sigma, key)) / size
        return tuple(s + here**power for s, power in zip(sums, (1, 2, 3), strict=True)), None

    nothing: tuple[jax.Array, ...] = (jnp.zeros_like(g),) * 3
    sums, _ = jax.lax.scan(added, nothing, jax.random.split(key, num_samples))
    first, second, third = (s / num_samples for s in sums)
    total = jnp.sum(activations, axis=(0, 1), keepdims=True)
    w = quotient(second, 2.0 * second + size * total * third)
    return cam_of_coefficients(size * jnp.sum(w * jax.nn.relu(first), axis=(0, 1)), activations, logit=logit)


def cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """CAM: the weights of a global-average-pool + linear head, `alpha_k = W[k, c]`.

    For such a head `W[k, c] = sum over positions of g_k`, and g is the same at every position
    and for every input; with concrete arrays this is checked on three inputs. Under `jax.jit` the
    check cannot raise; `diagnostics["not_gap_linear"]` then holds the largest relative deviation.

    Arguments as in `grad_cam`. Cost: three evaluations and backward passes of the head.

    Raises:
      JaxcamError: the head is not a global average pool followed by a linear layer (eager only).

    References:
      Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2.
    """
    logit, g = _value_and_gradient(params, activations, head, target)
    grad = jax.grad(scalar_score(head, params, target))
    scale = jnp.maximum(jnp.max(jnp.abs(g)), jnp.finfo(g.dtype).tiny)
    uneven = jnp.max(jnp.abs(g - jnp.mean(g, axis=(0, 1), keepdims=True))) / scale
    # Other points of the same scale: a head that is merely linear around A must not pass.
    others = jnp.stack([jnp.zeros_like(activations), -2.0 * jnp.flip(activations, (0, 1))])
    bent = jnp.max(jnp.abs(jax.vmap(grad)(others) - g[None])) / scale
    deviation = jnp.maximum(uneven, bent)
    diagnostics = {"not_gap_linear": deviation}
    if not isinstance(deviation, jax.core.Tracer) and (far := GAP_LINEAR.why_not(diagnostics)):
        why = "its gradient differs between positions" if uneven > GAP_LINEAR.at_most else "it is not linear"
        raise JaxcamError(
            f"CAM is defined for {GAP_LINEAR.kind}, and this head is not that: {why} ({far}); use {GAP_LINEAR.instead}"
        )
    return cam_of_coefficients(jnp.sum(g, axis=(0, 1)), activations, logit=logit, **diagnostics)
