"""The user's own Python, named on the command line: `FILE.py:NAME` or `PACKAGE.MODULE:NAME`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import sysconfig
import traceback
from collections.abc import Callable
from typing import Any

from jaxcam.errors import JaxcamError, unknown


def is_place(text: str) -> bool:
    """Whether something is named by its place in Python code, and not by a name, folder or file of weights."""
    source, colon, name = text.rpartition(":")
    if text.endswith(".py") or source.endswith(".py"):
        return True
    dotted = all(part.isidentifier() for part in (*source.split("."), name))
    return bool(colon) and dotted and not os.path.exists(text)


def resolved(place: str) -> str:
    """The same with a path that holds in any folder; a module, with or without a name in it, stays."""
    source, colon, name = place.rpartition(":")
    if place.endswith(".py"):
        return os.path.abspath(place)
    return f"{os.path.abspath(source)}{colon}{name}" if source.endswith(".py") else place


def at(place: str, kind: str, option: str) -> Any:
    """What is at a place. This runs the code there.

    Args:
      kind: what is looked for, and its name in an example.
      option: which named the place.

    Raises:
      JaxcamError: there is no such file, module or name; the code raises something.
    """
    source, _, name = place.rpartition(":")
    if place.endswith(".py"):
        raise JaxcamError(f"{place}: say what in the file the {kind} is, as in {option} {place}:{kind}")
    if not name.isidentifier():
        raise JaxcamError(f"{place}: what follows the colon must be a name in {source}, not {name!r}")
    found = module(source)
    if not hasattr(found, name):
        public = [n for n, value in vars(found).items() if not n.startswith("_") and not inspect.ismodule(value)]
        raise unknown(f"{kind} in {source}", name, public)
    return getattr(found, name)


def module(source: str) -> Any:
    """A file `.py` or a module, which is run unless it was.

    Raises:
      JaxcamError: there is none, or it raises something.
    """
    if source.endswith(".py"):
        path = pathlib.Path(source)
        if not path.is_file():
            raise JaxcamError(f"{path}: there is no such file")
        return told(f"{source} raises", lambda: _executed(path.resolve(), path.stat().st_mtime_ns))
    return told(f"{source} raises", lambda: _imported(source))


@functools.cache
def _executed(path: pathlib.Path, changed: int) -> Any:
    """The module of a file, run once; `changed`, when it was written, tells a file from what it was before."""
    del changed
    _importable(path.parent)
    # A name of its own, so that a file called like a package does not stand in for it.
    spec = importlib.util.spec_from_file_location(f"jaxcam_model_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def _imported(source: str) -> Any:
    _importable(pathlib.Path.cwd())
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as e:
        if e.name and f"{source}.".startswith(f"{e.name}."):
            where = "in the current folder and where Python looks for modules"
            raise JaxcamError(f"there is no module {source} {where}") from None
        raise


def _importable(folder: pathlib.Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def told(what: str, call: Callable[[], Any]) -> Any:
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
