"""The methods by name, with what a person should know before choosing one, and requests with options."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from jaxcam.deferred import Deferred
from jaxcam.errors import JaxcamError, check_known, unknown
from jaxcam.methods import DEFAULT_METHOD, SIGNED_METHOD
from jaxcam.methods.heads import ATTENTION, GAP_LINEAR, DefinedFor
from jaxcam.methods.signs import CANCELS_FROM, LEFT_UP_TO, SIGNED_FROM, cancellation, left_over, signed_share

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxcam.methods.result import CAM, Inputs
    from jaxcam.methods.stepping import Stepped

#: What a method may need besides activations and target, and the field of `Inputs` that has it: a head that has a
#: derivative; one whose operations all have rules for contributions; a random key, and so on. What needs the image runs
#: the whole network on it, and takes the head, or a derivative of the network, where it says so as well.
NEEDS = {
    "gradient": "head", "rules": "head", "head": "head", "key": "key", "references": "references", "image": "image",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, repr=False)
class Method:
    """What there is to know of a method; nothing outside its entry in `METHODS` knows it by name.

    Attributes:
      function: `(params, activations, *, head, target) -> CAM`, with more arguments where `needs` says so. Its other
        keyword arguments are the options of a request. One of `jaxcam.methods` may be named, as "module.name": it is
        imported when it is asked for, so that what there is can be listed without JAX.
      title: as the literature spells it.
      cost: in head evaluations.
      promise: what its coefficients satisfy, for people; the fields below say it for programs.
      paper: where it comes from.
      map_from: "channels" where the map is `relu(sum_k alpha_k A_k)`; "positions" where it is made of contributions of
        every element, `relu(sum_k C_k)`, of which the coefficients are the sums over the positions.
      by_class: whether the map depends on the class.
      needs: of `NEEDS`.
      complete: what `sum_k alpha_k` is: "zero" for F(A) - F(0), "references" for F(A) - mean F(reference); None for
        nothing in particular. Of a map from positions it is the sum of the map, too, before the ReLU.
      exact_on_linear: whether the coefficients are the Shapley values on a head that is linear.
      null_channels: whether a channel that is zero everywhere gets 0, up to rounding.
      symmetric: whether channels that are alike, and that the head treats alike, get the same.
      by_channel: whether it tells channels apart; else each has an equal part of the map.
      contains_activation: whether `alpha_k` is a contribution, which contains the sign and size of `A_k` already: a map
        from channels then multiplies by `A_k` again, which where it is negative turns the channel round.
      range: of the coefficients.
      from_zero: whether a map is scaled over its greatest value, from 0, and not from its least value: for one that
        means something where it is the same everywhere.
      heads: the heads that it is defined for; None for any.
      control: whether it knows nothing of what is explained, and is made for others to be compared with.
      differentiable: whether `jax.grad` goes through its coefficients.
      batched: whether maps are computed several at a time; not where one fills the device and its memory.
      steps: what divides the method into steps, where it takes many: `function` with the argument `devices` besides,
        to a `Stepped`; named or given as `function` is. Then there is progress, its states can be saved, and devices
        share a map.
      multi_label: options that are other ones by default where the classes are independent of each other.
      of_logits: those that are where the target is a function of the logits; None where it must be a class.
    """

    function: Deferred[Callable[..., CAM]] = Deferred()
    title: str = ""
    cost: str = ""
    promise: str = "none"
    paper: str = ""
    map_from: Literal["channels", "positions"] = "channels"
    by_class: bool = True
    needs: tuple[str, ...] = ()
    complete: Literal["zero", "references"] | None = None
    exact_on_linear: bool = False
    null_channels: bool = False
    symmetric: bool = True
    by_channel: bool = True
    contains_activation: bool = False
    range: tuple[float, float] = (-math.inf, math.inf)
    from_zero: bool = False
    control: bool = False
    heads: DefinedFor | None = None
    differentiable: bool = True
    batched: bool = True
    steps: Deferred[Callable[..., Stepped] | None] = Deferred(None)
    multi_label: tuple[tuple[str, Any], ...] = ()
    of_logits: tuple[tuple[str, Any], ...] | None = ()

    def __post_init__(self):
        for need in self.needs:
            check_known("need of a method", need, NEEDS)

    def __repr__(self) -> str:
        """What it is, costs and promises; a table of methods is read like this."""
        return f"Method({self.title}; costs {self.cost}; promises {self.promise}; {self.paper})"

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """What a request may set: the keyword arguments that are not data."""
        data = ("head", "target", "predict", "references")
        parameters = inspect.signature(self.outline).parameters
        return {k: p for k, p in parameters.items() if p.kind == p.KEYWORD_ONLY and k not in data}

    @property
    def outline(self) -> Callable[..., Any]:
        """Something with the signature and the docstring of the function, which need not be imported for them."""
        return vars(type(self))["function"].outline(self)

    def doubt(self, activations: np.ndarray | jax.Array) -> str | None:
        """What speaks against this method's map at a layer, however well its numbers add up; None where nothing does.

        Args:
          activations: `(h, w, K)`; concrete.
        """
        return self.doubt_at(signed_share(activations))

    def doubt_at(self, share: float) -> str | None:
        """`doubt` where that share of the sum of absolute activations is negative; nothing is known of NaN."""
        if self.map_from != "channels" or not self.contains_activation or not share > SIGNED_FROM:
            return None
        return (
            f"{100 * share:.0f} % of the activations are negative here, and this map multiplies the contribution of "
            "each channel by its activation once more, so that negative ones count the wrong way round: take "
            f"{SIGNED_METHOD}, whose map is the contributions themselves, or a layer behind a ReLU"
        )

    def left_over(self, coefficients: np.ndarray | jax.Array, signed_map: np.ndarray | jax.Array) -> float:
        """What channels leave of each other at the positions, `sum |M| / sum |alpha|`; NaN of a map from channels."""
        return left_over(coefficients, signed_map) if self.map_from == "positions" else float("nan")

    def doubt_left(self, share: float) -> str | None:
        """What speaks against maps of which that share of their contributions is left; nothing is known of NaN."""
        if not share < LEFT_UP_TO:
            return None
        return (
            "the contributions of the channels cancel at every position, and the map is what rounding leaves: a norm "
            "behind the layer lets no sum of activations times their gradients through; take "
            f"{SIGNED_METHOD}, or a method whose map is made of coefficients"
        )

    def cancellation(self, coefficients: np.ndarray | jax.Array) -> float:
        """How much the contributions cancel, `sum |alpha| / |F(A) - F(0)|`; NaN of a method that is not complete."""
        return cancellation(coefficients) if self.complete == "zero" else float("nan")

    def doubt_of(self, coefficients: np.ndarray | jax.Array) -> str | None:
        """What speaks against a map with such coefficients `(K,)`: contributions that nearly cancel."""
        times = self.cancellation(coefficients)
        if not times >= CANCELS_FROM:
            return None
        return (
            f"the contributions are {times:,.0f} times as large as F(A) - F(0), which they add up to: nearly all of it "
            "cancels, and the map hangs on the reference, zero activations; take a later layer, or compare with "
            "methods that have no reference"
        )

    def call(self, inputs: Inputs, **options: Any) -> CAM:
        """The method on one example; whichever it is, this is how to call it."""
        args, more = self.arguments(inputs)
        return self.function(*args, **more, **options)

    def stepped(self, inputs: Inputs, *, devices: int = 1, **options: Any) -> Stepped | None:
        """The method on one example divided into steps; None where it takes one, and `call` is how to do it."""
        if self.steps is None:
            return None
        args, more = self.arguments(inputs)
        return self.steps(*args, **more, devices=devices, **options)

    def arguments(self, inputs: Inputs) -> tuple[list, dict[str, Any]]:
        """What the function takes, but for the options.

        Raises:
          JaxcamError: something that it needs is not among the inputs.
        """
        for need, field in NEEDS.items():
            if need in self.needs and getattr(inputs, field) is None:
                raise JaxcamError(f"{self.title} needs {need}, which it was not given here")
        if "image" in self.needs:
            args: list = [inputs.network_params, inputs.activations, inputs.image]
            more: dict[str, Any] = {"predict": inputs.network, "target": inputs.target}
            if "head" in self.needs:  # which may take more than the network does, such as what goes around the layer
                more["head"] = lambda _, activations: inputs.head(inputs.params, activations)
        else:
            args, more = [inputs.params, inputs.activations], {"head": inputs.head, "target": inputs.target}
        if "key" in self.needs:
            args.append(inputs.key)
        if "references" in self.needs:
            more["references"] = inputs.references
        return args, more


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
    def info(self) -> Method:
        """What is known about the method."""
        return METHODS[self.name]

    @property
    def label(self) -> str:
        """The request as text, the same for equal requests."""
        settings = ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in self.options)
        return f"{self.name}:{settings}" if settings else self.name

    @property
    def said(self) -> str | None:
        """What it computes, in words that are the same in every process; None of another's method."""
        function = self.info.function
        return f"{function.__qualname__} {self.options!r}" if function.__module__.startswith("jaxcam.") else None

    def with_defaults(self, options: Iterable[tuple[str, Any]]) -> Request:
        """The request with these options too, where it does not set them itself."""
        return dataclasses.replace(self, options=tuple(sorted({**dict(options), **dict(self.options)}.items())))

    def call(self, inputs: Inputs) -> CAM:
        """The method with its options on one example."""
        return self.info.call(inputs, **dict(self.options))

    def stepped(self, inputs: Inputs, devices: int = 1) -> Stepped | None:
        """The same divided into steps; None where it takes one."""
        return self.info.stepped(inputs, devices=devices, **dict(self.options))


METHODS: dict[str, Method] = {
    "lift_cam": Method(
        "contribution.lift_cam", "LIFT-CAM", "1 forward + 1 backward, on a pair", "complete: sums to F(A) - F(0)",
        "Jung & Oh, ICCV 2021", needs=("rules",), complete="zero", exact_on_linear=True, null_channels=True,
        contains_activation=True,
    ),
    "hires_lift_cam": Method(
        "contribution.hires_lift_cam", "HiRes-LIFT-CAM", "1 forward + 1 backward, on a pair",
        "complete by position: the map, too, sums to F(A) - F(0)", "Jung & Oh, ICCV 2021", map_from="positions",
        needs=("rules",), complete="zero", exact_on_linear=True, null_channels=True,
        contains_activation=True,
    ),
    "multiplier_cam": Method(
        "contribution.multiplier_cam", "Multiplier-CAM", "1 forward + 1 backward, on a pair",
        "the mean slope from 0 to A; Grad-CAM on a linear head", "Shrikumar et al., ICML 2017", needs=("rules",),
    ),
    "deep_shap_cam": Method(
        "contribution.deep_shap_cam", "DeepSHAP-CAM", "the same, per reference", "complete: sums to F(A) - mean F(ref)",
        "Lundberg & Lee, NeurIPS 2017", needs=("rules", "references"), complete="references", exact_on_linear=True,
        contains_activation=True,
    ),
    "grad_cam": Method(
        "gradient.grad_cam", "Grad-CAM", "1 forward + 1 backward", "none", "Selvaraju et al., ICCV 2017",
        needs=("gradient",),
    ),
    "grad_cam_pp": Method(
        "gradient.grad_cam_pp", "Grad-CAM++", "1 forward + 1 backward", "none", "Chattopadhay et al., WACV 2018",
        needs=("gradient",),
    ),
    "xgrad_cam": Method(
        "gradient.xgrad_cam", "XGrad-CAM", "1 forward + 1 backward", "none", "Fu et al., BMVC 2020",
        needs=("gradient",), null_channels=True,
    ),
    "hires_cam": Method(
        "gradient.hires_cam", "HiResCAM", "1 forward + 1 backward", "sums to F(A) - F(0) on a linear head",
        "Draelos & Carin, 2020", map_from="positions", needs=("gradient",), exact_on_linear=True, null_channels=True,
        contains_activation=True,
    ),
    "shapley_cam": Method(
        "gradient.shapley_cam", "Shapley-CAM", "1 forward + 1 backward, with tangents", "Grad-CAM on a linear head",
        "Cai, The Visual Computer 2025", needs=("gradient",),
    ),
    "smooth_grad_cam_pp": Method(
        "gradient.smooth_grad_cam_pp", "Smooth Grad-CAM++", "num_samples + 1 forward and backward", "none",
        "Omeiza et al., 2019", needs=("gradient", "key"), symmetric=False,
    ),
    "layer_cam": Method(
        "gradient.layer_cam", "LayerCAM", "1 forward + 1 backward", "none", "Jiang et al., TIP 2021",
        map_from="positions", needs=("gradient",), null_channels=True, contains_activation=True,
    ),
    "grad_cam_elementwise": Method(
        "gradient.grad_cam_elementwise", "Grad-CAM element-wise", "1 forward + 1 backward", "none",
        "Gildenblat et al., 2021", map_from="positions", needs=("gradient",), null_channels=True,
        contains_activation=True, range=(0.0, math.inf),
    ),
    "full_grad": Method(
        "full_grad.full_grad", "FullGrad", "1 forward + 1 backward",
        "gradient and biases add up to F(A); the map has no signs", "Srinivas & Fleuret, NeurIPS 2019",
        map_from="positions", needs=("gradient",), contains_activation=True,
        range=(0.0, math.inf),
    ),
    "integrated_gradients": Method(
        "backprop.integrated_gradients", "Integrated gradients", "steps forward + backward",
        "the map, too, sums to F(A) - F(0) in the limit", "Sundararajan et al., ICML 2017", map_from="positions",
        needs=("gradient",), exact_on_linear=True, null_channels=True, contains_activation=True, batched=False,
        steps="backprop.stepped_integrated_gradients",
    ),
    "smooth_grad": Method(
        "backprop.smooth_grad", "SmoothGrad", "num_samples forward + backward", "none", "Smilkov et al., 2017",
        map_from="positions", needs=("gradient", "key"), symmetric=False, range=(0.0, math.inf), batched=False,
        steps="backprop.stepped_smooth_grad",
    ),
    "guided_backprop": Method(
        "backprop.guided_backprop", "Guided backpropagation", "1 forward + 1 backward", "none",
        "Springenberg et al., ICLR-W 2015", map_from="positions", needs=("gradient",),
    ),
    "deconvolution": Method(
        "backprop.deconvolution", "Deconvolution", "1 forward + 1 backward", "none", "Zeiler & Fergus, ECCV 2014",
        map_from="positions", needs=("gradient",),
    ),
    "gradient_shap": Method(
        "backprop.gradient_shap", "Gradient SHAP", "num_samples forward + backward",
        "the map, too, sums to F(A) - mean F(ref) in the limit", "Erion et al., 2021",
        map_from="positions", needs=("gradient", "key", "references"), symmetric=False, contains_activation=True,
        batched=False, steps="backprop.stepped_gradient_shap",
    ),
    "eigen_cam": Method(
        "eigen.eigen_cam", "Eigen-CAM", "1 forward, and products of matrices", "the first principal component of A",
        "Muhammad & Yeasin, IJCNN 2020", by_class=False, null_channels=True, range=(-1.0, 1.0),
    ),
    "eigen_grad_cam": Method(
        "eigen.eigen_grad_cam", "Eigen-Grad-CAM", "1 forward + 1 backward, and products of matrices",
        "the first principal component of g A", "Gildenblat et al., 2021", map_from="positions", needs=("gradient",),
        null_channels=True, contains_activation=True,
    ),
    "kpca_cam": Method(
        "eigen.kpca_cam", "KPCA-CAM", "1 forward, and products of matrices of h w",
        "the first principal component of the positions in a kernel's space", "Karmani et al., 2024",
        map_from="positions", by_class=False, by_channel=False,
    ),
    "fem_cam": Method(
        "features.fem_cam", "FEM", "1 forward, for the logit", "none", "Fuad et al., IPTA 2020", map_from="positions",
        by_class=False, null_channels=True, contains_activation=True,
    ),
    "ablation_cam": Method(
        "coalition.ablation_cam", "Ablation-CAM", "K + 1 forward, behind the head's first layer",
        "the exact drop of each channel", "Desai & Ramaswamy, WACV 2020", exact_on_linear=True, null_channels=True,
        contains_activation=True,
    ),
    "shap_cam": Method(
        "sampling.shap_cam", "SHAP-CAM", "num_permutations x K forward, behind the first layer",
        "Shapley values, with errors; sums to F(A) - F(0)", "Jung & Oh, ICCV 2021", needs=("key",),
        complete="zero", exact_on_linear=True, null_channels=True, symmetric=False, batched=False,
        steps="sampling.stepped_shap_cam", contains_activation=True,
    ),
    "kernel_shap_cam": Method(
        "sampling.kernel_shap_cam", "KSHAP-CAM", "num_samples (10 K) forward, behind the first layer",
        "Shapley values by regression; sums to F(A) - F(0)", "Lundberg & Lee, NeurIPS 2017", needs=("key",),
        complete="zero", exact_on_linear=True, symmetric=False, batched=False, contains_activation=True,
    ),
    "lime_cam": Method(
        "sampling.lime_cam", "LIME-CAM", "num_samples (K) forward, behind the first layer",
        "a sparse linear model near A", "Ribeiro et al., KDD 2016", needs=("key",), symmetric=False,
        batched=False, contains_activation=True,
    ),
    "lrp_cam": Method(
        "contribution.lrp_cam", "LRP-CAM", "1 forward + 1 backward", "relevance, less what biases absorb: sums to F(A)",
        "Bach et al., PLoS ONE 2015", needs=("rules",), exact_on_linear=True, null_channels=True,
        contains_activation=True,
    ),
    "hires_lrp_cam": Method(
        "contribution.hires_lrp_cam", "HiRes-LRP-CAM", "1 forward + 1 backward",
        "the map, too, sums to F(A) less what biases absorb", "Bach et al., PLoS ONE 2015", map_from="positions",
        needs=("rules",), exact_on_linear=True, null_channels=True, contains_activation=True,
    ),
    "lrp_multiplier_cam": Method(
        "contribution.lrp_multiplier_cam", "LRP-Multiplier-CAM", "1 forward + 1 backward",
        "relevance per unit of activation; Grad-CAM on a linear head", "Bach et al., PLoS ONE 2015", needs=("rules",),
        null_channels=True,
    ),
    "relevance_cam": Method(
        "contribution.relevance_cam", "Relevance-CAM", "2 forward + 2 backward", "relevance against all other classes",
        "Lee et al., CVPR 2021", needs=("rules",), null_channels=True, contains_activation=True, of_logits=None,
    ),
    "score_cam": Method(
        "score.score_cam", "Score-CAM", "K + 1 forward, of the whole network", "none", "Wang et al., CVPRW 2020",
        needs=("image",), null_channels=True, range=(0.0, 1.0), batched=False,
        steps="score.stepped_score_cam", multi_label=(("score", "sigmoid"),), of_logits=(("score", "logit"),),
    ),
    "ss_cam": Method(
        "score.ss_cam", "SS-CAM", "num_samples x K + 1 forward, of the whole network", "none",
        "Wang et al., 2020", needs=("image", "key"), null_channels=True, symmetric=False, range=(0.0, 1.0),
        batched=False, steps="score.stepped_ss_cam", multi_label=(("score", "sigmoid"),),
        of_logits=(("score", "logit"),),
    ),
    "is_cam": Method(
        "score.is_cam", "IS-CAM", "num_samples x K + 1 forward, of the whole network", "none",
        "Naidu et al., 2020", needs=("image",), null_channels=True, range=(0.0, 1.0), batched=False,
        steps="score.stepped_is_cam", multi_label=(("score", "sigmoid"),), of_logits=(("score", "logit"),),
    ),
    "group_cam": Method(
        "masking.group_cam", "Group-CAM", "groups + 2 forward, of the whole network", "none", "Zhang et al., 2021",
        map_from="positions", needs=("image", "head", "gradient"), null_channels=True, symmetric=False,
        contains_activation=True, batched=False, multi_label=(("score", "sigmoid"),), of_logits=(("score", "logit"),),
    ),
    "opti_cam": Method(
        "masking.opti_cam", "Opti-CAM", "steps forward + backward, of the whole network",
        "the map behind which the logit is largest", "Zhang et al., CVIU 2024", needs=("image", "gradient"),
        range=(0.0, 1.0), batched=False, steps="masking.stepped_opti_cam",
    ),
    "rise_cam": Method(
        "masking.rise_cam", "RISE", "num_samples forward; of the whole network at the layer \"input\"", "none",
        "Petsiuk et al., BMVC 2018", map_from="positions", needs=("key",), by_channel=False, batched=False,
        steps="masking.stepped_rise_cam", multi_label=(("score", "sigmoid"),), of_logits=(("score", "logit"),),
    ),
    "occlusion": Method(
        "occluding.occlusion", "Occlusion", "1 forward per window; of the whole network at the layer \"input\"", "none",
        "Zeiler & Fergus, ECCV 2014", map_from="positions", by_channel=False, batched=False,
        steps="occluding.stepped_occlusion",
    ),
    "sobol_cam": Method(
        "occluding.sobol_cam", "Sobol", "num_designs (cells^2 + 1) forward", "shares of a variance: not signed",
        "Fel et al., NeurIPS 2021", map_from="positions", needs=("key",), by_channel=False, batched=False,
        steps="occluding.stepped_sobol_cam", range=(0.0, math.inf),
    ),
    "hsic_cam": Method(
        "occluding.hsic_cam", "HSIC", "num_samples forward", "dependence: not signed", "Novello et al., NeurIPS 2022",
        map_from="positions", needs=("key",), by_channel=False, batched=False, steps="occluding.stepped_hsic_cam",
        range=(0.0, math.inf),
    ),
    "attention_rollout": Method(
        "attention.attention_rollout", "Attention rollout", "1 forward of the whole network",
        "where information may have come from; transformers only", "Abnar & Zuidema, ACL 2020", map_from="positions",
        by_class=False, needs=("image",), by_channel=False, heads=ATTENTION, range=(0.0, math.inf),
    ),
    "legrad": Method(
        "attention.legrad", "LeGrad", "1 forward + 1 backward of the whole network",
        "positive slopes by attention; transformers only", "Bousselham et al., ICCV 2025", map_from="positions",
        needs=("image", "gradient"), by_channel=False, heads=ATTENTION, range=(0.0, math.inf),
    ),
    "cam": Method(
        "gradient.cam", "CAM", "3 forward + 3 backward", "the classifier's weights; GAP + linear heads only",
        "Zhou et al., CVPR 2016", needs=("gradient",), heads=GAP_LINEAR,
    ),
    "random_cam": Method(
        "controls.random_cam", "Random-CAM", "1 forward, for the logit", "none: the control of a table",
        "Gildenblat et al., 2021", by_class=False, needs=("key",), symmetric=False, range=(-1.0, 1.0),
        control=True, differentiable=False,
    ),
    "uniform_cam": Method(
        "controls.uniform_cam", "Uniform map", "1 forward, for the logit", "none: the control of a measure",
        "no paper", map_from="positions", by_class=False, by_channel=False, from_zero=True, control=True,
        differentiable=False,
    ),
}  # fmt: skip


def told_together(doubts: Iterable[tuple[str, str | None]]) -> list[str]:
    """A sentence for each doubt, in front of it whatever it is about; of pairs of that and a doubt or None."""
    said: dict[str, dict[str, None]] = {}
    for title, why in doubts:
        if why:
            said.setdefault(why, {})[title] = None
    return [f"{', '.join(titles)}: {why}." for why, titles in said.items()]


def default_method(negative: float) -> str:
    """The method where none is named, at a layer with that share of negative activation (see `signs.signed_share`)."""
    return SIGNED_METHOD if negative > SIGNED_FROM else DEFAULT_METHOD


def request(text: str | Request) -> Request:
    """Reads a method with options: `shap_cam:num_permutations=100,estimator=plain`.

    Raises:
      JaxcamError: the method or an option does not exist (the nearest are named), or a value is not one.
    """
    if isinstance(text, Request):
        return text
    if not isinstance(text, str):
        raise JaxcamError(
            f"a method is asked for by its name, as in 'grad_cam', not by {getattr(text, '__name__', text)!r}"
        )
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
        if option in found:
            raise JaxcamError(f"{key}: the option {option} is given twice; name the method twice to compare two values")
        found[option] = _value(f"{key}: {option}", value, known[option].default)
    return Request(key, tuple(sorted(found.items())))


def _name(name: str) -> str:
    """The method's name in `METHODS`; hyphens, case and a missing `_cam` are forgiven."""
    key = name.strip().lower().replace("-", "_").replace("++", "_pp")
    for candidate in (key, f"{key}_cam", key.replace("cam", "_cam")):
        if candidate in METHODS:
            return candidate
    if key == "all":
        raise JaxcamError("all stands for every method, as it is; options go with the methods that have them")
    raise unknown("method", name, METHODS)


def _value(what: str, text: str, default: Any) -> Any:
    """`text` as a value of the default's type; names stay strings."""
    plain = {"true": True, "false": False, "none": None}
    value: Any
    try:
        value = plain[text.lower()] if text.lower() in plain else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = text
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and value % 1 == 0
    fits = {bool: isinstance(value, bool), int: whole, float: number, str: isinstance(value, str)}
    if not fits.get(type(default), value is None or number or isinstance(value, str)):
        raise JaxcamError(f"{what} must be a {type(default).__name__}, not {text!r}")
    return type(default)(value) if isinstance(default, int | float) and not isinstance(default, bool) else value
