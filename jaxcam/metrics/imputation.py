"""ROAD: pixels are taken away by filling them in from their neighbours, which leaves no edges that tell of the map."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.metrics.curves import pixel_ranks
from jaxcam.metrics.drops import Predict, log_odds
from jaxcam.shapley.result import check_key

#: How much of the image is taken away, in percent.
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
#: Of the noise that is added to what was filled in, in units of the normalised image, as its authors' code has it.
NOISE = 0.01
#: Steps of conjugate gradients: of a photo of which 90 % are gone, they leave errors below a tenth of the noise.
STEPS = 6
#: Copies of an image are no coarser than this, and relaxed so many times there.
_COARSEST, _AT_COARSEST = 8, 16


class Road(NamedTuple):
    """The class score while more and more of an image is imputed, each `()` in [0, 1] but for the last.

    Attributes:
      morf: mean score, the most relevant pixels removed first; lower is better.
      lerf: the least relevant ones; higher is better.
      combined: `(lerf - morf) / 2`, in [-1/2, 1/2]; higher is better, 0 is what a map gets that knows nothing.
    """

    morf: jax.Array
    lerf: jax.Array
    combined: jax.Array


def road(
    params: Any, image: jax.Array, heatmap: jax.Array, key: jax.Array, *, predict: Predict, target: int | jax.Array,
    score: str = "softmax", percentiles: tuple[int, ...] = PERCENTILES, noise: float = NOISE, steps: int = STEPS,
) -> Road:  # fmt: skip
    """Remove and debias (Rong et al., ICML 2022), on the class score.

    Of the pixels in the order of the map (`pixel_ranks`, ties row by row), so many percent are replaced by
    `noisy_linear_imputation`, and the score is averaged over the percentages. The paper counts how often the class is
    still the first one; with a score, as here and in pytorch-grad-cam, one image tells more. Unlike there, ties do not
    remove more than asked for (a map that is 0 on half of the image loses 50 % there where 10 % were meant).

    Costs `2 len(percentiles)` evaluations of the network, and as many imputations.

    Args:
      params: what `predict` takes first.
      image: `(H, W, C)`, the network's input.
      heatmap: `(H, W)`; only its order counts.
      key: random key, of the noise.
      predict, target, score: as for `confidence`.
      percentiles: how much is removed; the same for most and least relevant first.
      noise, steps: of the imputation.
    """
    if heatmap.shape != image.shape[:2]:
        raise JaxcamError(f"a map must have its image's size {image.shape[:2]}, not {heatmap.shape}; see resize_map")
    ranks = pixel_ranks(heatmap)

    def one(point: jax.Array) -> jax.Array:
        shown = road_image(point, image=image, ranks=ranks, key=key, noise=noise, steps=steps)
        return jax.nn.sigmoid(log_odds(predict(params, shown), target, score=score))

    return road_of(jax.vmap(one)(jnp.asarray(road_points(percentiles), jnp.float32)))


def road_points(percentiles: tuple[int, ...] = PERCENTILES) -> tuple[float, ...]:
    """What `road_image` is asked for: the percentages, most relevant first, and negative ones, least relevant first."""
    if not percentiles or not all(0 < p < 100 for p in percentiles):
        raise JaxcamError(f"percentages of an image to remove lie between 0 and 100, not {percentiles}")
    return (*map(float, percentiles), *(-float(p) for p in percentiles))


#: Of `PERCENTILES`.
POINTS = road_points()


def road_image(
    point: jax.Array, *, image: jax.Array, ranks: jax.Array, key: jax.Array, noise: float = NOISE, steps: int = STEPS
) -> jax.Array:
    """The image `(H, W, C)` without so many percent: the most relevant, or at a negative point the least relevant.

    Args:
      point: `()` of `road_points`.
      image: `(H, W, C)`.
      ranks: `(H, W)`, of `pixel_ranks`.
      key: random key; the noise is another for every percentage.
      noise, steps: of `noisy_linear_imputation`.
    """
    percent = jnp.abs(point)
    count = jnp.round(percent * (ranks.size / 100)).astype(ranks.dtype)
    removed = jnp.where(point > 0, ranks < count, ranks >= ranks.size - count)
    check_key(key)
    own = jax.random.fold_in(key, percent.astype(jnp.uint32))
    return noisy_linear_imputation(image, removed, own, noise=noise, steps=steps)


def road_of(scores: jax.Array) -> Road:
    """The summary of scores `(2 n,)` at `road_points`."""
    morf, lerf = (jnp.mean(half) for half in jnp.split(scores, 2))
    return Road(morf, lerf, (lerf - morf) / 2)


def noisy_linear_imputation(
    image: jax.Array, removed: jax.Array, key: jax.Array, *, noise: float = NOISE, steps: int = STEPS
) -> jax.Array:
    """Removed pixels become the weighted mean of their neighbours, removed ones too, and a little noise (Rong et al.).

    Direct neighbours have the weight 1/6 and diagonal ones 1/12; at the border those that are there count alone. That
    is a linear system, `(D - W) x = b`, symmetric and positive definite: conjugate gradients, each with a sweep through
    ever coarser copies of it, solve it in a few steps however large the hole is, which compiles, and batches, where a
    sparse factorisation does not. No evaluation of the network.

    Args:
      image: `(H, W, C)`.
      removed: `(H, W)` bool.
      key: random key.
      noise: standard deviation of what is added to removed pixels, in units of the image.
      steps: of conjugate gradients.

    Returns:
      `(H, W, C)`; where nothing is left of the image (0/0), zeros and the noise.
    """
    check_key(key)
    x, gone = jnp.moveaxis(image, -1, 0), removed[None].astype(image.dtype)  # rows of pixels, not of colours
    left = x * (1 - gone)
    x = gone * _from_coarser(left, 1 - gone)
    residual = gone * _around(left) - _system(x, gone)

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(a * b, axis=(1, 2), keepdims=True)

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        return a / jnp.where(b > 0, b, 1.0) * (b > 0).astype(a.dtype)

    def step(_, state):
        x, residual, direction, size = state
        swept = _sweep(residual, gone)
        new = dot(residual, swept)
        direction = swept + ratio(new, size) * direction
        along = _system(direction, gone)
        length = ratio(new, dot(direction, along))
        return x + length * direction, residual - length * along, direction, new

    start = (x, residual, jnp.zeros_like(x), jnp.zeros_like(x[:, :1, :1]))
    x = jax.lax.fori_loop(0, steps, step, start)[0]
    return jnp.where(
        removed[..., None], jnp.moveaxis(x, 0, -1) + noise * jax.random.normal(key, image.shape, image.dtype), image
    )


def _around(x: jax.Array) -> jax.Array:
    """The weighted sum of the neighbours of each pixel of `(C, H, W)`: shifts, which cost little inside a loop."""
    # Without barriers the compiler computes a pixel anew for every neighbour that asks for it, and theirs.
    x, padded = jax.lax.optimization_barrier((x, jnp.pad(x, ((0, 0), (1, 1), (1, 1)))))
    rows = jax.lax.optimization_barrier(padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:])
    both = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    return (both - 4 * x) / 12


def _degree(height: int, width: int) -> jax.Array:
    """D: the sum of the weights of the neighbours that each pixel has, `(1, H, W)`."""
    down, across = (
        np.where(np.isin(np.arange(n), (0, n - 1)), 3 - (n == 1), 4).astype(np.float32) for n in (height, width)
    )
    return (jnp.asarray(down)[None, :, None] * jnp.asarray(across)[None, None] - 4) / 12


def _system(x: jax.Array, gone: jax.Array) -> jax.Array:
    """`(D - W) x` for x `(C, H, W)` that is 0 outside of what is `gone (1, H, W)`."""
    return gone * (_degree(*gone.shape[1:]) * x - _around(x))


def _sweep(right: jax.Array, gone: jax.Array) -> jax.Array:
    """About the solution of the system for `right (C, H, W)`: a cycle of multigrid, the same up as down.

    A pixel of a coarser copy is unknown where all four under it are.
    """
    height, width = gone.shape[1:]
    damped = 0.8 * gone / _degree(height, width)
    x = damped * right
    if min(height, width) <= _COARSEST:
        return jax.lax.fori_loop(0, _AT_COARSEST, lambda _, x: x + damped * (right - _system(x, gone)), x)
    rest = _fewer(_fewer(right - _system(x, gone), 2), 1)
    unknown = (_halved(1 - gone) == 0).astype(right.dtype)
    x = x + gone * _finer(_sweep(unknown * rest, unknown), height, width)
    return x + damped * (right - _system(x, gone))


def _from_coarser(left: jax.Array, known: jax.Array) -> jax.Array:
    """A first guess at what is missing: about the mean of the smallest square around a pixel that holds something.

    Args:
      left: `(C, H, W)`, 0 where something is missing.
      known: `(1, H, W)`, 0 there and 1 elsewhere.
    """
    height, width = known.shape[1:]
    if min(height, width) <= _COARSEST:
        total = jnp.sum(known)
        mean = jnp.sum(left, axis=(1, 2), keepdims=True) / jnp.where(total > 0, total, 1.0)
        return jnp.where(known > 0, left, mean)
    count = _halved(known)
    some = (count > 0).astype(left.dtype)
    coarse = _from_coarser(_halved(left) / jnp.where(count > 0, count, 1.0), some)
    return jnp.where(known > 0, left, _finer(coarse, height, width))


def _halved(x: jax.Array) -> jax.Array:
    """The sums of squares of two by two pixels of `(C, H, W)`; beyond an odd edge there are zeros."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)))
    rows = x[:, ::2] + x[:, 1::2]
    return rows[..., ::2] + rows[..., 1::2]


def _finer(x: jax.Array, height: int, width: int) -> jax.Array:
    """`(C, h, w)` interpolated to pixels half as large, `(C, H, W)`."""
    return _more(_more(x, 1)[:, :height], 2)[..., :width]


def _slice(x: jax.Array, axis: int, start: int | None, stop: int | None, step: int = 1) -> jax.Array:
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


def _shifted(x: jax.Array, first: jax.Array, last: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """`x` moved on by one place, and back by one; what comes in is the end of `first`, and of `last`."""
    on = jnp.concatenate([_slice(first, axis, None, 1), _slice(x, axis, None, -1)], axis)
    return on, jnp.concatenate([_slice(x, axis, 1, None), _slice(last, axis, -1, None)], axis)


def _more(x: jax.Array, axis: int) -> jax.Array:
    """Twice as many values along an axis, each 3/4 of the nearest and 1/4 of the next."""
    before, after = _shifted(x, x, x, axis)
    pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])


def _fewer(x: jax.Array, axis: int) -> jax.Array:
    """The transpose of `_more`, with a zero beyond an odd edge."""
    x = jnp.pad(x, [(0, x.shape[i] % 2 if i == axis else 0) for i in range(3)])
    even, odd = _slice(x, axis, 0, None, 2), _slice(x, axis, 1, None, 2)
    after, before = _shifted(even, even, odd, axis)[1], _shifted(odd, even, odd, axis)[0]
    return 0.75 * (even + odd) + 0.25 * (after + before)
