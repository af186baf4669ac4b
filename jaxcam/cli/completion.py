"""`jaxcam completion SHELL`: commands, options, names of methods and networks, completed by the shell."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from jaxcam.errors import JaxcamError

SHELLS = ("bash", "zsh", "tcsh")
#: What is typed for an argument of these metavars is a path.
_PATHS = {"IMAGE", "DATA", "RUN", "DIR", "SRC", "CSV", "FILE|DIR", "FILE|-", "FILE|DATA", "NAME|FOLDER"}


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "completion", help="print what a shell needs to complete what is typed", allow_abbrev=False,
        description="Prints a script for a shell, which completes commands, options, files, and the names of methods, "
        'metrics and networks; for bash: eval "$(jaxcam completion bash)".',
    )  # fmt: skip
    p.add_argument("shell", choices=SHELLS)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the script.

    Raises:
      JaxcamError: shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError as e:
        raise JaxcamError("completion needs shtab: pip install 'jaxcam-xai[completion]'") from e
    from jaxcam.cli import parser

    top, commands = parser()
    names, functions = _names(), {}
    for name, command in commands.choices.items():
        for action in command._actions:
            if (kind := _kind(action, name, names)) is not None:
                functions[kind] = {"bash": f"_jaxcam_{kind}", "zsh": f"({' '.join(names[kind])})", "tcsh": "f:*"}
                action.complete = functions[kind]
            elif str(action.metavar) in _PATHS:
                action.complete = shtab.FILE
    words = "\n".join(
        f'_jaxcam_{kind}() {{ compgen -W "{" ".join(names[kind])}" -- "$1"; }}' for kind in sorted(functions)
    )
    preamble: Any = {"bash": words, "zsh": "", "tcsh": ""}
    print(shtab.complete(top, shell=options.shell, preamble=preamble))
    return 0


def _names() -> dict[str, list[str]]:
    """The names that there are, by what they are names of."""
    from jaxcam.methods.registry import METHODS
    from jaxcam.metrics.registry import METRICS

    # A shell asks this whenever it starts: nothing here imports JAX.
    package = pathlib.Path(__file__).parents[1]
    models = [path.parent.name for path in (package / "zoo" / "bundled").glob("*/network.json")]
    return {"methods": sorted(METHODS), "metrics": sorted(METRICS), "models": sorted(models)}


def _kind(action: argparse.Action, command: str, names: dict[str, list[str]]) -> str | None:
    """Of which of the names an argument takes some: as its option, or its command where it has none, is called."""
    said = [s.strip("-") for s in action.option_strings] or [command]
    return next((k for k in names if any(k.startswith(s) and len(s) > 3 for s in said)), None)
