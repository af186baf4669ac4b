"""Flax NNX: of a model a copy is made, every layer of which is an instance of a subclass that names what it returns."""

from __future__ import annotations

import functools
import sys
import types
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax

from jaxcam.cutting.libraries import Adapter, Call, Library, calls_named, has_call, invoke, register
from jaxcam.cutting.tags import mark_in_order
from jaxcam.errors import JaxcamError


@functools.cache
def _naming(cls: Any) -> type:
    """A subclass of a layer's class, as like it as can be, that names what its calls return."""

    def __call__(self, *args, **kwargs):
        return mark_in_order(cls.__call__(self, *args, **kwargs), self.__dict__["_jaxcam_layer"], cls.__name__)

    told = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(told | {"__call__": __call__}))


def _adapt(nnx: Any, model: Any, params: Any, call: Call) -> Adapter:
    graphdef, state = nnx.split(model)
    own = nnx.to_pure_dict(state)
    _say_what_is_frozen(nnx, model, params)

    def run(params, x):
        given = plain(params)
        copy = nnx.merge(graphdef, own if given is None else _overlay(own, given))
        copy.eval()
        for path, node in list(nnx.iter_graph(copy)):
            if path and isinstance(node, nnx.Module) and has_call(type(node)):
                cls: Any = type(node)
                object.__setattr__(node, "__class__", _naming(cls))
                node.__dict__["_jaxcam_layer"] = ".".join(map(str, path))
        before = _changing(nnx, copy)
        out = invoke(copy, x, call)
        if changed := [path for path, value in _changing(nnx, copy).items() if value is not before.get(path)]:
            warnings.warn(
                f"the model changed {', '.join(sorted(changed)[:2])}, as models do that train: its call overrides eval "
                "mode, and what it computes for a picture depends on chance or on a batch of one; give what its call "
                "takes for eval mode, as in call={'train': False}",
                stacklevel=2,
            )
        return out

    return Adapter(run)


def _changing(nnx: Any, model: Any) -> dict[str, Any]:
    """What training changes at each call: running statistics, and the counts of random keys that were drawn."""
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model, (nnx.BatchStat, nnx.RngCount))))[0]
    return {".".join(str(getattr(k, "key", k)) for k in path): leaf for path, leaf in leaves}


def _say_what_is_frozen(nnx: Any, model: Any, params: Any) -> None:
    """Warns where running statistics are not among the parameters: those of this moment are then built in."""
    if params is None:
        return
    given = _paths(plain(params))
    learned, kept = (_paths(nnx.to_pure_dict(nnx.state(model, kind))) for kind in (nnx.Param, nnx.BatchStat))
    absent = sorted(kept - given)
    if absent and learned <= given:  # else a part was given on purpose
        warnings.warn(
            f"the params hold no running statistics ({', '.join(absent[:2])}{', ...' if len(absent) > 2 else ''}), so "
            "those of this moment are used from now on, however the model trains on: give "
            "nnx.state(model, nnx.Not(nnx.RngState)), which holds them too",
            stacklevel=2,
        )


def _paths(tree: Any, path: str = "") -> set[str]:
    if not isinstance(tree, Mapping):
        return {path}
    return set().union(*(_paths(v, f"{path}.{k}" if path else str(k)) for k, v in tree.items()))


def _overlay(own: dict, given: Any, path: str = "") -> dict:
    """A model's own values, those that are given in their place."""
    if not isinstance(given, Mapping):
        raise JaxcamError(f"the params of an NNX module are nested dicts (nnx.to_pure_dict), and{path} holds none")
    merged = dict(own)
    for key, value in given.items():
        if key not in own:
            raise JaxcamError(f"the module has no parameter{path} {key!r}; are these the params of another one?")
        merged[key] = _overlay(own[key], value, f"{path} {key}") if isinstance(own[key], dict) else value
    return merged


def _own_params(nnx: Any, model: Any, params: Any) -> Any:
    if params is None:
        params = nnx.state(model)
    return plain(params)


def plain(params: Any) -> Any:
    """Nested dicts for an `nnx.State`, which costs more at every call; whatever else it is, as it is.

    The keys of dropout, which is off, stay with the module.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(params, nnx.State):
        return params
    return nnx.to_pure_dict(nnx.filter_state(params, nnx.Not(nnx.RngState)))


def _layers_named(nnx: Any) -> AbstractContextManager:
    """In functions around modules, such as `lambda p, x: nnx.merge(graph, p)(x)`, layers have their path in theirs."""
    paths: dict[int, tuple[Any, dict[int, str]]] = {}

    def name(calls):
        root = calls[0]
        if id(root) not in paths:
            of_root = {id(node): ".".join(map(str, path)) for path, node in nnx.iter_graph(root)}
            paths[id(root)] = root, of_root  # which is kept, lest another object gets its place
        return paths[id(root)][1].get(id(calls[-1]), "") or type(calls[-1]).__name__

    return calls_named(nnx.Module, name)


register(
    Library(
        "Flax NNX", "flax.nnx", lambda nnx, x: isinstance(x, nnx.Module), _adapt, _own_params, _layers_named,
        give="an NNX module and nnx.to_pure_dict(nnx.state(model))",
    )
)  # fmt: skip
