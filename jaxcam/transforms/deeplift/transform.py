"""DeepLIFT as a program transformation: `deeplift(fn)` runs fn on pairs of a value and a reference.

The head of a network is a pure function and its jaxpr is the whole program, so nothing depends on
which library wrote the model, on whether a ReLU is a module or a function, or on how often a layer
is used. Linear operations keep their own derivative; non-linear elementwise ones get the rescale
rule; products of two active values the two-player Shapley rule, elementwise ones unless its halves
would cancel, as in front of a norm (`multipliers.multiply`); maxima a rule of their own. An
expression in which one value meets itself again elementwise, such as `x * sigmoid(x)`, is treated as
the one function of `x` that it is. Predicates and counts are numbers that jump (`predicates`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.control import ActiveValues, control
from jaxcam.transforms.custom_derivatives import has_jvp
from jaxcam.transforms.deeplift.multipliers import bilinear, multiply, rescale, select_in_order, select_maximum
from jaxcam.transforms.deeplift.pairs import Pair, Step, at_input, at_reference, compile_steps, extend
from jaxcam.transforms.deeplift.predicates import apart, as_number, as_numbers, choose, compared, noting_fills, stepped
from jaxcam.transforms.maxima import once
from jaxcam.transforms.precision import resolved
from jaxcam.transforms.primitives import describe, is_affine, keeps_zero
from jaxcam.transforms.rules import Rules
from jaxcam.transforms.walker import UnsupportedPrimitive, bind, called, equivalent, trace, walk

_NAME = "deeplift"


def deeplift(fn: Callable, *, with_reference: bool = False, precision: str | None = None) -> Callable:
    """The function `(x, reference) -> fn(x)` whose derivative in `x` is the DeepLIFT multiplier.

    For an fn with one scalar output, `m = jax.grad(deeplift(fn))(x, reference)` satisfies
    completeness, `sum(m * (x - reference)) = fn(x) - fn(reference)`, whatever fn is made of.
    Where a value does not differ from its reference the multiplier of a function of it is its derivative, the
    function's own where it brings one: 0 of `jax.nn.relu` at 0. The result can be jitted, vmapped and
    differentiated once more.

    Args:
      fn: a pure function of one pytree of arrays, with a pytree of arrays as its result.
      with_reference: return `(fn(x), fn(reference))` instead.
      precision: of products that name none: "highest", "tf32" or "bfloat16", see `transforms.at_precision`; what an
        outer one of these says, else the highest; completeness compares close numbers.

    Returns:
      `transformed(x, reference=None)`. The reference has the structure of `x`; None means zero, and
      is cheaper: what follows from it is neither computed nor batched.

    Raises:
      UnsupportedPrimitive: when it is called, if fn uses an operation without a rule; the message
        names the primitive and its place in the source. `register` gives it one.

    References:
      Shrikumar et al., Learning Important Features Through Propagating Activation Differences, ICML 2017.
    """

    def transformed(x, reference=None):
        closed, tree = trace(fn, x, precision=resolved(precision).products)
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
        if reference is None:
            pairs = [Pair(v, None) for v in leaves]
        else:
            refs = [jnp.asarray(leaf) for leaf in jax.tree.leaves(reference)]
            pairs = [Pair(v, jnp.broadcast_to(r, v.shape).astype(v.dtype)) for v, r in zip(leaves, refs, strict=True)]
        with noting_fills() as fills:
            outs = _walk(closed, pairs)
        values, references = (list(map(f, outs)) for f in (at_input, at_reference))
        if fills:  # what they hid may be all there was
            values = _exactly(values, closed, [p.x for p in pairs])
            references = _exactly(references, closed, [p.reference for p in pairs])
        value = jax.tree.unflatten(tree, values)
        return (value, jax.tree.unflatten(tree, references)) if with_reference else value

    return transformed


def register(names: str, rule: Callable[[Any, list], list]) -> None:
    """Gives primitives a DeepLIFT rule: `register("my_primitive", elementwise)`.

    It goes before what the vocabulary says, and holds inside `jit`, `scan`, `cond` and functions with their own
    derivative. A rule must be complete: the sum of what its multipliers make of `x - reference` is the difference of
    the results. `elementwise`, `linear`, `product` and `maximum` of this module are such rules, `equivalent_program`
    makes one of a program that computes the same, and `rescale` and `bilinear` help to write others.

    Args:
      names: of the primitives, in one string.
      rule: `(equation, operands) -> outputs`; operands and outputs are a `Pair` where they depend on the input, else
        arrays.
    """
    RULES.register(names, rule)


def _exactly(found: list, closed: Any, inputs: list) -> list:
    """What was found, with the values of the program itself."""
    exact = map(jax.lax.stop_gradient, _walk(closed, inputs))
    return [jnp.where(v == e, v, v + jax.lax.stop_gradient(e - v)) for v, e in zip(found, exact, strict=True)]


def _walk(program: Any, values: list) -> list:
    return walk(program, values, active=Pair, rule=_rule, as_one=_as_one)


def _as_one(eqn: Any) -> bool:
    """Whether a call is one elementwise function with its own derivative, and every part of it is elementwise still."""
    return has_jvp(eqn, lambda e: e.primitive.name in RULES and RULES[e.primitive.name] is elementwise)


def _rule(eqn: Any, ins: list) -> list:
    if called(eqn) is not None:  # as one
        if len({id(v.root) for v in ins if isinstance(v, Pair)}) == 1:
            return elementwise(eqn, ins)
        return _walk(called(eqn), ins)  # of several values: what it is made of has rules
    return RULES.find(eqn)(eqn, ins)


def _at(point: Callable[[Any], Any], eqn: Any, ins: list) -> list:
    """The results of an equation at one of two points, `at_input` or `at_reference`."""
    return bind(eqn, list(map(point, ins)))


def equivalent_program(program: Callable) -> Callable[[Any, list], list]:
    """The rule of a primitive that computes the same as `program(*operands, **params)`, made of known primitives."""

    return lambda eqn, ins: _walk(equivalent(eqn, program), ins)


def linear(eqn: Any, ins: list) -> list:
    """Linear in all operands that are pairs together, whatever the others are: its own derivative."""
    active = [isinstance(v, Pair) for v in ins]
    if any(active[describe(eqn).indices]):
        raise UnsupportedPrimitive(_NAME, eqn, describe(eqn).why or "an index that depends on the input")
    _check_numbers(eqn, ins, counts=True)
    xs = _at(at_input, eqn, ins)
    if _from_zero(ins) and keeps_zero(eqn, active):
        found = [Pair(x, None) for x in xs]
    else:
        found = [Pair(x, r) for x, r in zip(xs, _at(at_reference, eqn, ins), strict=True)]
    for i, pair in enumerate(found):
        if not pair.differentiable:
            pair.numbered(functools.partial(_counted, eqn, ins, i))
    return found


def _counted(eqn: Any, ins: list, i: int) -> Pair:
    """A result of a linear operation on counts as a number: the operation on numbers, of their own type."""
    if eqn.params.get("preferred_element_type") is not None:
        eqn = eqn.replace(params=eqn.params | {"preferred_element_type": None})
    return linear(eqn, as_numbers(ins) or [])[i]


def product(eqn: Any, ins: list) -> list:
    """Linear in each of two operands; where both are pairs, the two-player Shapley rule."""
    if not all(isinstance(v, Pair) for v in ins):
        return linear(eqn, ins)
    _check_numbers(eqn, ins)
    a, b = ins

    def fn(u, v):
        return bind(eqn, [u, v])[0]

    r = None if a.r is None or b.r is None else fn(a.r, b.r)
    return [Pair(bilinear(fn, a.x, a.reference, b.x, b.reference), r)]


def maximum(eqn: Any, ins: list) -> list:
    """Picks the largest of several elements of one operand; the smallest where the vocabulary says so."""
    _check_numbers(eqn, ins)
    (pair,) = ins
    if pair.r is None:
        # All positions of the reference tie at zero, so `y - 0` may go to the argmax of x: the plain gradient.
        (x,) = bind(eqn, [once(pair.x)])
        return [Pair(x, None)]
    sign = describe(eqn).sign
    (r,) = bind(eqn, [pair.reference])
    picked = _picking(eqn, -sign * jnp.inf)
    x = select_maximum(lambda v: sign * picked(sign * v), sign * pair.x, sign * pair.reference)
    return [Pair(sign * x, r)]


def _picking(eqn: Any, never: float) -> Callable[[jax.Array], jax.Array]:
    """A maximum as a function of its operand, whose two derivatives agree.

    Of windows over a padding XLA's two pick different ones of equal elements: these get the padding beforehand.
    """
    padding = eqn.params.get("padding")
    if not padding or not any(map(any, padding)) or any(n != 1 for n in eqn.params["base_dilation"]):
        return lambda v: bind(eqn, [v])[0]
    bare = eqn.replace(params=eqn.params | {"padding": tuple((0, 0) for _ in padding)})
    sides = [(low, high, 0) for low, high in padding]
    return lambda v: bind(bare, [jax.lax.pad(v, jnp.asarray(never, v.dtype), sides)])[0]


def order(eqn: Any, ins: list) -> list:
    """Elements of one operand by size; where they were is an index that depends on the input."""
    known = describe(eqn)
    if len(ins) > 1 or known.along is None:
        raise UnsupportedPrimitive(_NAME, eqn, known.why)
    _check_numbers(eqn, ins)
    (pair,) = ins
    (axis,) = known.along(eqn.params, pair.x.ndim)
    x, *places = bind(eqn, [pair.x])
    r, *old_places = bind(eqn, [pair.reference])
    if pair.r is not None:  # a reference of zeros is in any order
        ordered = select_in_order(
            lambda v: known.sign * bind(eqn, [known.sign * v])[0], axis, known.sign * pair.x, known.sign * pair.r
        )
        x = known.sign * ordered
    return [Pair(x, None if pair.r is None else r), *(Pair(p, q) for p, q in zip(places, old_places, strict=True))]


def choice(eqn: Any, ins: list) -> list:
    """Which case holds somewhere, `any(x > 0)`; of a guard against NaN, `any(isnan(x))`, as of medians, a constant."""
    pair = ins[0]
    step = pair.expr if isinstance(pair, Pair) else None
    if len(ins) == 1 and isinstance(step, Step) and step.tells_nan:
        return bind(eqn, [pair.x])
    known = describe(eqn)
    if pair.x.dtype == bool and as_number(pair) is not None:
        found = Pair(bind(eqn, [pair.x])[0], bind(eqn, [pair.reference])[0])
        if known.number is not None:
            return [found.numbered(lambda: _of_numbers(eqn, ins))]
        if known.place and known.sign == 1:
            found.cases = lambda: apart(pair, *eqn.params["axes"])
            return [found]
    raise UnsupportedPrimitive(_NAME, eqn, known.why)


def elementwise(eqn: Any, ins: list) -> list:
    """Each element of the result is made of those at its place: the rescale rule."""
    out = eqn.outvars[0].aval
    active = [v for v in ins if isinstance(v, Pair)]
    root = active[0].root
    # One root and no broadcasting: the result is a function of that one value, position by position.
    step = extend(eqn, ins) if all(v.root is root for v in active) and root.x.shape == out.shape else None
    origin = (root, step) if step else ()
    numbers = all(v.differentiable for v in active)

    if not jnp.issubdtype(out.dtype, jnp.inexact):  # a predicate or a count: no derivative to define
        found = Pair(_at(at_input, eqn, ins)[0], _at(at_reference, eqn, ins)[0], *origin)
        one = step is not None and root.differentiable
        return [found.numbered(lambda: stepped(found, root) if one else _number(eqn, ins, found))]
    which = [isinstance(v, Pair) for v in ins]
    if numbers and is_affine(eqn, which):
        zero = _from_zero(ins) and keeps_zero(eqn, which)
        return [Pair(_at(at_input, eqn, ins)[0], None if zero else _at(at_reference, eqn, ins)[0], *origin)]
    if numbers and len(active) == 1 and active[0].x.shape == out.shape:
        source, place = active[0], ins.index(active[0])
        consts = ins[:place] + ins[place + 1 :]

        def function(value, others):
            return bind(eqn, [*others[:place], value, *others[place:]])[0]

    elif step and root.differentiable:
        source, (function, consts) = root, compile_steps(step)
    else:
        return [_of_several(eqn, ins)]
    x = rescale(function, source.x, source.reference, consts)
    return [Pair(x, _at(at_reference, eqn, ins)[0], *origin)]


def _of_several(eqn: Any, ins: list) -> Pair:
    """Elementwise operations on active values that do not come from one."""
    name = eqn.primitive.name
    chosen = _chosen(eqn, ins, ins[1:])
    if chosen is not None:
        return chosen
    if len(ins) == 1 and (number := as_number(ins[0])) is not None:  # a count, from here on a number
        return elementwise(eqn, [number])[0]
    _check_numbers(eqn, ins)
    if len(ins) == 2 and all(isinstance(v, Pair) for v in ins) and name in _OF_TWO:
        return Pair(_OF_TWO[name](*ins), _at(at_reference, eqn, ins)[0])
    if name in _BY_TWO:
        return _walk(equivalent(eqn, _BY_TWO[name]), ins)[0]
    raise UnsupportedPrimitive(_NAME, eqn, "its operands depend on the input through different values")


def _chosen(eqn: Any, ins: list, cases: list) -> Pair | None:
    """One of several cases, of an operation whose first operand says which and depends on the input."""
    which = ins[0]
    if not isinstance(which, Pair) or describe(eqn).indices != slice(0, 1):
        return None
    if len(cases) == 2:
        return choose(which, *cases)
    if which.cases is None:
        return None
    found = cases[0]  # also where none of the predicates holds
    for predicate, case in reversed(list(zip(which.cases(), cases, strict=True))):
        found = choose(predicate, found, case)
    return found


def _quotient(a: Pair, b: Pair) -> jax.Array:
    inverse = rescale(lambda v, _: 1 / v, b.x, b.reference, ())
    return multiply(a.x, a.reference, inverse, 1 / b.reference)


def _largest(sign: int) -> Callable[[Pair, Pair], jax.Array]:
    def rule(a, b):
        shape = jnp.broadcast_shapes(a.x.shape, b.x.shape)
        x, r = ([sign * jnp.broadcast_to(f(v), shape) for v in (a, b)] for f in (at_input, at_reference))
        return sign * select_maximum(lambda operands: jnp.max(jnp.stack(operands), 0), x, r)

    return rule


#: Two values that do not come from one: which functions of both have a rule.
_OF_TWO: dict[str, Callable[[Pair, Pair], jax.Array]] = {
    "mul": lambda a, b: multiply(a.x, a.reference, b.x, b.reference),
    "div": _quotient,
    "max": _largest(1),
    "min": _largest(-1),
}
#: What is made of such functions.
_BY_TWO: dict[str, Callable] = {"clamp": lambda low, x, high: jnp.minimum(jnp.maximum(x, low), high)}


def _number(eqn: Any, ins: list, found: Pair) -> Pair | None:
    """A predicate or a count that is made of several, or of values that do not come from one, as a number."""
    cases, known = as_numbers(ins[1:]), describe(eqn)
    chosen = _chosen(eqn, ins, cases) if cases is not None else None
    if chosen is not None:
        return chosen
    numbers = as_numbers(ins)
    if numbers is None:
        return None
    if known.number is not None and (not known.predicate or found.x.dtype == bool):
        return _of_numbers(eqn, ins)
    active = [isinstance(v, Pair) for v in ins]
    if sum(active) == 1:  # numbers of the same size as the counts, which division rounds
        return stepped(found, numbers[active.index(True)])
    if known.predicate:
        return compared(found, *numbers) if len(ins) == 2 and found.x.dtype == bool else None
    references = _at(at_reference, eqn, numbers)[0]
    if is_affine(eqn, active):
        return Pair(_at(at_input, eqn, numbers)[0], references)
    name = eqn.primitive.name
    return Pair(_OF_TWO[name](*numbers), references) if name in _OF_TWO and name != "div" else None


def _of_numbers(eqn: Any, ins: list) -> Pair:
    """What the vocabulary says of numbers, of predicates and counts as numbers."""
    numbers, program = as_numbers(ins) or [], describe(eqn).number
    assert program is not None
    shapes = [jax.ShapeDtypeStruct(v.x.shape, v.x.dtype) if isinstance(v, Pair) else v for v in numbers]
    (found,) = _walk(jax.make_jaxpr(lambda *operands: program(*operands, **eqn.params))(*shapes), numbers)
    return found


def _check_numbers(eqn: Any, ins: list, counts: bool = False) -> None:
    """Refuses pairs that are no numbers; with `counts` those only that cannot be told as such either."""
    for v in ins:
        if isinstance(v, Pair) and not v.differentiable and not (counts and as_number(v) is not None):
            raise UnsupportedPrimitive(_NAME, eqn, "a predicate, an index or an integer that depends on the input")


def _from_zero(ins: list) -> bool:
    """Whether all pairs have a reference known to be zero."""
    return all(v.r is None for v in ins if isinstance(v, Pair))


def _pack(value: Any) -> tuple:
    return tuple(jnp.asarray(point(value)) for point in (at_input, at_reference))


_CARRIED = ActiveValues(Pair, _pack, lambda packed: Pair(*packed), _rule, _NAME, _as_one, choose)

#: The rule of each primitive, by its name.
RULES = Rules(
    _NAME,
    {
        "moves": linear,
        "sums": linear,
        "product": product,
        "elementwise": elementwise,
        "maximum": maximum,
        "order": order,
        "choice": choice,
        "effect": functools.partial(_at, at_input),
        "composite": lambda eqn, ins: _walk(equivalent(eqn, describe(eqn).program), ins),
        "control": lambda eqn, ins: control(eqn, ins, _CARRIED),
    },
)
