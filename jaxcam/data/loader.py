"""Batches of pictures for training: decoded once, augmented in threads, prefetched, reproducible."""

from __future__ import annotations

import collections
import concurrent.futures as cf
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from jaxcam.data.datasets import LabelledImages
from jaxcam.data.images import open_image

_CACHE_BYTES = 3 << 30
_THREADS = 4


class Loader:
    """Serves batches of one data set at any size.

    Pictures are decoded on first use, shrunk so that their shorter side is at most `cache_side`,
    and kept in memory up to a budget. What augmentation does to a picture depends on
    `(seed, epoch, index)` alone, so a resumed run sees exactly what an uninterrupted one sees.
    """

    def __init__(self, data: LabelledImages, *, cache_side: int, seed: int = 0, min_scale: float = 0.35):
        self.data, self.cache_side, self.seed, self.min_scale = data, cache_side, seed, min_scale
        self._cache: dict[int, Image.Image] = {}
        self._cached_bytes = 0

    def _decoded(self, index: int) -> Image.Image:
        image = self._cache.get(index)
        if image is None:
            image = open_image(self.data.paths[index])
            shrink = self.cache_side / min(image.size)
            if shrink < 1:
                size = [max(1, round(s * shrink)) for s in image.size]
                image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=3.0)
            nbytes = 3 * image.width * image.height
            if self._cached_bytes + nbytes <= _CACHE_BYTES:
                self._cache[index] = image
                self._cached_bytes += nbytes
        return image

    def _augmented(self, index: int, epoch: int, size: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch, index))
        image = self._decoded(index)
        w, h = image.size
        box = (0.0, 0.0, float(w), float(h))
        for _ in range(10):
            area = rng.uniform(self.min_scale, 1.0) * w * h
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            bw, bh = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if bw <= w and bh <= h:
                x0, y0 = rng.uniform(0, w - bw), rng.uniform(0, h - bh)
                box = (x0, y0, x0 + bw, y0 + bh)
                break
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        brightness, contrast = rng.uniform(0.75, 1.25, 2)
        values = pixels.astype(np.float32)
        grey = values.mean()
        values = ((values - grey) * contrast + grey) * brightness
        return np.clip(np.round(values), 0, 255).astype(np.uint8)

    def _plain(self, index: int, size: int) -> np.ndarray:
        return np.asarray(self._decoded(index).resize((size, size), Image.Resampling.BILINEAR))

    def training(self, epoch: int, size: int, batch_size: int, *, skip: int = 0) -> Iterator[tuple]:
        """Shuffled, augmented `(images (b, size, size, 3) uint8, labels)`; the last short batch is dropped.

        Args:
          epoch: decides the order and the augmentation.
          skip: batches to leave out at the start, when a run resumes in mid-epoch.
        """
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.data))
        full = len(order) // batch_size * batch_size
        batches = order[:full].reshape(-1, batch_size)[skip:]
        return self._serve(batches, lambda i: self._augmented(i, epoch, size))

    def plain(self, size: int, batch_size: int) -> Iterator[tuple]:
        """Every picture once, in order, squashed to `size`; the last batch may be short."""
        order = np.arange(len(self.data))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        return self._serve(batches, lambda i: self._plain(i, size))

    def _serve(self, batches, make) -> Iterator[tuple]:
        with cf.ThreadPoolExecutor(_THREADS) as pool:
            ahead: collections.deque = collections.deque()
            for indices in batches:
                ahead.append((indices, [pool.submit(make, int(i)) for i in indices]))
                if len(ahead) > 3:
                    yield self._collect(*ahead.popleft())
            while ahead:
                yield self._collect(*ahead.popleft())

    def _collect(self, indices, futures) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([f.result() for f in futures]), self.data.labels[indices]
