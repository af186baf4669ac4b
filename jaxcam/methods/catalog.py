"""The methods by name, with what a person should know before choosing one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxcam.errors import unknown
from jaxcam.methods import coalition, gradient, propagation
from jaxcam.methods.result import CAM


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """One method.

    Attributes:
      function: `(params, activations, *, head, target) -> CAM`.
      title: as the literature spells it.
      cost: in head evaluations.
      promise: what its coefficients satisfy.
      paper: where it comes from.
      any_head: False where it is defined for particular heads only; `diagnostics["not_gap_linear"]` tells.
      references: whether it takes `references`, reference activations `(R, h, w, K)`.
    """

    function: Callable[..., CAM]
    title: str
    cost: str
    promise: str
    paper: str
    any_head: bool = True
    references: bool = False


METHODS: dict[str, MethodInfo] = {
    "lift_cam": MethodInfo(
        propagation.lift_cam, "LIFT-CAM", "1 forward + 1 backward, on a pair", "complete: sums to F(A) - F(0)",
        "Jung & Oh, ICCV 2021",
    ),
    "deep_shap_cam": MethodInfo(
        propagation.deep_shap_cam, "DeepSHAP-CAM", "the same, per reference", "complete: sums to F(A) - mean F(ref)",
        "Lundberg & Lee, NeurIPS 2017", references=True,
    ),
    "grad_cam": MethodInfo(
        gradient.grad_cam, "Grad-CAM", "1 forward + 1 backward", "none", "Selvaraju et al., ICCV 2017",
    ),
    "grad_cam_pp": MethodInfo(
        gradient.grad_cam_pp, "Grad-CAM++", "1 forward + 1 backward", "none", "Chattopadhay et al., WACV 2018",
    ),
    "xgrad_cam": MethodInfo(
        gradient.xgrad_cam, "XGrad-CAM", "1 forward + 1 backward", "none", "Fu et al., BMVC 2020",
    ),
    "ablation_cam": MethodInfo(
        coalition.ablation_cam, "Ablation-CAM", "K + 1 forward, behind the head's first layer",
        "the exact drop of each channel", "Desai & Ramaswamy, WACV 2020",
    ),
    "cam": MethodInfo(
        gradient.cam, "CAM", "3 forward + 3 backward", "the classifier's weights; GAP + linear heads only",
        "Zhou et al., CVPR 2016", any_head=False,
    ),
}  # fmt: skip


def method(name: str) -> MethodInfo:
    """The method called `name`; hyphens, case and a missing `_cam` are forgiven.

    Raises:
      JaxcamError: there is none; the message names the nearest ones.
    """
    key = name.lower().replace("-", "_").replace("++", "_pp")
    for candidate in (key, f"{key}_cam", key.replace("cam", "_cam")):
        if candidate in METHODS:
            return METHODS[candidate]
    raise unknown("method", name, METHODS)
