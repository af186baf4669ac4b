"""The form of a map, whatever the network makes of it: how sparse, how spread out, how much of the picture it shows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.shapley.result import at_least
from jaxcam.transforms.arithmetic import quotient


def in_single(x: jax.Array) -> jax.Array:
    """In float32 at least: the sum over a picture is more than float16 can hold, and bfloat16 knows three digits."""
    return x.astype(at_least(jnp.float32, x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def gini_sparsity(heatmap: jax.Array) -> jax.Array:
    """The Gini index of a map's values (Hurley and Rickard 2009; of attributions Chalasani et al., ICML 2020).

    With the n values in ascending order, `sum_i (2 i - n - 1) s_i / (n sum_i s_i)`: 0 where all are equal, `1 - 1/n`
    where one has everything. Higher is sparser, which reads better and need not be truer. It costs a sort, and no
    evaluation of the network.

    Args:
      heatmap: `(H, W)`, s(M), not negative.

    Returns:
      `()` in [0, 1). 0 for a map of zeros (0/0): what shows nothing tells no pixel from another.
    """
    values = _ascending(in_single(heatmap).ravel())
    n = values.size
    places = (2 * jnp.arange(1, n + 1) - (n + 1)).astype(values.dtype) / n
    total = jnp.sum(values)
    return quotient(jnp.sum(places * values), total)


def _ascending(values: jax.Array) -> jax.Array:
    """Values that are not negative, sorted: as whole numbers, whose order is that of their bits, and which XLA's CPU
    backend sorts four times as fast."""
    if values.dtype != jnp.float32:
        return jnp.sort(values)
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return jax.lax.bitcast_convert_type(jax.lax.sort(bits, is_stable=False), jnp.float32)


def map_entropy(heatmap: jax.Array) -> jax.Array:
    """The entropy of a map as a distribution over the pixels (Bhatt et al., IJCAI 2020, who call it complexity).

    `-sum_i P_i ln P_i` with `P_i = s_i / sum s`, in nats; lower is simpler. No evaluation of the network.

    Args:
      heatmap: `(H, W)`, s(M), not negative.

    Returns:
      `()` in [0, ln(H W)]. A map of zeros (0/0) has the greatest, as a uniform one.
    """
    heatmap = in_single(heatmap)
    total = jnp.sum(heatmap)
    share = quotient(heatmap, total, otherwise=1 / heatmap.size)
    return jnp.sum(jax.scipy.special.entr(share))


def map_complexity(heatmap: jax.Array) -> jax.Array:
    """The mean of a map, `sum s / (H W)` (the complexity of ADCC: Poppi et al., CVPRW 2021).

    Lower is simpler: the part of the picture that is shown. No evaluation of the network.

    Args:
      heatmap: `(H, W)`, s(M), in [0, 1].

    Returns:
      `()` in [0, 1]; 0 for a map of zeros.
    """
    return jnp.mean(in_single(heatmap))
