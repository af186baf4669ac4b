"""A network from elsewhere on real pictures with boxes: `python -m benchmarks.squeezenet WEIGHTS.npz DATA`.

SqueezeNet v1.0 with its ImageNet weights, in plain JAX (`tests/squeezenet.py`), cut behind fire9 by name. Top-1
accuracy, and for each method the mean share of the map's energy inside the object's boxes, beside a uniform map's
share, and the largest violation of what the method promises. DATA is a folder of ImageNet pictures with `boxes.csv`.
Score-CAM, which asks for hundreds of forward passes, sees `--few` of the pictures, evenly spread. With `--methods` the
rows of the others stay as they are in the file of results.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jaxcam
from benchmarks.timing import save
from jaxcam.data.evaluation import load_dataset
from jaxcam.data.samples import pad_boxes
from jaxcam.methods import registry
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.result import Inputs
from jaxcam.metrics import energy_pointing

METHODS = {
    "lift_cam": {}, "grad_cam": {}, "grad_cam_pp": {}, "xgrad_cam": {}, "lrp_cam": {}, "ablation_cam": {},
    "shap_cam": {"num_permutations": 100}, "lime_cam": {}, "kernel_shap_cam": {},
}  # fmt: skip
SAMPLED = ("shap_cam", "lime_cam", "kernel_shap_cam")
#: Two of the published readings of Score-CAM: what is scored, and what becomes of the scores.
SCORE_METHODS = {
    "score_cam": {"score": "softmax", "normalise": "softmax"},
    "score_cam:score=logit,normalise=increase": {"score": "logit", "normalise": "increase"},
}


def pictures(data, size: int):
    """For each picture: RGB `(size, size, 3)`, its class among the 1000, its boxes in pixels of that."""
    wnids = (pathlib.Path(jaxcam.__file__).parent / "data/classes/imagenet_wnids.txt").read_text().split()
    for item in data.items:
        with Image.open(item.path) as opened:
            scale = np.asarray([size / opened.width, size / opened.height] * 2)
            rgb = np.asarray(opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        [label] = item.labels
        yield rgb, wnids.index(data.ids[label]), np.asarray(item.boxes[label]) * scale


def compiled(name: str, head):
    """`(params, activations, key, target) -> CAM`, compiled once."""
    method, options = getattr(jaxcam, name), METHODS[name]

    def run(params, a, key, target):
        drawn = (key,) if name in SAMPLED else ()
        return method(params, a, *drawn, head=head, target=target, **options)

    return jax.jit(run)


def scored(predict, options: dict):
    """`(params, activations, image, target) -> CAM` by Score-CAM, its steps compiled once."""

    def run(params, activations, image, target):
        inputs = Inputs(None, activations, None, target, image=image, network=predict, network_params=params)
        return registry.METHODS["score_cam"].stepped(inputs, **options).run(inputs)

    return run


def main(argv=None) -> int:
    """Prints a table and writes `benchmarks/results/squeezenet.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("data")
    parser.add_argument("--layer", default="fire9")
    parser.add_argument("--few", type=int, default=30, help="pictures that Score-CAM sees")
    known = [*METHODS, *SCORE_METHODS]
    parser.add_argument("--methods", nargs="+", choices=known, default=known, metavar="NAME", help=", ".join(known))
    args = parser.parse_args(argv)
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
    import squeezenet

    params = squeezenet.load(args.weights)
    size = squeezenet.SIZE
    example = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    features, head = jaxcam.split(squeezenet.squeezenet, params, at=args.layer, example=example)
    found = list(pictures(load_dataset(args.data), size))
    boxes, valid = pad_boxes([b for _, _, b in found])
    activate = jax.jit(lambda p, x: (lambda a: (a, head(p, a)))(features(p, x)))
    share = jax.jit(lambda m, b, v: energy_pointing(scale_map(resize_map(m, (size, size))), b, v))
    runs = {name: compiled(name, head) for name in METHODS if name in args.methods}
    scores = {n: scored(squeezenet.squeezenet, options) for n, options in SCORE_METHODS.items() if n in args.methods}
    seen = set(np.linspace(0, len(found) - 1, min(args.few, len(found))).round().astype(int).tolist())
    correct, uniform = [], []
    shares: dict[str, list] = {name: [] for name in (*runs, *scores)}
    gains: dict[str, list] = {name: [] for name in shares}
    promise: dict[str, float] = dict.fromkeys(shares, 0.0)
    for i, (rgb, target, _) in enumerate(found):
        activations, logits = activate(params, squeezenet.preprocess(rgb))
        correct.append(int(jnp.argmax(logits)) == target)
        uniform.append(float(energy_pointing(jnp.ones((size, size)), boxes[i], valid[i])))
        image = squeezenet.preprocess(rgb)
        key = jax.random.fold_in(jax.random.key(0), i)
        results = {name: run(params, activations, key, jnp.asarray(target)) for name, run in runs.items()}
        if i in seen:
            results |= {name: run(params, activations, image, jnp.asarray(target)) for name, run in scores.items()}
        for name, result in results.items():
            shares[name].append(float(share(result.map, boxes[i], valid[i])))
            gains[name].append(shares[name][-1] - uniform[-1])
            gap = result.diagnostics.get("completeness_gap", result.diagnostics.get("conservation_gap", 0.0))
            promise[name] = max(promise[name], abs(float(gap)) / max(1.0, abs(float(result.diagnostics["logit"]))))
        if (i + 1) % 50 == 0:
            print(f"{i + 1} of {len(found)}", file=sys.stderr, flush=True)
    error = lambda x: float(np.std(x, ddof=1) / np.sqrt(len(x)))  # noqa: E731
    print(f"{len(found)} pictures, top-1 {100 * np.mean(correct):.1f} % (+- {100 * error(correct):.1f})\n")
    print("| method | pictures | energy in the boxes, % | above uniform, % | largest gap |\n|---|---|---|---|---|")
    print(f"| a uniform map | {len(found)} | {100 * np.mean(uniform):.1f} | | |")
    rows = []
    for name in shares:
        gain = np.asarray(gains[name])
        rows.append({"method": name, "pictures": len(gain), "share": float(np.mean(shares[name])),
                     "gain": float(gain.mean()), "gain_error": error(gain), "largest_gap": promise[name]})  # fmt: skip
        last = rows[-1]
        print(
            f"| {name} | {last['pictures']} | {100 * last['share']:.1f} "
            f"| {100 * last['gain']:.1f} +- {100 * last['gain_error']:.1f} | {last['largest_gap']:.1e} |"
        )
    facts = {"layer": args.layer, "pictures": len(found), "top_1": float(np.mean(correct))}
    before = pathlib.Path(__file__).parent / "results/squeezenet.json"
    old = json.loads(before.read_text()) if before.exists() else {}
    if all(old.get(key) == value for key, value in facts.items()):
        rows = [row for row in old["rows"] if row["method"] not in shares] + rows
    save("squeezenet", {**facts, "uniform": float(np.mean(uniform)), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
