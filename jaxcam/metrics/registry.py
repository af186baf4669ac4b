"""The metrics by name: what each is called, what it is computed from and how, and what is done with its values.

A metric is added by one entry: `METRICS["mine"] = Metric("mine", ...)`. `jaxcam.evaluate.evaluate`, its tables and its
report read nothing but the entry. `needs` names what the function takes, from `QUANTITIES`; those quantities are all
that an evaluation knows of a map. What has to be asked of the network on changed images, a metric declares as its
`perturbation` (scores) or `variation` (maps again); metrics with equal ones share the work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxcam.deferred import Deferred
from jaxcam.errors import JaxcamError, check_known, unknown

if TYPE_CHECKING:
    import jax
    import numpy as np

#: What the function of a metric can take, each as a keyword, for one map of one picture.
QUANTITIES = {
    "map": "`(h, w)`, the map at the layer's resolution, as the method made it",
    "heatmap": "`(H, W)`, the map at the input's resolution, scaled to [0, 1]",
    "coefficients": "`(K,)`, of the channels",
    "reference": "`(K,)`, the coefficients of the run's reference method for the same picture and class",
    "completeness_gap": "`()`, what the coefficients' sum lacks, in logits",
    "target": "`()`, index of the explained class",
    "boxes": "`(n, 4)`, of the class's objects, in pixels of the input",
    "valid": "`(n,)`, False for the boxes that are padding",
    "mask": "`(H, W)`, the share of each pixel that the class's objects cover; 0 everywhere where none is marked",
    "ranks": "`(H, W)`, the place of each pixel in the order of decreasing relevance, from 0",
    "key": "random key of the picture, the same for all its classes and methods",
    "image": "`(H, W, 3)`, the network's input",
    "baseline": "`(H, W, 3)`, what removed pixels become",
    "blurred": "`(H, W, 3)`, the image blurred, by the run's choice as `blur` or as `rise_blur` does",
    "activations": "`(h, w, K)`, of the layer",
    "logits": "`(C,)`, of the image",
    "original": "`()`, log-odds of the class in the image",
    "scores": "`(S,)`, the class score at each point of the metric's `perturbation`",
    "odds": "`(S,)`, the log-odds of that score",
    "outputs": "`(S,)`, the class's logit there",
    "answers": "`(S, C)`, all logits there",
    "counts": "`(S,)`, what the points are, such as how many pixels have changed; the same for all maps",
    "again": "`(n, H, W)`, the heatmaps of the metric's `variation`, laid back over the image",
    "params": "the network's parameters",
    "predict": "the network, `(params, image) -> logits (C,)`",
    "score": 'what turns logits into a class score, "softmax" or "sigmoid"',
}

#: Those of them that are a perturbation's.
OF_PERTURBATION = {"scores", "odds", "outputs", "answers", "counts"}

#: By `Metric.better`: the sign that a table sets beside a name, and what it says.
DIRECTIONS = {
    "higher": ("↑", "higher is better"), "lower": ("↓", "lower is better"), "zero": ("→ 0", "0 is best"),
}  # fmt: skip


#: The questions that metrics ask; `jaxcam evaluate --metrics` takes one for all the metrics that ask it.
KINDS = {
    "faithfulness": "whether the network sees what the map shows",
    "localisation": "whether the map shows where the object is",
    "form": "how simple the map is, whatever the network makes of it",
    "stability": "whether the map stays when nothing that matters changes",
    "sanity": "whether the map depends on what it has to",
    "agreement": "of the coefficients, with others or with what they promise",
}


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Pixels of one image become those of another, most relevant first, while the class score is watched.

    Metrics with equal perturbations share the scores. They cost `steps` + 1 evaluations of the network a map.

    Attributes:
      name: what it is called; the scores are kept as `NAME_curve`.
      start, end: names of images in `QUANTITIES`.
      says: what is done to the pixels, for the axis (its first word) and the caption of a chart.
    """

    name: str
    start: str
    end: str
    says: str

    @property
    def array(self) -> str:
        """The name under which a run keeps the scores."""
        return f"{self.name}_curve"

    @property
    def needs(self) -> tuple[str, ...]:
        """What `image` takes."""
        return (self.start, self.end, "ranks")

    def points(self, size: tuple[int, int], steps: int) -> np.ndarray:
        """How many pixels have changed at each point, `(S,)`."""
        from jaxcam.metrics.curves import step_counts

        return step_counts(size, steps)

    def image(self, point: jax.Array, **known: jax.Array) -> jax.Array:
        """The image `(H, W, C)` at a point."""
        import jax.numpy as jnp

        return jnp.where((known["ranks"] < point)[..., None], known[self.end], known[self.start])


@dataclasses.dataclass(frozen=True)
class Probes:
    """Any other images made of one, on which the class score is watched; a `Perturbation` is the usual kind.

    Where `needs` holds nothing of the map, the scores are those of a picture and class, and serve every method.

    Attributes:
      name: what they are called.
      function: `(point (), **needs) -> (H, W, C)`, pure JAX; one of `jaxcam.metrics` may be named, as `Metric`'s may.
      needs: names of `QUANTITIES`.
      at: `(S,)` points; as many evaluations of the network.
      says: for the chart of the scores along the points; "" where they are no curve, and then they are not kept.
    """

    name: str
    function: Deferred[Callable[..., jax.Array]] = Deferred()  # which is no default
    needs: tuple[str, ...]  # type: ignore[misc]
    at: Deferred[tuple[float, ...]] = Deferred()
    says: str = ""

    @property
    def array(self) -> str:
        """The name under which a run keeps the scores."""
        return f"{self.name}_curve"

    def points(self, size: tuple[int, int], steps: int) -> np.ndarray:
        """`at`."""
        import numpy as np

        del size, steps
        return np.asarray(self.at, np.float32)

    def image(self, point: jax.Array, **known: jax.Array) -> jax.Array:
        """The image `(H, W, C)` at a point."""
        return self.function(point, **known)


@dataclasses.dataclass(frozen=True)
class Variation:
    """Changed images of which the method makes maps again: one forward pass and one map for each.

    Metrics with equal variations share them; where `needs` holds nothing of the map, methods share the forward passes.

    Attributes:
      name: what they are called.
      function: `(**needs) -> (n, H, W, C)`, pure JAX; one of `jaxcam.metrics` may be named, as `Metric`'s may.
      needs: names of `QUANTITIES`.
      count: n.
      back: `(H, W) -> (H, W)`, lays a heatmap of a changed image over the image; where that was moved, say.
      other_class: whether the maps are those of another class, `another_class` by the picture's key, which is needed.
    """

    name: str
    function: Deferred[Callable[..., jax.Array]] = Deferred()  # which is no default
    needs: tuple[str, ...]  # type: ignore[misc]
    count: Deferred[int] = Deferred()
    back: Deferred[Callable[[jax.Array], jax.Array] | None] = Deferred(None)
    other_class: bool = False


@dataclasses.dataclass(frozen=True, repr=False)
class Metric:
    """One metric.

    Attributes:
      name: as asked for, and the column of a run that holds its values.
      title: as a table's heading or a figure's axis spells it.
      short: as papers abbreviate it.
      better: "higher", "lower", or "zero" where the ideal is 0 from either side: means are of absolute values then.
      function: a pure JAX function of what it `needs`, as keywords, for one map. It is vmapped, and compiled unless it
        takes nothing but a perturbation's scores, which are few. None where the value is the one number needed, as the
        method reports it. One of `jaxcam.metrics` may be named, as "module.name": it is imported when it is asked for,
        so that what there is can be listed without JAX.
      needs: names of `QUANTITIES`. A metric that needs `boxes` is for data that have some, and NaN where a picture
        has none; one that needs `reference` is for runs with a reference method.
      field: the attribute of the function's result that is the value `()`; None where the result is it. Metrics that
        share a function share its evaluation.
      kind: of `KINDS`.
      perturbation: where the function needs `scores`, `odds` or `outputs`.
      variation: where it needs `again`. "all" metrics are those without, which cost passes of the network alone.
      scale: a value times `scale` is in `unit`.
      unit: "%" or "".
      paper_tables: the tables of the LIFT-CAM paper's supplement that have figures of it, the first to ask first.
      default: whether an evaluation measures it unless told what to measure.
      bounds: the least and the greatest value; intervals of its mean keep within them and, near them, are as wide as
        they have to be.
      shares: whether every value is at one of the bounds, so that its mean is a share and has a share's interval.
      cost_chart: its turn when three metrics are chosen for the charts of quality against time; 0 for never.
    """

    name: str
    title: str
    short: str
    better: str
    function: Deferred[Callable[..., Any] | None] = Deferred()  # which is no default
    needs: tuple[str, ...]  # type: ignore[misc]
    field: str | None = None
    perturbation: Perturbation | Probes | None = None
    variation: Variation | None = None
    kind: str = ""
    scale: float = 1.0
    unit: str = ""
    paper_tables: tuple[int, ...] = ()
    default: bool = False
    bounds: tuple[float, float] = (-math.inf, math.inf)
    shares: bool = False
    cost_chart: int = 0

    def __post_init__(self):
        check_known("direction of a metric", self.better, DIRECTIONS)
        for name in self.requires:
            check_known("quantity for a metric to need", name, QUANTITIES)
        if not self.bounds[0] < self.bounds[1] or (self.shares and not all(map(math.isfinite, self.bounds))):
            raise JaxcamError(
                f"the metric {self.name} has the bounds {self.bounds}: name the least and the greatest value"
            )
        if self.kind and self.kind not in KINDS:
            raise unknown("kind of metric", self.kind, KINDS)
        if self.perturbation is None and not OF_PERTURBATION.isdisjoint(self.needs):
            raise JaxcamError(f"the metric {self.name} needs a perturbation, whose scores and counts it takes")
        if (self.variation is None) != ("again" not in self.needs):
            raise JaxcamError(f"the metric {self.name} needs a variation, whose maps it takes, or has one in vain")
        if vars(self)["function"] is None and self.needs != ("completeness_gap",):
            raise JaxcamError(f"without a function, a metric is the one quantity completeness_gap, not {self.needs}")

    def __repr__(self) -> str:
        """What it is and what it asks; a table of metrics is read like this."""
        return f"Metric({self.title_and_unit}, {self.short}; {self.direction}; {self.kind or 'of no kind'})"

    @property
    def outline(self) -> Callable[..., Any] | None:
        """Something with the signature and the docstring of the function, which need not be imported for them."""
        return vars(type(self))["function"].outline(self)

    @property
    def requires(self) -> tuple[str, ...]:
        """What it needs, and what its perturbation and its variation do."""
        return tuple(
            dict.fromkeys([*self.needs, *(n for p in (self.perturbation, self.variation) if p for n in p.needs)])
        )

    @property
    def needs_boxes(self) -> bool:
        """Whether it is defined only where the picture's objects have boxes."""
        return "boxes" in self.needs

    @property
    def needs_masks(self) -> bool:
        """Whether it is defined only where the picture's objects have segmentation masks."""
        return "mask" in self.needs

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the coefficients of another method."""
        return "reference" in self.needs

    @property
    def sign(self) -> int:
        """Times the mean, what is greater is better."""
        return 1 if self.better == "higher" else -1

    @property
    def published_bounds(self) -> tuple[float, float]:
        """The bounds of its values in its unit, absolute ones where these are."""
        least, most = (self.scale * b for b in self.bounds)
        return (max(0.0, least), max(abs(least), abs(most))) if self.absolute else (least, most)

    @property
    def absolute(self) -> bool:
        """Whether means are of absolute values."""
        return self.better == "zero"

    @property
    def arrow(self) -> str:
        """The direction as a sign."""
        return DIRECTIONS[self.better][0]

    @property
    def direction(self) -> str:
        """The direction in words."""
        return DIRECTIONS[self.better][1]

    @property
    def digits(self) -> int:
        """Digits behind the point: two for percentages, three for plain numbers."""
        return 2 if self.unit == "%" else 3

    @property
    def title_and_unit(self) -> str:
        """Such as `Average Drop (%)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


_CONFIDENCE = ("params", "image", "heatmap", "predict", "target", "score", "baseline", "original")
_SCORES = ("scores", "counts")
_REMOVED = ("heatmap", "key", "outputs", "logits", "target", "counts")
_ALONE = ("heatmap", "outputs", "logits", "target")
_EACH = Probes("each_cell", "parts.without_cell", ("image", "baseline"), "parts.EACH")
_FIRST = ("image", "baseline", "heatmap")
_NEARBY = Variation("nearby", "stability.nearby_images", ("image", "key"), "stability.NUM_NEARBY")
_ROAD = Probes("road", "imputation.road_image", ("image", "ranks", "key"), "imputation.POINTS")
_SHOWN = Variation("shown", "composite.shown_images", ("image", "heatmap", "baseline"), 1)
_DELETION = Perturbation("deletion", "image", "baseline", "deleted from the picture")

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "ic", "Increase in Confidence", "IC", "higher", "drops.confidence", _CONFIDENCE, "ic", scale=100.0,
            unit="%", paper_tables=(7, 5, 4, 3), default=True, bounds=(0, 1), shares=True, cost_chart=5,
            kind="faithfulness",
        ),
        Metric(
            "ad", "Average Drop", "AD", "lower", "drops.confidence", _CONFIDENCE, "ad", unit="%",
            paper_tables=(8, 5, 4, 3), default=True, bounds=(0, 100), cost_chart=1, kind="faithfulness",
        ),
        Metric(
            "add", "Average Drop in Deletion", "ADD", "higher", "drops.confidence", _CONFIDENCE, "add", unit="%",
            paper_tables=(9, 5, 4, 3), default=True, bounds=(0, 100), cost_chart=4, kind="faithfulness",
        ),
        Metric(
            "insertion", "Insertion AUC", "Ins", "higher", "curves.area", _SCORES, scale=100.0, unit="%", cost_chart=2,
            bounds=(0, 1), kind="faithfulness",
            perturbation=Perturbation("insertion", "blurred", "image", "inserted into the blurred picture"),
        ),
        Metric(
            "deletion", "Deletion AUC", "Del", "lower", "curves.area", _SCORES, scale=100.0, unit="%", cost_chart=6,
            bounds=(0, 1), kind="faithfulness", perturbation=_DELETION,
        ),
        Metric(
            "aopc", "Pixel flipping: area over the curve", "AOPC", "higher", "curves.aopc", ("scores",), scale=100.0,
            unit="%", bounds=(-1, 1), kind="faithfulness", perturbation=_DELETION,
        ),
        Metric(
            "road", "ROAD, least less most relevant first", "ROAD", "higher", "imputation.road_of", ("scores",),
            "combined", scale=100.0, unit="%", bounds=(-0.5, 0.5), kind="faithfulness", perturbation=_ROAD,
        ),
        Metric(
            "road_morf", "ROAD, most relevant first", "MoRF", "lower", "imputation.road_of", ("scores",), "morf",
            scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness", perturbation=_ROAD,
        ),
        Metric(
            "road_lerf", "ROAD, least relevant first", "LeRF", "higher", "imputation.road_of", ("scores",), "lerf",
            scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness", perturbation=_ROAD,
        ),
        Metric(
            "infidelity", "Infidelity to removed squares", "Infid", "lower", "fidelity.infidelity_of", _REMOVED,
            "value", bounds=(0, math.inf), kind="faithfulness",
            perturbation=Probes("squares", "fidelity.without_square", ("image", "baseline", "key"), "fidelity.PARTS"),
        ),
        Metric(
            "sensitivity_n", "Sensitivity-n with a quarter of 64 cells", "Sens-n", "higher",
            "fidelity.sensitivity_n_of", _REMOVED, bounds=(-1, 1), kind="faithfulness",
            perturbation=Probes("cells", "fidelity.without_cells", ("image", "baseline", "key"), "fidelity.PARTS"),
        ),
        Metric(
            "monotonicity", "Monotonicity: steps that do not fall", "Mono", "higher", "curves.monotonicity",
            ("scores",), scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness", perturbation=_DELETION,
        ),
        Metric(
            "monotonicity_correlation", "Monotonicity: correlation of ranks over 64 cells", "MonoCor", "higher",
            "parts.monotonicity_correlation", _ALONE, bounds=(-1, 1), kind="faithfulness", perturbation=_EACH,
        ),
        Metric(
            "faithfulness_estimate", "Faithfulness estimate over 64 cells", "FaithEst", "higher",
            "parts.faithfulness_estimate", _ALONE, bounds=(-1, 1), kind="faithfulness", perturbation=_EACH,
        ),
        Metric(
            "non_sensitivity", "Non-sensitivity: cells in dispute", "NonSens", "lower", "parts.non_sensitivity", _ALONE,
            scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness", perturbation=_EACH,
        ),
        Metric(
            "selectivity", "Selectivity: AUC without the first of 64 cells", "Sel", "lower", "parts.selectivity",
            _SCORES, scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness",
            perturbation=Probes("cells_first", "parts.without_first_cells", _FIRST, "parts.SHARES"),
        ),
        Metric(
            "irof", "IROF: AOC without the first superpixels", "IROF", "higher", "parts.irof", _SCORES, scale=100.0,
            unit="%", bounds=(-math.inf, 1), kind="faithfulness",
            perturbation=Probes("segments_first", "parts.without_first_segments", _FIRST, "parts.SHARES"),
        ),
        Metric(
            "coherency", "Coherency: the map of what the map shows", "Coh", "higher", "composite.coherency",
            ("heatmap", "again"), scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness", variation=_SHOWN,
        ),
        Metric(
            "adcc", "ADCC: average drop, coherency, complexity", "ADCC", "higher", "composite.adcc",
            ("heatmap", "again", "original", "odds"), "adcc", scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness",
            variation=_SHOWN, perturbation=Probes("shown", "composite.shown_image", _SHOWN.needs, (0,)),
        ),
        Metric(
            "arcc", "ARCC: ROAD, coherency, complexity", "ARCC", "higher", "composite.arcc",
            ("heatmap", "again", "scores"), scale=100.0, unit="%", bounds=(0, 1), kind="faithfulness", variation=_SHOWN,
            perturbation=_ROAD,
        ),
        Metric(
            "pointing", "Energy-based pointing game", "EPG", "higher", "localisation.energy_pointing",
            ("heatmap", "boxes", "valid"), scale=100.0, unit="%", paper_tables=(10,), bounds=(0, 1), cost_chart=3,
            kind="localisation",
        ),
        Metric(
            "hit", "Pointing game", "Hit", "higher", "localisation.pointing_hit", ("heatmap", "boxes", "valid"),
            scale=100.0, unit="%", bounds=(0, 1), kind="localisation",
        ),
        Metric(
            "iou", "IoU of the map above 0.5 with the boxes", "IoU", "higher", "localisation.box_iou",
            ("heatmap", "boxes", "valid"), scale=100.0, unit="%", bounds=(0, 1), kind="localisation",
        ),
        Metric(
            "weighting", "Weighting game: energy in the masks", "WG", "higher", "localisation.mask_energy",
            ("heatmap", "mask"), scale=100.0, unit="%", bounds=(0, 1), kind="localisation",
        ),
        Metric(
            "mask_iou", "IoU of the map above 0.5 with the masks", "IoUm", "higher", "localisation.mask_iou",
            ("heatmap", "mask"), scale=100.0, unit="%", bounds=(0, 1), kind="localisation",
        ),
        Metric(
            "gini", "Gini sparsity", "Gini", "higher", "form.gini_sparsity", ("heatmap",), bounds=(0, 1), kind="form",
        ),
        Metric(
            "entropy", "Entropy of the map", "H", "lower", "form.map_entropy", ("heatmap",), bounds=(0, math.inf),
            kind="form",
        ),
        Metric(
            "complexity", "Complexity: mean of the map", "Comp", "lower", "form.map_complexity", ("heatmap",),
            scale=100.0, unit="%", bounds=(0, 1), kind="form",
        ),
        Metric(
            "max_sensitivity", "Max-sensitivity to unseen noise", "MaxSens", "lower", "stability.max_sensitivity",
            ("heatmap", "again"), bounds=(0, math.inf), kind="stability",
            variation=_NEARBY,
        ),
        Metric(
            "lipschitz", "Local Lipschitz estimate", "Lip", "lower", "stability.local_lipschitz",
            ("heatmap", "again", "image", "key"), bounds=(0, math.inf), kind="stability", variation=_NEARBY,
        ),
        Metric(
            "relative_input", "Relative input stability", "RIS", "lower", "stability.relative_input_stability",
            ("heatmap", "again", "image", "key"), bounds=(0, math.inf), kind="stability", variation=_NEARBY,
        ),
        Metric(
            "relative_output", "Relative output stability", "ROS", "lower", "stability.relative_output_stability",
            ("heatmap", "again", "logits", "answers"), bounds=(0, math.inf), kind="stability", variation=_NEARBY,
            perturbation=Probes("near", "stability.nearby_image", ("image", "key"), "stability.NEARBY"),
        ),
        Metric(
            "flip_consistency", "Consistency under a flip", "Flip", "higher", "stability.consistency",
            ("heatmap", "again"), bounds=(-1, 1), kind="stability",
            variation=Variation("flipped", "stability.flipped_image", ("image",), 1, "stability.flipped_map"),
        ),
        Metric(
            "noise_consistency", "Consistency under noise", "Noise", "higher", "stability.consistency",
            ("heatmap", "again"), bounds=(-1, 1), kind="stability",
            variation=Variation("noisy", "stability.noisy_images", ("image", "key"), "stability.NUM_NOISY"),
        ),
        Metric(
            "random_logit", "Random logit: likeness to another class's map", "RandLog", "lower",
            "randomisation.random_logit", ("heatmap", "again"), bounds=(-1, 1), kind="sanity",
            variation=Variation("other_class", "randomisation.same_image", ("image", "key"), 1, other_class=True),
        ),
        Metric(
            "cosine", "Cosine similarity of coefficients", "cos", "higher", "agreement.coefficient_cosine",
            ("coefficients", "reference"), paper_tables=(6, 2), bounds=(-1, 1), kind="agreement",
        ),
        Metric("gap", "Completeness gap", "gap", "zero", None, ("completeness_gap",), kind="agreement"),
    )
}  # fmt: skip


def metric_name(asked: str) -> str:
    """The name in `METRICS` of a metric asked for by its name, its abbreviation or its title, in any case.

    Raises:
      JaxcamError: there is none; the message names the nearest ones.
    """
    for name, metric in METRICS.items():
        if asked.casefold() in {name.casefold(), metric.short.casefold(), metric.title.casefold()}:
            return name
    raise unknown("metric", asked, METRICS)


def chosen(asked: str, *, boxes: bool = True, masks: bool = True) -> tuple[str, ...]:
    """The names in `METRICS` of what is asked for: a metric, a kind of `KINDS`, or "all" that call no method again.

    Args:
      boxes, masks: whether the data have them: where not, what needs them is left out, unless it is asked for by name.

    Raises:
      JaxcamError: there is no such metric, or none is left of the kind.
    """
    kind = asked.casefold()
    if kind not in {"all", *KINDS}:
        return (metric_name(asked),)
    found = tuple(
        name for name, m in METRICS.items()
        if (m.variation is None if kind == "all" else m.kind == kind)
        and not m.needs_reference and (boxes or not m.needs_boxes) and (masks or not m.needs_masks)
    )  # fmt: skip
    if not found:
        raise JaxcamError(f"of the metrics of {kind} none is defined for these data, which lack boxes and masks")
    return found
