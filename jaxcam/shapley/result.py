"""What every estimator returns, and what the estimators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError, visible

#: `masks (n, K)` of 0 and 1 to values `(n,)`; a `jax.tree_util.Partial` over arrays keeps the compiled
#: program of the estimators from one game to the next.
GameFn = Callable[[jax.Array], jax.Array]


class Estimate(NamedTuple):
    """Estimated values of a game's players.

    Attributes:
      values: `(K,)` one number per player; for the Shapley estimators in the units of the game.
      standard_error: `(K,)` of `values`; 0 where they are exact, infinite after a single sample or where nothing
        determines the value, NaN where the estimator has none.
      evaluations: `()` coalitions evaluated; a gradient counts three.
      v_full: `()` value of all players together.
      v_empty: `()` value of no player.
    """

    values: jax.Array
    standard_error: jax.Array
    evaluations: jax.Array
    v_full: jax.Array
    v_empty: jax.Array


_MOST = 2**31 - 1
#: What JAX says to a function that is traced and looks at a value.
_NEED_VALUES = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)


def check_count(name: str, value: int, least: int = 1) -> int:
    """`value`, or a JaxcamError unless it is a whole number of at least `least`, and one that JAX can count to."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise JaxcamError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if value.__index__() > _MOST:
        raise JaxcamError(f"{name} must be at most {_MOST:,}, not {value!r}")
    return value.__index__()


def check_key(key: Any) -> None:
    """Raises a JaxcamError unless `key` is one random key, of `jax.random.key` or `jax.random.PRNGKey`."""
    dtype, ndim = getattr(key, "dtype", None), getattr(key, "ndim", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and ndim == 0 or not typed and dtype == np.uint32 and ndim == 1:
        return
    found = f"{key.size} keys, for which there is jax.vmap" if typed else f"{type(key).__name__} {visible(key):.40}"
    raise JaxcamError(f"key must be one random key, such as jax.random.key(0), not {found}")


def check_tolerance(tolerance: Any) -> None:
    """Raises a JaxcamError for a tolerance, where it is known, that nothing could come within, or everything does."""
    if tolerance is None or isinstance(tolerance, jax.core.Tracer):
        return
    known = not isinstance(tolerance, bool | str) and jnp.ndim(tolerance) == 0
    if not known or not 0 < float(tolerance) < float("inf"):
        raise JaxcamError(f"tolerance must be a positive number, such as 0.01, not {tolerance!r}")


def evaluate(v: GameFn, masks: jax.Array) -> jax.Array:
    """`v(masks)`, its shape checked; votes and whole numbers in floating point."""
    try:
        values = v(masks.astype(float_dtype()))
    except _NEED_VALUES as e:
        raise JaxcamError(
            "the game wants to see its masks, as NumPy's functions and Python's `if` do, and here it is compiled: "
            f"write it with jax.numpy, or hand over shapley.numpy_game(v) ({type(e).__name__})"
        ) from e
    if jnp.shape(values) != masks.shape[:1]:
        raise JaxcamError(
            f"the game must map masks (n, K) to values (n,): for masks {masks.shape} it gave {jnp.shape(values)}"
        )
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise JaxcamError(f"a game has real values, not {values.dtype}; take its .real, or its absolute value")
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    return values.astype(at_least(jnp.float32, values.dtype) if floating else float_dtype())


def checked(found: Any) -> Any:
    """What was found, something with `values`; a JaxcamError where they are concrete and not finite."""
    if not isinstance(found.values, jax.core.Tracer) and not bool(jnp.isfinite(found.values).all()):
        raise JaxcamError(
            "the game is not finite, or its differences are not: some coalition's value is NaN, infinite, or too large"
        )
    return found


def ends(v: GameFn, num_players: int) -> tuple[jax.Array, jax.Array]:
    """`v_full, v_empty`; a JaxcamError where they are concrete and not finite."""
    values = evaluate(v, jnp.stack([jnp.ones(num_players), jnp.zeros(num_players)]))
    check_ends(values[0], values[1])
    return values[0], values[1]


def check_ends(v_full: jax.Array, v_empty: jax.Array) -> None:
    """Raises a JaxcamError where the two are concrete and not finite."""
    if not isinstance(v_full, jax.core.Tracer) and not bool(jnp.isfinite(v_full) & jnp.isfinite(v_empty)):
        raise JaxcamError(
            f"the game is not finite: v(all players) = {v_full}, v(no player) = {v_empty}; NaN in its input?"
        )


def in_chunks(function: Callable, rows: int, chunk_size: int) -> jax.Array:
    """`function(indices (n,)) -> (n, ...)` over `0 .. rows - 1`, at most `chunk_size` at a time."""
    if rows <= chunk_size:
        return function(jnp.arange(rows))
    chunks = -(-rows // chunk_size)
    size = -(-rows // chunks)
    # The last chunk repeats the last row: a row outside would be a coalition nobody asked for.
    indices = jnp.minimum(jnp.arange(chunks * size), rows - 1).reshape(chunks, size)
    out = jax.lax.map(function, indices)
    return out.reshape(chunks * size, *out.shape[2:])[:rows]


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product at the highest precision, whatever the default is."""
    return jnp.matmul(a, b, precision="highest")


def at_least(least: Any, dtype: Any) -> jnp.dtype:
    """Of two floating-point types the wider one; `promote_types`, but for strict modes, where that is an error."""
    return jnp.dtype(max(least, dtype, key=lambda d: jnp.finfo(d).bits))


def float_dtype() -> jnp.dtype:
    """float32, or float64 where JAX has it enabled."""
    return jnp.result_type(float)


class Problem(NamedTuple):
    """What a sampler works on.

    Attributes:
      v: the game.
      key: the raw random key.
      present: `(K,)` bool: the players that may contribute.
      layer: the layer through which the game reads its coalitions, where it is known: a `GameLayer`.
    """

    v: GameFn
    key: jax.Array
    present: jax.Array
    layer: Any = None

    @property
    def players(self) -> int:
        """K."""
        return jnp.shape(self.present)[0]
