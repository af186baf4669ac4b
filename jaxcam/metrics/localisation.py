"""How a map agrees with where the objects are, as people marked them: by boxes or by segmentation masks."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.metrics.form import in_single
from jaxcam.transforms.arithmetic import quotient

#: Of the greatest value of a map: what lies above it is where the map says the object is.
IOU_THRESHOLD = 0.5


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
    return _where_marked(valid, _energy(heatmap, box_coverage(boxes, valid, _size(heatmap))))


def mask_energy(heatmap: jax.Array, mask: jax.Array) -> jax.Array:
    """The share of the map inside the object's segmentation mask, `sum s(M) m / sum s(M)`; higher is better.

    The weighting game (Raatikainen and Rahtu, SCIA 2023) and the relevance mass accuracy (Arras et al., 2022).

    Args:
      heatmap: `(H, W)`, s(M), not negative.
      mask: `(H, W)` in [0, 1], the share of each pixel that the objects of the class cover.

    Returns:
      `()` in [0, 1]. 0 for a map of zeros (0/0). NaN where nothing is marked.

    Raises:
      JaxcamError: the mask has another size, or (where it is known) numbers outside [0, 1].
    """
    mask = _checked(mask, heatmap)
    return _where_marked(mask > 0, _energy(heatmap, mask))


def pointing_hit(heatmap: jax.Array, boxes: jax.Array, valid: jax.Array, *, tolerance: float = 0.0) -> jax.Array:
    """The pointing game (Zhang et al., ECCV 2016): whether the map's greatest value lies inside a box.

    Of several pixels with the greatest value, and of one that a box cuts, the share inside: a uniform map gets what a
    random guess would. Higher is better.

    Args:
      heatmap, boxes, valid: as for `energy_pointing`.
      tolerance: how far from a box still counts, in pixels. The paper allows 15 pixels of the photo.

    Returns:
      `()` in [0, 1], nearly always 0 or 1. 0 for a map of zeros. NaN where no box is valid.
    """
    grown = boxes + jnp.asarray([-1, -1, 1, 1], boxes.dtype)[None] * tolerance
    greatest = jnp.max(heatmap)
    peaks = ((heatmap == greatest) & (greatest > 0)).astype(heatmap.dtype)
    peaks = jnp.where(jnp.isnan(greatest), jnp.nan, peaks)
    return _where_marked(valid, _energy(peaks, box_coverage(grown, valid, _size(heatmap))))


def box_iou(heatmap: jax.Array, boxes: jax.Array, valid: jax.Array, *, threshold: float = IOU_THRESHOLD) -> jax.Array:
    """Intersection over union of the thresholded map and the union of the boxes; higher is better.

    The map says "here" where it is at least `threshold` times its greatest value; areas are exact, also of pixels that
    a box cuts. A box holds background in its corners, so that a perfect outline does not reach 1.

    Args:
      heatmap, boxes, valid: as for `energy_pointing`.
      threshold: share of the greatest value. (Of a ReLU'd map scaled to [0, 1] that greatest value is 1. Zhou et al.,
        CVPR 2016, took 0.2 to draw boxes around the largest connected part, which is another measure.)

    Returns:
      `()` in [0, 1]. 0 for a map of zeros. NaN where no box is valid.

    Raises:
      JaxcamError: the threshold is no share of the greatest value.
    """
    return _where_marked(valid, _iou(heatmap, box_coverage(boxes, valid, _size(heatmap)), threshold))


def mask_iou(heatmap: jax.Array, mask: jax.Array, *, threshold: float = IOU_THRESHOLD) -> jax.Array:
    """`box_iou` with a segmentation mask in place of the boxes.

    Args:
      heatmap, mask: as for `mask_energy`, errors too.
      threshold: as for `box_iou`, errors too.

    Returns:
      `()` in [0, 1]. 0 for a map of zeros. NaN where nothing is marked.
    """
    mask = _checked(mask, heatmap)
    return _where_marked(mask > 0, _iou(heatmap, mask, threshold))


def _size(heatmap: jax.Array) -> tuple[int, int]:
    return heatmap.shape[0], heatmap.shape[1]


def _checked(mask: jax.Array, heatmap: jax.Array) -> jax.Array:
    """The mask in floating point; a JaxcamError unless it is one of this map."""
    if jnp.shape(mask) != heatmap.shape:
        raise JaxcamError(f"a mask must have its map's size {heatmap.shape}, not {jnp.shape(mask)}")
    if not isinstance(mask, jax.core.Tracer) and not bool(((mask >= 0) & (mask <= 1)).all()):
        raise JaxcamError("a mask holds the share of each pixel that is marked, in [0, 1]; of 0 and 255: mask > 0")
    return in_single(jnp.asarray(mask))


def _where_marked(marked: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(jnp.any(marked), value, jnp.nan)


def _energy(heatmap: jax.Array, inside: jax.Array) -> jax.Array:
    heatmap = in_single(heatmap)
    total = jnp.sum(heatmap)
    share = quotient(jnp.sum(heatmap * inside), total, total > 0)
    return jnp.where(jnp.isnan(total), jnp.nan, jnp.minimum(share, 1.0))


def _iou(heatmap: jax.Array, inside: jax.Array, threshold: float) -> jax.Array:
    heatmap = in_single(heatmap)
    greatest = jnp.max(heatmap)
    if not isinstance(threshold, jax.core.Tracer) and not 0 < threshold <= 1:
        raise JaxcamError(f"threshold is a share of the map's greatest value, above 0 and up to 1, not {threshold}")
    shown = ((heatmap >= threshold * greatest) & (greatest > 0)).astype(heatmap.dtype)
    common = jnp.sum(shown * inside)
    together = jnp.sum(shown) + jnp.sum(inside) - common
    share = quotient(common, together, together > 0)
    return jnp.where(jnp.isnan(greatest) | jnp.isnan(common), jnp.nan, share)


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
