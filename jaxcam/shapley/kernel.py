"""KernelSHAP: Shapley values as a weighted least squares over random coalitions."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley.result import Estimate, GameFn, check_count, check_key, checked, ends, evaluate, in_chunks, matmul
from jaxcam.transforms.arithmetic import quotient

#: Of the largest singular value: what a direction must have to count as determined.
_LEAST = 1e-3


def sample_coalitions(key: jax.Array, *, num_players: int, num_samples: int, paired: bool = False) -> jax.Array:
    """Random coalitions `(num_samples, K)` bool, neither empty nor full, distributed as the Shapley kernel.

    A size s in 1 .. K - 1 has probability proportional to `(K - 1) / (s (K - s))`, and all
    coalitions of a size are alike. With `paired`, sample 2 i + 1 is the complement of sample 2 i.
    Sample i depends on the key and on i alone.

    Raises:
      JaxcamError: `key` is no random key, or fewer than two players or one sample.
    """
    check_key(key)
    check_count("num_players", num_players, 2)
    check_count("num_samples", num_samples)
    sizes = np.arange(1, num_players)
    odds = jnp.asarray(np.log(1.0 / (sizes * (num_players - sizes))), jnp.float32)  # 64 bits draw others

    def one(i):
        of_size, of_order = jax.random.split(jax.random.fold_in(key, i))
        size = 1 + jax.random.categorical(of_size, odds)
        return jax.random.permutation(of_order, num_players) < size

    masks = jax.vmap(one)(jnp.arange(num_samples // 2 if paired else num_samples))
    return jnp.stack([masks, ~masks], 1).reshape(num_samples, num_players) if paired else masks


class Fit(NamedTuple):
    """A constrained least squares.

    Attributes:
      values: `phi (K,)`.
      solver: the factor `S (K, n)` with `phi = even split + S (sqrt(w) * residual of the even split)`.
      rank: `()` of the K - 1 directions, how many the coalitions determine.
      determined: `(K,)` bool, whose value they determine.
    """

    values: jax.Array
    solver: jax.Array
    rank: jax.Array
    determined: jax.Array


def constrained_least_squares(
    masks: jax.Array, values: jax.Array, v_full: jax.Array, v_empty: jax.Array, weights: jax.Array | None = None
) -> Fit:
    """`argmin sum_i w_i (v_i - v_empty - m_i . phi)^2` under `sum phi = v_full - v_empty`, of all of them the shortest.

    The constraint (the two coalitions of infinite weight) is eliminated, `phi = span / K + x` with
    `sum x = 0`, in an orthonormal basis of that plane, where every player counts alike and the condition is
    no worse than the problem's; a QR factorisation then avoids the squared condition of the normal
    equations, and the singular values of its small factor show the rank. Directions of which the coalitions say
    next to nothing (below 1e-3 of the largest singular value) are left at the even split: of all that fits, the
    solution nearest to it.

    Args:
      masks: `(n, K)`.
      values: `(n,)` of the coalitions.
      v_full: `()` value of all players.
      v_empty: `()` value of no player.
      weights: `(n,)`, all alike by default.
    """
    players = masks.shape[1]
    span = v_full - v_empty
    design = masks.astype(values.dtype)
    even = design.sum(1) / players
    target = values - v_empty - span * even
    root = jnp.ones_like(target) if weights is None else jnp.sqrt(weights)
    plane = jnp.asarray(_plane(players), values.dtype)
    q, r = jnp.linalg.qr(root[:, None] * matmul(design, plane))
    left, singular, right = jnp.linalg.svd(r, full_matrices=True)
    count = singular.shape[0]
    known = singular > _LEAST * singular[0]
    inverse = quotient(1, singular, known)
    directions = matmul(plane, right.T)  # (K, K - 1)
    solver = matmul(directions[:, :count] * inverse[None], matmul(left[:, :count].T, q.T))
    unknown = jnp.ones(players - 1, bool).at[:count].set(~known)
    determined = jnp.sum(jnp.where(unknown[None], jnp.square(directions), 0), axis=1) < 1e-6
    return Fit(span / players + matmul(solver, root * target), solver, jnp.sum(known), determined)


def kernel_shapley(
    v: GameFn,
    key: jax.Array,
    *,
    num_players: int,
    num_samples: int,
    paired: bool = True,
    chunk_size: int = 4096,
) -> Estimate:
    """KernelSHAP with exact efficiency: coalition sizes drawn from the kernel, then constrained least squares.

    Consistent, and biased at first order in 1 / num_samples, as a ratio of two estimates. Pure; works
    under `jax.jit`. Memory: `num_samples * K` numbers, three times.

    Args:
      v: the game, `masks (n, K) -> (n,)`.
      key: a `jax.random` key.
      num_players: K, at least 2.
      num_samples: coalitions to draw, besides the empty and the full one; at least K - 1. Paired ones determine K
        players from twice that number on; fewer give the solution of least norm, whose errors are infinite.
      paired: draw each coalition with its complement (`num_samples` must be even): cancels the noise
        of all interactions of two players.
      chunk_size: the most coalitions in one call of `v`.

    Returns:
      An `Estimate`; the standard error is the regression's heteroscedasticity-robust one (HC1, a pair
      being one observation), which assumes many more coalitions than players; infinite for a player whose value the
      coalitions do not determine, and for all where different ones are no more than their rank. What is not
      determined is split evenly.

    Raises:
      JaxcamError: fewer coalitions than K - 1, an odd number of paired ones, a game of the wrong shape.

    References:
      Lundberg and Lee, A unified approach to interpreting model predictions, 2017.
      Covert and Lee, Improving KernelSHAP, 2021 (paired sampling).
    """
    players = check_count("num_players", num_players, 2)
    count = check_count("num_samples", num_samples)
    group = 2 if paired else 1
    if count % group:
        raise JaxcamError(f"paired coalitions need an even num_samples, not {count}; or pass paired=False")
    if count < players - 1:
        raise JaxcamError(
            f"{count} coalitions say too little of {players} players; take at least num_samples={players - 1}, and "
            f"{group * (players - 1)} to determine them"
        )
    v_full, v_empty = ends(v, players)
    masks = sample_coalitions(key, num_players=players, num_samples=count, paired=paired)
    values = in_chunks(lambda i: evaluate(v, masks[i]), count, check_count("chunk_size", chunk_size))
    fit = constrained_least_squares(masks, values, v_full, v_empty)
    residual = values - v_empty - matmul(masks.astype(values.dtype), fit.values)
    # The two of a pair are one observation: their shared part cancels in the estimate, so it must here.
    scores = (fit.solver * residual[None]).reshape(players, count // group, group).sum(-1)
    free = count // group - fit.rank
    error = jnp.sqrt((scores**2).sum(1) * (count // group) / jnp.maximum(free, 1).astype(scores.dtype))
    # Coalitions that determine no more than they are, however often they were drawn, leave no residual to judge by.
    seen, others = _different(masks, paired), players > 2  # of two players there is one pair, which says all
    judged = (seen.astype(fit.rank.dtype) > fit.rank) | (not others)
    error = jnp.where(fit.determined & (free > 0) & judged, error, jnp.inf)
    return checked(Estimate(fit.values, error, jnp.asarray(count + 2, jnp.int32), v_full, v_empty))


def _different(masks: jax.Array, paired: bool) -> jax.Array:
    """How many of the `masks (n, K)` are different, `()`; with `paired`, a coalition and its complement being alike.

    By a random code of 32 bits, which two of them have in common too rarely to matter.
    """
    masks = masks ^ masks[:, :1] if paired else masks
    bits = np.random.default_rng(0).integers(0, 2**32, masks.shape[1], np.uint32)
    codes = jnp.sort(jnp.sum(jnp.where(masks, jnp.asarray(bits)[None], jnp.uint32(0)), 1, dtype=jnp.uint32))
    return 1 + jnp.sum(codes[1:] != codes[:-1], dtype=jnp.int32)


@functools.lru_cache(maxsize=8)
def _plane(players: int) -> np.ndarray:
    """`(K, K - 1)` orthonormal columns that each sum to zero (Helmert's contrasts)."""
    k = np.arange(1, players, dtype=np.float64)
    below = np.arange(players)[:, None] < k
    columns = np.where(below, 1.0, 0.0) - np.where(np.arange(players)[:, None] == k, k, 0.0)
    return columns / np.sqrt(k * (k + 1))
