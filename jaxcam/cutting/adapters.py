"""Any network as a function of (params, x) whose layers name their outputs.

No library is imported here before a model of it comes along, and no model is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxcam.cutting import equinox, haiku, huggingface, keras, linen, nnx  # noqa: F401 - each registers a library
from jaxcam.cutting.libraries import Adapter, Call, imported, known
from jaxcam.errors import JaxcamError


def adapt(model: Any, params: Any, call: Call) -> Adapter:
    """The adapter of a model.

    Raises:
      JaxcamError: it is no model of a known library and no function either, or `params` are not the model's.
    """
    if call is not None and not callable(call) and not isinstance(call, Mapping):
        raise JaxcamError(f"call must be keyword arguments such as {{'train': False}} or a function, not {call!r}")
    for library, module in imported():
        if library.is_model(module, model):
            return library.adapt(module, model, params, call)
    if isinstance(model, type):
        raise JaxcamError(f"{model.__name__} is a class: give a model of it, as in {model.__name__}(...)")
    homes = (cls.__module__.partition(".")[0] for cls in type(model).__mro__)
    elsewhere = next((_ELSEWHERE[home] for home in homes if home in _ELSEWHERE), None)
    if elsewhere or not callable(model):
        why = f": it runs on {elsewhere}, not on JAX. Give" if elsewhere else ": give"
        raise JaxcamError(
            f"a {type(model).__name__} cannot be cut{why} a function (params, image) -> logits, or {known()}"
        )
    if callable(call):
        raise JaxcamError("call=<function> is for modules; a function of (params, image) says itself how it is called")

    def run(params, x):
        with contextlib.ExitStack() as names:  # functions often wrap models
            for library, module in imported():
                names.enter_context(library.naming(module))
            return model(params, x, **(call or {}))

    return Adapter(run, picked="a function of your own around it, lambda params, x: f(params, x)")


#: Libraries whose models are callable, and no functions of JAX.
_ELSEWHERE = {"torch": "PyTorch", "torchvision": "PyTorch", "timm": "PyTorch", "tensorflow": "TensorFlow",
              "tf_keras": "TensorFlow", "onnxruntime": "ONNX Runtime"}  # fmt: skip


def own_params(model: Any, params: Any) -> Any:
    """`params`, as plain containers; the model's own where none are given (of a function there are none to take)."""
    for library, module in imported():
        if library.is_model(module, model):
            return library.own_params(module, model, params)
    return nnx.plain(params)


def params_of(given: Any) -> Any:
    """Parameters as plain containers, given as they are or as a model that has them."""
    for library, module in imported():
        if library.is_model(module, given):
            return library.own_params(module, given, None)
    return nnx.plain(given)


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
