"""The layers of Flax and Equinox, and the functions of JAX, as programs: traced, never compiled.

`programs()` gives, by name, the jaxpr of each and which of its inputs are what a head reads: the others are weights.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

try:
    import equinox
except ImportError:  # an extra
    equinox = None

#: A jaxpr, and for each of its inputs whether it is the input of a layer.
Program = tuple[Any, list[bool]]


def shaped(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


IMAGE, LINE, VOLUME = shaped(1, 6, 6, 8), shaped(1, 6, 8), shaped(1, 4, 4, 4, 8)
TOKENS, IDS, ROW = shaped(1, 5, 8), shaped(5, dtype=jnp.int32), shaped(1, 8)


def traced(fn: Callable, weights: Any, *inputs: Any) -> Program:
    """`fn(weights, *inputs)`; numbers in the inputs are what it reads."""
    closed = jax.make_jaxpr(fn)(weights, *inputs)
    reads = [jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(inputs)]
    return closed, [False] * (len(closed.jaxpr.invars) - len(reads)) + reads


def of_linen(make: Callable, *inputs: Any, **options: Any) -> Program:
    module = make()
    weights = jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *inputs)
    return traced(lambda w, *xs: module.apply(w, *xs, **options), weights, *inputs)


def of_nnx(make: Callable, *inputs: Any, **options: Any) -> Program:
    # Made inside: what draws the weights does not depend on the input.
    return traced(lambda _, *xs: make(nnx.Rngs(0))(*xs, **options), None, *inputs)


def of_equinox(make: Callable, *inputs: Any, call: Callable = lambda layer, *xs: layer(*xs)) -> Program:
    layer = equinox.filter_eval_shape(make, jax.random.key(0))
    weights, rest = equinox.partition(layer, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    return traced(lambda w, *xs: call(equinox.combine(w, rest), *xs), weights, *inputs)


def no_batch(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The same without a batch, channels first: as Equinox's layers take it."""
    return shaped(x.shape[-1], *x.shape[1:-1], dtype=x.dtype)


#: What is no layer of its own, and why.
NO_LAYERS = {
    "Module": "the base of all", "RNNCellBase": "a base", "Sequential": "runs others", "List": "holds others",
    "Dict": "holds others", "Fp8Einsum": "wraps another for float8", "Fp8DotGeneralOp": "wraps a product for float8",
    "Fp8DotGeneral": "wraps a product for float8", "Fp8DirectDotGeneralOp": "wraps a product for float8",
    "NANOOFp8DotGeneralOp": "wraps a product for float8", "Pool": "a base", "AdaptivePool": "a base",
    "StateIndex": "a key", "StatefulLayer": "a base", "Shared": "holds others", "Lambda": "runs a function",
}  # fmt: skip

LINEN: dict[str, Callable[[], Program]] = {
    "BatchNorm": lambda: of_linen(lambda: linen.BatchNorm(use_running_average=True), IMAGE),
    "Bidirectional": lambda: of_linen(
        lambda: linen.Bidirectional(linen.RNN(linen.GRUCell(4)), linen.RNN(linen.GRUCell(4))), TOKENS
    ),
    "Conv": lambda: of_linen(lambda: linen.Conv(4, (3, 3), strides=2, feature_group_count=2), IMAGE),
    "ConvLSTMCell": lambda: of_linen(lambda: linen.RNN(linen.ConvLSTMCell(4, (3,))), shaped(1, 3, 6, 8)),
    "ConvLocal": lambda: of_linen(lambda: linen.ConvLocal(4, (3, 3)), IMAGE),
    "ConvTranspose": lambda: of_linen(lambda: linen.ConvTranspose(4, (3, 3), strides=(2, 2)), IMAGE),
    "Dense": lambda: of_linen(lambda: linen.Dense(4), ROW),
    "DenseGeneral": lambda: of_linen(lambda: linen.DenseGeneral((2, 4), axis=(-2, -1)), IMAGE),
    "Dropout": lambda: of_linen(lambda: linen.Dropout(0.5, deterministic=True), ROW),
    "Einsum": lambda: of_linen(lambda: linen.Einsum((8, 4), "bsk,km->bsm"), TOKENS),
    "Embed": lambda: of_linen(lambda: linen.Embed(10, 8), IDS),
    "GRUCell": lambda: of_linen(lambda: linen.RNN(linen.GRUCell(4)), TOKENS),
    "GroupNorm": lambda: of_linen(lambda: linen.GroupNorm(4), IMAGE),
    "InstanceNorm": lambda: of_linen(linen.InstanceNorm, IMAGE),
    "LSTMCell": lambda: of_linen(lambda: linen.RNN(linen.LSTMCell(4)), TOKENS),
    "LayerNorm": lambda: of_linen(linen.LayerNorm, TOKENS),
    "MGUCell": lambda: of_linen(lambda: linen.RNN(linen.MGUCell(4)), TOKENS),
    "MultiHeadAttention": lambda: of_linen(lambda: linen.MultiHeadAttention(2), TOKENS),
    "MultiHeadDotProductAttention": lambda: of_linen(
        lambda: linen.MultiHeadDotProductAttention(2), TOKENS, mask=jnp.tril(jnp.ones((1, 2, 5, 5), bool))
    ),
    "OptimizedLSTMCell": lambda: of_linen(lambda: linen.RNN(linen.OptimizedLSTMCell(4)), TOKENS),
    "PReLU": lambda: of_linen(linen.PReLU, IMAGE),
    "RMSNorm": lambda: of_linen(linen.RMSNorm, TOKENS),
    "RNN": lambda: of_linen(lambda: linen.RNN(linen.SimpleCell(4), reverse=True, keep_order=True), TOKENS),
    "SelfAttention": lambda: of_linen(lambda: linen.SelfAttention(2), TOKENS),
    "SimpleCell": lambda: of_linen(lambda: linen.RNN(linen.SimpleCell(4)), TOKENS),
    "SpectralNorm": lambda: of_linen(lambda: linen.SpectralNorm(linen.Dense(4)), ROW, update_stats=False),
    "WeightNorm": lambda: of_linen(lambda: linen.WeightNorm(linen.Dense(4)), ROW),
}

NNX: dict[str, Callable[[], Program]] = {
    "BatchNorm": lambda: of_nnx(lambda r: nnx.BatchNorm(8, use_running_average=True, rngs=r), IMAGE),
    "Bidirectional": lambda: of_nnx(
        lambda r: nnx.Bidirectional(nnx.RNN(nnx.GRUCell(8, 4, rngs=r)), nnx.RNN(nnx.GRUCell(8, 4, rngs=r))), TOKENS
    ),
    "Conv": lambda: of_nnx(lambda r: nnx.Conv(8, 4, (3, 3), strides=2, rngs=r), IMAGE),
    "ConvTranspose": lambda: of_nnx(lambda r: nnx.ConvTranspose(8, 4, (3, 3), strides=(2, 2), rngs=r), IMAGE),
    "Dropout": lambda: of_nnx(lambda r: nnx.Dropout(0.5, deterministic=True, rngs=r), ROW),
    "Einsum": lambda: of_nnx(lambda r: nnx.Einsum("bsk,km->bsm", (8, 4), rngs=r), TOKENS),
    "Embed": lambda: of_nnx(lambda r: nnx.Embed(10, 8, rngs=r), IDS),
    "GRUCell": lambda: of_nnx(lambda r: nnx.RNN(nnx.GRUCell(8, 4, rngs=r)), TOKENS),
    "GroupNorm": lambda: of_nnx(lambda r: nnx.GroupNorm(8, num_groups=4, rngs=r), IMAGE),
    "InstanceNorm": lambda: of_nnx(lambda r: nnx.InstanceNorm(8, rngs=r), IMAGE),
    "LSTMCell": lambda: of_nnx(lambda r: nnx.RNN(nnx.LSTMCell(8, 4, rngs=r)), TOKENS),
    "LayerNorm": lambda: of_nnx(lambda r: nnx.LayerNorm(8, rngs=r), TOKENS),
    "Linear": lambda: of_nnx(lambda r: nnx.Linear(8, 4, rngs=r), ROW),
    "LinearGeneral": lambda: of_nnx(lambda r: nnx.LinearGeneral((6, 8), (2, 4), axis=(-2, -1), rngs=r), IMAGE),
    "LoRA": lambda: of_nnx(lambda r: nnx.LoRA(8, 2, 4, rngs=r), ROW),
    "LoRALinear": lambda: of_nnx(lambda r: nnx.LoRALinear(8, 4, lora_rank=2, rngs=r), ROW),
    "MultiHeadAttention": lambda: of_nnx(
        lambda r: nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=r), TOKENS
    ),
    "OptimizedLSTMCell": lambda: of_nnx(lambda r: nnx.RNN(nnx.OptimizedLSTMCell(8, 4, rngs=r)), TOKENS),
    "PReLU": lambda: of_nnx(lambda r: nnx.PReLU(), IMAGE),
    "RMSNorm": lambda: of_nnx(lambda r: nnx.RMSNorm(8, rngs=r), TOKENS),
    "RNN": lambda: of_nnx(lambda r: nnx.RNN(nnx.SimpleCell(8, 4, rngs=r), reverse=True, keep_order=True), TOKENS),
    "RoPE": lambda: of_nnx(lambda r: nnx.RoPE(embedding_size=8, max_seq_len=5), shaped(1, 5, 2, 8)),
    "SimpleCell": lambda: of_nnx(lambda r: nnx.RNN(nnx.SimpleCell(8, 4, rngs=r)), TOKENS),
    "SpectralNorm": lambda: of_nnx(lambda r: nnx.SpectralNorm(nnx.Linear(8, 4, rngs=r), rngs=r), ROW),
    "WeightNorm": lambda: of_nnx(lambda r: nnx.WeightNorm(nnx.Linear(8, 4, rngs=r), rngs=r), ROW),
}


def _of_dimensions(kind: str, *arguments: Any, **options: Any) -> dict[str, Callable[[], Program]]:
    """The layers `kind1d`, `kind2d` and `kind3d` of Equinox."""

    def one(n: int, x: jax.ShapeDtypeStruct) -> Callable[[], Program]:
        def make(key):
            layer = getattr(equinox.nn, f"{kind}{n}d")
            return layer(*arguments, key=key, **options) if "Conv" in kind else layer(*arguments, **options)

        return lambda: of_equinox(make, no_batch(x))

    return {f"{kind}{n}d": one(n, x) for n, x in enumerate((LINE, IMAGE, VOLUME), 1)}


def _stateful(make: Callable, *inputs: Any) -> Program:
    """A layer with a state, as it is after training."""

    def call(both, *xs):
        layer, state = both
        return equinox.nn.inference_mode(layer)(*xs, state)[0]

    return of_equinox(lambda key: equinox.nn.make_with_state(make)(key), *inputs, call=call)


EQUINOX: dict[str, Callable[[], Program]] = {} if equinox is None else {
    **_of_dimensions("AdaptiveAvgPool", 2), **_of_dimensions("AdaptiveMaxPool", 2),
    **_of_dimensions("AvgPool", 2, 2), **_of_dimensions("MaxPool", 2, 2),
    **_of_dimensions("Conv", 8, 4, 3), **_of_dimensions("ConvTranspose", 8, 4, 3, stride=2),
    "BatchNorm": lambda: _stateful(lambda key: equinox.nn.BatchNorm(8, "batch", mode="ema"), no_batch(IMAGE)),
    "Conv": lambda: of_equinox(lambda key: equinox.nn.Conv(2, 8, 4, 3, key=key), no_batch(IMAGE)),
    "ConvTranspose": lambda: of_equinox(lambda key: equinox.nn.ConvTranspose(2, 8, 4, 3, key=key), no_batch(IMAGE)),
    "Dropout": lambda: of_equinox(lambda key: equinox.nn.Dropout(0.5, inference=True), shaped(8)),
    "Embedding": lambda: of_equinox(lambda key: equinox.nn.Embedding(10, 8, key=key), shaped(dtype=jnp.int32)),
    "GRUCell": lambda: of_equinox(lambda key: equinox.nn.GRUCell(8, 4, key=key), shaped(8), shaped(4)),
    "GroupNorm": lambda: of_equinox(lambda key: equinox.nn.GroupNorm(4, 8), no_batch(IMAGE)),
    "Identity": lambda: of_equinox(lambda key: equinox.nn.Identity(), shaped(8)),
    "LSTMCell": lambda: of_equinox(
        lambda key: equinox.nn.LSTMCell(8, 4, key=key), shaped(8), shaped(4), shaped(4),
        call=lambda cell, x, h, c: cell(x, (h, c)),
    ),
    "LayerNorm": lambda: of_equinox(lambda key: equinox.nn.LayerNorm(8), shaped(8)),
    "Linear": lambda: of_equinox(lambda key: equinox.nn.Linear(8, 4, key=key), shaped(8)),
    "MLP": lambda: of_equinox(lambda key: equinox.nn.MLP(8, 4, 6, 2, key=key), shaped(8)),
    "MultiheadAttention": lambda: of_equinox(
        lambda key: equinox.nn.MultiheadAttention(2, 8, key=key), shaped(5, 8), call=lambda layer, x: layer(x, x, x)
    ),
    "PReLU": lambda: of_equinox(lambda key: equinox.nn.PReLU(), shaped(8)),
    "RMSNorm": lambda: of_equinox(lambda key: equinox.nn.RMSNorm(8), shaped(8)),
    "RotaryPositionalEmbedding": lambda: of_equinox(
        lambda key: equinox.nn.RotaryPositionalEmbedding(8), shaped(5, 8)
    ),
    "SpectralNorm": lambda: _stateful(
        lambda key: equinox.nn.SpectralNorm(equinox.nn.Linear(8, 4, key=key), "weight", key=key), shaped(8)
    ),
    "WeightNorm": lambda: of_equinox(
        lambda key: equinox.nn.WeightNorm(equinox.nn.Linear(8, 4, key=key), "weight"), shaped(8)
    ),
}  # fmt: skip

#: The layers of each library, by the name of its module.
LIBRARIES = {"flax.linen": (linen, linen.Module, LINEN), "flax.nnx": (nnx, nnx.Module, NNX)}
if equinox is not None:
    LIBRARIES["equinox.nn"] = (equinox.nn, equinox.Module, EQUINOX)


def layers_of(library: types.ModuleType, base: type) -> set[str]:
    """The names of all layers that a library has."""
    return {n for n, c in vars(library).items() if inspect.isclass(c) and issubclass(c, base) and n[0] != "_"}


#: Modules of JAX whose functions are called with a few kinds of arguments; what does not take them is left out.
FUNCTIONS = (
    jnp, jnp.linalg, jnp.fft, jax.nn, jax.lax, jax.scipy.special, jax.scipy.linalg, jax.image,
)  # fmt: skip
#: Functions that write or read files, or change settings.
NOT_CALLED = {"save", "savez", "load", "fromfile", "set_printoptions", "printoptions", "get_printoptions"}
_SQUARE = shaped(4, 4)
ARGUMENTS: tuple[Callable[[Callable], Callable], ...] = (
    lambda f: lambda x: f(x),
    lambda f: lambda x: f(x, x),
    lambda f: lambda x: f(x, x, x),
    lambda f: lambda x: f([x, x]),
    lambda f: lambda x: f(x, 1),
    lambda f: lambda x: f(x, axis=-1),
    lambda f: lambda x: f(x > 0, x, -x),
    lambda f: lambda x: f((x * 9).astype(jnp.int32), x),
)


def calls() -> Iterator[tuple[str, Program]]:
    """The functions of JAX on a square of numbers, in every way that they take."""
    seen: set[int] = set()
    for module in FUNCTIONS:
        for name in dir(module):
            function = getattr(module, name)
            if name.startswith("_") or name in NOT_CALLED or inspect.isclass(function) or not callable(function):
                continue
            if id(function) in seen:
                continue
            seen.add(id(function))
            for i, arguments in enumerate(ARGUMENTS):
                try:
                    yield f"{module.__name__}.{name}/{i}", (jax.make_jaxpr(arguments(function))(_SQUARE), [True])
                except Exception:  # noqa: S112  # it takes other arguments
                    continue
