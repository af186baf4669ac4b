"""The weighted Lasso of LIME."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley.result import Estimate, GameFn, at_least, check_count, check_key, checked, ends, evaluate, in_chunks
from jaxcam.transforms.arithmetic import quotient


class LassoFit(NamedTuple):
    """A fitted linear model `y = intercept + x . coefficients`.

    Attributes:
      coefficients: `(K,)`.
      intercept: `()`.
      violation: `()` largest violation of the optimality conditions, in the units of their bound beta.
      sweeps: `()` passes over the coefficients.
    """

    coefficients: jax.Array
    intercept: jax.Array
    violation: jax.Array
    sweeps: jax.Array


def weighted_lasso(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array,
    *,
    beta: float | jax.Array,
    tolerance: float | None = None,
    max_sweeps: int = 2000,
) -> LassoFit:
    """`argmin (1 / N) sum_i w_i (y_i - b - x_i . alpha)^2 + beta ||alpha||_1` by coordinate descent.

    The weights count as they are, not normalised to sum to N. scikit-learn halves the squares and normalises the
    weights: its `alpha` is `beta / (2 mean(w))`. Pure; works under `jax.jit`. Gradients are those of the optimum, by
    the implicit function theorem.

    Args:
      x: `(N, K)` such as coalitions.
      y: `(N,)`.
      weights: `(N,)`, not negative.
      beta: the penalty.
      tolerance: stop when no optimality condition is violated by more than this share of its scale; 1e-6 in float32
        and 1e-12 in float64 unless given.
      max_sweeps: passes over the coefficients at most.

    Returns:
      A `LassoFit`; NaN where the numbers are not finite.

    Raises:
      JaxcamError: shapes that do not fit; a penalty or weights that are (where they are known) negative.
    """
    if jnp.ndim(x) != 2 or not x.shape[0] or y.shape != x.shape[:1] or weights.shape != x.shape[:1]:
        raise JaxcamError(f"a Lasso takes x (N, K), y (N,) and weights (N,), not {x.shape}, {y.shape}, {weights.shape}")
    check_penalty(beta)
    if not isinstance(weights, jax.core.Tracer) and not bool((weights >= 0).all()):
        raise JaxcamError("the weights of a Lasso must not be negative")
    dtype = at_least(jnp.float32, y.dtype)
    x, y, weights = x.astype(dtype), y.astype(dtype), weights.astype(dtype)
    tolerance = (1e-6 if dtype == jnp.float32 else 1e-12) if tolerance is None else tolerance
    count = x.shape[0]
    # Only relative weights can be tiny (LIME's are exp(-4 ...)): scaled to a largest of 1, penalty and all.
    top = jnp.maximum(jnp.max(weights), jnp.finfo(dtype).tiny)
    w = weights / top
    mass = jnp.maximum(w.sum(), jnp.finfo(dtype).tiny)
    x_mean, y_mean = w @ x / mass, w @ y / mass
    centred, target = x - x_mean[None], y - y_mean
    # Exactly in one variable at a time, alpha_k = soft(c_k - sum_j != k Q_kj alpha_j, penalty) / Q_kk.
    gram = jnp.matmul((centred * w[:, None]).T, centred, precision="highest") / count
    moment = jnp.matmul((centred * w[:, None]).T, target, precision="highest") / count
    penalty = jnp.asarray(beta, dtype) / top / 2
    scale = jnp.maximum(jnp.max(jnp.abs(moment)), penalty)

    alpha, gap, sweeps = _descent(gram, moment, penalty, tolerance * scale, max_sweeps)
    # No descent begins at NaN: what is not finite, 0 otherwise, is added. (A NaN put in counts as one made here.)
    alpha = alpha + 0 * jnp.sum(moment) + 0 * jnp.minimum(penalty, 1)
    return LassoFit(alpha, y_mean - x_mean @ alpha, 2 * top * gap, sweeps)


def check_penalty(beta: Any) -> None:
    """Raises a JaxcamError for a penalty, where it is known, that is none."""
    if not isinstance(beta, jax.core.Tracer) and not (jnp.ndim(beta) == 0 and 0 <= float(beta) < float("inf")):
        raise JaxcamError(f"beta must be a number of at least 0, not {beta!r}")


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _descent(
    gram: jax.Array, moment: jax.Array, penalty: jax.Array, tolerance: jax.Array, max_sweeps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`argmin alpha . gram alpha / 2 - moment . alpha + penalty ||alpha||_1`; the violation, and the sweeps."""
    diagonal = jnp.diagonal(gram)

    def coordinate(k, carry):
        alpha, slope = carry  # slope = moment - gram @ alpha
        partial = slope[k] + diagonal[k] * alpha[k]
        shrunk = jnp.sign(partial) * jnp.maximum(jnp.abs(partial) - penalty, 0.0)
        new = quotient(shrunk, diagonal[k], diagonal[k] > 0)
        return alpha.at[k].set(new), slope - gram[:, k] * (new - alpha[k])

    def violation(alpha, slope):
        active = jnp.abs(slope - penalty * jnp.sign(alpha))
        resting = jnp.maximum(jnp.abs(slope) - penalty, 0.0)
        return jnp.max(jnp.where(alpha != 0, active, resting))

    def sweep(carry):
        alpha, _, sweeps, _ = carry
        # The slope anew in every sweep: updates alone would let rounding pile up.
        slope = moment - jnp.matmul(gram, alpha, precision="highest")
        alpha, slope = jax.lax.fori_loop(0, moment.shape[0], coordinate, (alpha, slope))
        return alpha, slope, sweeps + 1, violation(alpha, slope)

    start = (jnp.zeros_like(moment), moment, jnp.zeros((), jnp.int32), jnp.full_like(penalty, jnp.inf))
    alpha, _, sweeps, gap = jax.lax.while_loop(lambda c: (c[3] > tolerance) & (c[2] < max_sweeps), sweep, start)
    return alpha, gap, sweeps


@_descent.defjvp
def _descent_derivative(max_sweeps: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """The derivative of the optimum: on the coefficients that are not zero, `gram alpha = moment - penalty sign`.

    The others stay zero nearby, and have none. A direction in which the gram matrix is flat has none either.
    """
    gram, _, penalty, *_ = primals
    d_gram, d_moment, d_penalty, *_ = tangents
    alpha, gap, sweeps = _descent(*primals, max_sweeps)
    active = alpha != 0
    change = d_moment - d_penalty * jnp.sign(alpha) - jnp.matmul(d_gram, alpha, precision="highest")
    resting = jnp.diag(jnp.where(active, 0, 1).astype(gram.dtype))
    ridge = jnp.finfo(gram.dtype).eps * jnp.max(jnp.diagonal(gram)) * jnp.eye(gram.shape[0], dtype=gram.dtype)
    matrix = jnp.where(active[:, None] & active[None], gram, 0) + resting + ridge
    d_alpha = jnp.where(active, jnp.linalg.solve(matrix, jnp.where(active, change, 0)), 0)
    nothing = np.zeros(sweeps.shape, jax.dtypes.float0)
    return (alpha, gap, sweeps), (d_alpha, jnp.zeros_like(gap), nothing)


def lime_lasso(
    v: GameFn,
    key: jax.Array,
    *,
    num_players: int,
    num_samples: int,
    weight,
    beta: float = 0.01,
    chunk_size: int = 4096,
) -> Estimate:
    """LIME on a game: each player kept with probability 1/2, then `weighted_lasso` on the coalitions.

    Args:
      v: the game, `masks (n, K) -> (n,)`.
      key: a `jax.random` key.
      num_players: K.
      num_samples: coalitions.
      weight: `masks (n, K) -> (n,)`, how near each coalition is to all players.
      beta: the penalty.
      chunk_size: the most coalitions in one call of `v`.

    Returns:
      An `Estimate` whose values are the Lasso's coefficients; a Lasso has no standard error (NaN).
    """
    players, count = check_count("num_players", num_players), check_count("num_samples", num_samples)
    check_key(key)
    v_full, v_empty = ends(v, players)
    masks = jax.random.bernoulli(key, jnp.float32(0.5), (count, players))  # 64 bits draw others
    values = in_chunks(lambda i: evaluate(v, masks[i]), count, check_count("chunk_size", chunk_size))
    kept = masks.astype(values.dtype)
    fit = weighted_lasso(kept, values, weight(kept), beta=beta)
    error: Any = np.full(players, np.nan, fit.coefficients.dtype)  # no operation, lest it count as one that made a NaN
    return checked(Estimate(fit.coefficients, error, jnp.asarray(count + 2, jnp.int32), v_full, v_empty))
