"""Insertion and deletion: the score of a class while pixels come or go in the order of the map (RISE)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.metrics.baselines import blur
from jaxcam.metrics.drops import Predict, log_odds


class Curve(NamedTuple):
    """The class score along the way.

    Attributes:
      fractions: `(steps + 1,)` share of the pixels that were changed, from 0 to 1.
      scores: `(steps + 1,)` class score there, in [0, 1].
      auc: `()` area under the curve (trapezoidal rule), in [0, 1].
    """

    fractions: jax.Array
    scores: jax.Array
    auc: jax.Array


def insertion_curve(
    params: Any, image: jax.Array, heatmap: jax.Array, *, predict: Predict, target: int | jax.Array,
    score: str = "softmax", start: float | jax.Array | None = None, steps: int = 100, chunk_size: int | None = None,
) -> Curve:  # fmt: skip
    """The score while the map's pixels, most relevant first, are put into an image that had none of them.

    Higher is better (Petsiuk et al., RISE, 2018). Pixels of equal relevance, such as all those that the map leaves
    at 0, come row by row from the upper left (`pixel_ranks`): a map of zeros is thereby an order like any other.

    Costs `steps + 1` evaluations of the network.

    Args:
      params: what `predict` takes first.
      image: `(H, W, 3)`, the network's input.
      heatmap: `(H, W)`; only its order counts.
      predict: the network, for one image.
      target: class index.
      score: "softmax" or "sigmoid".
      start: what is there before: a number or an array that broadcasts to the image; None for the image under
        a Gaussian (`blur`). RISE's own start, which is blurred more evenly, is `rise_blur(image)`.
      steps: into how many parts of (nearly) the same number of pixels the image is divided; at most H W. RISE
        moves 224 pixels a step, which is 224 steps at its size.
      chunk_size: how many images are evaluated at once; None for all. The chunks run in a loop of the compiled
        program; on a CPU, where XLA runs convolutions inside loops many times slower, call `curve_scores` in a
        loop of your own instead.
    """
    start = blur(image) if start is None else start
    return _curve(params, image, heatmap, start, image, predict, target, score, steps, chunk_size)


def deletion_curve(
    params: Any, image: jax.Array, heatmap: jax.Array, *, predict: Predict, target: int | jax.Array,
    score: str = "softmax", baseline: float | jax.Array = 0.0, steps: int = 100, chunk_size: int | None = None,
) -> Curve:  # fmt: skip
    """The score while the map's pixels, most relevant first, turn into the baseline; lower is better (RISE).

    Order, ties, steps and cost are those of `insertion_curve`.

    Args:
      params, image, heatmap, predict, target, score, steps, chunk_size: as for `insertion_curve`.
      baseline: what deleted pixels turn into, a number or an array that broadcasts to the image; 0 is the mean
        colour of the data set.
    """
    return _curve(params, image, heatmap, image, baseline, predict, target, score, steps, chunk_size)


def pixel_ranks(heatmap: jax.Array) -> jax.Array:
    """The place `(H, W)` int32 of each pixel in the order of decreasing relevance, from 0; ties in raster order."""
    order = jnp.argsort(-heatmap.ravel(), stable=True)
    ranks = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size, dtype=jnp.int32))
    return ranks.reshape(heatmap.shape)


def step_counts(size: tuple[int, int], steps: int) -> np.ndarray:
    """How many pixels have changed at each point of a curve: `(steps + 1,)` int32, from 0 to H W, evenly.

    Raises:
      JaxcamError: `steps` is no whole number, below 1 or above the number of pixels.
    """
    pixels = size[0] * size[1]
    if not hasattr(steps, "__index__"):
        raise JaxcamError(f"the number of steps must be a whole number, not {steps!r}")
    if not 1 <= steps <= pixels:
        raise JaxcamError(f"the number of steps must lie between 1 and the image's {pixels} pixels, not {steps}")
    return np.round(np.arange(steps + 1) * (pixels / steps)).astype(np.int32)


def curve_scores(
    params: Any, ranks: jax.Array, counts: jax.Array, start: jax.Array, end: jax.Array, *, predict: Predict,
    target: int | jax.Array, score: str = "softmax",
) -> jax.Array:  # fmt: skip
    """A stretch of a curve: the score `(n,)` where the `counts` first pixels are `end`'s and the others `start`'s.

    Evaluates n images at once; a loop over stretches of equal length compiles one program and needs memory for n.

    Args:
      params: what `predict` takes first.
      ranks: `(H, W)`, of `pixel_ranks`.
      counts: `(n,)`, some of `step_counts`; may be traced.
      start, end: `(H, W, 3)` images. Insertion goes from the blurred image to the image, deletion from the image to
        the baseline.
      predict, target, score: as for `insertion_curve`.
    """

    def one(count: jax.Array) -> jax.Array:
        logits = predict(params, jnp.where((ranks < count)[..., None], end, start))
        return jax.nn.sigmoid(log_odds(logits, target, score=score))

    return jax.vmap(one)(counts)


def area(scores: jax.Array, counts: jax.Array | np.ndarray) -> jax.Array:
    """Area under `scores (..., n)` over `counts (n,)` scaled to [0, 1], by the trapezoidal rule."""
    widths = np.diff(np.asarray(counts, np.float64)) / float(counts[-1])
    return jnp.sum((scores[..., 1:] + scores[..., :-1]) * (0.5 * widths).astype(np.float32), axis=-1)


def aopc(scores: jax.Array) -> jax.Array:
    """The area over a curve of pixel flipping (Samek et al., TNNLS 2017): `mean_k (score_0 - score_k)`, k from 0.

    Pixels turn into the baseline, most relevant first, as in `deletion_curve`, whose scores these are: what deletion
    tells as the score that is left, this tells as the score that is lost, so that pictures on which the network is
    unsure weigh less. Higher is better.

    Args:
      scores: `(S,)`.

    Returns:
      `()` in [-1, 1].
    """
    return jnp.mean(scores[0] - scores)


def monotonicity(scores: jax.Array) -> jax.Array:
    """Monotonicity (Arya et al. 2019): the share of steps at which the score does not fall as pixels are put back.

    They are put into the baseline, least relevant first: the way back along `deletion_curve`, whose scores these are.
    The paper asks whether all steps are so, which is 1 here, and nearly no picture's curve is. Higher is better; an
    order by chance has about a half.

    Args:
      scores: `(S,)`.

    Returns:
      `()` in [0, 1]; NaN where a score is.
    """
    kept = jnp.mean(scores[..., 1:] <= scores[..., :-1], axis=-1, dtype=scores.dtype)
    return jnp.where(jnp.isnan(scores).any(-1), jnp.nan, kept)


def _curve(params, image, heatmap, start, end, predict, target, score, steps, chunk_size) -> Curve:
    if heatmap.shape != image.shape[:2]:
        raise JaxcamError(f"a map must have its image's size {image.shape[:2]}, not {heatmap.shape}; see resize_map")
    counts = step_counts(heatmap.shape, steps)
    start, end = (jnp.broadcast_to(jnp.asarray(x, image.dtype), image.shape) for x in (start, end))
    ranks = pixel_ranks(heatmap)

    def scores_at(some: jax.Array) -> jax.Array:
        return curve_scores(params, ranks, some, start, end, predict=predict, target=target, score=score)

    if chunk_size is None or chunk_size >= len(counts):
        scores = scores_at(jnp.asarray(counts))
    elif chunk_size < 1:
        raise JaxcamError(f"chunk_size must be at least 1, not {chunk_size}")
    else:
        rows = -(-len(counts) // chunk_size)
        padded = np.resize(counts, (rows, chunk_size))  # repeats from the start; cut off below
        scores = jax.lax.map(scores_at, jnp.asarray(padded)).ravel()[: len(counts)]
    return Curve(jnp.asarray(counts / counts[-1], jnp.float32), scores, area(scores, counts))
