"""Maps of a transformer's attention: rollout, and LeGrad."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.methods.heads import ATTENTION
from jaxcam.methods.result import (
    CAM,
    NetworkFn,
    Params,
    Target,
    cam_of_map,
    check_activations,
    pick,
    scalar_score,
)
from jaxcam.transforms.attention import attention_slopes, with_attention_weights


def attention_rollout(
    params: Params,
    activations: jax.Array,
    image: jax.Array,
    *,
    predict: NetworkFn,
    target: Target,
    residual: float = 0.5,
) -> CAM:
    """Attention rollout: the row of the class token of `prod over layers of (1 - r) mean over heads of W + r I`.

    W are the weights `(heads, n, n)` of every self-attention over the layer's positions, found in the traced program of
    the network whichever library wrote it; r stands for the residual connections. Of n tokens the last h w are the
    patches; where none is before them, the mean over all rows is taken, as for a network that pools the mean. It looks
    at no class, and at no values: it shows where information may have come from, not what the logits rest on. Nor does
    it depend on the layer, but for the grid of its positions.

    Args:
      params: whatever `predict` takes first.
      activations: `(h, w, K)`, one example; of them the shape alone is looked at. Every channel has an equal part.
      image: `(H, W, C)`, the network's input.
      predict: `(params, image) -> logits (C,)`, the whole network.
      target: class index (array or int), or a function `logits -> ()`; no more than `diagnostics["logit"]` depends on
        it.
      residual: r, from 0 to 1.

    Returns:
      A `CAM` whose map is nowhere below 0; with the tokens before the patches it adds up to 1. Cost: one evaluation of
      the network.

    Raises:
      JaxcamError: there is no attention over the positions, or it is over more tokens in one layer than in another; or
        r is outside [0, 1].
      UnsupportedPrimitive: an attention lies in a loop.

    References:
      Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3.
    """
    check_activations(activations)
    if not isinstance(residual, jax.core.Tracer) and not 0 <= residual <= 1:
        raise JaxcamError(f"attention_rollout: residual is a share from 0 to 1, not {residual}")
    grid = activations.shape[0], activations.shape[1]
    logits, weights = with_attention_weights(functools.partial(predict, params))(image)
    found = _over_patches("attention_rollout", weights, grid)
    tokens = found[0].shape[-1]
    flow = jnp.eye(tokens, dtype=found[0].dtype)
    for w in found:
        mean = jnp.mean(w.reshape(-1, tokens, tokens), 0)
        mixed = (1 - residual) * mean + residual * jnp.eye(tokens, dtype=w.dtype)
        flow = jnp.matmul(mixed, flow, precision="highest")
    before = tokens - grid[0] * grid[1]
    row = flow[0] if before else jnp.mean(flow, 0)
    map = row[before:].reshape(grid).astype(activations.dtype)
    return cam_of_map(map, activations, logit=pick(logits, target))


def legrad(params: Params, activations: jax.Array, image: jax.Array, *, predict: NetworkFn, target: Target) -> CAM:
    """LeGrad: the mean over layers, heads and rows of `relu(dF/dW)`, W the attention weights: where more would help.

    W are found as in `attention_rollout`, `(heads, n, n)` in every layer; what each token would give the class if all
    tokens looked at it more is the mean over the rows of its column. The paper asks each layer about a logit of its
    own, made of that layer's tokens by the last layers of the network; here all are asked about the network's logit,
    which needs no more than the network. (Of the last layer it is the same.) 0 where no attention matters.

    Args:
      params, activations, image, predict: as in `attention_rollout`.
      target: class index (array or int), or a function `logits -> ()`.

    Returns:
      A `CAM` whose map is nowhere below 0, in logits; not scaled, which the paper does at last. Cost: one evaluation
      and backward pass of the network.

    Raises:
      JaxcamError: as in `attention_rollout`; the class does not exist (a traced one gives NaN throughout instead), or
        the target function is not scalar.

    References:
      Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity,
      ICCV 2025, arXiv:2404.03214, eqs. 6 to 9.
    """
    check_activations(activations)
    grid = activations.shape[0], activations.shape[1]
    value, slopes = attention_slopes(scalar_score(predict, params, target))(image)
    found = _over_patches("legrad", slopes, grid)
    tokens = found[0].shape[-1]
    columns = jnp.stack([jnp.mean(jax.nn.relu(g).reshape(-1, tokens), 0) for g in found])
    map = jnp.mean(columns, 0)[tokens - grid[0] * grid[1] :].reshape(grid)
    return cam_of_map(map.astype(activations.dtype), activations, logit=value)


def _over_patches(name: str, attentions: Sequence[jax.Array], grid: tuple[int, int]) -> list[jax.Array]:
    """Those of attentions that are over all patches."""
    height, width = grid
    found = [w for w in attentions if w.shape[-1] >= height * width]
    sizes = sorted({w.shape[-1] for w in found})
    if len(sizes) != 1:
        told = f"attentions over {', '.join(map(str, sizes))} tokens" if sizes else "no attention"
        raise JaxcamError(
            f"{name} is defined for {ATTENTION.kind}; there is {told} in the network, for {height} x {width} "
            f"patches; use {ATTENTION.instead}"
        )
    return found
