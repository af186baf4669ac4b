"""How a map agrees with the objects' boxes, and coefficients with a reference or with the axioms."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError


def energy_pointing(heatmap: jax.Array, boxes: jax.Array, valid: jax.Array) -> jax.Array:
    """The energy-based pointing game (Wang et al., Score-CAM, 2020): the share of the map inside the boxes.

    `sum of s(M) inside the union of the boxes / sum of s(M)`, where a pixel that a box cuts counts with the share of
    its area that lies inside.

    Args:
      heatmap: `(H, W)`, s(M), not negative.
      boxes: `(n, 4)` as `x0, y0, x1, y1` in pixels of the heatmap: 0 is the left edge of the first pixel, W the right
        edge of the last. What lies outside the image is cut off; a box with x1 <= x0 or y1 <= y0 is empty.
      valid: `(n,)` bool; False for rows that are padding.

    Returns:
      `()` in [0, 1]. 0 for a map of zeros (0/0): what shows nothing points at nothing. NaN where no box is valid.
    """
    inside = jnp.sum(heatmap * box_coverage(boxes, valid, (heatmap.shape[0], heatmap.shape[1])))
    total = jnp.sum(heatmap)
    share = jnp.where(total > 0, inside / jnp.where(total > 0, total, 1.0), 0.0)
    return jnp.where(jnp.any(valid), jnp.where(jnp.isnan(total), jnp.nan, jnp.minimum(share, 1.0)), jnp.nan)


def box_coverage(boxes: jax.Array, valid: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The share `(H, W)` of each pixel's area that lies in the union of the boxes, exactly.

    Args:
      boxes: `(n, 4)`, see `energy_pointing`.
      valid: `(n,)` bool.
      size: `(H, W)`.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or valid.shape != boxes.shape[:1]:
        raise JaxcamError(f"boxes must be (n, 4) with valid (n,), not {boxes.shape} and {valid.shape}")
    height, width = size
    x0, y0, x1, y1 = boxes.T
    real = valid & (x1 > x0) & (y1 > y0)
    # The edges of all boxes cut the plane into a grid; each of its cells lies wholly inside or outside a box.
    xs = jnp.sort(jnp.clip(jnp.concatenate([x0, x1]), 0, width))
    ys = jnp.sort(jnp.clip(jnp.concatenate([y0, y1]), 0, height))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    in_x = (x0[:, None] < x[None]) & (x[None] < x1[:, None]) & real[:, None]
    in_y = (y0[:, None] < y[None]) & (y[None] < y1[:, None])
    cells = jnp.any(in_y[:, :, None] & in_x[:, None, :], axis=0).astype(jnp.float32)
    across, down = _overlap(xs, width), _overlap(ys, height)
    return jnp.einsum("jh,ji,iw->hw", down, cells, across, precision="highest")


def _overlap(edges: jax.Array, size: int) -> jax.Array:
    """How much of each of `size` unit pixels lies between consecutive edges: `(len(edges) - 1, size)`."""
    pixels = jnp.arange(size, dtype=edges.dtype)[None]
    low, high = jnp.maximum(edges[:-1, None], pixels), jnp.minimum(edges[1:, None], pixels + 1)
    return jnp.maximum(high - low, 0.0)


def coefficient_cosine(coefficients: jax.Array, reference: jax.Array) -> jax.Array:
    """The cosine of the angle between two coefficient vectors `(K,)` (paper, table 1): `()` in [-1, 1].

    0 where either vector is zero (0/0). Vectors of any size: both are scaled before they are squared.
    """

    def unit(v: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(v))
        v = v / jnp.where(largest > 0, largest, 1.0)
        norm = jnp.sqrt(jnp.sum(v * v))
        return v / jnp.where(norm > 0, norm, 1.0)

    if coefficients.shape != reference.shape or coefficients.ndim != 1:
        raise JaxcamError(
            f"coefficients to compare must be two vectors (K,), not {coefficients.shape} and {reference.shape}"
        )
    return jnp.clip(jnp.sum(unit(coefficients) * unit(reference)), -1.0, 1.0)


def completeness_gap(coefficients: jax.Array, logit: jax.Array, logit_zero: jax.Array) -> jax.Array:
    """`sum_k alpha_k - (F(A) - F(0))`, in logits: 0 for a method that is complete.

    The sum of K float32 numbers is itself uncertain by about `1e-7 sum_k |alpha_k|`.

    Args:
      coefficients: `(K,)`.
      logit, logit_zero: `()`, F(A) and F(0).
    """
    return jnp.sum(coefficients) - (logit - logit_zero)
