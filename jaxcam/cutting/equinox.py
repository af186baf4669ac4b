"""Equinox: of a model a copy is made, every layer of which is an instance of a subclass that names what it returns."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from jaxcam.cutting.libraries import Adapter, Call, Library, calls_named, has_call, invoke, register
from jaxcam.cutting.tags import mark_in_order


def _adapt(eqx: Any, model: Any, params: Any, call: Call) -> Adapter:
    def run(params, x):
        whole = model if params is None else eqx.combine(params, model)
        return invoke(_copy(eqx, eqx.nn.inference_mode(whole), ()), x, call)

    return Adapter(run, layout="khw", batched_first=False)


@functools.cache
def _naming(eqx: Any, cls: Any) -> type:
    def __call__(self, *args, **kwargs):
        return mark_in_order(cls.__call__(self, *args, **kwargs), self._jaxcam_layer, cls.__name__)

    # A field, and static: the name outlives the layer's flattening in filter_jit and the like.
    body = {"__call__": __call__, "_jaxcam_layer": eqx.field(static=True, default="")}
    told = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    told |= {"__annotations__": {"_jaxcam_layer": str}}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(told | body))


def _copy(eqx: Any, node: Any, path: tuple) -> Any:
    if isinstance(node, eqx.Module):
        cls: Any = type(node)
        named = bool(path) and has_call(cls)
        copy = object.__new__(_naming(eqx, cls) if named else cls)
        for field in dataclasses.fields(cls):
            if hasattr(node, field.name):
                inner = _copy(eqx, getattr(node, field.name), (*path, field.name))
                object.__setattr__(copy, field.name, inner)
        if named:
            object.__setattr__(copy, "_jaxcam_layer", ".".join(map(str, path)))
        return copy
    if isinstance(node, dict):
        return {k: _copy(eqx, v, (*path, k)) for k, v in node.items()}
    if isinstance(node, list | tuple):
        inner = [_copy(eqx, v, (*path, i)) for i, v in enumerate(node)]
        return type(node)(*inner) if hasattr(node, "_fields") else type(node)(inner)
    return node


def _own_params(eqx: Any, model: Any, params: Any) -> Any:
    return eqx.filter(model, eqx.is_array) if params is None else params


def _layers_named(eqx: Any) -> AbstractContextManager:
    """In functions around modules, such as `lambda p, x: eqx.combine(p, static)(x)`: by their path in theirs."""
    paths: dict[int, tuple[Any, dict[int, str]]] = {}

    def name(calls):
        own = [c for c in calls if not type(c).__module__.startswith("equinox._")]  # not filter_jit and the like
        if not own or own[-1] is not calls[-1]:
            return ""
        root = own[0]
        if id(root) not in paths:
            paths[id(root)] = root, dict(_walk(eqx, root, ()))  # which is kept, lest another object gets its place
        return paths[id(root)][1].get(id(calls[-1]), "") or type(calls[-1]).__name__

    return calls_named(eqx.Module, name)


def _walk(eqx: Any, node: Any, path: tuple) -> Iterator[tuple[int, str]]:
    """The modules in a module, by identity, and their paths."""
    if isinstance(node, eqx.Module):
        yield id(node), ".".join(map(str, path))
        fields: list[tuple[Any, Any]] = [
            (f.name, getattr(node, f.name)) for f in dataclasses.fields(node) if hasattr(node, f.name)
        ]
    elif isinstance(node, dict):
        fields = list(node.items())
    elif isinstance(node, list | tuple):
        fields = list(enumerate(node))
    else:
        return
    for key, value in fields:
        yield from _walk(eqx, value, (*path, key))


register(
    Library(
        "Equinox", "equinox", lambda eqx, x: isinstance(x, eqx.Module), _adapt, _own_params, _layers_named,
        give="an Equinox module and eqx.filter(model, eqx.is_array)",
    )
)  # fmt: skip
