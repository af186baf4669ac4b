"""The command line: `jaxcam explain`, `evaluate`, `report`, `models`, `methods`, `metrics`, `convert` and others.

Nothing heavy is imported before a command runs, so that help is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from jaxcam.cli import arguments, completion, convert, doctor, evaluate, explain, listing, plugins, report, serve, train
from jaxcam.cli.progress import note
from jaxcam.errors import JaxcamError


def parser() -> tuple[argparse.ArgumentParser, Any]:
    """The parser, and its commands; each sets `run`, a function of the parsed arguments."""
    top = arguments.Parser(
        prog="jaxcam", description="Class activation maps: why did the network say that?", allow_abbrev=False,
        epilog="Begin with: jaxcam explain photo.jpg; jaxcam COMMAND --help tells the options of each.",
    )  # fmt: skip
    top.add_argument("--version", action=doctor.Version)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (explain, evaluate, report, listing, convert, train, serve, doctor, completion):
        module.add_commands(commands)
    for command in commands.choices.values():
        plugins.add_option(command)
    return top, commands


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      The exit status: 0; 1 where some pictures could not be explained; 2 for any other mistake, told in one
      line on stderr; 130 when interrupted.
    """
    typed = sys.argv[1:] if argv is None else list(argv)
    if argv is None:  # the process is this command's: no window is ever opened, whatever a notebook around it asks for
        os.environ["MPLBACKEND"] = "agg"
    _open_output()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files and classes may hold anything
    with warnings.catch_warnings():
        if not sys.warnoptions:  # as Pillow's remarks on odd files: not for this command's user
            warnings.simplefilter("ignore")
        try:
            return _run(typed)
        except (JaxcamError, NotImplementedError) as e:  # the latter: an operation without a rule, which it names
            return _say(f"error: {e}", 2)
        except KeyboardInterrupt:
            return _say("interrupted", 130)
        except BrokenPipeError:  # `jaxcam models | head`
            _close_output()
            return 1
        except OSError as e:  # a full disk or output; a name that no file can have
            _close_output()
            name = f"{e.filename}: " if e.filename is not None else ""
            return _say(f"error: {name}{e.strerror or e}", 2)
        except MemoryError:
            return _say("error: not enough memory; lower --batch-size", 2)
        except RuntimeError as e:
            if "RESOURCE_EXHAUSTED" in str(e):  # what the accelerator's runtime says
                return _say("error: not enough memory on the device; lower --batch-size", 2)
            if "Unable to initialize backend" in str(e):  # what JAX says of JAX_PLATFORMS
                return _say(f"error: {e}", 2)
            raise


def _run(typed: list[str]) -> int:
    try:
        options = arguments.parse(*parser(), typed)
        for name, value in vars(options).items():
            if value == "" and name != "table" or isinstance(value, list) and "" in value:
                raise JaxcamError(f"{name.replace('_', '-')} is given as nothing; is a variable empty?")
        options.arguments = typed
        if getattr(options, "plugins_first", True):
            plugins.load(options.plugin)
        return options.run(options)
    finally:
        sys.stdout.flush()  # here, where a full disk can still be told in a line


def _open_output() -> None:
    """Where standard output or error is closed, as in `jaxcam models >&-`, lets what is written there go nowhere."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _close_output() -> None:
    """Lets what is still to be written to standard output go nowhere, without a word from Python at its end."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, status: int) -> int:
    with contextlib.suppress(OSError):
        note(" ".join(message.split()))
    return status
