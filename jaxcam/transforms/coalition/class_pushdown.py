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

from jaxcam.transforms.coalition.folding import elementwise
from jaxcam.transforms.coalition.lazy import Additive, Deferred, Diagonal, Lazy, template
from jaxcam.transforms.custom_derivatives import has_own_derivative, name_of
from jaxcam.transforms.walker import bind, called, trace, walk

Rule = Callable[[Any, list], list]


class _Step(NamedTuple):
    """How an operation gives one element of an output axis.

    Attributes:
      axes: of each operand, the axis to take the element of; None for the operand as a whole.
      params: those of the operation that change.
    """

    axes: list[int | None]
    params: dict[str, Any]


def narrowed(output: Any, rule: Rule) -> Any:
    """The same value with its picks of single elements made as early as they can be.

    Args:
      output: a lazy value.
      rule: `(equation, operands) -> outputs`, lazy or folded, for the smaller operations.
    """
    return _Narrowing(rule).whole(output)


class _Narrowing:
    def __init__(self, rule: Rule):
        self.rule = rule
        self.done: dict[Any, tuple] = {}  # with what it was made of, since identities are of living objects

    def whole(self, value: Any) -> Any:
        """A value with the picks behind it moved."""
        if not isinstance(value, Deferred):
            return value
        if value.identity not in self.done:
            self.done[value.identity] = (self._whole(value), value)
        return self.done[value.identity][0]

    def _whole(self, value: Deferred) -> Any:
        eqn, operands = value.task.eqn, value.task.operands
        picked = _picked(eqn, operands)
        if picked is None:
            ins = [self.whole(v) for v in operands]
            same = all(new is old for new, old in zip(ins, operands, strict=True))
            return value if same else self.rule(eqn, ins)[value.index]
        starts, scale = picked
        small = operands[0]
        for axis, start in starts.items():
            small = self.narrow(small, axis, start)
        small = self._ordinary(lambda x: x.reshape(value.aval.shape), small)
        return small if scale is None else self._ordinary(jnp.multiply, small, scale)

    def narrow(self, value: Any, axis: int, start: Any) -> Any:
        """Element `start` of an axis that is kept, with size 1."""
        if not isinstance(value, Lazy):
            return lax.dynamic_slice_in_dim(value, start, 1, axis)
        if template(value).shape[axis] == 1:
            return self.whole(value)
        key = (value.identity, axis, id(start))
        if key not in self.done:
            self.done[key] = (self._narrow(value, axis, start), value, start)
        return self.done[key][0]

    def _narrow(self, value: Lazy, axis: int, start: Any) -> Any:
        cut = lambda x, at: lax.dynamic_slice_in_dim(x, start, 1, at)  # noqa: E731
        if isinstance(value, Additive):
            return Additive(cut(value.base, axis), cut(value.delta, 1 + axis))
        if isinstance(value, Diagonal):
            owner = value.owner.take([0], axis)
            if (value.owner == owner).all():
                return Diagonal(cut(value.on, axis), cut(value.off, axis), owner)
        if isinstance(value, Deferred):
            step = _step(value.task.eqn, axis)
            if step is not None:
                return self._smaller(value.task, step, start)
        index = [jnp.asarray(start if i == axis else 0, jnp.int32) for i in range(len(template(value).shape))]
        sizes = [1 if i == axis else n for i, n in enumerate(template(value).shape)]
        return self._ordinary(lambda x, *at: lax.dynamic_slice(x, at, sizes), self.whole(value), *index)

    def _smaller(self, task: Any, step: _Step, start: Any) -> Any:
        """The one output of an equation, with one element along an axis."""
        operands = [
            self.whole(v) if axis is None else self.narrow(v, axis, start)
            for v, axis in zip(task.operands, step.axes, strict=True)
        ]
        eqn, params = task.eqn, task.eqn.params | step.params
        own = has_own_derivative(eqn)
        run = _of_other_size(eqn, step) if own else functools.partial(eqn.primitive.bind, **params)
        [made] = trace(run, *map(_aval, operands))[0].eqns
        # With the place in the source of the operation that it stands for.
        return self.rule(made.replace(source_info=eqn.source_info), operands)[0]

    def _ordinary(self, fn: Callable, *operands: Any) -> Any:
        """A function of lazy and ordinary values, folded where it can be."""
        return walk(trace(fn, *map(_aval, operands))[0], operands, active=Lazy, rule=self.rule)[0]


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
    if eqn.primitive.name == "custom_jvp_call":
        forward = jax.custom_jvp(small)
        forward.defjvp(lambda primals, tangents: jax.jvp(at_full_size, primals, tangents))
        return forward
    backward = jax.custom_vjp(small)
    backward.defvjp(lambda *xs: (small(*xs), xs), lambda xs, slope: jax.vjp(at_full_size, *xs)[1](slope))
    return backward


def _aval(value: Any) -> jax.ShapeDtypeStruct:
    like = template(value) if isinstance(value, Lazy) else jnp.asarray(value)
    return jax.ShapeDtypeStruct(like.shape, like.dtype)


def _picked(eqn: Any, operands: tuple) -> tuple[dict[int, Any], Any] | None:
    """The place of the one element that a slice or a gather takes along some axes, and a factor: NaN out of range.

    None for other operations, where nothing is picked, and where the place depends on the coalition.
    """
    name, p = eqn.primitive.name, eqn.params
    if name not in ("slice", "dynamic_slice", "gather") or any(isinstance(v, Lazy) for v in operands[1:]):
        return None
    shape = eqn.invars[0].aval.shape
    if name == "slice":
        sizes = [len(range(*s)) for s in zip(p["start_indices"], p["limit_indices"], p["strides"] or [1] * len(shape),
                                             strict=True)]  # fmt: skip
        starts: list[Any] = list(p["start_indices"])
    elif name == "dynamic_slice":
        sizes, starts = list(p["slice_sizes"]), list(operands[1:])
    else:
        numbers, sizes, starts = p["dimension_numbers"], list(p["slice_sizes"]), [0] * len(shape)
        batched = getattr(numbers, "operand_batching_dims", ())
        filled = p["fill_value"] is None or math.isnan(p["fill_value"])
        if batched or math.prod(eqn.invars[1].aval.shape[:-1]) != 1 or not filled:
            return None
        for i, axis in enumerate(numbers.start_index_map):
            starts[axis] = operands[1].reshape(-1)[i]
    axes = [i for i, (size, full) in enumerate(zip(sizes, shape, strict=True)) if size == 1 < full]
    if not axes or any(size != full for i, (size, full) in enumerate(zip(sizes, shape, strict=True)) if i not in axes):
        return None
    scale = None
    if name == "gather" and p["mode"] == lax.GatherScatterMode.FILL_OR_DROP:
        valid = [(starts[i] >= 0) & (starts[i] < shape[i]) for i in axes]
        scale = jnp.where(jnp.stack(valid).all(), 1, jnp.nan).astype(eqn.outvars[0].aval.dtype)
    return {i: jnp.clip(jnp.asarray(starts[i]), 0, shape[i] - 1).astype(jnp.int32) for i in axes}, scale


def _step(eqn: Any, axis: int) -> _Step | None:
    """How one element of an output axis is made, or None where all of them are needed."""
    name, p = eqn.primitive.name, eqn.params
    shapes, out = [v.aval.shape for v in eqn.invars], eqn.outvars[0].aval.shape
    first = lambda at, **params: _Step([at] + [None] * (len(shapes) - 1), params)  # noqa: E731
    resized = (*out[:axis], 1, *out[axis + 1 :])
    if elementwise(eqn) or name == "copy":
        # Scalars, and axes of size 1, may stand beside whole ones.
        return _Step([axis if len(s) == len(out) and s[axis] == out[axis] else None for s in shapes], {})
    if name in ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"):
        return first([i for i in range(len(shapes[0])) if i not in p["axes"]][axis])
    if name == "squeeze":
        return first([i for i in range(len(shapes[0])) if i not in p["dimensions"]][axis])
    if name == "transpose":
        return first(p["permutation"][axis])
    if name == "broadcast_in_dim":
        source = [i for i, d in enumerate(p["broadcast_dimensions"]) if d == axis and shapes[0][i] == out[axis]]
        return first(source[0] if source else None, shape=resized)
    if name == "reshape" and p["dimensions"] is None:
        for i, size in enumerate(shapes[0]):
            if size == out[axis] and math.prod(shapes[0][:i]) == math.prod(out[:axis]):
                return first(i, new_sizes=resized)
    if name in ("slice", "dynamic_slice") and shapes[0][axis] == out[axis]:
        if name == "dynamic_slice":
            return first(axis, slice_sizes=resized)
        ends = p["limit_indices"]
        return first(axis, limit_indices=(*ends[:axis], 1, *ends[axis + 1 :]))
    if name == "concatenate" and p["dimension"] != axis:
        return _Step([axis] * len(shapes), {})
    if name in ("reduce_window_sum", "reduce_window_max", "reduce_window_min"):
        trivial = (p["window_dimensions"][axis], p["window_strides"][axis], *p["padding"][axis])
        dilated = (p["base_dilation"][axis], p["window_dilation"][axis])
        return first(axis) if trivial == (1, 1, 0, 0) and dilated == (1, 1) else None
    if name == "conv_general_dilated" and p["feature_group_count"] == p["batch_group_count"] == 1:
        numbers = p["dimension_numbers"]
        if axis == numbers.out_spec[1]:
            return _Step([None, numbers.rhs_spec[0]], {})
    if name == "dot_general":
        contracted, batch = p["dimension_numbers"]
        free = [[i for i in range(len(s)) if i not in (*c, *b)]
                for s, c, b in zip(shapes, contracted, batch, strict=True)]  # fmt: skip
        if axis < len(batch[0]):
            return _Step([batch[0][axis], batch[1][axis]], {})
        place = axis - len(batch[0])
        if place < len(free[0]):
            return _Step([free[0][place], None], {})
        return _Step([None, free[1][place - len(free[0])]], {})
    return None
