"""The paper's evaluation on data of your own: `python -m benchmarks.paper DATA --out RUNS [--model NAME ...]`.

Tables 3, 4, 5 and 7 to 10 of Jung & Oh (ICCV 2021), by `jaxcam evaluate`: the run of each network and layer is a
folder under RUNS, goes on where it was stopped, and holds everything that `jaxcam report` shows (figure 1 among it).
Then the paper's claims one by one, each with the figures that speak for or against it here.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from typing import NamedTuple

import numpy as np

import jaxcam
from benchmarks.timing import machine
from jaxcam.evaluate import Run, evaluate
from jaxcam.evaluate.formats import markdown
from jaxcam.evaluate.statistics import Summary, cube, summarise
from jaxcam.evaluate.tables import main_table
from jaxcam.models.resnet import ResNetConfig

METHODS = (
    "lift_cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "score_cam", "ablation_cam", "lrp_cam", "lime_cam",
    "kernel_shap_cam", "shap_cam",
)  # fmt: skip
SCORES = ("ic", "ad", "add")


class Claim(NamedTuple):
    """A statement of the paper, what was found here, and the figures."""

    text: str
    verdict: str
    figures: str


def best_on_scores(run: Run, summary: Summary) -> Claim:
    """LIFT-CAM is the most faithful on IC, AD and ADD."""
    i = summary.methods.index("lift_cam")
    found, verdicts = [], []
    for metric in SCORES:
        j = summary.metrics.index(metric)
        rivals = [k for k in range(len(summary.methods)) if k != i]
        sign = -1 if metric == "ad" else 1
        worse = [summary.methods[k] for k in rivals if _sure(summary, i, k, j, sign)]
        better = [summary.methods[k] for k in rivals if _sure(summary, i, k, j, -sign)]
        verdicts.append("refuted" if better else "held" if len(worse) == len(rivals) else "undecided")
        found.append(
            f"{metric.upper()} {summary.score.mean[i, j]:.2f}: surely better than {', '.join(worse) or 'none'}, "
            f"surely worse than {', '.join(better) or 'none'}"
        )
    verdict = verdicts[0] if len(set(verdicts)) == 1 else ", ".join(map(" ".join, zip(SCORES, verdicts, strict=True)))
    return Claim("LIFT-CAM is best on IC, AD and ADD (tables 3, 5, 7 to 9)", verdict, "; ".join(found))


def best_at_pointing(run: Run, summary: Summary) -> Claim:
    """LIFT-CAM puts most energy into the object's boxes."""
    i, j = summary.methods.index("lift_cam"), summary.metrics.index("pointing")
    better = [m for k, m in enumerate(summary.methods) if k != i and _sure(summary, i, k, j, -1)]
    worse = [m for k, m in enumerate(summary.methods) if k != i and _sure(summary, i, k, j, 1)]
    verdict = "refuted" if better else "held" if len(worse) == len(summary.methods) - 1 else "undecided"
    figures = f"surely better than {', '.join(worse) or 'none'}, surely worse than {', '.join(better) or 'none'}"
    return Claim("LIFT-CAM localises best (table 10)", verdict, f"EPG {summary.score.mean[i, j]:.2f} %: {figures}")


def _sure(summary: Summary, a: int, b: int, metric: int, sign: int) -> bool:
    """Whether method a is above b (sign 1) or below it (sign -1) with the whole paired interval."""
    low, high = summary.difference.low[a, b, metric], summary.difference.high[a, b, metric]
    return bool(low > 0 if sign > 0 else high < 0)


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


def layers_compared(runs: dict[str, Run]) -> Claim:
    """The last layer explains best: LIFT-CAM there against earlier ones, on the same pictures."""
    text = "conv5_3 explains better than conv5_1 (LIFT-CAM)"
    last, first = cube(runs["conv5_3"]), cube(runs["conv5_1"])
    figures, signs = [], []
    for metric in SCORES:
        a = last.values[:, runs["conv5_3"].methods.index("lift_cam"), runs["conv5_3"].metrics.index(metric)]
        b = first.values[:, runs["conv5_1"].methods.index("lift_cam"), runs["conv5_1"].metrics.index(metric)]
        gain = b - a if metric == "ad" else a - b
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        signs.append(gain.mean() / max(error, 1e-30))
        figures.append(
            f"{metric.upper()} {a.mean():.2f} against {b.mean():.2f} (gain {gain.mean():.2f} +- {error:.2f})"
        )
    verdict = "held" if min(signs) > 2 else "refuted" if max(signs) < -2 else "undecided"
    return Claim(text, verdict, "; ".join(figures))


def write_up(folder: pathlib.Path, network: jaxcam.Network, run: Run, summary: Summary, claims: list[Claim]) -> None:
    """`paper-<network>.md`: the table and the claims."""
    lines = [f"# {network.name}, {summary.images} pictures, {summary.pairs} pairs of picture and class", ""]
    lines += [markdown(main_table(run, summary)), "", "## The paper's claims here", ""]
    lines += ["| claim | here | figures |", "|---|---|---|"]
    lines += [f"| {c.text} | {c.verdict} | {c.figures} |" for c in claims]
    lines += ["", '"Surely" means that the whole 95 % interval of the paired difference lies on one side.']
    lines += ["", f"Measured on {machine()['device']}, jax {machine()['jax']}.", ""]
    name = re.sub(r"[^\w.-]", "_", pathlib.Path(network.name).name)
    (folder / f"paper-{name}.md").write_text("\n".join(lines), encoding="utf-8")


def main(argv=None) -> int:
    """Evaluates, prints the claims and writes `benchmarks/results/paper-<network>.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="an ImageNet-style folder, a VOC devkit or a COCO folder")
    parser.add_argument("--out", required=True, help="the folder of the runs")
    parser.add_argument("--model", nargs="+", default=["vgg16_slim", "resnet50_slim"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--metrics", nargs="+", default=["ic", "ad", "add", "pointing", "gap"])
    parser.add_argument("--limit", type=int, help="pictures of each random subset")
    parser.add_argument("--seeds", type=int, default=1, help="how many random subsets")
    args = parser.parse_args(argv)
    results = pathlib.Path(__file__).parent / "results"
    for model in args.model:
        network = jaxcam.load(model)
        options = {"metrics": args.metrics, "limit": args.limit, "seeds": args.seeds}
        folder = pathlib.Path(args.out) / pathlib.Path(network.name).name
        run = evaluate(network, args.data, methods=args.methods, out=folder / "last", **options)
        summary = summarise(run)
        claims = [best_on_scores(run, summary)]
        if "pointing" in summary.metrics:
            claims.append(best_at_pointing(run, summary))
        if isinstance(network.config, ResNetConfig):
            claims.append(
                identical(run, summary, "lift_cam", "ablation_cam", "LIFT-CAM equals Ablation-CAM on a linear head")
            )
            claims.append(identical(
                run, summary, "grad_cam", "xgrad_cam",
                "Grad-CAM equals XGrad-CAM on a GAP and linear head, where table 4 lists them apart",
            ))  # fmt: skip
        elif "conv5_1" in network.layers:
            early = evaluate(
                network, args.data, methods=["lift_cam"], layer="conv5_1", out=folder / "conv5_1", **options
            )
            claims.append(layers_compared({"conv5_3": run, "conv5_1": early}))
        write_up(results, network, run, summary, claims)
        for claim in claims:
            print(f"{network.name}: {claim.text}: {claim.verdict.upper()} ({claim.figures})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
