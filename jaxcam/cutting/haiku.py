"""Haiku: transformed functions, whose modules are intercepted while they are traced."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from jaxcam.cutting.libraries import Adapter, Call, Library, register
from jaxcam.cutting.tags import mark_in_order
from jaxcam.errors import JaxcamError

_KINDS = ("Transformed", "TransformedWithState", "MultiTransformed", "MultiTransformedWithState")


@contextlib.contextmanager
def _layers_named(hk: Any) -> Iterator[None]:
    def name(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        method = context.method_name
        own = type(context.module).__module__.startswith("haiku.")  # whose averages, for one, are no layers
        if method != "__call__" and (own or method.startswith("_")):
            return out
        path = [part for part in context.module.module_name.split("/") if part != "~"]  # made in __init__
        label = ".".join(path) + ("" if method == "__call__" else f".{method}")
        return mark_in_order(out, label, type(context.module).__name__)

    with hk.intercept_methods(name):
        yield


def _adapt(hk: Any, model: Any, params: Any, call: Call) -> Adapter:
    kind = type(model).__name__
    if kind.startswith("Multi"):
        raise JaxcamError(
            f"a hk.{kind} has several functions: give the one that classifies, as in "
            "lambda params, x: f.apply.classify(params, None, x)"
        )
    if callable(call):
        raise JaxcamError(
            "a hk.Transformed is called by its apply: give keyword arguments such as call={'is_training': False}, or "
            "for model a function of your own, as in lambda params, x: f.apply(params, None, x)['logits']"
        )
    if params is None:
        raise JaxcamError("a hk.Transformed holds no parameters: give those that its init returned as params")
    stateful = kind == "TransformedWithState"
    if stateful and not (isinstance(params, tuple | list) and len(params) == 2):
        raise JaxcamError("the params of a hk.TransformedWithState are the pair (params, state): what init returned")
    key = () if "rng" not in inspect.signature(model.apply).parameters else (None,)  # without_apply_rng took it away

    def run(params, x):
        first = tuple(params) if stateful else (params,)
        with _layers_named(hk):
            out = model.apply(*first, *key, x, **(call or {}))
        return out[0] if stateful else out

    return Adapter(run, picked="a function of your own for model, lambda params, x: f.apply(params, None, x)")


register(
    Library(
        "Haiku", "haiku", lambda hk, x: isinstance(x, tuple(getattr(hk, k) for k in _KINDS if hasattr(hk, k))), _adapt,
        naming=_layers_named, give="a hk.Transformed and what its init returned",
    )
)  # fmt: skip
