"""`jaxcam evaluate`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxcam.cli import arguments, networks, plugins, python
from jaxcam.cli.memory import keep_freed_memory
from jaxcam.cli.progress import Lines, clock, note
from jaxcam.cli.table import new_console
from jaxcam.errors import JaxcamError, visible
from jaxcam.methods import DEFAULT_METHOD

if TYPE_CHECKING:
    from jaxcam.evaluate.cluster import Cluster
    from jaxcam.evaluate.driver import Progress
    from jaxcam.evaluate.run import Run


#: Seconds after the first unit, with which all is compiled, that the time of a run is predicted from.
_FIRST = 60.0


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "evaluate", help="measure how good the methods' maps are on a data set", allow_abbrev=False,
        description="Makes the maps of every picture by every method and measures them. A run that was stopped, in "
        "whatever way, goes on when the command is given again, and ends with the same table.",
    )  # fmt: skip
    p.add_argument(
        "data", metavar="DATA", help="a folder with CLASS/PICTURE, an ILSVRC tree, a PASCAL VOC devkit, COCO, tar "
        "shards (shard-{000..127}.tar), a URL such as s3://bucket/val, what Hugging Face's (also hf://NAME) or TFDS's "
        "library wrote, or ArrayRecord files; name it before the options",
    )  # fmt: skip
    p.add_argument("--out", required=True, metavar="RUN", help="the run's folder")
    networks.add_options(p)
    p.add_argument(
        "--methods", "--method", nargs="+", action="extend", metavar="M", help="methods of `jaxcam methods`, with "
        f"options where wanted (shap_cam:num_permutations=100), or all (default: {DEFAULT_METHOD})",
    )  # fmt: skip
    p.add_argument(
        "--metrics", "--metric", nargs="+", action="extend", metavar="M", help="metrics of `jaxcam metrics`, or all "
        "that the data allow and that call no method again, or a kind such as localisation (default: those marked "
        "there)",
    )  # fmt: skip
    p.add_argument("--reference", metavar="M", help="add the cosine of the coefficients with those of this method")
    p.add_argument(
        "--controls", action="store_true", help="add rows for Random-CAM and the uniform map, which know nothing of "
        "the class",
    )  # fmt: skip
    p.add_argument("--limit", type=int, metavar="N", help="random subsets of N pictures (default: all pictures)")
    p.add_argument("--seeds", type=int, default=1, metavar="N", help="how many such subsets (default: 1)")
    p.add_argument(
        "--targets", "--target", default="label", metavar="T", help="explain every class that is in a picture, label, "
        "or the most probable one, predicted; or a kind of `jaxcam targets` that begins with one of these, as in "
        "against_rest:label or 'label - rival', where rival is the most probable other class (default: label)",
    )  # fmt: skip
    p.add_argument("--layer", metavar="L", help="where to make the maps (default: the network's last)")
    p.add_argument(
        "--baseline", default="mean", metavar="B", help="what removed pixels become: mean, zero, blur or rise "
        "(default: mean)",
    )  # fmt: skip
    p.add_argument("--steps", type=int, default=50, metavar="N", help="of insertion and deletion (default: 50)")
    p.add_argument(
        "--start", default="blur", metavar="B", help="how the picture is blurred that insertion starts "
        "from: by a Gaussian, or exactly as RISE's code does (default: blur)",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="of the random methods (default: 0)")
    p.add_argument(
        "--batch-size", type=int, metavar="N", help="photos and maps at a time, and what is lost when the run is "
        "killed (default: by the device's memory; on a processor at most 12, and as few as take half a minute)",
    )  # fmt: skip
    networks.add_precision(p, "highest for the maps, tf32 for forward passes of the network and its masked photos")
    p.add_argument(
        "--keep", nargs="+", default=None, metavar="WHAT", help="of every map: coefficients, maps, curves, or none "
        "(default: all three; a report shows only what was kept)",
    )  # fmt: skip
    p.add_argument(
        "--kind", metavar="KIND", help="folder, voc, coco, tar, url, hf, tfds or array-record (default: recognised)"
    )
    p.add_argument("--split", metavar="NAME", help="part of the data set, such as val or test")
    p.add_argument("--boxes", metavar="FILE|DIR", help="boxes that lie elsewhere: a CSV file or a folder of XML files")
    p.add_argument(
        "--masks", metavar="DIR", help="segmentation masks: a PNG for each picture, of its name, alone or in folders "
        "of the classes; the object is where it is not 0",
    )  # fmt: skip
    p.add_argument(
        "--decoders", type=int, default=0, metavar="N", help="processes that decode pictures (default: threads of "
        "this one)",
    )  # fmt: skip
    p.add_argument("--class-names", metavar="CSV", help="lines folder,name: what to call the class of each folder")
    p.add_argument("--include-hard", action="store_true", help="count objects marked difficult (VOC) or crowd (COCO)")
    p.add_argument(
        "--ray", metavar="local|ADDRESS", help="have the workers of a Ray cluster make the maps, each on a device of "
        "its own: one on this machine, auto for the one it is part of, or HOST:6379",
    )  # fmt: skip
    p.add_argument(
        "--workers", type=int, metavar="N", help="of the cluster (default: one for each of its GPUs or TPU chips, or "
        "else for each node)",
    )  # fmt: skip
    p.add_argument(
        "--worker-resources", nargs="+", metavar="NAME=N", help="what each takes, by Ray's names, as in GPU=1 CPU=4",
    )  # fmt: skip
    p.add_argument(
        "--dry-run", nargs="?", type=int, const=1, metavar="DEVICES", help="make a few batches in a folder of their "
        "own, and say what the run would take on so many devices like this one (default: 1)",
    )  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command; 1 where some of the pictures could not be used."""
    methods = arguments.methods(options.methods) or [DEFAULT_METHOD]
    options.metrics = arguments.names(options.metrics) or None
    if options.ray is None:  # else the devices are its workers'
        networks.prepare(options)
    from jaxcam.methods.registry import request

    for name in (*(m for m in methods if m != "all"), *filter(None, [options.reference])):
        request(name)  # errors that need neither data nor network
    keep_freed_memory()
    from jaxcam.data.datasets import read_class_names
    from jaxcam.data.evaluation import load_dataset
    from jaxcam.data.samples import tally
    from jaxcam.evaluate import evaluate

    names = read_class_names(pathlib.Path(options.class_names)) if options.class_names else None
    data = load_dataset(
        options.data, kind=options.kind, split=options.split, boxes=options.boxes, masks=options.masks, names=names,
        include_hard=options.include_hard,
    )  # fmt: skip
    say: Callable[[str], None] = (lambda line: None) if options.quiet else (lambda line: print(visible(line)))
    for line in data.summary():
        say(line)
    networks.keep(options)
    cluster = _cluster(options)
    network = networks.load(options)
    if not options.quiet:
        for line in _cost_of_precision(options, network, data, methods):
            say(line)
    settings: dict[str, Any] = {
        name: getattr(options, name) for name in (
            "metrics", "limit", "seeds", "layer", "targets", "reference", "controls", "baseline", "steps", "start",
            "batch_size", "seed", "precision", "decoders",
        )
    } | {"methods": methods, "keep": _kept(options.keep)}  # fmt: skip
    if options.dry_run is not None:
        return _say_estimate(network, data, settings, options.dry_run)
    with cluster or contextlib.nullcontext(), _progress(options.quiet) as report:
        watch = _Watch(report)
        found = evaluate(
            network, data, **settings, out=options.out, cluster=cluster, progress=watch,
            about={
                "command": shlex.join(["jaxcam", *options.arguments]),
                **({"plugins": list(map(python.resolved, options.plugin))}
                   if options.plugin else {}),
            },
        )  # fmt: skip
    if found.complete and not watch.worked:
        say(f"{options.out}: this run was finished before; nothing was left to do")
    if watch.spoilt:
        parts, were = ("part", "was") if watch.spoilt == 1 else ("parts", "were")
        note(f"{options.out}: {watch.spoilt} damaged {parts} of the records {were} made again")
    if not options.quiet:
        _summary(found)
        if watch.spent:
            say(watch.spent)
    for line in tally(found.problems):
        note(f"left out: {line}")
    for name, why in found.broken.items():
        told = why if name in why or visible(name) in why else f"{name}: {why}"
        note("broken: " + " ".join(told.split()))
    if found.broken:
        note(f"{len(found.broken)} of {len(found.images)} pictures could not be used")
    return 1 if found.broken else 0


def _cluster(options: argparse.Namespace) -> Cluster | None:
    """The cluster that the options name; this process then leaves the devices to its workers."""
    if options.ray is None or options.dry_run is not None:
        if options.ray is None and (options.workers is not None or options.worker_resources):
            raise JaxcamError("--workers and --worker-resources are for --ray")
        return None
    resources = {}
    for text in options.worker_resources or ():
        name, _, amount = text.partition("=")
        try:
            resources[name] = float(amount)
        except ValueError:
            raise JaxcamError(f"--worker-resources must be NAME=N, as in GPU=1, not {text!r}") from None
    import jax

    from jaxcam.evaluate.cluster import Cluster

    make = functools.partial(networks.from_python, python.resolved(options.model)) if networks.is_own(options) else None
    first = functools.partial(plugins.load, [python.resolved(source) for source in options.plugin])
    found = Cluster(options.ray, options.workers, resources or None, network=make, first=first)
    jax.config.update("jax_platforms", "cpu")  # this process writes; the devices are the workers'
    return found


def _say_estimate(network: Any, data: Any, settings: dict[str, Any], devices: int) -> int:
    """Tells what the run would take; nothing is written to its folder."""
    from jaxcam.evaluate.estimate import estimate

    if devices < 1:
        raise JaxcamError(f"--dry-run is for at least 1 device, not {devices}")
    found = estimate(network, data, **settings)
    on = "1 device" if devices == 1 else f"{devices} devices like this one"
    rate = (
        f"{found.per_picture:.2g} s a picture" if found.per_picture > 0.1 else f"{1 / found.per_picture:.0f} pictures/s"
    )
    memory = f", {found.memory / 2**30:.1f} GiB of memory" if found.memory else ""
    print(f"{found.pictures:,} pictures in {found.units:,} batches; {found.tried} of them tried")
    print(f"{clock(found.seconds(devices))} on {on}: {rate}, as {found.passes:.0f} forward passes of the network would "
          f"take, and {found.starting:.0f} s to compile")  # fmt: skip
    print(f"{found.disk / 2**20:,.1f} MiB of disk{memory}")
    return 0


def _cost_of_precision(options: argparse.Namespace, network: Any, data: Any, methods: Sequence[str]) -> list[str]:
    """What a lower precision does to the maps of the first picture that can be read; nothing of the usual one."""
    from jaxcam.explanation.lower_precision import told

    for item in data.items:
        with contextlib.suppress(JaxcamError):
            picture = item.open()
            return told(
                network, picture, precision=options.precision, methods=methods, layer=options.layer, seed=options.seed
            )
    return []


def _kept(asked: Sequence[str] | None) -> tuple[str, ...]:
    from jaxcam.evaluate.manifest import KEEP

    if asked is None:
        return KEEP
    if "none" in asked and len(asked) > 1:
        raise JaxcamError("--keep none stands alone")
    return () if "none" in asked else tuple(k for k in KEEP if k in asked) or tuple(asked)


class _Watch:
    """Hands on the progress, and remembers whether there was any, how long, and what was damaged before."""

    def __init__(self, report: Callable[[Progress], None]):
        self.report, self.worked, self.spoilt = report, False, 0
        self._begun, self._predicted = time.perf_counter(), 0.0
        self._first: tuple[float, int] | None = None

    @property
    def spent(self) -> str:
        """Seconds, beside what the first minute said; nothing of a shorter run."""
        if not self._predicted:
            return ""
        spent = time.perf_counter() - self._begun
        return f"{clock(spent)} spent; {clock(self._predicted)} were predicted after the first minute"

    def __call__(self, state: Progress) -> None:
        self.worked, self.spoilt = self.worked or state.rate > 0, state.spoilt
        spent = time.perf_counter() - self._begun
        if self._first is None and state.rate > 0:
            self._first = spent, state.done
        elif self._first is not None and not self._predicted and spent > self._first[0] + _FIRST:
            rate = (state.done - self._first[1]) / (spent - self._first[0])
            self._predicted = spent + (state.total - state.done) / rate
        self.report(state)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar with rate and time left on a terminal; a line every minute elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if quiet:
        yield lambda state: None
        return
    if not console.is_terminal:
        lines = Lines()
        yield lambda state: lines(lambda: f"{state.done} of {state.total} pictures, {_pace(state)}")
        return
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=None)

        def report(state: Progress) -> None:
            bar.update(task, completed=state.done, total=state.total, description=_pace(state))

        yield report


def _pace(state: Progress) -> str:
    """Rate, time left, and broken pictures, in words."""
    if not state.rate:
        return "compiling"
    left = clock((state.total - state.done) / state.rate)
    rate = f"{state.rate:.1f} pictures/s" if state.rate >= 1 else f"{1 / state.rate:.1f} s/picture"
    return f"{rate}, {left} left" + (f", {state.broken} broken" if state.broken else "")


def _summary(found: Run) -> None:
    """The table, and what there is to know beside it."""
    from jaxcam.evaluate.statistics import summarise
    from jaxcam.evaluate.tables import main_table, terminal

    if len(found):
        console = new_console()
        console.print(terminal(main_table(found, summarise(found)), console.width))
    empty = int((found.columns["empty"] != "").sum())
    done = sum(unit["images"] for unit in found.units)
    line = f"{len(found)} maps of {done} pictures in {found.folder}"
    if empty:
        line += f"; {empty} maps show nothing"
    print(visible(line))
