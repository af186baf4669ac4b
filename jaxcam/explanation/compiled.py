"""The programs of the engine: each compiled once for a network's functions and shapes, and timed without that."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.cutting import head_params
from jaxcam.errors import JaxcamError
from jaxcam.explanation.kept import kept
from jaxcam.methods.registry import Request
from jaxcam.methods.result import Inputs
from jaxcam.methods.stepping import joined_target
from jaxcam.models.classifier import Features, LogitsFunction
from jaxcam.transforms.convolutions import enabled, for_cpu
from jaxcam.transforms.precision import HIGHEST, at_precision, choosing


def timed(program: Any, *args: Any, warm: bool = True, precision: str | None = None) -> tuple[Any, float]:
    """The result of a program, and how long it took without compilation; with `warm`, the slow first run aside.

    Args:
      precision: of its products; the highest unless named, as differences of close numbers are to come.
    """
    args = on_device(args)
    compiled = _compiled(program, precision or HIGHEST, *args)
    if warm and not compiled.warm or compiled.anew is not None:
        compiled.first(*args)
    start = time.perf_counter()
    result = jax.block_until_ready(compiled.call(*args))
    return result, time.perf_counter() - start


def on_device(tree: Any) -> Any:
    """The same with JAX's arrays; those that are some already are not asked what they are."""
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jnp.asarray(x), tree)


_ENDLESS = (
    "JAX has no gradient through a loop whose number of steps is found while it runs (lax.while_loop): write it as "
    "lax.scan, or as a fori_loop with fixed bounds, or take a method without gradients, such as ablation_cam"
)


@dataclasses.dataclass
class _Compiled:
    call: Callable
    anew: Callable[[], Callable] | None
    warm: bool = False

    def first(self, *args: Any) -> None:
        """Runs it for the first time; one that was kept and does not run is made anew."""
        try:
            jax.block_until_ready(self.call(*args))
        except jax.errors.JaxRuntimeError:
            if self.anew is None:
                raise
            self.call = self.anew()
            jax.block_until_ready(self.call(*args))
        self.anew, self.warm = None, True


def _compiled(program: Any, precision: str, *args: Any) -> _Compiled:
    leaves, tree = jax.tree.flatten(args)
    shapes = tuple((x.shape, x.dtype, x.sharding) for x in leaves)
    return _compile(program, tree, shapes, precision, enabled())


@functools.lru_cache(maxsize=128)
def _compile(
    program: Any, tree: Any, leaves: tuple[tuple[Any, Any, Any], ...], precision: str, fast: bool
) -> _Compiled:
    def make() -> Any:
        shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype, sharding in leaves]
        with choosing(precision):
            try:
                lowered = program.lower(*jax.tree.unflatten(tree, shapes))
            except ValueError as e:
                if "Reverse-mode differentiation does not work" not in str(e):
                    raise
                raise JaxcamError(_ENDLESS) from None
            return lowered.compile()

    return _Compiled(*kept(getattr(program, "said", None), (tree, leaves, precision, fast), make))


def _saying(program: Any, *parts: Any) -> Any:
    """A program that says what it computes, the same in every process: what its parts, in order, say of themselves.

    It says nothing where a part does: the functions of other people's networks.
    """
    words = [part if isinstance(part, str | None) else getattr(part, "said", None) for part in parts]
    if all(words):
        program.said = "\n".join(map(str, words))
    return program


@functools.lru_cache(maxsize=128)
def jitted(function: Callable) -> Any:
    """A function of a network, compiled."""
    return _saying(jax.jit(for_cpu(at_precision(function))), "jitted", function)


@functools.lru_cache(maxsize=128)
def forward(features: Features, head: LogitsFunction, passes: str | None = None) -> Any:
    """`(params, inputs (b, H, W, 3)) -> (activations, bypass, logits)`, each with a leading axis.

    Args:
      passes: precision of the features, where it is another than that of the head.
    """
    up_to_layer = at_precision(features.with_bypass, passes)

    @jax.jit
    @for_cpu
    @at_precision
    def run(params, inputs):
        activations, bypass = up_to_layer(params, inputs)
        return activations, bypass, head(head_params(params, bypass), activations)

    return _saying(run, "forward", features, head, str(passes))


@functools.lru_cache(maxsize=128)
def maps(request: Request, head: LogitsFunction, network: LogitsFunction, function: Callable | None = None) -> Any:
    """`(params, activations, bypass, given, rows, targets, classes) -> CAM` of pairs of a row of the batch and a class.

    With a function of the logits that one is explained, of `classes` where it is one of some, and `targets` only tell
    its draws from others'. `given` holds what the method needs besides, by its field of `Inputs`, one row per picture.
    """

    @jax.jit
    @for_cpu
    @at_precision
    def run(params, activations, bypass, given, rows, targets, classes=()):
        def one(row, target, classes):
            a, bypassed, more = jax.tree.map(lambda x: x[row], (activations, bypass, given))
            if "key" in more:
                more["key"] = jax.random.fold_in(more["key"], target)
            first = head_params(params, bypassed)
            explained = target if function is None else joined_target(function, classes)
            return tuple(
                request.call(Inputs(first, a, head, explained, network=network, network_params=params, **more))
            )

        if rows.shape[0] == 1:  # vmap over one would turn loops that stop early into slower ones
            return jax.tree.map(lambda x: x[None], one(rows[0], targets[0], [c[0] for c in classes]))
        return jax.vmap(one)(rows, targets, classes)

    return _saying(run, "maps", request, head, network, "a class" if function is None else None)


@functools.lru_cache(maxsize=128)
def default_references(features: Features) -> Any:
    """Activations `(b, 4, h, w, K)` of nothing, and of each picture blurred, its mean colour, and noise."""

    @jax.jit
    @for_cpu
    @at_precision
    def references(params, inputs):
        b, h, w, c = inputs.shape
        coarse = jax.image.resize(inputs, (b, min(8, h), min(8, w), c), "linear")
        blurred = features(params, jax.image.resize(coarse, inputs.shape, "linear"))
        noise = jax.random.normal(jax.random.key(0), inputs.shape[1:], inputs.dtype)
        plain = jnp.stack([jnp.zeros_like(noise), noise])
        shared = jnp.broadcast_to(features(params, plain), (b, 2, *blurred.shape[1:]))
        return jnp.concatenate([jnp.zeros_like(blurred)[:, None], blurred[:, None], shared], axis=1)

    return _saying(references, "references", features)
