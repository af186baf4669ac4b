"""Convolutions that a CPU likes: a program in which some are written as other operations, with the same numbers.

XLA's CPU backend runs dense convolutions well, and depthwise, grouped and 1 x 1 ones badly, up to thirty times slower
than need be; so are the weight gradients of all three. They are rewritten in the program that runs, after every
transformation has been applied: what DeepLIFT, LRP or `jax.grad` see are the convolutions of the network, and what
they make of them is rewritten in turn. On other platforms the convolutions stay: `jax.lax.platform_dependent` chooses
when the program is lowered.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from jaxcam.transforms.maxima import held_maxima
from jaxcam.transforms.rewriting import calling, rewritten

#: `with fast_convolutions(False): ...` leaves all convolutions as they are, in what is traced inside it; `True` asks
#: for the rewriting whatever the environment says.
fast_convolutions = jax.make_user_context(None)

_VARIABLE = "JAXCAM_FAST_CONVOLUTIONS"


def for_cpu(function: Callable) -> Callable:
    """The same function, faster where it runs on a CPU and holds depthwise, grouped or 1 x 1 convolutions.

    To be applied last, around gradients and vmaps and directly inside `jax.jit`, so that it sees the program that
    runs: `jax.jit(for_cpu(jax.grad(loss)))`. Under further transformations it is right but gains less. Nothing
    changes on other platforms, in `jax.export` for them, inside `jax.shard_map` that the function calls, or with the
    environment variable JAXCAM_FAST_CONVOLUTIONS=0 (read as a program is traced) or under `fast_convolutions(False)`;
    but for derivatives of maxima, which are right on every platform (`jaxcam.transforms.maxima`).

    Compilation costs more, some tenths of a second for each depthwise or grouped convolution: in all 1.6 times as much
    for an EfficientNet-Lite0, which then runs in about a sixth of the time. An infinite value makes a NaN in the groups
    of a convolution that are computed together with its own.

    Args:
      function: of pytrees of arrays.

    Returns:
      A function of the same signature. The order of some sums is another: in float32 results differ by some 1e-6.
    """

    @functools.wraps(function)
    def fast(*args: Any, **kwargs: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args, **kwargs)
        instead = _fast if enabled() else lambda eqn: eqn
        outputs = jex.jaxpr_as_fun(rewritten(closed, instead, held_maxima))(*jax.tree.leaves((args, kwargs)))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return fast


def enabled() -> bool:
    """Whether convolutions are rewritten in what is traced now."""
    asked = fast_convolutions.value
    return os.environ.get(_VARIABLE, "1") != "0" if asked is None else bool(asked)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """What an equation computes, by the axes of its operands `x` and `w`.

    Attributes:
      x_shape, w_shape, out_shape, dtype: of the operands and the result.
      x_spec, w_spec, out_spec: axes: of the batch, the channels and space; of `w` those of the channels that it gives,
        of those that it takes, and space.
      strides, padding, x_dilation, w_dilation, groups, batch_groups, precision: as in `jax.lax.conv_general_dilated`.
    """

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    dtype: Any
    x_spec: tuple[int, ...]
    w_spec: tuple[int, ...]
    out_spec: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    x_dilation: tuple[int, ...]
    w_dilation: tuple[int, ...]
    groups: int
    batch_groups: int
    precision: Any

    @property
    def window(self) -> tuple[int, ...]:
        """Its sides."""
        return tuple(self.w_shape[i] for i in self.w_spec[2:])

    @property
    def places(self) -> tuple[int, ...]:
        """How often it is laid down along each axis of space."""
        return tuple(self.out_shape[i] for i in self.out_spec[2:])

    def padded(self, x: jax.Array) -> jax.Array:
        """`x` with its padding and dilation."""
        config = [(0, 0, 0)] * x.ndim
        for axis, (low, high), dilation in zip(self.x_spec[2:], self.padding, self.x_dilation, strict=True):
            config[axis] = (low, high, dilation - 1)
        return x if not any(map(any, config)) else lax.pad(x, jnp.zeros((), x.dtype), config)

    def strided(self, x: jax.Array, starts: tuple[int, ...], counts: tuple[int, ...], steps: tuple[int, ...]):
        """Of a padded `x` every `steps`-th place from `starts`, `counts` of them."""
        first, last, by = [0] * x.ndim, list(x.shape), [1] * x.ndim
        for axis, start, count, step in zip(self.x_spec[2:], starts, counts, steps, strict=True):
            first[axis], last[axis], by[axis] = start, start + (count - 1) * step + 1, step
        return lax.slice(x, first, last, by)

    def under(self, x: jax.Array, place: tuple[int, ...]) -> jax.Array:
        """Of a padded `x` what one window, laid down at `place`, covers."""
        starts = tuple(p * s for p, s in zip(place, self.strides, strict=True))
        return self.strided(x, starts, self.window, self.w_dilation)

    def behind(self, x: jax.Array, offset: tuple[int, ...]) -> jax.Array:
        """Of a padded `x` what one element of the window, at `offset`, meets at all places."""
        starts = tuple(o * d for o, d in zip(offset, self.w_dilation, strict=True))
        return self.strided(x, starts, self.places, self.strides)

    def spread(self, x: jax.Array, offset: tuple[int, ...]) -> jax.Array:
        """What one element of the window, at `offset`, adds to all places, of `x` times it; for strides of one."""
        config = [(0, 0, 0)] * x.ndim
        for axis, o, d, (low, _), by, n in zip(
            self.x_spec[2:], offset, self.w_dilation, self.padding, self.x_dilation, self.places, strict=True
        ):
            first = low - o * d
            config[axis] = (first, n - first - (x.shape[axis] - 1) * by - 1, by - 1)
        return lax.pad(x, jnp.zeros((), x.dtype), config)


#: A rewriting: a function of `(x, w)` for a convolution, or None where it does not pay.
Rewriting = Callable[[Convolution], Callable[[jax.Array, jax.Array], jax.Array] | None]


def _offsets(sides: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, sides))


def depthwise(c: Convolution) -> Callable | None:
    """Each channel by itself: the sum over the window of shifted `x`, times the weight of the channel."""
    channels = c.x_shape[c.x_spec[1]]
    if not 1 < channels == c.groups or math.prod(c.window) > _WINDOW:
        return None

    def depthwise_convolution(x, w):
        x, w = _repeated(_wide(x), c.w_shape[c.w_spec[0]] // channels, c.x_spec[1]), _wide(w)
        small = math.prod(c.window) <= _SMALL and set(c.strides) == {1}
        # Held apart: fused into what reads it for every element of the window, what made `x` would be made as often.
        x = lax.optimization_barrier(x if small else c.padded(x))
        total: Any = None
        for offset in _offsets(c.window):
            if total is not None and not small and len(offset) > 1 and offset[-1] == 0:
                total = lax.optimization_barrier(total)  # a row of the window at a time is faster
            weight = _indexed(w, dict(zip(c.w_spec[2:], offset, strict=True))).reshape(-1)
            if small:
                term = c.spread(lax.mul(x, lax.broadcast_in_dim(weight, x.shape, (c.x_spec[1],))), offset)
            else:
                term = c.behind(x, offset)
                term = lax.mul(term, lax.broadcast_in_dim(weight, term.shape, (c.x_spec[1],)))
            total = term if total is None else lax.add(total, term)
        return _laid_out(total, c.x_spec, c.out_spec).astype(c.dtype)

    return depthwise_convolution


def depthwise_weights(c: Convolution) -> Callable | None:
    """The weight gradient of `depthwise`: a few places of a large window, each a sum of products."""
    channels = c.x_shape[c.x_spec[0]]
    if not 1 < channels == c.batch_groups or math.prod(c.places) > _SMALL:
        return None

    def depthwise_weight_gradient(x, g):
        # The operand `x` has its channels where others have the batch, and `g` where others have those that come out.
        x = lax.optimization_barrier(_repeated(c.padded(_wide(x)), c.w_shape[c.w_spec[0]] // channels, c.x_spec[0]))
        g = _laid_out(_wide(g), c.w_spec, c.x_spec)
        summed = tuple(i for i in range(x.ndim) if i != c.x_spec[0])
        sums = [jnp.sum(c.under(x, place) * g, summed) for place in _offsets(c.places)]
        out = jnp.stack(sums, -1).reshape(1, -1, *c.places)
        return _laid_out(out, tuple(range(x.ndim)), c.out_spec).astype(c.dtype)

    return depthwise_weight_gradient


def wide_depthwise_weights(c: Convolution) -> Callable | None:
    """The same for larger windows: of each channel, products of matrices of rows, and sums of their diagonals.

    A row of the picture and a row of the gradient meet in every pair of places, of which only those on a few diagonals
    count; the products are worth it where rows are short.
    """
    channels, row = c.x_shape[c.x_spec[0]], c.x_spec[-1]
    if not 1 < channels == c.batch_groups or max(c.x_shape[row], c.window[-1]) > _ROW:
        return None

    def wide_depthwise_weight_gradient(x, g):
        plain = tuple(range(x.ndim))
        x = _repeated(_laid_out(c.padded(_wide(x)), c.x_spec, plain), c.w_shape[c.w_spec[0]] // channels, 0)
        g = _laid_out(_wide(g), c.w_spec, plain)
        summed, products = plain[1:-1], []
        for place in _offsets(c.places[:-1]):
            steps = zip(place, c.strides, c.window, c.w_dilation, strict=False)
            ranges = [slice(p * s, p * s + (n - 1) * d + 1, d) for p, s, n, d in steps]
            rows = x[:, :, *ranges]
            products.append(lax.dot_general(rows, g, ((summed, summed), ((0,), (0,))), lax.Precision.HIGHEST))
        pairs = [lax.broadcasted_iota(jnp.int32, (*products[0].shape[1:], c.places[-1]), i) for i in range(3)]
        diagonal = (pairs[0] == pairs[2] * c.strides[-1] + pairs[1] * c.w_dilation[-1]).astype(x.dtype)
        out = jnp.tensordot(jnp.stack(products, 1), diagonal, 2, precision="highest")
        return _laid_out(out.reshape(1, -1, *c.places), plain, c.out_spec).astype(c.dtype)

    return wide_depthwise_weight_gradient


def pointwise(c: Convolution) -> Callable | None:
    """A window of one element: a product of matrices, of the places that the strides leave."""
    if c.groups * c.batch_groups > 1 or math.prod(c.window) > 1:
        return None

    def pointwise_convolution(x, w):
        w = w.reshape([n for i, n in enumerate(w.shape) if i not in c.w_spec[2:]])
        takes = int(c.w_spec[1] > c.w_spec[0])
        later = all(s == 1 for s in c.strides)  # zeros between and around the places stay zeros
        if not later:
            x = c.behind(c.padded(x), (0,) * len(c.window))
        if c.x_spec[1] == x.ndim - 1:
            out = lax.dot_general(x, w, (((x.ndim - 1,), (takes,)), ((), ())), c.precision, c.dtype)
            out = jnp.moveaxis(out, -1, c.x_spec[1])
        else:
            out = lax.dot_general(w, x, (((takes,), (c.x_spec[1],)), ((), ())), c.precision, c.dtype)
            out = jnp.moveaxis(out, 0, c.x_spec[1])
        return _laid_out(c.padded(out) if later else out, c.x_spec, c.out_spec)

    return pointwise_convolution


def whole(c: Convolution) -> Callable | None:
    """A window as large as the picture, as in the weight gradient of `pointwise`: a product of matrices."""
    if c.groups * c.batch_groups > 1 or math.prod(c.places) > 1:
        return None

    def whole_convolution(x, w):
        x = c.under(c.padded(x), (0,) * len(c.window))
        out = lax.dot_general(x, w, ((c.x_spec[1:], c.w_spec[1:]), ((), ())), c.precision, c.dtype)
        return _laid_out(out.reshape(*out.shape, *c.places), tuple(range(x.ndim)), c.out_spec)

    return whole_convolution


def grouped(c: Convolution) -> Callable | None:
    """Groups of channels apart, small ones several together with zeros between them: a dense convolution each."""
    takes, gives = c.w_shape[c.w_spec[1]], c.w_shape[c.w_spec[0]] // c.groups
    together = _together(c.groups, takes, gives)
    if together is None:
        return None
    parts, plain = c.groups // together, tuple(range(len(c.w_shape)))
    dense = _dense(
        dataclasses.replace(c, w_spec=plain), _divided(c.x_shape, c.x_spec[1], parts),
        (together * gives, together * takes, *c.window), _divided(c.out_shape, c.out_spec[1], parts),
    )  # fmt: skip

    def grouped_convolution(x, w):
        w = _laid_out(w, c.w_spec, plain).reshape(parts, together, gives, 1, takes, *c.window)
        own = jnp.eye(together, dtype=bool).reshape(together, 1, together, 1, *[1] * len(c.window))
        blocks = jnp.where(own, w, jnp.zeros((), w.dtype)).reshape(parts, together * gives, -1, *c.window)
        several = jnp.split(x, parts, c.x_spec[1])
        return jnp.concatenate([dense(part, blocks[i]) for i, part in enumerate(several)], c.out_spec[1])

    return grouped_convolution


def grouped_weights(c: Convolution) -> Callable | None:
    """The weight gradient of `grouped`, likewise: of what comes out for several groups together, the diagonal."""
    takes, gives = c.x_shape[c.x_spec[0]] // c.batch_groups, c.w_shape[c.w_spec[0]] // c.batch_groups
    together = _together(c.batch_groups, takes, gives)
    if together is None:
        return None
    parts = c.batch_groups // together
    dense = _dense(
        c, _divided(c.x_shape, c.x_spec[0], parts), _divided(c.w_shape, c.w_spec[0], parts),
        _divided(c.out_shape, c.out_spec[1], parts, c.out_spec[0], together),
    )  # fmt: skip

    def grouped_weight_gradient(x, g):
        outs = []
        for operands in zip(jnp.split(x, parts, c.x_spec[0]), jnp.split(g, parts, c.w_spec[0]), strict=True):
            rows = jnp.split(dense(*operands), together, c.out_spec[0])
            outs += [jnp.split(row, together, c.out_spec[1])[i] for i, row in enumerate(rows)]
        return jnp.concatenate(outs, c.out_spec[1])

    return grouped_weight_gradient


def _together(groups: int, takes: int, gives: int) -> int | None:
    """How many groups, each with so many channels that go in and come out, make one convolution."""
    for channels in _TOGETHER:
        most = max(1, channels // max(takes, gives))
        together = max(d for d in range(1, most + 1) if groups % d == 0)
        if groups <= _PARTS * together:
            return together if groups > 1 else None
    return None


def _divided(shape: tuple[int, ...], axis: int, by: int, other: int = 0, times: int = 1) -> tuple[int, ...]:
    """A shape with one side divided and another multiplied."""
    sides = list(shape)
    sides[axis] //= by
    sides[other] *= times
    return tuple(sides)


def _dense(c: Convolution, x_shape: tuple[int, ...], w_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> Callable:
    """The same convolution without groups, of operands of other shapes."""
    part = dataclasses.replace(c, x_shape=x_shape, w_shape=w_shape, out_shape=out_shape, groups=1, batch_groups=1)
    return _rewriting(part) or functools.partial(
        lax.conv_general_dilated, window_strides=c.strides, padding=c.padding, lhs_dilation=c.x_dilation,
        rhs_dilation=c.w_dilation, dimension_numbers=lax.ConvDimensionNumbers(c.x_spec, c.w_spec, c.out_spec),
        precision=c.precision, preferred_element_type=c.dtype,
    )  # fmt: skip


def _rewriting(c: Convolution) -> Callable | None:
    return next(filter(None, (rewriting(c) for rewriting in REWRITINGS)), None)


#: The first that pays is taken.
REWRITINGS: tuple[Rewriting, ...] = (
    depthwise, depthwise_weights, wide_depthwise_weights, grouped, grouped_weights, pointwise, whole,
)  # fmt: skip
#: The largest window of a depthwise convolution, in elements: programs grow with it.
_WINDOW = 121
#: The largest one that is summed over `x` as it is, without a padded copy, and whose weight gradient is plain sums.
_SMALL = 9
#: The longest row in the weight gradient of another.
_ROW = 256
#: Groups are taken together up to so many channels, or the next number of them where the parts were more than these:
#: each part costs a tenth of a second of compilation.
_TOGETHER, _PARTS = (32, 64), 4


def _fast(eqn: jex.JaxprEqn) -> jex.JaxprEqn:
    """An equation that calls what computes the same as a convolution on a CPU, or the equation itself."""
    return calling(eqn, _call) if eqn.primitive.name == "conv_general_dilated" else eqn


@functools.lru_cache(maxsize=512)
def _call(primitive: Any, params: Any, x: tuple, w: tuple, out: tuple) -> jex.JaxprEqn | None:
    """The call in place of a convolution."""
    (x_shape, _), (w_shape, _), (out_shape, dtype) = x, w, out
    if not jnp.issubdtype(dtype, jnp.floating) or 0 in (*x_shape, *w_shape, *out_shape):
        return None
    params = dict(params)
    specs = params["dimension_numbers"]
    convolution = Convolution(
        x_shape, w_shape, out_shape, dtype, tuple(specs.lhs_spec), tuple(specs.rhs_spec), tuple(specs.out_spec),
        tuple(params["window_strides"]), tuple(map(tuple, params["padding"])), tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]), params["feature_group_count"], params["batch_group_count"], params["precision"],
    )  # fmt: skip
    rewritten = _rewriting(convolution)
    if rewritten is None:
        return None

    def run(x, w):
        return lax.platform_dependent(x, w, cpu=rewritten, default=lambda x, w: primitive.bind(x, w, **params))

    run.__name__ = rewritten.__name__
    [call] = jax.make_jaxpr(jax.jit(run))(*(jax.ShapeDtypeStruct(*operand) for operand in (x, w))).eqns
    return call


def _wide(x: jax.Array) -> jax.Array:
    """`x` in a type in which sums are exact enough: at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _repeated(x: jax.Array, times: int, axis: int) -> jax.Array:
    return x if times == 1 else jnp.repeat(x, times, axis)


def _indexed(w: jax.Array, index: dict[int, int]) -> jax.Array:
    """`w` at one index of some of its axes."""
    first, last = [0] * w.ndim, list(w.shape)
    for axis, i in index.items():
        first[axis], last[axis] = i, i + 1
    return lax.slice(w, first, last)


def _laid_out(x: jax.Array, spec: tuple[int, ...], wanted: tuple[int, ...]) -> jax.Array:
    """`x`, whose axes are those of `spec`, with these where `wanted` has them."""
    order = [0] * x.ndim
    for source, target in zip(spec, wanted, strict=True):
        order[target] = source
    return x if order == list(range(x.ndim)) else jnp.transpose(x, order)
