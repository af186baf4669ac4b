"""`jaxcam train`."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxcam.cli.table import new_console
from jaxcam.errors import JaxcamError, check_known, visible
from jaxcam.models.registry import FAMILIES, architecture, architectures
from jaxcam.training.recipe import Recipe

#: Fields of a network's configuration that the command sets: type, meaning, which values are right, and what they are.
FIELDS: dict[str, tuple[type, str, Callable[[Any], bool], str]] = {
    "width": (float, "multiplier on every layer's channels (default: 1)", lambda v: 0 < v < math.inf, "be positive"),
    "hidden": (int, "VGG: neurons in each dense layer (default: 4096 times the width)", lambda v: v >= 1,
               "be at least 1"),
    "pool_size": (int, "VGG: side of the average pool before them (default: 7)", lambda v: v >= 1, "be at least 1"),
    "dropout": (float, "VGG: rate in the dense layers (default: 0.5)", lambda v: 0 <= v < 1, "lie in [0, 1)"),
    "zero_init_residual": (bool, "ResNet: start each block as the identity", bool, ""),
}  # fmt: skip
#: Fields of `Recipe` that are plain numbers, and their meaning.
NUMBERS = {
    "eval_size": "side of the validation pictures, and the network's input, in pixels",
    "batch_size": "pictures a step",
    "learning_rate": "peak of the cosine",
    "warmup": "epochs of linear rise before the peak",
    "weight_decay": "decoupled, on kernels only",
    "label_smoothing": "for single-label data",
    "ema": "decay of the average of the weights that is evaluated and released",
    "min_scale": "smallest share of a picture's area that a training crop keeps",
    "seed": "decides initialisation, order, augmentation and dropout",
    "views": "with --freeze or --teacher: pictures made of each training picture, itself and augmented ones",
    "temperature": "with --teacher: by which both networks' logits are divided",
    "teacher_weight": "with --teacher: of what it says; the labels have the rest",
}
DEFAULT_ARCHITECTURE = "vgg16_bn"
SCHEDULE = ",".join(f"{size}x{epochs}" for size, epochs in Recipe().schedule)


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "train", help="train a network on a folder of pictures", allow_abbrev=False,
        description="Trains a network and writes RUN/network, which --model takes. A run that was interrupted goes "
        "on when the command is given again.",
    )  # fmt: skip
    p.add_argument(
        "data", metavar="DATA", help="a folder with train/CLASS/PICTURE and val/CLASS/PICTURE, or CLASS/PICTURE, "
        "or a PASCAL VOC devkit (multi-label)",
    )  # fmt: skip
    p.add_argument("--out", required=True, metavar="RUN", help="the run's folder")
    p.add_argument(
        "--arch", metavar="NAME", help=f"{', '.join(architectures())} (default: {DEFAULT_ARCHITECTURE}, or --init's)"
    )
    p.add_argument(
        "--init", metavar="NAME|FOLDER|FILE", help="begin with the weights of this network, which decides the "
        "architecture; for other classes its last layer is drawn anew. A file of weights may lack the dense layers, "
        "which --arch, --hidden and --pool-size describe then",
    )  # fmt: skip
    p.add_argument(
        "--freeze", metavar="LAYER", help="keep --init's layers up to this one as they are; what they give "
        "is computed once and kept in RUN/features",
    )  # fmt: skip
    p.add_argument(
        "--teacher", metavar="NAME|FOLDER|FILE", help="learn what this network says of each picture, which knows the "
        "data's classes by their names; its logits are computed once and kept in RUN/features",
    )  # fmt: skip
    for name, (kind, meaning, _, _) in FIELDS.items():
        form: dict[str, Any] = {"action": "store_const", "const": True} if kind is bool else {"type": kind}
        p.add_argument("--" + name.replace("_", "-"), help=meaning, **form)
    p.add_argument(
        "--schedule", default=SCHEDULE, metavar="SIZExEPOCHS,...", help=f"progressive resizing (default: {SCHEDULE})"
    )
    for name, meaning in NUMBERS.items():
        default = getattr(Recipe(), name)
        p.add_argument(
            "--" + name.replace("_", "-"), type=type(default), default=default, help=f"{meaning} (default: {default:g})"
        )
    p.add_argument("--class-names", metavar="CSV", help="lines folder,name: what to call the class of each folder")
    p.add_argument(
        "--holdout", type=float, default=0.2, help="share held out where the data have no validation (default: 0.2)"
    )
    p.add_argument("--eval-every", type=int, default=1, metavar="EPOCHS", help="between validations (default: 1)")
    p.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS", help="besides epochs (default: 100)")
    p.add_argument("--fold", action="store_true", help="release with batch norm folded into the convolutions")
    p.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the released weights")
    p.add_argument("--name", help="the released network's name (default: that of the run's folder)")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Trains, and writes the metrics, the learning curve and the network."""
    of_file = options.init is not None and pathlib.Path(options.init).is_file()
    fields = _fields(options) if options.init is None or of_file else {}
    schedule = _schedule(options.schedule)
    for name in ("eval_every", "checkpoint_every"):
        if getattr(options, name) < 1:
            raise JaxcamError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")

    from jaxcam.data.datasets import read_class_names, train_and_validation
    from jaxcam.explanation.figures import learning_curve
    from jaxcam.training.release import metric, release
    from jaxcam.training.train import Trainer
    from jaxcam.zoo.load import begin_with, load

    for name in ("temperature", "teacher_weight"):
        if options.teacher is None and getattr(options, name) != getattr(Recipe(), name):
            raise JaxcamError(f"--{name.replace('_', '-')} is of no use without --teacher")
    numbers = {name: getattr(options, name) for name in NUMBERS}
    recipe = Recipe(schedule=schedule, freeze=options.freeze or "", **numbers)
    names = read_class_names(pathlib.Path(options.class_names)) if options.class_names else None
    _check_apart(pathlib.Path(options.data), pathlib.Path(options.out))
    train, val = train_and_validation(pathlib.Path(options.data), names=names, holdout=options.holdout)
    classes = len(train.classes)
    arch = options.arch or (None if of_file and not fields else DEFAULT_ARCHITECTURE)
    config = architecture(arch, num_classes=classes, **fields) if arch else None
    init = begin_with(options.init, config if of_file else None) if options.init else None
    if init is not None:
        config = init.config.replace(num_classes=classes)
    assert config is not None
    teacher = load(options.teacher) if options.teacher else None
    out = pathlib.Path(options.out)
    what = metric(train.multi_label)
    print(f"{len(train)} pictures to train on, {len(val)} to validate on, {len(train.classes)} classes")
    with _progress(len(recipe.sizes), what) as report:
        trainer = Trainer(
            config, recipe, train, val, out,
            init=init, teacher=teacher, checkpoint_every=options.checkpoint_every, report=report,
        )  # fmt: skip
        rows = trainer.run(eval_every=options.eval_every)
    _write_csv(out / "metrics.csv", rows)
    learning_curve(rows, what, out / "learning_curve.png")
    network = release(
        trainer, out / "network", name=options.name or out.resolve().name,
        command=shlex.join(["jaxcam", *options.arguments]), source=options.data, fold=options.fold, dtype=options.dtype,
    )  # fmt: skip
    print(f"{what} of the released network: {100 * network.provenance['accuracy']:.2f} %")
    print(visible(f"written to {out}: network/, metrics.csv, learning_curve.png"))
    return 0


def _check_apart(data: pathlib.Path, out: pathlib.Path) -> None:
    """Refuses a run's folder that would be read as a class of the data, when the run goes on at the latest."""
    from jaxcam.data.datasets import class_roots

    if os.path.isfile(out):  # which is told later
        return
    real = pathlib.Path(os.path.realpath(out))
    for root in class_roots(data):
        place = pathlib.Path(os.path.realpath(root))
        inside = place in real.parents and not real.relative_to(place).parts[0].startswith(".")  # which no class does
        if inside or place == real:
            raise JaxcamError(f"{out}: lies in {root}, of which every folder is read as a class; give another --out")


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the configuration that the user sets."""
    known, arch = architectures(), options.arch or DEFAULT_ARCHITECTURE
    check_known("architecture", arch, known)
    given = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    for name, value in given.items():
        takers = [f for f in FAMILIES.values() if hasattr(f.config, name)]
        option, (_, _, right, rule) = "--" + name.replace("_", "-"), FIELDS[name]
        if known[arch] not in takers:
            raise JaxcamError(f"{option} is for {' and '.join(f.title for f in takers)} networks, not {arch}")
        if not right(value):
            raise JaxcamError(f"{option} must {rule}, not {value:g}")
    return given


def _schedule(text: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(size), int(epochs)) for size, epochs in (part.split("x") for part in text.split(",")))
    except ValueError:
        raise JaxcamError(f"--schedule must be like {SCHEDULE} (size x epochs, ...), not {text!r}") from None


@contextmanager
def _progress(epochs: int, what: str) -> Iterator[Any]:
    """A function for the trainer to report to: a bar on a terminal, one line per epoch elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = new_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling")

        def report(figures: dict) -> None:
            if "outputs" in figures:
                done, total, text = figures["step"], figures["steps"], figures["outputs"]
                bar.update(task, completed=done, total=total, description=text)
                if done == total:
                    console.print(f"{text}: {total} views kept", markup=False)
                return
            done = figures["epoch"] * figures["steps"] + figures["step"]
            text = f"epoch {figures['epoch'] + 1}/{epochs}, {figures['size']} px, loss {figures['loss']:.3f}"
            bar.update(task, completed=done, total=epochs * figures["steps"], description=text)
            if "learning_rate" in figures:  # the epoch is over
                if "val_accuracy" in figures:
                    text += f", validation loss {figures['val_loss']:.3f}, {what} {100 * figures['val_accuracy']:.1f} %"
                console.print(f"{text}, {figures['seconds']:.0f} s", markup=False)

        yield report


def _write_csv(path: pathlib.Path, rows: list[dict]) -> None:
    from jaxcam.files import whole_file

    text = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path) as f:
        f.write(text.getvalue().encode())
