"""A server of processes: each is forked by one that has the imports done, in place of a start of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator


def serve(main: Callable[..., None], seconds: int) -> None:
    """Calls `main` with each line's JSON, a list of arguments, in a process with so much time; prints its status."""
    warnings.simplefilter("ignore")  # JAX's on forking: there are no threads here
    for line in sys.stdin:
        if not (child := os.fork()):
            status = 1
            signal.alarm(seconds)
            try:
                main(*json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


@contextlib.contextmanager
def served(script: pathlib.Path, folder: pathlib.Path, **environment: str) -> Iterator[Callable[..., tuple[str, str]]]:
    """Runs a script that serves: `ask(*arguments)` is what their process printed, if a line of JSON, and its status.

    What goes to standard error lies in `folder / "stderr"`.
    """
    errors = folder / "stderr"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
            env=os.environ | environment,
        ) as run,
    ):  # fmt: skip

        def ask(*arguments) -> tuple[str, str]:
            print(json.dumps(arguments), file=run.stdin, flush=True)
            told = run.stdout.readline()
            return (told, run.stdout.readline()) if told.startswith("{") else ("", told)

        yield ask
        run.stdin.close()
    assert run.returncode == 0, errors.read_text()[-2000:]
