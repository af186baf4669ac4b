"""How coefficients agree with a reference, or with the axioms."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.metrics.form import in_single


def coefficient_cosine(coefficients: jax.Array, reference: jax.Array) -> jax.Array:
    """The cosine of the angle between two coefficient vectors `(K,)` (paper, table 1): `()` in [-1, 1].

    0 where either vector is zero (0/0). Vectors of any size: both are scaled before they are squared.
    """

    def unit(v: jax.Array) -> jax.Array:
        # Of the greatest numbers the reciprocal is none any more.
        v = v * jnp.where(jnp.max(jnp.abs(v)) > 2.0**60, jnp.asarray(2.0**-60, v.dtype), 1)
        largest = jnp.max(jnp.abs(v))
        v = v / jnp.where(largest > 0, largest, 1.0)
        norm = jnp.sqrt(jnp.sum(v * v))
        return v / jnp.where(norm > 0, norm, 1.0)

    coefficients, reference = in_single(coefficients), in_single(reference)
    if coefficients.shape != reference.shape or coefficients.ndim != 1:
        raise JaxcamError(
            f"coefficients to compare must be two vectors (K,), not {coefficients.shape} and {reference.shape}"
        )
    return jnp.clip(jnp.sum(unit(coefficients) * unit(reference)), -1.0, 1.0)


def completeness_gap(coefficients: jax.Array, logit: jax.Array, logit_zero: jax.Array) -> jax.Array:
    """`sum_k alpha_k - (F(A) - F(0))`, in logits: 0 for a method that is complete.

    The sum of K float32 numbers is itself uncertain by about `1e-7 sum_k |alpha_k|`.

    Args:
      coefficients: `(K,)`.
      logit, logit_zero: `()`, F(A) and F(0).
    """
    return jnp.sum(coefficients) - (logit - logit_zero)
