"""Which operations keep a lazy value mask-free, and how: the rules behind `coalition_game`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcam.transforms.coalition.lazy import Additive, Diagonal, Lazy, regular
from jaxcam.transforms.custom_derivatives import ELEMENTWISE, has_own_derivative
from jaxcam.transforms.walker import bind

#: Tables larger than this many elements are not built; the operation then runs per coalition.
MAX_TABLE = 1 << 27

_STRUCTURAL = frozenset("reshape squeeze expand_dims transpose broadcast_in_dim slice rev copy copy_p split".split())
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod".split())
_WINDOWS = frozenset("reduce_window_sum reduce_window_max reduce_window_min".split())
# Linear and homogeneous in the one active operand, whatever the constants.
_HOMOGENEOUS = _STRUCTURAL | frozenset(
    "neg mul div reduce_sum reduce_window_sum cumsum "
    # Of values that do not depend on the mask: an index out of range gives NaN in both tables.
    "convert_element_type gather dynamic_slice".split()
)


def fold(eqn: Any, ins: list, players: int) -> list | None:
    """The outputs of an equation as tables, or None where it must run per coalition."""
    name = eqn.primitive.name
    active = [v for v in ins if isinstance(v, Lazy)]
    diagonal = [v for v in active if isinstance(v, Diagonal)]
    if len(diagonal) == len(active):
        out = _diagonal(eqn, ins, diagonal)
        if out is not None:
            return out
        if name in ("dot_general", "conv_general_dilated"):
            if len(active) != 1:
                return None
            rule = _dense if name == "dot_general" else _convolution
            table = rule(eqn, ins, players)
            return None if table is None else [table]
    return _additive(eqn, ins, players)


def _is_linear(name: str, active: list[bool]) -> bool:
    """Whether an operation is linear and homogeneous in its active operands, whatever the others."""
    if name in ("mul", "dot_general"):
        return sum(active) == 1
    if name == "select_n":
        return not active[0] and all(active[1:])
    return name in _HOMOGENEOUS and active == [True] + [False] * (len(active) - 1)


def elementwise(eqn: Any) -> bool:
    """Whether an equation acts on each element by itself, beside scalars and axes of size 1."""
    return eqn.primitive.name in ELEMENTWISE or has_own_derivative(eqn)


def is_affine(eqn: Any, operands: Sequence[Any]) -> bool:
    """Whether an equation is affine in its lazy operands together."""
    active = [isinstance(v, Lazy) for v in operands]
    name = eqn.primitive.name
    if name == "select_n":  # which of the others is fixed
        return not active[0]
    if name == "conv_general_dilated":
        return sum(active) == 1
    return name in ("add", "sub", "add_any", "concatenate") or _is_linear(name, active)


def work(eqn: Any) -> float:
    """Floating-point operations of one equation, estimated from its shapes."""
    out = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        return 2.0 * out * math.prod(kernel) / kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    inner = eqn.params.get("jaxpr")
    if eqn.primitive.name == "scan" and inner is not None:
        body = getattr(inner, "jaxpr", inner)
        return eqn.params["length"] * sum(work(e) for e in body.eqns)
    return float(out)


def _diagonal(eqn: Any, ins: list, active: list[Diagonal]) -> list | None:
    """The cases in which every output element still belongs to one channel."""
    name, shape, owner = eqn.primitive.name, eqn.outvars[0].aval.shape, active[0].owner
    if name == "stop_gradient":
        return [ins[0]]
    if elementwise(eqn):
        same = all(v.owner is owner or np.array_equal(v.owner, owner) for v in active)
        if not same or owner.shape != shape:
            return None
        owners = [owner]
    elif len(active) > 1 or not isinstance(ins[0], Diagonal):
        return None
    elif name in _STRUCTURAL:
        with jax.ensure_compile_time_eval():
            owners = [np.asarray(o) for o in bind(eqn, [jnp.asarray(owner), *ins[1:]])]
    elif name in _REDUCTIONS and len(ins) == 1:
        low, high = owner.min(axis=tuple(eqn.params["axes"])), owner.max(axis=tuple(eqn.params["axes"]))
        if not np.array_equal(low, high):
            return None
        owners = [low]
    elif name in _WINDOWS:
        extremes = _window_extremes(eqn, owner)
        if extremes is None:
            return None
        owners = [extremes]
    else:
        return None
    ons = bind(eqn, [v.on if isinstance(v, Diagonal) else v for v in ins])
    offs = bind(eqn, [v.off if isinstance(v, Diagonal) else v for v in ins])
    return [Diagonal(on, off, o) for on, off, o in zip(ons, offs, owners, strict=True)]


def _window_extremes(eqn: Any, owner: np.ndarray) -> np.ndarray | None:
    """The owner of each window, or None where a window mixes channels."""
    p = eqn.params
    window = (p["window_dimensions"], p["window_strides"], p["padding"], p["base_dilation"], p["window_dilation"])
    with jax.ensure_compile_time_eval():
        values = jnp.asarray(owner, jnp.int32)
        high = np.asarray(lax.reduce_window(values, np.int32(-1), lax.max, *window))
        low = np.asarray(lax.reduce_window(values, np.iinfo(np.int32).max, lax.min, *window))
    return low if np.array_equal(low, high) else None


def _within_channels(eqn: Any, ins: list, side: int, owner: np.ndarray) -> Diagonal:
    """A contraction over elements of one channel each; `owner` is that of the free axes."""
    (on,) = bind(eqn, [v.on if isinstance(v, Diagonal) else v for v in ins])
    (off,) = bind(eqn, [v.off if isinstance(v, Diagonal) else v for v in ins])
    extra = [1] * (on.ndim - owner.ndim)
    shape = [*owner.shape, *extra] if side == 0 else [*extra, *owner.shape]
    return Diagonal(on, off, np.broadcast_to(owner.reshape(shape), on.shape))


def _dense(eqn: Any, ins: list, players: int) -> Additive | Diagonal | None:
    """A dense layer on a diagonal value: the contributions of each channel to each neuron."""
    (contract, batch) = eqn.params["dimension_numbers"]
    if any(batch):
        return None
    side = 0 if isinstance(ins[0], Diagonal) else 1
    value, weights = ins[side], ins[1 - side]
    axes, other_axes = contract[side], contract[1 - side]
    free = [i for i in range(value.on.ndim) if i not in axes]
    # Axes in the order (free..., contracted...), flattened to (free, contracted).
    owner = np.transpose(value.owner, (*free, *axes)).reshape(-1, math.prod(value.on.shape[i] for i in axes))
    if not owner.size:
        return None
    free_shape = [value.on.shape[i] for i in free]
    if (owner == owner[:, :1]).all():  # sums within a channel (an average over positions): still its own
        return _within_channels(eqn, ins, side, owner[:, 0].reshape(free_shape))
    if not (owner == owner[:1]).all():
        return None
    layout = regular(owner[0], players)
    out_size = math.prod(eqn.outvars[0].aval.shape)
    if layout is None or players * out_size > MAX_TABLE or players > owner.shape[1]:
        return None
    kind, repeats = layout
    delta = jnp.transpose(value.on - value.off, (*free, *axes)).reshape(owner.shape)
    rest = [i for i in range(weights.ndim) if i not in other_axes]
    matrix = jnp.transpose(weights, (*other_axes, *rest)).reshape(owner.shape[1], -1)
    shape = (repeats, players) if kind == "inner" else (players, repeats)
    delta, matrix = delta.reshape(-1, *shape), matrix.reshape(*shape, -1)
    if delta.shape[0] == 1:
        table = _owned_products(delta[0], matrix, 0 if kind == "inner" else 1)[:, None]
    elif kind == "inner":
        table = jnp.einsum("fpk,pko->kfo", delta, matrix, precision="highest")
    else:
        table = jnp.einsum("fkp,kpo->kfo", delta, matrix, precision="highest")
    rest_shape = [weights.shape[i] for i in rest]
    table = table.reshape(players, *free_shape, *rest_shape)
    if side == 1:  # the output's axes are those of the left operand first
        n = len(free_shape)
        table = jnp.moveaxis(table, range(1, 1 + n), range(1 + len(rest_shape), 1 + len(rest_shape) + n))
    (base,) = bind(eqn, [value.off, weights] if side == 0 else [weights, value.off])
    return Additive(base, table.astype(base.dtype))


def _owned_products(delta: jax.Array, matrix: jax.Array, places: int) -> jax.Array:
    """`(K, O)`: `sum_p delta matrix` over the axis `places` of `delta (P, K)` or `(K, P)` and `matrix (..., O)`.

    One pass over the weights, place by place: as products of batches they would be transposed first, and
    in one expression XLA would compute delta anew for each of the O neurons.
    """

    def term(p):
        take = lambda x: lax.dynamic_index_in_dim(x, p, places, keepdims=False)  # noqa: E731
        return take(delta)[:, None] * take(matrix)

    return lax.fori_loop(1, delta.shape[places], lambda p, total: total + term(p), term(0))


def _convolution(eqn: Any, ins: list, players: int) -> Additive | None:
    """A convolution of a diagonal value: each channel's own contribution, for the price of one convolution."""
    value, kernel = ins
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    if not isinstance(value, Diagonal) or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    feature = numbers.lhs_spec[1]
    along = np.moveaxis(value.owner, feature, -1).reshape(-1, value.owner.shape[feature])
    out_shape = eqn.outvars[0].aval.shape
    window = [kernel.shape[i] for i in numbers.rhs_spec[2:]]
    in_order = along.shape[1] == players and (along == np.arange(players)).all()
    if not in_order or players * math.prod(out_shape) > MAX_TABLE:
        return None
    patches = lax.conv_general_dilated_patches(
        value.on - value.off, window, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"],
        dimension_numbers=numbers, precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    out_feature = numbers.out_spec[1]
    patches = jnp.moveaxis(patches, out_feature, -1)
    places = patches.shape[:-1]
    patches = patches.reshape(-1, players, math.prod(window))
    weights = jnp.transpose(kernel, (numbers.rhs_spec[1], *numbers.rhs_spec[2:], numbers.rhs_spec[0]))
    table = jnp.einsum("nkp,kpo->kno", patches, weights.reshape(players, math.prod(window), -1), precision="highest")
    table = jnp.moveaxis(table.reshape(players, *places, -1), -1, 1 + out_feature)
    (base,) = bind(eqn, [value.off, kernel])
    return Additive(base, table.astype(base.dtype))


def _additive(eqn: Any, ins: list, players: int) -> list | None:
    """Linear operations on values of which at least one is additive, or no longer diagonal."""
    name = eqn.primitive.name
    if name == "stop_gradient":
        return [ins[0]]
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        return None
    active = [isinstance(v, Lazy) for v in ins]
    size = players * max(math.prod(v.aval.shape) for v in [*eqn.outvars, *eqn.invars])
    if size > MAX_TABLE:
        return None
    tables = [v.additive(players) if isinstance(v, Diagonal) else v for v in ins]
    bases = [v.base if isinstance(v, Additive) else v for v in tables]
    if name in ("add", "sub", "add_any"):
        base = bind(eqn, bases)[0]

        def column(i):  # scalars may stand beside arrays in a program
            if not active[i]:
                return jnp.zeros((1,) * (1 + base.ndim), base.dtype)
            table = tables[i].delta
            return table.reshape(players, *[1] * (1 + base.ndim - table.ndim), *table.shape[1:])

        left, right = column(0), column(1)
        delta = left - right if name == "sub" else left + right
        return [Additive(base, jnp.broadcast_to(delta, (players, *base.shape)))]
    if not _is_linear(name, active):
        return None
    axes = [0 if a else None for a in active]
    columns = [v.delta if isinstance(v, Additive) else v for v in tables]
    deltas = jax.vmap(lambda *values: bind(eqn, values), in_axes=axes)(*columns)
    return [Additive(b, d) for b, d in zip(bind(eqn, bases), deltas, strict=True)]
