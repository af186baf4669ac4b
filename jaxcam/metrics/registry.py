"""The metrics by name: what each is called, what it is computed from and how, and what is done with its values.

A metric is added by one entry: `METRICS["mine"] = Metric("mine", ...)`. `jaxcam.evaluate.evaluate`, its tables and its
report read nothing but the entry. `needs` names what the function takes, from `QUANTITIES`; those quantities are all
that an evaluation knows of a map.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from jaxcam.errors import JaxcamError, unknown
from jaxcam.metrics.agreement import coefficient_cosine, energy_pointing
from jaxcam.metrics.confidence import confidence
from jaxcam.metrics.curves import area

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
    "image": "`(H, W, 3)`, the network's input",
    "baseline": "`(H, W, 3)`, what removed pixels become",
    "blurred": "`(H, W, 3)`, the image blurred, by the run's choice as `blur` or as `rise_blur` does",
    "activations": "`(h, w, K)`, of the layer",
    "logits": "`(C,)`, of the image",
    "original": "`()`, log-odds of the class in the image",
    "scores": "`(S,)`, the class score at each point of the metric's `perturbation`",
    "counts": "`(S,)`, how many pixels have changed there; the same for all maps",
    "params": "the network's parameters",
    "predict": "the network, `(params, image) -> logits (C,)`",
    "score": 'what turns logits into a class score, "softmax" or "sigmoid"',
}

#: By `Metric.better`: the sign that a table sets beside a name, and what it says.
DIRECTIONS = {
    "higher": ("↑", "higher is better"), "lower": ("↓", "lower is better"), "zero": ("→ 0", "0 is best"),
}  # fmt: skip


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


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      name: as asked for, and the column of a run that holds its values.
      title: as a table's heading or a figure's axis spells it.
      short: as papers abbreviate it.
      better: "higher", "lower", or "zero" where the ideal is 0 from either side: means are of absolute values then.
      function: a pure JAX function of what it `needs`, as keywords, for one map. It is vmapped, and compiled unless it
        takes a perturbation's scores, which are few. None where the value is the one number needed, as the method
        reports it.
      needs: names of `QUANTITIES`. A metric that needs `boxes` is for data that have some, and NaN where a picture
        has none; one that needs `reference` is for runs with a reference method.
      field: the attribute of the function's result that is the value `()`; None where the result is it. Metrics that
        share a function share its evaluation.
      perturbation: where the function needs `scores`.
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
    function: Callable[..., Any] | None
    needs: tuple[str, ...]
    field: str | None = None
    perturbation: Perturbation | None = None
    scale: float = 1.0
    unit: str = ""
    paper_tables: tuple[int, ...] = ()
    default: bool = False
    bounds: tuple[float, float] = (-math.inf, math.inf)
    shares: bool = False
    cost_chart: int = 0

    def __post_init__(self):
        if self.better not in DIRECTIONS:
            raise unknown("direction of a metric", self.better, DIRECTIONS)
        for name in self.requires:
            if name not in QUANTITIES:
                raise unknown("quantity for a metric to need", name, QUANTITIES)
        if not self.bounds[0] < self.bounds[1] or (self.shares and not all(map(math.isfinite, self.bounds))):
            raise JaxcamError(
                f"the metric {self.name} has the bounds {self.bounds}: name the least and the greatest value"
            )
        if self.perturbation is None and not {"scores", "counts"}.isdisjoint(self.needs):
            raise JaxcamError(f"the metric {self.name} needs a perturbation, whose scores and counts it takes")
        if self.function is None and self.needs != ("completeness_gap",):
            raise JaxcamError(f"without a function, a metric is the one quantity completeness_gap, not {self.needs}")

    @property
    def requires(self) -> tuple[str, ...]:
        """What it needs, and what its perturbation does."""
        p = self.perturbation
        return (*self.needs, *((p.start, p.end, "heatmap") if p else ()))

    @property
    def needs_boxes(self) -> bool:
        """Whether it is defined only where the picture's objects have boxes."""
        return "boxes" in self.needs

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

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "ic", "Increase in Confidence", "IC", "higher", confidence, _CONFIDENCE, "ic", scale=100.0, unit="%",
            paper_tables=(7, 5, 4, 3), default=True, bounds=(0, 1), shares=True, cost_chart=5,
        ),
        Metric(
            "ad", "Average Drop", "AD", "lower", confidence, _CONFIDENCE, "ad", unit="%",
            paper_tables=(8, 5, 4, 3), default=True, bounds=(0, 100), cost_chart=1,
        ),
        Metric(
            "add", "Average Drop in Deletion", "ADD", "higher", confidence, _CONFIDENCE, "add", unit="%",
            paper_tables=(9, 5, 4, 3), default=True, bounds=(0, 100), cost_chart=4,
        ),
        Metric(
            "insertion", "Insertion AUC", "Ins", "higher", area, _SCORES, scale=100.0, unit="%", cost_chart=2,
            bounds=(0, 1),
            perturbation=Perturbation("insertion", "blurred", "image", "inserted into the blurred picture"),
        ),
        Metric(
            "deletion", "Deletion AUC", "Del", "lower", area, _SCORES, scale=100.0, unit="%", cost_chart=6,
            bounds=(0, 1),
            perturbation=Perturbation("deletion", "image", "baseline", "deleted from the picture"),
        ),
        Metric(
            "pointing", "Energy-based pointing game", "EPG", "higher", energy_pointing, ("heatmap", "boxes", "valid"),
            scale=100.0, unit="%", paper_tables=(10,), bounds=(0, 1), cost_chart=3,
        ),
        Metric(
            "cosine", "Cosine similarity of coefficients", "cos", "higher", coefficient_cosine,
            ("coefficients", "reference"), paper_tables=(6, 2), bounds=(-1, 1),
        ),
        Metric("gap", "Completeness gap", "gap", "zero", None, ("completeness_gap",)),
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
