"""Running mean and variance of independent samples `(K,)`, merged chunk by chunk."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Moments(NamedTuple):
    """Sufficient statistics of the samples so far.

    Attributes:
      count: `()` samples.
      mean: `(K,)` their mean.
      squares: `(K,)` their summed squared distances from the mean.
    """

    count: jax.Array  # type: ignore[assignment]  # a field, not tuple.count
    mean: jax.Array
    squares: jax.Array

    @property
    def standard_error(self) -> jax.Array:
        """`(K,)` of the mean; infinite before the second sample."""
        n = self.count.astype(self.mean.dtype)
        variance = self.squares / jnp.maximum(n - 1, 1)
        return jnp.where(n > 1, jnp.sqrt(variance / jnp.maximum(n, 1)), jnp.inf)


def none(num_players: int, dtype: jnp.dtype) -> Moments:
    """No sample yet."""
    return Moments(jnp.zeros((), jnp.int32), jnp.zeros(num_players, dtype), jnp.zeros(num_players, dtype))


def add(moments: Moments, samples: jax.Array, valid: jax.Array) -> Moments:
    """The moments with the `valid (n,)` ones of `samples (n, K)` added (Chan et al., 1979)."""
    weight = valid.astype(samples.dtype)[:, None]
    more = valid.sum(dtype=jnp.int32)
    count = moments.count + more
    n, fresh = jnp.maximum(count, 1).astype(samples.dtype), more.astype(samples.dtype)
    # Distances from the mean so far stay small, where raw sums of squares would lose their digits.
    distance = (samples - moments.mean[None]) * weight
    mean_distance = distance.sum(0) / jnp.maximum(fresh, 1)
    spread = (((samples - moments.mean[None] - mean_distance[None]) * weight) ** 2).sum(0)
    old = moments.count.astype(samples.dtype)
    return Moments(
        count,
        moments.mean + mean_distance * fresh / n,
        moments.squares + spread + mean_distance**2 * old * fresh / n,
    )
