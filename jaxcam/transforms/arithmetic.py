"""What formulas everywhere share, with an answer where there is none: of 0/0, a class that does not exist, a key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError


def quotient(numerator: Any, denominator: jax.Array, defined: jax.Array | None = None, otherwise: Any = 0) -> jax.Array:
    """The quotient where it is `defined`, by default not by 0, and with finite gradients where it is not."""
    defined = denominator != 0 if defined is None else defined
    return jnp.where(defined, numerator / jnp.where(defined, denominator, 1), otherwise)


def of_class(logits: jax.Array, target: int | jax.Array) -> jax.Array:
    """A class's own among `logits (C,)`, `()`; NaN for a traced class that is none.

    Raises:
      JaxcamError: the class, where it is known, is none.
    """
    if not isinstance(target, jax.core.Tracer) and not 0 <= int(target) < logits.shape[0]:
        raise JaxcamError(f"there is no class {int(target)} among {logits.shape[0]} logits, numbered from 0")
    # A traced class cannot raise: below 0, which data sets use for "ignore", it is no class either.
    return jnp.take(logits, jnp.where(jnp.asarray(target) < 0, logits.shape[0], target), mode="fill")


def numbers(value: Any) -> np.ndarray:
    """An array of JAX's in NumPy; of random keys the numbers in them."""
    if jax.dtypes.issubdtype(jax.dtypes.result_type(value), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value)
