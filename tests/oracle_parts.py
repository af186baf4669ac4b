"""Measures by parts of an image, and those of stability and sanity, in float64 NumPy, as the papers define them."""

from __future__ import annotations

import numpy as np


def cells(size, grid=8):
    """Masks of the cells, row by row."""
    height, width = size
    found = np.zeros((grid * grid, height, width), bool)
    for i in range(height):
        for j in range(width):
            found[(i * grid // height) * grid + j * grid // width, i, j] = True
    return found


def in_order(parts, said, shares):
    """What is gone when the given shares of the parts are, the largest first, of equal ones the first."""
    order = sorted(range(len(parts)), key=lambda i: (-said[i], i))
    gone = []
    for share in shares:
        mask = np.zeros(parts.shape[1:], bool)
        for i in order[: int(np.floor(share * len(parts) + 0.5))]:
            mask |= parts[i]
        gone.append(mask)
    return gone


def superpixels(image, seeds=8, rounds=10):
    """Lloyd's rounds from a grid of centres, pixel by pixel; of an image that is divided as it is."""
    height, width, _ = image.shape
    pixels = np.asarray([
        [*image[i, j], (i + 0.5) / height * seeds, (j + 0.5) / width * seeds]
        for i in range(height) for j in range(width)
    ])  # fmt: skip
    starts = [int((k + 0.5) * height // seeds) * width + int((m + 0.5) * width // seeds)
              for k in range(seeds) for m in range(seeds)]  # fmt: skip
    centres = pixels[starts]
    for i in range(rounds + 1):
        which = np.asarray([np.argmin(((p - centres) ** 2).sum(1)) for p in pixels])
        if i < rounds:
            centres = np.asarray([pixels[which == s].mean(0) if (which == s).any() else c
                                  for s, c in enumerate(centres)])  # fmt: skip
    return which.reshape(height, width)


def area(scores, shares):
    return sum((b + a) / 2 * (v - u) for a, b, u, v in zip(scores, scores[1:], shares, shares[1:], strict=False))


def lipschitz(heatmap, again, image, images):
    return max(np.linalg.norm(a - heatmap) / np.linalg.norm(x - image) for a, x in zip(again, images, strict=True))


def relative(heatmap, again, before, after):
    return max(
        np.linalg.norm(a - heatmap) / np.linalg.norm(heatmap) / (np.linalg.norm(b - before) / np.linalg.norm(before))
        for a, b in zip(again, after, strict=True)
    )
