"""From coefficients to a map: projection, resize, scaling, and why a map is empty."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.transforms.arithmetic import quotient


def project(coefficients: jax.Array, activations: jax.Array) -> jax.Array:
    """`relu(sum_k alpha_k A_k)`.

    Args:
      coefficients: `(K,)`.
      activations: `(h, w, K)`.

    Returns:
      `(h, w)`, in the units of the coefficients times those of the activations.
    """
    return jax.nn.relu(combine(coefficients, activations))


def combine(coefficients: jax.Array, activations: jax.Array) -> jax.Array:
    """`sum_k alpha_k A_k`, `(h, w)`: the map of `project` before its ReLU."""
    return jnp.einsum("hwk,k->hw", activations, coefficients, precision="highest")


def resize_map(map: jax.Array, size: Sequence[int]) -> jax.Array:
    """Bilinear resize of `map (h, w)` to `size (H, W)`: half-pixel centres, no antialiasing."""
    return jax.image.resize(map, tuple(size), "bilinear", antialias=False)


def scale_map(map: jax.Array, *, from_zero: bool = False) -> jax.Array:
    """Min-max scaling of `map (h, w)` to [0, 1]; a constant map, or one that is not finite, becomes zeros, never NaN.

    With `from_zero` it is over its greatest value instead, what is below 0 being 0: a constant one becomes ones.
    """
    map = jax.nn.relu(map) if from_zero else map
    low, high = jnp.zeros((), map.dtype) if from_zero else jnp.min(map), jnp.max(map)
    wide = high / 2 - low / 2 > jnp.finfo(map.dtype).max / 4  # whose reciprocal, or the difference itself, is no number
    map, low, high = (jnp.where(wide, x * 2.0**-8, x) for x in (map, low, high))
    span = high - low
    shows = (span > 0) & jnp.isfinite(span)
    return quotient(map - low, span, shows)


def place_map(
    map: np.ndarray | jax.Array,
    region: tuple[float, float, float, float],
    size: tuple[int, int],
    span: tuple[float, float] | None = None,
) -> np.ndarray:
    """The map over a whole picture: resized as `resize_map` does to the part that it covers, scaled, 0 elsewhere.

    On the host, since a compiled program per picture size would cost more than the resize.

    Args:
      map: `(h, w)`.
      region: `(x0, y0, x1, y1)`, the part of the picture that the map covers, in pixels; need not be whole ones.
      size: `(H, W)` of the picture.
      span: the values that become 0 and 1; the least and the greatest of the resized map unless given.

    Returns:
      `(H, W)` float32, in [0, 1] unless a span is given.
    """
    values = np.asarray(map, np.float32)
    x0, y0, x1, y1 = region
    (above, below, down), in_rows = _interpolation(values.shape[0], size[0], y0, y1)
    (left, right, over), in_columns = _interpolation(values.shape[1], size[1], x0, x1)
    wide = values[:, left] * (1 - over) + values[:, right] * over  # no matrix products: their threads cost more
    seen = wide[above] * (1 - down[:, None]) + wide[below] * down[:, None]
    placed = np.zeros(size, np.float32)
    low, high = span or ((seen.min(), seen.max()) if seen.size else (0.0, 0.0))
    if high > low:
        placed[in_rows, in_columns] = (seen - low) / (high - low)
    return placed


def _interpolation(
    size_in: int, size_out: int, start: float, stop: float
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], slice]:
    """The two values between which each pixel from `start` to `stop` lies, how near the second; and which pixels."""
    centres = np.arange(size_out) + 0.5
    inside = np.flatnonzero((centres > start) & (centres < stop))
    at = np.clip((centres[inside] - start) / (stop - start) * size_in - 0.5, 0, size_in - 1)
    low = np.floor(at).astype(int)
    pixels = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0)
    return (low, np.minimum(low + 1, size_in - 1), (at - low).astype(np.float32)), pixels


def why_empty(
    map: np.ndarray | jax.Array,
    coefficients: np.ndarray | jax.Array,
    activations: np.ndarray | jax.Array,
    *,
    from_zero: bool = False,
) -> str | None:
    """Why a map shows nothing; None where it does show something. Host-side, for concrete arrays.

    The map is judged as it was made; coefficients and activations only tell the cause.

    Args:
      map: `(h, w)`.
      coefficients: `(K,)`.
      activations: `(h, w, K)`.
      from_zero: whether it is scaled from 0, so that a map that is the same everywhere shows all of the picture.
    """
    values, alpha, a = (np.asarray(x) for x in (map, coefficients, activations))
    for name, array in (("activations hold", a), ("coefficients hold", alpha), ("map holds", values)):
        if not np.isfinite(array).all():
            return f"the {name} NaN or infinite values{_steep(array, a) if array is alpha else ''}"
    if values.any():
        # Rounding is no pattern.
        kind = values.dtype if jnp.issubdtype(values.dtype, jnp.floating) else np.float16  # bfloat16 included
        flat = float(np.ptp(values)) <= 4 * float(jnp.finfo(kind).eps) * float(np.abs(values).max())
        return "constant map: every position has the same value" if flat and not from_zero else None
    if not a.any():
        return "dead layer: every activation is zero"
    if not alpha.any():
        return "every coefficient is zero: the class does not depend on this layer here"
    if jnp.issubdtype(a.dtype, jnp.floating) and alpha.shape == a.shape[-1:]:
        exact = np.maximum(a.astype(np.float64) @ alpha.astype(np.float64), 0).max()
        if 0 < exact < float(jnp.finfo(a.dtype).tiny):
            return f"the map's values are below what {a.dtype} can hold: activations and coefficients are tiny"
    alive = np.abs(a).sum((0, 1)) > 0
    if (a >= 0).all() and (alpha[alive] <= 0).all():
        return "no evidence for the class: every channel that is active has a non-positive coefficient"
    return "no evidence for the class: negative contributions outweigh positive ones at every position"


def _steep(alpha: np.ndarray, activations: np.ndarray) -> str:
    """What that means where it is of some channels alone that are zero somewhere."""
    wrong = np.flatnonzero(~np.isfinite(alpha))
    if len(wrong) == alpha.size or alpha.shape != activations.shape[-1:] or activations[..., wrong].all((0, 1)).any():
        return ""
    named = ", ".join(map(str, wrong[:3])) + (", ..." if len(wrong) > 3 else "")
    return (
        f" in channels {named}, which are zero somewhere: the head is infinitely steep there, as a root or norm is at "
        "0; lift_cam and hires_cam are defined there"
    )
