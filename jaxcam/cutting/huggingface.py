"""Hugging Face's Flax models: Linen modules inside objects that take and give what the other frameworks' do."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxcam.cutting.libraries import Adapter, Call, Library, register
from jaxcam.cutting.linen import layers_named


def _is_model(transformers: Any, model: Any) -> bool:
    # By what it has: asking transformers for a class imports much of it.
    return type(model).__name__.startswith("Flax") and hasattr(model, "module") and hasattr(type(model), "params")


def _adapt(transformers: Any, model: Any, params: Any, call: Call) -> Adapter:
    import flax.linen as linen  # which the model is made of

    def run(params, x):
        given = {"params": model.params if params is None else params, "train": False}
        with layers_named(linen):
            if callable(call):
                return call(lambda x, **more: model(x, **(given | more)), jnp.moveaxis(x, -1, -3))
            out = model(jnp.moveaxis(x, -1, -3), **(given | dict(call or {})))  # pictures are channels first there
        return getattr(out, "logits", out)

    return Adapter(run)


def _own_params(transformers: Any, model: Any, params: Any) -> Any:
    return model.params if params is None else params


register(
    Library(
        "Hugging Face's Flax models",
        "transformers",
        _is_model,
        _adapt,
        _own_params,
        give="a Flax...ForImageClassification, which brings its own params",
    )
)
