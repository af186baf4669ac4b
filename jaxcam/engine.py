"""Batched, compiled and timed evaluation of the methods on one network and layer."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcam.errors import JaxcamError
from jaxcam.long_maps import LongMaps, States
from jaxcam.methods.catalog import Request
from jaxcam.methods.score import ScoreChunks
from jaxcam.models.network import Network, Part
from jaxcam.models.trees import flatten


class Forward(NamedTuple):
    """The forward pass of a batch: `n` pictures, of which none is padding.

    Attributes:
      inputs: `(batch, s, s, 3)`, padded, on the device.
      padded: `(batch, h, w, K)`, their activations, on the device.
      activations: `(n, h, w, K)`.
      logits: `(n, C)`.
      keys: `(batch,)` random keys, which depend on the seed and on the file name of the picture alone.
      sources: what the pictures are called.
      seconds: per picture.
    """

    inputs: jax.Array
    padded: jax.Array
    activations: np.ndarray
    logits: np.ndarray
    keys: jax.Array
    sources: tuple[str, ...]
    seconds: float


class Maps(NamedTuple):
    """One method on `p` pairs of a picture and a class.

    Attributes:
      coefficients: `(p, K)`.
      maps: `(p, h, w)`.
      gaps: `(p,)` completeness gaps.
      evaluations: `(p,)` head evaluations spent, NaN for a method that does not count them.
      seconds: per map.
    """

    coefficients: np.ndarray
    maps: np.ndarray
    gaps: np.ndarray
    evaluations: np.ndarray
    seconds: float


class Engine:
    """Runs a network and the methods in batches of fixed size, so that each is compiled once.

    The shapes of the programs depend on the batch sizes alone: neither another class nor a last batch
    that is not full compiles anything again.
    """

    def __init__(
        self,
        network: Network,
        layer: str | None,
        batch_size: int,
        maps_at_once: int,
        seed: int = 0,
        *,
        mesh: Mesh | None = None,
        states: States | None = None,
    ):
        self.network, self.batch_size, self.maps_at_once, self.seed = network, batch_size, maps_at_once, seed
        self.features, self.head = network.split(at=layer)
        self.layer = str(self.head.after)
        self.params = jax.tree.map(jnp.asarray, network.params)
        self._at_zero: np.ndarray | None = None
        self._long = LongMaps(self.head, self.params, mesh, states)

    def forward(self, inputs: np.ndarray, sources: Sequence[str]) -> Forward:
        """Activations and logits of `inputs (n, s, s, 3)`, `n` at most the batch size.

        Raises:
          JaxcamError: they hold NaN or infinite values; the message names the weights or the picture.
        """
        n = len(inputs)
        padded = jnp.asarray(_pad(inputs, self.batch_size))
        (activations, logits), seconds = _timed(_forward(self.features, self.head), self.params, padded)
        keys = _keys(self.seed, [*sources, *[""] * (self.batch_size - n)])
        result = Forward(
            padded, activations, np.asarray(activations)[:n], np.asarray(logits)[:n], keys, tuple(sources), seconds / n
        )
        for source, a, f in zip(sources, result.activations, result.logits, strict=True):
            if not (np.isfinite(a).all() and np.isfinite(f).all()):
                raise self._not_finite(source)
        return result

    def _not_finite(self, source: str) -> JaxcamError:
        for name, value in flatten(self.network.params).items():
            if not np.isfinite(np.asarray(value)).all():
                return JaxcamError(f"{self.network.name}: the weights {name} hold NaN or infinite values")
        return JaxcamError(f"{source}: {self.network.name} gives NaN or infinite values for it")

    def maps(
        self,
        request: Request,
        forward: Forward,
        pairs: Sequence[tuple[int, int]],
        references: jax.Array | None = None,
        done: Callable[[float], None] = lambda maps: None,
    ) -> Maps:
        """The maps of `pairs` of (row of the batch, class index).

        Args:
          references: inputs `(R, s, s, 3)` for a method that takes reference activations; None for the default.
          done: called with the number of maps after each program, for progress; a part of one after a step of many.

        Raises:
          JaxcamError: the method is not defined for this head.
        """
        info = request.info
        program = _maps(request, self.head)
        extra, total = self._extra(info.takes, forward, references)
        # A sampling method fills the device, and the memory, with one map's coalitions.
        at_once = 1 if info.takes in ("key", "image") else self.maps_at_once
        plan = self._long.plan(request, forward.padded[0])
        parts = []
        for start in range(0, len(pairs), at_once):
            some = np.asarray(pairs[start : start + at_once], np.int32)
            rows, targets = (jnp.asarray(x) for x in _pad(some, at_once).T)
            if info.takes == "image":
                result, seconds = self._by_chunks(request, forward, rows[0], targets[0])
            elif plan is not None:
                [(row, target)] = some.tolist()
                key = jax.random.fold_in(forward.keys[row], target)
                a, source = forward.padded[row], forward.sources[row]
                result, seconds = self._long.run(request, plan, a, key, target, source, done)
            else:
                result, seconds = _timed(program, self.params, forward.padded, rows, targets, *extra, warm=at_once > 1)
            parts.append(jax.tree.map(np.asarray, result))
            total += seconds
            if plan is None:
                done(len(some))
        coefficients, maps, diagnostics = jax.tree.map(lambda *x: np.concatenate(x)[: len(pairs)], *parts)
        deviation = diagnostics.get("not_gap_linear", np.zeros(1)).max()
        if not deviation <= 1e-4:
            raise JaxcamError(
                f"{info.title} is defined for a global average pool followed by one linear layer, which what follows "
                f"{self.layer} in {self.network.name} is not (by {deviation:.2g} relative); use lift_cam or grad_cam"
            )
        gaps = diagnostics.get("completeness_gap")
        if gaps is None:
            rows, targets = np.asarray(pairs).T
            difference = forward.logits[rows, targets].astype(np.float64) - self._logits_at_zero()[targets]
            gaps = coefficients.sum(1, dtype=np.float64) - difference
        evaluations = diagnostics.get("evaluations", np.full(len(pairs), np.nan))
        return Maps(coefficients, maps, gaps, evaluations, total / len(pairs))

    def _extra(self, takes: str, forward: Forward, references: jax.Array | None) -> tuple[tuple, float]:
        """What a method takes besides the activations, one row per picture, and the seconds it cost."""
        if takes == "key":
            return (forward.keys,), 0.0
        if takes != "references":
            return (), 0.0
        if references is None:
            background, seconds = _timed(_default_references(self.features), self.params, forward.inputs)
            return (background,), seconds
        shared = _timed(_part(self.features), self.params, references)[0]
        return (jnp.broadcast_to(shared, (self.batch_size, *shared.shape)),), 0.0

    def _by_chunks(self, request: Request, forward: Forward, row: jax.Array, target: jax.Array) -> tuple[tuple, float]:
        """One map of Score-CAM, and its seconds: a program for each chunk of channels, the loop on the host."""
        score = {"score": "sigmoid" if self.network.multi_label else "softmax"}
        pieces = ScoreChunks(Part(self.network.config, None, None), **score | dict(request.options))
        total = 0.0

        def call(piece, *args):
            nonlocal total
            result, seconds = _timed(_piece(pieces, piece.__name__), *args)
            total += seconds
            return result

        cam = pieces.run(self.params, forward.padded[row], forward.inputs[row], target, call)
        return jax.tree.map(lambda x: x[None], tuple(cam)), total

    def _logits_at_zero(self) -> np.ndarray:
        if self._at_zero is None:
            zero = jnp.zeros(self.network.layer_shape(self.layer))
            self._at_zero = np.asarray(_timed(_part(self.head), self.params, zero)[0], np.float64)
        return self._at_zero


def _pad(rows: np.ndarray, count: int) -> np.ndarray:
    """`rows`, the last one repeated, to `count`."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def _keys(seed: int, sources: Sequence[str]) -> jax.Array:
    """A random key per picture: the file's name and the seed decide, not its place in a batch or folder."""
    names = [os.path.basename(source).encode("utf-8", "surrogateescape") for source in sources]
    data = jnp.asarray([zlib.crc32(name) for name in names], jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), data)


def _timed(program: Any, *args: Any, warm: bool = True) -> tuple[Any, float]:
    """The result of a program, and how long it took without compilation; with `warm`, the slow first run aside."""
    compiled = _compiled(program, *args)
    if warm and not compiled.warm:
        jax.block_until_ready(compiled.call(*args))
        compiled.warm = True
    start = time.perf_counter()
    result = jax.block_until_ready(compiled.call(*args))
    return result, time.perf_counter() - start


@dataclasses.dataclass
class _Compiled:
    call: Callable
    warm: bool = False


def _compiled(program: Any, *args: Any) -> _Compiled:
    leaves, tree = jax.tree.flatten(args)
    return _compile(program, tree, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves))


@functools.lru_cache(maxsize=128)
def _compile(program: Any, tree: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> _Compiled:
    with jax.default_matmul_precision("highest"):  # differences of close numbers are to come
        return _Compiled(program.lower(*jax.tree.unflatten(tree, leaves)).compile())


@functools.lru_cache(maxsize=128)
def _part(part: Part) -> Any:
    return jax.jit(part)


@functools.lru_cache(maxsize=128)
def _forward(features: Part, head: Part) -> Any:
    @jax.jit
    def forward(params, inputs):
        activations = features(params, inputs)
        return activations, head(params, activations)

    return forward


@functools.lru_cache(maxsize=128)
def _maps(request: Request, head: Part) -> Any:
    function, takes = request.function, request.info.takes

    @jax.jit
    def maps(params, activations, rows, targets, *extra):
        def one(row, target):
            a = activations[row]
            if takes == "references":
                return tuple(function(params, a, head=head, target=target, references=extra[0][row]))
            if takes == "key":
                return tuple(function(params, a, jax.random.fold_in(extra[0][row], target), head=head, target=target))
            return tuple(function(params, a, head=head, target=target))

        if rows.shape[0] == 1:  # vmap over one would turn loops that stop early into slower ones
            return jax.tree.map(lambda x: x[None], one(rows[0], targets[0]))
        return jax.vmap(one)(rows, targets)

    return maps


@functools.lru_cache(maxsize=128)
def _piece(pieces: ScoreChunks, name: str) -> Any:
    return jax.jit(getattr(pieces, name))


@functools.lru_cache(maxsize=128)
def _default_references(features: Part) -> Any:
    """Activations `(b, 4, h, w, K)` of nothing, and of each picture blurred, its mean colour, and noise."""

    @jax.jit
    def references(params, inputs):
        b, s = inputs.shape[:2]
        coarse = jax.image.resize(inputs, (b, min(8, s), min(8, s), 3), "linear")
        blurred = features(params, jax.image.resize(coarse, inputs.shape, "linear"))
        plain = jnp.stack([jnp.zeros(inputs.shape[1:]), jax.random.normal(jax.random.key(0), inputs.shape[1:])])
        shared = jnp.broadcast_to(features(params, plain), (b, 2, *blurred.shape[1:]))
        return jnp.concatenate([jnp.zeros_like(blurred)[:, None], blurred[:, None], shared], axis=1)

    return references
