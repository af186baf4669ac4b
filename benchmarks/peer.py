"""A script in another interpreter, asked over its pipes: a command is one JSON list a line, its answer one JSON value.

Both sides import this module, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any


def rest() -> None:
    """Waits until the threads of the side that has just worked stop spinning."""
    time.sleep(0.3)


class Peer:
    """The other interpreter, from this side.

    Args:
      python: the interpreter.
      script: a file beside this one; it calls `serve`.
      folder: of files for both sides, the script's first argument; removed by `close`.
      arguments: the others.
    """

    def __init__(self, python: str, script: str, folder: tempfile.TemporaryDirectory, *arguments: object):
        self.folder = folder
        file = pathlib.Path(__file__).with_name(script)
        self.process = subprocess.Popen(
            [python, str(file), folder.name, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"TQDM_DISABLE": "1"},
        )  # fmt: skip
        self.greeting = self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the other interpreter stopped")
        return json.loads(line)

    def ask(self, *command: object) -> Any:
        """The answer to a command and its arguments.

        Raises:
          RuntimeError: the script failed, and has ended.
        """
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the other interpreter, and removes the folder."""
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def serve(greeting: object, **commands: Callable) -> None:
    """The script's side: answers commands until there are no more. What its libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(greeting), file=out, flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps(commands[what](*arguments)), file=out, flush=True)
