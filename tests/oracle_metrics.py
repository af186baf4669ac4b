"""The metrics in float64 NumPy, pixel by pixel, as the papers define them."""

from __future__ import annotations

import math

import numpy as np


def probability(logits, target, score):
    """Softmax or sigmoid of one class."""
    z = np.asarray(logits, np.float64)
    if score == "sigmoid":
        return 1 / (1 + math.exp(-z[target]))
    shifted = np.exp(z - z.max())
    return shifted[target] / shifted.sum()


def confidence(predict, image, heatmap, target, score, baseline):
    """Y, O, D, IC, AD in percent and ADD in percent."""
    base = np.broadcast_to(baseline, image.shape)
    kept, removed = np.empty_like(image), np.empty_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            s = heatmap[i, j]
            kept[i, j] = s * image[i, j] + (1 - s) * base[i, j]
            removed[i, j] = (1 - s) * image[i, j] + s * base[i, j]
    y, o, d = (probability(predict(x), target, score) for x in (image, kept, removed))
    return y, o, d, float(y < o), 100 * max(0, y - o) / y, 100 * max(0, y - d) / y


def blur(image, sigma, radius):
    """The weighted mean of each pixel's neighbours within the picture."""
    out = np.zeros_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            total, weights = np.zeros(image.shape[2]), 0.0
            for di in range(-radius, radius + 1):
                for dj in range(-radius, radius + 1):
                    if 0 <= i + di < image.shape[0] and 0 <= j + dj < image.shape[1]:
                        w = math.exp(-(di**2 + dj**2) / (2 * sigma**2))
                        total, weights = total + w * image[i + di, j + dj], weights + w
            out[i, j] = total / weights
    return out


def curve(predict, heatmap, start, end, target, score, steps):
    """Scores and area while `start` turns into `end`, most relevant pixels first, ties in raster order."""
    height, width = heatmap.shape
    pixels = sorted((-heatmap[i, j], i, j) for i in range(height) for j in range(width))
    now, done, scores, at = start.copy(), 0, [], []
    for step in range(steps + 1):
        count = int(np.round(step * (height * width / steps)))
        for _, i, j in pixels[done:count]:
            now[i, j] = end[i, j]
        done = count
        scores.append(probability(predict(now), target, score))
        at.append(count / (height * width))
    total = sum((b - a) * (p + q) / 2 for a, b, p, q in zip(at, at[1:], scores, scores[1:], strict=False))
    return np.array(scores), total


def coverage(boxes, size, fine):
    """The share of each pixel in the union, from `fine` x `fine` points in it; edges must be multiples of 1/fine."""
    height, width = size
    inside = np.zeros((height * fine, width * fine), bool)
    for x0, y0, x1, y1 in boxes:
        for r in range(height * fine):
            for c in range(width * fine):
                y, x = (r + 0.5) / fine, (c + 0.5) / fine
                inside[r, c] |= x0 < x < x1 and y0 < y < y1
    return inside.reshape(height, fine, width, fine).mean((1, 3))


def cosine(a, b):
    """The cosine of the angle between two vectors, exactly rounded sums."""
    dot = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    norms = (math.sqrt(math.fsum(float(x) ** 2 for x in v)) for v in (a, b))
    return dot / math.prod(norms)
