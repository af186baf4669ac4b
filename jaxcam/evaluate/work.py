"""One unit of a run: a batch of pictures, every method on it, every metric of every map."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcam.data.loader import Loaded
from jaxcam.errors import JaxcamError
from jaxcam.evaluate.manifest import Options
from jaxcam.evaluate.measures import Measures, Piece, timed
from jaxcam.evaluate.unfinished import Unfinished
from jaxcam.explanation.engine import Engine, Forward, Maps
from jaxcam.explanation.targets import PREDICTED, FunctionTarget, first_class, of_data, of_picture
from jaxcam.methods.registry import Request
from jaxcam.models.classifier import Classifier
from jaxcam.models.trees import on_purpose
from jaxcam.shapley.stepping import State
from jaxcam.transforms.precision import PASSES


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
      folder: of the run, in which parts of a unit are kept until it is committed; None to keep none.
      run: a digest of the run's settings.
    """

    @on_purpose
    def __init__(
        self, network: Classifier, options: Options, *, known_labels: bool = True, stopping: Callable[[], bool],
        folder: pathlib.Path | None = None, run: str = "",
    ):  # fmt: skip
        self.folder, self.run = folder, run
        self.kept = Unfinished()
        self.network, self.options = network, options
        self.known_labels, self.stopping = known_labels, stopping
        self.target = of_data(network, options.targets)
        asked = options.precision or network.precision
        self.engine = Engine(
            network, options.layer, options.batch_size, options.batch_size, seed=options.seed, precision=asked,
            passes=asked or PASSES, states=_States(self),
        )  # fmt: skip
        self.measures = Measures(
            network, self.engine.params, options.metrics, batch_size=options.batch_size, baseline=options.baseline,
            steps=options.steps, start=options.start, precision=asked or PASSES,
        )  # fmt: skip

    @on_purpose
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
                self.kept = Unfinished(self.folder, number, functools.partial(_described, self.run, forward, pairs))
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
        """Pairs of a row and a class, the one that is measured."""
        if first_class(self.target) == PREDICTED:
            return [(row, int(z.argmax())) for row, z in enumerate(logits)]
        return [(row, target) for row, x in enumerate(good) for target in x.item.labels]

    def _evaluate(
        self, good: Sequence[Loaded], forward: Forward, pairs: list[tuple[int, int]], seconds: dict
    ) -> tuple[list[dict], dict[str, np.ndarray]]:
        """The records, pairs outermost, and what is kept, in the same order."""
        options = self.options
        none = np.zeros((0, 4), np.float32)
        boxes = [good[row].boxes.get(target, none) for row, target in pairs]
        masks = [good[row].masks.get(target) for row, target in pairs]
        shared = self.measures.shared(forward, pairs, boxes, masks)
        probabilities = self.network.probabilities(forward.logits)
        common = [self._common(good[row], target, forward.logits[row], probabilities[row]) for row, target in pairs]
        requests = {m.label: m for m in (*options.methods, *([options.reference] if options.reference else ()))}
        found: dict[str, Maps] = {}
        for label, request in requests.items():
            self._check()
            with timed(seconds["methods"], label):
                found[label] = self._maps(request, forward, pairs)
        reference = found[options.reference.label].coefficients if options.reference else None
        columns: list[list[dict]] = []
        passes: dict[Hashable, Forward] = {}
        kept: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        for method in options.methods:
            maps = found[method.label]
            again = functools.partial(self._again, method, forward, pairs, passes)
            with self.kept.within(method.label):
                values, curves = self.measures.of_maps(
                    maps, shared, reference, seconds["metrics"], self._check, again, self.kept.once
                )
            columns.append([
                {
                    **common[i], "method": method.label, **{k: values[k][i] for k in options.metrics},
                    "completeness_gap": maps.gaps[i], "evaluations": maps.evaluations[i], "seconds": maps.seconds,
                    "empty": maps.why_empty(i, forward.activations[row]) or "",
                    "negative": forward.negative[row],
                    "left_over": maps.left_over(i, method.info),
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

    def _maps(self, request: Request, forward: Forward, pairs: Sequence[tuple[int, int]]) -> Maps:
        def make() -> dict[str, np.ndarray]:
            return _arrays(self.engine.maps(request, forward, self._explained(forward, pairs), None))

        return _maps(self.kept.once(("maps", request.label), make))

    def _explained(self, forward: Forward, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int | FunctionTarget]]:
        """Pairs of a row and what is explained of it."""
        return [(row, of_picture(self.network, self.target, forward.logits[row], first)) for row, first in pairs]

    def _again(
        self, request: Request, original: Forward, pairs: Sequence[tuple[int, int]],
        passes: dict[Hashable, Forward], piece: Piece, images: jax.Array, name: Hashable | None,
        classes: Sequence[int] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """The maps of a method on changed images of a piece; NaN where the network gives no finite numbers for one."""
        own = pairs[piece.some]
        if classes is not None:
            own = [(row, other) for (row, _), other in zip(own, classes, strict=True)]
        targets = [target for _, target in self._explained(original, own)]

        def seen(rows: Sequence[int]) -> Forward:
            return self.engine.forward(
                np.asarray(images)[np.asarray(rows)], [original.sources[own[i][0]] for i in rows]
            )

        def maps(rows: Sequence[int], forward: Forward) -> np.ndarray:
            return self.engine.maps(request, forward, [(i, targets[row]) for i, row in enumerate(rows)], None).maps

        everything = range(len(own))
        try:
            forward = passes.get(name) if name is not None else None
            if forward is None:
                forward = seen(everything)
            if name is not None:
                passes[name] = forward
            return maps(everything, forward)
        except JaxcamError:  # of one picture, most likely
            found = np.full((len(own), *self.network.layer_shape(self.engine.layer)[:2]), np.nan, np.float32)
            for i in range(len(own)):
                with contextlib.suppress(JaxcamError):
                    found[i] = maps([i], seen([i]))[0]
            return found

    def _common(self, x: Loaded, target: int, logits: np.ndarray, probabilities: np.ndarray) -> dict:
        return {
            "index": x.index, "image": x.item.name, "target": target, "class": self.network.classes[target],
            "label": float(target in x.item.labels) if self.known_labels else np.nan,
            "predicted": int(logits.argmax()), "score": probabilities[target], "logit": logits[target],
            "boxes": ";".join(" ".join(f"{v:.5g}" for v in box) for box in x.boxes.get(target, ())),
        }  # fmt: skip

    def _check(self) -> None:
        if self.stopping():
            raise Stopped


class _States(NamedTuple):
    """Where the states of the maps of the unit at hand are kept."""

    worker: Worker

    def load(self, source: str, label: str, target: int, kinds: tuple[type, ...]) -> State | None:
        return self.worker.kept.load(source, label, target, kinds)

    def save(self, source: str, label: str, target: int, state: State, last: bool) -> None:
        self.worker.kept.save(source, label, target, state, last)


def _described(run: str, forward: Forward, pairs: Sequence[tuple[int, int]]) -> str:
    """All that the results of a unit depend on: settings, pictures as they were decoded, and what is explained."""
    inputs = hashlib.sha256(np.asarray(forward.inputs).tobytes()).hexdigest()
    return f"{run} {inputs} {forward.sources} {list(pairs)}"


def _arrays(maps: Maps) -> dict[str, np.ndarray]:
    """What a method made as arrays by name."""
    return {k: np.asarray(json.dumps(v) if k == "notes" else v) for k, v in maps._asdict().items()}


def _maps(arrays: Mapping[str, np.ndarray]) -> Maps:
    """What `_arrays` was given."""
    told: dict[str, Any] = dict(arrays)
    told |= {"notes": tuple(json.loads(str(arrays["notes"]))), "from_zero": bool(arrays["from_zero"])}
    return Maps(**told | {"seconds": float(arrays["seconds"])})
