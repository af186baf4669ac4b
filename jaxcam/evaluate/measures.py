"""The metrics of a batch of maps, as compiled programs of fixed shapes.

What is computed, and from what, stands in `jaxcam.metrics.METRICS`; here it is brought together.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam import metrics
from jaxcam.data.preprocessing import AnyPreprocessing
from jaxcam.data.samples import pad_boxes
from jaxcam.errors import JaxcamError, blaming
from jaxcam.explanation.engine import Forward, Maps, filled
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.metrics import METRICS, Metric, Perturbation, Probes, Variation
from jaxcam.metrics.drops import own_logit
from jaxcam.metrics.registry import OF_PERTURBATION
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
      made: what was made for one method and serves the others: scores by perturbation, images by variation.
    """

    some: slice
    rows: jax.Array
    of_pair: dict[str, jax.Array]
    made: dict[Any, Any]

    @property
    def pairs(self) -> int:
        """How many there are, padding aside."""
        return self.some.stop - self.some.start


class Shared(NamedTuple):
    """What the metrics of every method on a unit share: quantities of its pictures, and its pairs in pieces."""

    of_picture: dict[str, jax.Array]
    pieces: list[Piece]


#: Makes maps `(count, h, w)` of a method again, on changed images `(m, H, W, C)` of a piece. Images that have a name
#: are the same for all methods, so that their forward pass may be kept under it. With classes `(count,)`, of those.
Again = Callable[[Piece, jax.Array, Hashable | None, Sequence[int] | None], np.ndarray]


#: Called with the name of a step and what makes it; gives what this makes, or made in an earlier run.
Once = Callable[[tuple[object, ...], Callable[[], Mapping[str, Any]]], Mapping[str, Any]]


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
        self.steps, self._classes = steps, len(network.classes)
        self._baseline, self._blur = (_baseline(kind, network.preprocessing) for kind in (baseline, start))
        chosen = [METRICS[name] for name in names]
        self.needed = _with_sources({n for m in chosen for n in m.requires})
        self._groups: dict[tuple, list[Metric]] = collections.defaultdict(list)  # what one evaluation gives
        for m in chosen:
            self._groups[m.function, m.needs, m.perturbation, m.variation].append(m)

    def shared(
        self, forward: Forward, pairs: Sequence[tuple[int, int]], boxes: Sequence[np.ndarray],
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> Shared:  # fmt: skip
        """What all methods share.

        Args:
          forward: of the pictures.
          pairs: p pairs of the row of a picture and the index of a class.
          boxes: `(n_i, 4)` of each pair.
          masks: `(H, W)` of each, where it has one.
        """
        make: dict[str, Callable[[], jax.Array]] = {
            "image": lambda: forward.inputs,
            "baseline": lambda: _highest(self._baseline, forward.inputs),
            "blurred": lambda: _highest(self._blur, forward.inputs),
            "activations": lambda: forward.padded,
            "key": lambda: forward.keys,
            "logits": lambda: jnp.asarray(filled(forward.logits, self.at_once)),
        }
        pieces = []
        for start in range(0, len(pairs), self.at_once):
            some = slice(start, min(start + self.at_once, len(pairs)))
            rows, target = (jnp.asarray(x) for x in filled(np.asarray(pairs[some], np.int32), self.at_once).T)
            padded, valid = pad_boxes([*boxes[some], *[boxes[some.stop - 1]] * (start + self.at_once - some.stop)])
            of_pair = {"target": target, "boxes": jnp.asarray(padded), "valid": jnp.asarray(valid)}
            if "mask" in self.needed:
                covered = np.zeros((self.at_once, *self.size), np.float32)
                for place, mask in enumerate(masks[some] if masks else ()):
                    covered[place] = 0 if mask is None else mask
                of_pair["mask"] = jnp.asarray(covered)
            pieces.append(Piece(some, rows, of_pair, {}))
        return Shared({name: made() for name, made in make.items() if name in self.needed}, pieces)

    def of_maps(
        self, maps: Maps, shared: Shared, reference: np.ndarray | None, seconds: dict[str, float],
        check: Callable[[], None], again: Again | None = None, once: Once = lambda what, make: make(),
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:  # fmt: skip
        """Every metric `(p,)` by name, and every perturbation's scores `(p, S)` by the name they are kept under.

        Args:
          maps: of one method.
          shared: of the unit.
          reference: `(p, K)` coefficients of the reference method, where there is one.
          seconds: the time that each group of metrics took is added here.
          check: called before what takes long; may raise.
          again: the method on other images, for metrics with a variation.
          once: called with the name of a step and a function that makes it, which need not be called where it was
            made before.
        """
        given = {"map": maps.maps, "coefficients": maps.coefficients, "completeness_gap": maps.gaps}
        if reference is not None:
            given["reference"] = reference
        values: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        curves: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        for piece in shared.pieces:
            count = piece.pairs
            known = {**piece.of_pair, **{k: filled(v[piece.some], self.at_once) for k, v in given.items()}}
            if "heatmap" in self.needed:
                known["heatmap"] = _highest(heatmaps(self.size, maps.from_zero), known["map"])
            if "ranks" in self.needed:
                known["ranks"] = _highest(_ranks, known["heatmap"])
            made: dict[Any, Mapping[str, Any]] = {None: {}}  # of this method's maps
            for (_, _, perturbation, variation), alike in self._groups.items():
                names = " ".join(m.name for m in alike)
                with timed(seconds, names):
                    if perturbation not in made:
                        check()
                        kept = functools.partial(once, (piece.some.start, "scores", names))
                        made[perturbation] = self._scores(perturbation, shared, piece, known, kept)
                        if perturbation.says:
                            curves[perturbation.array].append(np.asarray(made[perturbation]["scores"])[:count])
                    if variation not in made:
                        made[variation] = {
                            "again": self._again(variation, shared, piece, known, maps.from_zero, again, check, once)
                        }
                    more = {**known, **made[perturbation], **made[variation]}
                    make = functools.partial(self._values, alike, shared, piece, more)
                    found = once((piece.some.start, "values", names), make)
                    for m in alike:
                        values[m.name].append(found[m.name])
        return {k: np.concatenate(v) for k, v in values.items()}, {k: np.concatenate(v) for k, v in curves.items()}

    def _values(
        self, alike: Sequence[Metric], shared: Shared, piece: Piece, known: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Metrics that one evaluation gives, by name."""
        m = alike[0]
        result = self._results(m.function, m.needs, m.perturbation, shared, piece, known)
        found = {m.name: np.asarray(getattr(result, m.field) if m.field else result)[: piece.pairs] for m in alike}
        for name, numbers in found.items():
            if numbers.ndim != 1 or numbers.dtype.kind not in "fiub":
                shape = f"{numbers.dtype} of shape {numbers.shape[1:]}"
                raise JaxcamError(f"the metric {name} gives {shape} for a map, not one number")
        return found

    def _results(
        self, function: Callable | None, needs: tuple[str, ...], perturbation: Perturbation | Probes | None,
        shared: Shared, piece: Piece, known: Mapping[str, Any],
    ) -> Any:  # fmt: skip
        """A function of every map of a piece, given only what it needs, lest other shapes compile it anew."""
        if function is None:
            return known[needs[0]]
        of_picture, of_map = _wanted(needs, shared, known)
        counts = perturbation.points(self.size, self.steps) if perturbation else np.zeros(0)
        if OF_PERTURBATION.issuperset(needs):
            program = _over_maps(function, needs, {"counts": counts})
        else:
            taken = self.predict if "predict" in needs else None
            program = _compiled(function, needs, taken, self.score, tuple(counts.tolist()))
        precision = self.precision if "predict" in needs else HIGHEST
        return _at(precision, program, self.params if "params" in needs else None, of_picture, piece.rows, of_map)

    def _scores(
        self, probes: Perturbation | Probes, shared: Shared, piece: Piece, known: Mapping[str, Any],
        once: Callable[[Callable[[], Mapping[str, Any]]], Mapping[str, Any]],
    ) -> Mapping[str, Any]:  # fmt: skip
        """What the class gets on the images of a perturbation: scores, log-odds and logits `(m, S)`, and all logits."""
        if probes in piece.made:
            return piece.made[probes]

        def make() -> dict[str, jax.Array]:
            points = probes.points(self.size, self.steps)
            program = _probed(probes, self.predict, self.score)
            of_picture, of_map = _wanted((*probes.needs, "target"), shared, known)
            parts = [
                _at(self.precision, program, self.params, of_picture, piece.rows, of_map, jnp.asarray(some))
                for some in (filled(points[i : i + _POINTS], _POINTS) for i in range(0, len(points), _POINTS))
            ]
            return {k: jnp.concatenate([p[k] for p in parts], axis=1)[:, : len(points)] for k in parts[0]}

        found = once(make)
        if not _of_the_map(probes.needs):
            piece.made[probes] = found
        return found

    def _again(
        self, variation: Variation, shared: Shared, piece: Piece, known: Mapping[str, Any], from_zero: bool,
        again: Again | None, check: Callable[[], None], once: Once,
    ) -> jax.Array:  # fmt: skip
        """The heatmaps `(m, n, H, W)` of the method on changed images, laid back."""
        if again is None:
            raise JaxcamError(f"the variation {variation.name} needs the method, to call it again")
        images = piece.made.get(variation)
        if images is None:
            of_picture, of_map = _wanted(variation.needs, shared, known)
            images = _highest(_varied(variation), of_picture, piece.rows, of_map)
            if not _of_the_map(variation.needs):
                piece.made[variation] = images
        found, others = [], None
        if variation.other_class:
            drawn = _other_classes(self._classes)(shared.of_picture["key"], piece.rows, piece.of_pair["target"])
            others = np.asarray(drawn)[: piece.pairs].tolist()
        for i in range(variation.count):
            check()
            name = None if _of_the_map(variation.needs) else (piece.some.start, variation, i)
            make = functools.partial(_as_maps, again, piece, images[:, i], name, others)
            maps = filled(np.asarray(once((piece.some.start, variation.name, i), make)["maps"]), self.at_once)
            shown = _highest(heatmaps(self.size, from_zero, variation.back), maps)
            unknown = jnp.asarray(np.isnan(maps).any((1, 2), keepdims=True))  # a map of NaN would be scaled to zeros
            found.append(jnp.where(unknown, jnp.nan, shown))
        return jnp.stack(found, axis=1)


def _as_maps(again: Again, *args: Any) -> dict[str, np.ndarray]:
    return {"maps": again(*args)}


#: Quantities that are made from others.
_SOURCES = {"heatmap": {"map"}, "ranks": {"heatmap"}, "original": {"logits", "target"}}
#: Those that a method makes.
_OF_METHOD = {"map", "coefficients", "completeness_gap"}


def _with_sources(needs: Collection[str]) -> set[str]:
    found = set(needs)
    while more := {source for name in found for source in _SOURCES.get(name, ())} - found:
        found |= more
    return found


def _of_the_map(needs: Collection[str]) -> bool:
    """Whether it depends on what a method has made."""
    return not _OF_METHOD.isdisjoint(_with_sources(needs))


def _wanted(needs: Collection[str], shared: Shared, known: Mapping[str, Any]) -> tuple[dict, dict]:
    """Of the quantities of pictures and of maps those that a program takes."""
    wanted = {*needs, *(_SOURCES["original"] if "original" in needs else ())}
    return {k: v for k, v in shared.of_picture.items() if k in wanted}, {k: v for k, v in known.items() if k in wanted}


def _over_maps(function: Callable, needs: tuple[str, ...], constants: Mapping[str, Any]) -> Callable:
    """`function` of the maps of a piece, as a function of what `_taken` gives."""

    def one(params, of_picture, row, of_map):
        known = {**constants, "params": params, **of_map, **{k: v[row] for k, v in of_picture.items()}}
        if "original" in needs:
            known["original"] = metrics.log_odds(known["logits"], known["target"], score=constants["score"])
        with blaming(f"the metric function {getattr(function, '__name__', function)}"):
            return function(**{name: known[name] for name in needs})

    return jax.vmap(one, (None, None, 0, 0))


@functools.lru_cache(maxsize=64)
def _compiled(
    function: Callable, needs: tuple[str, ...], predict: LogitsFunction | None, score: str,
    counts: tuple[float, ...] = (),
) -> Callable:  # fmt: skip
    constants = {"predict": predict, "score": score, "counts": np.asarray(counts)}
    return jax.jit(for_cpu(at_precision(_over_maps(function, needs, constants))))


def _at(precision: str, program: Callable, *args: Any) -> Any:
    with choosing(precision):
        return program(*args)


def _highest(program: Callable, *args: Any) -> Any:
    return _at(HIGHEST, program, *args)


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


@functools.lru_cache(maxsize=16)
def heatmaps(
    size: tuple[int, int], from_zero: bool = False, back: Callable[[jax.Array], jax.Array] | None = None
) -> Callable:
    """Maps `(n, h, w)` as the metrics see them: of a size, scaled, and laid `back` where they are of changed images."""

    def one(map):
        shown = scale_map(resize_map(map, size), from_zero=from_zero)
        return shown if back is None else back(shown)

    return jax.jit(jax.vmap(one))


@functools.lru_cache(maxsize=32)
def _probed(probes: Perturbation | Probes, predict: LogitsFunction, score: str) -> Callable:
    @jax.jit
    @for_cpu
    @at_precision
    def run(params, of_picture, rows, of_map, points):
        def one(row, own):
            known = own | {k: v[row] for k, v in of_picture.items()}

            def at(point):
                logits = predict(params, probes.image(point, **{k: known[k] for k in probes.needs}))
                odds = metrics.log_odds(logits, known["target"], score=score)
                own = own_logit(logits, known["target"])
                return {"scores": jax.nn.sigmoid(odds), "odds": odds, "outputs": own, "answers": logits}

            return jax.vmap(at)(points)

        return jax.vmap(one)(rows, of_map)

    return run


@functools.lru_cache(maxsize=32)
def _varied(variation: Variation) -> Callable:
    def one(of_picture, row, of_map):
        known = of_map | {k: v[row] for k, v in of_picture.items()}
        return variation.function(**{k: known[k] for k in variation.needs})

    return jax.jit(jax.vmap(one, (None, 0, 0)))


@functools.lru_cache(maxsize=8)
def _other_classes(classes: int) -> Callable:
    drawn = jax.vmap(lambda key, target: metrics.another_class(key, target, classes))
    return jax.jit(lambda keys, rows, targets: drawn(keys[rows], targets))


@functools.lru_cache(maxsize=8)
def _baseline(kind: str, preprocessing: AnyPreprocessing) -> Callable:
    return jax.jit(jax.vmap(functools.partial(metrics.baseline, kind, normalize=preprocessing.normalize)))


_ranks = jax.jit(jax.vmap(metrics.pixel_ranks))


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the wall time of a block, compilation included where there is any, to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
