"""Composite, imputing, removing and repeating measures in float64 NumPy and SciPy, as the papers define them."""

from __future__ import annotations

import math

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
import scipy.stats


def imputed(image, removed):
    """The sparse system of ROAD, pixel by pixel, factorised."""
    height, width, _ = image.shape
    places = [(i, j) for i in range(height) for j in range(width) if removed[i, j]]
    number = {p: k for k, p in enumerate(places)}
    matrix = scipy.sparse.lil_matrix((len(places), len(places)))
    right = np.zeros((len(places), image.shape[2]))
    for (i, j), k in number.items():
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                p = (i + di, j + dj)
                if p == (i, j) or not (0 <= p[0] < height and 0 <= p[1] < width):
                    continue
                weight = 1 / 12 if di and dj else 1 / 6
                matrix[k, k] += weight
                if p in number:
                    matrix[k, number[p]] -= weight
                else:
                    right[k] += weight * image[p]
    solved = scipy.sparse.linalg.spsolve(matrix.tocsc(), right).reshape(len(places), -1)
    out = np.array(image, np.float64)
    for (i, j), k in number.items():
        out[i, j] = solved[k]
    return out


def correlation(a, b):
    """Pearson's; 0 where one is constant."""
    a, b = (np.ravel(x).astype(np.float64) for x in (a, b))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def rank_correlation(a, b):
    """Spearman's, from SciPy's ranks."""
    return correlation(*(scipy.stats.rankdata(np.ravel(x)) for x in (a, b)))


def structural_similarity(a, b):
    """Wang et al.: the mean over all windows of 11 x 11 that lie inside."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    found = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            both = (window * (x - mx) * (y - my)).sum()
            found.append((2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(found))


def adcc(heatmap, again, before, after):
    """ADCC and its parts, from maps and scores."""
    coherency, complexity = (1 + correlation(heatmap, again)) / 2, float(np.mean(heatmap, dtype=np.float64))
    drop = max(0.0, before - after) / before
    parts = (coherency, 1 - complexity, 1 - drop)
    return (3 / sum(1 / p for p in parts) if all(p > 0 for p in parts) else 0.0), coherency, complexity, drop


def infidelity(said, lost):
    """Mean square of what the best multiple of `said` leaves of `lost`, and that as a share."""
    said, lost = (np.asarray(x, np.float64) for x in (said, lost))
    scale = np.linalg.lstsq(said[:, None], lost, rcond=None)[0][0]
    left = float(np.mean((scale * said - lost) ** 2))
    return left, left / float(np.mean(lost**2))
