"""What the LIFT-CAM paper says of the methods, held against runs of `jaxcam evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcam.evaluate import Run
from jaxcam.evaluate.intervals import bootstrap, holm, p_values
from jaxcam.evaluate.statistics import Summary, cube
from jaxcam.metrics.registry import METRICS

SCORES = ("ic", "ad", "add")
ALPHA = 0.05


class Claim(NamedTuple):
    """A statement of the paper, what was found here ("held", "refuted", "undecided"), and the figures."""

    text: str
    verdict: str
    figures: str


def verdict(gains: np.ndarray, p: np.ndarray) -> str:
    """Of a claim that all `gains` are above 0, with two-sided p-values; wrong either way with a chance of 5 % at most.

    "refuted" where some gain is surely below 0 after Holm's correction for their number. "held" where each is above 0
    at the level: that all are so needs no correction, since the least sure one decides (Berger 1982).
    """
    if ((holm(p) < ALPHA) & (gains < 0)).any():
        return "refuted"
    return "held" if ((p < ALPHA) & (gains > 0)).all() else "undecided"


def best(summary: Summary, text: str, metrics: Sequence[str], method: str = "lift_cam", rivals=None) -> Claim:
    """A method is better than others (all of the run's unless given) on some metrics: than each, on each."""
    others = [m for m in rivals or summary.methods if m != method and m in summary.methods]
    some = [m for m in metrics if m in summary.metrics]
    i, rows = summary.methods.index(method), [summary.methods.index(m) for m in others]
    columns = [summary.metrics.index(m) for m in some]
    at = np.ix_([i], rows, columns)
    gains = summary.difference.mean[at][0] * [METRICS[m].sign for m in some]
    p = summary.p[at][0]
    sure = np.where(holm(p) < ALPHA, np.sign(gains), 0)

    def named(column: int, sign: int) -> str:
        return ", ".join(m for m, s in zip(others, sure[:, column], strict=True) if s == sign) or "none"

    figures = "; ".join(
        f"{METRICS[m].short} {summary.score.mean[i, columns[k]]:.2f}: surely better than {named(k, 1)}, "
        f"surely worse than {named(k, -1)}"
        for k, m in enumerate(some)
    )
    return Claim(text, verdict(gains, p), figures)


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
    gain = bootstrap(np.stack(columns, 1), a.pairs[:, 0], differences=True)
    found = verdict(gain.mean, p_values(gain))
    figures = "; ".join(
        f"{METRICS[m].short} better by {gain.mean[k]:.2f} [{gain.low[k]:.2f}, {gain.high[k]:.2f}]"
        for k, m in enumerate(SCORES)
    )
    return Claim(f"{late} explains better than {early} (LIFT-CAM; table 3)", found, figures)


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
    left_out = [m for m in rivals if m not in summary.methods]
    of = "of six" + (f" (here without {', '.join(left_out)})" if left_out else "")
    found = [best(summary, f"LIFT-CAM is the best {of} on IC, AD and ADD ({table})", SCORES, rivals=rivals)]
    if "lrp_cam" in summary.methods and not linear:
        found.append(best(summary, "LIFT-CAM is more faithful than LRP-CAM and LIME-CAM (table 5)", SCORES,
                          rivals=["lrp_cam", *lime]))  # fmt: skip
    if len(lime) == 2:
        found.append(best(summary, "LIME-CAM is better with ten times the samples (table 5)", SCORES, method=lime[1],
                          rivals=lime[:1]))  # fmt: skip
    if "pointing" in summary.metrics:
        found.append(best(summary, f"LIFT-CAM localises best {of} (table 10)", ["pointing"], rivals=rivals))
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
