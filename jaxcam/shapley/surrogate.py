"""Surrogates in the units of a game's first layer: fitted on orderings, followed along others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.shapley.permutations import ordering_ranks

#: Parts of the pilot; the orderings of a part meet a surrogate fitted on the other parts.
FOLDS = 5
#: Features whose weights are fitted, the most important ones; the others keep the mean gradient.
MAX_FITTED = 2048
#: Gradients of which the mean is the first guess of the weights.
GRADIENTS = 16
_ELEMENTS = 1 << 25
#: Numbers that stay in a processor's cache from one player of an ordering to the next.
CACHED = 1 << 16


class Layer(NamedTuple):
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


def _follow(layer: Layer, ranks: jax.Array, of_step: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`(K, n, ...)`: `of_step` of the change of phi `(n, H)` with each player of the orderings `ranks (n, K)`."""
    order = jnp.argsort(ranks, axis=1).T

    def step(carry, players):
        z, phi = carry
        z = z + layer.table[players]
        reached = layer.activation(z)
        return (z, reached), of_step(reached - phi)

    base = jnp.broadcast_to(layer.base, (ranks.shape[0], layer.base.shape[0]))
    return jax.lax.scan(step, (base, layer.activation(base)), order)[1]


def _in_groups(function: Callable, elements: int, layer: Layer, ranks: jax.Array, *more: jax.Array):
    """`function(valid, ranks, *more)` over groups of orderings, stacked; rows that are not valid repeat others."""
    count = ranks.shape[0]
    group = max(1, min(count, elements))
    groups = -(-count // group)
    at = jnp.minimum(jnp.arange(groups * group), count - 1).reshape(groups, group)
    valid = jnp.arange(groups * group).reshape(groups, group) < count
    return jax.lax.map(lambda i: function(i[1], ranks[i[0]], *(x[i[0]] for x in more)), (at, valid))


def surrogate_marginals(layer: Layer, weights: jax.Array, ranks: jax.Array) -> jax.Array:
    """`(n, S, K)` marginal contribution of each player to the surrogates `weights (S, H)`."""

    def some(valid, ranks):
        by_position = _follow(layer, ranks, lambda change: jnp.matmul(change, weights.T, precision="highest"))
        return jnp.take_along_axis(jnp.transpose(by_position, (1, 2, 0)), ranks[:, None], axis=2)

    out = _in_groups(some, CACHED // layer.base.shape[0], layer, ranks)
    return out.reshape(-1, *out.shape[2:])[: ranks.shape[0]]


def _fit(layer: Layer, ranks: jax.Array, changes: jax.Array, prior: jax.Array, chosen: jax.Array):
    """Gram matrix `(J, J)` and moment `(J,)` of the chosen features' steps with what the prior leaves of `changes`."""

    def some(valid, ranks, changes):
        steps = jnp.swapaxes(_follow(layer, ranks, lambda change: change), 0, 1) * valid[:, None, None]
        rest = changes * valid[:, None] - jnp.einsum("nkh,h->nk", steps, prior, precision="highest")
        x = steps[:, :, chosen].reshape(-1, chosen.shape[0])
        return jnp.matmul(x.T, x, precision="highest"), jnp.matmul(x.T, rest.reshape(-1), precision="highest")

    gram, moment = _in_groups(some, _ELEMENTS // layer.table.size, layer, ranks, changes)
    return gram.sum(0), moment.sum(0)


def _solve(gram: jax.Array, moment: jax.Array, orderings: int) -> jax.Array:
    """Ridge regression towards the prior; the fewer orderings, the nearer to it."""
    size = gram.shape[0]
    ridge = (0.1 + 1.0 / orderings) * jnp.trace(gram) / size + jnp.finfo(gram.dtype).tiny
    return jax.scipy.linalg.solve(gram + ridge * jnp.eye(size, dtype=gram.dtype), moment, assume_a="pos")


def fitted_weights(layer: Layer, ranks: jax.Array, paths: jax.Array, key: jax.Array) -> jax.Array:
    """`(FOLDS + 1, H)`: each fitted on the pilot without one fold; the last on all of it."""
    players = ranks.shape[1]
    # At coalitions of its own: the folds must know nothing of each other.
    of_order, of_size = jax.random.split(key)
    drawn = ordering_ranks(of_order, jnp.arange(GRADIENTS), players, False)[:, 0]
    at = jax.random.uniform(of_size, (GRADIENTS, 1)) * players
    prior = layer.gradient((drawn < at).astype(layer.table.dtype)).mean(0)
    chosen = jax.lax.top_k(jnp.abs(prior) * jnp.abs(layer.table).sum(0), min(MAX_FITTED, prior.shape[0]))[1]
    changes = jnp.diff(paths, axis=1)
    count = ranks.shape[0]
    folds = [slice(i * count // FOLDS, (i + 1) * count // FOLDS) for i in range(FOLDS)]
    parts = [_fit(layer, ranks[fold], changes[fold], prior, chosen) for fold in folds]
    gram, moment = (jnp.stack(x).sum(0) for x in zip(*parts, strict=True))
    solved = [_solve(gram - g, moment - m, count - count // FOLDS) for g, m in parts]
    return jnp.stack([prior.at[chosen].add(w) for w in [*solved, _solve(gram, moment, count)]])
