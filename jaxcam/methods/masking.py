"""Maps made of what the network says of masked inputs: Group-CAM, Opti-CAM and RISE."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.methods.gradient import product
from jaxcam.methods.maps import combine, resize_map
from jaxcam.methods.result import (
    CAM,
    HeadFn,
    NetworkFn,
    Params,
    Target,
    cam_of_coefficients,
    cam_of_contributions,
    cam_of_map,
    check_activations,
    pick,
    scalar_score,
)
from jaxcam.methods.score import at_once, check_image, check_score, mask_of, picked
from jaxcam.methods.stepping import Data, Repeated, divided, division, one_program, split_target
from jaxcam.shapley.permutations import key_impl
from jaxcam.shapley.result import check_count, in_chunks
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding
from jaxcam.transforms.memory import room_for

#: Groups at once on a processor, whose convolutions are slow in a loop: the published number of them in one go.
GROUPS = 32


def group_cam(
    params: Params,
    activations: jax.Array,
    image: jax.Array,
    *,
    predict: NetworkFn,
    head: HeadFn,
    target: Target,
    groups: int = 32,
    keep: float = 0.3,
    score: str = "softmax",
    chunk_size: int | None = None,
) -> CAM:
    """Group-CAM: the map is `relu(sum_l s_l M_l)`, `M_l` the masks of groups of channels and `s_l` what each adds.

    The channels are divided, in their order, into groups of neighbours. `M_l` is `relu(sum of w_k A_k)` over a group,
    with Grad-CAM's `w_k = mean of g_k`, of which the largest `keep` of the positions stay and the others become 0; over
    its maximum. `s_l = f_c(image * m_l + blurred * (1 - m_l)) - f_c(blurred)`, with `m_l` resized to the image. A group
    without evidence has a mask of zeros, and adds exactly 0. A channel's contribution at a position is its summand
    there, `s_l w_k A_k` over the maximum, where its group's mask is not 0: a channel that is zero gets 0.

    Args:
      params: whatever `predict` takes first, and `head`.
      activations: A `(h, w, K)` of the image, one example.
      image: `(H, W, C)`, the network's input.
      predict: `(params, image) -> logits (C,)`, the whole network.
      head: `(params, activations) -> logits (C,)`, what follows the layer.
      target: class index (array or int), or a function of the logits for the gradient, and of what `score` makes of
        them for the rest.
      groups: how many; no more than there are channels.
      keep: share of the positions that stay in a mask; the paper has 30 %.
      score: f_c, as in `score_cam`.
      chunk_size: masked images at once; chosen from the device's memory when None, 32 on a CPU.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit`, `score` (f_c of the image) and `evaluations`. Cost: `groups + 2`
      evaluations of the whole network, and one forward and backward pass of the head.

    Raises:
      JaxcamError: as in `score_cam`, and for a share that is not above 0 and up to 1.

    References:
      Zhang, Rao & Yang, Group-CAM: Group Score-Weighted Visual Explanations for Deep Convolutional Networks,
      arXiv:2103.13859, 2021.
    """
    check_image(activations, image)
    check_score(score)
    if not 0 < keep <= 1:
        raise JaxcamError(f"keep must be a share of the positions, above 0 and up to 1, not {keep}")
    height, width, players = activations.shape
    groups = min(check_count("groups", groups), players)
    chunk = room_for(GROUPS) if chunk_size is None else check_count("chunk_size", chunk_size)
    g = jax.grad(scalar_score(head, params, target))(activations)
    weighted = product(activations, jnp.broadcast_to(jnp.mean(g, (0, 1)), g.shape))
    which = np.repeat(np.arange(groups), [len(part) for part in np.array_split(np.arange(players), groups)])
    sums = jnp.stack([jnp.sum(weighted[..., which == i], -1) for i in range(groups)])
    positive = jax.nn.relu(sums).reshape(groups, -1)
    # As many positions as are kept, and ties with the last of them.
    least = jax.lax.top_k(positive, max(1, round(keep * height * width)))[0][:, -1:]
    stays = (positive >= least) & (positive > 0)
    most = jnp.max(positive, -1, keepdims=True)
    most = jnp.where(most > 0, most, 1)
    masks = jnp.where(stays, positive / most, 0).reshape(groups, height, width)
    far = blurred(image)

    def scored(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = predict(params, x)
        return picked(score, logits, target), pick(logits, target)

    def masked(rows: jax.Array) -> jax.Array:
        def one(mask: jax.Array) -> jax.Array:
            m = resize_map(mask, image.shape[:2]).astype(image.dtype)[..., None]
            return scored(image * m + far * (1 - m))[0]

        return jax.vmap(one)(masks[rows])

    (whole, logit), (nothing, _) = scored(image), scored(far)
    gains = jnp.where(jnp.any(stays, -1), in_chunks(masked, groups, chunk) - nothing, 0)
    share = jnp.where(stays, gains[:, None] / most, 0).reshape(groups, height, width)
    contributions = weighted * jnp.moveaxis(share, 0, -1)[..., which]
    evaluations = jnp.asarray(groups + 2, jnp.float32)
    return cam_of_contributions(contributions, logit=logit, score=whole, evaluations=evaluations)


def blurred(image: jax.Array) -> jax.Array:
    """The image `(H, W, C)` of which little is left: under a Gaussian of 50 pixels in 224, cut off at 25."""

    def matrix(size: int) -> np.ndarray:
        distance = np.abs(np.arange(size)[:, None] - np.arange(size))
        seen = distance <= max(1, size * 25 / 224)
        weights = np.where(seen, np.exp(-0.5 * (distance * 224 / size / 50) ** 2), 0)
        return weights / weights.sum(1, keepdims=True)

    rows, columns = (jnp.asarray(matrix(n), image.dtype) for n in image.shape[:2])
    return jnp.einsum("hi,wj,ijc->hwc", rows, columns, image, precision="highest")


# --- Opti-CAM ------------------------------------------------------------------------------------------------------

#: How much Adam's averages of the gradient, and of its square, keep in a step.
FIRST, SECOND = 0.9, 0.999


class Optimised(NamedTuple):
    """The state of `Ascent`.

    Attributes:
      weights: `(K,)` before the softmax.
      mean, square: `(K,)` Adam's moments.
      logit, score: `()` of the image.
      masked: `()` the score of the masked image, before the last step.
      taken: `()` steps.
    """

    weights: jax.Array
    mean: jax.Array
    square: jax.Array
    logit: jax.Array
    score: jax.Array
    masked: jax.Array
    taken: jax.Array


@dataclasses.dataclass(frozen=True)
class Ascent(Repeated):
    """Opti-CAM as `Steps` on `Data`: one for each step of Adam.

    Attributes:
      network: `(params, image) -> logits (C,)`.
      pick: the target, where it is a function.
      score: as in `opti_cam`.
      rate: of learning.
    """

    network: NetworkFn
    pick: Callable | None
    score: str
    rate: float

    states = (Optimised,)

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> Optimised:
        """Equal coefficients. Cost: one evaluation."""
        check_image(data.activations, data.image)
        target = data.explained(self.pick)
        logits = self.network(data.network_params, data.image)
        score = picked(self.score, logits, target)
        nothing = jnp.zeros(data.players, data.activations.dtype)
        logit = pick(logits, target)
        return Optimised(nothing, nothing, nothing, logit, score, score, jnp.zeros((), jnp.int32))

    def step(self, data: Data, state: Optimised) -> Optimised:
        """One step up. Cost: one evaluation and backward pass of the whole network."""
        target = data.explained(self.pick)

        def seen(weights: jax.Array) -> jax.Array:
            mask = mask_of(combine(jax.nn.softmax(weights), data.activations), data.image)
            return picked(self.score, self.network(data.network_params, data.image * mask[..., None]), target)

        masked, slope = jax.value_and_grad(seen)(state.weights)
        # A constant channel only scales and shifts the map, which the mask takes back: of its slope there is nothing
        # but rounding, and a step of Adam is as long however short the slope is.
        varies = jnp.max(data.activations, (0, 1)) > jnp.min(data.activations, (0, 1))
        slope = jnp.where(varies, slope, 0)
        # Adam, with something below the root, which has no derivative at 0.
        dtype, count = state.weights.dtype, (state.taken + 1).astype(state.weights.dtype)
        mean = FIRST * state.mean + (1 - FIRST) * slope
        square = SECOND * state.square + (1 - SECOND) * slope**2
        length = jnp.sqrt(square / (1 - jnp.asarray(SECOND, dtype) ** count) + 1e-16) + 1e-8
        up = mean / (1 - jnp.asarray(FIRST, dtype) ** count) / length
        weights = state.weights + jnp.asarray(self.rate, dtype) * up
        return state._replace(weights=weights, mean=mean, square=square, masked=masked.astype(state.masked.dtype))

    def finish(self, state: Optimised, activations: jax.Array) -> CAM:
        """The map."""
        alpha = jax.nn.softmax(state.weights)
        return cam_of_coefficients(
            alpha, activations, logit=state.logit, score=state.score, score_masked=state.masked,
            evaluations=jnp.asarray(state.taken + 1, jnp.float32),
        )  # fmt: skip


@one_program()
def opti_cam(
    params: Params,
    activations: jax.Array,
    image: jax.Array,
    *,
    predict: NetworkFn,
    target: Target,
    steps: int = 100,
    learning_rate: float = 0.1,
    score: str = "logit",
) -> CAM:
    """Opti-CAM: `alpha = softmax(u)` for the u at which `f_c(image * m(sum_k alpha_k A_k))` is largest.

    m resizes the map to the image and min-max scales it to [0, 1]. u begins at 0, equal coefficients, and takes so many
    steps of Adam up the score of the image behind its own map: what is found is a map that the network likes to look
    through, not what each channel contributes. A constant channel, which cannot change the mask, takes no step; on a
    dead layer all coefficients stay equal. No coefficient is ever 0 or below. On CPU, drive `stepped_opti_cam` from the
    host instead, as `jaxcam.explain` does: the numbers are the same.

    Args:
      params, activations, image, predict, target: as in `score_cam`.
      steps: of Adam.
      learning_rate: of Adam.
      score: f_c, "logit", "softmax" or "sigmoid" as in `score_cam`.

    Returns:
      A `CAM`; `diagnostics` holds `logit`, `score` (f_c of the image), `score_masked` (f_c behind the map before the
      last step) and `evaluations`. Cost: `steps + 1` evaluations and `steps` backward passes of the whole network.

    Raises:
      JaxcamError: as in `score_cam`.

    References:
      Zhang, Torres, Sicre, Avrithis & Ayache, Opti-CAM: Optimizing saliency maps for interpretability, Computer Vision
      and Image Understanding 2024, arXiv:2301.07002.
    """
    check_image(activations, image)
    check_score(score)
    ascent = Ascent(check_count("steps", steps), predict, split_target(target)[0], score, float(learning_rate))
    return divided(ascent)


stepped_opti_cam = division(opti_cam)


# --- RISE ----------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """The state of `RandomMasks`.

    Attributes:
      weighted: `(h, w)` the sum of the masks, each times its score.
      logit, score: `()` of the activations.
      taken: `()` steps.
    """

    weighted: jax.Array
    logit: jax.Array
    score: jax.Array
    taken: jax.Array


@dataclasses.dataclass(frozen=True)
class RandomMasks(Repeated):
    """RISE as `Steps` on `Data`: one for each chunk of masks.

    Attributes:
      head: `(params, activations) -> logits (C,)`.
      pick: the target, where it is a function.
      score, cells, keep: as in `rise_cam`.
      samples: masks in all.
      size: masks in a chunk.
      impl: of the random key.
    """

    head: HeadFn
    pick: Callable | None
    score: str
    cells: int
    keep: float
    samples: int
    size: int
    impl: str

    states = (Seen,)

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> Seen:
        """Nothing yet. Cost: one evaluation of the head."""
        check_activations(data.activations)
        target, logits = data.explained(self.pick), self.head(data.params, data.activations)
        logit = pick(logits, target)
        nothing = jnp.zeros(data.activations.shape[:2], data.activations.dtype)
        return Seen(nothing, logit, picked(self.score, logits, target), jnp.zeros((), jnp.int32))

    def step(self, data: Data, state: Seen) -> Seen:
        """The next masks. Cost: `size` evaluations of the head."""
        key = jax.random.wrap_key_data(data.key, impl=self.impl)
        target = data.explained(self.pick)
        place = state.taken * self.size + jnp.arange(self.size, dtype=state.taken.dtype)

        def one(i: jax.Array) -> jax.Array:
            mask = self.mask(jax.random.fold_in(key, i), data.activations)
            value = picked(self.score, self.head(data.params, data.activations * mask[..., None]), target)
            return jnp.where(i < self.samples, value.astype(mask.dtype), 0) * mask

        return state._replace(weighted=state.weighted + jnp.sum(jax.vmap(one)(place), 0))

    def mask(self, key: jax.Array, activations: jax.Array) -> jax.Array:
        """A mask `(h, w)` in [0, 1]: a grid of cells that are there or not, resized, at a random place."""
        height, width, _ = activations.shape
        cells = min(self.cells, height, width)
        room = [-(-n // cells) for n in (height, width)]
        grid_key, *shifts = jax.random.split(key, 3)
        chance = jnp.asarray(self.keep, jnp.float32)  # of which draws are the same whatever the activations are
        there = jax.random.bernoulli(grid_key, chance, (cells, cells)).astype(activations.dtype)
        large = resize_map(there, ((cells + 1) * room[0], (cells + 1) * room[1]))
        at = [jax.random.randint(k, (), 0, n, jnp.int32) for k, n in zip(shifts, room, strict=True)]
        return jax.lax.dynamic_slice(large, at, (height, width))

    def finish(self, state: Seen, activations: jax.Array) -> CAM:
        """The map, of which every channel has the same part."""
        found = state.weighted / jnp.asarray(self.samples * self.keep, state.weighted.dtype)
        if self.score == "logit":
            found = found - jnp.min(found)
        evaluations = jnp.asarray(self.samples + 1, jnp.float32)
        return cam_of_map(found, activations, logit=state.logit, score=state.score, evaluations=evaluations)


@one_program()
def rise_cam(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_samples: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
    score: str = "softmax",
    chunk_size: int | None = None,
) -> CAM:
    """RISE: the map is the mean of random masks, each times `f_c(A * mask)`, over the probability that a cell is kept.

    At the layer "input" the masks hide pixels, and this is the paper's; at any other they hide positions of the
    activations, in all channels alike, for the price of the head alone. A mask is a grid of cells, each kept with
    probability `keep`, resized bilinearly to a cell more than the map and cut out at a random place. No channel is told
    from another: each has an equal part of the map as its contribution, and so have channels that are zero. The map has
    no zero of its own: its least value is what the network says whatever is hidden. Of logits, which may all be
    negative, that is taken off.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example; or the image, with the whole network as the head.
      key: a `jax.random` key; the same key gives the same map, up to rounding, whatever the chunk size.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function of what `score` makes of the logits, `(C,) -> ()`.
      num_samples: masks; the paper has 4000 for a VGG16 and 8000 for a ResNet50.
      cells: along each side of the grid; no more than there are positions.
      keep: probability that a cell is kept.
      score: f_c, as in `score_cam`.
      chunk_size: masks at once; chosen from the device's memory when None, 12 on a CPU.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit`, `score` (f_c of the activations) and `evaluations`. Cost:
      `num_samples + 1` evaluations of the head.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, the class does not exist (a traced one gives NaN throughout
        instead), or an option is not one.

    References:
      Petsiuk, Das & Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, eq. 6.
    """
    check_activations(activations)
    check_score(score)
    if not 0 < keep <= 1:
        raise JaxcamError(f"keep must be a probability above 0, not {keep}")
    samples, cells = check_count("num_samples", num_samples), check_count("cells", cells)
    size = min(samples, at_once(chunk_size))
    steps = RandomMasks(
        -(-samples // size), head, split_target(target)[0], score, cells, float(keep), samples, size, key_impl(key)
    )
    return divided(steps)


stepped_rise_cam = division(rise_cam)
