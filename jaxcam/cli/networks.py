"""`--model` and `--weights`: the network that a command works on, by name, by file, or out of the user's own Python."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxcam.cli import plugins, python
from jaxcam.cli.programs import keep_programs
from jaxcam.errors import JaxcamError

if TYPE_CHECKING:
    from jaxcam.models.classifier import Classifier


def add_options(parser: Any) -> None:
    """Adds the options to a command."""
    parser.add_argument(
        "--model", metavar="NAME|FOLDER|FILE.py:NAME", help="a network of `jaxcam models`; a folder that holds one; or "
        "one of your own, what jaxcam.wrap returned or a function without arguments that returns it, as FILE.py:NAME "
        "or PACKAGE.MODULE:NAME, which runs that Python file (default: the first of `jaxcam models`)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", metavar="FILE|DIR", help="use these weights, a file by PyTorch or Keras or a folder by jaxcam; "
        "--model may then name the architecture, which the file tells otherwise",
    )  # fmt: skip


def add_precision(parser: Any, default: str) -> None:
    """Adds the option to a command; `default` says in words what holds unless it is given."""
    parser.add_argument(
        "--precision", metavar="P", help="of matrix products, highest, tf32 or bfloat16: lower ones are faster on GPUs "
        f"and TPUs, and what they cost is measured on the first photo and told (default: {default})",
    )  # fmt: skip


def is_own(options: argparse.Namespace) -> bool:
    """Whether the network that the options name is made by the user's own code."""
    return options.model is not None and python.is_place(options.model)


def keep(options: argparse.Namespace) -> None:
    """Has compiled programs kept for the next run of the command, those of the user's own code by JAX alone."""
    keep_programs(ours=not is_own(options) and not plugins.loaded())


def prepare(options: argparse.Namespace) -> None:
    """Runs the file of a network of the user's own, so that methods and metrics which it adds are known by name."""
    if is_own(options):
        keep(options)
        python.module(options.model.rpartition(":")[0] or options.model)


def load(options: argparse.Namespace) -> Classifier:
    """The network that the options name.

    Raises:
      JaxcamError: there is none of that name, or it cannot be made; or no such precision.
    """
    from jaxcam.transforms.precision import check_precision

    check_precision(getattr(options, "precision", None))
    if options.weights is not None and is_own(options):
        raise JaxcamError("--weights is for networks of `jaxcam models`; one of your own loads its weights itself")
    return named(options.model, weights=options.weights)


def named(model: str | None, *, weights: str | None = None) -> Classifier:
    """The network that `--model` names; see `load`."""
    if model is not None and python.is_place(model):
        return from_python(model)
    from jaxcam.zoo.load import load as by_name

    return by_name(model, weights=weights)


def from_python(model: str) -> Classifier:
    """The network at `FILE.py:NAME` or `PACKAGE.MODULE:NAME`.

    This runs that code. It may import what lies beside the file, and in the current folder for a module.

    Raises:
      JaxcamError: there is no such file, module or name; the code raises something; it gives no network.
    """
    from jaxcam.models.classifier import Classifier

    found, called = python.at(model, "network", "--model"), False
    if not isinstance(found, Classifier) and callable(found) and not _wants_arguments(found):
        found, called = python.told(f"{model} raises", found), True
    if not isinstance(found, Classifier):
        kind = f"{'returns' if called else 'is'} a {type(found).__name__}"
        raise JaxcamError(
            f"{model} {kind}, not what jaxcam.wrap returns, or a function without arguments that returns it"
        )
    return found


def _wants_arguments(function: Callable) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
