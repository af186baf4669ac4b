"""Which axes of a network's values are the image's rows and columns, followed through its program.

An axis is a product of factors, the slowest first: the tokens of a transformer are rows times columns. An operation
that is not known to keep an axis loses it, so that an axis without factors may be anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex

from jaxcam.cutting import program, tags
from jaxcam.transforms.primitives import is_elementwise
from jaxcam.transforms.walker import called, opened

ROWS, COLUMNS = "rows", "columns"


class Factor(NamedTuple):
    """A part of an axis.

    Attributes:
      of: `ROWS`, `COLUMNS`, or "" for anything else.
      size: how many there are.
      step: how many finer ones one of it holds, where an axis was divided into windows.
      image: how many the image has.
      turned: whether the last one comes first.
      part: how many of those there are left, where the network cut off the others; 0 where it did not.
      before: where it is the slowest of several, how many others come before the product of them, as class tokens do.
    """

    of: str
    size: int
    step: int = 1
    image: int = 0
    turned: bool = False
    part: int = 0
    before: int = 0


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


def axes_of_places(closed: jex.ClosedJaxpr) -> list[Axes]:
    """The axes of each value that `program.places` finds, of a program whose last input is the image `(H, W, C)`."""
    image: Any = closed.jaxpr.invars[-1]
    height, width, _ = image.aval.shape
    given = [None] * (len(closed.jaxpr.invars) - 1) + [
        ((Factor(ROWS, height, image=height),), (Factor(COLUMNS, width, image=width),), ())
    ]
    return _followed(closed.jaxpr, given)[1]


def is_unknown(axes: Axes) -> bool:
    """Whether nothing is known of any axis."""
    return not any(f.of for axis in axes for f in axis)


def grid(axis: Axis) -> tuple[tuple[str, str], tuple[int, int]] | None:
    """Of an axis of tokens: what comes slowest and fastest, and how many there are of each; None for another."""
    if len(axis) != 2 or {f.of for f in axis} != {ROWS, COLUMNS}:
        return None
    return (axis[0].of, axis[1].of), (axis[0].size, axis[1].size)


def order(axes: Axes) -> tuple[str | None, ...]:
    """What each axis is made of; "" where nothing is known, None where it is several things."""
    return tuple(map(_only, axes))


def _only(axis: Axis) -> str | None:
    if not axis:
        return ""
    return axis[0].of if len(axis) == 1 else None


def _followed(jaxpr: jex.Jaxpr, given: Sequence[Axes | None]) -> tuple[list[Axes | None], list[Axes]]:
    """The axes of the outputs, and of the places, of a program; None for what does not depend on the image."""
    known: dict[Any, Axes | None] = dict(zip(jaxpr.invars, given, strict=True))
    found: list[Axes] = []

    def read(atom):
        return None if isinstance(atom, jex.Literal) else known.get(atom)

    for eqn in jaxpr.eqns:
        operands, held = [read(v) for v in eqn.invars], called(eqn)
        if tags.read(eqn) is not None:
            outs = operands
            found.append(operands[0] or _nothing(eqn.invars[0]))
        elif held is not None and len(opened(held)[0].invars) == len(operands):
            outs, inner = _followed(opened(held)[0], operands)
            found += inner
        else:
            for inside in (held,) if held is not None else jex.jaxprs_in_params(eqn.params):
                found += [((),) * len(place.shape) for place in program.places(inside)]
            outs = [_through(eqn, operands, out) if any(operands) else None for out in eqn.outvars]
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars], found


def _nothing(v: Any) -> Axes:
    return ((),) * len(v.aval.shape)


def _through(eqn: jex.JaxprEqn, operands: list[Axes | None], out: Any) -> Axes:
    """The axes of one output of an operation."""
    shape, name = out.aval.shape, eqn.primitive.name
    before: Any = eqn.invars[0]
    first = operands[0] or _nothing(before)
    rule = _RULES.get(name)
    if rule is not None:
        return rule(eqn, operands, shape)
    if is_elementwise(eqn):
        axes = [o for o in operands if o is not None and len(o) == len(shape)]
        return tuple(_sized(_agreed([a[i] for a in axes]), n) for i, n in enumerate(shape))
    if "axes" in eqn.params and len(shape) < len(first):  # reductions
        return tuple(axis for i, axis in enumerate(first) if i not in eqn.params["axes"])
    if operands[0] is not None and len(shape) == len(first) and name in _KEEPS:
        return tuple(
            axis if n == m else _sized(axis, n) for axis, n, m in zip(first, shape, before.aval.shape, strict=True)
        )
    return ((),) * len(shape)


def _agreed(axes: list[Axis]) -> Axis:
    """What is known of an axis of which operands know something."""
    said = [axis for axis in axes if axis]
    if not said or any(_only(axis) != _only(said[0]) or axis[0].turned != said[0][0].turned for axis in said):
        return ()
    return said[0]


def _sized(axis: Axis, size: int) -> Axis:
    """An axis that is longer or shorter now: rows stay rows, tokens stay tokens where some come before them."""
    if _only(axis):
        return (axis[0]._replace(size=size),)
    return axis if math.prod(f.size for f in axis) <= size else ()


def _transpose(eqn: Any, operands: list, shape: tuple) -> Axes:
    return tuple(operands[0][i] for i in eqn.params["permutation"])


def _broadcast(eqn: Any, operands: list, shape: tuple) -> Axes:
    axes: list[Axis] = [()] * len(shape)
    for i, d in enumerate(eqn.params["broadcast_dimensions"]):
        if eqn.invars[0].aval.shape[i] == shape[d]:
            axes[d] = operands[0][i]
    return tuple(axes)


def _reshape(eqn: Any, operands: list, shape: tuple) -> Axes:
    """Axes joined and divided: all factors in their order, dealt out again."""
    left: list[Factor] = []
    for given, n in zip(operands[0], eqn.invars[0].aval.shape, strict=True):
        whole = math.prod(f.size for f in given) == n
        left += given if given and whole else [Factor("", n)] if n > 1 else []
    axes: list[Axis] = []
    for n in shape:
        axis: list[Factor] = []
        while n > 1:
            if not left:
                return ((),) * len(shape)
            f = left.pop(0)
            if n % f.size == 0:
                taken = f
            elif f.size % n == 0:
                taken = f._replace(size=n, step=f.step * (f.size // n))
                left.insert(0, f._replace(size=f.size // n))
            else:
                return ((),) * len(shape)
            n //= taken.size
            last = axis[-1] if axis else None
            if last and last.of == taken.of and last.of and last.step == taken.step * taken.size:
                axis[-1] = last._replace(size=last.size * taken.size, step=taken.step)
            elif taken.size > 1:
                axis.append(taken)
        axes.append(tuple(axis) if any(f.of for f in axis) else ())
    return tuple(axes)


def _convolution(eqn: Any, operands: list, shape: tuple) -> Axes:
    if operands[0] is None or operands[1] is not None:
        return ((),) * len(shape)
    axes: list[Axis] = [()] * len(shape)
    into, _, out = eqn.params["dimension_numbers"]
    axes[out[0]] = _sized(operands[0][into[0]], shape[out[0]])
    for i, o in zip(into[2:], out[2:], strict=True):
        axes[o] = _sized(operands[0][i], shape[o]) if _only(operands[0][i]) else ()
    return tuple(axes)


def _product(eqn: Any, operands: list, shape: tuple) -> Axes:
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    a, b = (o or _nothing(v) for o, v in zip(operands, eqn.invars, strict=True))
    batch = [_agreed([a[i], b[j]]) for i, j in zip(left_batch, right_batch, strict=True)]
    free = [axis for i, axis in enumerate(a) if i not in (*left, *left_batch)]
    return (*batch, *free, *(axis for i, axis in enumerate(b) if i not in (*right, *right_batch)))


def _gather(eqn: Any, operands: list, shape: tuple) -> Axes:
    """Rows or columns picked by a list of indices, as the nearest ones when a map is resized."""
    numbers = eqn.params["dimension_numbers"]
    taken = numbers.collapsed_slice_dims
    if operands[0] is None or len(shape) != len(operands[0]) or len(taken) != 1 or taken != numbers.start_index_map:
        return ((),) * len(shape)
    rest = iter([axis for i, axis in enumerate(operands[0]) if i not in taken])
    axes = [next(rest) if i in numbers.offset_dims else operands[0][taken[0]] for i in range(len(shape))]
    return tuple(_sized(axis, n) for axis, n in zip(axes, shape, strict=True))


def _reversed(eqn: Any, operands: list, shape: tuple) -> Axes:
    turned = eqn.params["dimensions"]
    return tuple(
        tuple(f._replace(turned=not f.turned) for f in axis) if i in turned else axis
        for i, axis in enumerate(operands[0])
    )


def _concatenated(eqn: Any, operands: list, shape: tuple) -> Axes:
    """Class tokens come before others or behind them; of a map that was rolled the parts make it whole again."""
    along = eqn.params["dimension"]
    known = [o for o in operands if o is not None]
    axes = [_sized(_agreed([o[i] for o in known]), n) for i, n in enumerate(shape)]
    own = [i for i, o in enumerate(operands) if o is not None and o[along]]
    if axes[along]:
        before = sum(v.aval.shape[along] for v in eqn.invars[: own[0]])
        axes[along] = _behind(axes[along], before) if len(own) == 1 else tuple(f._replace(part=0) for f in axes[along])
    return tuple(axes)


def _padded(eqn: Any, operands: list, shape: tuple) -> Axes:
    low = [low for low, _, _ in eqn.params["padding_config"]]
    return tuple(
        _behind(_sized(axis, n), more)
        for axis, n, more in zip(operands[0] or ((),) * len(shape), shape, low, strict=True)
    )


def _behind(axis: Axis, more: int) -> Axis:
    """Tokens with so many others more in front of them."""
    if len(axis) < 2:
        return axis
    return (axis[0]._replace(before=axis[0].before + more), *axis[1:]) if axis[0].before + more >= 0 else ()


def _sliced(eqn: Any, operands: list, shape: tuple) -> Axes:
    """A crop of the image is a part of it; class tokens that are left out come before the others no more."""
    starts = eqn.params.get("start_indices")
    if starts is None:  # of which a program knows some while it runs
        starts = [int(v.val) if isinstance(v, jex.Literal) else None for v in eqn.invars[1:]]
    steps = eqn.params.get("strides") or (1,) * len(shape)
    axes: list[Axis] = []
    for axis, n, size, start, step in zip(operands[0], eqn.invars[0].aval.shape, shape, starts, steps, strict=True):
        if n == size or not axis:
            axes.append(axis)
        elif len(axis) > 1:
            axes.append(_behind(_sized(axis, size), -start) if start is not None and step == 1 else ())
        else:
            (f,) = _sized(axis, size)
            cropped = n == f.image and size * step < _WHOLE * n
            axes.append((f._replace(part=size * step) if cropped else f,))
    return tuple(axes)


#: The share of the image's rows or columns that is as good as all of them: of a smaller one a map is not the image's.
_WHOLE = 0.9
_KEEPS = frozenset(
    "dynamic_update_slice split copy reduce_window reduce_window_max reduce_window_min "
    "reduce_window_sum cumsum cumprod cummax cummin cumlogsumexp sort".split()
)
_RULES: dict[str, Callable[[Any, list, tuple], Axes]] = {
    "transpose": _transpose, "broadcast_in_dim": _broadcast, "reshape": _reshape, "squeeze": _reshape,
    "expand_dims": _reshape, "conv_general_dilated": _convolution, "dot_general": _product, "gather": _gather,
    "concatenate": _concatenated, "pad": _padded, "slice": _sliced, "dynamic_slice": _sliced, "rev": _reversed,
}  # fmt: skip
