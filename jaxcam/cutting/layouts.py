"""Between what a layer returns and the activations (h, w, K) that the methods work on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.cutting.axes import COLUMNS, ROWS, Axes, Axis, grid, order
from jaxcam.errors import JaxcamError


class Layout(NamedTuple):
    """How a layer's output (without its batch axis) becomes activations, and activations an output.

    `from_map(*as_map(value))` must be `value`. Both are traced, so they are written with `jax.numpy`.

    Attributes:
      as_map: `value -> (activations (h, w, K), rest)`; `rest` is a pytree of what is no part of the
        map (a class token), or `()`. It is held fixed while the activations are explained.
      from_map: `(activations, rest) -> value`.
    """

    as_map: Callable[[jax.Array], tuple[jax.Array, Any]]
    from_map: Callable[[jax.Array, Any], jax.Array]


_LAYOUTS = {
    "hwk": Layout(lambda value: (value, ()), lambda a, rest: a),
    "khw": Layout(lambda value: (jnp.transpose(value, (1, 2, 0)), ()), lambda a, rest: jnp.transpose(a, (2, 0, 1))),
}


def tokens(prefix: int = 1, grid: tuple[int, int] | None = None) -> Layout:
    """The layout of a transformer's tokens `(prefix + h * w, K)`, row by row: `layout=jaxcam.tokens()`.

    Args:
      prefix: how many tokens come before those of the patches: 1 for a class token, 0 for none.
        They are held fixed.
      grid: `(h, w)`, the patches down and across; None for a square.
    """

    def as_map(value):
        n, k = value.shape[0] - prefix, value.shape[-1]
        side = math.isqrt(max(n, 0))
        h, w = grid or (side, side)
        if value.ndim != 2 or h * w != n or n < 1:
            raise JaxcamError(
                f"tokens of shape {value.shape} are not {prefix} and then a grid of "
                f"{f'{h} x {w}' if grid else 'equal sides'}: name them, layout=jaxcam.tokens(prefix=..., grid=(h, w))"
            )
        return jnp.reshape(value[prefix:], (h, w, k)), value[:prefix]

    def from_map(activations, rest):
        return jnp.concatenate([rest, jnp.reshape(activations, (-1, activations.shape[-1]))])

    if prefix:
        return Layout(as_map, from_map)
    return Layout(lambda v: (as_map(v)[0], ()), lambda a, rest: jnp.reshape(a, (-1, a.shape[-1])))


def resolve(layout: str | Layout) -> Layout:
    """The layout of that name, or the one given.

    Raises:
      JaxcamError: it is neither.
    """
    if isinstance(layout, str) and layout in _LAYOUTS:
        return _LAYOUTS[layout]
    if isinstance(layout, tuple) and len(layout) == 2:
        return Layout(*layout)
    raise JaxcamError(f"layout must be 'hwk', 'khw', jaxcam.tokens(...) or a pair (as_map, from_map), not {layout!r}")


def checked(layout: Layout, value: jax.ShapeDtypeStruct, name: str) -> tuple[jax.ShapeDtypeStruct, Any]:
    """The shapes of `(activations, rest)` of a layer's output.

    Raises:
      JaxcamError: the output is no map under this layout; the message says what would make it one.
    """
    built_in = layout in _LAYOUTS.values()
    if built_in and value.ndim == 2:
        raise JaxcamError(
            f"{name!r} gives tokens of shape {value.shape}, not a map of rank 3: say how they lie, with "
            "layout=jaxcam.tokens(prefix=number of class tokens), or layout=(as_map, from_map)"
        )
    if built_in and value.ndim != 3:
        raise JaxcamError(
            f"{name!r} gives shape {value.shape}, not a map of rank 3; cut at one of those that jaxcam.layers lists, "
            "or say how it becomes one, with layout=(as_map, from_map)"
        )
    activations, rest = jax.eval_shape(layout.as_map, value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise JaxcamError(f"{name!r} gives {value.dtype}, and activations must be floating-point numbers")
    if activations.ndim != 3:
        raise JaxcamError(f"as_map of {name!r} gives shape {activations.shape}, not a map (h, w, K)")
    back = jax.eval_shape(layout.from_map, activations, rest)
    if back.shape != value.shape:
        raise JaxcamError(f"from_map gives shape {back.shape} for {name!r}, whose output is {value.shape}")
    return activations, rest


def check_axes(layout: Layout, axes: Axes, value: jax.ShapeDtypeStruct, name: str) -> None:
    """What is known of the axes of a layer's output must not speak against the layout.

    Raises:
      JaxcamError: it does; the message says which layout fits.
    """
    if layout in _LAYOUTS.values() and (fits := _FITTING.get(order(axes))):
        if layout != _LAYOUTS.get(fits):
            said = ", ".join(what or "channels" for what in order(axes))
            raise JaxcamError(f"the axes of {name!r}, {value.shape}, are {said}: say so, with layout={_SPELT[fits]}")
        _check_whole(axes, name)
        _check_upright(axes, name)
    elif layout not in _LAYOUTS.values() and value.ndim == 2 and (lie := grid(axes[0])):
        (slow, _), (n, m) = lie
        seen = jax.eval_shape(layout.as_map, value)[0].shape[:2]
        if slow != ROWS and seen[0] * seen[1] == n * m:
            raise JaxcamError(
                f"the tokens of {name!r} lie column by column, {m} x {n} of them, and the map would be mirrored: give "
                "a layout=(as_map, from_map) that turns it"
            )
        if slow == ROWS and seen != (n, m) and seen[0] * seen[1] == n * m:
            raise JaxcamError(
                f"the tokens of {name!r} lie {n} x {m}, not {seen[0]} x {seen[1]}: say so, with "
                f"layout=jaxcam.tokens(prefix={value.shape[0] - n * m}, grid=({n}, {m}))"
            )
        if seen == (n, m):
            _check_whole(axes, name)
            _check_places(layout, axes[0], value, name)


def _check_whole(axes: Axes, name: str) -> None:
    for factor in (f for axis in axes for f in axis if f.part):
        raise JaxcamError(
            f"{name!r} sees {factor.part} of the {factor.image} {factor.of} alone, as the network crops its input, "
            "and the map would be stretched over the whole: crop the pictures before, in their preprocessing"
        )


def _check_upright(axes: Axes, name: str) -> None:
    for factor in (f for axis in axes for f in axis if f.turned):
        raise JaxcamError(
            f"the {factor.of} of {name!r} are those of a picture that the network mirrors, and the map would be "
            "mirrored: take another layer, or give a layout=(as_map, from_map) that turns it"
        )


def _check_places(layout: Layout, axis: Axis, value: jax.ShapeDtypeStruct, name: str) -> None:
    """The positions of a map must be those of the image's patches among the tokens."""
    (slow, fast), before = axis, axis[0].before
    patches = slow.size * fast.size
    right = before + np.arange(patches).reshape(slow.size, fast.size)
    right = np.flip(right, tuple(i for i, f in enumerate(axis) if f.turned))
    numbers = np.broadcast_to(np.arange(value.shape[0], dtype=np.float32)[:, None], value.shape)
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):  # a few numbers to the device and back
        taken = np.asarray(layout.as_map(jnp.asarray(numbers))[0])[..., 0]
    if not np.array_equal(taken, right):
        raise JaxcamError(
            f"of the tokens of {name!r} {before} come before the patches, {value.shape[0] - before - patches} behind "
            f"them, and the layout takes number {taken[0, 0]:g} for the first patch, where number {right[0, 0]} is it: "
            f"give a layout=(as_map, from_map) with as_map = lambda v: (v[{before}:{before + patches}].reshape("
            f"{slow.size}, {fast.size}, -1), v)"
        )


#: By what is known of the three axes of a map, the layout that fits.
_FITTING: dict[tuple[str | None, ...], str] = {
    (ROWS, COLUMNS, ""): "hwk", ("", ROWS, COLUMNS): "khw", (COLUMNS, ROWS, ""): "whk", ("", COLUMNS, ROWS): "kwh",
}  # fmt: skip
_SPELT = {
    "hwk": "'hwk'", "khw": "'khw'",
    "whk": "(lambda v: (v.transpose(1, 0, 2), ()), lambda a, rest: a.transpose(1, 0, 2))",
    "kwh": "(lambda v: (v.transpose(2, 1, 0), ()), lambda a, rest: a.transpose(2, 1, 0))",
}  # fmt: skip
