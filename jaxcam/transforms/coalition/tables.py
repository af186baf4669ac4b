"""Which operations keep a lazy value mask-free, and how: the rules behind `coalition_game`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcam.transforms.coalition.lazy import Additive, Deferred, Diagonal, Lazy, Task, regular
from jaxcam.transforms.custom_derivatives import has_derivative
from jaxcam.transforms.primitives import describe, is_affine, is_elementwise, keeps_zero
from jaxcam.transforms.rules import Rules
from jaxcam.transforms.walker import Rule, bind, called, opened

#: Tables larger than this many elements are not built; the operation then runs per coalition.
MAX_TABLE = 1 << 27


def register(names: str, rule: Callable[[Any, list], list | None]) -> None:
    """Gives primitives a rule that keeps them out of the loop over coalitions: `register("my_primitive", elementwise)`.

    A primitive without one is not refused: it runs for every coalition, and so does what follows from it. A rule
    must give the numbers of the masked evaluation. `elementwise`, `moves` and `within_channels` of this module are
    such rules.

    Args:
      names: of the primitives, in one string.
      rule: `(equation, operands) -> outputs`: at least one operand is a `Diagonal` or an `Additive` value, the others
        may be arrays; outputs likewise, or None where it must run per coalition after all.
    """
    RULES.register(names, rule)


def fold(eqn: Any, ins: list) -> list:
    """The outputs of an equation: tables where that can be, else `Deferred` to every coalition."""
    if describe(eqn).kind == "identity":  # also of what is deferred: only differentiation stops at some of them
        return list(ins)
    if not any(isinstance(v, Deferred) for v in ins):
        rule: Rule | None = elementwise if called(eqn) is not None else RULES.get(eqn.primitive.name)
        folded = None if rule is None else rule(eqn, ins)
        if folded is not None:
            return folded
    task = Task(eqn, tuple(ins))
    return [Deferred(task, i, v.aval) for i, v in enumerate(eqn.outvars)]


def as_one(eqn: Any) -> bool:
    """Whether a call is one elementwise function with its own derivative, and every part of it is elementwise still."""
    return has_derivative(eqn, lambda e: RULES.get(e.primitive.name) is elementwise)


def acts_on_elements(eqn: Any) -> bool:
    """Whether an equation acts on each element by itself, beside scalars and axes of size 1."""
    return is_elementwise(eqn) or has_derivative(eqn)


def work(eqn: Any) -> float:
    """Floating-point operations of one equation, estimated from its shapes."""
    out = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    count = _WORK.get(eqn.primitive.name)
    return float(out) if count is None else count(eqn, out)


def _work_of_product(eqn: Any, out: int) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2.0 * out * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)


def _work_of_convolution(eqn: Any, out: int) -> float:
    kernel = eqn.invars[1].aval.shape
    return 2.0 * out * math.prod(kernel) / kernel[eqn.params["dimension_numbers"].rhs_spec[0]]


#: Of what costs more than its results have elements.
_WORK: dict[str, Callable[[Any, int], float]] = {
    "dot_general": _work_of_product,
    "conv_general_dilated": _work_of_convolution,
    "scan": lambda eqn, out: eqn.params["length"] * sum(work(e) for e in opened(eqn.params["jaxpr"])[0].eqns),
}


def _bind_both(eqn: Any, ins: list) -> tuple[list, list]:
    """The outputs where all channels are there, and where none is."""
    ons = bind(eqn, [v.on if isinstance(v, Diagonal) else v for v in ins])
    return ons, bind(eqn, [v.off if isinstance(v, Diagonal) else v for v in ins])


def _all_diagonal(ins: list) -> bool:
    return all(isinstance(v, Diagonal) for v in ins if isinstance(v, Lazy))


def elementwise(eqn: Any, ins: list) -> list | None:
    """Elements of one channel stay that channel's; sums and multiples of tables are tables."""
    active = [v for v in ins if isinstance(v, Lazy)]
    diagonal = [v for v in active if isinstance(v, Diagonal)]
    if len(diagonal) == len(active):
        shape = eqn.outvars[0].aval.shape
        owner = diagonal[0].owner if diagonal[0].owner.shape == shape else _spread(diagonal[0].owner, shape)
        if owner is not None and all(_is_spread(v.owner, owner) for v in diagonal):
            (on,), (off,) = _bind_both(eqn, ins)
            return [Diagonal(on, off, owner, diagonal[0].players)]
    return affine(eqn, ins)


def _spread(owner: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Owners repeated along axes of size 1, which may stand beside longer ones in a program."""
    return np.broadcast_to(owner, shape) if owner.ndim == len(shape) else None


def _is_spread(owner: np.ndarray, whole: np.ndarray) -> bool:
    return owner is whole or owner.ndim == whole.ndim and bool((owner == whole).all())


def moves(eqn: Any, ins: list) -> list | None:
    """Elements that only change their place take their owner along."""
    indices = range(len(ins))[describe(eqn).indices]
    first = next(v for v in ins if isinstance(v, Lazy))
    known = all(not isinstance(ins[i], Lazy | jax.core.Tracer) for i in indices)
    if isinstance(first, Diagonal) and _all_diagonal(ins) and known:
        with jax.ensure_compile_time_eval():
            owners = [np.asarray(o) for o in bind(eqn, [_owner(v, first, i in indices) for i, v in enumerate(ins)])]
        if all(((o >= 0) & (o < first.players)).all() for o in owners):  # else an index was out of range
            ons, offs = _bind_both(eqn, ins)
            return [Diagonal(on, off, o, first.players) for on, off, o in zip(ons, offs, owners, strict=True)]
    return affine(eqn, ins)


def _padded(eqn: Any, ins: list) -> list | None:
    """What is put around a value may be said to be its neighbour's, as it never changes."""
    value, filling = ins
    if not isinstance(value, Diagonal) or isinstance(filling, Lazy):
        return affine(eqn, ins)
    owner = value.owner
    for axis, (low, _, inner) in enumerate(eqn.params["padding_config"]):
        places = (np.arange(eqn.outvars[0].aval.shape[axis]) - low) // (inner + 1)
        owner = owner.take(np.clip(places, 0, owner.shape[axis] - 1), axis)
    (on,), (off,) = _bind_both(eqn, ins)
    return [Diagonal(on, off, owner, value.players)]


def _owner(value: Any, beside: Diagonal, index: bool) -> Any:
    """The owner of each element of an operand; constants may be said to be anybody's, as they never change."""
    if isinstance(value, Diagonal):
        return jnp.asarray(value.owner)
    if index:
        return value
    shape = jnp.shape(value)
    if len(shape) != beside.owner.ndim:
        return jnp.zeros(shape, jnp.int32)
    # The neighbour's pattern, so that later layers find their channels in order.
    along = tuple(slice(None) if n == m else slice(0, 1) for n, m in zip(shape, beside.owner.shape, strict=True))
    return jnp.asarray(np.broadcast_to(beside.owner[along], shape))


def within_channels(eqn: Any, ins: list) -> list | None:
    """What brings elements of one channel together stays that channel's."""
    value, along = ins[0], describe(eqn).along
    if along is None or not isinstance(value, Diagonal) or any(isinstance(v, Lazy) for v in ins[1:]):
        return None
    owner, axes = value.owner, along(eqn.params, value.owner.ndim)
    first = owner[tuple(slice(0, 1) if i in axes else slice(None) for i in range(owner.ndim))]
    if not owner.size or not (owner == first).all():
        return None
    ons, offs = _bind_both(eqn, ins)
    if ons[0].ndim < owner.ndim:
        first = first.reshape([n for i, n in enumerate(first.shape) if i not in axes])
    return [
        Diagonal(on, off, np.broadcast_to(first, on.shape), value.players) for on, off in zip(ons, offs, strict=True)
    ]


def sums(eqn: Any, ins: list) -> list | None:
    """Sums within channels are the channel's; others are tables."""
    return within_channels(eqn, ins) or affine(eqn, ins)


def affine(eqn: Any, ins: list) -> list | None:
    """Operations that are affine in their tables together: one more table."""
    active = [isinstance(v, Lazy) for v in ins]
    if not is_affine(eqn, active) or not _of_numbers(eqn, ins):
        return None
    players = next(v.players for v in ins if isinstance(v, Diagonal | Additive))
    if players * max(math.prod(v.aval.shape) for v in [*eqn.outvars, *eqn.invars]) > MAX_TABLE:
        return None
    tables = [v.additive() if isinstance(v, Diagonal) else v for v in ins]
    indices = range(len(ins))[describe(eqn).indices]
    summed = not keeps_zero(eqn, active)
    columns: list[Any] = []
    for i, v in enumerate(tables):
        if isinstance(v, Additive):
            columns.append(v.delta)
        else:  # a summand that is no table is the base's alone
            columns.append(jnp.zeros_like(v) if summed and i not in indices else v)
    bases = [v.base if isinstance(v, Additive) else v for v in tables]
    deltas = jax.vmap(lambda *values: bind(eqn, values), in_axes=[0 if a else None for a in active])(*columns)
    return [Additive(b, d) for b, d in zip(bind(eqn, bases), deltas, strict=True)]


def _of_numbers(eqn: Any, ins: list) -> bool:
    """Whether what depends on the coalition has differences: those of integers may exceed their type."""
    lazy = [v for v, value in zip(eqn.invars, ins, strict=True) if isinstance(value, Lazy)]
    return all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in [*lazy, *eqn.outvars])


def product(layer: Callable[[Any, list], Additive | Diagonal | None]) -> Callable[[Any, list], list | None]:
    """The rule of a layer with weights, whose table on a diagonal value is `layer(equation, operands)`."""

    def rule(eqn, ins):
        if not _of_numbers(eqn, ins):
            return None
        if _all_diagonal(ins):
            table = layer(eqn, ins) if sum(isinstance(v, Lazy) for v in ins) == 1 else None
            return None if table is None else [table]
        return affine(eqn, ins)

    return rule


def _contracted(eqn: Any, ins: list, side: int, owner: np.ndarray) -> Diagonal:
    """A contraction over elements of one channel each; `owner` is that of the free axes."""
    (on,), (off,) = _bind_both(eqn, ins)
    extra = [1] * (on.ndim - owner.ndim)
    shape = [*owner.shape, *extra] if side == 0 else [*extra, *owner.shape]
    return Diagonal(on, off, np.broadcast_to(owner.reshape(shape), on.shape), ins[side].players)


def _dense(eqn: Any, ins: list) -> Additive | Diagonal | None:
    """A dense layer on a diagonal value: the contributions of each channel to each neuron."""
    (contract, batch) = eqn.params["dimension_numbers"]
    if any(batch):
        return None
    side = 0 if isinstance(ins[0], Diagonal) else 1
    value, weights = ins[side], ins[1 - side]
    players = value.players
    axes, other_axes = contract[side], contract[1 - side]
    free = [i for i in range(value.on.ndim) if i not in axes]
    # Axes in the order (free..., contracted...), flattened to (free, contracted).
    owner = np.transpose(value.owner, (*free, *axes)).reshape(-1, math.prod(value.on.shape[i] for i in axes))
    if not owner.size:
        return None
    free_shape = [value.on.shape[i] for i in free]
    if (owner == owner[:, :1]).all():  # sums within a channel (an average over positions): still its own
        return _contracted(eqn, ins, side, owner[:, 0].reshape(free_shape))
    if not (owner == owner[:1]).all():
        return None
    layout = regular(owner[0], players)
    out_size = math.prod(eqn.outvars[0].aval.shape)
    if layout is None or players * out_size > MAX_TABLE or players > owner.shape[1]:
        return None
    kind, repeats = layout
    difference, weights = _wide(eqn, value, weights)
    delta = jnp.transpose(difference, (*free, *axes)).reshape(owner.shape)
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
    (base,) = bind(eqn, [value.off, ins[1]] if side == 0 else [ins[0], value.off])
    return Additive(base, table.astype(base.dtype))


def _wide(eqn: Any, value: Diagonal, weights: Any) -> tuple[jax.Array, jax.Array]:
    """What a value owns, and weights, in float32 at least: as such a product adds up, whatever its operands are."""
    wide = jnp.promote_types(eqn.outvars[0].aval.dtype, jnp.float32)
    return value.on.astype(wide) - value.off.astype(wide), jnp.asarray(weights).astype(wide)


def _owned_products(delta: jax.Array, matrix: jax.Array, places: int) -> jax.Array:
    """`(K, O)`: `sum_p delta matrix` over the axis `places` of `delta (P, K)` or `(K, P)` and `matrix (..., O)`.

    One pass over the weights, place by place: as products of batches they would be transposed first, and
    in one expression XLA would compute delta anew for each of the O neurons.
    """

    def term(p):
        take = lambda x: lax.dynamic_index_in_dim(x, p, places, keepdims=False)  # noqa: E731
        return take(delta)[:, None] * take(matrix)

    return lax.fori_loop(1, delta.shape[places], lambda p, total: total + term(p), term(0))


def _convolution(eqn: Any, ins: list) -> Additive | None:
    """A convolution of a diagonal value: each channel's own contribution, for the price of one convolution."""
    value, kernel = ins
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    if not isinstance(value, Diagonal) or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    players = value.players
    feature = numbers.lhs_spec[1]
    along = np.moveaxis(value.owner, feature, -1).reshape(-1, value.owner.shape[feature])
    out_shape = eqn.outvars[0].aval.shape
    window = [kernel.shape[i] for i in numbers.rhs_spec[2:]]
    in_order = along.shape[1] == players and (along == np.arange(players)).all()
    if not in_order or players * math.prod(out_shape) > MAX_TABLE:
        return None
    difference, wide_kernel = _wide(eqn, value, kernel)
    patches = lax.conv_general_dilated_patches(
        difference, window, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"],
        dimension_numbers=numbers, precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    out_feature = numbers.out_spec[1]
    patches = jnp.moveaxis(patches, out_feature, -1)
    places = patches.shape[:-1]
    patches = patches.reshape(-1, players, math.prod(window))
    weights = jnp.transpose(wide_kernel, (numbers.rhs_spec[1], *numbers.rhs_spec[2:], numbers.rhs_spec[0]))
    table = jnp.einsum("nkp,kpo->kno", patches, weights.reshape(players, math.prod(window), -1), precision="highest")
    table = jnp.moveaxis(table.reshape(players, *places, -1), -1, 1 + out_feature)
    (base,) = bind(eqn, [value.off, kernel])
    return Additive(base, table.astype(base.dtype))


#: The rule of each primitive, by its name; those without one run per coalition.
RULES = Rules(
    "coalition",
    {
        "moves": moves,
        "sums": sums,
        "product": affine,
        "elementwise": elementwise,
        "maximum": within_channels,
        "order": within_channels,
        "choice": within_channels,
        "composite": within_channels,
        "opaque": within_channels,
    },
)
register("pad", _padded)
register("dot_general", product(_dense))
register("conv_general_dilated", product(_convolution))
