"""Throughput of the measures beside Quantus's: `python -m benchmarks.measures DATA [--torch-python PYTHON]`.

The same maps of the same pictures by the same network, in one run, in turn. Ours are the programs of
`jaxcam.evaluate`, compiled before; Quantus's measures are called as its users do, in their batches. Nothing is timed
unless logits agree, and the values of those measures whose definitions are one. Passes are those of the network, for
each map; of measures that remove parts of a picture, Quantus's settings are such that it does as many.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcam
from benchmarks.peer import Peer, rest
from benchmarks.timing import largest_error, machine, save
from jaxcam.converters import save_torchvision_safetensors
from jaxcam.data.evaluation import load_dataset
from jaxcam.data.loader import stream
from jaxcam.evaluate.measures import Measures
from jaxcam.explanation.engine import Engine
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.registry import request
from jaxcam.metrics import METRICS, box_coverage
from jaxcam.models.vgg import VGGConfig

#: The first's maps are those that both sides measure; those of all are measured at once by ours alone.
METHODS = tuple(
    map(request, ("grad_cam", "lift_cam", "layer_cam", "hires_cam", "xgrad_cam", "grad_cam_pp", "eigen_cam"))
)
STEPS = 32


class Pair(NamedTuple):
    """A measure of ours and of Quantus; of pytorch-grad-cam for ROAD, since Quantus 0.6's fails on colour pictures.

    Attributes:
      ours: its name in `METRICS`.
      theirs: the class.
      settings: of the class; `{pixels}` is the number of pixels in a 32nd of the picture.
      passes: of the network for each map, ours and theirs.
      masks, again: whether Quantus takes masks, or the method.
      alike: whether the definitions are one, and so the values.
      of_picture: whether our passes are of a picture, and serve the maps of all methods.
    """

    ours: str
    theirs: str
    settings: dict
    passes: tuple[int, int]
    masks: bool = False
    again: bool = False
    alike: bool = False
    of_picture: bool = False


PAIRS = (
    Pair("gini", "Sparseness", {}, (0, 0), alike=True),
    Pair("entropy", "Complexity", {}, (0, 0), alike=True),
    Pair("weighting", "RelevanceMassAccuracy", {}, (0, 0), masks=True, alike=True),
    Pair("hit", "PointingGame", {}, (0, 0), masks=True),
    Pair("aopc", "PixelFlipping", {"features_in_step": "{pixels}", "perturb_baseline": "mean"}, (STEPS + 1, STEPS)),
    Pair("road", "ROADCombined", {}, (18, 18)),
    Pair(
        "infidelity",
        "Infidelity",
        {"perturb_patch_sizes": ["{quarter}"], "n_perturb_samples": 2},
        (32, 32),
        of_picture=True,
    ),
    Pair(
        "sensitivity_n",
        "SensitivityN",
        {"features_in_step": "{pixels}", "n_max_percentage": 1.0},
        (32, STEPS),
        of_picture=True,
    ),
    Pair("max_sensitivity", "MaxSensitivity", {"nr_samples": 10}, (10, 10), again=True),
)


def filled(settings: dict, size: int) -> dict:
    """Settings for pictures of a size."""
    known = {"{pixels}": size * size // STEPS, "{quarter}": size // 4}
    return {
        k: [known.get(x, x) if isinstance(x, str) else x for x in v] if isinstance(v, list)
        else known.get(v, v) if isinstance(v, str) else v
        for k, v in settings.items()
    }  # fmt: skip


class Ours:
    """Pictures, maps and programs of our side."""

    def __init__(self, network: Any, data: Any, batch: int):
        self.network, self.batch = network, batch
        loaded = list(stream(data.items, network.preprocessing))
        self.x = np.asarray(network.preprocessing.normalize(np.stack([x.pixels for x in loaded])))
        self.classes = [x.item.labels[0] for x in loaded]
        self.boxes = [x.boxes.get(c, np.zeros((0, 4), np.float32)) for x, c in zip(loaded, self.classes, strict=True)]
        size = network.preprocessing.shape[:2]
        cover = jax.jit(box_coverage, static_argnums=2)
        padded = [np.concatenate([b, np.zeros((8, 4), np.float32)])[:8] for b in self.boxes]
        self.masks = [np.asarray(cover(b, np.arange(8) < 8, size)).round() for b in padded]
        self.engine = Engine(network, None, batch, batch)
        self.parts = []
        for start in range(0, len(self.x), batch):
            some = slice(start, start + batch)
            forward = self.engine.forward(self.x[some], [f"{start + i}" for i in range(len(self.x[some]))])
            pairs = [(i, c) for i, c in enumerate(self.classes[some])]
            self.parts.append((some, forward, pairs, [self.engine.maps(m, forward, pairs, None) for m in METHODS]))
        large = jax.jit(jax.vmap(lambda m: scale_map(resize_map(m, size))))
        self.heatmaps = np.asarray(large(np.concatenate([p[3][0].maps for p in self.parts])))

    def run(self, name: str, methods: int = 1) -> tuple[tuple[float, float], np.ndarray]:
        """Seconds by the clock and of the processor for the maps of so many methods, compilation aside.

        And the values of the first one's.
        """
        measures = Measures(
            self.network, self.engine.params, [name], batch_size=self.batch, baseline="mean", steps=STEPS
        )
        for _ in range(2):
            found, begun, worked = [], time.perf_counter(), time.process_time()
            for some, forward, pairs, maps in self.parts:
                shared = measures.shared(forward, pairs, self.boxes[some], self.masks[some])

                values = []
                for method, made in zip(METHODS[:methods], maps, strict=False):

                    def again(piece, images, name, others, sources=forward.sources, pairs=pairs, method=method):
                        changed = self.engine.forward(np.asarray(images)[: len(pairs)], sources)
                        return self.engine.maps(method, changed, pairs, None).maps

                    values.append(measures.of_maps(made, shared, None, {}, lambda: None, again)[0][name])
                found.append(values[0])
            seconds = time.perf_counter() - begun, time.process_time() - worked
        return seconds, np.concatenate(found)


def main(argv=None) -> int:
    """Prints a Markdown table and writes `benchmarks/results/measures-<platform>.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="pictures with boxes")
    parser.add_argument("--model", default="vgg16_slim", help="a VGG")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-python", help="an interpreter with torch, torchvision, grad-cam, torchcam and quantus")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    print(machine())
    network = jaxcam.load(args.model)
    if not isinstance(network.config, VGGConfig):
        parser.error("the peer's side builds VGGs alone")
    data = load_dataset(args.data).for_classes(network.classes).subset(args.limit, 0)
    ours, size = Ours(network, data, args.batch), network.preprocessing.size
    record: dict = {"model": args.model, "pictures": len(data), "size": size, "load": load, "rounds": []}
    peer = None
    if args.torch_python:
        folder = tempfile.TemporaryDirectory()
        save_torchvision_safetensors(f"{folder.name}/network.safetensors", network)
        np.savez(
            pathlib.Path(folder.name, "data.npz"), x=ours.x.transpose(0, 3, 1, 2).copy(), classes=ours.classes,
            maps=ours.heatmaps, masks=np.stack(ours.masks),
        )  # fmt: skip
        peer = Peer(args.torch_python, "measures_torch.py", folder, len(os.sched_getaffinity(0)))
        record["peer"] = peer.greeting
        logits = np.concatenate([p[1].logits for p in ours.parts])
        record["logits"] = largest_error(jnp.asarray(peer.ask("logits")), jnp.asarray(logits))
        worst = {}
        for pair in (p for p in PAIRS if p.alike):
            theirs = peer.ask("run", pair.theirs, filled(pair.settings, size), pair.masks, pair.again)["values"]
            worst[pair.ours] = float(np.abs(np.asarray(theirs) - ours.run(pair.ours)[1]).max())
        record["values"] = worst
        print(f"gates: logits {record['logits']:.1e} relative, values {worst}")
        if not (record["logits"] < 1e-4 and max(worst.values()) < 1e-3):
            print("the sides disagree; nothing is timed", file=sys.stderr)
            return 1
    for _ in range(args.rounds):
        found: dict[str, list[tuple[float, float]]] = {}
        for pair in PAIRS:
            rest()
            found[pair.ours] = [ours.run(pair.ours)[0]]
            rest()
            if peer:
                asked = ("run", pair.theirs, filled(pair.settings, size), pair.masks, pair.again)
                answer = peer.ask(*asked)
                found[pair.ours].append((answer["seconds"], answer["processor"]))
            if pair.of_picture:
                rest()
                all_of_them = tuple(s / len(METHODS) for s in ours.run(pair.ours, len(METHODS))[0])
                found[f"{pair.ours} of all"] = [all_of_them, *found[pair.ours][1:]]
        record["rounds"].append(found)
        print(found, flush=True)
    if peer:
        peer.close()
    text = report(record)
    print(text)
    path = save(f"measures-{jax.default_backend()}", record)
    path.with_suffix(".md").write_text(f"# Throughput of the measures\n\n{text}\n")
    return 0


def report(record: dict) -> str:
    """The table."""
    n = record["pictures"]
    lines = [
        f"{record['model']}, {n} Grad-CAM maps of {record['size']} x {record['size']} pixels; {machine()}. Load of the "
        f"machine before: {record['load']:.1f}. {record.get('peer', '')}", "",
        "| measure | of Quantus, ROAD of pytorch-grad-cam | passes, ours and theirs | ours, ms a map | theirs "
        "| ours is | of the processor: ours | theirs | ours is |", "|---" * 9 + "|",
    ]  # fmt: skip
    several = f", maps of {len(METHODS)} methods"
    shown = [(p, p.ours, "") for p in PAIRS] + [(p, f"{p.ours} of all", several) for p in PAIRS if p.of_picture]
    for pair, key, of in shown:
        rounds = [r[key] for r in record["rounds"]]
        cells = [METRICS[pair.ours].title + of, pair.theirs, "" if of else f"{pair.passes[0]}, {pair.passes[1]}"]
        for kind in (0, 1):
            sides = [statistics.median(r[i][kind] for r in rounds) for i in range(len(rounds[0]))]
            cells += [f"{1e3 * s / n:.2f}" for s in sides] + [""] * (2 - len(sides))
            ratio = statistics.median(r[-1][kind] / r[0][kind] for r in rounds)
            cells.append(f"{ratio:.1f} times" if len(sides) > 1 else "")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "", f"The passes of infidelity and sensitivity-n are of a picture and serve the maps of all methods: the last "
        f"lines are of {len(METHODS)} methods' maps, a map. Where both sides make as many passes of the network, these "
        "are most of the time.",
    ]  # fmt: skip
    if record["load"] > 0.5:
        lines += ["", "Other work ran meanwhile: the seconds of the processor say more than the clock's."]
    if "values" in record:
        told = ", ".join(f"{k} {v:.0e}" for k, v in record["values"].items())
        lines += ["", f"Logits agree to {record['logits']:.0e}; where the definitions are one, values to {told}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
