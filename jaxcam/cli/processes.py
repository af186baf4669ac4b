"""One command run by several processes at once, on one machine or several."""

from __future__ import annotations

import argparse
import collections
import contextlib
import math
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

from jaxcam.errors import JaxcamError

#: Seconds: until the others are given up, and until it is said that they are waited for.
_WAIT, _SAY_AFTER = 60, 5.0


def add_options(parser: Any) -> None:
    """Adds the options to a command."""
    group = parser.add_argument_group(
        "several processes",
        "Run the same command in each, on the same pictures; all devices of all processes share each map that takes "
        "many steps, and process 0 writes.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 can be reached by the others")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument(
        "--wait", type=float, default=_WAIT, metavar="SECONDS", help="how long to wait for the others (default: "
        f"{_WAIT})",
    )  # fmt: skip


def check(options: argparse.Namespace) -> None:
    """Raises a JaxcamError where the options do not go together."""
    given = {f"--{k}": getattr(options, k) for k in ("coordinator", "processes", "process")}
    missing = [k for k, v in given.items() if v is None]
    if len(missing) == len(given):
        return
    if missing:
        raise JaxcamError(f"several processes need --coordinator, --processes and --process; {missing[0]} is missing")
    if not re.fullmatch(r".+:\d{1,5}", options.coordinator):
        raise JaxcamError(f"--coordinator must be HOST:PORT, as in 10.0.0.1:1234, not {options.coordinator!r}")
    if options.processes < 1:
        raise JaxcamError(f"--processes must be at least 1, not {options.processes}")
    if not 0 <= options.process < options.processes:
        raise JaxcamError(f"--process must lie between 0 and {options.processes - 1}, not {options.process}")
    if not 0 < options.wait < 1e6:
        raise JaxcamError(f"--wait must be a number of seconds above 0, not {options.wait:g}")


def start(options: argparse.Namespace) -> bool:
    """Joins the other processes, before anything is computed; whether this is the one that writes.

    Where they do not come within `--wait` seconds the process ends with exit status 2 and a line that says so.

    Raises:
      JaxcamError: they cannot be reached.
    """
    if options.coordinator is None:
        return True
    import jax

    _keep_output_clean()
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        with _patience(options):
            jax.distributed.initialize(
                options.coordinator, options.processes, options.process,
                initialization_timeout=math.ceil(options.wait) + 60,
            )  # fmt: skip
    except (RuntimeError, ValueError) as e:
        first = (str(e).splitlines() or ["no reason given"])[0]
        raise JaxcamError(f"{options.coordinator}: the processes do not find together ({first})") from None
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{n} in process {i}" for i, n in sorted(counts.items()))
        raise JaxcamError(f"every process must have as many devices as the others, not {each}")
    return options.process == 0


@contextlib.contextmanager
def _patience(options: argparse.Namespace) -> Iterator[None]:
    """Says after a while what is waited for, and ends the process when that takes too long.

    JAX's own limit ends a process by a signal and a stack trace, and nothing can be raised in code that waits.
    """
    others = [str(i) for i in range(options.processes) if i != options.process]
    come = threading.Event()

    def watch() -> None:
        if not come.wait(min(_SAY_AFTER, options.wait)):
            who = f"process {', '.join(others)}"
            where = f"at {options.coordinator}"
            print(f"jaxcam: waiting for {who} {where}, {options.wait:g} s at most", file=sys.stderr, flush=True)
            if not come.wait(max(0.0, options.wait - _SAY_AFTER)):
                print(
                    f"jaxcam: error: {options.coordinator}: {who} did not come within {options.wait:g} s; give the "
                    f"same command with each --process from 0 to {options.processes - 1} at the same time, and as "
                    "--coordinator an address of process 0's machine, with a free port, that all of them reach",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(2)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        come.set()


def _keep_output_clean() -> None:
    """Sends to stderr what the runtime's own code writes to file 1, as Gloo does of its connections."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors="backslashreplace")
