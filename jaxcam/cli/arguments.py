"""What people type: one spelling of every option, lists by spaces or commas, the nearest name for a wrong one."""

from __future__ import annotations

import argparse
import difflib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from jaxcam.errors import JaxcamError


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are errors of ours, told with the page of help that knows better."""

    def error(self, message: str):
        """Raises a JaxcamError."""
        raise JaxcamError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stdout).write(message)  # argparse's own says nothing of a full disk


def parse(top: argparse.ArgumentParser, commands: Any, arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; photos and other names may stand before options or behind them.

    Args:
      top: the parser.
      commands: what its `add_subparsers` returned.

    Raises:
      JaxcamError: an option, or a command, that there is not; the message names the nearest one.
    """
    first = next((a for a in arguments if not a.startswith("-")), None)
    if first is not None and first not in commands.choices:
        near = difflib.get_close_matches(first, commands.choices, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands.choices)}"
        raise JaxcamError(f"there is no command {first!r}; {hint} (see {top.prog} --help)")
    options, rest = top.parse_known_args(arguments)
    command = commands.choices[first]
    wrong = [a for a in rest if a.startswith("-") and a != "-"]
    if wrong:
        name = wrong[0].partition("=")[0]
        near = difflib.get_close_matches(name, command._option_string_actions, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise JaxcamError(f"there is no option {name}{hint} (see {command.prog} --help)")
    if rest:
        if not hasattr(options, "images"):
            raise JaxcamError(f"{rest[0]!r} is one name too many (see {command.prog} --help)")
        options.images += rest
    return options


def methods(values: Sequence[str] | None) -> list[str]:
    """Names of methods, separated by spaces or commas; a comma before `option=value` belongs to the method before."""
    found: list[str] = []
    for value in values or ():
        for i, piece in enumerate(value.split(",")):
            name, _, _ = piece.partition("=")
            if i and found and "=" in piece and ":" not in name:
                found[-1] += f",{piece}"
            elif piece.strip():
                found.append(piece.strip())
    return found


def names(values: Sequence[str] | None) -> list[str]:
    """Plain names, separated by spaces or commas."""
    return [piece.strip() for value in values or () for piece in value.split(",") if piece.strip()]


def photos_among(values: list[str] | None, option: str) -> list[str]:
    """The values of an option that are photos swallowed by it (files with an ending), taken out of them.

    Raises:
      JaxcamError: nothing else is left.
    """
    found = [v for v in values or () if pathlib.Path(v).suffix and os.path.isfile(v)]
    for photo in found:
        assert values is not None
        values.remove(photo)
    if found and not values:
        raise JaxcamError(f"{option} names nothing but a photo, {found[0]}")
    return found
