"""What the signs of activations and of contributions say of a map; on the host, for concrete arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax

#: Of the sum of absolute activations: with more than this below zero, a layer is signed. ReLU layers have none of it,
#: linear bottlenecks and the inputs of norms about a half; the smooth activations (SiLU, GELU) lie below.
SIGNED_FROM = 0.25
#: `sum |alpha| / |F(A) - F(0)|` of contributions: from here on the zero reference is a poor one. 15 layers of six
#: networks had 1.1 to 7, and maps by position well ahead of a uniform one; while products in front of a transformer's
#: first norms were halved it was 155, and they were not (benchmarks/results/forms.md).
CANCELS_FROM = 40.0
#: Of contributions by position, what the channels leave of each other. Four networks had 0.02 to 0.9; where nothing but
#: a norm and a linear read-out or an attention followed, HiResCAM had 7e-8, all rounding, integrated gradients 4e-6.
LEFT_UP_TO = 1e-3


def cancellation(coefficients: np.ndarray | jax.Array) -> float:
    """`sum |alpha| / |sum alpha|` of coefficients `(K,)`: 1 where all speak for, or all against, the class; inf where
    they cancel; NaN where there are none, or some are not finite. Host-side."""
    alpha = np.asarray(coefficients, np.float64)
    size, total = np.abs(alpha).sum(), abs(alpha.sum())
    if not np.isfinite(size) or not size:
        return float("nan")
    return float(size / total) if total else float("inf")


def left_over(coefficients: np.ndarray | jax.Array, signed_map: np.ndarray | jax.Array) -> float:
    """`sum |M| / sum |alpha|` of a map M `(h, w)` of contributions by position and their sums `(K,)`: nearly 0 where
    channels cancel at every position; NaN where there are none, or some are not finite. Host-side."""
    size = np.abs(np.asarray(coefficients, np.float64)).sum()
    left = np.abs(np.asarray(signed_map, np.float64)).sum()
    return float(left / size) if size and np.isfinite(size) else float("nan")


def signed_share(activations: np.ndarray | jax.Array) -> float:
    """Which share of the sum of absolute activations `(h, w, K)` is below zero; 0 of a dead layer. Host-side.

    Summed in float64 without a copy of the activations, of which an evaluation asks this for every picture.
    """
    a = np.asarray(activations)
    below = -float(np.sum(a, where=a < 0, dtype=np.float64))
    total = float(np.sum(a, dtype=np.float64)) + 2 * below
    return below / total if total > 0 else 0.0
