"""How good an explanation is: pure functions of one image and one map, made for `jax.vmap` and `jax.jit`."""

from jaxcam.metrics.agreement import coefficient_cosine, completeness_gap
from jaxcam.metrics.baselines import BASELINES, BLURS, baseline, blur, rise_blur
from jaxcam.metrics.composite import Adcc, adcc, arcc, coherency, harmonic_mean, shown_image
from jaxcam.metrics.confidence import SCORES, Confidence, confidence, log_odds
from jaxcam.metrics.curves import (
    Curve,
    aopc,
    area,
    curve_scores,
    deletion_curve,
    insertion_curve,
    pixel_ranks,
    step_counts,
)
from jaxcam.metrics.fidelity import Infidelity, infidelity, sensitivity_n
from jaxcam.metrics.form import gini_sparsity, map_complexity, map_entropy
from jaxcam.metrics.localisation import (
    box_coverage,
    box_iou,
    energy_pointing,
    mask_energy,
    mask_iou,
    pointing_hit,
)
from jaxcam.metrics.registry import DIRECTIONS, KINDS, METRICS, QUANTITIES, Metric, Perturbation, Probes, Variation
from jaxcam.metrics.road import Road, noisy_linear_imputation, road, road_of, road_points
from jaxcam.metrics.similarity import pearson, spearman, ssim
from jaxcam.metrics.stability import consistency, flipped_image, max_sensitivity, nearby_images, noisy_images

__all__ = [
    "BASELINES",
    "BLURS",
    "DIRECTIONS",
    "KINDS",
    "METRICS",
    "QUANTITIES",
    "SCORES",
    "Adcc",
    "Confidence",
    "Curve",
    "Infidelity",
    "Metric",
    "Perturbation",
    "Probes",
    "Road",
    "Variation",
    "adcc",
    "aopc",
    "arcc",
    "area",
    "baseline",
    "blur",
    "box_coverage",
    "box_iou",
    "coefficient_cosine",
    "coherency",
    "completeness_gap",
    "confidence",
    "consistency",
    "curve_scores",
    "deletion_curve",
    "energy_pointing",
    "flipped_image",
    "gini_sparsity",
    "harmonic_mean",
    "infidelity",
    "insertion_curve",
    "log_odds",
    "map_complexity",
    "map_entropy",
    "mask_energy",
    "mask_iou",
    "max_sensitivity",
    "nearby_images",
    "noisy_images",
    "noisy_linear_imputation",
    "pearson",
    "pixel_ranks",
    "pointing_hit",
    "rise_blur",
    "road",
    "road_of",
    "road_points",
    "sensitivity_n",
    "shown_image",
    "spearman",
    "ssim",
    "step_counts",
]
