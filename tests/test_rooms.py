"""Folders import downward only, from floor to floor; imports inside functions and under TYPE_CHECKING count."""

from __future__ import annotations

import ast
import pathlib

import jaxcam

ROOT = pathlib.Path(__file__).parents[1]
#: From the top: a folder may import the folders that are named after it, and no others.
ROOMS = """
    cli evaluate serve
    training explanation zoo converters models cutting
    data methods metrics shapley
    transforms.coalition transforms.deeplift transforms.lrp transforms
    notebooks files deferred errors
""".split()
#: Siblings that must not know each other.
APART = {"transforms.coalition", "transforms.deeplift", "transforms.lrp"}
#: Modules that lie in no folder.
LOOSE = {"deferred", "errors", "files", "notebooks"}


def modules() -> dict[str, pathlib.Path]:
    """Every module of the installed package by its name without `jaxcam.`; the package itself is ''."""
    found = {}
    for top, folder in (((), ROOT / "jaxcam"), (("converters",), ROOT / "converters")):
        for path in folder.rglob("*.py"):
            parts = (*top, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The longest name of `ROOMS` that the module lies in."""
    return max((r for r in ROOMS if f"{module}.".startswith(f"{r}.")), key=len, default="")


def imported(module: str) -> set[str]:
    """The modules of ours that a module's code names in an import, wherever it stands."""
    path, names = MODULES[module], set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert "jaxcam" not in {alias.name for alias in node.names}, f"{path} reaches the whole library"
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            near = ["jaxcam", *package][: len(package) + 2 - node.level] if node.level else []
            base = ".".join([*near, *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}  # a name may be a module
    names |= {home for name, home in jaxcam._HOME.items() if f"jaxcam.{name}" in names}
    return {name.removeprefix("jaxcam.") for name in names if name.startswith("jaxcam.")} & MODULES.keys()


def arrows() -> dict[tuple[str, str], set[str]]:
    """`(room, imported room)`, and the modules that do it."""
    found: dict[tuple[str, str], set[str]] = {}
    for module in MODULES.keys() - {"", "__main__"}:
        for other in imported(module):
            if room(module) != room(other):
                found.setdefault((room(module), room(other)), set()).add(module)
    return found


def test_every_folder_is_on_a_floor_and_only_a_few_modules_are_loose():
    packages = {m.rpartition(".")[0] if p.name != "__init__.py" else m for m, p in MODULES.items()} - {""}
    assert packages | LOOSE == set(ROOMS)
    assert {m for m, p in MODULES.items() if "." not in m and p.name != "__init__.py"} == LOOSE | {"__main__"}


def test_arrows_point_down():
    found = arrows()
    assert len(found) > 30  # the imports are found at all
    wrong = [pair for pair in found if ROOMS.index(pair[0]) >= ROOMS.index(pair[1]) or set(pair) <= APART]
    assert not {pair: sorted(found[pair]) for pair in wrong}


def test_an_import_is_found_wherever_it_stands(tmp_path, monkeypatch):
    text = (
        "import typing\nfrom jaxcam import load, zoo\nif typing.TYPE_CHECKING:\n    from jaxcam.cli import table\n"
        "def f():\n    import jaxcam.evaluate.run\n    from ..data import images\n    from . import maps\n"
    )
    (tmp_path / "x.py").write_text(text)
    monkeypatch.setitem(MODULES, "methods.x", tmp_path / "x.py")
    places = "zoo zoo.load cli cli.table evaluate.run data data.images methods methods.maps"
    assert imported("methods.x") == set(places.split())
