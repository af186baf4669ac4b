"""Surrogates of a game that reads its coalition through one layer, fitted to coalitions and their complements.

With `x = 2 m - 1`, a coalition's complement is `-x`: Shapley values depend on the odd part of a game alone, and so
does a surrogate. It is a weighted sum of `x_k z^2p` and `z^q`, z the mean of x, and of the units of the game's first
layer, each as a short series of sines of what it adds up. Its Shapley values are known in closed form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.shapley import pairs
from jaxcam.shapley.result import matmul
from jaxcam.transforms.arithmetic import quotient

#: Units whose weights are fitted, the most important ones; the others keep the mean gradient.
MAX_FITTED = 1024
#: Powers of z that a player's weight depends on, and odd powers of z alone.
EVEN, ODD = (0, 2, 4), (1, 3, 5)
#: Sines in the series of a unit; half their period in standard deviations of its input.
SINES, REACH = 4, 3.5
#: Coalitions at which the series are fitted; positive nodes of the quadrature over the share of the players inside.
SAMPLES, NODES = 256, 8


class GameLayer(NamedTuple):
    """The layer `phi(m) = activation(base + m @ table)` through which a game reads its coalitions.

    Attributes:
      base: `(H,)`.
      table: `(K, H)`.
      activation: elementwise `(n, H) -> (n, H)`.
      gradient: `masks (n, K) -> (n, H)`, the derivative of v in phi.
    """

    base: jax.Array
    table: jax.Array
    activation: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array], jax.Array]


class SineUnits(NamedTuple):
    """The units of a layer as odd functions of x: `series[0] a + sum_j series[j] sin(j a)`, `a = x @ angles`.

    Attributes:
      angles: `(K, H)`.
      series: `(1 + SINES, H)`.
      prior: `(H,)` the first guess of the units' weights, their mean gradient.
      chosen: `(J,)` the units whose weights are fitted.
    """

    angles: jax.Array
    series: jax.Array
    prior: jax.Array
    chosen: jax.Array


class LayerFit(NamedTuple):
    """A fitted surrogate of differences between coalitions and their complements.

    Attributes:
      units: of the layer.
      weights: `(J,)` of `features`.
    """

    units: SineUnits
    weights: jax.Array

    def __call__(self, signs: jax.Array) -> jax.Array:
        """`(n,)` at `signs (n, K)`."""
        x, known = features(self.units, signs)
        return known + matmul(x, self.weights)


def fit_units(layer: GameLayer, key: jax.Array, present: jax.Array, gradients: int) -> SineUnits:
    """The units of a layer, and their mean gradient at so many coalitions of the `present`, an even number."""
    half = layer.table / 2
    signs = pairs.draw(key, jnp.arange(SAMPLES), present)
    angles, series = _fitted_series(layer, half, signs.astype(half.dtype))
    some = signs[: gradients // 2]
    prior = layer.gradient((jnp.concatenate([some, -some]) > 0).astype(half.dtype)).mean(0).astype(half.dtype)
    important = jnp.abs(prior) * jnp.abs(half).sum(0)
    return SineUnits(angles, series, prior, jax.lax.top_k(important, min(MAX_FITTED, prior.shape[0]))[1])


def _fitted_series(layer: GameLayer, half: jax.Array, signs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`angles (K, H)` and `series (1 + SINES, H)`: each unit's odd part, by least squares at coalitions."""
    inputs = matmul(signs, half)
    middle = (layer.base + half.sum(0))[None]
    outputs = layer.activation(middle + inputs) - layer.activation(middle - inputs)
    spread = jnp.sqrt(jnp.mean(inputs**2, 0))
    scale = quotient(math.pi / REACH, spread, spread > 0)
    parts = jnp.stack(_series(inputs * scale[None]))
    gram = jnp.einsum("anh,bnh->hab", parts, parts, precision="highest") / signs.shape[0]
    moment = jnp.einsum("anh,nh->ha", parts, outputs, precision="highest") / signs.shape[0]
    # Inputs of a few different values tell the terms of a series badly apart.
    gram = gram + 1e-3 * jnp.eye(1 + SINES, dtype=gram.dtype)[None]
    return half * scale[None], jnp.linalg.solve(gram, moment[..., None])[..., 0].T


def features(units: SineUnits, signs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(n, J)` values of the fitted features at `signs (n, K)`, and `(n,)` of all units with their prior weights."""
    signs = signs.astype(units.angles.dtype)
    mean = signs.sum(1, keepdims=True) / jnp.maximum(jnp.abs(signs).sum(1, keepdims=True), 1)
    parts = _series(matmul(signs, units.angles))
    layer = functools.reduce(jnp.add, (part * units.series[j][None] for j, part in enumerate(parts)))
    fitted = [*(signs * mean**p for p in EVEN), *(mean**p for p in ODD), layer[:, units.chosen]]
    return jnp.concatenate(fitted, 1), matmul(layer, units.prior)


def penalties(units: SineUnits, key: jax.Array, present: jax.Array) -> jax.Array:
    """`(J,)` ridge penalties of the features, alike within each kind, from their mean squares at SAMPLES coalitions.

    They count as an eighth of a coalition for each player, which did best on trained heads from 10 orderings to 100.
    """
    signs = pairs.draw(key, jnp.arange(SAMPLES), present)
    x, _ = features(units, signs)
    energy = jnp.mean(x**2 * pairs.weights(signs)[:, None], 0)
    players = present.shape[0]
    sizes = [*(players for _ in EVEN), len(ODD), units.chosen.shape[0]]
    parts = jnp.split(energy, np.cumsum(sizes)[:-1])
    count = jnp.maximum(present.sum(), 1)
    among = jnp.stack([*(count for _ in EVEN), len(ODD), max(sizes[-1], 1)])
    means = jnp.stack([part.sum() for part in parts]) / among.astype(energy.dtype)
    each = jnp.maximum(means, means.max() * 1e-4 + jnp.finfo(energy.dtype).tiny) * count.astype(energy.dtype) / 8
    return jnp.repeat(each, np.array(sizes), total_repeat_length=energy.shape[0])


@functools.lru_cache(maxsize=32)
def own_shares(players: int) -> np.ndarray:
    """`(K + 1, len(EVEN))`: of the game `x_k z^p` among so many players, player k's own share."""
    table = np.ones((players + 1, len(EVEN)))
    for count in range(1, players + 1):
        mean = np.arange(count + 1) * (2 / count) - 1
        table[count] = [((mean**p)[1:] + (mean**p)[:-1]).mean() / 2 for p in EVEN]
    return table


def shapley_values(units: SineUnits, weights: jax.Array, present: jax.Array) -> jax.Array:
    """`(S, K)` Shapley values of the surrogates `weights (S, J)` of `features`, their priors included.

    Those of a surrogate u stand for `u / 2`, as u is the difference of a coalition and its complement. The sines
    are integrated over the share of the players inside, at 2 NODES nodes. Cost: some `16 K H SINES NODES` operations.
    """
    players = units.angles.shape[0]
    width = players * len(EVEN)
    by_player = weights[:, :width].reshape(-1, len(EVEN), players)
    count = present.sum()
    # Player k's own share by its place in an ordering; the rest is divided among the others.
    own = jnp.asarray(own_shares(players), weights.dtype)[count][None, :, None]
    others = (1 - own) / jnp.maximum(count - 1, 1).astype(weights.dtype)
    total = jnp.where(present[None, None], by_player, 0).sum(2, keepdims=True)
    found = (own * by_player + others * (total - by_player)).sum(1)
    found = found + weights[:, width : width + len(ODD)].sum(1, keepdims=True) / jnp.maximum(count, 1).astype(
        weights.dtype
    )
    found = jnp.where(present[None], found, 0)
    fitted = weights[:, width + len(ODD) :]
    all_units = jnp.broadcast_to(units.prior, (fitted.shape[0], units.prior.shape[0]))
    return found + _of_sines(units, all_units.at[:, units.chosen].add(fitted))


def _of_sines(units: SineUnits, weights: jax.Array) -> jax.Array:
    """`(S, K)` half the Shapley values of `sum_h weights[s, h] (series of unit h)`.

    For player i `sin(a_i) int Re prod_{k != i} (cos a_k + i t sin a_k) dt`, t from 0 to 1.
    """
    nodes = np.polynomial.legendre.leggauss(2 * NODES)
    t, mass = (jnp.asarray(a[NODES:], weights.dtype) for a in nodes)
    t = t[:, None, None]
    harmonics = jnp.arange(1, 1 + SINES, dtype=weights.dtype)[:, None]

    def factor(angle):
        """Cosine `(SINES, H)` and sine, and the sine at the nodes `(NODES, SINES, H)`."""
        cos, sin = jnp.cos(harmonics * angle[None]), jnp.sin(harmonics * angle[None])
        return cos, sin, t * sin[None]

    def multiply(product, angle):
        real, imaginary = product
        cos, _, sin = factor(angle)
        return (real * cos[None] - imaginary * sin, real * sin + imaginary * cos[None]), None

    shape = (NODES, SINES, weights.shape[1])
    one = (jnp.ones(shape, weights.dtype), jnp.zeros(shape, weights.dtype))
    (real, imaginary), _ = jax.lax.scan(multiply, one, units.angles)

    def without(angle):
        cos, own, sin = factor(angle)
        others = (real * cos[None] + imaginary * sin) / (cos[None] ** 2 + sin**2)
        by_unit = (jnp.tensordot(mass, others, 1) * own * units.series[1:]).sum(0)
        return matmul(weights, by_unit + angle * units.series[0])

    return jax.lax.map(without, units.angles).T


def _series(angle: jax.Array) -> list[jax.Array]:
    """The angle, and the sines of its SINES first multiples."""
    sin, twice = jnp.sin(angle), 2 * jnp.cos(angle)
    sines = [jnp.zeros_like(sin), sin]
    while len(sines) < 1 + SINES:
        sines.append(twice * sines[-1] - sines[-2])
    return [angle, *sines[1:]]
