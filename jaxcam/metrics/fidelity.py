"""Whether a map tells how much the class loses with parts that are taken away at random: infidelity, sensitivity-n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.metrics.drops import Predict, own_logit
from jaxcam.metrics.form import in_single
from jaxcam.metrics.similarity import pearson
from jaxcam.shapley.result import check_key
from jaxcam.transforms.arithmetic import quotient

#: Parts that are taken away, and as many evaluations of the network.
NUM_PARTS = 32
PARTS = tuple(range(NUM_PARTS))
#: The side of a square, as a share of the image's shorter side.
SQUARE = 0.25
#: Cells a side of the grid of which sensitivity-n takes some away, and how many it takes.
GRID, CELLS = 8, 16


class Infidelity(NamedTuple):
    """How far a map is from the drops that it should tell; each `()`.

    Attributes:
      value: `mean (b I.s - d)^2`, in squares of a logit; lower is better.
      share: the same divided by `mean d^2`, in [0, 1]: 1 for a map that tells nothing. 0 where no part mattered (0/0).
    """

    value: jax.Array
    share: jax.Array


def infidelity(
    params: Any, image: jax.Array, heatmap: jax.Array, key: jax.Array, *, predict: Predict, target: int | jax.Array,
    baseline: float | jax.Array = 0.0, num_parts: int = NUM_PARTS,
) -> Infidelity:  # fmt: skip
    """Explanation infidelity with squares removed (Yeh et al., NeurIPS 2019), at the best scale.

    `I` is a random square (a quarter of the shorter side, wholly inside), `d = F(x) - F(x with the square removed)` and
    `I.s` the sum of the map in it. As a map has no unit, it is multiplied by the b that fits best,
    `b = sum (I.s) d / sum (I.s)^2`, as the authors' code and captum with `normalize=True` do.

    Costs `num_parts` + 1 evaluations of the network, the same for all maps of a picture and class.

    Args:
      params: what `predict` takes first.
      image: `(H, W, C)`, the network's input.
      heatmap: `(H, W)`, s(M).
      key: random key, of the squares.
      predict: the network, for one image.
      target: class index.
      baseline: what removed pixels become.
      num_parts: squares.

    Raises:
      JaxcamError: shapes that do not fit, fewer than two parts, or a target that is (where it is known) no class.
    """
    outputs, logits = _removed(params, image, heatmap, key, predict, target, baseline, num_parts, random_square)
    return infidelity_of(heatmap, key, outputs, logits, jnp.asarray(target), jnp.arange(num_parts))


def sensitivity_n(
    params: Any, image: jax.Array, heatmap: jax.Array, key: jax.Array, *, predict: Predict, target: int | jax.Array,
    baseline: float | jax.Array = 0.0, num_parts: int = NUM_PARTS,
) -> jax.Array:  # fmt: skip
    """Sensitivity-n (Ancona et al., ICLR 2018): the correlation between what the map says and what the class loses.

    n = 16 cells of a grid of 8 x 8 are removed at random; the map says their sum, the class loses
    `F(x) - F(x without them)`. (The paper removes n single pixels, of which a network that looks at 128 x 128 of them
    sees little; it compares several n.) The correlation is Pearson's. Higher is better.

    Costs `num_parts` + 1 evaluations of the network, the same for all maps of a picture and class.

    Args:
      params, image, heatmap, key, predict, target, baseline, num_parts: as for `infidelity`.

    Returns:
      `()` in [-1, 1]; 0 where the map, or the drops, are constant (0/0).
    """
    outputs, logits = _removed(params, image, heatmap, key, predict, target, baseline, num_parts, random_cells)
    return sensitivity_n_of(heatmap, key, outputs, logits, jnp.asarray(target), jnp.arange(num_parts))


def random_square(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """A random square of an image, `(H, W)` bool: `SQUARE` of the shorter side, wholly inside."""
    side = max(1, round(SQUARE * min(size)))
    along = []
    for own, length in zip(jax.random.split(key), size, strict=True):
        start = jax.random.randint(own, (), 0, length - side + 1, jnp.int32)
        place = jnp.arange(length, dtype=start.dtype)
        along.append((place >= start) & (place < start + side))
    return along[0][:, None] & along[1][None]


def cells_of(size: Sequence[int]) -> np.ndarray:
    """Which cell of a grid of `GRID` x `GRID` each pixel is in, `(H, W)` int32, row by row."""
    rows, columns = (np.arange(n, dtype=np.int32) * GRID // n for n in size)
    return rows[:, None] * GRID + columns[None]


def random_cells(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`CELLS` random cells of a grid of `GRID` x `GRID` over an image, `(H, W)` bool; a quarter of it."""
    order = jax.random.permutation(key, jnp.arange(GRID * GRID, dtype=jnp.int32))
    return (order < CELLS)[cells_of(size)]


def without_square(point: jax.Array, *, image: jax.Array, baseline: jax.Array, key: jax.Array) -> jax.Array:
    """The image `(H, W, C)` without the random square of number `point`."""
    return _without(random_square, point, image, baseline, key)


def without_cells(point: jax.Array, *, image: jax.Array, baseline: jax.Array, key: jax.Array) -> jax.Array:
    """The image `(H, W, C)` without the random cells of number `point`."""
    return _without(random_cells, point, image, baseline, key)


def infidelity_of(
    heatmap: jax.Array, key: jax.Array, outputs: jax.Array, logits: jax.Array, target: jax.Array, counts: jax.Array
) -> Infidelity:
    """`infidelity` from what the network gave.

    Args:
      heatmap: `(H, W)`.
      key: of the squares.
      outputs: `(S,)`, the class's logit on `without_square` at the points `counts (S,)`.
      logits: `(C,)`, of the image.
      target: class index.
    """
    said, lost = _sums(random_square, heatmap, key, counts), own_logit(logits, target) - outputs
    square = jnp.sum(said * said)
    scale = jnp.sum(said * lost) / jnp.where(square > 0, square, 1.0)
    value, most = jnp.mean((scale * said - lost) ** 2), jnp.mean(lost * lost)
    return Infidelity(value, quotient(value, most))


def sensitivity_n_of(
    heatmap: jax.Array, key: jax.Array, outputs: jax.Array, logits: jax.Array, target: jax.Array, counts: jax.Array
) -> jax.Array:
    """`sensitivity_n` from what the network gave on `without_cells`; arguments as for `infidelity_of`."""
    return pearson(_sums(random_cells, heatmap, key, counts), own_logit(logits, target) - outputs)


def _number(key: jax.Array, point: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, jnp.asarray(point).astype(jnp.uint32))


def _without(part, point, image, baseline, key) -> jax.Array:
    removed = part(_number(key, point), image.shape[:2])
    return jnp.where(removed[..., None], baseline, image)


def _sums(part, heatmap, key, counts) -> jax.Array:
    """What the map says of each part, its sum there: `(S,)`."""

    single = in_single(heatmap)

    def one(point: jax.Array) -> jax.Array:
        return jnp.sum(single * part(_number(key, point), single.shape).astype(single.dtype))

    return jax.vmap(one)(jnp.asarray(counts))


def _removed(params, image, heatmap, key, predict, target, baseline, num_parts, part):
    if heatmap.shape != image.shape[:2]:
        raise JaxcamError(f"a map must have its image's size {image.shape[:2]}, not {heatmap.shape}; see resize_map")
    if num_parts < 2:
        raise JaxcamError(f"the number of parts to take away must be at least 2, not {num_parts}")
    check_key(key)
    base = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
    images = jax.vmap(lambda point: _without(part, point, image, base, key))(jnp.arange(num_parts))
    logits = jax.vmap(predict, (None, 0))(params, jnp.concatenate([images, image[None]]))
    return jax.vmap(lambda z: own_logit(z, target))(logits[:-1]), logits[-1]
