"""The metrics of a batch of maps, as compiled programs of fixed shapes.

What is computed, and from what, stands in `jaxcam.metrics.METRICS`; here it is brought together.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam import metrics
from jaxcam.data.preprocessing import AnyPreprocessing
from jaxcam.data.samples import pad_boxes
from jaxcam.explanation.engine import Forward, Maps
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.metrics import METRICS, Metric, Perturbation
from jaxcam.models.classifier import Classifier, LogitsFunction
from jaxcam.transforms.convolutions import for_cpu
from jaxcam.transforms.precision import HIGHEST, PASSES, at_precision, choosing

#: Points of a perturbation that are evaluated at once, for each map of a batch.
_POINTS = 2


class Piece(NamedTuple):
    """As many pairs of a unit as a program takes.

    Attributes:
      some: which pairs.
      rows: the picture of each, filled up to the size of a program.
      of_pair: quantities of each that no map changes, filled up likewise.
    """

    some: slice
    rows: jax.Array
    of_pair: dict[str, jax.Array]


class Shared(NamedTuple):
    """What the metrics of every method on a unit share: quantities of its pictures, and its pairs in pieces."""

    of_picture: dict[str, jax.Array]
    pieces: list[Piece]


class Measures:
    """Some metrics on one network.

    Each program takes what it needs of a whole unit and picks its pictures by `rows`, so that its shapes,
    and hence its compiled form, are the same for every unit.

    Args:
      network: the network.
      params: its parameters, on the device.
      names: of the metrics.
      batch_size: m, pictures of a unit and maps per call.
      baseline: what a removed pixel becomes.
      steps: of the perturbations.
      start: how the picture is blurred that insertion starts from.
      precision: of the network on masked pictures.
    """

    def __init__(
        self,
        network: Classifier,
        params: Any,
        names: Sequence[str],
        *,
        batch_size: int,
        baseline: str,
        steps: int,
        start: str = "blur",
        precision: str = PASSES,
    ):
        self.precision = precision
        self.params, self.predict, self.at_once = params, _one_batch(network.whole), batch_size
        self.score = "sigmoid" if network.multi_label else "softmax"
        self.size = network.preprocessing.shape[:2]
        self.counts = metrics.step_counts(self.size, steps)
        self._baseline, self._blur = (_baseline(kind, network.preprocessing) for kind in (baseline, start))
        chosen = [METRICS[name] for name in names]
        self.needed = _with_sources({n for m in chosen for n in m.requires})
        self._groups: dict[tuple, list[Metric]] = collections.defaultdict(list)  # what one evaluation gives
        for m in chosen:
            self._groups[m.function, m.needs, m.perturbation].append(m)

    def shared(self, forward: Forward, pairs: Sequence[tuple[int, int]], boxes: Sequence[np.ndarray]) -> Shared:
        """What all methods share.

        Args:
          forward: of the pictures.
          pairs: p pairs of the row of a picture and the index of a class.
          boxes: `(n_i, 4)` of each pair.
        """
        make: dict[str, Callable[[], jax.Array]] = {
            "image": lambda: forward.inputs,
            "baseline": lambda: _highest(self._baseline, forward.inputs),
            "blurred": lambda: _highest(self._blur, forward.inputs),
            "activations": lambda: forward.padded,
            "logits": lambda: jnp.asarray(_filled(forward.logits, self.at_once)),
        }
        pieces = []
        for start in range(0, len(pairs), self.at_once):
            some = slice(start, min(start + self.at_once, len(pairs)))
            rows, target = (jnp.asarray(x) for x in _filled(np.asarray(pairs[some], np.int32), self.at_once).T)
            padded, valid = pad_boxes([*boxes[some], *[boxes[some.stop - 1]] * (start + self.at_once - some.stop)])
            of_pair = {"target": target, "boxes": jnp.asarray(padded), "valid": jnp.asarray(valid)}
            pieces.append(Piece(some, rows, of_pair))
        return Shared({name: made() for name, made in make.items() if name in self.needed}, pieces)

    def of_maps(
        self, maps: Maps, shared: Shared, reference: np.ndarray | None, seconds: dict[str, float],
        check: Callable[[], None],
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:  # fmt: skip
        """Every metric `(p,)` by name, and every perturbation's scores `(p, S)` by the name they are kept under.

        Args:
          maps: of one method.
          shared: of the unit.
          reference: `(p, K)` coefficients of the reference method, where there is one.
          seconds: the time that each group of metrics took is added here.
          check: called before what takes long; may raise.
        """
        given = {"map": maps.maps, "coefficients": maps.coefficients, "completeness_gap": maps.gaps}
        if reference is not None:
            given["reference"] = reference
        values: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        curves: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        for piece in shared.pieces:
            count = piece.some.stop - piece.some.start
            known = {**piece.of_pair, **{k: _filled(v[piece.some], self.at_once) for k, v in given.items()}}
            if "heatmap" in self.needed:
                known["heatmap"] = _highest(_heatmaps(self.size, maps.from_zero), known["map"])
            scores: dict[Perturbation | None, dict[str, jax.Array]] = {None: {}}
            for (function, needs, perturbation), alike in self._groups.items():
                with timed(seconds, " ".join(m.name for m in alike)):
                    if perturbation not in scores:
                        check()
                        scores[perturbation] = {"scores": self._scores(perturbation, shared, piece, known)}
                        curves[perturbation.array].append(np.asarray(scores[perturbation]["scores"])[:count])
                    result = self._results(function, needs, shared, piece, known | scores[perturbation])
                    for m in alike:
                        values[m.name].append(np.asarray(getattr(result, m.field) if m.field else result)[:count])
        return {k: np.concatenate(v) for k, v in values.items()}, {k: np.concatenate(v) for k, v in curves.items()}

    def _results(
        self, function: Callable | None, needs: tuple[str, ...], shared: Shared, piece: Piece, known: Mapping[str, Any]
    ) -> Any:
        """A function of every map of a piece, given only what it needs, lest other shapes compile it anew."""
        if function is None:
            return known[needs[0]]
        wanted = _with_sources(needs)
        of_picture, of_map = ({k: v for k, v in x.items() if k in wanted} for x in (shared.of_picture, known))
        if "scores" in needs or "counts" in needs:
            constants = {"predict": self.predict, "score": self.score, "counts": self.counts}
            program = _over_maps(function, needs, constants)
        else:
            program = _compiled(function, needs, self.predict if "predict" in needs else None, self.score)
        precision = self.precision if "predict" in needs else HIGHEST
        return _at(precision, program, self.params if "params" in needs else None, of_picture, piece.rows, of_map)

    def _scores(self, p: Perturbation, shared: Shared, piece: Piece, known: Mapping[str, Any]) -> jax.Array:
        """`(m, S)`, while the pixels of the start become those of the end, most relevant first."""
        ranks = _highest(_ranks, known["heatmap"])
        start, end = shared.of_picture[p.start], shared.of_picture[p.end]
        program = _curve(self.predict, self.score)
        parts = [
            _at(
                self.precision,
                program,
                self.params,
                start,
                end,
                piece.rows,
                ranks,
                jnp.asarray(counts),
                known["target"],
            )
            for counts in _chunks(np.asarray(self.counts), _POINTS)
        ]
        return jnp.concatenate(parts, axis=1)[:, : len(self.counts)]


#: Quantities that are made from others.
_SOURCES = {"heatmap": {"map"}, "original": {"logits", "target"}}


def _with_sources(needs: Collection[str]) -> set[str]:
    return {*needs, *(source for name in needs for source in _SOURCES.get(name, ()))}


def _over_maps(function: Callable, needs: tuple[str, ...], constants: Mapping[str, Any]) -> Callable:
    """`function` of the maps of a piece, as a function of what `_taken` gives."""

    def one(params, of_picture, row, of_map):
        known = {**constants, "params": params, **of_map, **{k: v[row] for k, v in of_picture.items()}}
        if "original" in needs:
            known["original"] = metrics.log_odds(known["logits"], known["target"], score=constants["score"])
        return function(**{name: known[name] for name in needs})

    return jax.vmap(one, (None, None, 0, 0))


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable, needs: tuple[str, ...], predict: LogitsFunction | None, score: str) -> Callable:
    return jax.jit(for_cpu(at_precision(_over_maps(function, needs, {"predict": predict, "score": score}))))


def _at(precision: str, program: Callable, *args: Any) -> Any:
    with choosing(precision):
        return program(*args)


def _highest(program: Callable, *args: Any) -> Any:
    return _at(HIGHEST, program, *args)


def _chunks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`values` in pieces of `size`, the last one filled up with its last value."""
    for start in range(0, len(values), size):
        piece = values[start : start + size]
        yield np.concatenate([piece, np.repeat(piece[-1:], size - len(piece))])


@functools.lru_cache(maxsize=8)
def _one_batch(predict: LogitsFunction) -> LogitsFunction:
    """`predict` under nested vmaps as one batch of images: XLA's CPU backend divides that better among the cores.

    The passes of a VGG took 6.1 ms an image as `(12, 2)` images, and 4.2 as 24.
    """

    @jax.custom_batching.custom_vmap
    def many(params, images):
        return jax.vmap(predict, (None, 0))(params, images)

    @many.def_vmap
    def _(size, batched, params, images):
        if any(jax.tree.leaves(batched[0])) or not batched[1]:
            axes = tuple(jax.tree.map(lambda b: 0 if b else None, which) for which in batched)
            return jax.vmap(jax.vmap(predict, (None, 0)), axes)(params, images), True
        out = many(params, images.reshape(-1, *images.shape[2:]))
        return out.reshape(size, -1, *out.shape[1:]), True

    return lambda params, image: many(params, image[None])[0]


@functools.lru_cache(maxsize=8)
def _heatmaps(size: tuple[int, int], from_zero: bool = False) -> Callable:
    return jax.jit(jax.vmap(lambda map: scale_map(resize_map(map, size), from_zero=from_zero)))


@functools.lru_cache(maxsize=8)
def _curve(predict: LogitsFunction, score: str) -> Callable:
    @jax.jit
    @for_cpu
    @at_precision
    def curve(params, start, end, rows, ranks, counts, targets):
        def one(row, rank, target):
            return metrics.curve_scores(
                params, rank, counts, start[row], end[row], predict=predict, target=target, score=score
            )

        return jax.vmap(one)(rows, ranks, targets)

    return curve


@functools.lru_cache(maxsize=8)
def _baseline(kind: str, preprocessing: AnyPreprocessing) -> Callable:
    return jax.jit(jax.vmap(functools.partial(metrics.baseline, kind, normalize=preprocessing.normalize)))


_ranks = jax.jit(jax.vmap(metrics.pixel_ranks))


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    """`values`, the last one repeated, to `size` rows."""
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the wall time of a block, compilation included where there is any, to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
