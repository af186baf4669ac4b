"""All methods by all measures: `python -m benchmarks.everything PICTURES --out RUNS [--limit N] [--networks N ...]`.

Every method of `METHODS` that is defined for the network, with its usual options but for those in `CHEAPER`, and the
two controls, by every measure that boxed pictures allow: those that call the method again, for maps of other pictures,
too. A table for each kind of measure, as `jaxcam report` makes it; then what a map and its measures cost. PICTURES is a
folder of boxed pictures of Imagenette's classes; a run goes on where it was stopped, and with another `--limit` anew.
Writes `benchmarks/results/everything-NETWORK.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import jaxcam
from benchmarks.forms import LAYERS, squeezenet
from benchmarks.paper import cost
from benchmarks.timing import machine
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.evaluate.statistics import Summary, summarise
from jaxcam.evaluate.tables import Table, cost_table, main_table, markdown
from jaxcam.files import whole_file
from jaxcam.metrics.registry import KINDS, METRICS

#: Methods with fewer samples or steps than usual: measures of stability make each map thirty times.
CHEAPER = (
    "shap_cam:num_permutations=20", "rise_cam:num_samples=500", "ss_cam:num_samples=4,top=16",
    "is_cam:num_samples=4,top=16", "score_cam:top=64", "opti_cam:steps=20", "integrated_gradients:steps=20",
)  # fmt: skip


def of_kind(whole: Table, summary: Summary, kind: str) -> Table:
    """The columns of the measures of a kind."""
    some = [0, *(1 + j for j, name in enumerate(summary.metrics) if METRICS[name].kind == kind)]
    columns, *rows = (tuple(cells[j] for j in some) for cells in (whole.columns, *whole.rows))
    return dataclasses.replace(whole, columns=columns, rows=tuple(rows), notes=())


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--networks", nargs="+", default=["vgg16_slim", "resnet50_slim", "squeezenet"], choices=LAYERS)
    parser.add_argument("--squeezenet", type=pathlib.Path, help="its weights, squeezenet_v1.0_decoded.npz")
    parser.add_argument("--limit", type=int, default=300, help="pictures")
    args = parser.parse_args(argv)
    if "squeezenet" in args.networks and args.squeezenet is None:
        parser.error("--squeezenet names its weights; or leave it out of --networks")
    metrics = [n for n, m in METRICS.items() if not {"mask", "reference"} & set(m.requires)]
    try:
        for name in args.networks:
            network = squeezenet(args.squeezenet) if name == "squeezenet" else jaxcam.load(name)
            layer = LAYERS[name][0]
            run = evaluate(
                network, args.pictures, methods=["all", *CHEAPER], metrics=metrics, controls=True,
                layer=layer, limit=args.limit, keep=(), out=args.out / f"{name}-{args.limit}",
            )  # fmt: skip
            summary = summarise(run)
            whole, spent = main_table(run, summary, paper=False), sum(u["seconds"]["total"] for u in run.units)
            lines = [
                f"# All methods by all measures: {name}, {layer}\n",
                f"{len(run.methods)} methods, {len(metrics)} measures; the units took {spent / 60:.0f} minutes. "
                f"{machine()['device']}, jax {machine()['jax']}.\n",
            ]
            for kind, about in KINDS.items():
                lines += [f"## {kind.capitalize()}: {about}\n", markdown(of_kind(whole, summary, kind)), ""]
            lines += [*(f"{note}\n" for note in whole.notes), "## Cost\n"]
            lines += [markdown(cost_table(run, summary)), "", *cost(run)]
            with whole_file(pathlib.Path(__file__).parent / "results" / f"everything-{name}.md") as file:
                file.write(("\n".join(lines) + "\n").encode())
            print(f"{name}: written", flush=True)
    except JaxcamError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
