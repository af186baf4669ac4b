"""The vocabulary: what every primitive of JAX is, said once, for all transformations.

A transformation has one rule for each kind of primitive, so it knows whatever is declared here; what it needs to know
of a primitive beside its kind (the sign of a maximum, which operands are indices, along which axes elements meet) is
said here too. A primitive of your own is declared in one line and is then known to DeepLIFT, LRP and coalitions alike:

    primitives.declare("my_pool", Primitive("maximum", along=parameter("axes")))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

#: The kinds there are.
KINDS = {
    "identity": "Each result is an operand.",
    "moves": "Each element of a result is one element of an operand.",
    "sums": "Linear in its values together, whatever the indices are.",
    "product": "Linear in each of its two operands.",
    "elementwise": "Each element of the result is made of the elements of the operands at its place.",
    "maximum": "Picks an element among several of its one value; with `sign` -1 the smallest.",
    "order": "Elements of its one value by size along an axis, the greatest first; with `sign` -1 the smallest.",
    "choice": "Says which case holds, or where an element is: it has no derivative.",
    "composite": "The same as another program, `program`, made of primitives that are known.",
    "call": "Runs another program, the parameter `body`, as it is.",
    "control": "Runs other programs by an order of its own.",
    "effect": "Has no result: it prints what it is given, or looks at it.",
    "opaque": "Nothing can be said of it but `why`.",
}


def parameter(name: str) -> Callable[[dict[str, Any], int], tuple[int, ...]]:
    """Axes that a parameter of the equation names, one or several."""

    def axes(params, rank):
        value = params[name]
        return (value,) if isinstance(value, int) else tuple(value)

    return axes


def _never(active: Sequence[bool]) -> bool:
    return False


@dataclasses.dataclass(frozen=True, eq=False)
class Primitive:
    """What a primitive is.

    Attributes:
      kind: one of `KINDS`.
      indices: which of its operands say where, or what is done, and are no values; `why` says why not.
      along: `(params, rank of the first operand) -> axes` whose elements meet, of an operation that keeps or removes
        these and all others; elements that differ in another axis never meet. None where that is not so.
      affine: of an elementwise one: whether it is affine in the operands that are active, `(active) -> bool`.
      scales: operands that are not active are factors, not summands or neighbours: zeros give zeros.
      passes: of an elementwise one: it is 0 at 0, and relevance in proportion to its value passes it whole.
      stops: it has no derivative, whatever it is.
      predicate: the result says which case holds, or counts: it has no derivative.
      place: the result is the place of an element, of a choice; the first of equal ones.
      number: of what a predicate or a count is made by: the same for numbers, 0 and 1, as `(*operands, **params) ->
        result`; by default the primitive itself.
      sign: -1 for a minimum, and where the smallest come first.
      program: of a composite: `(*operands, **params) -> result`.
      body: of a call: the parameter that holds the program; several names in one string, where versions of JAX differ.
      why: what makes it opaque, or refuses operands that are not to depend on the input.
    """

    kind: str
    indices: slice = dataclasses.field(default_factory=lambda: slice(0, 0))
    along: Callable[[dict[str, Any], int], tuple[int, ...]] | None = None
    affine: Callable[[Sequence[bool]], bool] = _never
    scales: bool = False
    passes: bool = False
    stops: bool = False
    predicate: bool = False
    place: bool = False
    number: Callable | None = None
    sign: int = 1
    program: Callable | None = None
    body: str = ""
    why: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"a primitive is one of {', '.join(KINDS)}, not {self.kind!r}")


#: Primitives by name.
VOCABULARY: dict[str, Primitive] = {}
_UNKNOWN = Primitive("opaque", why="the operation is not known to be linear, elementwise or a maximum")


def declare(names: str, primitive: Primitive) -> None:
    """Says of primitives, by name (several in one string), what they are."""
    VOCABULARY.update(dict.fromkeys(names.split(), primitive))


def describe(eqn: Any) -> Primitive:
    """What the primitive of an equation is; "opaque" for one that nobody declared."""
    return VOCABULARY.get(eqn.primitive.name, _UNKNOWN)


def is_elementwise(eqn: Any) -> bool:
    """Whether an equation acts on each element by itself, beside scalars."""
    return describe(eqn).kind == "elementwise"


def is_affine(eqn: Any, active: Sequence[bool]) -> bool:
    """Whether an equation is affine in its active operands together, the others being fixed."""
    p = describe(eqn)
    if p.kind == "elementwise":
        return p.affine(active)
    if p.kind == "product":
        return sum(active) == 1
    return p.kind in ("identity", "moves", "sums") and not any(active[p.indices])


def keeps_zero(eqn: Any, active: Sequence[bool]) -> bool:
    """Whether an equation that is affine in its active operands gives zeros where these are zero."""
    p = describe(eqn)
    where = range(len(active))[p.indices]
    return p.scales or all(a for i, a in enumerate(active) if i not in where)


# Values that only change their place, or pass as they are.
declare("stop_gradient", Primitive("identity", stops=True))
declare(
    "copy copy_p name optimization_barrier device_put pvary pcast sharding_constraint reshard",
    Primitive("identity"),
)
declare(
    "reshape squeeze expand_dims transpose broadcast_in_dim slice rev concatenate stack unstack split tile pad",
    Primitive("moves"),
)
declare("dynamic_slice gather", Primitive("moves", indices=slice(1, None)))
declare("dynamic_update_slice", Primitive("moves", indices=slice(2, None)))
declare("scatter", Primitive("moves", indices=slice(1, 2)))

# Linear operations.
declare("scatter-add scatter_add scatter-sub scatter_sub", Primitive("sums", indices=slice(1, 2)))
declare("reduce_sum", Primitive("sums", along=parameter("axes")))
declare("cumsum", Primitive("sums", along=parameter("axis")))


def windows(params: dict[str, Any], rank: int) -> tuple[int, ...]:
    """Axes along which windows are not one element after the other."""
    trivial = zip(
        params["window_dimensions"], params["window_strides"], params["padding"], params["base_dilation"],
        params["window_dilation"], strict=True,
    )  # fmt: skip
    return tuple(i for i, w in enumerate(trivial) if (w[0], w[1], tuple(w[2]), w[3], w[4]) != (1, 1, (0, 0), 1, 1))


def _last(params: dict[str, Any], rank: int) -> tuple[int, ...]:
    return tuple(range(rank - len(params["fft_lengths"]), rank))


declare("reduce_window_sum", Primitive("sums", along=windows))
declare("fft", Primitive("sums", along=_last))
declare("conj complex psum", Primitive("sums"))
declare("dot_general conv_general_dilated", Primitive("product", scales=True))

_SOLVED = "the solution of a linear system is linear in its right side only"
declare("custom_linear_solve triangular_solve tridiagonal_solve", Primitive("sums", indices=slice(0, -1), why=_SOLVED))


# Picks.
declare("reduce_max", Primitive("maximum", along=parameter("axes")))
declare("reduce_min", Primitive("maximum", along=parameter("axes"), sign=-1))
declare("reduce_window_max", Primitive("maximum", along=windows))
declare("reduce_window_min", Primitive("maximum", along=windows, sign=-1))
declare("cummax", Primitive("maximum", along=parameter("axis")))
declare("cummin", Primitive("maximum", along=parameter("axis"), sign=-1))


# By size.
_ORDER = "the order of its elements depends on the input"
declare("sort", Primitive("order", along=parameter("dimension"), sign=-1, why=_ORDER))


def _chosen_axis(params: dict[str, Any], rank: int) -> tuple[int, ...]:
    return (params.get("axis", -1) % rank,)


declare("top_k", Primitive("order", along=_chosen_axis, why=_ORDER))


# Elementwise arithmetic.
declare("add sub add_any neg real imag", Primitive("elementwise", affine=lambda active: True))
declare("convert_element_type", Primitive("elementwise", affine=lambda active: True, number=lambda x, **_: x))
declare("reduce_precision", Primitive("elementwise", affine=lambda active: True, passes=True))
declare("mul", Primitive("elementwise", affine=lambda active: sum(active) == 1, scales=True))
declare("div", Primitive("elementwise", affine=lambda active: not active[1], scales=True))
declare("select_n", Primitive("elementwise", affine=lambda active: not active[0], indices=slice(0, 1)))

# Elementwise functions: 0 at 0, and of some use as an activation.
declare(
    "tanh logistic clamp abs square integer_pow erf erf_inv expm1 log1p sin tan asin atan sinh asinh atanh",
    Primitive("elementwise", passes=True),
)
declare("max", Primitive("elementwise", passes=True))
declare("min", Primitive("elementwise", passes=True, sign=-1))
declare(
    "exp exp2 log log2 erfc cos acos cosh acosh sqrt rsqrt cbrt pow sign floor ceil round atan2 rem nextafter lgamma "
    "digamma igamma igammac polygamma zeta regularized_incomplete_beta bessel_i0e bessel_i1e one_minus_square "
    "polynomial",
    Primitive("elementwise"),
)
declare(
    "eq ne lt le gt ge eq_to lt_to le_to is_finite population_count clz shift_left "
    "shift_right_arithmetic shift_right_logical",
    Primitive("elementwise", predicate=True),
)
declare("not", Primitive("elementwise", predicate=True, number=lambda a: 1 - a))
declare("and", Primitive("elementwise", predicate=True, number=lambda a, b: a * b))
declare("or", Primitive("elementwise", predicate=True, number=lambda a, b: a + b - a * b))
declare("xor", Primitive("elementwise", predicate=True, number=lambda a, b: a + b - 2 * a * b))


# Programs by another name.
def _product(x: jax.Array, *, axes: Sequence[int], **_: Any) -> jax.Array:
    """The product over some axes, halving them: every factor meets every other in a product of two."""
    kept = [i for i in range(x.ndim) if i not in axes]
    x = jnp.transpose(x, (*axes, *kept)).reshape(-1, *(x.shape[i] for i in kept))
    while x.shape[0] > 1:
        if x.shape[0] % 2:
            x = jnp.concatenate([x, jnp.ones_like(x[:1])])
        half = x.shape[0] // 2
        x = x[:half] * x[half:]
    return x[0] if x.shape[0] else jnp.ones(x.shape[1:], x.dtype)


def _running(combine: Callable) -> Callable:
    def program(x, *, axis, reverse=False):
        return lax.associative_scan(combine, x, reverse=reverse, axis=axis)

    return program


def _log_sums(x: jax.Array, *, axis: int, reverse: bool = False) -> jax.Array:
    top = lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    return jnp.log(lax.cumsum(jnp.exp(x - top), axis=axis, reverse=reverse)) + top


def _expanded(*operands: jax.Array, _prim: Any) -> list:
    """What an operation above JAX's primitives is made of, as those of `jnp.searchsorted` from JAX 0.12 on."""
    return jax.tree.leaves(_prim.expand(*jax.tree.unflatten(_prim.in_tree, operands)))


declare("call_hi_primitive", Primitive("composite", program=_expanded))
declare("reduce_prod", Primitive("composite", along=parameter("axes"), program=_product))
declare("cumprod", Primitive("composite", along=parameter("axis"), program=_running(jnp.multiply)))
declare("cumlogsumexp", Primitive("composite", along=parameter("axis"), program=_log_sums))

# Other programs.
declare("jit pjit remat2 checkpoint", Primitive("call", body="jaxpr"))
declare("closed_call core_call call custom_jvp_call custom_vjp_call", Primitive("call", body="call_jaxpr"))
declare("eval_jaxpr", Primitive("call", body="jaxpr call_jaxpr"))
declare("custom_vjp_call_jaxpr", Primitive("call", body="fun_jaxpr"))
declare("scan cond", Primitive("control"))
declare("while", Primitive("opaque", why=(
    "how often the loop runs is found while it runs; scan, and fori_loop between Python's numbers, say it before"
)))  # fmt: skip

# What is there to look on.
declare("debug_callback debug_print", Primitive("effect"))

# What has no rule, and why.
_STEP = "its result is the place of an element, a step function of the input"
declare("argmax", Primitive("choice", along=parameter("axes"), predicate=True, place=True, why=_STEP))
declare("argmin", Primitive("choice", along=parameter("axes"), predicate=True, place=True, sign=-1, why=_STEP))
_CASE = "its result is a predicate, a step function of the input"
for _name, _same in {
    "reduce_or": lambda x, *, axes, **_: jnp.max(x, axes),
    "reduce_and": lambda x, *, axes, **_: jnp.min(x, axes),
    "reduce_xor": None,
}.items():
    declare(_name, Primitive("choice", along=parameter("axes"), predicate=True, number=_same, why=_CASE))
declare("approx_top_k", Primitive("opaque", why=_ORDER))
_MEET = "several elements may meet at one place, and which do not add up"
declare("scatter-mul scatter_mul scatter-min scatter_min scatter-max scatter_max", Primitive("opaque", why=_MEET))
_DECOMPOSED = "a decomposition of a matrix is neither linear nor elementwise, and no rule for it is published"
declare("cholesky eig eigh hessenberg lu qr schur svd tridiagonal", Primitive("opaque", why=_DECOMPOSED))
declare("pure_callback io_callback", Primitive("opaque", why="it calls Python, where nothing can be followed"))
_DEVICES = "it runs on several devices, each with a part of its operands; explain the function that one of them runs"
declare("shard_map xla_pmap", Primitive("opaque", why=_DEVICES))
