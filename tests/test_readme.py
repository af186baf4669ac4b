"""The README's Python blocks run as they are written."""

import pathlib
import re

import pytest

from jaxcam.cli.explain import EXAMPLE
from jaxcam.methods.registry import METHODS

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_every_method_is_listed(page):
    text = (README.parent / page).read_text(encoding="utf-8")
    assert [name for name in METHODS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number, tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").write_bytes(EXAMPLE.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})
