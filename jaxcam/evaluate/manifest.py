"""What a run is to do, as its manifest says; and whether a folder holds the same run already."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxcam import __version__
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.data.samples import Dataset
from jaxcam.errors import JaxcamError, check_known
from jaxcam.evaluate.records import Records
from jaxcam.evaluate.run import FORMAT, check_units, read_manifest, sealed, stamp
from jaxcam.evaluate.store import Writer, in_use
from jaxcam.explanation.engine import check_seed
from jaxcam.explanation.resume import code_of_others
from jaxcam.explanation.targets import of_data
from jaxcam.files import check_writable, try_lock, whole_file
from jaxcam.methods.registry import Request
from jaxcam.methods.targets import OfClasses
from jaxcam.metrics import BASELINES, METRICS, step_counts
from jaxcam.models.classifier import Classifier
from jaxcam.models.trees import flatten
from jaxcam.transforms.precision import check_precision

#: What `--keep` can name.
KEEP = ("coefficients", "maps", "curves")
#: Pictures in a unit on a processor.
BATCH = 12
_MOST_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class Options:
    """The choices of a run that its results depend on, beside the network and the data.

    Attributes:
      methods: what to evaluate.
      metrics: names of `jaxcam.metrics.METRICS`.
      layer: where the maps are made; the last convolutional layer unless given.
      reference: the method whose coefficients metrics such as `cosine` compare with.
      targets: "label" explains every class that is in the picture, "predicted" the most probable one; or a target whose
        first class is one of these, see `explanation.targets.of_data`.
      baseline: what a removed pixel becomes: "mean", "zero", "blur" or "rise".
      steps: of the insertion and deletion curves.
      start: how the picture is blurred that insertion starts from, "blur" or "rise".
      limit: pictures in each random subset; None for all pictures.
      seeds: of the subsets.
      seed: of the random methods.
      batch_size: pictures in a unit, and maps at a time.
      keep: what to keep of every map beside its numbers.
      precision: of matrix products; None for that of the network, or else the highest for what maps are made of, and
        `PASSES` for features and the scores of masked pictures.
    """

    methods: tuple[Request, ...]
    metrics: tuple[str, ...]
    layer: str | None = None
    reference: Request | None = None
    targets: str = "label"
    baseline: str = "mean"
    steps: int = 50
    start: str = "blur"
    limit: int | None = None
    seeds: tuple[int, ...] = (0,)
    seed: int = 0
    batch_size: int = BATCH
    keep: tuple[str, ...] = KEEP
    precision: str | None = None

    @property
    def needs_masks(self) -> bool:
        """Whether a metric asks for segmentation masks."""
        return any(METRICS[n].needs_masks for n in self.metrics)

    def __post_init__(self):
        check_precision(self.precision)
        labels = [m.label for m in self.methods]
        for kind, names in (("method", labels), ("metric", self.metrics), ("seed", self.seeds)):
            if not names:
                raise JaxcamError(f"no {kind} to evaluate")
            if double := [n for i, n in enumerate(names) if n in names[:i]]:
                raise JaxcamError(f"the {kind} {double[0]} is named twice")
        for kind, value in (("limit", self.limit), ("batch size", self.batch_size), ("number of steps", self.steps)):
            if value is not None and value < 1:
                raise JaxcamError(f"the {kind} must be at least 1, not {value}")
        check_seed(self.seed)
        for kind, names, known in (
            ("metric", self.metrics, METRICS), ("baseline", (self.baseline,), BASELINES),
            ("blur to start from", (self.start,), [name for name, b in BASELINES.items() if b.blurs]),
            ("array to keep", self.keep, KEEP),
        ):  # fmt: skip
            for name in names:
                check_known(kind, name, known)
        referring = [n for n in self.metrics if METRICS[n].needs_reference]
        if bool(referring) != (self.reference is not None):
            which = " and ".join(referring) or " or ".join(n for n, m in METRICS.items() if m.needs_reference)
            raise JaxcamError(f"the metric {which} and a reference method go together: name both or neither")


def make_manifest(network: Classifier, data: Dataset, options: Options, about: dict | None = None) -> dict:
    """Draws the subsets and writes down the settings: what `manifest.json` holds.

    Raises:
      JaxcamError: there are no pictures; the layer does not exist; a metric needs boxes and there are none.
    """
    if not len(data):
        raise JaxcamError(f"{data.place}: holds no pictures to evaluate")
    rules = network.preprocessing
    for name in options.metrics:
        for what, needed, there in (
            ("boxes", METRICS[name].needs_boxes, data.has_boxes), ("masks", METRICS[name].needs_masks, data.has_masks),
        ):  # fmt: skip
            if needed and not there:
                raise JaxcamError(
                    f"{data.place}: has no {what}, which the metric {name} needs; leave it out, or name --{what}"
                )
            if needed and not rules.places_boxes:
                raise JaxcamError(
                    f"the metric {name} needs {what} in the network's input, and the preprocessing of {network.name} "
                    "is a function that does not say where they come to lie; leave the metric out, or use "
                    "jaxcam.Preprocessing"
                )
    if BASELINES[options.baseline].normalizes and not isinstance(rules, Preprocessing):
        others = [name for name, b in BASELINES.items() if not b.normalizes]
        raise JaxcamError(
            f"the baseline {options.baseline} is made before normalisation, and the preprocessing of {network.name} is "
            f"a function that does both in one; take {', '.join(others[:-1])} or {others[-1]}, or use "
            "jaxcam.Preprocessing"
        )
    if any(METRICS[n].perturbation for n in options.metrics):
        step_counts(rules.shape[:2], options.steps)  # which refuses more steps than there are pixels
    position = {item.name: i for i, item in enumerate(data.items)}
    subsets = {}
    for seed in options.seeds:
        chosen = data if options.limit is None else data.subset(options.limit, seed)
        subsets[str(seed)] = [position[item.name] for item in chosen.items]
    indices = np.unique(np.concatenate([np.asarray(s, np.int64) for s in subsets.values()]))
    layer = network.resolve_layer(options.layer)
    settings = {
        "model": {
            "name": network.name, "sha256": network.digest(), "multi_label": network.multi_label,
            "classes": list(network.classes), "preprocessing": network.preprocessing.fields(),
        },
        "data": {
            "name": data.root.name if data.url else data.root.resolve().name, "kind": data.kind,
            "sha256": data.digest, "images": len(indices), "total": len(data),
            "multi_label": data.multi_label, "boxes": data.has_boxes,
            **({"masks": data.masks_digest} if options.needs_masks else {}),
        },
        "layer": layer,
        "methods": [m.label for m in options.methods],
        "metrics": list(options.metrics),
        "reference": options.reference.label if options.reference else None,
        **{k: getattr(options, k) for k in ("targets", "baseline", "steps", "limit", "seed", "batch_size")},
        **({} if options.start == "blur" else {"start": options.start}),  # runs of before it could be chosen go on
        **({"precision": asked} if (asked := options.precision or network.precision) else {}),
        "seeds": list(options.seeds),
        "keep": list(options.keep),
        **({"code": code} if (code := _code_of_others(network, options)) else {}),
        "versions": {"jaxcam": __version__, "jax": jax.__version__},
        "platform": jax.default_backend(),
    }  # fmt: skip
    return {
        "format": FORMAT,
        "settings": settings,
        "about": {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine(),
            "device": jax.devices()[0].device_kind, "provenance": network.provenance,
            "data_root": data.url or (str(data.root.resolve()) if data.root.exists() else None),
            **({"data_split": data.split} if data.split else {}), **(about or {}),
        },
        "method_info": {
            m.label: {k: getattr(m.info, k) for k in ("title", "cost", "promise", "paper")} for m in options.methods
        },
        "layer_shape": list(network.layer_shape(layer)),
        "images": {str(i): data.items[i].name for i in indices.tolist()},
        "subsets": subsets,
    }  # fmt: skip


def _code_of_others(network: Classifier, options: Options) -> dict[str, str]:
    """Digests of methods, metrics and targets that are not of this library."""
    target = of_data(network, options.targets)  # which refuses what is none
    functions: dict[str, Any] = {m.label: m.info.function for m in options.methods}
    if options.reference is not None:
        functions[options.reference.label] = options.reference.info.function
    functions |= {name: BASELINES[name].function for name in (options.baseline, options.start)}
    functions |= {name: METRICS[name].function for name in options.metrics if METRICS[name].function is not None}
    if isinstance(target, OfClasses):
        functions[options.targets] = target.form.function
    return code_of_others(functions)


def claim(folder: pathlib.Path, manifest: dict) -> tuple[Writer, Records]:
    """Makes the folder this run's, by its manifest, and opens its records; and what is there.

    Both happen under one lock: whoever else begins a run here at the same moment finds the manifest with its
    records in use, and another manifest is refused in a second, even before these are open.

    Raises:
      JaxcamError: the folder holds a run with other settings (the message names the first difference), or other
        files, or is in use, or cannot be written to.
    """
    check_writable(folder)
    with contextlib.ExitStack() as stack:
        try:
            waited = 0.0
            while (lock := try_lock(folder / "manifest.lock")) is None:  # another process has it for a moment
                if waited > 1 and (folder / "manifest.json").exists():
                    compare(folder, read_manifest(folder), manifest)
                time.sleep(0.1)
                waited += 0.1
        except OSError as e:
            raise JaxcamError(f"{folder}: cannot be written to ({e.strerror or e}); name another folder") from None
        stack.callback(lock.release)
        _write_manifest(folder, manifest)
        there = read_manifest(folder)
        records = Records(folder)
        check_units(folder, there, records)
        return Writer(folder, stamp(there)), records


def _write_manifest(folder: pathlib.Path, manifest: dict) -> None:
    """Writes the manifest unless an equal one is there. To be called by who has the manifest's lock."""
    file = folder / "manifest.json"
    if file.exists():
        try:
            return compare(folder, read_manifest(folder), manifest)
        except JaxcamError:
            # Else it was begun with a mistake and nothing is lost, or it is damaged and the records are of this run.
            run = stamp(json.loads(json.dumps(manifest)))
            if in_use(folder) or any("run" not in s or s["run"] != run for s in Records(folder).summaries()):
                raise
    elif len(Records(folder).numbers):
        raise JaxcamError(f"{folder}: holds records and no manifest.json; name another folder")
    with whole_file(file, durable=True) as f:
        f.write((json.dumps(sealed(json.loads(json.dumps(manifest))), indent=1) + "\n").encode())


def compare(folder: pathlib.Path, there: dict, asked: dict) -> None:
    """Raises a JaxcamError that names the first setting in which two manifests differ."""
    old = flatten({**there["settings"], "images": there["images"], "subsets": there["subsets"]})
    new = flatten(json.loads(json.dumps({**asked["settings"], "images": asked["images"], "subsets": asked["subsets"]})))
    for name in [*new, *(n for n in old if n not in new)]:
        if old.get(name) != new.get(name):
            raise JaxcamError(
                f"{folder}: holds a run with other settings: {name} was {_short(old.get(name))} there and is "
                f"{_short(new.get(name))} now; give the same settings to go on with it, or name another folder"
            )


def _short(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def numbered(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """`seeds` as the seeds themselves: a number means that many, from 0."""
    if isinstance(seeds, int):
        if not 1 <= seeds <= _MOST_SEEDS:
            raise JaxcamError(f"the number of seeds must lie between 1 and {_MOST_SEEDS:,}, not {seeds}")
        return tuple(range(seeds))
    if negative := [s for s in seeds if s < 0]:
        raise JaxcamError(f"the seed of a subset must be at least 0, not {negative[0]}")
    return tuple(int(s) for s in seeds)
