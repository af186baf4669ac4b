"""Public networks of other libraries, each handed over as it is; `-m zoo` runs them, where the libraries are installed.

The list, and what is asked of each, is `benchmarks/zoo.py`.
"""

from __future__ import annotations

import importlib

import pytest

from benchmarks import zoo
from jaxcam.errors import JaxcamError


def test_there_are_enough_of_them():
    assert len(zoo.ZOO) >= 30 and len({(e.package, e.name) for e in zoo.ZOO}) == len(zoo.ZOO)
    table = zoo.RESULTS.read_text(encoding="utf-8")
    assert all(f"| {e.package.partition('.')[0]} | {e.name} |" in table for e in zoo.ZOO)
    assert table.count("| passes |") >= 30


@pytest.mark.zoo
@pytest.mark.parametrize("entry", zoo.ZOO, ids=lambda e: f"{e.package.partition('.')[0]}-{e.name}".replace(" ", "-"))
def test_layers_maps_and_completeness(entry):
    try:
        package = importlib.import_module(entry.package)
    except Exception as e:
        pytest.skip(f"{entry.package} cannot be imported: {type(e).__name__}: {e}")
    if entry.refused:
        with pytest.raises(JaxcamError, match=entry.refused):
            zoo.check(entry, package)
        return
    found = zoo.check(entry, package)
    assert found.layers > 1 and found.gap <= zoo.GAP
