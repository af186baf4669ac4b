"""The paper's evaluation on data of your own: `python -m benchmarks.paper DATA --out RUNS [--model NAME ...]`.

Tables 3, 4, 5 and 7 to 10 of Jung & Oh (ICCV 2021), by `jaxcam evaluate`: the run of each network and layer is a
folder under RUNS, goes on where it was stopped, and gets its report (`report.html`; its gallery is figure 1). Then the
paper's claims one by one, each with the figures that speak for or against it here, and what it all cost.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import resource
import sys
import time

import jax

from benchmarks.claims import SCORES, Claim, claims
from benchmarks.timing import machine
from jaxcam.cli.networks import named
from jaxcam.cutting import head_params
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import Run, evaluate
from jaxcam.evaluate.paper_figures import published
from jaxcam.evaluate.report import report
from jaxcam.evaluate.statistics import Summary, over_seeds, summarise
from jaxcam.evaluate.tables import cost_table, main_table, markdown, seeds_table
from jaxcam.files import whole_file
from jaxcam.methods.gradient import cam
from jaxcam.metrics.registry import METRICS
from jaxcam.models.classifier import Classifier

#: `{K}` is the number of channels.
METHODS = (
    "lift_cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "score_cam", "ablation_cam", "lrp_cam", "lime_cam",
    "lime_cam:num_samples={10K}", "kernel_shap_cam", "shap_cam:num_permutations=1000",
)  # fmt: skip


def table_3(layers: dict[str, Run]) -> list[str]:
    """LIFT-CAM by layer, in Markdown, with the paper's figures in brackets."""
    lines = ["| layer | " + " | ".join(f"{METRICS[m].short} (%)" for m in SCORES) + " |", "|---" * 4 + "|"]
    for layer, run in layers.items():
        summary = summarise(run)
        i, cells = summary.methods.index("lift_cam"), []
        for m in SCORES:
            j, figure = summary.metrics.index(m), published(run.manifest, "lift_cam", m)
            theirs = f" (paper: {figure.value:.2f})" if figure else ""
            s = summary.score
            cells.append(f"{s.mean[i, j]:.2f} [{s.low[i, j]:.2f}, {s.high[i, j]:.2f}]{theirs}")
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return lines


def cost(run: Run) -> list[str]:
    """Where the time of a run went, per picture, in Markdown."""
    pictures = sum(unit["images"] for unit in run.units)
    parts: dict[str, float] = {"decoding (in the background)": 0.0, "forward pass": 0.0}
    for unit in run.units:
        seconds = unit["seconds"]
        parts["decoding (in the background)"] += seconds["decode"]
        parts["forward pass"] += seconds["forward"]
        for kind, prefix in (("methods", ""), ("metrics", "metric ")):
            for name, spent in seconds[kind].items():
                parts[prefix + name] = parts.get(prefix + name, 0.0) + spent
        parts["all"] = parts.get("all", 0.0) + seconds["total"]
    parts["all"] = parts.pop("all", 0.0)  # last
    lines = ["| what | ms per picture |", "|---|---|"]
    return lines + [f"| {name} | {1000 * s / max(1, pictures):,.1f} |" for name, s in parts.items()]


WORDS = (
    '"Surely" means of the paired differences of a claim that they are not 0 at the 5 % level after Holm\'s correction '
    'for their number. "Refuted": some comparison of the claim surely goes the other way. "Held": each goes its way '
    "at the 5 % level. Under either rule a claim is wrongly judged with a chance of 5 % at most."
)


def write_up(
    folder: pathlib.Path, network: Classifier, run: Run, summary: Summary, layers: dict[str, Run],
    found: list[Claim], spent: str,
) -> None:  # fmt: skip
    """`paper-<network>-<data>.md`: the tables, the claims, the cost."""
    data = run.manifest["settings"]["data"]["name"]
    lines = [f"# {network.name} on {data}: {summary.images} pictures, {summary.pairs} pairs of picture and class", ""]
    lines += [markdown(main_table(run, summary)), "", "## The paper's claims here", ""]
    lines += ["| claim | here | figures |", "|---|---|---|"]
    lines += [f"| {c.text} | {c.verdict} | {c.figures} |" for c in found]
    lines += ["", WORDS, ""]
    if len(layers) > 1:
        lines += ["## LIFT-CAM at earlier layers (table 3)", "", *table_3(layers), ""]
    seeds = over_seeds(run)
    if len(seeds.seeds) > 1:
        lines += ["## Random subsets (tables 7 to 10)", ""]
        for metric in run.metrics:
            lines += [markdown(seeds_table(run, seeds, metric)), ""]
    lines += ["## Cost", "", markdown(cost_table(run, summary)), "", *cost(run), ""]
    lines += [f"{spent} Measured on {machine()['device']}, jax {machine()['jax']}.", ""]
    name = re.sub(r"[^\w.-]", "_", f"{pathlib.Path(network.name).name}-{data}")
    (folder / f"paper-{name}.md").write_text("\n".join(lines), encoding="utf-8")


def linear_head(network: Classifier) -> bool:
    """Whether an average and a linear layer are all that follows the default layer, found by trying."""
    features, head = network.split()
    image = jax.random.uniform(jax.random.key(0), network.preprocessing.shape)
    a, bypass = jax.jit(features.with_bypass)(network.params, image)
    try:
        cam(head_params(network.params, bypass), a, head=head, target=0)
    except JaxcamError:  # which says why not
        return False
    return True


def finished(run: Run) -> Run:
    """Writes the report of a run beside it."""
    with whole_file(run.folder / "report.html") as f:
        f.write(report(run, summarise(run)).encode())
    return run


def main(argv=None) -> int:
    """Evaluates, prints the claims and writes `benchmarks/results/paper-<network>-<data>.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="an ImageNet-style folder, a VOC devkit or a COCO folder")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder of the runs")
    parser.add_argument(
        "--model",
        nargs="+",
        default=["vgg16_slim", "resnet50_slim"],
        help="networks of `jaxcam models`, folders, or your own as FILE.py:NAME",
    )
    parser.add_argument(
        "--earlier",
        nargs="*",
        default=["conv5_2", "conv5_1"],
        help="layers of table 3, beside the default one, of networks that have them",
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--metrics", nargs="+", default=["ic", "ad", "add", "pointing", "gap"])
    parser.add_argument("--reference", help="adds the cosine with this method, as shap_cam:num_permutations=10000")
    parser.add_argument("--limit", type=int, help="pictures of each random subset")
    parser.add_argument("--seeds", type=int, default=1, help="how many random subsets")
    parser.add_argument("--steps", type=int, default=50, help="of insertion and deletion")
    parser.add_argument("--keep", nargs="*", help="of every map: coefficients, maps, curves (default: all)")
    args = parser.parse_args(argv)
    results = pathlib.Path(__file__).parent / "results"
    options = {"limit": args.limit, "seeds": args.seeds, "steps": args.steps} | (
        {} if args.keep is None else {"keep": args.keep}
    )
    try:
        for model in args.model:
            began = time.perf_counter()
            network = named(model)
            folder = args.out / pathlib.Path(network.name).name
            channels = network.layer_shape(network.default_layer)[-1]
            methods = [m.replace("{10K}", str(10 * channels)) for m in args.methods]
            run = finished(evaluate(
                network, args.data, methods=methods, metrics=args.metrics, reference=args.reference,
                out=folder / "last", **options,
            ))  # fmt: skip
            layers = {network.default_layer: run}
            for early in [layer for layer in args.earlier if layer in network.layers]:
                layers[early] = finished(evaluate(
                    network, args.data, methods=["lift_cam"], metrics=SCORES, layer=early, out=folder / early, **options
                ))  # fmt: skip
            summary = summarise(run)
            found = claims(run, summary, linear=linear_head(network), layers=layers)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
            seconds = sum(u["seconds"]["total"] for r in layers.values() for u in r.units)
            spent = (
                f"The units took {seconds:,.0f} s, this command {time.perf_counter() - began:,.0f} s (less where a run "
                f"was there already); at most {peak:.1f} GiB of memory."
            )
            write_up(results, network, run, summary, layers, found, spent)
            for claim in found:
                print(f"{network.name}: {claim.text}: {claim.verdict.upper()} ({claim.figures})", flush=True)
            print(f"{network.name}: {spent}", flush=True)
    except JaxcamError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
