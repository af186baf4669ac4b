"""Score-CAM: the class's score on the image as seen through each channel, in chunks of channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError, unknown
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.result import CAM, NetworkFn, Params, Target, cam_of_coefficients, check_activations, scalar_score
from jaxcam.shapley.result import check_count

#: What is made of the logits `(C,)` before the class is picked.
SCORES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "logit": lambda logits: logits,
}
#: How scores become coefficients.
NORMALISATIONS = ("softmax", "increase")


class Start(NamedTuple):
    """What is known before the first chunk.

    Attributes:
      channels: `(chunks, size)` channels by falling range, the last one repeated to fill the last chunk.
      live: `(chunks, size)` which of them count: not the filling, nor channels that are constant.
      logit: `()` of the image.
      score: `()` of the image.
      score_zero: `()` of the all-zero image; 0 where it is not needed.
      left_out: `()` how many channels with a range `top` leaves out.
      range_left_out: `()` their share of the sum of all ranges.
    """

    channels: jax.Array
    live: jax.Array
    logit: jax.Array
    score: jax.Array
    score_zero: jax.Array
    left_out: jax.Array
    range_left_out: jax.Array


@dataclasses.dataclass(frozen=True)
class ScoreChunks:
    """Score-CAM in pure pieces, each to be compiled by itself: `start`, `chunk` for each chunk, `finish`.

    XLA's CPU backend runs convolutions in a loop some 20 times slower than outside one, so there the
    loop over the chunks belongs on the host: `run`. Attributes as the options of `score_cam`; hashable.
    """

    predict: NetworkFn
    score: str = "softmax"
    normalise: str = "softmax"
    top: int | None = None
    chunk_size: int = 12

    def __post_init__(self):
        if self.score not in SCORES:
            raise unknown("score", self.score, SCORES)
        if self.normalise not in NORMALISATIONS:
            raise unknown("normalisation", self.normalise, NORMALISATIONS)
        check_count("chunk_size", self.chunk_size)
        if self.top is not None:
            check_count("top", self.top)

    def start(self, params: Params, activations: jax.Array, image: jax.Array, target: Target) -> Start:
        """The order of the channels, and the scores of the image and of nothing. Cost: 1 or 2 evaluations."""
        _check(activations, image)
        players = activations.shape[-1]
        count = min(self.top or players, players)
        size = min(self.chunk_size, count)
        chunks = -(-count // size)
        ranges = _range(activations)
        order = jnp.argsort(-ranges, stable=True)
        place = jnp.arange(chunks * size)
        channels = order[jnp.minimum(place, count - 1)]
        live = (place < count) & (ranges[channels] > 0)
        logits = self.predict(params, image)
        score = self._score(logits, target)
        zero = jnp.zeros_like(score)
        if self.normalise == "increase":
            zero = self._score(self.predict(params, jnp.zeros_like(image)), target)
        rest, total = ranges[order[count:]], jnp.sum(ranges)
        return Start(
            channels.reshape(chunks, size), live.reshape(chunks, size), _pick(logits, target), score, zero,
            jnp.sum(rest > 0, dtype=jnp.float32), jnp.sum(rest) / jnp.where(total > 0, total, 1.0),
        )  # fmt: skip

    def chunk(
        self, params: Params, activations: jax.Array, image: jax.Array, target: Target, channels: jax.Array
    ) -> jax.Array:
        """Scores `(size,)` of the image times the masks of `channels (size,)`. Cost: `size` evaluations."""

        height, width, _ = image.shape

        def one(k):
            a = jnp.take(activations, k, axis=-1)
            # Scaled before the resize as well: rounding there must not count beside a small range on a large value.
            mask = scale_map(resize_map(scale_map(a), (height, width))).astype(image.dtype)
            return self._score(self.predict(params, image * mask[..., None]), target)

        return jax.vmap(one)(channels)

    def finish(self, activations: jax.Array, start: Start, scores: jax.Array) -> CAM:
        """The map, from the scores `(chunks, size)` of all chunks; whatever those of dead channels are."""
        live, channels, players = start.live.reshape(-1), start.channels.reshape(-1), activations.shape[-1]
        scores = scores.reshape(-1)
        if self.normalise == "softmax":
            peak = jax.lax.stop_gradient(jnp.max(jnp.where(live, scores, -jnp.inf)))
            shares = jnp.where(live, jnp.exp(jnp.where(live, scores - peak, 0.0)), 0.0)
            found = shares / jnp.where(jnp.any(live), jnp.sum(shares), 1.0)
        else:
            found = jnp.where(live, scores - start.score_zero, 0.0)
        scored = jnp.sum(live, dtype=jnp.float32)
        # Added, not set: the filling repeats a channel, with 0.
        alpha = jnp.zeros(players, found.dtype).at[channels].add(found)
        return cam_of_coefficients(
            alpha, activations, logit=start.logit, score=start.score, evaluations=scored + self._before,
            scored=scored, left_out=start.left_out, range_left_out=start.range_left_out,
        )  # fmt: skip

    def run(
        self,
        params: Params,
        activations: jax.Array,
        image: jax.Array,
        target: Target,
        call: Callable[..., Any] = lambda piece, *args: piece(*args),
    ) -> CAM:
        """`score_cam` with the loop over the chunks on the host; chunks of constant channels are not run at all.

        Args:
          params, activations, image, target: as in `score_cam`; concrete arrays.
          call: runs a piece, `call(self.chunk, *args) -> result`: the place for `jax.jit` and its cache.
        """
        start = call(self.start, params, activations, image, target)
        live = [bool(row.any()) for row in np.asarray(start.live)]
        rows = [
            call(self.chunk, params, activations, image, target, channels) if any_live else None
            for channels, any_live in zip(start.channels, live, strict=True)
        ]
        nothing = jnp.zeros(start.channels.shape[1], start.score.dtype)
        return call(self.finish, activations, start, jnp.stack([nothing if r is None else r for r in rows]))

    @property
    def _before(self) -> int:
        return 2 if self.normalise == "increase" else 1

    def _score(self, logits: jax.Array, target: Target) -> jax.Array:
        if self.score == "softmax" and logits.shape == (1,):
            raise JaxcamError("the softmax of a single logit is always 1; use score='sigmoid' or score='logit'")
        return _pick(SCORES[self.score](logits), target)


def score_cam(
    params: Params,
    activations: jax.Array,
    image: jax.Array,
    *,
    predict: NetworkFn,
    target: Target,
    score: str = "softmax",
    normalise: str = "softmax",
    top: int | None = None,
    chunk_size: int = 12,
) -> CAM:
    """Score-CAM: `alpha_k = softmax over k of f_c(image * m_k)`, `m_k` the channel as a mask on the image.

    The mask is `A_k` resized bilinearly to the image and min-max scaled to [0, 1]. A constant channel makes none: its
    coefficient is 0, and it takes no part in the softmax. If every channel is constant, all coefficients are 0. The
    published readings differ in f_c (probability or logit) and in what becomes of the scores (a softmax
    over the channels, or the raw ones): each choice is an option. On CPU, compile the pieces of
    `ScoreChunks` instead, as `jaxcam.explain` does: the numbers are the same.

    Args:
      params: whatever `predict` takes first.
      activations: A `(h, w, K)` of the image, one example.
      image: `(H, W, 3)`, the network's input (normalised, so that 0 is the mean colour).
      predict: `(params, image) -> logits (C,)`, the whole network.
      target: class index (array or int), or a function of what `score` makes of the logits, `(C,) -> ()`.
      score: f_c: "softmax", the class's probability; "sigmoid", that of a multi-label network; "logit".
      normalise: "softmax" over the channels, or "increase": `f_c(image * m_k) - f_c(0)`, with its sign.
      top: score only so many channels, those with the largest range `max A_k - min A_k`; the others get 0.
      chunk_size: masked images at once, which bounds the memory. It does not change the numbers.

    Returns:
      A `CAM`; `diagnostics` holds `logit`, `score` (f_c of the image), `evaluations` (of the whole network: one for
      each channel scored, one for the image, and one for the all-zero image where that counts), `scored`,
      `left_out` (channels with a range that `top` leaves out) and `range_left_out` (their share of all ranges).

    Raises:
      JaxcamError: activations are not `(h, w, K)` or the image not `(H, W, 3)` floats, the class does not
        exist (a traced one gives NaN instead), an option is not one, or the softmax is of one logit.

    References:
      Wang et al., Score-CAM, CVPR Workshops 2020, algorithm 1.
    """
    chunks = ScoreChunks(predict, score, normalise, top, chunk_size)
    start = chunks.start(params, activations, image, target)

    def one(channels_live):
        channels, live = channels_live
        scored = chunks.chunk(params, activations, image, target, channels)
        return jnp.where(live, scored, 0.0)

    def skip(channels_live):
        return jnp.zeros(channels_live[0].shape, start.score.dtype)

    if start.channels.shape[0] == 1:  # no loop
        scores = one((start.channels[0], start.live[0]))[None]
    else:
        # Constant channels come last: their chunks cost nothing (except under vmap, where cond runs both sides).
        scores = jax.lax.map(lambda x: jax.lax.cond(jnp.any(x[1]), one, skip, x), (start.channels, start.live))
    return chunks.finish(activations, start, scores)


def _check(activations: jax.Array, image: jax.Array) -> None:
    check_activations(activations)
    if jnp.ndim(image) != 3:
        raise JaxcamError(f"the image must have shape (H, W, 3), not {jnp.shape(image)}; use jax.vmap for a batch")
    if not jnp.issubdtype(jnp.result_type(image), jnp.floating):
        raise JaxcamError(
            f"the image must be the network's input, floating point, not {jnp.result_type(image)}; preprocess it"
        )


def _range(activations: jax.Array) -> jax.Array:
    """`max A_k - min A_k`, `(K,)`; it only orders and selects, and has no gradient."""
    fixed = jax.lax.stop_gradient(activations)
    return jnp.max(fixed, axis=(0, 1)) - jnp.min(fixed, axis=(0, 1))


def _pick(values: jax.Array, target: Target) -> jax.Array:
    return scalar_score(lambda _, x: x, None, target)(values)
