"""Games that are not written in JAX: in NumPy, scikit-learn, boosted trees, or behind a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.shapley.result import GameFn, float_dtype


def numpy_game(v: Callable[[np.ndarray], Any]) -> GameFn:
    """A game that NumPy plays, as one of JAX: `numpy_game(v)` for `v(masks (n, K)) -> values (n,)`.

    It goes under `jax.jit`, `vmap` and `scan`, and has no derivative. The compiled program waits for Python at each
    batch of coalitions, on the machine that runs it (`jax.pure_callback`): worth it where the game itself is slow. So
    `v` must not call JAX, must give the same values for the same masks, and takes as many of them as the estimator's
    `chunk_size` says.

    Args:
      v: gets float masks of 0 and 1.

    Returns:
      The game. Run by itself it raises a JaxcamError for values that are not one real number to a mask; in a compiled
      program JAX raises its own error, with that message in it.
    """

    def values(masks: np.ndarray) -> np.ndarray:
        rows = np.asarray(masks).reshape(-1, masks.shape[-1])
        found = np.asarray(v(rows))
        if found.shape != rows.shape[:1]:
            raise JaxcamError(
                f"the game must map masks (n, K) to values (n,): for masks {rows.shape} it gave {found.shape}"
            )
        if not np.can_cast(found.dtype, np.float64, "same_kind"):
            raise JaxcamError(f"a game has real values, not {found.dtype}")
        return found.astype(float_dtype()).reshape(masks.shape[:-1])

    def game(masks: jax.Array) -> jax.Array:
        if not isinstance(masks, jax.core.Tracer):
            return jax.numpy.asarray(values(np.asarray(masks)))
        shape = jax.ShapeDtypeStruct(masks.shape[:-1], float_dtype())
        return jax.pure_callback(values, shape, masks, vmap_method="broadcast_all")

    return game
