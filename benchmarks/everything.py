"""All methods by all measures: `python -m benchmarks.everything PICTURES --out RUNS [--limit N] [--networks N ...]`.

Every method of `METHODS` that is defined for the network, with its usual options but for those in `CHEAPER`, and the
two controls, by every measure that boxed pictures allow: those that call the method again, for maps of other pictures,
too. A table for each kind of measure, means with 95 % intervals; bold: the best, and what is not surely worse (Holm).
Then what a map and its measures cost. PICTURES is a folder of boxed pictures of Imagenette's classes; a run goes on
where it was stopped, and with another `--limit` anew. Writes `benchmarks/results/everything-NETWORK.md`.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np

import jaxcam
from benchmarks.forms import LAYERS, squeezenet
from benchmarks.timing import machine
from jaxcam.data.evaluation import load_dataset
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import Run, evaluate
from jaxcam.evaluate.statistics import Summary, summarise
from jaxcam.files import whole_file
from jaxcam.methods.registry import METHODS, request
from jaxcam.metrics.registry import KINDS, METRICS

#: Methods with fewer samples or steps than usual: measures of stability make each map thirty times.
CHEAPER = {
    "shap_cam": "num_permutations=20", "rise_cam": "num_samples=500", "ss_cam": "num_samples=4,top=16",
    "is_cam": "num_samples=4,top=16", "score_cam": "top=64", "opti_cam": "steps=20", "integrated_gradients": "steps=20",
}  # fmt: skip


def asked(network: jaxcam.Classifier, layer: str) -> list[str]:
    """The methods that are defined here, without the controls, which `evaluate` adds."""
    found = []
    features, head = network.split(at=layer)
    a = jax.jit(features)(network.params, np.zeros((1, *network.preprocessing.shape), np.float32))[0]
    for name, info in METHODS.items():
        if info.control:
            continue
        if info.heads is not None:
            try:
                info.function(network.params, a, head=head, target=0)
            except JaxcamError:  # says for which heads it is
                continue
        found.append(":".join([name, *([CHEAPER[name]] if name in CHEAPER else [])]))
    return found


def table(summary: Summary, kind: str) -> Iterator[str]:
    """The measures of a kind."""
    some = [j for j, m in enumerate(summary.metrics) if METRICS[m].kind == kind]
    heads = [
        f"{METRICS[summary.metrics[j]].short} {'+' if METRICS[summary.metrics[j]].sign > 0 else '-'}" for j in some
    ]
    yield f"## {kind.capitalize()}: {KINDS[kind]}\n"
    yield f"| method | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for i, method in enumerate(summary.methods):
        cells = []
        for j in some:
            s = summary.score
            text = f"{s.mean[i, j]:.3g} [{s.low[i, j]:.3g}, {s.high[i, j]:.3g}]"
            best = not request(method).info.control and (summary.best[i, j] or summary.tied[i, j])
            cells.append(f"**{text}**" if best else text)
        yield f"| {method} | {' | '.join(cells)} |"
    yield ""


def costs(run: Run) -> Iterator[str]:
    """Seconds of a map, and of a measure of one."""
    yield "## What it took\n"
    yield "| method | a map, seconds | head evaluations |"
    yield "|---|---|---|"
    for method in run.methods:
        own = run.columns["method"] == method
        seconds, asked = (np.median(run.columns[k][own]) for k in ("seconds", "evaluations"))
        yield f"| {method} | {seconds:.4f} | {'' if np.isnan(asked) else f'{asked:,.0f}'} |"
    maps = len(run.columns["method"])
    total: dict[str, float] = {}
    for unit in run.units:
        for name, seconds in unit["seconds"]["metrics"].items():
            total[name] = total.get(name, 0.0) + seconds
    yield "\n| measures | of a map, seconds |"
    yield "|---|---|"
    for name, seconds in sorted(total.items(), key=lambda item: -item[1]):
        yield f"| {name} | {seconds / maps:.4f} |"


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
        raise JaxcamError("--squeezenet names its weights")
    metrics = [n for n, m in METRICS.items() if not {"mask", "reference"} & set(m.requires)]
    for name in args.networks:
        network = squeezenet(args.squeezenet) if name == "squeezenet" else jaxcam.load(name)
        layer = LAYERS[name][0]
        began = time.perf_counter()
        run = evaluate(
            network, args.pictures, methods=asked(network, layer), metrics=metrics, controls=True, layer=layer,
            limit=args.limit, keep=(), out=args.out / f"{name}-{args.limit}",
        )  # fmt: skip
        summary, now = summarise(run), time.perf_counter() - began
        pictures, spent = sum(u["images"] for u in run.units), sum(u["seconds"]["total"] for u in run.units)
        of = len(load_dataset(args.pictures).items)
        lines = [
            f"# All methods by all measures: {name}, {layer}\n",
            f"{pictures} of {of} boxed pictures, {len(run.methods)} methods, {len(metrics)} measures: {spent / 60:.0f} "
            f"minutes of units. {machine()['device']}, jax {machine()['jax']}. Means with 95 % intervals; `+`: higher "
            "is better; bold: the best, and what is not surely worse.\n",
            *(line for kind in KINDS for line in table(summary, kind)), *costs(run),
        ]  # fmt: skip
        with whole_file(pathlib.Path(__file__).parent / "results" / f"everything-{name}.md") as file:
            file.write(("\n".join(lines) + "\n").encode())
        print(f"{name}: {now:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
