"""Batched, compiled and timed evaluation of the methods on one network and layer."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcam.cutting import HeadParams, head_params
from jaxcam.errors import JaxcamError
from jaxcam.explanation import compiled
from jaxcam.explanation.compiled import timed
from jaxcam.explanation.stepped import States, SteppedMaps, agreed
from jaxcam.explanation.targets import FunctionTarget
from jaxcam.methods.maps import why_empty
from jaxcam.methods.registry import METHODS, Method, Request
from jaxcam.methods.result import Inputs, scalar_score
from jaxcam.methods.signs import signed_share
from jaxcam.models.classifier import Classifier
from jaxcam.models.trees import named, on_purpose
from jaxcam.shapley.sharded import replicate
from jaxcam.transforms.arithmetic import numbers
from jaxcam.transforms.finite import origin_of_nonfinite
from jaxcam.transforms.precision import check_precision


class BadPicture(JaxcamError):
    """One picture's fault, not the network's: the others can still be explained.

    Attributes:
      source: what the picture is called.
    """

    def __init__(self, source: str, message: str):
        super().__init__(f"{source}: {message}")
        self.source = source


class Forward(NamedTuple):
    """The forward pass of a batch: `n` pictures, of which none is padding.

    Attributes:
      inputs: `(batch, s, s, C)`, padded, on the device.
      padded: `(batch, h, w, K)`, their activations, on the device.
      bypass: a pytree of the values that go around the layer, each with the axis `batch`; without leaves where none do.
      activations: `(n, h, w, K)`.
      logits: `(n, C)`.
      negative: `(n,)` which share of the sum of absolute activations is below zero, see `signs.signed_share`.
      seed: of the random keys.
      sources: what the pictures are called.
      seconds: per picture.
    """

    inputs: jax.Array
    padded: jax.Array
    bypass: Any
    activations: np.ndarray
    logits: np.ndarray
    negative: np.ndarray
    seed: int
    sources: tuple[str, ...]
    seconds: float

    @property
    def keys(self) -> jax.Array:
        """`(batch,)` random keys, which depend on the seed and on the file name of the picture alone."""
        return _keys(self.seed, (*self.sources, *[""] * (len(self.padded) - len(self.sources))))


class Maps(NamedTuple):
    """One method on `p` pairs of a picture and a class.

    Attributes:
      coefficients: `(p, K)`.
      maps, signed: `(p, h, w)`, after and before the ReLU.
      gaps: `(p,)` completeness gaps.
      evaluations: `(p,)` head evaluations spent, NaN for a method that does not count them.
      seconds: per map.
      notes: what is to be said of the references of each; None where nothing is.
      from_zero: how they are scaled, as the method's entry says.
    """

    coefficients: np.ndarray
    maps: np.ndarray
    signed: np.ndarray
    gaps: np.ndarray
    evaluations: np.ndarray
    seconds: float
    notes: tuple[str | None, ...] = ()
    from_zero: bool = False

    def left_over(self, i: int, info: Method) -> float:
        """What the channels of map `i` leave of each other at the positions, as the method's entry says."""
        return info.left_over(self.coefficients[i], self.signed[i])

    def why_empty(self, i: int, activations: np.ndarray) -> str | None:
        """Why the map of a pair shows nothing, and what is to be said of its references; None where it does."""
        why = why_empty(self.maps[i], self.coefficients[i], activations, from_zero=self.from_zero)
        return f"{why}: {self.notes[i]}" if why and self.notes and self.notes[i] else why


class Engine:
    """Runs a network and the methods in batches of fixed size, so that each is compiled once.

    The shapes of the programs depend on the batch sizes alone: neither another class nor a last batch
    that is not full compiles anything again.

    Args:
      network, layer: what is explained, and where.
      batch_size, maps_at_once: pictures, and maps, of a program.
      seed: of the methods that sample.
      mesh, states: of maps that take many steps.
      precision: of matrix products; the network's own choice, or else the highest, unless named.
      passes: the same of the network up to the layer; as `precision` unless named.
    """

    @on_purpose
    def __init__(
        self,
        network: Classifier,
        layer: str | None,
        batch_size: int,
        maps_at_once: int,
        seed: int = 0,
        *,
        mesh: Mesh | None = None,
        states: States | None = None,
        precision: str | None = None,
        passes: str | None = None,
    ):
        check_seed(seed)
        self.precision, self.passes = check_precision(precision) or network.precision, check_precision(passes)
        self.network, self.batch_size, self.maps_at_once, self.seed = network, batch_size, maps_at_once, seed
        self.features, self.head = network.split(at=layer)
        self.layer = network.resolve_layer(layer)
        self.params = compiled.on_device(network.params)
        self._at_zero: tuple[Forward | None, np.ndarray] | None = None
        self._stepped = SteppedMaps(mesh, states, self.precision)
        self._everywhere: Any = None
        self._zero_origins: dict[tuple, str] = {}

    @on_purpose
    def forward(self, inputs: np.ndarray, sources: Sequence[str]) -> Forward:
        """Activations and logits of `inputs (n, s, s, C)`, `n` at most the batch size.

        Raises:
          JaxcamError: they hold NaN or infinite values; the message names the weights, or (`BadPicture`) the picture.
        """
        n = len(inputs)
        padded = jax.device_put(filled(inputs, self.batch_size))  # jnp.asarray would compile something for it
        program = compiled.forward(self.features, self.head, self.passes)
        (activations, bypass, logits), seconds = self._timed(program, self.params, padded)
        found = np.asarray(activations)[:n]
        negative = np.asarray([signed_share(a) for a in found])
        result = Forward(
            padded, activations, bypass, found, np.asarray(logits)[:n], negative, self.seed, tuple(sources), seconds / n
        )
        for source, a, f in zip(sources, result.activations, result.logits, strict=True):
            if not (np.isfinite(a).all() and np.isfinite(f).all()):
                raise self._not_finite(source)
        return result

    def _timed(self, program: Any, *args: Any, warm: bool = True) -> tuple[Any, float]:
        return timed(program, *args, warm=warm, precision=self.precision)

    def _not_finite(self, source: str) -> JaxcamError:
        for name, value in named(self.network.params).items():
            if not np.isfinite(numbers(value)).all():
                return JaxcamError(f"{self.network.name}: the weights {name} hold NaN or infinite values")
        return BadPicture(source, f"{self.network.name} gives NaN or infinite values for it")

    @on_purpose
    def maps(
        self,
        request: Request,
        forward: Forward,
        pairs: Sequence[tuple[int, int | FunctionTarget]],
        references: jax.Array | None = None,
        done: Callable[[float], None] = lambda maps: None,
    ) -> Maps:
        """The maps of `pairs` of (row of the batch, class index or function of the logits).

        Args:
          references: inputs `(R, s, s, C)` for a method that takes reference activations; None for the default.
          done: called with the number of maps after each program, for progress; a part of one after a step of many.

        Raises:
          JaxcamError: the method is not defined for this head, or for such a target.
        """
        kinds: dict[Callable | None, list[int]] = {}
        for i, (_, target) in enumerate(pairs):
            kinds.setdefault(target.kind if isinstance(target, FunctionTarget) else None, []).append(i)
        found = [
            self._maps(request, forward, [pairs[i] for i in places], kind, references, done)
            for kind, places in kinds.items()
        ]
        order = np.argsort(np.concatenate(list(kinds.values())), kind="stable")
        coefficients, maps, signed, gaps, evaluations = (
            np.concatenate(a)[order] for a in list(zip(*found, strict=True))[:5]
        )
        seconds = sum(m.seconds * len(m.gaps) for m in found) / len(pairs)
        notes = [note for m in found for note in m.notes]
        told = tuple(notes[i] for i in order)
        return Maps(coefficients, maps, signed, gaps, evaluations, seconds, told, request.info.from_zero)

    def _maps(
        self, request: Request, forward: Forward, pairs: Sequence[tuple[int, int | FunctionTarget]],
        kind: Callable | None, references: jax.Array | None, done: Callable[[float], None],
    ) -> Maps:  # fmt: skip
        """The maps of pairs of a row and a class; of a row and a function of the logits, all of them of one kind."""
        info = request.info
        label, options = request.label, info.multi_label if self.network.multi_label else ()
        functions = [target for _, target in pairs if isinstance(target, FunctionTarget)]
        if functions:
            if info.of_logits is None:
                raise JaxcamError(
                    f"{info.title} explains classes, and {functions[0].name!r} is a function of the logits"
                )
            options = info.of_logits
        request = request.with_defaults(options)
        program = compiled.maps(request, self.head, self.network.whole, kind)
        # Columns: the row, the class or what stands for it where draws are told apart, the classes of a function.
        table = np.asarray(
            [(row, t.number, *t.classes) if isinstance(t, FunctionTarget) else (row, t) for row, t in pairs], np.int32
        )
        given, total = self._given(info.needs, forward, references)
        at_once = self.maps_at_once if info.batched else 1
        stepped = None
        if info.steps is not None:
            stepped = self._stepped.division(request, self._inputs(forward, 0, pairs[0][1], given))
        parts = []
        for start in range(0, len(pairs), at_once):
            some = table[start : start + at_once]
            if stepped is not None:
                row, target = pairs[start]
                where = (forward.sources[row], label, int(some[0, 1]))
                try:
                    result, seconds = self._stepped.run(
                        stepped, self._placed(self._inputs(forward, row, target, given)), where, done
                    )
                except JaxcamError as e:
                    note = self._not_finite_at_zero(forward, row, target)
                    raise JaxcamError(f"{e}; {note}") if note else e  # noqa: B904  # the same, and more of it
            else:
                rows, targets, *classes = map(jax.device_put, filled(some, at_once).T)
                batch = (forward.padded, forward.bypass, given, rows, targets, classes)
                result, seconds = self._timed(program, self.params, *batch, warm=at_once > 1)
            parts.append(jax.tree.map(np.asarray, result))
            total += seconds
            if stepped is None:
                done(len(some))
        coefficients, maps, diagnostics = jax.tree.map(lambda *x: np.concatenate(x)[: len(pairs)], *parts)
        if info.heads is not None and (why := info.heads.why_not(diagnostics)):
            raise JaxcamError(
                f"{info.title} is defined for {info.heads.kind}, which what follows {self.layer} in "
                f"{self.network.name} is not ({why}); use {info.heads.instead}"
            )
        gaps = diagnostics.get("completeness_gap")
        if gaps is None:
            full, zero = (_explained(z, pairs) for z in (forward.logits, self._logits_at_zero(forward)))
            difference = full - zero
            gaps = coefficients.sum(1, dtype=np.float64) - difference
        evaluations = diagnostics.get("evaluations", np.full(len(pairs), np.nan))
        left_out = diagnostics.get("references_left_out", np.zeros(len(pairs)))
        notes = tuple(
            self._note(forward, *pair, c, int(n)) for pair, c, n in zip(pairs, coefficients, left_out, strict=True)
        )
        return Maps(coefficients, maps, diagnostics["signed_map"], gaps, evaluations, total / len(pairs), notes)

    def _note(
        self, forward: Forward, row: int, target: int | FunctionTarget, coefficients: np.ndarray, left_out: int
    ) -> str | None:
        """What is to be said of the references of a map."""
        if not left_out and np.isfinite(coefficients).all():
            return None
        why = self._not_finite_at_zero(forward, row, target)
        return f"{left_out} of its references left out: {why or 'the logit is not finite there'}" if left_out else why

    def _not_finite_at_zero(self, forward: Forward, row: int, target: int | FunctionTarget) -> str | None:
        """Which operation makes F(0) not finite, and what to do; None where it is."""
        if np.isfinite(_explained(self._logits_at_zero(forward), [(row, target)])).all():
            return None
        # What is explained decides it, and the picture where values go around the layer.
        around = forward.sources[row] if jax.tree.leaves(forward.bypass) else None
        owes = (target, around)
        why = self._zero_origins.get(owes)
        if why is None:
            inputs = self._inputs(forward, row, target)
            score = scalar_score(self.head, inputs.params, inputs.target)
            origin = origin_of_nonfinite(score, jnp.zeros_like(inputs.activations))
            why = self._zero_origins[owes] = str(origin or "a constant of it is not")
        others = [name for name, m in METHODS.items() if "references" in m.needs]
        return (
            f"F(0), the logit where every activation is zero, is not finite: {why}; references at which it is, such as "
            f"activations of pictures, go into {' or '.join(others)}"
        )

    def _given(
        self, needs: Sequence[str], forward: Forward, references: jax.Array | None
    ) -> tuple[dict[str, jax.Array], float]:
        """What a method needs besides the activations, one row per picture, and the seconds it cost."""
        given, seconds = {}, 0.0
        if "key" in needs:
            given["key"] = forward.keys
        if "image" in needs:
            given["image"] = forward.inputs
        if "references" in needs and references is None:
            background = compiled.default_references(self.features)
            given["references"], seconds = self._timed(background, self.params, forward.inputs)
        elif "references" in needs:
            shared = self._timed(compiled.jitted(self.features), self.params, references)[0]
            given["references"] = jnp.broadcast_to(shared, (self.batch_size, *shared.shape))
        return given, seconds

    def _inputs(
        self, forward: Forward, row: int, target: int | FunctionTarget, given: Mapping[str, jax.Array] | None = None
    ) -> Inputs:
        """All that a method may take of one picture and target; references where they are given."""
        a, bypass, image = jax.tree.map(lambda x: x[row], (forward.padded, forward.bypass, forward.inputs))
        number, explained = (target.number, target.function) if isinstance(target, FunctionTarget) else (target, target)
        key = jax.random.fold_in(forward.keys[row], number)
        first = head_params(self.params, bypass)
        references = None if given is None or "references" not in given else given["references"][row]
        return Inputs(first, a, self.head, explained, key, references, image, self.network.whole, self.params)

    def _placed(self, inputs: Inputs) -> Inputs:
        """The same where the devices of a map find it."""
        if self._everywhere is None:
            self._everywhere = replicate(self.params, self._stepped.mesh)
        bypass = inputs.params.bypass if isinstance(inputs.params, HeadParams) else ()
        a, bypass, image, references = agreed((inputs.activations, bypass, inputs.image, inputs.references))
        first, whole = head_params(self._everywhere, bypass), self._everywhere
        return inputs._replace(params=first, activations=a, image=image, references=references, network_params=whole)

    def _logits_at_zero(self, forward: Forward) -> np.ndarray:
        """F(0), `(batch, C)`: the same for all pictures where nothing goes around the layer."""
        around = bool(jax.tree.leaves(forward.bypass))
        if self._at_zero is None or around and self._at_zero[0] is not forward:
            zeros = jnp.zeros(forward.padded.shape[0 if around else 1 :], forward.padded.dtype)
            logits, _ = self._timed(compiled.jitted(self.head), head_params(self.params, forward.bypass), zeros)
            shape = (self.batch_size, logits.shape[-1])
            self._at_zero = forward if around else None, np.broadcast_to(np.asarray(logits, np.float64), shape)
        return self._at_zero[1]


def check_seed(seed: int) -> None:
    """Raises a JaxcamError unless it is a seed that JAX takes."""
    if not -(2**63) <= seed < 2**63:
        raise JaxcamError(f"the seed must be a whole number of at most 63 bits, not {seed}")


def _explained(logits: np.ndarray, pairs: Sequence[tuple[int, int | FunctionTarget]]) -> np.ndarray:
    """F `(p,)` of pairs, from the logits `(n, C)`."""
    return np.asarray(
        [
            target.of(logits[row]) if isinstance(target, FunctionTarget) else logits[row, target]
            for row, target in pairs
        ],
        np.float64,
    )


def filled(rows: np.ndarray, count: int) -> np.ndarray:
    """`rows`, the last one repeated, to `count`."""
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


@on_purpose
def _keys(seed: int, sources: tuple[str, ...]) -> jax.Array:
    """A random key per picture: the file's name and the seed decide, not its place in a batch or folder."""
    names = [os.path.basename(source).encode("utf-8", "surrogateescape") for source in sources]
    data = jnp.asarray([zlib.crc32(name) for name in names], jnp.uint32)
    # Threefry whatever JAX's default is: others draw other numbers in a batch than alone.
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed, impl="threefry2x32"), data)
