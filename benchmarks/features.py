"""What peers offer for one image classifier, beside what is here: `python -m benchmarks.features`.

A row is a method, a measure, a target or a way of looking; a cell is what it is called. What is said to be here is
looked up: the command fails where a name is none. Read in the source of pytorch-grad-cam 1.5.7, torchcam 0.5.0,
captum 0.9.0 and Quantus 0.6.0; xplique 2 by its documentation.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import NamedTuple

PEERS = ("pytorch-grad-cam", "torchcam", "captum", "Quantus", "xplique")


class Row(NamedTuple):
    """A feature.

    Attributes:
      what: it is.
      here: `method NAME`, `metric NAME`, `python MODULE.NAME` or `command NAME --OPTION`; "" for what there is not.
      there: what each peer calls it; by its name.
    """

    what: str
    here: str
    there: dict[str, str]


def _row(what: str, here: str, *there: str) -> Row:
    """There: a word for each of `PEERS`, "" for none."""
    return Row(what, here, {p: t for p, t in zip(PEERS, there, strict=False) if t})


ROWS = (
    _row("CAM", "method cam", "", "CAM"),
    _row("Grad-CAM", "method grad_cam", "GradCAM", "GradCAM", "LayerGradCam", "", "GradCAM"),
    _row("Grad-CAM++", "method grad_cam_pp", "GradCAMPlusPlus", "GradCAMpp", "", "", "GradCAMPP"),
    _row("Smooth Grad-CAM++", "method smooth_grad_cam_pp", "", "SmoothGradCAMpp"),
    _row("XGrad-CAM", "method xgrad_cam", "XGradCAM", "XGradCAM"),
    _row("HiResCAM", "method hires_cam", "HiResCAM", "", "LayerGradientXActivation"),
    _row("Grad-CAM element by element", "method grad_cam_elementwise", "GradCAMElementWise"),
    _row("LayerCAM", "method layer_cam", "LayerCAM", "LayerCAM"),
    _row("Shapley-CAM", "method shapley_cam", "ShapleyCAM"),
    _row("Eigen-CAM", "method eigen_cam", "EigenCAM"),
    _row("Eigen-Grad-CAM", "method eigen_grad_cam", "EigenGradCAM"),
    _row("KPCA-CAM", "method kpca_cam", "KPCA_CAM"),
    _row("FullGrad", "method full_grad", "FullGrad"),
    _row("Random-CAM", "method random_cam", "RandomCAM"),
    _row("Uniform map", "method uniform_cam"),
    _row("Ablation-CAM", "method ablation_cam", "AblationCAM", "", "LayerFeatureAblation"),
    _row("Score-CAM", "method score_cam", "ScoreCAM", "ScoreCAM"),
    _row("SS-CAM", "method ss_cam", "", "SSCAM"),
    _row("IS-CAM", "method is_cam", "", "ISCAM"),
    _row("Group-CAM", "method group_cam"),
    _row("Opti-CAM", "method opti_cam"),
    _row("RISE", "method rise_cam", "", "", "", "", "Rise"),
    _row("LIFT-CAM", "method lift_cam", "", "", "LayerDeepLift, on activations of a reference image"),
    _row("LIFT-CAM by positions", "method hires_lift_cam"),
    _row("DeepLIFT's mean multiplier", "method multiplier_cam"),
    _row("DeepSHAP", "method deep_shap_cam", "", "", "LayerDeepLiftShap"),
    _row("Shapley values of channels", "method shap_cam", "", "", "ShapleyValueSampling with a mask"),
    _row("KernelSHAP of channels", "method kernel_shap_cam", "", "", "KernelShap with a mask", "", "KernelShap"),
    _row("LIME of channels", "method lime_cam", "", "", "Lime with a mask", "", "Lime"),
    _row("LRP at a layer", "method lrp_cam", "", "", "LayerLRP"),
    _row("LRP by positions", "method hires_lrp_cam"),
    _row("LRP's mean multiplier", "method lrp_multiplier_cam"),
    _row("Contrastive LRP (Relevance-CAM)", "method relevance_cam"),
    _row("Integrated gradients", "method integrated_gradients", "", "", "IntegratedGradients", "",
         "IntegratedGradients"),
    _row("SmoothGrad", "method smooth_grad", "", "", "NoiseTunnel", "", "SmoothGrad"),
    _row("Guided backpropagation", "method guided_backprop", "GuidedBackpropReLUModel", "", "GuidedBackprop", "",
         "GuidedBackprop"),
    _row("Guided Grad-CAM", "python jaxcam.guided_grad_cam", "an example", "", "GuidedGradCam"),
    _row("Attention rollout", "method attention_rollout", "an example"),
    _row("LRP through attention (AttnLRP)", "method lrp_cam"),
    _row("Finer-CAM", "python jaxcam.targets.finer", "FinerCAM", "FinerCAM"),
    _row("LeGrad", "method legrad", "", "LeGrad"),
    _row("FEM", "method fem_cam", "FEM", "", "", "", "FEM"),
    _row("Deep feature factorisation", "python jaxcam.deep_feature_factorisation", "DeepFeatureFactorization"),
    _row("Occlusion", "method occlusion", "", "", "Occlusion", "", "Occlusion"),
    _row("Gradient SHAP", "method gradient_shap", "", "", "GradientShap"),
    _row("Deconvolution", "method deconvolution", "", "", "Deconvolution", "", "DeconvNet"),
    _row("Sobol indices", "method sobol_cam", "", "", "", "", "SobolAttributionMethod"),
    _row("HSIC", "method hsic_cam", "", "", "", "", "HsicAttributionMethod"),
    _row("Several layers in one map", "command explain --fuse", "target_layers", "LayerCAM.fuse_cams"),
    _row("Mean over flips and scales", "command explain --views", "aug_smooth"),
    _row("Difference of two classes", "command explain --target", "", "OutputTarget"),
    _row("A segment's pixels", "python jaxcam.targets.segment", "SemanticSegmentationTarget", "", "", "",
         "semantic segmentation operator"),
    _row("A detector's box", "python jaxcam.targets.box_score", "FasterRCNNBoxScoreTarget", "", "", "",
         "object detection operator"),
    _row("Similarity to an embedding", "python jaxcam.targets.similarity", "an example"),
    _row("Increase in Confidence", "metric ic", "", "ClassificationMetric", "", "", "AverageIncreaseMetric"),
    _row("Average Drop", "metric ad", "cam_mult_image", "ClassificationMetric", "", "", "AverageDropMetric"),
    _row("Average Drop in Deletion", "metric add"),
    _row("Insertion and deletion", "metric insertion", "", "DeletionInsertionMetric", "", "", "Insertion, Deletion"),
    _row("Pixel flipping", "metric aopc", "", "", "", "PixelFlipping, RegionPerturbation"),
    _row("ROAD", "metric road", "ROADCombined", "", "", "ROAD"),
    _row("ADCC", "metric adcc"),
    _row("ARCC", "metric arcc", "ARCC"),
    _row("Infidelity", "metric infidelity", "", "", "infidelity", "Infidelity"),
    _row("Sensitivity-n", "metric sensitivity_n", "", "", "", "SensitivityN, FaithfulnessCorrelation", "MuFidelity"),
    _row("Max-sensitivity", "metric max_sensitivity", "", "", "sensitivity_max", "MaxSensitivity"),
    _row("Consistency under a flip", "metric flip_consistency", "", "", "", "", ""),
    _row("Consistency under noise", "metric noise_consistency", "", "", "", "AvgSensitivity", "AverageStability"),
    _row("Energy in boxes", "metric pointing", "", "", "", "AttributionLocalisation"),
    _row("Energy in masks", "metric weighting", "", "", "", "RelevanceMassAccuracy"),
    _row("Pointing game", "metric hit", "", "", "", "PointingGame"),
    _row("IoU of the map with boxes and masks", "metric iou", "", "", "", "TopKIntersection, RelevanceRankAccuracy"),
    _row("Gini sparsity", "metric gini", "", "", "", "Sparseness"),
    _row("Entropy", "metric entropy", "", "", "", "Complexity"),
    _row("Completeness gap", "metric gap", "", "", "convergence_delta", "Completeness"),
    _row("Parameter randomisation", "python jaxcam.evaluate.randomisation.parameter_randomisation", "", "", "",
         "MPRT, SmoothMPRT, EfficientMPRT", "RandomizationMetric"),
    _row("Monotonicity", "metric monotonicity", "", "", "", "Monotonicity"),
    _row("Monotonicity by correlation", "metric monotonicity_correlation", "", "", "", "MonotonicityCorrelation"),
    _row("Faithfulness estimate", "metric faithfulness_estimate", "", "", "", "FaithfulnessEstimate"),
    _row("Selectivity", "metric selectivity", "", "", "", "Selectivity"),
    _row("IROF", "metric irof", "", "", "", "IROF"),
    _row("Sufficiency", "python jaxcam.metrics.sufficiency", "", "", "", "Sufficiency"),
    _row("Local Lipschitz estimate", "metric lipschitz", "", "", "", "LocalLipschitzEstimate"),
    _row("Relative input stability", "metric relative_input", "", "", "", "RelativeInputStability"),
    _row("Relative output stability", "metric relative_output", "", "", "", "RelativeOutputStability"),
    _row("Relative representation stability", "python jaxcam.metrics.relative_stability", "", "", "",
         "RelativeRepresentationStability"),
    _row("Random logit", "metric random_logit", "", "", "", "RandomLogit"),
    _row("Input invariance", "python jaxcam.metrics.input_invariance", "", "", "", "InputInvariance"),
    _row("Non-sensitivity", "metric non_sensitivity", "", "", "", "NonSensitivity"),
    _row("Overlay on the photo", "python jaxcam.overlay", "show_cam_on_image", "overlay_mask",
         "visualize_image_attr", "", "plot_attributions"),
    _row("A box of the map", "command explain --box"),
    _row("What speaks against the class", "command explain --signed", "", "", "visualize_image_attr"),
    _row("A page to try it", "command serve", "", "a hosted demo", "Insights"),
    _row("A resumed evaluation with intervals, as a page", "command report"),
    _row("An evaluation by the devices of several machines", "command evaluate --ray"),
    _row("Pictures in a bucket, or in tar shards", "python jaxcam.data.remote.read_shards"),
    _row("Time, disk and memory before a run", "command evaluate --dry-run"),
    _row("Error bars of sampling, and a rule to stop", "command explain --permutations"),
)  # fmt: skip


def there_is(here: str) -> bool:
    """Whether what `Row.here` names exists."""
    kind, _, name = here.partition(" ")
    if kind in ("method", "metric"):
        from jaxcam.methods.registry import METHODS
        from jaxcam.metrics.registry import METRICS

        return name in (METHODS if kind == "method" else METRICS)
    if kind == "command":
        from jaxcam.cli import parser

        command, _, option = name.partition(" ")
        found = parser()[1].choices.get(command)
        return found is not None and (not option or option in found._option_string_actions)
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as e:  # as jaxcam.targets, which is an attribute and no module
        if e.name != module:
            raise
        parent, _, last = module.rpartition(".")
        return hasattr(getattr(importlib.import_module(parent), last), attribute)


def table() -> str:
    """In Markdown."""
    lines = ["| | jaxcam | " + " | ".join(PEERS) + " |", "|---" * (2 + len(PEERS)) + "|"]
    for row in ROWS:
        here = f"`{row.here.split(' ', 1)[1]}`" if row.here else "–"
        lines.append(f"| {row.what} | {here} | " + " | ".join(row.there.get(p) or "–" for p in PEERS) + " |")
    only = sum(not row.there for row in ROWS)
    lacking = sum(not row.here for row in ROWS)
    return "\n".join(
        [*lines, "", f"{len(ROWS)} rows: {only} that none of the peers has, {lacking} that jaxcam has not."]
    )


def main() -> int:
    """Prints the table and writes `benchmarks/results/features.md`; 1 where something named here does not exist."""
    missing = [row.here for row in ROWS if row.here and not there_is(row.here)]
    for name in missing:
        print(f"error: there is no {name}", file=sys.stderr)
    text = table()
    print(text)
    path = pathlib.Path(__file__).parent / "results" / "features.md"
    path.write_text(
        f"# Features beside those of peers\n\n`python -m benchmarks.features`\n\n{text}\n", encoding="utf-8"
    )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
