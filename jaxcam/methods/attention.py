"""Maps of a transformer's attention: rollout."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.methods.result import NetworkFn, Params
from jaxcam.transforms.attention import attention_weights


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
    height, width = grid
    found = [w for w in attention_weights(functools.partial(predict, params))(image) if w.shape[-1] >= height * width]
    sizes = sorted({w.shape[-1] for w in found})
    if len(sizes) != 1:
        told = f"attentions over {', '.join(map(str, sizes))} tokens" if sizes else "no attention"
        raise JaxcamError(f"attention_rollout: {told} in the network, for {height} x {width} patches")
    (tokens,) = sizes
    flow = jnp.eye(tokens, dtype=found[0].dtype)
    for w in found:
        mean = jnp.mean(w.reshape(-1, tokens, tokens), 0)
        mixed = (1 - residual) * mean + residual * jnp.eye(tokens, dtype=w.dtype)
        flow = jnp.matmul(mixed, flow, precision="highest")
    before = tokens - height * width
    row = flow[0] if before else jnp.mean(flow, 0)
    return row[before:].reshape(height, width)
