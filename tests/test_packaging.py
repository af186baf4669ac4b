"""What pyproject.toml promises about the installed package, checked against the tree."""

from __future__ import annotations

import glob
import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_file_that_is_no_module_is_installed_too():
    """One that no pattern fits works in an editable install and is absent from the wheel."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    for path in (p for top in ("jaxcam", "converters") for p in (ROOT / top).rglob("*") if p.is_file()):
        package = next(folder for folder in path.parents if (folder / "__init__.py").exists())
        matched = {f for p in patterns for f in glob.glob(p, root_dir=package, recursive=True)}  # as setuptools does
        assert path.suffix in (".py", ".pyc") or path.relative_to(package).as_posix() in matched, path


def test_converters_are_importable_under_the_library():
    import jaxcam.converters

    assert pathlib.Path(jaxcam.converters.__file__).parent == ROOT / "converters"


def test_version_is_the_same_everywhere():
    version = PYPROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
