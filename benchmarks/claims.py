"""What the LIFT-CAM paper says of the methods, held against runs of `jaxcam evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcam.evaluate import Run
from jaxcam.evaluate.statistics import Summary, bootstrap, cube
from jaxcam.metrics.registry import METRICS

SCORES = ("ic", "ad", "add")


class Claim(NamedTuple):
    """A statement of the paper, what was found here ("held", "refuted", "undecided"), and the figures."""

    text: str
    verdict: str
    figures: str


def surely(summary: Summary, a: int, b: int, metric: str) -> int:
    """1 where method a is better than b with the whole interval of the paired difference, -1 where worse, else 0."""
    j = summary.metrics.index(metric)
    low, high = summary.difference.low[a, b, j], summary.difference.high[a, b, j]
    sign = METRICS[metric].sign
    return sign * (int(low > 0) - int(high < 0))


def _against(summary: Summary, method: str, rivals: Sequence[str], metric: str) -> tuple[str, str]:
    """A verdict on "method is better than all rivals", and the figures."""
    i = summary.methods.index(method)
    signs = {r: surely(summary, i, summary.methods.index(r), metric) for r in rivals}
    worse, better = ([r for r, s in signs.items() if s == sign] for sign in (1, -1))
    verdict = "refuted" if better else "held" if len(worse) == len(rivals) else "undecided"
    mean = summary.score.mean[i, summary.metrics.index(metric)]
    figures = (
        f"{METRICS[metric].short} {mean:.2f}: surely better than {', '.join(worse) or 'none'}, "
        f"surely worse than {', '.join(better) or 'none'}"
    )
    return verdict, figures


def best(summary: Summary, text: str, metrics: Sequence[str], method: str = "lift_cam", rivals=None) -> Claim:
    """A method is better than others (all of the run's unless given) on some metrics."""
    others = [m for m in rivals or summary.methods if m != method and m in summary.methods]
    found = {m: _against(summary, method, others, m) for m in metrics if m in summary.metrics}
    verdicts = {m: v for m, (v, _) in found.items()}
    one = next(iter(verdicts.values()))
    all_alike = len(set(verdicts.values())) == 1
    verdict = one if all_alike else ", ".join(f"{METRICS[m].short} {v}" for m, v in verdicts.items())
    return Claim(text, verdict, "; ".join(figures for _, figures in found.values()))


def identical(run: Run, summary: Summary, a: str, b: str, text: str) -> Claim:
    """Two methods give the same maps up to scale."""
    values = cube(run).rows
    i, j = summary.methods.index(a), summary.methods.index(b)
    maps = run.arrays("maps")
    if maps is None:
        return Claim(text, "not measured", "the maps were not kept")
    scaled = [m.reshape(len(m), -1) / np.maximum(m.reshape(len(m), -1).max(1, keepdims=True), 1e-30)
              for m in (maps[values[:, i]], maps[values[:, j]])]  # fmt: skip
    gap = float(np.abs(scaled[0] - scaled[1]).max())
    return Claim(text, "held" if gap < 1e-3 else "refuted", f"largest difference of the scaled maps {gap:.1e}")


def layers_compared(runs: dict[str, Run], late: str, early: str) -> Claim:
    """A late layer explains better than an early one: LIFT-CAM at both, on the same pictures."""
    a, b = cube(runs[late]), cube(runs[early])
    columns = []
    for metric in SCORES:
        sign = METRICS[metric].sign
        both = [c.values[:, runs[n].methods.index("lift_cam"), runs[n].metrics.index(metric)]
                for c, n in ((a, late), (b, early))]  # fmt: skip
        columns.append(sign * (both[0] - both[1]))
    gain = bootstrap(np.stack(columns, 1), a.pairs[:, 0])
    verdict = "held" if (gain.low > 0).all() else "refuted" if (gain.high < 0).any() else "undecided"
    figures = "; ".join(
        f"{METRICS[m].short} better by {gain.mean[k]:.2f} [{gain.low[k]:.2f}, {gain.high[k]:.2f}]"
        for k, m in enumerate(SCORES)
    )
    return Claim(f"{late} explains better than {early} (LIFT-CAM; table 3)", verdict, figures)


def agreeing(run: Run, summary: Summary, metric: str = "cosine") -> Claim:
    """LIFT-CAM's coefficients are nearest to the Shapley values among the methods of one backward pass or two."""
    cheap = ["lift_cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "lrp_cam"]
    return best(summary, "LIFT-CAM is the nearest to SHAP-CAM among the methods of one backward pass", [metric],
                rivals=cheap)  # fmt: skip


def claims(run: Run, summary: Summary, *, linear: bool, layers: dict[str, Run]) -> list[Claim]:
    """All that a run can say something about.

    Args:
      linear: whether the head is an average and a linear layer.
      layers: runs of LIFT-CAM alone at other layers, and the main run at its own, by layer, the last one first.
    """
    six = ["lift_cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "score_cam", "ablation_cam"]
    lime = [m for m in summary.methods if m.partition(":")[0] == "lime_cam"]
    table = "table 4" if linear else "tables 7 to 9"
    rivals = [m for m in six if not (linear and m == "ablation_cam")]
    found = [best(summary, f"LIFT-CAM is the best of six on IC, AD and ADD ({table})", SCORES, rivals=rivals)]
    if "lrp_cam" in summary.methods and not linear:
        found.append(best(summary, "LIFT-CAM is more faithful than LRP-CAM and LIME-CAM (table 5)", SCORES,
                          rivals=["lrp_cam", *lime]))  # fmt: skip
    if len(lime) == 2:
        found.append(best(summary, "LIME-CAM is better with ten times the samples (table 5)", SCORES, method=lime[1],
                          rivals=lime[:1]))  # fmt: skip
    if "pointing" in summary.metrics:
        found.append(best(summary, "LIFT-CAM localises best of six (table 10)", ["pointing"], rivals=rivals))
    if "cosine" in summary.metrics:
        found.append(agreeing(run, summary))
    if linear:
        for a, b, text in (
            ("lift_cam", "ablation_cam", "LIFT-CAM equals Ablation-CAM on a linear head"),
            ("grad_cam", "xgrad_cam", "Grad-CAM equals XGrad-CAM on an average and a linear layer, where table 4 "
             "lists them apart"),
        ):  # fmt: skip
            if {a, b} <= set(summary.methods):
                found.append(identical(run, summary, a, b, text))
    names = list(layers)
    return found + [layers_compared(layers, names[0], early) for early in names[1:]]
