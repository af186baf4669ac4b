"""Form and localisation of a map in float64 NumPy, pixel by pixel, as the papers define them."""

from __future__ import annotations

import math

import numpy as np


def gini(values):
    """Hurley and Rickard's definition, `1 - 2 sum_k (c_k / |c|) ((N - k + 1/2) / N)` with c ascending, k from 1."""
    c = sorted(float(v) for v in np.ravel(values))
    n, total = len(c), math.fsum(c)
    if total == 0:
        return 0.0
    return 1 - 2 * math.fsum(v / total * (n - k + 0.5) / n for k, v in enumerate(c, 1))


def entropy(values):
    """`-sum P ln P` of the values as shares of their sum; of a uniform map where that is 0."""
    v = [float(x) for x in np.ravel(values)]
    total = math.fsum(v)
    shares = [x / total for x in v] if total else [1 / len(v)] * len(v)
    return -math.fsum(p * math.log(p) for p in shares if p > 0)


def energy(values, inside):
    """Share of the sum of a map that lies inside."""
    total = math.fsum(np.ravel(values).tolist())
    return math.fsum((np.asarray(values) * inside).ravel().tolist()) / total if total else 0.0


def iou(values, inside, threshold):
    """Areas where a map is at least so much of its greatest value, and inside: common by united."""
    greatest = float(np.max(values))
    if greatest <= 0:
        return 0.0
    common = united = 0.0
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            here = values[i, j] >= threshold * greatest
            common += inside[i, j] * here
            united += 1.0 if here else inside[i, j]
    return common / united if united else 0.0


def hit(values, inside):
    """Mean of `inside` over the pixels with the greatest value; nothing where that is 0."""
    greatest = np.max(values)
    if greatest <= 0:
        return 0.0
    return float(np.mean([inside[p] for p in np.ndindex(*values.shape) if values[p] == greatest]))
