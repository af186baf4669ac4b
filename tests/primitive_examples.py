"""One small function for each primitive of the vocabulary, with the primitive on its input `(4, 4, K)`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

K = 3
SHAPE = (4, 4, K)
_W = jnp.sin(jnp.arange(1.0, 1.0 + 4 * 4 * K)).reshape(SHAPE)
_DENSE = jnp.cos(jnp.arange(K * 5.0)).reshape(K, 5)
_KERNEL = jnp.sin(jnp.arange(3.0 * 3 * K * 5)).reshape(3, 3, K, 5)
_TRIANGLE = jnp.broadcast_to(jnp.eye(4) * 2 + jnp.tril(jnp.ones((4, 4))), (4, 4, 4))
_ROWS = jnp.array([[0], [2]])


def window(combine, start):
    return lambda x: lax.reduce_window(x, start, combine, (2, 2, 1), (2, 2, 1), "VALID")


def positive(fn):
    """On values above 1/2, for functions that are not defined everywhere."""
    return lambda x: fn(0.5 + x * x)


def inside(fn):
    """On values between -1 and 1."""
    return lambda x: fn(x / (1 + jnp.abs(x)))


@jax.custom_jvp
def own_jvp(x):
    return jnp.tanh(x)


own_jvp.defjvp(lambda p, t: (jnp.tanh(p[0]), (1 - jnp.tanh(p[0]) ** 2) * t[0]))


@jax.custom_vjp
def own_vjp(x):
    return jnp.tanh(x)


own_vjp.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


def loop(x):
    return lax.scan(lambda c, w: (jnp.tanh(c + w * x), None), jnp.zeros_like(x), jnp.arange(3.0))[0]


def endless(x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x))[1]


def at_rows(mode):
    numbers = lax.ScatterDimensionNumbers((1, 2), (0,), (0,))

    def fn(x):
        return mode(x, _ROWS, jnp.sin(x[:2]) if mode is not lax.scatter_mul else _W[:2], numbers, unique_indices=True)

    return fn


def counted(predicate):
    """A predicate of the input, as the weights of something else."""
    return lambda x: jnp.where(predicate(x), x, 2 * x)


#: `fn(x (4, 4, K))`, real numbers of any shape.
EXAMPLES = {
    # identity
    "stop_gradient": lax.stop_gradient,
    "copy": jnp.copy,
    "name": lambda x: checkpoint_name(x, "here"),
    "optimization_barrier": lax.optimization_barrier,
    "device_put": lambda x: jax.device_put(x),
    # moves
    "reshape": lambda x: x.reshape(2, 8, K),
    "squeeze": lambda x: lax.squeeze(x[:1], (0,)),
    "transpose": lambda x: jnp.transpose(x, (1, 0, 2)),
    "broadcast_in_dim": lambda x: jnp.broadcast_to(x[None], (2, *SHAPE)),
    "slice": lambda x: x[1:3],
    "rev": lambda x: x[::-1],
    "concatenate": lambda x: jnp.concatenate([x, _W, 2 * x]),
    "stack": lambda x: jnp.stack([x, 3 * x]),
    "unstack": lambda x: jnp.unstack(x)[1],
    "split": lambda x: jnp.split(x, 2)[1],
    "tile": lambda x: jnp.tile(x, (2, 1, 1)),
    "pad": lambda x: jnp.pad(x, ((1, 2), (0, 0), (0, 0)), constant_values=0.5),
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (jnp.int32(1), 0, 0), (2, 4, K)),
    "gather": lambda x: x[jnp.array([2, 0])],
    "dynamic_update_slice": lambda x: lax.dynamic_update_slice(x, _W[:2], (1, 0, 0)),
    "scatter": lambda x: x.at[1:-1, 1:-1].set(_W[:2, :2]),
    # sums
    "scatter-add": lambda x: jax.ops.segment_sum(x, jnp.array([0, 1, 0, 1]), 2),
    "scatter-sub": at_rows(getattr(lax, "scatter_sub", lax.scatter_add)),
    "reduce_sum": lambda x: x.sum((0, 1)),
    "cumsum": lambda x: jnp.cumsum(x, 0),
    "reduce_window_sum": window(lax.add, 0.0),
    "fft": lambda x: jnp.fft.irfft(jnp.fft.rfft(x, axis=1) * jnp.exp(1j * jnp.arange(3.0))[None, :, None], axis=1),
    "conj": lambda x: jnp.imag(jnp.conj(lax.complex(x, 2 * x))),
    "complex": lambda x: jnp.real(lax.complex(x, 2 * x) * (1 + 2j)),
    # product
    "dot_general": lambda x: x @ _DENSE,
    "conv_general_dilated": lambda x: lax.conv_general_dilated(
        x[None], _KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0],
    # maximum
    "reduce_max": lambda x: x.max((0, 1)),
    "reduce_min": lambda x: x.min((0, 1)),
    "reduce_window_max": window(lax.max, -jnp.inf),
    "reduce_window_min": window(lax.min, jnp.inf),
    "cummax": lambda x: lax.cummax(x, 0),
    "cummin": lambda x: lax.cummin(x, 0),
    # elementwise arithmetic
    "add": lambda x: x + _W,
    "add_any": lambda x: jax.jvp(lambda v: v * v + v, (_W,), (x,))[1],
    "sub": lambda x: _W - x,
    "neg": lambda x: -x,
    "mul": lambda x: x * _W,
    "div": lambda x: x / 3.0,
    "convert_element_type": lambda x: x.astype(jnp.float16).astype(jnp.float32),
    "select_n": lambda x: jnp.where(_W > 0, x, _W),
    "real": lambda x: jnp.real(lax.complex(x, x)),
    "imag": lambda x: jnp.imag(lax.complex(x, x)),
    "reduce_precision": lambda x: lax.reduce_precision(x, 8, 10),
    # elementwise functions
    "tanh": jnp.tanh,
    "logistic": lax.logistic,
    "clamp": lambda x: lax.clamp(-0.5, x, 0.5),
    "abs": jnp.abs,
    "square": lambda x: lax.square(x),
    "integer_pow": lambda x: x**3,
    "erf": lax.erf,
    "erf_inv": inside(lax.erf_inv),
    "expm1": jnp.expm1,
    "log1p": lambda x: jnp.log1p(x * x),
    "sin": jnp.sin,
    "tan": inside(jnp.tan),
    "asin": inside(jnp.arcsin),
    "atan": jnp.arctan,
    "sinh": jnp.sinh,
    "asinh": jnp.arcsinh,
    "atanh": inside(jnp.arctanh),
    "max": lambda x: jnp.maximum(x, 0.25),
    "min": lambda x: jnp.minimum(x, 0.25),
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "log": positive(jnp.log),
    "log2": positive(lambda x: lax.log2(x) if hasattr(lax, "log2") else jnp.log2(x)),
    "erfc": lax.erfc,
    "cos": jnp.cos,
    "acos": inside(jnp.arccos),
    "cosh": jnp.cosh,
    "acosh": positive(lambda x: jnp.arccosh(1 + x)),
    "sqrt": positive(jnp.sqrt),
    "rsqrt": positive(lax.rsqrt),
    "cbrt": positive(jnp.cbrt),
    "pow": positive(lambda x: x**2.5),
    "sign": jnp.sign,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "atan2": lambda x: jnp.arctan2(x, 2.0),
    "rem": lambda x: lax.rem(x, 2.0),
    "nextafter": lambda x: jnp.nextafter(x, 1.0),
    "lgamma": positive(lax.lgamma),
    "digamma": positive(lax.digamma),
    "igamma": positive(lambda x: lax.igamma(jnp.full_like(x, 2.0), x)),
    "igammac": positive(lambda x: lax.igammac(jnp.full_like(x, 2.0), x)),
    "polygamma": positive(lambda x: lax.polygamma(jnp.full_like(x, 1.0), x)),
    "zeta": positive(lambda x: lax.zeta(2.0 + x, jnp.full_like(x, 2.0))),
    "regularized_incomplete_beta": lambda x: lax.betainc(2.0, 3.0, lax.logistic(x)),
    "bessel_i0e": lax.bessel_i0e,
    "bessel_i1e": lax.bessel_i1e,
    # predicates: which of two numbers, each an elementwise function of the input
    "eq": counted(lambda x: x == 0.5),
    "ne": counted(lambda x: x != 0.5),
    "lt": counted(lambda x: x < 0.5),
    "le": counted(lambda x: x <= 0.5),
    "gt": counted(lambda x: x > 0.5),
    "ge": counted(lambda x: x >= 0.5),
    "and": counted(lambda x: (x > 0.2) & (x < 0.9)),
    "or": counted(lambda x: (x < 0.2) | (x > 0.9)),
    "xor": counted(lambda x: (x > 0.2) ^ (x > 0.9)),
    "not": counted(lambda x: ~(x > 0.5)),
    "is_finite": counted(jnp.isfinite),
    # other programs
    "call_hi_primitive": lambda x: x + 0.3 * jnp.nonzero(x[:, 0, 0] > 0, size=2, fill_value=1)[0].sum(),
    "reduce_prod": lambda x: x.prod((0, 1)),
    "cumprod": lambda x: lax.cumprod(x, 0),
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 0),
    "jit": jax.jit(jnp.tanh),
    "remat2": jax.checkpoint(jnp.tanh),
    "custom_jvp_call": own_jvp,
    "custom_vjp_call": own_vjp,
    "scan": loop,
    "cond": lambda x: lax.cond(_W[0, 0, 0] > 0, jnp.tanh, jnp.sin, x),
    # effect
    "debug_callback": lambda x: (jax.debug.callback(lambda seen: None, x + 1), jnp.tanh(x))[1],
    # opaque
    "cholesky": lambda x: lax.linalg.cholesky(jnp.einsum("hwi,hwj->ij", x, x) + jnp.eye(K)),
    "triangular_solve": lambda x: lax.linalg.triangular_solve(_TRIANGLE, x, left_side=True, lower=True),
    "custom_linear_solve": lambda x: lax.custom_linear_solve(
        lambda v: 2 * v, x, lambda _, b: b / 2, lambda _, b: b / 2, symmetric=True
    ),
    "pure_callback": lambda x: jax.pure_callback(
        lambda v: 2 * v, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
    ),
    "while": endless,
    "argmax": lambda x: x * jnp.argmax(x, 0)[None],
    "argmin": lambda x: x * jnp.argmin(x, 0)[None],
    "reduce_and": lambda x: x * jnp.all(x > 0, (0, 1)),
    "reduce_or": lambda x: x * jnp.any(x > 1, (0, 1)),
    "reduce_xor": lambda x: x * lax.reduce_xor((x > 0.5).astype(jnp.int32), (0,))[None],
    "sort": lambda x: jnp.sort(x, 0),
    "top_k": lambda x: lax.top_k(x.reshape(-1), 3)[0],
    "approx_top_k": lambda x: lax.approx_max_k(x.reshape(-1), 3)[0],
    "scatter-mul": at_rows(lax.scatter_mul),
    "scatter-min": at_rows(lax.scatter_min),
    "scatter-max": at_rows(lax.scatter_max),
}

#: Names that no example has, and why.
WITHOUT_EXAMPLE = {
    "copy_p": "another spelling of copy", "expand_dims": "made by no public function of this JAX",
    "scatter_add": "another spelling of scatter-add", "scatter_sub": "another spelling of scatter-sub",
    "scatter_mul": "another spelling of scatter-mul", "scatter_min": "another spelling of scatter-min",
    "scatter_max": "another spelling of scatter-max",
    "pvary": "inside shard_map alone", "pcast": "inside shard_map alone", "psum": "inside shard_map alone",
    "sharding_constraint": "needs a mesh", "reshard": "needs a mesh",
    "pjit": "another name of jit", "checkpoint": "another name of remat2", "closed_call": "made by transformations",
    "core_call": "made by transformations", "call": "made by transformations", "eval_jaxpr": "made by transformations",
    "custom_vjp_call_jaxpr": "another name of custom_vjp_call",
    "eq_to": "made by jnp.sort alone", "lt_to": "made by jnp.sort alone", "le_to": "made by jnp.sort alone",
    "debug_print": "as debug_callback", "io_callback": "as pure_callback",
    "shard_map": "needs a mesh", "xla_pmap": "needs devices", "tridiagonal_solve": "as triangular_solve",
    **dict.fromkeys(("eig", "eigh", "hessenberg", "lu", "qr", "schur", "svd", "tridiagonal"), "as cholesky"),
    "population_count": "of integers", "clz": "of integers", "shift_left": "of integers",
    "shift_right_arithmetic": "of integers", "shift_right_logical": "of integers",
    "one_minus_square": "made by derivatives alone", "polynomial": "made by JAX's own functions alone",
}  # fmt: skip


@functools.cache
def emitted(name: str) -> bool:
    """Whether the example has the primitive on the JAX that is installed."""
    closed = jax.make_jaxpr(EXAMPLES[name])(jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    return name in {e.primitive.name for e in _equations(closed.jaxpr)}


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
