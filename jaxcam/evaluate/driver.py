"""The run itself: which units are missing, who makes them, and the commit of each."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import dataclasses
import itertools
import os
import pathlib
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcam.data.evaluation import load_dataset
from jaxcam.data.loader import Loaded, stream
from jaxcam.data.samples import Dataset
from jaxcam.errors import JaxcamError
from jaxcam.evaluate.cluster import Cluster, Task
from jaxcam.evaluate.manifest import BATCH, KEEP, Options, claim, make_manifest, numbered
from jaxcam.evaluate.records import Records
from jaxcam.evaluate.run import Run, read_manifest, read_run, stamp, units_of
from jaxcam.evaluate.store import arrays_file
from jaxcam.evaluate.unfinished import close, forget
from jaxcam.evaluate.units import on_a_processor
from jaxcam.evaluate.work import Done, Stopped, Worker
from jaxcam.explanation.engine import Engine
from jaxcam.explanation.explain import requested
from jaxcam.explanation.targets import PREDICTED, first_class, of_data
from jaxcam.methods import DEFAULT_METHOD
from jaxcam.methods.registry import METHODS, Request, request
from jaxcam.metrics import METRICS
from jaxcam.metrics.registry import chosen
from jaxcam.models.classifier import Classifier
from jaxcam.transforms.memory import is_a_processor, room_for

#: Pictures in the programs of a small run, however many would fit.
_USUAL = 16


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
      done: pictures done, in earlier runs too.
      total: pictures of the run.
      rate: pictures a second in this run, 0 before the first unit.
      broken: pictures that could not be used.
      spoilt: units that were found damaged in the records, and are made again.
    """

    done: int
    total: int
    rate: float
    broken: int
    spoilt: int = 0


def evaluate(
    network: Classifier,
    data: Dataset | str | os.PathLike | tuple[Iterable, Iterable],
    *,
    methods: str | Sequence[str] = (DEFAULT_METHOD,),
    metrics: str | Sequence[str] | None = None,
    out: str | os.PathLike,
    limit: int | None = None,
    seeds: int | Sequence[int] = 1,
    layer: str | None = None,
    targets: str = "label",
    reference: str | None = None,
    controls: bool = False,
    baseline: str = "mean",
    steps: int = 50,
    start: str = "blur",
    batch_size: int | None = None,
    keep: Sequence[str] = KEEP,
    seed: int = 0,
    precision: str | None = None,
    devices: Sequence[Any] | None = None,
    decoders: int = 0,
    cluster: Cluster | None = None,
    progress: Callable[[Progress], None] = lambda state: None,
    about: dict | None = None,
) -> Run:
    """Evaluates methods on a data set, or goes on with an evaluation that was stopped.

    The pictures are dealt into units of `batch_size`, in the order of the data set; a unit is made by one device and
    committed whole. What a unit holds depends on the settings alone, and the keys of random methods on `seed` and the
    picture's name: neither kills, nor devices, nor clusters change a bit of the results (times excepted).
    Several devices make a unit each at the same time; every one of them compiles its own programs.

    Args:
      network: from `jaxcam.load`, or your own from `jaxcam.wrap`.
      data: the pictures, or their folder (see `jaxcam.data.evaluation.load_dataset`); or `(pictures, labels)`: paths,
        bytes, `PIL.Image`s or arrays, and of each its class or classes (see `jaxcam.data.samples.Dataset.of`).
      methods: names, with options where wanted: `shap_cam:num_permutations=100`; or "all" that are defined (named
        beside "all", one keeps its options).
      metrics: names of `jaxcam.metrics.METRICS`; or "all" that are defined for the data, but for those that call the
        methods again; or a kind of `jaxcam.metrics.KINDS`, such as "localisation". IC, AD and ADD unless given.
      out: the run's folder; holds nothing yet, or the same run.
      limit: draw random subsets of this many pictures, one per seed; None for all pictures. A picture in several
        subsets is evaluated once.
      seeds: of the subsets, or how many of them.
      layer: where the maps are made; the network's default layer, the last convolutional one, unless given.
      targets: "label" explains every class that is in a picture, "predicted" the most probable class; or a target whose
        first class is one of these words, as in "against_rest:label" or "label - rival", where rival is the most
        probable other class. The metrics are always those of the first class.
      reference: method whose coefficients the metric `cosine` compares with; it adds that metric. So for every other
        metric that needs a reference.
      controls: add the methods that know nothing of the class, Random-CAM and the uniform map: rows that every table
        needs. They cost their measures, as two methods more.
      baseline: what a removed pixel becomes: "mean", "zero", "blur" or "rise" (as RISE's code blurs).
      steps: of the insertion and deletion curves; each costs steps + 1 runs of the network per map.
      start: how the picture is blurred that insertion starts from: "blur", or "rise" for figures beside RISE's.
      batch_size: pictures in a unit, and maps at a time; unless given that of the run in the folder, or chosen from the
        device's memory; on a CPU at most 12, and as few as take half a minute (one for methods that make a map at a
        time), which is what is lost when the run is killed.
      keep: of "coefficients", "maps" and "curves", what to keep of every map.
      seed: of the random methods.
      precision: of matrix products, as in `jaxcam.explain`. Unless given what `jaxcam.wrap` was told; else the highest
        for all that maps are made of, and "tf32" for forward passes of the network and of its masked pictures, whose
        scores are no small differences. (Of CPUs all is float32.)
      devices: to compute on; the local ones of the default backend unless given.
      decoders: processes that decode pictures; threads of this one where there are none.
      cluster: actors of a Ray cluster that make the units in place of this process; it is not closed.
      progress: called with a `Progress` after every unit.
      about: more facts for the manifest.

    Returns:
      The run.

    Raises:
      JaxcamError: the settings make no sense, a method is not defined for the network, the folder holds another run
        or is in use, or the disk is full. What was committed is kept.
    """
    if decoders < 0:
        raise JaxcamError(f"the number of processes that decode must be at least 0, not {decoders}")
    folder = pathlib.Path(out)
    root = data.root if isinstance(data, Dataset) else data
    if isinstance(root, str | os.PathLike) and os.path.realpath(root) == os.path.realpath(folder):
        raise JaxcamError(f"{folder}: holds the pictures; name another folder for the run")
    if isinstance(data, tuple):
        data = Dataset.of(*data, classes=network.classes)
    elif not isinstance(data, Dataset):
        data = load_dataset(data)
    data, known = _for_network(network, data, targets)
    pictures = len(data) if limit is None else limit
    seen = cluster.look(pictures) if cluster else None
    placed = network.preprocessing.places_boxes
    asked = _with_controls(_methods(network, methods, layer, folder), controls)
    measured = _metrics(metrics, data.has_boxes and placed, data.has_masks and placed, reference)
    if batch_size is None:
        batch_size = _begun_with(folder)
    if batch_size is None and (seen.platform == "cpu" if seen else is_a_processor()):
        every = (*asked, *([] if reference is None else [request(reference)]))
        batch_size = on_a_processor(network, every, measured, steps)
    elif batch_size is None:
        batch_size = seen.batch_size if seen else room_for(BATCH, most=pictures)
    options = Options(
        methods=asked, metrics=measured,
        layer=layer, reference=None if reference is None else request(reference), targets=targets, baseline=baseline,
        steps=steps, start=start, limit=limit, seeds=numbered(seeds), seed=seed, batch_size=batch_size,
        keep=tuple(keep), precision=precision,
    )  # fmt: skip
    manifest = make_manifest(network, data, options, about)
    if seen:
        manifest["settings"]["platform"], manifest["about"]["device"] = seen.platform, seen.device
    units = units_of(manifest)
    writer, records = claim(folder, manifest)
    with writer:
        present = _present(folder, options, records)
        missing = [n for n in range(len(units)) if n not in present]
        forget(folder, present)
        if missing:
            used = list(devices if devices is not None else jax.local_devices())[: len(missing)]
            watch = _Watch(progress, units, present, records.spoilt)
            stop = threading.Event()
            # No program is made for more pictures than a unit holds; but for the usual number it is always the same.
            own = dataclasses.replace(options, batch_size=min(options.batch_size, max(_USUAL, len(units[0]))))
            with contextlib.ExitStack() as stack:
                if cluster:
                    tasks = [Task(n, [(int(i), data.items[i]) for i in units[n]]) for n in missing]
                    made = cluster.units(network, own, known, tasks)
                else:
                    make = _makers(network, own, known, used, stop, folder, stamp(manifest))
                    loaded = _loaded(network, data, units, missing, options.needs_masks, decoders)
                    stack.enter_context(contextlib.closing(loaded))
                    made = _made(make, zip(missing, loaded, strict=True), len(used), stop)
                stack.enter_context(contextlib.closing(made))
                for done in made:
                    writer.append(*done)
                    forget(folder, [done.summary["unit"]])
                    watch.committed(done)
        close(folder)
        return read_run(folder)


def _for_network(network: Classifier, data: Dataset, targets: str) -> tuple[Dataset, bool]:
    """The data with the network's classes; and whether it has these. Where it need not, labels and boxes are void."""
    try:
        return data.for_classes(network.classes), True
    except JaxcamError:
        if first_class(of_data(network, targets)) != PREDICTED:
            raise
    bare = tuple(dataclasses.replace(i, boxes={}, masks={}) for i in data.items)
    return dataclasses.replace(data, items=bare), False


def _methods(
    network: Classifier, asked: str | Sequence[str], layer: str | None, folder: pathlib.Path
) -> tuple[Request, ...]:
    listed = [asked] if isinstance(asked, str) else list(asked)
    everything, every = requested(listed) if listed else (False, {})
    if not everything:
        return tuple(request(text) for text in listed)
    with contextlib.suppress(JaxcamError):  # what "all" meant when the run was begun
        return tuple(request(text) for text in read_manifest(folder)["settings"]["methods"])
    return tuple(r for r in every.values() if r.info.heads is None or _is_defined(network, r, layer))


def _with_controls(methods: tuple[Request, ...], wanted: bool) -> tuple[Request, ...]:
    there = {m.name for m in methods}
    more = [name for name, info in METHODS.items() if wanted and info.control and name not in there]
    return (*methods, *map(request, more))


def _begun_with(folder: pathlib.Path) -> int | None:
    """The batch size of the run in a folder, on whatever device it was begun; None where there is none."""
    with contextlib.suppress(JaxcamError):
        return read_manifest(folder)["settings"]["batch_size"]
    return None


def _is_defined(network: Classifier, method: Request, layer: str | None) -> bool:
    """Whether a method that is for particular heads is for this one, by trying it."""
    engine = Engine(network, layer, 1, 1)
    noise = np.random.default_rng(0).normal(size=(1, *network.preprocessing.shape)).astype(np.float32)
    try:
        engine.maps(method, engine.forward(noise, ["noise"]), [(0, 0)], None)
    except JaxcamError:
        return False
    return True


def _metrics(asked: str | Sequence[str] | None, boxes: bool, masks: bool, reference: str | None) -> tuple[str, ...]:
    """The names of the metrics; of "all" and of kinds, those that the data allow."""
    referring = [name for name, m in METRICS.items() if m.needs_reference]
    if asked is None:
        listed = [name for name, m in METRICS.items() if m.default]
    else:
        words = [asked] if isinstance(asked, str) else list(asked)
        listed = [name for word in words for name in chosen(word, boxes=boxes, masks=masks)]
        if any(len(chosen(word)) > 1 for word in words):  # which may name one twice
            listed = list(dict.fromkeys(listed))
    if reference is not None and not set(referring) & set(listed):
        listed += referring
    return tuple(listed)


def _present(folder: pathlib.Path, options: Options, records: Records) -> dict[int, int]:
    """The units that are there with all that belongs to them, and how many of their pictures could not be used."""
    each = zip(records.numbers.tolist(), records.counts.tolist(), records.faulty.tolist(), strict=True)
    return {
        number: faulty
        for number, count, faulty in each
        if not options.keep or not count or arrays_file(folder, number).is_file()
    }


def _loaded(
    network: Classifier,
    data: Dataset,
    units: Sequence[np.ndarray],
    missing: Sequence[int],
    masks: bool,
    decoders: int,
) -> Generator[list[Loaded], None, None]:
    """The decoded pictures of the missing units, made in the background."""
    places = np.concatenate([units[n] for n in missing])
    items = [data.items[i] for i in places]
    # A unit is being made, and one waits: the next is decoded meanwhile.
    ahead = max(32, 2 * max(len(units[n]) for n in missing))
    decoded: Any = stream(items, network.preprocessing, ahead=ahead, masks=masks, processes=decoders)
    served = (dataclasses.replace(x, index=int(i)) for i, x in zip(places, decoded, strict=True))
    with contextlib.closing(decoded):
        for n in missing:
            yield list(itertools.islice(served, len(units[n])))


def _makers(
    network: Classifier, options: Options, known: bool, devices: Sequence[Any], stop: threading.Event,
    folder: pathlib.Path, run: str,
) -> Callable[[int, Sequence[Loaded]], Done]:  # fmt: skip
    """A function that makes a unit; each thread that calls it takes a device of its own."""
    local, free = threading.local(), list(devices)

    def make(number: int, loaded: Sequence[Loaded]) -> Done:
        if not hasattr(local, "device"):
            local.device = free.pop()
        with jax.default_device(local.device):
            if not hasattr(local, "worker"):
                here = network.with_params(jax.device_put(network.params, local.device))
                local.worker = Worker(here, options, known_labels=known, stopping=stop.is_set, folder=folder, run=run)
            return local.worker.unit(number, loaded)

    return make


def _made(
    make: Callable[[int, Sequence[Loaded]], Done],
    units: Iterable[tuple[int, list[Loaded]]],
    devices: int,
    stop: threading.Event,
) -> Generator[Done, None, None]:
    """Units as they are finished; one more than there are devices is always waiting, decoded."""
    waiting: set[cf.Future] = set()
    with cf.ThreadPoolExecutor(devices, thread_name_prefix="evaluate") as pool:
        try:
            for number, loaded in units:
                waiting.add(pool.submit(make, number, loaded))
                if len(waiting) > devices:
                    finished, waiting = cf.wait(waiting, return_when=cf.FIRST_COMPLETED)
                    for future in finished:
                        yield future.result()
            for future in cf.as_completed(waiting):
                yield future.result()
        except Stopped:  # pragma: no cover - only after `stop`, when nobody reads any more
            pass
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


class _Watch:
    """Counts what is done and how fast."""

    def __init__(
        self,
        report: Callable[[Progress], None],
        units: Sequence[np.ndarray],
        present: dict[int, int],
        spoilt: int,
    ):
        self.report, self.start, self.spoilt = report, time.perf_counter(), spoilt
        self.total = sum(map(len, units))
        self.before = self.done = sum(len(units[n]) for n in present)
        self.broken = sum(present.values())
        report(Progress(self.done, self.total, 0.0, self.broken, spoilt))

    def committed(self, done: Done) -> None:
        self.done += done.summary["images"]
        self.broken += len(done.summary["broken"])
        rate = (self.done - self.before) / (time.perf_counter() - self.start)
        self.report(Progress(self.done, self.total, rate, self.broken, self.spoilt))
