"""Measures by parts of the image: each taken away alone, or one after the other in the order of the map."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.metrics.curves import area
from jaxcam.metrics.drops import own_logit
from jaxcam.metrics.fidelity import GRID, cells_of
from jaxcam.metrics.form import in_single
from jaxcam.metrics.similarity import pearson, spearman

#: The cells of the grid by number.
EACH = tuple(range(GRID**2))
#: Points of a curve along which parts are taken away: which share of them is gone.
SHARES = tuple(i / 8 for i in range(9))
#: What is below this share of the greatest counts as nothing.
NOTHING = 0.01
#: Of superpixels: how many along each side to begin with, how much a place counts beside a colour, rounds, and the
#: side of the image that is divided.
SEEDS, COMPACTNESS, ROUNDS, SIDE = 8, 1.0, 10, 56


# --- each alone ----------------------------------------------------------------------------------------------------


def without_cell(point: jax.Array, *, image: jax.Array, baseline: jax.Array) -> jax.Array:
    """The image `(H, W, C)` without the cell of number `point`."""
    gone = jnp.asarray(cells_of(image.shape[:2])) == jnp.asarray(point).astype(jnp.int32)
    return jnp.where(gone[..., None], baseline, image)


def monotonicity_correlation(heatmap: jax.Array, outputs: jax.Array, logits: jax.Array, target: jax.Array) -> jax.Array:
    """Monotonicity by correlation (Nguyen & Martinez 2020): ranks of what the map says, and of how the logit changes.

    Spearman's correlation of the map's sums over 64 cells with `(F(x) - F(x without the cell))^2`. (The paper draws
    values for what is taken away, and takes the mean; here it becomes the baseline, once.) Higher is better. Costs 64
    evaluations of the network, the same for all maps of a picture and class.

    Args:
      heatmap: `(H, W)`, s(M).
      outputs: `(64,)`, the class's logit on `without_cell`.
      logits: `(C,)`, of the image.
      target: class index.

    Returns:
      `()` in [-1, 1]; 0 where the map, or the logit, is the same for all cells (0/0).
    """
    return spearman(_sums(heatmap), _lost(outputs, logits, target) ** 2)


def faithfulness_estimate(heatmap: jax.Array, outputs: jax.Array, logits: jax.Array, target: jax.Array) -> jax.Array:
    """The faithfulness estimate (Alvarez-Melis & Jaakkola, NeurIPS 2018): what the map says, and what the class loses.

    Pearson's correlation of the map's sums over 64 cells with `F(x) - F(x without the cell)`. Higher is better. Cost,
    arguments and 0/0 as in `monotonicity_correlation`.
    """
    return pearson(_sums(heatmap), _lost(outputs, logits, target))


def non_sensitivity(heatmap: jax.Array, outputs: jax.Array, logits: jax.Array, target: jax.Array) -> jax.Array:
    """Non-sensitivity (Nguyen & Martinez 2020): the share of cells of which map and network disagree that they matter.

    A cell says nothing, or does nothing, where the map's sum there, or `|F(x) - F(x without the cell)|`, is at most 1 %
    of that of the greatest cell: the share of cells of which only one is so. (The paper counts features that are
    exactly, and peers those that are within 1e-5 of, nothing.) Lower is better. Cost and arguments as in
    `monotonicity_correlation`.

    Returns:
      `()` in [0, 1]. Of a map of zeros no cell says anything; where no cell does anything, none does.
    """
    said, lost = _sums(heatmap), jnp.abs(_lost(outputs, logits, target))
    most = jnp.max(said), jnp.max(lost)
    apart = jnp.mean((said <= NOTHING * most[0]) != (lost <= NOTHING * most[1]), dtype=said.dtype)
    return jnp.where(jnp.isnan(most[0] + most[1]), jnp.nan, apart)


def _lost(outputs: jax.Array, logits: jax.Array, target: jax.Array) -> jax.Array:
    return own_logit(logits, target) - outputs


def _sums(heatmap: jax.Array) -> jax.Array:
    """Of the map over each cell, `(GRID^2,)`."""
    heatmap = in_single(heatmap)
    rows, columns = (
        jnp.asarray(np.eye(GRID, dtype=np.float32)[np.arange(n) * GRID // n], heatmap.dtype) for n in heatmap.shape
    )
    return jnp.einsum("hi,hw,wj->ij", rows, heatmap, columns, precision="highest").ravel()


# --- in the order of the map ---------------------------------------------------------------------------------------


def without_first_cells(point: jax.Array, *, image: jax.Array, baseline: jax.Array, heatmap: jax.Array) -> jax.Array:
    """The image `(H, W, C)` without the share `point` of the cells, those with the largest sums of the map."""
    return _without_first(point, jnp.asarray(cells_of(heatmap.shape)), _sums(heatmap), image, baseline)


def without_first_segments(point: jax.Array, *, image: jax.Array, baseline: jax.Array, heatmap: jax.Array) -> jax.Array:
    """The image `(H, W, C)` without the share `point` of its superpixels, those with the largest means of the map."""
    which, heatmap = superpixels(image), in_single(heatmap)
    there = (which[..., None] == jnp.arange(SEEDS**2, dtype=which.dtype)[None, None]).astype(heatmap.dtype)
    count = jnp.sum(there, (0, 1))
    mean = jnp.einsum("hw,hws->s", heatmap, there, precision="highest") / jnp.where(count > 0, count, 1)
    return _without_first(point, which, jnp.where(count > 0, mean, -1), image, baseline, jnp.sum(count > 0))


def _without_first(point, which, said, image, baseline, count=None) -> jax.Array:
    """The image without a share of its parts: greater numbers first, of equal ones the first; of all, or so many."""
    number = jnp.arange(said.size)
    before = (said[None] > said[:, None]) | ((said[None] == said[:, None]) & (number[None] < number[:, None]))
    rank = jnp.sum(before, 1, dtype=jnp.int32)
    gone = jnp.round(point * (said.size if count is None else count.astype(jnp.float32))).astype(jnp.int32)
    return jnp.where((rank < gone)[which][..., None], baseline, image)


def superpixels(image: jax.Array) -> jax.Array:
    """Which of at most 64 superpixels each pixel is in, `(H, W)` int32: k-means of colours and places (as SLIC begins).

    From a grid of 8 x 8 centres, ten rounds of `|colours' difference|^2 + |places' difference|^2 / S^2`, S the distance
    of centres in the grid, colours as the network takes them. (SLIC looks no farther than 2 S, and then joins what is
    scattered; neither is done here.) The image is divided at 56 pixels a side and the parts are enlarged again. A part
    may come out empty.

    References:
      Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, TPAMI 2012.
    """
    image = in_single(image)
    height, width = (min(SIDE, n) for n in image.shape[:2])
    small = jax.image.resize(image, (height, width, image.shape[2]), "linear")
    places = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n * SEEDS for n in (height, width)), indexing="ij"), -1)
    pixels = jnp.concatenate([small, jnp.asarray(COMPACTNESS * places, image.dtype)], -1).reshape(height * width, -1)
    rows, columns = (((np.arange(SEEDS) + 0.5) * n // SEEDS).astype(np.int32) for n in (height, width))
    centres = pixels[(rows[:, None] * width + columns[None]).ravel()]

    def nearest(centres: jax.Array) -> jax.Array:
        products = jnp.matmul(pixels, centres.T, precision="highest")
        return jnp.argmin(jnp.sum(centres**2, 1)[None] - 2 * products, 1)

    def moved(_: jax.Array, centres: jax.Array) -> jax.Array:
        own = jax.nn.one_hot(nearest(centres), SEEDS**2, dtype=pixels.dtype)
        count = jnp.sum(own, 0)[:, None]
        mean = jnp.matmul(own.T, pixels, precision="highest") / jnp.where(count > 0, count, 1)
        return jnp.where(count > 0, mean, centres)

    which = nearest(jax.lax.fori_loop(0, ROUNDS, moved, centres)).reshape(height, width).astype(jnp.int32)
    down, across = (np.arange(n) * m // n for n, m in zip(image.shape[:2], (height, width), strict=True))
    return which[down][:, across]


def selectivity(scores: jax.Array, counts: jax.Array) -> jax.Array:
    """Selectivity (Montavon, Samek & Mueller 2018): the area under the score while cells go, largest sums first.

    64 cells, eight at a time, become the baseline; the area is by the trapezoidal rule over the share that is gone.
    Lower is better. Costs nine evaluations of the network a map.

    Args:
      scores: `(S,)`, of the class on `without_first_cells` at `counts (S,)`.

    Returns:
      `()` in [0, 1].
    """
    return area(scores, counts)


def irof(scores: jax.Array, counts: jax.Array) -> jax.Array:
    """IROF (Rieger & Hansen 2020): the area over the score while superpixels go, largest means first.

    `mean of 1 - Y_k / Y_0` along the way, by the trapezoidal rule: sizes of parts do not count for them, and neither
    does how sure the network was. Superpixels as `superpixels` makes them, where the paper has SLIC's. Higher is
    better. Costs nine evaluations of the network a map.

    Args:
      scores: `(S,)`, of the class on `without_first_segments` at `counts (S,)`.

    Returns:
      `()`, at most 1, below 0 where the score rises; 0 where it was 0 to begin with (0/0).
    """
    first = scores[..., :1]
    return area(jnp.where(first == 0, 0, 1 - scores / jnp.where(first == 0, 1, first)), counts)
