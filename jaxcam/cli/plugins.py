"""`--plugin`, and installed plug-ins: methods, metrics, targets, rules and networks that are not of this library.

A plug-in is a Python module that makes entries in the registries (`jaxcam.methods.registry.METHODS` and the others)
when it is imported. A package that has some names its module as an entry point of the group `jaxcam.plugins`; every
command then knows them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from jaxcam.cli import python
from jaxcam.errors import JaxcamError

#: The group of entry points, of which each is a module.
GROUP = "jaxcam.plugins"

_loaded: dict[str, None] = {}


def add_option(parser: Any) -> None:
    """Adds the option to a command."""
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py|MODULE", help="run this Python first, which may add "
        "methods, metrics, targets, rules and networks; may be given several times",
    )  # fmt: skip


def load(named: Sequence[str]) -> None:
    """Imports installed plug-ins, and those that are named.

    Raises:
      JaxcamError: there is none of that name, or one raises something.
    """
    for entry in importlib.metadata.entry_points(group=GROUP):
        of = f"the plug-in {entry.name} of {entry.dist.name if entry.dist else 'an unknown package'}"
        try:
            python.told(f"{of} raises", entry.load)
        except JaxcamError as e:
            raise JaxcamError(f"{e}; mend or uninstall that package") from None
        _loaded[f"{entry.name} ({entry.value})"] = None
    for source in named:
        if not source.endswith(".py") and not all(part.isidentifier() for part in source.split(".")):
            raise JaxcamError(f"--plugin {source}: name a Python file, FILE.py, or a module, PACKAGE.MODULE")
        python.module(source)
        _loaded[source] = None


def loaded() -> list[str]:
    """The plug-ins that this process has imported."""
    return list(_loaded)
