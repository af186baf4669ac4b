"""Mutations of honest files of every format, under a limit of address space: only JaxcamError comes out."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from fuzz_readers import FORMATS

HERE = pathlib.Path(__file__).parent


def fuzz(name: str, count: int, seed: int) -> dict:
    command = [sys.executable, str(HERE / "fuzz_readers.py"), name, str(count), str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, (name, run.returncode, run.stderr[-2000:])
    found = json.loads(run.stdout.splitlines()[-1])
    print(found)
    assert found["longest_s"] < 2 and found["grown_mb"] < 300, found
    assert found["refused"] > count / 10
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_a_few_hundred_mutations(name):
    if name == "avif":
        features = pytest.importorskip("PIL.features")
        if not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
    fuzz(name, 300, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands_of_mutations(name):
    fuzz(name, 4000, 1)
