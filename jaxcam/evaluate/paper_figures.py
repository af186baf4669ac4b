"""The figures that the paper's supplement publishes, as data.

H. Jung and Y. Oh, "Towards Better Explanations of Class Activation Mapping", ICCV 2021, supplementary material,
tables 1 to 10. What only the main paper prints (its tables 1 to 4) is not here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jaxcam.metrics.registry import METRICS

DATA_SETS = ("ImageNet", "VOC", "COCO")

#: Table 1: mean and standard deviation of the cosine between the coefficients of two runs of SHAP-CAM, by orderings.
TABLE_1 = {
    1: ((0.87594, 1.445e-2), (0.38435, 8.040e-2), (0.44429, 6.773e-2)),
    10: ((0.98672, 1.607e-3), (0.85987, 1.856e-2), (0.87541, 1.535e-2)),
    100: ((0.99857, 1.609e-4), (0.98315, 1.629e-3), (0.98488, 1.324e-3)),
    1000: ((0.99986, 2.729e-5), (0.99831, 2.190e-4), (0.99848, 1.797e-4)),
    10000: ((0.99999, 1.704e-6), (0.99985, 1.455e-5), (0.99987, 1.116e-5)),
}

#: Table 2: VGG16 on ImageNet, cosine of LIFT-CAM's coefficients with SHAP-CAM_10k's, by layer.
TABLE_2 = {"conv5_3": 0.980, "conv5_2": 0.924, "conv5_1": 0.879}

_Faithfulness = dict[str, dict[str, tuple[float, ...]]]

#: Table 3: LIFT-CAM on VGG16 by layer. Here and in tables 4 and 5: metric to ImageNet, VOC, COCO, in percent.
TABLE_3: _Faithfulness = {
    "conv5_3": {"ic": (25.2, 38.7, 39.3), "ad": (29.15, 17.15, 18.65), "add": (32.95, 20.09, 26.34)},
    "conv5_2": {"ic": (25.0, 36.3, 36.0), "ad": (30.17, 19.71, 21.26), "add": (32.13, 18.63, 26.04)},
    "conv5_1": {"ic": (22.9, 34.5, 32.8), "ad": (32.07, 20.41, 23.67), "add": (28.88, 18.69, 24.60)},
}

#: Table 4: ResNet50. The table prints one row for Ablation-CAM and LIFT-CAM, whose coefficients are equal there.
TABLE_4: _Faithfulness = {
    "grad_cam": {"ic": (39.0, 46.5, 45.3), "ad": (15.80, 13.53, 18.71), "add": (41.79, 19.32, 27.42)},
    "grad_cam_pp": {"ic": (37.6, 38.8, 42.7), "ad": (16.35, 10.71, 15.61), "add": (40.42, 16.55, 24.42)},
    "xgrad_cam": {"ic": (41.9, 48.7, 50.6), "ad": (13.36, 12.38, 17.01), "add": (44.73, 20.80, 27.42)},
    "score_cam": {"ic": (37.2, 40.8, 43.6), "ad": (14.81, 9.79, 14.87), "add": (41.93, 17.18, 22.47)},
    "ablation_cam": {"ic": (41.0, 50.9, 52.6), "ad": (13.21, 10.34, 13.99), "add": (45.02, 23.12, 30.30)},
    "lift_cam": {"ic": (41.0, 50.9, 52.6), "ad": (13.21, 10.34, 13.99), "add": (45.02, 23.12, 30.30)},
}

#: Table 5: VGG16. LIME-CAM with as many samples as channels, and with ten times as many.
TABLE_5: _Faithfulness = {
    "lrp_cam": {"ic": (24.7, 31.7, 32.5), "ad": (29.19, 29.52, 28.52), "add": (27.52, 19.00, 26.09)},
    "lime_cam x1": {"ic": (24.3, 37.4, 37.1), "ad": (29.28, 22.76, 22.87), "add": (32.39, 19.53, 26.08)},
    "lime_cam x10": {"ic": (25.8, 37.5, 37.5), "ad": (28.10, 22.41, 22.70), "add": (32.84, 19.83, 26.65)},
    "grad_cam": {"ic": (24.0, 32.7, 31.9), "ad": (31.89, 30.73, 30.74), "add": (30.60, 17.43, 25.66)},
    "lift_cam": {"ic": (25.2, 38.7, 39.3), "ad": (29.15, 17.15, 18.65), "add": (32.95, 20.09, 26.34)},
}

#: Table 6: VGG16, cosine with SHAP-CAM_10k on ImageNet, VOC, COCO.
TABLE_6 = {
    "kernel_shap_cam x1": (0.708, 0.507, 0.536),
    "kernel_shap_cam x10": (0.994, 0.962, 0.969),
    "lift_cam": (0.980, 0.918, 0.924),
}

_SIX = ("grad_cam", "grad_cam_pp", "xgrad_cam", "score_cam", "ablation_cam", "lift_cam")


def _simulations(text: str) -> dict[str, tuple[float, ...]]:
    return {m: tuple(map(float, line.split())) for m, line in zip(_SIX, text.strip().splitlines(), strict=True)}


#: Tables 7 to 10 by metric: number of the table, and per method the ten simulations and their average, in percent.
#: As printed, although the ten figures of Ablation-CAM in table 10 have the mean 52.95 and not 53.15: a first one of
#: 54.92 in place of 52.92 would agree.
TABLES_7_TO_10: dict[str, tuple[int, dict[str, tuple[float, ...]]]] = {
    "ic": (7, _simulations("""
23.5 24.9 26.3 24.5 23.5 23.1 26.1 23.4 26.3 21.9 24.35
26.2 23.9 27.1 24.3 23.8 23.3 24.4 23.6 26.1 21.4 24.41
25.9 25.5 27.9 26.1 24.4 24.5 24.7 25.7 26.9 22.8 25.44
23.5 24.0 24.9 23.6 22.1 22.6 22.6 24.5 24.9 21.1 23.38
26.8 25.5 27.4 27.2 24.9 24.7 26.7 26.5 27.1 22.9 25.97
27.1 25.7 27.8 27.9 25.4 24.8 27.2 26.4 27.5 23.2 26.30""")),
    "ad": (8, _simulations("""
31.92 32.25 32.50 32.16 32.59 32.55 29.23 31.74 31.31 34.43 32.07
28.25 28.98 28.58 29.02 30.47 29.40 27.54 28.19 28.69 30.78 28.99
29.42 30.86 30.64 30.26 31.14 30.94 28.72 30.45 29.77 33.00 30.52
27.67 28.44 28.64 27.95 29.34 28.28 27.24 27.85 28.21 29.71 28.33
28.12 28.40 28.53 26.96 29.59 27.62 26.16 27.74 28.12 30.46 28.17
27.94 28.17 28.17 26.77 29.09 27.25 26.15 27.66 27.90 30.28 27.94""")),
    "add": (9, _simulations("""
31.27 30.74 32.70 30.90 30.85 32.11 28.23 30.53 29.07 31.34 30.77
28.37 26.68 29.26 26.37 26.77 27.57 25.71 28.09 25.18 28.10 27.21
31.10 31.21 32.32 29.81 30.09 31.64 28.34 29.59 28.91 31.59 30.46
25.04 24.13 28.25 24.00 23.97 24.98 23.05 25.01 22.93 26.75 24.81
32.39 32.57 34.34 31.74 31.92 32.71 30.21 31.34 29.53 33.30 32.00
32.74 33.32 34.56 31.77 32.60 32.80 30.38 31.87 30.26 33.66 32.40""")),
    "pointing": (10, _simulations("""
50.84 48.74 49.69 47.51 48.38 49.08 51.01 46.71 49.88 48.99 49.08
51.91 49.60 51.16 48.71 49.75 50.39 52.48 48.41 51.30 49.89 50.36
50.67 48.72 49.58 47.30 48.31 49.06 50.94 46.65 49.71 48.91 48.99
53.62 51.58 52.84 50.65 51.40 52.19 54.35 50.23 53.08 51.62 52.15
52.92 53.03 53.84 51.57 52.00 53.11 55.28 50.77 54.03 52.97 53.15
55.40 53.52 54.36 52.09 52.56 53.66 55.82 51.32 54.57 53.49 53.68""")),
}  # fmt: skip


class PaperFigure(NamedTuple):
    """A figure of the paper: `value` in its unit, and the number of the supplement's `table`."""

    value: float
    table: int


class _Table(NamedTuple):
    """A table as it is looked up.

    Attributes:
      network: pattern of the networks' names.
      figures: by row, then by metric: one figure for each of `DATA_SETS` that the table has.
      layers: at which its methods are.
      method: the method of a table whose rows are layers.
      reference: the method whose coefficients it compares with, where it does.
    """

    network: str
    figures: dict[str, dict[str, tuple[float, ...]]]
    layers: tuple[str, ...] = ("conv5_3",)
    method: str = ""
    reference: str = ""


_VGG16, _RESNET50 = r"vgg16(?!\d)", r"resnet50(?!\d)"
_TABLES = {
    2: _Table(_VGG16, {layer: {"cosine": (v,)} for layer, v in TABLE_2.items()}, (), "lift_cam", "shap_cam"),
    3: _Table(_VGG16, TABLE_3, (), "lift_cam"),
    4: _Table(_RESNET50, TABLE_4, ("layer4", "layer4.2")),
    5: _Table(_VGG16, TABLE_5),
    6: _Table(_VGG16, {method: {"cosine": v} for method, v in TABLE_6.items()}, reference="shap_cam"),
    **{
        number: _Table(_VGG16, {method: {metric: v[-1:]} for method, v in rows.items()})
        for metric, (number, rows) in TABLES_7_TO_10.items()
    },
}

#: Samples per channel of the methods that tables 5 and 6 list by their number, unless `num_samples` is given.
_SAMPLES = {"lime_cam": 1, "kernel_shap_cam": 10}
#: Options that the paper's methods have where ours, without them, are others: it draws coalitions without complements.
_OPTIONS = {"kernel_shap_cam": {"paired": "false"}}


def published(manifest: dict, method: str, metric: str) -> PaperFigure | None:
    """The paper's figure for the same method, metric, kind of network, layer and kind of data set, where there is one.

    The networks and pictures of the paper are others, so that the two may differ for many reasons. Only networks
    called `vgg16...` and `resnet50...` have figures; a folder of classes stands for ImageNet.

    Args:
      manifest: of a run.
      method: a label, as `lime_cam:num_samples=512`.
      metric: a name of `METRICS`, which says what tables to ask.
    """
    settings = manifest["settings"]
    network, layer, reference = settings["model"]["name"], settings["layer"], str(settings.get("reference"))
    kind = {"folder": 0, "voc": 1, "coco": 2}.get(settings["data"]["kind"])
    row = _row(method, manifest["layer_shape"][-1])
    if kind is None or row is None or settings.get("baseline", "mean") != "mean":
        return None
    for number in METRICS[metric].paper_tables:
        table = _TABLES[number]
        if not re.match(table.network, network) or not reference.startswith(table.reference):
            continue
        if table.method:
            found = table.figures.get(layer, {}) if row == table.method else {}
        else:
            found = table.figures.get(row, {}) if layer in table.layers else {}
        values = found.get(metric, ())
        if kind < len(values):
            return PaperFigure(values[kind], number)
    return None


def _row(method: str, channels: int) -> str | None:
    """The name of a method in the tables above; None for one with options that the paper does not use."""
    name, _, text = method.partition(":")
    options = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    if any(options.pop(k, None) != v for k, v in _OPTIONS.get(name, {}).items()):
        return None
    if name in _SAMPLES:
        samples = options.pop("num_samples", _SAMPLES[name] * channels)
        name += {str(channels): " x1", str(10 * channels): " x10"}.get(str(samples), " otherwise")
    return None if options else name
