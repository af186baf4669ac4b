"""The table of features names what there is."""

from __future__ import annotations

import pytest

from benchmarks import features
from jaxcam.methods.registry import METHODS


@pytest.mark.parametrize("row", features.ROWS, ids=lambda row: row.what)
def test_what_is_said_to_be_here_is(row):
    assert not row.here or features.there_is(row.here)
    assert set(row.there) <= set(features.PEERS)


def test_names_that_are_none_are_seen():
    for name in ("method none", "metric none", "python jaxcam.none", "python jaxcam.targets.none", "command none",
                 "command explain --none"):  # fmt: skip
        assert not features.there_is(name)


def test_every_method_has_a_row():
    here = {row.here for row in features.ROWS}
    assert [name for name in METHODS if f"method {name}" not in here] == []
