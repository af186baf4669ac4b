"""The test by parameter randomisation on a bundled network: `python -m benchmarks.randomisation DATA`.

Prints a Markdown table: of each method the similarity of its maps with those of the trained network as layer after
layer forgets, with intervals, and the relative rise of the maps' entropy (efficient MPRT).
"""

from __future__ import annotations

import argparse
import sys

import jaxcam
from jaxcam.data.evaluation import load_dataset
from jaxcam.evaluate.randomisation import SIMILARITIES, Randomisation, parameter_randomisation


def table(found: Randomisation) -> str:
    """Methods as rows, stages as columns."""
    heads = ["trained", *(name.replace("+", " + ") for name in found.layers[1:])]
    lines = [f"| method | {' | '.join(heads)} | rise of entropy |", "|---" * (len(heads) + 2) + "|"]
    curve, rise = found.curve, found.rise
    for i, method in enumerate(found.methods):
        cells = [
            f"{curve.mean[i, j]:.3f} [{curve.low[i, j]:.3f}, {curve.high[i, j]:.3f}]" for j in range(len(found.layers))
        ]
        cells.append(f"{rise.mean[i]:+.3f} [{rise.low[i]:+.3f}, {rise.high[i]:+.3f}]")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model", default="vgg16_slim")
    parser.add_argument("--methods", nargs="+", default=["lift_cam", "grad_cam", "eigen_cam", "random_cam"])
    parser.add_argument("--limit", type=int, default=48, help="pictures, drawn at random")
    parser.add_argument("--stages", type=int, default=6)
    parser.add_argument("--samples", type=int, default=1, help="noisy copies of each picture: smooth MPRT")
    parser.add_argument("--similarity", choices=SIMILARITIES, default="ssim")
    args = parser.parse_args(argv)
    network = jaxcam.load(args.model)
    data = load_dataset(args.data).for_classes(network.classes).subset(args.limit, 0)
    found = parameter_randomisation(
        network, [item.open() for item in data.items], methods=args.methods, stages=args.stages, samples=args.samples,
        targets=[item.labels[0] for item in data.items], similarity=args.similarity,
        progress=lambda done, total: print(f"{done} of {total}", file=sys.stderr),
    )  # fmt: skip
    print(f"{args.model}, {len(data)} pictures, {args.similarity}, {args.samples} samples; the last layers first.\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
