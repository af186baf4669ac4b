"""Mutations of honest files of every format, under a limit of address space: only JaxcamError comes out."""

from __future__ import annotations

import json
import pathlib

import pytest
from forking import served
from fuzz_readers import FORMATS

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """Mutations `(format, count, seed)`, each in a process of its own, that one with the imports done forks."""
    folder = tmp_path_factory.mktemp("fuzz")
    with served(HERE / "fuzz_readers.py", folder) as ask:

        def check(name: str, count: int, seed: int) -> dict:
            told, status = ask(name, count, seed)
            assert status == "0\n", (name, told, status, (folder / "stderr").read_text()[-2000:])
            found = json.loads(told)
            print(found)
            assert found["mutations"] == count
            assert found["longest_s"] < 2 and found["grown_mb"] < 300, found
            assert found["refused"] > count / 10
            return found

        yield check


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
