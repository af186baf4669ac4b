"""`jaxcam train`."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import pathlib
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jaxcam.errors import JaxcamError, unknown
from jaxcam.training.recipe import Recipe

if TYPE_CHECKING:
    from jaxcam.models.network import Config

ARCHITECTURES = [
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
]
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
}
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
    p.add_argument("--arch", default="vgg16_bn", metavar="NAME", help=f"{', '.join(ARCHITECTURES)} (default: vgg16_bn)")
    p.add_argument(
        "--init", metavar="NAME|FOLDER", help="fine-tune this network, which decides the architecture; for other "
        "classes its last layer is drawn anew",
    )  # fmt: skip
    p.add_argument("--width", type=float, default=1.0, help="multiplier on every layer's channels (default: 1)")
    p.add_argument("--hidden", type=int, help="VGG: neurons in each dense layer (default: 4096 times the width)")
    p.add_argument("--pool-size", type=int, help="VGG: side of the average pool before them (default: 7)")
    p.add_argument("--dropout", type=float, help="VGG: rate in the dense layers (default: 0.5)")
    p.add_argument("--zero-init-residual", action="store_true", help="ResNet: start each block as the identity")
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
    architecture = {} if options.init else _architecture(options)
    schedule = _schedule(options.schedule)
    for name in ("eval_every", "checkpoint_every"):
        if getattr(options, name) < 1:
            raise JaxcamError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")

    from jaxcam.data.datasets import read_class_names, train_and_validation
    from jaxcam.explanation.figures import learning_curve
    from jaxcam.models.resnet import ResNetConfig
    from jaxcam.models.vgg import VGGConfig
    from jaxcam.training.release import metric, release
    from jaxcam.training.train import Trainer
    from jaxcam.zoo.load import load

    recipe = Recipe(schedule=schedule, **{name: getattr(options, name) for name in NUMBERS})
    names = read_class_names(pathlib.Path(options.class_names)) if options.class_names else None
    train, val = train_and_validation(pathlib.Path(options.data), names=names, holdout=options.holdout)
    family = VGGConfig if options.arch.startswith("vgg") else ResNetConfig
    init = load(options.init) if options.init else None
    classes = len(train.classes)
    config: Config = (
        dataclasses.replace(init.config, num_classes=classes) if init else family(num_classes=classes, **architecture)
    )
    out = pathlib.Path(options.out)
    what = metric(train.multi_label)
    print(f"{len(train)} pictures to train on, {len(val)} to validate on, {len(train.classes)} classes")
    with _progress(len(recipe.sizes), what) as report:
        trainer = Trainer(
            config, recipe, train, val, out,
            init=init, checkpoint_every=options.checkpoint_every, report=report,
        )  # fmt: skip
        rows = trainer.run(eval_every=options.eval_every)
    _write_csv(out / "metrics.csv", rows)
    learning_curve(rows, what, out / "learning_curve.png")
    network = release(
        trainer, out / "network", name=options.name or out.resolve().name,
        command=shlex.join(["jaxcam", *options.arguments]), source=options.data, fold=options.fold, dtype=options.dtype,
    )  # fmt: skip
    print(f"{what} of the released network: {100 * network.provenance['accuracy']:.2f} %")
    print(f"written to {out}: network/, metrics.csv, learning_curve.png")
    return 0


def _architecture(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the configuration, without the number of classes."""
    if options.arch not in ARCHITECTURES:
        raise unknown("architecture", options.arch, ARCHITECTURES)
    if not 0 < options.width < float("inf"):
        raise JaxcamError(f"--width must be positive, not {options.width:g}")
    dense = {name: getattr(options, name) for name in ("hidden", "pool_size", "dropout")}
    dense = {name: value for name, value in dense.items() if value is not None}
    if options.arch.startswith("resnet"):
        if dense:
            raise JaxcamError(f"--{next(iter(dense)).replace('_', '-')} is for VGG networks, not {options.arch}")
        depth = int(options.arch.removeprefix("resnet"))
        return {"depth": depth, "width": options.width, "zero_init_residual": options.zero_init_residual}
    if options.zero_init_residual:
        raise JaxcamError(f"--zero-init-residual is for ResNets, not {options.arch}")
    for name in ("hidden", "pool_size"):
        if dense.get(name, 1) < 1:
            raise JaxcamError(f"--{name.replace('_', '-')} must be at least 1, not {dense[name]}")
    if not 0 <= dense.get("dropout", 0) < 1:
        raise JaxcamError(f"--dropout must lie in [0, 1), not {dense['dropout']:g}")
    depth = int(options.arch.removeprefix("vgg").removesuffix("_bn"))
    return {"depth": depth, "batch_norm": options.arch.endswith("_bn"), "width": options.width, **dense}


def _schedule(text: str) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(size), int(epochs)) for size, epochs in (part.split("x") for part in text.split(",")))
    except ValueError:
        raise JaxcamError(f"--schedule must be like {SCHEDULE} (size x epochs, ...), not {text!r}") from None


@contextmanager
def _progress(epochs: int, what: str) -> Iterator[Any]:
    """A function for the trainer to report to: a bar on a terminal, one line per epoch elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling")

        def report(figures: dict) -> None:
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
