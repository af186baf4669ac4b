"""Maps of a transformer's attention: rollout, and LeGrad."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.methods.result import NetworkFn, Params, Target, scalar_score
from jaxcam.transforms.attention import attention_slopes, attention_weights


def attention_rollout(
    params: Params, image: jax.Array, *, predict: NetworkFn, grid: tuple[int, int], residual: float = 0.5
) -> jax.Array:
    """Attention rollout: the row of the class token of `prod over layers of (1 - r) mean over heads of W + r I`.

    W are the weights `(heads, n, n)` of every self-attention, found in the traced program of the network whichever
    library wrote it; r stands for the residual connections. Of n tokens the last h w are the patches; where none is
    before them, the mean over all rows is taken, as for a network that pools the mean. It looks at no class, and at no
    values: it shows where information may have come from, not what the logits rest on.

    Args:
      params: whatever `predict` takes first.
      image: `(H, W, C)`, the network's input.
      predict: `(params, image) -> logits (C,)`, the whole network.
      grid: `(h, w)` of the patches.
      residual: r.

    Returns:
      `(h, w)`, nowhere below 0; with the tokens before the patches it adds up to 1. Cost: one evaluation of the
      network.

    Raises:
      JaxcamError: there is no attention over the patches, or it is over more tokens in one layer than in another.
      UnsupportedPrimitive: an attention lies in a loop.

    References:
      Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3.
    """
    found = _over_patches("attention_rollout", attention_weights(functools.partial(predict, params))(image), grid)
    tokens = found[0].shape[-1]
    flow = jnp.eye(tokens, dtype=found[0].dtype)
    for w in found:
        mean = jnp.mean(w.reshape(-1, tokens, tokens), 0)
        mixed = (1 - residual) * mean + residual * jnp.eye(tokens, dtype=w.dtype)
        flow = jnp.matmul(mixed, flow, precision="highest")
    before = tokens - grid[0] * grid[1]
    row = flow[0] if before else jnp.mean(flow, 0)
    return row[before:].reshape(grid)


def legrad(params: Params, image: jax.Array, *, predict: NetworkFn, grid: tuple[int, int], target: Target) -> jax.Array:
    """LeGrad: the mean over layers, heads and rows of `relu(dF/dW)`, W the attention weights: where more would help.

    W are found as in `attention_rollout`, `(heads, n, n)` in every layer; what each token would give the class if all
    tokens looked at it more is the mean over the rows of its column. The paper asks each layer about a logit of its
    own, made of that layer's tokens by the last layers of the network; here all are asked about the network's logit,
    which needs no more than the network. (Of the last layer it is the same.) 0 where no attention matters.

    Args:
      params, image, predict, grid: as in `attention_rollout`.
      target: class index (array or int), or a function `logits -> ()`.

    Returns:
      `(h, w)`, nowhere below 0, in logits; not scaled, which the paper does at last. Cost: one evaluation and backward
      pass of the network.

    Raises:
      JaxcamError: as in `attention_rollout`; the class does not exist (a traced one gives NaN throughout instead), or
        the target function is not scalar.

    References:
      Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity,
      ICCV 2025, arXiv:2404.03214, eqs. 6 to 9.
    """
    value, slopes = attention_slopes(scalar_score(predict, params, target))(image)
    found = _over_patches("legrad", slopes, grid)
    tokens = found[0].shape[-1]
    columns = jnp.stack([jnp.mean(jax.nn.relu(g).reshape(-1, tokens), 0) for g in found])
    map = jnp.mean(columns, 0)[tokens - grid[0] * grid[1] :].reshape(grid)
    return jnp.where(jnp.isnan(value), value.astype(map.dtype), map)


def _over_patches(name: str, attentions: Sequence[jax.Array], grid: tuple[int, int]) -> list[jax.Array]:
    """Those of attentions that are over all patches."""
    height, width = grid
    found = [w for w in attentions if w.shape[-1] >= height * width]
    sizes = sorted({w.shape[-1] for w in found})
    if len(sizes) != 1:
        told = f"attentions over {', '.join(map(str, sizes))} tokens" if sizes else "no attention"
        raise JaxcamError(f"{name}: {told} in the network, for {height} x {width} patches")
    return found
