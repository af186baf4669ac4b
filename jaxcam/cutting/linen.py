"""Flax Linen: modules are intercepted while they are traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxcam.cutting.libraries import Adapter, Call, Library, invoke, register
from jaxcam.cutting.tags import mark_in_order
from jaxcam.errors import JaxcamError


@contextlib.contextmanager
def layers_named(linen: Any) -> Iterator[None]:
    def name(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        path, method = context.module.path, context.method_name
        if not path or method.startswith("_") and method != "__call__" or method == "setup":
            return out
        label = ".".join(path) + ("" if method == "__call__" else f".{method}")
        return mark_in_order(out, label, type(context.module).__name__)

    with linen.intercept_methods(name):
        yield


def _adapt(linen: Any, model: Any, variables: Any, call: Call) -> Adapter:
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise JaxcamError(
            "the params of a Linen module are its variables, {'params': ..., 'batch_stats': ...}: what init returned"
        )

    def run(variables, x):
        with layers_named(linen):
            return model.apply(variables, x, method=lambda module, x: invoke(module, x, call))

    return Adapter(run)


register(
    Library(
        "Flax Linen", "flax.linen", lambda linen, x: isinstance(x, linen.Module), _adapt, naming=layers_named,
        give="a Linen module and its variables",
    )
)  # fmt: skip
