"""Choosing early: a pick of one element, pushed from the end of a head to where its values are made.

A head often computes the logits of all classes and then takes one. Behind a dense layer that is one sum (`last_layer`);
but where a ReLU, an average or a reshape stands between the layer with the classes and the choice, every coalition
would pay for all classes. Here the choice moves forward past all operations that act on each class by itself, up to
the weights, of which one column is then used; and what is so much smaller can be folded again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcam.transforms.coalition.lazy import Additive, Deferred, Diagonal, Lazy, template
from jaxcam.transforms.coalition.tables import acts_on_elements, fold
from jaxcam.transforms.custom_derivatives import FORWARD, has_derivative, name_of
from jaxcam.transforms.primitives import describe
from jaxcam.transforms.walker import bind, called, trace, walk


class _Step(NamedTuple):
    """How an operation gives one element of an output axis.

    Attributes:
      axes: of each operand, the axis to take the element of; None for the operand as a whole.
      params: those of the operation that change.
    """

    axes: list[int | None]
    params: dict[str, Any]


def pushed_down(output: Any) -> Any:
    """A lazy value with its picks of single elements made as early as they can be."""
    return _Pushdown().full(output)


class _Pushdown:
    def __init__(self):
        self.done: dict[Any, tuple] = {}  # with what it was made of, since identities are of living objects

    def full(self, value: Any) -> Any:
        """A value with the picks behind it moved."""
        if not isinstance(value, Deferred):
            return value
        if value.identity not in self.done:
            self.done[value.identity] = (self._full(value), value)
        return self.done[value.identity][0]

    def _full(self, value: Deferred) -> Any:
        eqn, operands = value.task.eqn, value.task.operands
        picked = _picked(eqn, operands)
        if picked is None:
            ins = [self.full(v) for v in operands]
            same = all(new is old for new, old in zip(ins, operands, strict=True))
            return value if same else fold(eqn, ins)[value.index]
        starts, scale = picked
        small = operands[0]
        for axis, start in starts.items():
            small = self.pick(small, axis, start)
        small = self._ordinary(lambda x: x.reshape(value.aval.shape), small)
        return small if scale is None else self._ordinary(jnp.multiply, small, scale)

    def pick(self, value: Any, axis: int, start: Any) -> Any:
        """Element `start` of an axis that is kept, with size 1."""
        if not isinstance(value, Lazy):
            return lax.dynamic_slice_in_dim(value, start, 1, axis)
        if template(value).shape[axis] == 1:
            return self.full(value)
        key = (value.identity, axis, id(start))
        if key not in self.done:
            self.done[key] = (self._pick(value, axis, start), value, start)
        return self.done[key][0]

    def _pick(self, value: Lazy, axis: int, start: Any) -> Any:
        cut = lambda x, at: lax.dynamic_slice_in_dim(x, start, 1, at)  # noqa: E731
        if isinstance(value, Additive):
            return Additive(cut(value.base, axis), cut(value.delta, 1 + axis))
        if isinstance(value, Diagonal):
            owner = value.owner.take([0], axis)
            if (value.owner == owner).all():
                return Diagonal(cut(value.on, axis), cut(value.off, axis), owner, value.players)
        if isinstance(value, Deferred):
            step = _step(value.task.eqn, axis)
            if step is not None:
                return self._smaller(value.task, step, start)
        index = [jnp.asarray(start if i == axis else 0, jnp.int32) for i in range(len(template(value).shape))]
        sizes = [1 if i == axis else n for i, n in enumerate(template(value).shape)]
        return self._ordinary(lambda x, *at: lax.dynamic_slice(x, at, sizes), self.full(value), *index)

    def _smaller(self, task: Any, step: _Step, start: Any) -> Any:
        """The one output of an equation, with one element along an axis."""
        operands = [
            self.full(v) if axis is None else self.pick(v, axis, start)
            for v, axis in zip(task.operands, step.axes, strict=True)
        ]
        eqn, params = task.eqn, task.eqn.params | step.params
        own = has_derivative(eqn)
        run = _of_other_size(eqn, step) if own else functools.partial(eqn.primitive.bind, **params)
        [made] = trace(run, *map(_aval, operands))[0].eqns
        # With the place in the source of the operation that it stands for.
        return fold(made.replace(source_info=eqn.source_info), operands)[0]

    def _ordinary(self, fn: Callable, *operands: Any) -> Any:
        """A function of lazy and ordinary values, folded where it can be."""
        return walk(trace(fn, *map(_aval, operands))[0], operands, active=Lazy, rule=fold)[0]


def _of_other_size(eqn: Any, step: _Step) -> Callable:
    """An elementwise function with its own derivative, for one element along an axis.

    It is traced for the full size, and its derivative can only be had for that: of equal elements, one is kept.
    """
    [axis] = {at for at in step.axes if at is not None}
    size = eqn.outvars[0].aval.shape[axis]

    def at_full_size(*xs):
        repeated = [
            x if at is None else jnp.broadcast_to(x, (*x.shape[:at], size, *x.shape[at + 1 :]))
            for x, at in zip(xs, step.axes, strict=True)
        ]
        return lax.slice_in_dim(bind(eqn, repeated)[0], 0, 1, axis=axis)

    def small(*xs):
        return walk(called(eqn), xs, active=object, rule=bind)[0]  # all of it active, so that calls are entered

    small.__name__ = name_of(eqn)
    if eqn.primitive.name == FORWARD:
        forward = jax.custom_jvp(small)
        forward.defjvp(lambda primals, tangents: jax.jvp(at_full_size, primals, tangents))
        return forward
    backward = jax.custom_vjp(small)
    backward.defvjp(lambda *xs: (small(*xs), xs), lambda xs, slope: jax.vjp(at_full_size, *xs)[1](slope))
    return backward


def _aval(value: Any) -> jax.ShapeDtypeStruct:
    like = template(value) if isinstance(value, Lazy) else jnp.asarray(value)
    return jax.ShapeDtypeStruct(like.shape, like.dtype)


class _Window(NamedTuple):
    """What a slice or a gather takes: along each axis where it begins and how much; and a factor, NaN out of range."""

    starts: list
    sizes: list[int]
    scale: Any = None


def _picked(eqn: Any, operands: tuple) -> tuple[dict[int, Any], Any] | None:
    """The place of the one element that is taken along some axes, and a factor: NaN out of range.

    None for operations that take no window, where it picks nothing, and where its place depends on the coalition.
    """
    window = _WINDOWS.get(eqn.primitive.name)
    if window is None or any(isinstance(v, Lazy) for v in operands[1:]):
        return None
    shape = eqn.invars[0].aval.shape
    found = window(eqn, shape, operands[1:])
    if found is None:
        return None
    axes = [i for i, (size, full) in enumerate(zip(found.sizes, shape, strict=True)) if size == 1 < full]
    if not axes or any(found.sizes[i] != full for i, full in enumerate(shape) if i not in axes):
        return None
    scale = None
    if found.scale is not None:
        valid = [(found.starts[i] >= 0) & (found.starts[i] < shape[i]) for i in axes]
        inside = jnp.stack(valid).all()
        if isinstance(inside, jax.core.Tracer) or not inside:
            scale = jnp.where(inside, 1, found.scale).astype(eqn.outvars[0].aval.dtype)
    return {i: jnp.clip(jnp.asarray(found.starts[i]), 0, shape[i] - 1).astype(jnp.int32) for i in axes}, scale


def _of_slice(eqn: Any, shape: tuple[int, ...], indices: tuple) -> _Window:
    p = eqn.params
    ends = zip(p["start_indices"], p["limit_indices"], p["strides"] or [1] * len(shape), strict=True)
    return _Window(list(p["start_indices"]), [len(range(*s)) for s in ends])


def _of_gather(eqn: Any, shape: tuple[int, ...], indices: tuple) -> _Window | None:
    p, starts = eqn.params, [0] * len(shape)
    numbers, fill = p["dimension_numbers"], p["fill_value"]
    batched = getattr(numbers, "operand_batching_dims", ())
    if batched or math.prod(indices[0].shape[:-1]) != 1 or not (fill is None or math.isnan(fill)):
        return None
    for i, axis in enumerate(numbers.start_index_map):
        starts[axis] = indices[0].reshape(-1)[i]
    dropped = p["mode"] == lax.GatherScatterMode.FILL_OR_DROP
    return _Window(starts, list(p["slice_sizes"]), jnp.nan if dropped else None)


#: `(equation, shape of the operand, indices) -> what it takes`, or None where that is no window.
_WINDOWS: dict[str, Callable[[Any, tuple[int, ...], tuple], _Window | None]] = {
    "slice": _of_slice,
    "dynamic_slice": lambda eqn, shape, indices: _Window(list(indices), list(eqn.params["slice_sizes"])),
    "gather": _of_gather,
}


def _step(eqn: Any, axis: int) -> _Step | None:
    """How one element of an output axis is made, or None where all of them are needed."""
    shapes, out = [v.aval.shape for v in eqn.invars], eqn.outvars[0].aval.shape
    if acts_on_elements(eqn) or describe(eqn).kind == "identity":
        # Scalars, and axes of size 1, may stand beside whole ones.
        return _Step([axis if len(s) == len(out) and s[axis] == out[axis] else None for s in shapes], {})
    if len(eqn.outvars) > 1:
        return None
    if eqn.primitive.name in STEPS:
        return STEPS[eqn.primitive.name](eqn, axis, shapes, out)
    along = describe(eqn).along
    if along is None or len(shapes) != 1:
        return None
    together = along(eqn.params, len(shapes[0]))
    removed = len(out) < len(shapes[0])
    source = [i for i in range(len(shapes[0])) if i not in together][axis] if removed else axis
    return None if source in together or shapes[0][source] != out[axis] else _first(source, shapes)


def _first(axis: int | None, shapes: list, **params: Any) -> _Step:
    """An element of the first operand alone."""
    return _Step([axis] + [None] * (len(shapes) - 1), params)


def _without(parameter: str) -> Callable[..., _Step]:
    """The axes that a parameter names are gone."""

    def step(eqn, axis, shapes, out):
        return _first([i for i in range(len(shapes[0])) if i not in eqn.params[parameter]][axis], shapes)

    return step


def _resized(axis: int, out: tuple[int, ...]) -> tuple[int, ...]:
    return (*out[:axis], 1, *out[axis + 1 :])


def _broadcast(eqn: Any, axis: int, shapes: list, out: tuple[int, ...]) -> _Step:
    places = enumerate(eqn.params["broadcast_dimensions"])
    source = [i for i, d in places if d == axis and shapes[0][i] == out[axis]]
    return _first(source[0] if source else None, shapes, shape=_resized(axis, out))


def _reshape(eqn: Any, axis: int, shapes: list, out: tuple[int, ...]) -> _Step | None:
    if eqn.params["dimensions"] is None:
        for i, size in enumerate(shapes[0]):
            if size == out[axis] and math.prod(shapes[0][:i]) == math.prod(out[:axis]):
                return _first(i, shapes, new_sizes=_resized(axis, out))
    return None


def _taking(parameter: str) -> Callable[..., _Step | None]:
    """An axis that is taken whole, as the parameter says, is then one of a single element."""

    def step(eqn, axis, shapes, out):
        ends = _resized(axis, eqn.params[parameter])
        return _first(axis, shapes, **{parameter: ends}) if shapes[0][axis] == out[axis] else None

    return step


def _convolution(eqn: Any, axis: int, shapes: list, out: tuple[int, ...]) -> _Step | None:
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    if p["feature_group_count"] == p["batch_group_count"] == 1 and axis == numbers.out_spec[1]:
        return _Step([None, numbers.rhs_spec[0]], {})
    return None


def _dense(eqn: Any, axis: int, shapes: list, out: tuple[int, ...]) -> _Step:
    contracted, batch = eqn.params["dimension_numbers"]
    free = [[i for i in range(len(s)) if i not in (*c, *b)]
            for s, c, b in zip(shapes, contracted, batch, strict=True)]  # fmt: skip
    if axis < len(batch[0]):
        return _Step([batch[0][axis], batch[1][axis]], {})
    place = axis - len(batch[0])
    if place < len(free[0]):
        return _Step([free[0][place], None], {})
    return _Step([None, free[1][place - len(free[0])]], {})


#: `(equation, output axis, shapes of the operands, shape of the output) -> step` of primitives that change the axes;
#: of all others the vocabulary tells which axes meet.
STEPS: dict[str, Callable[[Any, int, list, tuple[int, ...]], _Step | None]] = {
    "squeeze": _without("dimensions"),
    "transpose": lambda eqn, axis, shapes, out: _first(eqn.params["permutation"][axis], shapes),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _taking("limit_indices"),
    "dynamic_slice": _taking("slice_sizes"),
    "concatenate": lambda eqn, axis, shapes, out: (
        None if eqn.params["dimension"] == axis else _Step([axis] * len(shapes), {})
    ),
    "conv_general_dilated": _convolution,
    "dot_general": _dense,
}
