"""The methods by name, with what a person should know before choosing one, and requests with options."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from jaxcam.errors import JaxcamError, unknown
from jaxcam.methods import coalition, gradient, propagation, relevance, sampling, score
from jaxcam.methods.result import CAM


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """One method.

    Attributes:
      function: `(params, activations, *, head, target) -> CAM`, with one more input where `takes` says so.
      title: as the literature spells it.
      cost: in head evaluations.
      promise: what its coefficients satisfy.
      paper: where it comes from.
      any_head: False where it is defined for particular heads only; `diagnostics["not_gap_linear"]` tells.
      takes: "" for nothing more; "references" for the keyword `references`, activations `(R, h, w, K)`; "key"
        for a random key, third; "image" for the network's input, third, and the keyword `predict` in place of `head`;
        the engine loops over its channels on the host (`score.ScoreChunks`).
    """

    function: Callable[..., CAM]
    title: str
    cost: str
    promise: str
    paper: str
    any_head: bool = True
    takes: str = ""

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """What a request may set: the keyword arguments that are not data."""
        data = ("head", "target", "predict", "references")
        parameters = inspect.signature(self.function).parameters
        return {k: p for k, p in parameters.items() if p.kind == p.KEYWORD_ONLY and k not in data}


@dataclasses.dataclass(frozen=True)
class Request:
    """A method with options, such as `shap_cam:num_permutations=100,estimator=plain`; see `request`.

    Attributes:
      name: the method's name in `METHODS`.
      options: pairs of keyword and value, sorted.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def info(self) -> MethodInfo:
        """What is known about the method."""
        return METHODS[self.name]

    @property
    def label(self) -> str:
        """The request as text, the same for equal requests."""
        settings = ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in self.options)
        return f"{self.name}:{settings}" if settings else self.name

    @property
    def function(self) -> Callable[..., CAM]:
        """The method with its options set."""
        return functools.partial(self.info.function, **dict(self.options)) if self.options else self.info.function


METHODS: dict[str, MethodInfo] = {
    "lift_cam": MethodInfo(
        propagation.lift_cam, "LIFT-CAM", "1 forward + 1 backward, on a pair", "complete: sums to F(A) - F(0)",
        "Jung & Oh, ICCV 2021",
    ),
    "deep_shap_cam": MethodInfo(
        propagation.deep_shap_cam, "DeepSHAP-CAM", "the same, per reference", "complete: sums to F(A) - mean F(ref)",
        "Lundberg & Lee, NeurIPS 2017", takes="references",
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
    "shap_cam": MethodInfo(
        sampling.shap_cam, "SHAP-CAM", "num_permutations x K forward, behind the first layer",
        "Shapley values, with errors; sums to F(A) - F(0)", "Jung & Oh, ICCV 2021", takes="key",
    ),
    "kernel_shap_cam": MethodInfo(
        sampling.kernel_shap_cam, "KSHAP-CAM", "num_samples (10 K) forward, behind the first layer",
        "Shapley values by regression; sums to F(A) - F(0)", "Lundberg & Lee, NeurIPS 2017", takes="key",
    ),
    "lime_cam": MethodInfo(
        sampling.lime_cam, "LIME-CAM", "num_samples (K) forward, behind the first layer",
        "a sparse linear model near A", "Ribeiro et al., KDD 2016", takes="key",
    ),
    "lrp_cam": MethodInfo(
        relevance.lrp_cam, "LRP-CAM", "1 forward + 1 backward", "relevance, less what biases absorb: sums to F(A)",
        "Bach et al., PLoS ONE 2015",
    ),
    "score_cam": MethodInfo(
        score.score_cam, "Score-CAM", "K + 1 forward, of the whole network", "none", "Wang et al., CVPRW 2020",
        takes="image",
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
    return METHODS[_name(name)]


def request(text: str | Request) -> Request:
    """Reads a method with options: `shap_cam:num_permutations=100,estimator=plain`.

    Raises:
      JaxcamError: the method or an option does not exist (the nearest are named), or a value is not one.
    """
    if isinstance(text, Request):
        return text
    name, _, settings = text.partition(":")
    key = _name(name)
    known = METHODS[key].options
    found: dict[str, Any] = {}
    for setting in filter(None, (s.strip() for s in settings.split(","))):
        option, equals, value = (part.strip() for part in setting.partition("="))
        option = option.replace("-", "_")
        if option not in known:
            if not known:
                raise JaxcamError(f"{key} takes no options; {setting!r} was given")
            raise unknown(f"option of {key}", option, known)
        if not equals or not value:
            raise JaxcamError(f"{key}: the option {option} needs a value, as in {key}:{option}=...")
        found[option] = _value(f"{key}: {option}", value, known[option].default)
    return Request(key, tuple(sorted(found.items())))


def _name(name: str) -> str:
    key = name.strip().lower().replace("-", "_").replace("++", "_pp")
    for candidate in (key, f"{key}_cam", key.replace("cam", "_cam")):
        if candidate in METHODS:
            return candidate
    raise unknown("method", name, METHODS)


def _value(what: str, text: str, default: Any) -> Any:
    """`text` as a value of the default's type; names stay strings."""
    plain = {"true": True, "false": False, "none": None}
    value: Any
    try:
        value = plain[text.lower()] if text.lower() in plain else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and value % 1 == 0
    fits = {bool: isinstance(value, bool), int: whole, float: number, str: isinstance(value, str)}
    if not fits.get(type(default), value is None or number or isinstance(value, str)):
        raise JaxcamError(f"{what} must be a {type(default).__name__}, not {text!r}")
    return type(default)(value) if isinstance(default, int | float) and not isinstance(default, bool) else value
