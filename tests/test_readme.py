"""The README is short, and what it says is true; its blocks and commands run with those of the guide (test_docs)."""

import pathlib
import re

import pytest

from jaxcam.methods.registry import METHODS
from jaxcam.zoo.load import DEFAULT_MODEL, bundled

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_fits_two_screens_and_shows_a_picture_and_how_to_install():
    assert README.count("\n") <= 110 and len(README) < 5_500
    first = README.split("## ")[1]
    assert "](docs/demo.jpg)" in README.split("## ")[0] and "make demo" in first and "pip install ." in first
    assert len(re.findall(r"```python\n", README)) >= 2


@pytest.mark.parametrize("page", ["docs/methods.md"])
def test_every_method_is_listed(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in METHODS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "docs/networks.md"])
def test_every_bundled_network_is_listed_with_what_it_knows(page):
    rows = [row for row in (ROOT / page).read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    assert rows[0].startswith(f"| `{DEFAULT_MODEL}` (default)")
    for name, manifest in bundled().items():
        [row] = [row for row in rows if row.startswith(f"| `{name}`")]
        assert f"{len(manifest['classes']):,} classes" in row or "the same 10" in row
        assert (
            f"{100 * manifest['provenance']['accuracy']:.1f} %" in row
            or f"{100 * manifest['provenance']['accuracy']:.2f} %" in row
        )
