"""Keras 3 on JAX: models of every kind, run without changing them; their layers name what they return."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax.numpy as jnp

from jaxcam.cutting.libraries import Adapter, Call, Library, calls_named, register
from jaxcam.errors import JaxcamError


def _layers_named(keras: Any, model: Any = None) -> AbstractContextManager:
    def name(calls):
        return ".".join(layer.name for layer in (calls[1:] if calls[0] is model else calls))

    return calls_named(keras.Layer, name)


def _adapt(keras: Any, model: Any, params: Any, call: Call) -> Adapter:
    if keras.backend.backend() != "jax":
        raise JaxcamError(
            f"Keras runs on {keras.backend.backend()} here: set the environment variable KERAS_BACKEND=jax before "
            "keras is imported"
        )
    if not model.built:
        raise JaxcamError(
            f"the Keras model {model.name!r} is not built: call it once, as in model(numpy.zeros((1, H, W, 3)))"
        )
    _values(model, params)

    def run(params, x):
        # In eval mode, and what a call changes (running averages, seeds) is thrown away with the scope.
        with keras.StatelessScope(state_mapping=_values(model, params)), _layers_named(keras, model):
            if callable(call):
                return call(model, x)
            return model(x, **({"training": False} | dict(call or {})))

    return Adapter(run, layout="hwk" if keras.config.image_data_format() == "channels_last" else "khw")


def _values(model: Any, params: Any) -> list[tuple[Any, Any]]:
    """The model's variables with their values, of those that are given."""
    variables = list(model.variables)
    if params is None:
        return []
    if isinstance(params, Mapping):
        by_path = {v.path: v for v in variables}
        if strange := [name for name in params if name not in by_path]:
            raise JaxcamError(f"the Keras model {model.name!r} has no variable {strange[0]!r}; they go by v.path")
        return [(by_path[name], value) for name, value in params.items()]
    if isinstance(params, tuple | list):
        both = (model.trainable_variables, model.non_trainable_variables)
        if [len(p) if isinstance(p, tuple | list) else -1 for p in params] == [len(v) for v in both]:
            return [pair for held, given in zip(both, params, strict=True) for pair in zip(held, given, strict=True)]
        if len(params) == len(variables):
            return list(zip(variables, params, strict=True))
    raise JaxcamError(
        f"the params of a Keras model are its variables' values: {{v.path: v.value for v in model.variables}}, or the "
        f"values alone in that order ({len(variables)} of them), or as in stateless_call the pair of the trainable and "
        "the others"
    )


def _own_params(keras: Any, model: Any, params: Any) -> Any:
    if params is not None:
        return params
    # Seeds and tables of indices stay with the model.
    return {v.path: v.value for v in model.variables if jnp.issubdtype(v.dtype, jnp.floating)}


register(
    Library(
        "Keras", "keras", lambda keras, x: hasattr(keras, "Layer") and isinstance(x, keras.Layer), _adapt, _own_params,
        _layers_named, give="a Keras 3 model on JAX, which brings its own params",
    )
)  # fmt: skip
