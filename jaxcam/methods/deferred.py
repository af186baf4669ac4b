"""Functions that a declaration names, imported when they are asked for: what is declared can be read without JAX."""

from __future__ import annotations

import ast
import functools
import importlib
import pathlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
_REQUIRED: Any = object()


class Deferred(Generic[T]):
    """A field of a dataclass whose value may be given as "module.name" of this folder; whoever reads it gets that.

    Args:
      default: of the field; it must be given unless there is one.
    """

    def __init__(self, default: Any = _REQUIRED):
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.place = name  # which the descriptor, having a setter, goes before

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
            value = vars(instance)[self.place] = _imported(value)
        return value

    def __set__(self, instance: object, value: T | str) -> None:
        vars(instance)[self.place] = value

    def given(self, instance: object) -> T | str:
        """The value, not imported where it was not yet."""
        return vars(instance)[self.place]


def outline(function: Callable | str) -> Callable:
    """Something with the signature and the docstring of a function, which is not imported for them where it is named.

    Defaults that are not written out need what their module imports: then so does this.
    """
    return _outline(function) if isinstance(function, str) else function


def _imported(name: str) -> Any:
    module, _, inside = name.rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), inside)


@functools.cache
def _outline(name: str) -> Callable:
    module, _, inside = name.rpartition(".")
    tree = ast.parse((pathlib.Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
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
    return _imported(name)
