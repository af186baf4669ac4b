"""DeepLIFT as a program transformation: `deeplift(fn)` runs fn on pairs of a value and a reference.

The head of a network is a pure function and its jaxpr is the whole program, so nothing depends on
which library wrote the model, on whether a ReLU is a module or a function, or on how often a layer
is used. Linear operations keep their own derivative; non-linear elementwise ones get the rescale
rule; products of two active values the two-player Shapley rule; maxima a rule of their own. An
expression in which one value meets itself again elementwise, such as `x * sigmoid(x)`, is
treated as the one function of `x` that it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms import control
from jaxcam.transforms.custom_derivatives import has_own_jvp
from jaxcam.transforms.deeplift.pairs import Pair, compile_steps, extend
from jaxcam.transforms.deeplift.rescale import bilinear, rescale, select_maximum
from jaxcam.transforms.walker import UnsupportedPrimitive, bind, called, trace, walk

_NAME = "deeplift"

# Linear in all active operands together, whatever the others are.
_LINEAR = frozenset(
    "reshape squeeze expand_dims transpose broadcast_in_dim reduce_sum reduce_window_sum slice rev concatenate stack "
    "cumsum split copy copy_p reduce_precision pad dynamic_slice dynamic_update_slice gather add_any "
    "optimization_barrier sharding_constraint reshard".split()
)
_BILINEAR = frozenset("dot_general conv_general_dilated".split())
# Elementwise; linear where exactly one operand is active (div: where the denominator is not).
_ARITHMETIC = frozenset("add sub mul div neg convert_element_type add_any".split())
_ELEMENTWISE = _ARITHMETIC | frozenset(
    "exp exp2 log log1p expm1 tanh logistic erf erfc erf_inv sin cos tan asin acos atan sinh cosh asinh acosh atanh "
    "sqrt rsqrt cbrt integer_pow pow square abs sign floor ceil round max min clamp select_n atan2 rem nextafter "
    "eq ne lt le gt ge and or not xor is_finite lgamma digamma".split()
)
_MAXIMA = frozenset("reduce_max reduce_min reduce_window_max cummax cummin".split())
# With a zero reference the result is zero too, so the reference need not be computed.
_KEEP_ZERO = (_LINEAR - {"pad"}) | _BILINEAR | frozenset("neg mul div convert_element_type reduce_max".split())
_KEEP_ZERO |= frozenset("reduce_window_max reduce_min".split())
_INDEX_OPERANDS = {"dynamic_slice": slice(1, None), "dynamic_update_slice": slice(2, None), "gather": slice(1, None)}


def deeplift(fn: Callable, *, with_reference: bool = False, precision: str | None = "highest") -> Callable:
    """The function `(x, reference) -> fn(x)` whose derivative in `x` is the DeepLIFT multiplier.

    For an fn with one scalar output, `m = jax.grad(deeplift(fn))(x, reference)` satisfies
    completeness, `sum(m * (x - reference)) = fn(x) - fn(reference)`, whatever fn is made of.
    Where a value does not differ from its reference the multiplier of a function of it is its derivative, the
    function's own where it brings one: 0 of `jax.nn.relu` at 0. The result can be jitted, vmapped and
    differentiated once more.

    Args:
      fn: a pure function of one pytree of arrays, with a pytree of arrays as its result.
      with_reference: return `(fn(x), fn(reference))` instead.
      precision: matmul precision of operations that name none; completeness compares close numbers.

    Returns:
      `transformed(x, reference=None)`. The reference has the structure of `x`; None means zero, and
      is cheaper: what follows from it is neither computed nor batched.

    Raises:
      UnsupportedPrimitive: when it is called, if fn uses an operation without a rule; the message
        names the primitive and its place in the source.

    References:
      Shrikumar et al., Learning Important Features Through Propagating Activation Differences, ICML 2017.
    """

    def transformed(x, reference=None):
        closed, tree = trace(fn, x, precision=precision)
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
        if reference is None:
            pairs = [Pair(v, None) for v in leaves]
        else:
            refs = [jnp.asarray(leaf) for leaf in jax.tree.leaves(reference)]
            pairs = [Pair(v, jnp.broadcast_to(r, v.shape).astype(v.dtype)) for v, r in zip(leaves, refs, strict=True)]
        outs = walk(closed, pairs, active=Pair, rule=_rule, whole=has_own_jvp)
        value = jax.tree.unflatten(tree, [o.x if isinstance(o, Pair) else o for o in outs])
        if not with_reference:
            return value
        return value, jax.tree.unflatten(tree, [o.reference if isinstance(o, Pair) else o for o in outs])

    return transformed


def _rule(eqn: Any, ins: list) -> list:
    name = eqn.primitive.name
    if name == "stop_gradient":  # only differentiation stops there; contributions do not
        return [ins[0]]
    if name in control.RULES:
        return control.RULES[name](eqn, ins, _rule, _NAME)
    active = [v for v in ins if isinstance(v, Pair)]
    own = has_own_jvp(eqn)
    if own and len({id(v.root) for v in active}) > 1:  # of several values: what it is made of has rules
        return walk(called(eqn), ins, active=Pair, rule=_rule, whole=has_own_jvp)
    if own or name in _ELEMENTWISE:
        return [_elementwise(eqn, ins)]
    if not all(p.differentiable for p in active):
        raise UnsupportedPrimitive(_NAME, eqn, "a predicate or an index that depends on the input")
    if name in _LINEAR:
        indices = ins[_INDEX_OPERANDS.get(name, slice(0, 0))]
        if any(isinstance(v, Pair) for v in indices):
            raise UnsupportedPrimitive(_NAME, eqn, "an index that depends on the input")
        return _linear(eqn, ins)
    if name in _BILINEAR:
        if len(active) == 1:
            return _linear(eqn, ins)
        return [_two_sided(eqn, *ins)]
    if name in _MAXIMA and isinstance(ins[0], Pair):
        return _maximum(eqn, ins)
    raise UnsupportedPrimitive(_NAME, eqn, "the operation is not known to be linear, elementwise or a maximum")


def _linear(eqn: Any, ins: list) -> list:
    xs = bind(eqn, [v.x if isinstance(v, Pair) else v for v in ins])
    zero = all(v.r is None for v in ins if isinstance(v, Pair))
    if zero and eqn.primitive.name in _KEEP_ZERO and _homogeneous(eqn, ins):
        return [Pair(x, None) for x in xs]
    refs = bind(eqn, _references(ins))
    return [Pair(x, r) for x, r in zip(xs, refs, strict=True)]


def _homogeneous(eqn: Any, ins: list) -> bool:
    """Whether a linear equation has no constant summand: no operand beside the active ones is added in."""
    if eqn.primitive.name in ("concatenate", "stack", "dynamic_update_slice", "add_any"):
        first = ins[:2] if eqn.primitive.name == "dynamic_update_slice" else ins
        return all(isinstance(v, Pair) for v in first)
    return True


def _elementwise(eqn: Any, ins: list) -> Pair:
    out = eqn.outvars[0].aval
    active = [v for v in ins if isinstance(v, Pair)]
    root = active[0].root
    # One root and no broadcasting: the result is a function of that one value, position by position.
    step = extend(eqn, ins) if all(v.root is root for v in active) and root.x.shape == out.shape else None
    origin = (root, step) if step else ()
    floating = all(v.differentiable for v in active)

    def evaluate(values):
        return bind(eqn, values)[0]

    def plain(values):
        return evaluate([v.x if isinstance(v, Pair) else v for v in values])

    if not jnp.issubdtype(out.dtype, jnp.floating):  # a predicate or an index: no derivative to define
        return Pair(plain(ins), evaluate(_references(ins)), *origin)
    if floating and _is_linear(eqn.primitive.name, ins):
        zero = all(v.r is None for v in active) and (eqn.primitive.name in _KEEP_ZERO or len(active) == len(ins))
        return Pair(plain(ins), None if zero else evaluate(_references(ins)), *origin)
    if floating and len(active) == 1 and active[0].x.shape == out.shape:
        at = ins.index(active[0])

        def unary(value, others):
            return evaluate([*others[:at], value, *others[at:]])

        x = rescale(unary, active[0].x, active[0].reference, ins[:at] + ins[at + 1 :])
        return Pair(x, evaluate(_references(ins)), *origin)
    if step and root.differentiable:
        function, consts = compile_steps(step)
        return Pair(rescale(function, root.x, root.reference, consts), evaluate(_references(ins)), *origin)
    return Pair(_of_two(eqn, ins), evaluate(_references(ins)))


def _references(ins: list) -> list:
    return [v.reference if isinstance(v, Pair) else v for v in ins]


def _is_linear(name: str, ins: list) -> bool:
    active = [isinstance(v, Pair) for v in ins]
    if name in ("add", "sub", "neg", "add_any", "convert_element_type"):
        return True
    if name == "mul":
        return sum(active) == 1
    if name == "div":
        return active == [True, False]
    return name == "select_n" and not active[0]


def _of_two(eqn: Any, ins: list) -> jax.Array:
    """Elementwise operations on two active values that do not come from one."""
    name = eqn.primitive.name
    if len(ins) == 2 and all(isinstance(v, Pair) and v.differentiable for v in ins):
        a, b = ins
        if name == "mul":
            return bilinear(jnp.multiply, a.x, a.reference, b.x, b.reference)
        if name == "div":
            inverse = rescale(lambda v, _: 1 / v, b.x, b.reference, ())
            return bilinear(jnp.multiply, a.x, a.reference, inverse, 1 / b.reference)
        if name in ("max", "min"):
            sign = 1 if name == "max" else -1
            x, r = [sign * a.x, sign * b.x], [sign * a.reference, sign * b.reference]
            return sign * select_maximum(lambda operands: jnp.max(jnp.stack(operands), 0), x, r)
    raise UnsupportedPrimitive(_NAME, eqn, "its operands depend on the input through different values")


def _two_sided(eqn: Any, a: Pair, b: Pair) -> Pair:
    def fn(u, v):
        return bind(eqn, [u, v])[0]

    r = None if a.r is None or b.r is None else fn(a.r, b.r)
    return Pair(bilinear(fn, a.x, a.reference, b.x, b.reference), r)


def _maximum(eqn: Any, ins: list) -> list:
    (pair,) = ins
    if pair.r is None and eqn.primitive.name in _KEEP_ZERO:
        # All positions of the reference tie at zero, so `y - 0` may go to the argmax of x: the plain gradient.
        (x,) = bind(eqn, [pair.x])
        return [Pair(x, None)]
    sign = -1 if eqn.primitive.name in ("reduce_min", "cummin") else 1
    (r,) = bind(eqn, [pair.reference])
    x = select_maximum(lambda v: sign * bind(eqn, [sign * v])[0], sign * pair.x, sign * pair.reference)
    return [Pair(sign * x, r)]
