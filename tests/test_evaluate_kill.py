"""`kill -9`: a run that was killed, wherever and however often, ends with the table of one that was not.

JAXCAM_SLOW_TESTS=1 makes it 20 kills, which take minutes.
"""

from __future__ import annotations

import os
import pathlib
import signal

import numpy as np
import pytest
from evaluations import assert_same, pictures
from forking import served

from jaxcam.evaluate import read_run

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def work_and_die(tmp_path):
    """A process of its own for each `(data, out, cache, when)`, that one with the imports done forks; its status."""
    path = f"{HERE}{os.pathsep}{HERE.parent}"
    with served(HERE / "evaluations.py", tmp_path, JAX_PLATFORMS="cpu", PYTHONPATH=path) as ask:

        def status(*words) -> int:
            _, told = ask(*map(str, words))
            assert told in ("0\n", f"{-signal.SIGKILL}\n"), (told, (tmp_path / "stderr").read_text()[-2000:])
            return int(told)

        yield status


def test_kill_9(tmp_path, work_and_die):
    """In the middle of writing a unit, between its parts, before its arrays appear, and at random moments; then to the
    end."""
    data, cache = pictures(tmp_path / "set"), tmp_path / "compiled"
    slow = bool(os.environ.get("JAXCAM_SLOW_TESTS"))
    rng = np.random.default_rng()
    moments = ["write 2", "after 0.08", "replace 1", "keep 9"]
    if slow:
        moments += ["fsync 1", "fsync 2", "fsync 3", "fsync 4", "write 1", "replace 2", "replace 3"]
        moments += [f"after {t:.3f}" for t in rng.uniform(0, 0.4, 10)]
    killed = runs = 0
    while killed < len(moments):
        out = tmp_path / str(runs)
        runs += 1
        while killed < len(moments) and work_and_die(data, out, cache, moments[killed]) != 0:
            killed += 1
        if killed < len(moments):  # it came to its end first: the rest of the kills on another run
            moments[killed] = "after 0.01" if not moments[killed].startswith("write 1") else moments[killed]
    assert work_and_die(data, tmp_path / "whole", cache, "never") == 0
    for i in range(runs):
        assert work_and_die(data, tmp_path / str(i), cache, "never") == 0
        assert_same(read_run(tmp_path / str(i)), read_run(tmp_path / "whole"))
    assert read_run(tmp_path / "whole").complete and killed == len(moments)
