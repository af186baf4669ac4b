"""Measures that weigh several sides of a map against each other: coherency, ADCC, ARCC."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.metrics.drops import drop
from jaxcam.metrics.form import map_complexity
from jaxcam.metrics.imputation import PERCENTILES, road_of
from jaxcam.metrics.similarity import pearson

#: What ARCC takes of ROAD.
ARCC_PERCENTILES = (20, 40, 60, 80)


class Adcc(NamedTuple):
    """What ADCC is made of; each `()` in [0, 1].

    Attributes:
      adcc: `3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))`; higher is better.
      coherency: `(1 + r) / 2`, r Pearson's correlation of the map and the map of what it shows; higher is better.
      complexity: mean of the map; lower is better.
      drop: `max(0, Y - O) / Y`; lower is better.
    """

    adcc: jax.Array
    coherency: jax.Array
    complexity: jax.Array
    drop: jax.Array


def shown_image(
    point: jax.Array | None = None, *, image: jax.Array, heatmap: jax.Array, baseline: jax.Array
) -> jax.Array:
    """What a map shows of an image, `image * s + baseline * (1 - s)`: `(H, W, C)`.

    Args:
      point: makes no difference; there is one such image.
      image, baseline: `(H, W, C)`.
      heatmap: `(H, W)`, s(M), in [0, 1].
    """
    del point
    s = heatmap[..., None]
    return image * s + baseline * (1 - s)


def shown_images(*, image: jax.Array, heatmap: jax.Array, baseline: jax.Array) -> jax.Array:
    """`shown_image` as the one image of a variation: `(1, H, W, C)`."""
    return shown_image(image=image, heatmap=heatmap, baseline=baseline)[None]


def coherency(heatmap: jax.Array, again: jax.Array) -> jax.Array:
    """How like a map is the map of what it shows (Poppi et al., CVPRW 2021): `(1 + r) / 2`, r Pearson's correlation.

    Higher is better. Costs one forward pass and one map more.

    Args:
      heatmap: `(H, W)`, s(M).
      again: `(1, H, W)`, the same method's map, for the same class, of `shown_image`.

    Returns:
      `()` in [0, 1]; 1/2 where a map is constant (0/0: no correlation).
    """
    return (1 + pearson(heatmap, again[0])) / 2


def adcc(heatmap: jax.Array, again: jax.Array, original: jax.Array, odds: jax.Array) -> Adcc:
    """Average drop, coherency and complexity as one number, their harmonic mean (Poppi et al., CVPRW 2021).

    A map that shows everything has no drop and is coherent, and is worth nothing for its complexity; one that shows a
    point is simple, and drops. Costs two forward passes and one map more, a pass less with what `coherency` needs.

    Args:
      heatmap, again: as for `coherency`.
      original: `()`, `log_odds` of the class in the image.
      odds: `(1,)`, the same of what the map shows.

    Returns:
      `Adcc`, whose first is 0 where one of the three is (harmonic means have no other limit there).
    """
    alike, spread, lost = coherency(heatmap, again), map_complexity(heatmap), drop(original, odds[0]) / 100
    return Adcc(harmonic_mean(alike, 1 - spread, 1 - lost), alike, spread, lost)


def arcc(heatmap: jax.Array, again: jax.Array, scores: jax.Array) -> jax.Array:
    """ROAD, coherency and complexity as one number, their harmonic mean (Domeniconi et al., arXiv 2605.14641, 2026).

    `3 / (1 / R + 1 / coherency + 1 / (1 - complexity))` with R twice ROAD's `combined` at 20, 40, 60 and 80 %, cut off
    below 0 and above 1: as in the code that its authors gave to pytorch-grad-cam, from which this was read. (There the
    words say geometric mean; the code is the harmonic one.) Higher is better. Costs what `road` does, one forward pass
    and one map.

    Args:
      heatmap, again: as for `coherency`.
      scores: `(2 n,)`, of the class at `road_points()`.

    Returns:
      `()` in [0, 1]; 0 where one of the three is.
    """
    places = jnp.asarray([PERCENTILES.index(p) for p in ARCC_PERCENTILES])
    at = jnp.concatenate([places, places + len(PERCENTILES)])
    faithful = jnp.clip(2 * road_of(scores[at]).combined, 0.0, 1.0)
    return harmonic_mean(faithful, coherency(heatmap, again), 1 - map_complexity(heatmap))


def harmonic_mean(*values: jax.Array) -> jax.Array:
    """Of values `()` that are not negative; 0 where one of them is."""
    stacked = jnp.stack([jnp.maximum(v, 0.0) for v in values])
    some = jnp.all(stacked > 0)
    mean = len(values) / jnp.sum(1 / jnp.where(stacked > 0, stacked, 1.0))
    return jnp.where(jnp.any(jnp.isnan(stacked)), jnp.nan, jnp.where(some, mean, 0.0))
