"""One unit of a run: a batch of pictures, every method on it, every metric of every map."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.data.stream import Loaded
from jaxcam.errors import JaxcamError
from jaxcam.evaluate.plan import Options
from jaxcam.evaluate.programs import Programs
from jaxcam.explanation.engine import Engine, Forward, Maps
from jaxcam.methods.maps import why_empty
from jaxcam.models.classifier import Classifier


class Stopped(Exception):
    """The run is being ended; the unit is given up."""


class Done(NamedTuple):
    """What `Writer.append` takes."""

    summary: dict
    records: list[dict]
    arrays: dict[str, np.ndarray]


class Worker:
    """Evaluates units on one device. Everything it makes lies on the default device of the thread that calls it.

    Args:
      network: the network.
      options: the settings of the run.
      known_labels: whether the labels of the pictures are classes of the network.
      stopping: asked now and then; where it says so the unit is given up.
    """

    def __init__(
        self, network: Classifier, options: Options, *, known_labels: bool = True, stopping: Callable[[], bool]
    ):
        self.network, self.options = network, options
        self.known_labels, self.stopping = known_labels, stopping
        self.engine = Engine(network, options.layer, options.batch_size, options.batch_size, seed=options.seed)
        self.programs = Programs(network, options.batch_size, options.baseline, options.steps)

    def unit(self, number: int, loaded: Sequence[Loaded]) -> Done:
        """Evaluates the pictures of a unit. A picture that cannot be used is named in the summary, with the reason.

        Raises:
          JaxcamError: a method is not defined for this network.
          Stopped: `stopping` says so.
        """
        begin = time.perf_counter()
        broken = {x.item.name: x.error for x in loaded if x.error is not None}
        good = [x for x in loaded if x.error is None]
        forward = self._forward(good, broken)
        good = [x for x in good if x.item.name not in broken]
        seconds: dict[str, Any] = {
            "decode": sum(x.seconds for x in loaded), "forward": 0.0, "methods": {}, "metrics": {},
        }  # fmt: skip
        records: list[dict] = []
        arrays: dict[str, np.ndarray] = {}
        if forward is not None:
            seconds["forward"] = forward.seconds * len(good)
            pairs = self._pairs(good, forward.logits)
            if pairs:
                records, arrays = self._evaluate(good, forward, pairs, seconds)
        seconds["total"] = time.perf_counter() - begin
        problems = [list(p) for x in loaded for p in x.problems]
        summary = {"unit": number, "images": len(loaded), "broken": broken, "problems": problems, "seconds": seconds}
        return Done(summary, records, arrays)

    def _forward(self, good: Sequence[Loaded], broken: dict[str, str]) -> Forward | None:
        """The forward pass; pictures for which the network gives no finite numbers are added to `broken`."""
        if not good:
            return None
        inputs = np.asarray(self.network.preprocessing.normalize(np.stack([np.asarray(x.pixels) for x in good])))
        names = [x.item.name for x in good]
        try:
            return self.engine.forward(inputs, names)
        except JaxcamError:
            pass
        fine = []
        for i, name in enumerate(names):
            try:
                self.engine.forward(inputs[i : i + 1], [name])
                fine.append(i)
            except JaxcamError as e:
                broken[name] = str(e)
        if not fine:  # not the pictures: the weights, or all of the data
            raise JaxcamError(next(iter(broken.values())))
        return self.engine.forward(inputs[fine], [names[i] for i in fine])

    def _pairs(self, good: Sequence[Loaded], logits: np.ndarray) -> list[tuple[int, int]]:
        if self.options.targets == "predicted":
            return [(row, int(z.argmax())) for row, z in enumerate(logits)]
        return [(row, target) for row, x in enumerate(good) for target in x.item.labels]

    def _evaluate(
        self, good: Sequence[Loaded], forward: Forward, pairs: list[tuple[int, int]], seconds: dict
    ) -> tuple[list[dict], dict[str, np.ndarray]]:
        """The records, pairs outermost, and what is kept, in the same order."""
        options = self.options
        inputs = _Inputs(self, good, forward, pairs)
        probabilities = np.asarray(self.network.probabilities(jnp.asarray(forward.logits)))
        common = [self._common(good[row], target, forward.logits[row], probabilities[row]) for row, target in pairs]
        requests = {m.label: m for m in (*options.methods, *([options.reference] if options.reference else ()))}
        found: dict[str, Maps] = {}
        for label, request in requests.items():
            self._check()
            with _timed(seconds["methods"], label):
                found[label] = self.engine.maps(request, forward, pairs, None)
        reference = found[options.reference.label].coefficients if options.reference else None
        columns: list[list[dict]] = []
        kept: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        for method in options.methods:
            maps = found[method.label]
            values, curves = self._metrics(inputs, maps, reference, seconds["metrics"])
            columns.append([
                {
                    **common[i], "method": method.label, **{k: values[k][i] for k in options.metrics},
                    "completeness_gap": maps.gaps[i], "evaluations": maps.evaluations[i], "seconds": maps.seconds,
                    "empty": why_empty(maps.coefficients[i], forward.activations[row]) or "",
                }
                for i, (row, _) in enumerate(pairs)
            ])  # fmt: skip
            if "coefficients" in options.keep:
                kept["coefficients"].append(maps.coefficients)
                if reference is not None:
                    kept["reference"].append(reference)
            if "maps" in options.keep:
                kept["maps"].append(maps.maps)
            if "curves" in options.keep:
                for name, curve in curves.items():
                    kept[name].append(curve)
        records = [column[i] for i in range(len(pairs)) for column in columns]
        arrays = {k: np.stack(v, axis=1).reshape(-1, *v[0].shape[1:]).astype(np.float32) for k, v in kept.items()}
        return records, arrays

    def _common(self, x: Loaded, target: int, logits: np.ndarray, probabilities: np.ndarray) -> dict:
        return {
            "index": x.index, "image": x.item.name, "target": target, "class": self.network.classes[target],
            "label": float(target in x.item.labels) if self.known_labels else np.nan,
            "predicted": int(logits.argmax()), "score": probabilities[target], "logit": logits[target],
        }  # fmt: skip

    def _check(self) -> None:
        if self.stopping():
            raise Stopped

    def _metrics(
        self, inputs: _Inputs, maps: Maps, reference: np.ndarray | None, seconds: dict[str, float]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Every metric `(p,)` and every curve `(p, S)` of the maps of one method."""
        programs, wanted, params = self.programs, self.options.metrics, self.engine.params
        parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        for piece in inputs.pieces():
            some = slice(piece.start, piece.start + piece.size)
            heatmaps = programs.heatmaps(jnp.asarray(_filled(maps.maps[some], programs.at_once)))
            where = (piece.rows, heatmaps, piece.targets)
            if not {"ic", "ad", "add"}.isdisjoint(wanted):
                with _timed(seconds, "confidence"):
                    found = programs.confidence(params, inputs.images, inputs.baselines, inputs.logits, *where)
                    for name in ("ic", "ad", "add"):
                        parts[name].append(np.asarray(getattr(found, name))[: piece.size])
            for name in ("insertion", "deletion"):
                if name in wanted:
                    self._check()
                    start, end = inputs.ends(name)
                    with _timed(seconds, name):
                        scores, area = programs.curve(params, start, end, *where)
                    parts[name].append(area[: piece.size])
                    parts[f"{name}_curve"].append(scores[: piece.size])
            if "pointing" in wanted:
                with _timed(seconds, "pointing"):
                    parts["pointing"].append(programs.pointing(heatmaps, *piece.boxes)[: piece.size])
            if reference is not None:
                both = (_filled(x[some], programs.at_once) for x in (maps.coefficients, reference))
                parts["cosine"].append(programs.cosine(*both)[: piece.size])
        joined = {k: np.concatenate(v) for k, v in parts.items()}
        curves = {k: joined.pop(k) for k in list(joined) if k.endswith("_curve")}
        return joined | {"gap": maps.gaps}, curves


class _Piece(NamedTuple):
    """Pairs `start` to `start + size` of a unit, filled up to the size of a program."""

    start: int
    size: int
    rows: jax.Array
    targets: jax.Array
    boxes: tuple[jax.Array, jax.Array]


class _Inputs:
    """What the metrics of every method on a unit share."""

    def __init__(self, worker: Worker, good: Sequence[Loaded], forward: Forward, pairs: list[tuple[int, int]]):
        programs, size = worker.programs, worker.options.batch_size
        self.programs, self.images = programs, forward.inputs
        self.baselines = programs.baselines(forward.inputs)
        self.logits = jnp.asarray(_filled(forward.logits, size))
        self._pieces = []
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            rows, targets = (jnp.asarray(x) for x in _filled(np.asarray(some, np.int32), size).T)
            boxes = [good[row].boxes.get(target, np.zeros((0, 4), np.float32)) for row, target in some]
            padded = programs.boxes(boxes + [boxes[-1]] * (size - len(some)))
            self._pieces.append(_Piece(start, len(some), rows, targets, padded))
        self._blurred: jax.Array | None = None

    def pieces(self) -> Iterator[_Piece]:
        """The pairs of the unit, as many at a time as the programs take."""
        yield from self._pieces

    def ends(self, curve: str) -> tuple[jax.Array, jax.Array]:
        """Where a curve starts, and where it ends."""
        if curve == "deletion":
            return self.images, self.baselines
        if self._blurred is None:
            self._blurred = self.programs.blurred(self.images)
        return self._blurred, self.images


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    """`values`, the last one repeated, to `size` rows."""
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the wall time of a block, compilation included where there is any, to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
