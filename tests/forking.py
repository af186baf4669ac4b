"""A server of processes: each is forked by one that has the imports done, in place of a start of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable


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
