"""Names that are imported when they are asked for: what is declared can be read, and a package named, without JAX."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
_REQUIRED: Any = object()


class Deferred(Generic[T]):
    """A field of a dataclass whose value may be given as "module.name" of its folder; whoever reads it gets that.

    Args:
      default: of the field; it must be given unless there is one.
    """

    def __init__(self, default: Any = _REQUIRED):
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.place = name  # which the descriptor, having a setter, goes before
        self.folder = owner.__module__.rpartition(".")[0]

    @overload
    def __get__(self, instance: None, owner: type) -> Any: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:  # where dataclasses look for a default
            if self.default is _REQUIRED:
                raise AttributeError(self.place)
            return self.default
        value = vars(instance)[self.place]
        if isinstance(value, str):
            value = vars(instance)[self.place] = _imported(self.folder, value)
        return value

    def __set__(self, instance: object, value: T | str) -> None:
        vars(instance)[self.place] = value

    def outline(self, instance: object) -> Any:
        """Of a function: its `outline` where it was not imported yet."""
        value = vars(instance)[self.place]
        return outline(self.folder, value) if isinstance(value, str) else value


def public(package: str, file: str) -> tuple[dict[str, str], Callable[[str], object], Callable[[], list[str]]]:
    """The public names of a package, each imported on its first use, so that importing the package stays light.

    The stub beside the package's `__init__.py`, which type checkers read, is also the table of where the names live:
    there is no second list to forget. No module of the package may be called as one of them that lives elsewhere.
    What the stub has `from . import` is a part of the package, found as its attribute without an import of its own.

    Args:
      package: its `__name__`.
      file: its `__file__`.

    Returns:
      The module of each name but those of parts, and the package's `__getattr__` and `__dir__`.
    """
    stub = ast.parse(pathlib.Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    homes = {name.name: line.module for line in lines if line.module is not None for name in line.names}
    parts = {name.name for line in lines if line.module is None for name in line.names}

    def get(name: str) -> object:
        if name in parts:
            return importlib.import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = importlib.import_module(homes[name])
        value = getattr(home, name, None) or importlib.import_module(f"{homes[name]}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    return homes, get, lambda: sorted(sys.modules[package].__all__)


@functools.cache
def outline(folder: str, name: str) -> Callable:
    """Something with the signature and the docstring of a function "module.name", which is not imported for them.

    Defaults that are not written out need what their module imports: then so does this.
    """
    module, _, inside = name.rpartition(".")
    place = importlib.util.find_spec(f"{folder}.{module}")
    assert place is not None and place.origin is not None
    tree = ast.parse(pathlib.Path(place.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == inside:
            node.body, node.decorator_list = node.body[:1], []
            tree.body = [ast.ImportFrom("__future__", [ast.alias("annotations")], 0), node]
            space: dict[str, Any] = {}
            try:
                exec(compile(ast.fix_missing_locations(tree), inside, "exec"), space)
            except NameError:
                break
            return space[inside]
    return _imported(folder, name)


def _imported(folder: str, name: str) -> Any:
    module, _, inside = name.rpartition(".")
    return getattr(importlib.import_module(f"{folder}.{module}"), inside)
