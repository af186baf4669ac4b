"""What pyproject.toml promises about the installed package, checked against the tree."""

from __future__ import annotations

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_modules_is_listed():
    """A folder missing from the list works in an editable install and is absent from the wheel."""
    there = {".".join(p.relative_to(ROOT).parts[:-1]) for p in (ROOT / "jaxcam").rglob("__init__.py")}
    there |= {".".join(("jaxcam", *p.relative_to(ROOT).parts[:-1])) for p in (ROOT / "converters").rglob("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == there


def test_converters_are_importable_under_the_library():
    import jaxcam.converters

    assert pathlib.Path(jaxcam.converters.__file__).parent == ROOT / "converters"


def test_version_is_the_same_everywhere():
    version = PYPROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
