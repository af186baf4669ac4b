"""Boxes on their way from the picture to the network's input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxcam.data.own_preprocessing import AnyPreprocessing
from jaxcam.data.samples import clip_boxes


def boxes_to_input(boxes: np.ndarray, size: tuple[int, int], preprocessing: AnyPreprocessing) -> np.ndarray:
    """Boxes in a picture as boxes in what the network sees of it.

    Args:
      boxes: `(n, 4)` `x0, y0, x1, y1` in pixels of the picture.
      size: `(w, h)` of the picture.
      preprocessing: resizes and crops.

    Returns:
      `(m, 4)` float32 in pixels of the input, clipped to it; boxes that the crop leaves nothing of are left out.
    """
    height, width, _ = preprocessing.shape
    x0, y0, x1, y1 = preprocessing.region(*size)
    scale = np.asarray([width / (x1 - x0), height / (y1 - y0)] * 2)
    moved = (np.asarray(boxes, np.float64).reshape(-1, 4) - (x0, y0, x0, y0)) * scale
    return clip_boxes(moved.astype(np.float32), (width, height))[0]


def pad_boxes(boxes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of several pictures as one array, for `jax.vmap`.

    The length is a power of two, so that few different shapes, and compiled programs, arise.

    Args:
      boxes: p arrays `(n_i, 4)`.

    Returns:
      `(p, n, 4)` float32 and `(p, n)` bool, False where a row is padding.
    """
    longest = max([len(b) for b in boxes] + [1])
    n = 1 << (longest - 1).bit_length()
    padded, valid = np.zeros((len(boxes), n, 4), np.float32), np.zeros((len(boxes), n), bool)
    for i, b in enumerate(boxes):
        padded[i, : len(b)], valid[i, : len(b)] = b, True
    return padded, valid
