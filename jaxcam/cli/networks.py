"""`--model` and `--weights`: the network that a command works on, by name, by file, or out of the user's own Python."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import sysconfig
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxcam.errors import JaxcamError, unknown

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


def runs_python(options: argparse.Namespace) -> bool:
    """Whether the network that the options name is made by the user's own code."""
    return options.model is not None and is_python(options.model)


def load(options: argparse.Namespace) -> Classifier:
    """The network that the options name.

    Raises:
      JaxcamError: there is none of that name, or it cannot be made; or no such precision.
    """
    from jaxcam.transforms.precision import check_precision

    check_precision(getattr(options, "precision", None))
    if options.weights is not None and runs_python(options):
        raise JaxcamError("--weights is for networks of `jaxcam models`; one of your own loads its weights itself")
    return named(options.model, weights=options.weights)


def named(model: str | None, *, weights: str | None = None) -> Classifier:
    """The network that `--model` names; see `load`."""
    if model is not None and is_python(model):
        return from_python(model)
    from jaxcam.zoo.load import load as by_name

    return by_name(model, weights=weights)


def is_python(model: str) -> bool:
    """Whether a network is named by a place in Python code, and not by its name, folder or file of weights."""
    source, colon, name = model.rpartition(":")
    if model.endswith(".py") or source.endswith(".py"):
        return True
    dotted = all(part.isidentifier() for part in (*source.split("."), name))
    return bool(colon) and dotted and not os.path.exists(model)


def resolved(model: str) -> str:
    """The same with a path that holds in any folder."""
    source, _, name = model.rpartition(":")
    return f"{os.path.abspath(source)}:{name}" if source.endswith(".py") else model


def from_python(model: str) -> Classifier:
    """The network at `FILE.py:NAME` or `PACKAGE.MODULE:NAME`.

    This runs that code. It may import what lies beside the file, and in the current folder for a module.

    Raises:
      JaxcamError: there is no such file, module or name; the code raises something; it gives no network.
    """
    from jaxcam.models.classifier import Classifier

    source, _, name = model.rpartition(":")
    if model.endswith(".py"):
        raise JaxcamError(f"{model}: say what in the file the network is, as in --model {model}:network")
    if not name.isidentifier():
        raise JaxcamError(f"{model}: what follows the colon must be a name in {source}, not {name!r}")
    module = _told(f"{source} raises", lambda: _module(source))
    if not hasattr(module, name):
        public = [n for n, value in vars(module).items() if not n.startswith("_") and not inspect.ismodule(value)]
        raise unknown(f"network in {source}", name, public)
    found, called = getattr(module, name), False
    if not isinstance(found, Classifier) and callable(found) and not _wants_arguments(found):
        found, called = _told(f"{model} raises", found), True
    if not isinstance(found, Classifier):
        kind = f"{'returns' if called else 'is'} a {type(found).__name__}"
        raise JaxcamError(
            f"{model} {kind}, not what jaxcam.wrap returns, or a function without arguments that returns it"
        )
    return found


def _module(source: str) -> Any:
    if not source.endswith(".py"):
        _importable(pathlib.Path.cwd())
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as e:
            if e.name and f"{source}.".startswith(f"{e.name}."):
                where = "in the current folder and where Python looks for modules"
                raise JaxcamError(f"there is no module {source} {where}") from None
            raise
    path = pathlib.Path(source)
    if not path.is_file():
        raise JaxcamError(f"{path}: there is no such file")
    _importable(path.resolve().parent)
    # A name of its own, so that a file called like a package does not stand in for it.
    spec = importlib.util.spec_from_file_location(f"jaxcam_model_{path.stem}", path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _importable(folder: pathlib.Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _wants_arguments(function: Callable) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _told(what: str, call: Callable[[], Any]) -> Any:
    """What the user's code returns; anything that it raises becomes one line, with the place in that code."""
    try:
        return call()
    except JaxcamError:
        raise
    except (Exception, SystemExit) as e:
        message = f"{what} {type(e).__name__}: {e}"
        others = (sysconfig.get_path("stdlib"), str(pathlib.Path(__file__).parents[1]), "<")
        frames = [f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith(others)]
        own = [f for f in frames if "site-packages" not in f.filename]
        if own and not isinstance(e, SyntaxError):  # which names its own place
            message += f" ({own[-1].filename}, line {own[-1].lineno})"
        raise JaxcamError(message) from e
