"""How good an explanation is: pure functions of one image and one map, made for `jax.vmap` and `jax.jit`."""

from jaxcam.metrics.agreement import box_coverage, coefficient_cosine, completeness_gap, energy_pointing
from jaxcam.metrics.baselines import BASELINES, BLURS, baseline, blur, rise_blur
from jaxcam.metrics.confidence import SCORES, Confidence, confidence, log_odds
from jaxcam.metrics.curves import (
    Curve,
    area,
    curve_scores,
    deletion_curve,
    insertion_curve,
    pixel_ranks,
    step_counts,
)
from jaxcam.metrics.registry import DIRECTIONS, METRICS, QUANTITIES, Metric, Perturbation

__all__ = [
    "BASELINES",
    "BLURS",
    "DIRECTIONS",
    "METRICS",
    "QUANTITIES",
    "SCORES",
    "Confidence",
    "Curve",
    "Metric",
    "Perturbation",
    "area",
    "baseline",
    "blur",
    "box_coverage",
    "coefficient_cosine",
    "completeness_gap",
    "confidence",
    "curve_scores",
    "deletion_curve",
    "energy_pointing",
    "insertion_curve",
    "log_odds",
    "pixel_ranks",
    "rise_blur",
    "step_counts",
]
