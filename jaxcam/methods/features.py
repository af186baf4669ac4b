"""What a layer sees, whatever the class: where it is unusually active (FEM), and the parts that it is made of (DFF)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.methods.result import (
    CAM,
    HeadFn,
    Params,
    Target,
    cam_of_contributions,
    check_activations,
    scalar_score,
)
from jaxcam.shapley.result import check_count, check_key, matmul
from jaxcam.transforms.arithmetic import quotient


def fem_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target, sigmas: float = 2.0) -> CAM:
    """FEM: the map is `relu(sum_k m_k [A_k > m_k + sigmas * s_k])`, m and s a channel's mean and standard deviation.

    Where channels are unusually active for themselves, each weighted by how active it is in all: the same for every
    class. `alpha_k` is a channel's mean, times how many positions it has above the threshold. 0 for a channel that is
    the same everywhere (0/0), so for a dead one; and of no more than `sigmas^2 + 1` positions none is so unusual. A
    channel with a negative mean takes away; the paper has none. (Of two peers, one multiplies the activations by the
    share of the positions above the threshold instead.)

    Args:
      params, activations, head, target: as in `grad_cam`.
      sigmas: how many standard deviations above the mean is unusual.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit`. Cost: one evaluation of the head, for the logit.

    Raises:
      JaxcamError: as in `grad_cam`.

    References:
      Fuad et al., Features Understanding in 3D CNNs for Actions Recognition in Video, IPTA 2020.
    """
    check_activations(activations)
    logit = scalar_score(head, params, target)(activations)
    mean = jnp.mean(activations, (0, 1), keepdims=True)
    fixed = jax.lax.stop_gradient(activations - mean)  # which a threshold has no derivative of
    varies = jnp.max(activations, (0, 1), keepdims=True) > jnp.min(activations, (0, 1), keepdims=True)
    most = jnp.max(jnp.abs(fixed), (0, 1), keepdims=True)  # the unit: squares of halves overflow from 256 on
    fixed = fixed / jnp.where(most > 0, most, 1)
    deviation = jnp.sqrt(jnp.mean(fixed**2, (0, 1), keepdims=True))
    unusual = varies & (fixed > jnp.asarray(sigmas, deviation.dtype) * deviation)
    return cam_of_contributions(jnp.where(unusual, mean, 0), logit=logit)


class Factors(NamedTuple):
    """Activations as sums of a few parts: `A = sum_r maps_r concepts_r`, nearly.

    Attributes:
      maps: `(..., h, w, R)`, how much of each concept there is at each position; none below 0. By falling size.
      concepts: `(R, K)`, what each is made of; none below 0, and of length 1. A row of zeros where fewer suffice.
      error: `()`, `|A - maps concepts| / |A|`; 0 of a dead layer (0/0).
    """

    maps: jax.Array
    concepts: jax.Array
    error: jax.Array


def deep_feature_factorisation(
    activations: jax.Array, key: jax.Array, *, num_concepts: int = 5, steps: int = 100
) -> Factors:
    """Deep feature factorisation: the non-negative W `(positions, R)` and H `(R, K)` with the least `|A - W H|^2`.

    The columns of W are maps of concepts, parts that several channels see together, in one picture or in several at
    once, whose concepts are then the same. It knows no class; `head(params, jnp.broadcast_to(concept, (h, w, K)))` are
    the logits of a picture that is nothing but one concept. What is below 0 in A counts as 0, which behind a ReLU is
    none of it. The minimum is a local one, found by so many rounds of alternating least squares, one concept at a time
    (HALS), from random factors: another key may give others.

    Args:
      activations: `(h, w, K)`, or `(n, h, w, K)` of several pictures.
      key: a `jax.random` key.
      num_concepts: R.
      steps: rounds.

    Returns:
      `Factors`. Cost: `steps` times four products of A's size with R; no evaluation of a network.

    Raises:
      JaxcamError: activations are of another shape, or a number is none.

    References:
      Collins, Achanta & Suesstrunk, Deep Feature Factorization For Concept Discovery, ECCV 2018; Cichocki &
      Phan, IEICE Transactions 2009, for the rounds.
    """
    if jnp.ndim(activations) not in (3, 4):
        raise JaxcamError(
            f"activations must be (h, w, K), or (n, h, w, K) of several pictures, not {jnp.shape(activations)}"
        )
    concepts, rounds = check_count("num_concepts", num_concepts), check_count("steps", steps)
    check_key(key)
    x = jax.nn.relu(activations.reshape(-1, activations.shape[-1]))
    first, second = jax.random.split(key)
    size = jnp.sqrt(jnp.mean(x) / concepts)
    w = size * jax.random.uniform(first, (len(x), concepts), x.dtype)
    h = size * jax.random.uniform(second, (concepts, x.shape[1]), x.dtype)

    def fitted(factor: jax.Array, products: jax.Array, gram: jax.Array) -> jax.Array:
        """The best rows, one after the other, of the other factor's `gram (R, R)` and its products with A."""
        for r in range(concepts):
            rest = products[r] - matmul(gram[r], factor) + gram[r, r] * factor[r]
            row = quotient(jax.nn.relu(rest), gram[r, r], gram[r, r] > 0)
            factor = factor.at[r].set(row)
        return factor

    def step(factors: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        w, h = factors
        h = fitted(h, matmul(w.T, x), matmul(w.T, w))
        return (fitted(w.T, matmul(h, x.T), matmul(h, h.T)).T, h), None

    (w, h), _ = jax.lax.scan(step, (w, h), length=rounds)
    length = jnp.sqrt(jnp.sum(h**2, 1))
    w, h = w * length[None], h / jnp.where(length > 0, length, 1)[:, None]
    order = jnp.argsort(-jnp.sum(w**2, 0))
    w, h = w[:, order], h[order]
    whole = jnp.sum(x**2)
    error = jnp.sqrt(jnp.sum((x - matmul(w, h)) ** 2) / jnp.where(whole > 0, whole, 1))
    return Factors(w.reshape(*activations.shape[:-1], concepts), h, error)
