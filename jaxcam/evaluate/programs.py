"""The metrics of a batch of maps, as compiled programs of fixed shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam import metrics
from jaxcam.data.boxes import pad_boxes
from jaxcam.data.own_preprocessing import AnyPreprocessing
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.models.classifier import Classifier, Predict

#: Points of an insertion or deletion curve that are evaluated at once, for each map of a batch.
_POINTS = 2


class Programs:
    """The metrics on one network, `maps_at_once` maps per call.

    Each program takes what it needs of a whole unit and picks its pictures by `rows`, so that its shapes,
    and hence its compiled form, are the same for every unit.

    Args:
      network: the network.
      maps_at_once: m, maps per call.
      baseline: what a removed pixel becomes.
      steps: of the curves.
    """

    def __init__(self, network: Classifier, maps_at_once: int, baseline: str, steps: int):
        size = network.preprocessing.shape[:2]
        self.predict, self.at_once = _one_batch(network.whole), maps_at_once
        self.score = "sigmoid" if network.multi_label else "softmax"
        self.size, self.counts = size, metrics.step_counts(size, steps)
        self._baselines = _baselines(baseline, network.preprocessing)

    def baselines(self, inputs: jax.Array) -> jax.Array:
        """What removed pixels become, `(b, s, s, 3)`."""
        return _highest(self._baselines, inputs)

    def heatmaps(self, maps: jax.Array) -> jax.Array:
        """`maps (m, h, w)` at the input's resolution, in [0, 1]."""
        return _highest(_heatmaps(self.size), maps)

    def confidence(self, params, inputs, baselines, logits, rows, heatmaps, targets) -> metrics.Confidence:
        """IC, AD and ADD of m maps."""
        program = _confidence(self.predict, self.score)
        return _highest(program, params, inputs, baselines, logits, rows, heatmaps, targets)

    def curve(self, params, start: jax.Array, end: jax.Array, rows, heatmaps, targets) -> tuple[np.ndarray, np.ndarray]:
        """Scores `(m, S)` while the pixels of `start` become those of `end`, most relevant first; and areas `(m,)`."""
        ranks = _highest(_ranks, heatmaps)
        program = _curve(self.predict, self.score)
        parts = []
        for counts in _chunks(np.asarray(self.counts), _POINTS):
            parts.append(_highest(program, params, start, end, rows, ranks, jnp.asarray(counts), targets))
        scores = jnp.concatenate(parts, axis=1)[:, : len(self.counts)]
        return np.asarray(scores), np.asarray(metrics.area(scores, self.counts))

    def blurred(self, inputs: jax.Array) -> jax.Array:
        """Where insertion starts, `(b, s, s, 3)`."""
        return _highest(_blur, inputs)

    def boxes(self, boxes: Sequence[np.ndarray]) -> tuple[jax.Array, jax.Array]:
        """Lists of boxes `(n_i, 4)` as one array `(m, n, 4)`, and which of its entries are boxes, `(m, n)`."""
        padded, valid = pad_boxes(boxes)
        return jnp.asarray(padded), jnp.asarray(valid)

    def pointing(self, heatmaps: jax.Array, boxes: jax.Array, valid: jax.Array) -> np.ndarray:
        """`(m,)` share of each map inside its boxes; NaN where it has none."""
        return np.asarray(_highest(_pointing, heatmaps, boxes, valid))

    def cosine(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """`(m,)` cosine of coefficient vectors `(m, K)`."""
        return np.asarray(_highest(_cosines, jnp.asarray(some), jnp.asarray(others)))


def _highest(program: Callable, *args: Any) -> Any:
    with jax.default_matmul_precision("highest"):  # on an accelerator; drops of scores are small differences
        return program(*args)


def _chunks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`values` in pieces of `size`, the last one filled up with its last value."""
    for start in range(0, len(values), size):
        piece = values[start : start + size]
        yield np.concatenate([piece, np.repeat(piece[-1:], size - len(piece))])


@functools.lru_cache(maxsize=8)
def _one_batch(predict: Predict) -> Predict:
    """`predict` under nested vmaps as one batch of images: XLA's CPU backend divides that better among the cores.

    The passes of a VGG took 6.1 ms an image as `(12, 2)` images, and 4.2 as 24.
    """

    @jax.custom_batching.custom_vmap
    def many(params, images):
        return jax.vmap(predict, (None, 0))(params, images)

    @many.def_vmap
    def _(size, batched, params, images):
        if any(jax.tree.leaves(batched[0])) or not batched[1]:
            axes = tuple(jax.tree.map(lambda b: 0 if b else None, which) for which in batched)
            return jax.vmap(jax.vmap(predict, (None, 0)), axes)(params, images), True
        out = many(params, images.reshape(-1, *images.shape[2:]))
        return out.reshape(size, -1, *out.shape[1:]), True

    return lambda params, image: many(params, image[None])[0]


@functools.lru_cache(maxsize=8)
def _heatmaps(size: tuple[int, int]) -> Callable:
    return jax.jit(jax.vmap(lambda map: scale_map(resize_map(map, size))))


@functools.lru_cache(maxsize=8)
def _confidence(predict: Predict, score: str) -> Callable:
    @jax.jit
    def confidence(params, inputs, baselines, logits, rows, heatmaps, targets):
        def one(row, heatmap, target):
            return metrics.confidence(
                params, inputs[row], heatmap, predict=predict, target=target, score=score, baseline=baselines[row],
                original=metrics.log_odds(logits[row], target, score=score),
            )  # fmt: skip

        return jax.vmap(one)(rows, heatmaps, targets)

    return confidence


@functools.lru_cache(maxsize=8)
def _curve(predict: Predict, score: str) -> Callable:
    @jax.jit
    def curve(params, start, end, rows, ranks, counts, targets):
        def one(row, rank, target):
            return metrics.curve_scores(
                params, rank, counts, start[row], end[row], predict=predict, target=target, score=score
            )

        return jax.vmap(one)(rows, ranks, targets)

    return curve


@functools.lru_cache(maxsize=8)
def _baselines(kind: str, preprocessing: AnyPreprocessing) -> Callable:
    return jax.jit(jax.vmap(functools.partial(metrics.baseline, kind, normalize=preprocessing.normalize)))


_blur = jax.jit(jax.vmap(metrics.blur))
_ranks = jax.jit(jax.vmap(metrics.pixel_ranks))
_pointing = jax.jit(jax.vmap(metrics.energy_pointing))
_cosines = jax.jit(jax.vmap(metrics.coefficient_cosine))
