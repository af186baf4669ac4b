"""Class activation maps for JAX.

The methods (`lift_cam`, `grad_cam`, ...) are pure functions of `(params, activations)`;
`load` brings a network, and `explain` does the whole of it for a picture.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public names and where they live; imported on first use, so that `import jaxcam` stays light.
_HOME = {
    "CAM": "jaxcam.methods.result",
    "Explanation": "jaxcam.explanation.explain",
    "Held": "jaxcam.cutting",
    "JaxcamError": "jaxcam.errors",
    "Layout": "jaxcam.cutting",
    "METHODS": "jaxcam.methods.registry",
    "METRICS": "jaxcam.metrics",
    "Network": "jaxcam.models.network",
    "Preprocessing": "jaxcam.data.preprocessing",
    "ablation_cam": "jaxcam.methods.coalition",
    "cam": "jaxcam.methods.gradient",
    "coalition_game": "jaxcam.transforms.coalition",
    "cut": "jaxcam.cutting",
    "deep_shap_cam": "jaxcam.methods.propagation",
    "deeplift": "jaxcam.transforms.deeplift",
    "explain": "jaxcam.explanation.explain",
    "grad_cam": "jaxcam.methods.gradient",
    "grad_cam_pp": "jaxcam.methods.gradient",
    "kernel_shap_cam": "jaxcam.methods.sampling",
    "layers": "jaxcam.cutting",
    "lift_cam": "jaxcam.methods.propagation",
    "lime_cam": "jaxcam.methods.sampling",
    "load": "jaxcam.zoo.load",
    "lrp": "jaxcam.transforms.lrp",
    "lrp_cam": "jaxcam.methods.relevance",
    "plot": "jaxcam.explanation.figures",
    "project": "jaxcam.methods.maps",
    "resize_map": "jaxcam.methods.maps",
    "save_network": "jaxcam.zoo.store",
    "scale_map": "jaxcam.methods.maps",
    "score_cam": "jaxcam.methods.score",
    "shap_cam": "jaxcam.methods.sampling",
    "split": "jaxcam.cutting",
    "tag": "jaxcam.cutting",
    "tokens": "jaxcam.cutting",
    "why_empty": "jaxcam.methods.maps",
    "wrap": "jaxcam.models.wrapped",
    "xgrad_cam": "jaxcam.methods.gradient",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxcam' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
