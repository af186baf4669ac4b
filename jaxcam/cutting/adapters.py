"""Flax Linen, Flax NNX, Equinox and bare functions as functions of (params, x) whose layers name their outputs.

None of the libraries is imported here before a model of it comes along, and no model is changed: Linen
is intercepted while it is traced, and of an NNX or Equinox model a copy is made, of which every layer is an
instance of a subclass that names what it returns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxcam.cutting.tags import mark_in_order
from jaxcam.errors import JaxcamError

#: `{"train": False}`, keyword arguments of the model's call; or `(module, x) -> logits`.
Call = Mapping[str, Any] | Callable[[Any, Any], Any] | None


class Adapter(NamedTuple):
    """A model as a function.

    Attributes:
      run: `(params, x) -> output` of the whole model.
      layout: `hwk` or `khw`: how the library lays out images and maps.
      batched_first: whether models of this kind usually take a batch.
    """

    run: Callable[[Any, Any], Any]
    layout: str = "hwk"
    batched_first: bool = True


def adapt(model: Any, params: Any, call: Call) -> Adapter:
    """The adapter of a model.

    Raises:
      JaxcamError: it is no model of a known library and no function either, or `params` are not the model's.
    """
    if call is not None and not callable(call) and not isinstance(call, Mapping):
        raise JaxcamError(f"call must be keyword arguments such as {{'train': False}} or a function, not {call!r}")
    for library, name, adapter in (("flax.linen", "Module", _linen), ("flax.nnx", "Module", _nnx)):
        if library in sys.modules and isinstance(model, getattr(sys.modules[library], name)):
            return adapter(model, params, call)
    if "equinox" in sys.modules and isinstance(model, sys.modules["equinox"].Module):
        return _equinox(model, call)
    if not callable(model):
        raise JaxcamError(
            f"a {type(model).__name__} cannot be cut: give a Flax or Equinox module, or a function (params, image)"
        )
    if callable(call):
        raise JaxcamError("call=<function> is for modules; a function of (params, image) says itself how it is called")

    def run(params, x):
        with _linen_layers_named():  # functions often wrap module.apply
            return model(params, x, **(call or {}))

    return Adapter(run)


def own_params(model: Any, params: Any) -> Any:
    """`params`, as plain containers; the module's own where none are given (of a function there are none to take)."""
    nnx, eqx = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if params is None and nnx is not None and isinstance(model, nnx.Module):
        params = nnx.state(model, nnx.Not(nnx.RngState))  # the keys of dropout, which is off, stay with the module
    if params is None and eqx is not None and isinstance(model, eqx.Module):
        return eqx.filter(model, eqx.is_array)
    return nnx.to_pure_dict(params) if nnx is not None and isinstance(params, nnx.State) else params


def _invoke(module: Any, x: Any, call: Call) -> Any:
    return call(module, x) if callable(call) else module(x, **(call or {}))


@contextlib.contextmanager
def _linen_layers_named():
    linen = sys.modules.get("flax.linen")
    if linen is None:
        yield
        return

    def name(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        path, method = context.module.path, context.method_name
        if not path or method.startswith("_") and method != "__call__" or method == "setup":
            return out
        label = ".".join(path) + ("" if method == "__call__" else f".{method}")
        return mark_in_order(out, label, type(context.module).__name__)

    with linen.intercept_methods(name):
        yield


def _linen(model: Any, variables: Any, call: Call) -> Adapter:
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise JaxcamError(
            "the params of a Linen module are its variables, {'params': ..., 'batch_stats': ...}: what init returned"
        )

    def run(variables, x):
        with _linen_layers_named():
            return model.apply(variables, x, method=lambda module, x: _invoke(module, x, call))

    return Adapter(run)


@functools.cache
def _naming(cls: Any) -> type:
    """A subclass of an NNX layer's class, as like it as can be, that names what its calls return."""

    def __call__(self, *args, **kwargs):
        return mark_in_order(cls.__call__(self, *args, **kwargs), self.__dict__["_jaxcam_layer"], cls.__name__)

    return _subclass(cls, {"__call__": __call__})


def _subclass(cls: type, body: dict) -> type:
    told = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(told | body))


def _nnx(model: Any, params: Any, call: Call) -> Adapter:
    nnx = sys.modules["flax.nnx"]
    graphdef, state = nnx.split(model)
    own = nnx.to_pure_dict(state)
    _say_what_is_frozen(nnx, model, params)

    def run(params, x):
        given = nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params
        copy = nnx.merge(graphdef, own if given is None else _overlay(own, given))
        copy.eval()
        for path, node in list(nnx.iter_graph(copy)):
            if path and isinstance(node, nnx.Module) and _has_call(type(node)):
                cls: Any = type(node)
                object.__setattr__(node, "__class__", _naming(cls))
                node.__dict__["_jaxcam_layer"] = ".".join(map(str, path))
        return _invoke(copy, x, call)

    return Adapter(run)


def _say_what_is_frozen(nnx: Any, model: Any, params: Any) -> None:
    """Warns where running statistics are not among the parameters: those of this moment are then built in."""
    if params is None:
        return
    given = _paths(nnx.to_pure_dict(params) if isinstance(params, nnx.State) else params)
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


def _has_call(cls: type) -> bool:
    return any("__call__" in vars(c) for c in cls.__mro__)


def _equinox(model: Any, call: Call) -> Adapter:
    eqx = sys.modules["equinox"]

    def run(params, x):
        whole = model if params is None else eqx.combine(params, model)
        return _invoke(_equinox_copy(eqx, eqx.nn.inference_mode(whole), ()), x, call)

    return Adapter(run, layout="khw", batched_first=False)


@functools.cache
def _equinox_naming(eqx: Any, cls: Any) -> type:
    def __call__(self, *args, **kwargs):
        return mark_in_order(cls.__call__(self, *args, **kwargs), self._jaxcam_layer, cls.__name__)

    # A field, and static: the name outlives the layer's flattening in filter_jit and the like.
    body = {"__call__": __call__, "_jaxcam_layer": eqx.field(static=True, default="")}
    return _subclass(cls, body | {"__annotations__": {"_jaxcam_layer": str}})


def _equinox_copy(eqx: Any, node: Any, path: tuple) -> Any:
    if isinstance(node, eqx.Module):
        cls: Any = type(node)
        named = bool(path) and _has_call(cls)
        copy = object.__new__(_equinox_naming(eqx, cls) if named else cls)
        for field in dataclasses.fields(cls):
            if hasattr(node, field.name):
                inner = _equinox_copy(eqx, getattr(node, field.name), (*path, field.name))
                object.__setattr__(copy, field.name, inner)
        if named:
            object.__setattr__(copy, "_jaxcam_layer", ".".join(map(str, path)))
        return copy
    if isinstance(node, dict):
        return {k: _equinox_copy(eqx, v, (*path, k)) for k, v in node.items()}
    if isinstance(node, list | tuple):
        inner = [_equinox_copy(eqx, v, (*path, i)) for i, v in enumerate(node)]
        return type(node)(*inner) if hasattr(node, "_fields") else type(node)(inner)
    return node


def abstract(tree: Any, what: str) -> Any:
    """Shapes and dtypes of a pytree of arrays (or of shapes).

    Raises:
      JaxcamError: it holds something else.
    """

    def one(leaf):
        if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # of NNX's Dropout
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))
        if isinstance(leaf, bool | int | float | complex):
            return jax.eval_shape(lambda: jax.numpy.asarray(leaf))
        hint = "; of an Equinox module give eqx.filter(model, eqx.is_array)" if callable(leaf) else ""
        raise JaxcamError(f"{what} must hold arrays only, and holds a {type(leaf).__name__}{hint}")

    return jax.tree.map(one, tree)
