"""Score-CAM and its kin, SS-CAM and IS-CAM: the class's score on the image as seen through each channel, in chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError, check_known
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.result import CAM, NetworkFn, Params, Target, cam_of_coefficients, check_activations, pick
from jaxcam.methods.stepping import Data, Stepped, divided, division, one_program, split_target
from jaxcam.shapley.permutations import key_impl
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


def at_once(chunk_size: int | None) -> int:
    """How many masked images, or activations, are evaluated at once: as asked, or by the device's memory."""
    return room_for(CHUNK) if chunk_size is None else check_count("chunk_size", chunk_size)


#: How scores become coefficients.
NORMALISATIONS = ("softmax", "increase")


@dataclasses.dataclass(frozen=True)
class Plain:
    """Once, as it is."""

    count = 1

    def view(self, image: jax.Array, mask: jax.Array, i: Any, key: Any) -> jax.Array:
        return image * mask[..., None]


@dataclasses.dataclass(frozen=True)
class Noisy:
    """Through noisy copies of the mask.

    Attributes:
      count: of them.
      sigma: standard deviation of the noise at every pixel, where the mask itself is in [0, 1].
      impl: of the random key.
    """

    count: int
    sigma: float
    impl: str

    def view(self, image: jax.Array, mask: jax.Array, i: jax.Array | int, key: jax.Array | None) -> jax.Array:
        noise = jax.random.normal(jax.random.fold_in(key, i), mask.shape, jnp.float32)  # type: ignore[arg-type]
        noise = noise.astype(mask.dtype)
        return image * (mask + jnp.asarray(self.sigma, mask.dtype) * noise)[..., None]


@dataclasses.dataclass(frozen=True)
class Rising:
    """Through the mask at `count` strengths, from `1 / count` to 1."""

    count: int

    def view(self, image: jax.Array, mask: jax.Array, i: jax.Array | int, key: Any) -> jax.Array:
        share = (jnp.asarray(i, mask.dtype) + 1) / self.count
        return image * (share * mask)[..., None]


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
      scores: `(chunks, size)` of the image behind the masks of the channels, the sum of the views that are there.
      scored: `()` how many of the chunks' views are there, chunk by chunk.
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
    """Score-CAM as `Steps` on `Data`: one for each view of each chunk of channels, but for chunks of constant ones.

    Attributes:
      network: `(params, image) -> logits (C,)`.
      pick: the target, where it is a function.
      score, normalise: as in `score_cam`.
      channels: how many are scored.
      size: channels in a chunk.
      views: in which ways the image is seen through each of them, `count` of them: `Plain`, `Noisy` or `Rising`.
    """

    network: NetworkFn
    pick: Callable | None
    score: str
    normalise: str
    channels: int
    size: int
    views: Any = Plain()

    states = (ScoreState,)

    @property
    def chunks(self) -> int:
        return -(-self.channels // self.size)

    @property
    def count(self) -> int:
        return self.chunks * self.views.count

    @property
    def repeats(self) -> None:
        return None

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> ScoreState:
        """The order of the channels, and the scores of the image and of nothing. Cost: 1 or 2 evaluations."""
        check_image(data.activations, data.image)
        ranges = _range(data.activations)
        order = jnp.argsort(-ranges, stable=True)
        place = jnp.arange(self.chunks * self.size)
        channels = order[jnp.minimum(place, self.channels - 1)]
        live = (place < self.channels) & (ranges[channels] > 0)
        target = data.explained(self.pick)
        logits = self.network(data.network_params, data.image)
        score = picked(self.score, logits, target)
        zero = jnp.zeros_like(score)
        if self.normalise == "increase":
            zero = picked(self.score, self.network(data.network_params, jnp.zeros_like(data.image)), target)
        rest, total = ranges[order[self.channels :]], jnp.sum(ranges)
        shape = (self.chunks, self.size)
        return ScoreState(
            channels.reshape(shape), live.reshape(shape), pick(logits, target), score, zero,
            jnp.sum(rest > 0, dtype=jnp.float32), jnp.sum(rest) / jnp.where(total > 0, total, 1.0),
            jnp.zeros(shape, score.dtype), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    def advance(self, data: Data, state: ScoreState, sharding: RowSharding = ONE_DEVICE) -> ScoreState:
        """The state with the next view of a chunk in it. Cost: `size` evaluations."""
        at, view = state.scored // self.views.count, state.scored % self.views.count
        scores = self.chunk(data, state.channels[at], view)
        return state._replace(scores=state.scores.at[at].add(scores), scored=state.scored + 1)

    def done(self, state: ScoreState) -> jax.Array:
        return state.scored >= state.live.any(1).sum() * self.views.count

    def share(self, state: ScoreState) -> float:
        return float(state.scored) / max(1, int(state.live.any(1).sum()) * self.views.count)

    def check(self, data: Data, state: ScoreState, resumed: bool) -> None:
        if resumed and state.scores.shape != (self.chunks, self.size):
            raise JaxcamError("the saved state is of other chunks of channels; begin anew")

    def chunk(self, data: Data, channels: jax.Array, view: jax.Array | int) -> jax.Array:
        """Scores `(size,)` of one view of the image through the masks of `channels (size,)`."""
        activations, image = data.activations, data.image
        target = data.explained(self.pick)
        impl = getattr(self.views, "impl", None)
        key = None if impl is None else jax.random.wrap_key_data(data.key, impl=impl)

        def one(k):
            mask = mask_of(jnp.take(activations, k, axis=-1), image)
            own = None if key is None else jax.random.fold_in(key, k)
            seen = self.views.view(image, mask, view, own)
            return picked(self.score, self.network(data.network_params, seen), target)

        return jax.vmap(one)(channels)

    def whole(self, data: Data, channels: jax.Array) -> jax.Array:
        """The sum of the scores `(size,)` of all views."""
        if self.views.count == 1:  # no loop
            return self.chunk(data, channels, 0)
        return jnp.sum(jax.lax.map(lambda i: self.chunk(data, channels, i), jnp.arange(self.views.count)), 0)

    def finish(self, state: ScoreState, activations: jax.Array) -> CAM:
        """The map, from the scores of all chunks; whatever those of dead channels are."""
        live, channels, players = state.live.reshape(-1), state.channels.reshape(-1), activations.shape[-1]
        scores = state.scores.reshape(-1) / self.views.count
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
            evaluations=scored * self.views.count + (2 if self.normalise == "increase" else 1), scored=scored,
            left_out=state.left_out, range_left_out=state.range_left_out,
        )  # fmt: skip


def mask_of(a: jax.Array, image: jax.Array) -> jax.Array:
    """A map `(h, w)` as a mask `(H, W)` on the image: resized, and scaled to [0, 1]; zeros of a constant one."""
    # Scaled before the resize as well: rounding there must not count beside a small range on a large value.
    return scale_map(resize_map(scale_map(a), image.shape[:2])).astype(image.dtype)


def picked(score: str, logits: jax.Array, target: Target) -> jax.Array:
    """The target of what `score`, one of `SCORES`, makes of the logits."""
    if score == "softmax" and logits.shape == (1,):
        raise JaxcamError("the softmax of a single logit is always 1; use score='sigmoid' or score='logit'")
    return pick(SCORES[score](logits), target)


def check_score(score: str) -> None:
    """Raises a JaxcamError unless it is one of `SCORES`."""
    check_known("score", score, SCORES)


def _divided(activations, image, predict, target, score, normalise, top, chunk_size, views) -> Any:
    check_image(activations, image)
    check_score(score)
    check_known("normalisation", normalise, NORMALISATIONS)
    chunk_size = at_once(chunk_size)
    players = jnp.shape(activations)[-1]
    channels = players if top is None else min(check_count("top", top), players)
    steps = ScoreChunks(predict, split_target(target)[0], score, normalise, channels, min(chunk_size, channels), views)
    return divided(steps)


def _in_one_program(stepped: Stepped, data: Data) -> CAM:
    steps: Any = stepped.steps
    state = steps.start(data)

    def one(channels_live):
        channels, live = channels_live
        return jnp.where(live, steps.whole(data, channels), 0.0)

    def skip(channels_live):
        return jnp.zeros(channels_live[0].shape, state.score.dtype)

    # No `stepping.run`: its loop has no derivative. Constant channels come last: their chunks cost nothing (except
    # under vmap, where cond runs both sides).
    if steps.chunks == 1:  # no loop
        scores = one((state.channels[0], state.live[0]))[None]
    else:
        scores = jax.lax.map(lambda x: jax.lax.cond(jnp.any(x[1]), one, skip, x), (state.channels, state.live))
    return stepped.result(state._replace(scores=scores), data.activations)


@one_program(_in_one_program)
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
    return _divided(activations, image, predict, target, score, normalise, top, chunk_size, Plain())


stepped_score_cam = division(score_cam)


@one_program(_in_one_program)
def ss_cam(
    params: Params,
    activations: jax.Array,
    image: jax.Array,
    key: jax.Array,
    *,
    predict: NetworkFn,
    target: Target,
    num_samples: int = 10,
    sigma: float = 2.0,
    score: str = "softmax",
    normalise: str = "softmax",
    top: int | None = None,
    chunk_size: int | None = None,
) -> CAM:
    """SS-CAM: Score-CAM with `alpha_k = softmax over k of the mean of f_c(image * (m_k + sigma e))`, e normal noise.

    A draw of e `(H, W)` for each channel and sample; the masks with it are not scaled again. Without noise it is
    Score-CAM. The published standard deviation of 2 is twice the range of the masks, so that most of what the network
    is shown is noise; with `sigma=0.1` the masks can still be seen. On CPU, drive `stepped_ss_cam` from the host
    instead, as `jaxcam.explain` does: the numbers are the same.

    Args:
      params, activations, image, predict, target: as in `score_cam`.
      key: a `jax.random` key; the same key gives the same coefficients whatever the chunk size.
      num_samples: draws of the noise for each channel.
      sigma: its standard deviation, where the masks are in [0, 1].
      score, normalise, top, chunk_size: as in `score_cam`.

    Returns:
      A `CAM`; diagnostics, constant channels and errors as in `score_cam`. Cost: `num_samples` evaluations of the whole
      network for each channel, and one for the image.

    References:
      Wang, Naidu, Michael & Kundu, SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization,
      arXiv:2006.14255, 2020; the variant that smooths the mask.
    """
    views = Noisy(check_count("num_samples", num_samples), float(sigma), key_impl(key))
    return _divided(activations, image, predict, target, score, normalise, top, chunk_size, views)


stepped_ss_cam = division(ss_cam)


@one_program(_in_one_program)
def is_cam(
    params: Params,
    activations: jax.Array,
    image: jax.Array,
    *,
    predict: NetworkFn,
    target: Target,
    num_samples: int = 10,
    score: str = "softmax",
    normalise: str = "softmax",
    top: int | None = None,
    chunk_size: int | None = None,
) -> CAM:
    """IS-CAM: Score-CAM with `alpha_k = softmax over k of (1/N) sum_i f_c(image * (i/N) m_k)`, i from 1 to N.

    The mask comes up in equal steps, as the picture of integrated gradients does. (Programs that add each step's share
    to a running sum reach several times the mask, a picture brighter than any: torchcam, up to `(N + 1) / 2` of it.)
    With one step it is Score-CAM. On CPU, drive `stepped_is_cam` from the host instead, as `jaxcam.explain` does.

    Args:
      params, activations, image, predict, target: as in `score_cam`.
      num_samples: N.
      score, normalise, top, chunk_size: as in `score_cam`.

    Returns:
      A `CAM`; diagnostics, constant channels and errors as in `score_cam`. Cost: N evaluations of the whole network for
      each channel, and one for the image.

    References:
      Naidu, Ghosh, Maurya, Nayak & Kundu, IS-CAM: Integrated Score-CAM for axiomatic-based explanations,
      arXiv:2010.03023, 2020.
    """
    views = Rising(check_count("num_samples", num_samples))
    return _divided(activations, image, predict, target, score, normalise, top, chunk_size, views)


stepped_is_cam = division(is_cam)


def check_image(activations: jax.Array, image: jax.Array) -> None:
    """Raises a JaxcamError unless these are `(h, w, K)` and `(H, W, C)` of one example, floating point."""
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
