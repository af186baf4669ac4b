"""Score-CAM: the class's score on the image as seen through each channel, in chunks of channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError, unknown
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.result import CAM, NetworkFn, Params, Target, cam_of_coefficients, check_activations, scalar_score
from jaxcam.methods.stepping import Data, Stepped
from jaxcam.shapley.result import check_count
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding
from jaxcam.transforms.memory import room_for

#: What is made of the logits `(C,)` before the class is picked.
SCORES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "logit": lambda logits: logits,
}
#: Masked images at once on a processor.
CHUNK = 12
#: How scores become coefficients.
NORMALISATIONS = ("softmax", "increase")


class ScoreState(NamedTuple):
    """What is known of the scores so far.

    Attributes:
      channels: `(chunks, size)` channels by falling range, the last one repeated to fill the last chunk.
      live: `(chunks, size)` which of them count: not the filling, nor channels that are constant; these come first.
      logit: `()` of the image.
      score: `()` of the image.
      score_zero: `()` of the all-zero image; 0 where it is not needed.
      left_out: `()` how many channels with a range `top` leaves out.
      range_left_out: `()` their share of the sum of all ranges.
      scores: `(chunks, size)` of the image behind the masks of the channels; 0 for chunks that are to come.
      scored: `()` chunks that are there.
    """

    channels: jax.Array
    live: jax.Array
    logit: jax.Array
    score: jax.Array
    score_zero: jax.Array
    left_out: jax.Array
    range_left_out: jax.Array
    scores: jax.Array
    scored: jax.Array


@dataclasses.dataclass(frozen=True)
class ScoreChunks:
    """Score-CAM as `Steps` on `Data`: one for each chunk of channels, but for chunks of constant ones.

    Attributes:
      network: `(params, image) -> logits (C,)`.
      pick: the target, where it is a function.
      score, normalise: as in `score_cam`.
      channels: how many are scored.
      size: channels in a chunk.
    """

    network: NetworkFn
    pick: Callable | None
    score: str
    normalise: str
    channels: int
    size: int

    states = (ScoreState,)

    @property
    def count(self) -> int:
        return -(-self.channels // self.size)

    @property
    def repeats(self) -> None:
        return None

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> ScoreState:
        """The order of the channels, and the scores of the image and of nothing. Cost: 1 or 2 evaluations."""
        _check(data.activations, data.image)
        ranges = _range(data.activations)
        order = jnp.argsort(-ranges, stable=True)
        place = jnp.arange(self.count * self.size)
        channels = order[jnp.minimum(place, self.channels - 1)]
        live = (place < self.channels) & (ranges[channels] > 0)
        target = data.target if self.pick is None else self.pick
        logits = self.network(data.network_params, data.image)
        score = self._score(logits, target)
        zero = jnp.zeros_like(score)
        if self.normalise == "increase":
            zero = self._score(self.network(data.network_params, jnp.zeros_like(data.image)), target)
        rest, total = ranges[order[self.channels :]], jnp.sum(ranges)
        shape = (self.count, self.size)
        return ScoreState(
            channels.reshape(shape), live.reshape(shape), _pick(logits, target), score, zero,
            jnp.sum(rest > 0, dtype=jnp.float32), jnp.sum(rest) / jnp.where(total > 0, total, 1.0),
            jnp.zeros(shape, score.dtype), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def advance(self, data: Data, state: ScoreState, sharding: RowSharding = ONE_DEVICE) -> ScoreState:
        """The state with the next chunk in it. Cost: `size` evaluations."""
        scores = self.chunk(data, state.channels[state.scored])
        return state._replace(scores=state.scores.at[state.scored].set(scores), scored=state.scored + 1)

    def done(self, state: ScoreState) -> jax.Array:
        return state.scored >= state.live.any(1).sum()

    def share(self, state: ScoreState) -> float:
        return float(state.scored) / max(1, int(state.live.any(1).sum()))

    def check(self, data: Data, state: ScoreState, resumed: bool) -> None:
        if resumed and state.scores.shape != (self.count, self.size):
            raise JaxcamError("the saved state is of other chunks of channels; begin anew")

    def chunk(self, data: Data, channels: jax.Array) -> jax.Array:
        """Scores `(size,)` of the image times the masks of `channels (size,)`."""
        activations, image = data.activations, data.image
        height, width, _ = image.shape
        target = data.target if self.pick is None else self.pick

        def one(k):
            a = jnp.take(activations, k, axis=-1)
            # Scaled before the resize as well: rounding there must not count beside a small range on a large value.
            mask = scale_map(resize_map(scale_map(a), (height, width))).astype(image.dtype)
            return self._score(self.network(data.network_params, image * mask[..., None]), target)

        return jax.vmap(one)(channels)

    def finish(self, state: ScoreState, activations: jax.Array) -> CAM:
        """The map, from the scores of all chunks; whatever those of dead channels are."""
        live, channels, players = state.live.reshape(-1), state.channels.reshape(-1), activations.shape[-1]
        scores = state.scores.reshape(-1)
        if self.normalise == "softmax":
            peak = jax.lax.stop_gradient(jnp.max(jnp.where(live, scores, -jnp.inf)))
            shares = jnp.where(live, jnp.exp(jnp.where(live, scores - peak, 0.0)), 0.0)
            found = shares / jnp.where(jnp.any(live), jnp.sum(shares), 1.0)
        else:
            found = jnp.where(live, scores - state.score_zero, 0.0)
        scored = jnp.sum(live, dtype=jnp.float32)
        # Added, not set: the filling repeats a channel, with 0.
        alpha = jnp.zeros(players, found.dtype).at[channels].add(found)
        return cam_of_coefficients(
            alpha, activations, logit=state.logit, score=state.score,
            evaluations=scored + (2 if self.normalise == "increase" else 1), scored=scored, left_out=state.left_out,
            range_left_out=state.range_left_out,
        )  # fmt: skip

    def _score(self, logits: jax.Array, target: Target) -> jax.Array:
        if self.score == "softmax" and logits.shape == (1,):
            raise JaxcamError("the softmax of a single logit is always 1; use score='sigmoid' or score='logit'")
        return _pick(SCORES[self.score](logits), target)


def stepped_score_cam(
    params: Params,
    activations: jax.Array,
    image: jax.Array,
    *,
    predict: NetworkFn,
    target: Target,
    score: str = "softmax",
    normalise: str = "softmax",
    top: int | None = None,
    chunk_size: int | None = None,
    devices: int = 1,
) -> Stepped:
    """`score_cam` divided into steps, one for each chunk of channels. Arguments and errors as there.

    One device runs all of them: `devices` makes no difference.
    """
    _check(activations, image)
    if score not in SCORES:
        raise unknown("score", score, SCORES)
    if normalise not in NORMALISATIONS:
        raise unknown("normalisation", normalise, NORMALISATIONS)
    chunk_size = room_for(CHUNK) if chunk_size is None else check_count("chunk_size", chunk_size)
    players = jnp.shape(activations)[-1]
    channels = players if top is None else min(check_count("top", top), players)
    pick = target if callable(target) else None
    steps = ScoreChunks(predict, pick, score, normalise, channels, min(chunk_size, channels))
    return Stepped(steps, _itself, ScoreChunks.finish)


def _itself(data: Data) -> Data:
    return data


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
    chunk_size: int | None = None,
) -> CAM:
    """Score-CAM: `alpha_k = softmax over k of f_c(image * m_k)`, `m_k` the channel as a mask on the image.

    The mask is `A_k` resized bilinearly to the image and min-max scaled to [0, 1]. A constant channel makes none: its
    coefficient is 0, and it takes no part in the softmax. If every channel is constant, all coefficients are 0. The
    published readings differ in f_c (probability or logit) and in what becomes of the scores (a softmax
    over the channels, or the raw ones): each choice is an option. On CPU, drive
    `stepped_score_cam` from the host instead, as `jaxcam.explain` does: the numbers are the same.

    Args:
      params: whatever `predict` takes first.
      activations: A `(h, w, K)` of the image, one example.
      image: `(H, W, C)`, the network's input (normalised, so that 0 is the mean colour).
      predict: `(params, image) -> logits (C,)`, the whole network.
      target: class index (array or int), or a function of what `score` makes of the logits, `(C,) -> ()`.
      score: f_c: "softmax", the class's probability; "sigmoid", that of a multi-label network; "logit".
      normalise: "softmax" over the channels, or "increase": `f_c(image * m_k) - f_c(0)`, with its sign.
      top: score only so many channels, those with the largest range `max A_k - min A_k`; the others get 0.
      chunk_size: masked images at once, which bounds the memory; chosen from the device's when None, 12 on a CPU. It
        does not change the numbers.

    Returns:
      A `CAM`; `diagnostics` holds `logit`, `score` (f_c of the image), `evaluations` (of the whole network: one for
      each channel scored, one for the image, and one for the all-zero image where that counts), `scored`,
      `left_out` (channels with a range that `top` leaves out) and `range_left_out` (their share of all ranges).

    Raises:
      JaxcamError: activations are not `(h, w, K)` or the image not `(H, W, C)` floats, the class does not
        exist (a traced one gives NaN throughout instead), an option is not one, or the softmax is of one logit.

    References:
      Wang et al., Score-CAM, CVPR Workshops 2020, algorithm 1.
    """
    stepped = stepped_score_cam(
        params, activations, image, predict=predict, target=target, score=score, normalise=normalise, top=top,
        chunk_size=chunk_size,
    )  # fmt: skip
    steps: Any = stepped.steps
    data = Data(None, params, activations, image, None if callable(target) else target, None)
    state = steps.start(data)

    def one(channels_live):
        channels, live = channels_live
        return jnp.where(live, steps.chunk(data, channels), 0.0)

    def skip(channels_live):
        return jnp.zeros(channels_live[0].shape, state.score.dtype)

    # No `stepping.run`: its loop has no derivative. Constant channels come last: their chunks cost nothing (except
    # under vmap, where cond runs both sides).
    if steps.count == 1:  # no loop
        scores = one((state.channels[0], state.live[0]))[None]
    else:
        scores = jax.lax.map(lambda x: jax.lax.cond(jnp.any(x[1]), one, skip, x), (state.channels, state.live))
    return stepped.result(state._replace(scores=scores), activations)


def _check(activations: jax.Array, image: jax.Array) -> None:
    check_activations(activations)
    if jnp.ndim(image) != 3:
        raise JaxcamError(f"the image must have shape (H, W, C), not {jnp.shape(image)}; use jax.vmap for a batch")
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
