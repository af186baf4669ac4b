"""Mutations of honest files of every format, under a limit of address space: only JaxcamError comes out."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from fuzz_readers import FORMATS

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """Mutations `(format, count, seed)`, each in a process of its own, that one with the imports done forks."""
    errors = tmp_path_factory.mktemp("fuzz") / "stderr"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(HERE / "fuzz_readers.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
        ) as run,
    ):  # fmt: skip

        def ask(name: str, count: int, seed: int) -> dict:
            print(json.dumps([name, count, seed]), file=run.stdin, flush=True)
            told = [run.stdout.readline()]
            if told[-1].startswith("{"):
                told.append(run.stdout.readline())
            assert told[-1] == "0\n", (name, told, errors.read_text()[-2000:])
            found = json.loads(told[0])
            print(found)
            assert found["mutations"] == count
            assert found["longest_s"] < 2 and found["grown_mb"] < 300, found
            assert found["refused"] > count / 10
            return found

        yield ask
        run.stdin.close()
    assert run.returncode == 0, errors.read_text()[-2000:]


@pytest.mark.parametrize("name", FORMATS)
def test_a_few_hundred_mutations(name, fuzz):
    if name == "avif":
        features = pytest.importorskip("PIL.features")
        if not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
    fuzz(name, 300, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands_of_mutations(name, fuzz):
    fuzz(name, 2500, 1)  # more by `python -m benchmarks.fuzz`
