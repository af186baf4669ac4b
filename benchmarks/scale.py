"""How an evaluation grows with its pictures: `python -m benchmarks.scale WHAT`.

`table N`: N pictures by twelve methods and six metrics, simulated in parts as an evaluation leaves them, then tabled
and reported, each in a process of its own, whose time and memory count.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from jaxcam.evaluate import parts
from jaxcam.evaluate.run import sealed
from jaxcam.methods.registry import METHODS as KNOWN

METHODS = (
    "lift_cam grad_cam grad_cam_pp xgrad_cam score_cam ablation_cam layer_cam eigen_cam lrp_cam shap_cam random_cam "
    "uniform_cam"
).split()
METRICS = ("ic", "ad", "add", "insertion", "deletion", "pointing")
_BATCH, _CLASSES = 12, 1000


def simulate(folder: pathlib.Path, pictures: int) -> None:
    """A run of so many pictures in parts."""
    names = [f"n{i % _CLASSES:08}/ILSVRC2012_val_{i:08}.JPEG" for i in range(pictures)]
    classes = [f"class {i}" for i in range(_CLASSES)]
    folder.mkdir(parents=True)
    settings = {
        "model": {"name": "vgg16", "sha256": "0" * 64, "classes": classes, "multi_label": False, "preprocessing":
                  {"size": 224, "resize": "squash", "resize_to": 224, "mean": [0.5] * 3, "std": [0.5] * 3}},
        "layer": "conv5_3", "methods": list(METHODS), "metrics": list(METRICS), "reference": None, "limit": None,
        "seeds": [0], "targets": "label", "seed": 0, "batch_size": _BATCH, "keep": [], "baseline": "mean", "steps": 50,
        "data": {"name": "simulated", "kind": "folder", "sha256": "1" * 64, "images": pictures, "total": pictures,
                 "multi_label": False, "boxes": True},
        "versions": {}, "platform": "cpu",
    }  # fmt: skip
    manifest = {
        "format": 1, "settings": settings, "about": {"data_root": None},
        "method_info": {m: {"title": KNOWN[m].title} for m in METHODS},
        "layer_shape": [14, 14, 512], "images": {str(i): n for i, n in enumerate(names)},
        "subsets": {"0": list(range(pictures))},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    rng = np.random.default_rng(0)
    units = [range(start, min(pictures, start + _BATCH)) for start in range(0, pictures, _BATCH)]
    together = parts.ROWS // (_BATCH * len(METHODS)) + 1
    for first in range(0, len(units), together):
        some = units[first : first + together]
        parts.write(folder, [_summary(first + i, unit) for i, unit in enumerate(some)], _columns(some, names, rng))


def _summary(number: int, unit: range) -> dict:
    seconds = {"decode": 0.1, "forward": 0.2, "methods": dict.fromkeys(METHODS, 0.1), "metrics": {"ic ad add": 0.1}}
    records = len(unit) * len(METHODS)
    return {"unit": number, "images": len(unit), "broken": {}, "problems": [], "seconds": seconds, "records": records}


def _columns(units: list[range], names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    """What a part holds of some units: methods that are the worse the later, on pictures that are hard for all."""
    pictures, methods = np.concatenate([np.asarray(u) for u in units]), len(METHODS)
    hard = rng.normal(size=(len(pictures), 1)) + 0.3 * rng.normal(size=(len(pictures), methods))
    level = (1 / (1 + np.exp(hard)) - 0.02 * np.arange(methods)).astype(np.float32).astype(np.float64)
    v, own = level.ravel(), np.repeat(level[:, 0], methods)
    index = np.repeat(pictures, methods)
    rows, one = len(v), np.zeros(len(v), np.int32)
    numbers = {
        "index": index, "target": index % _CLASSES, "predicted": index % _CLASSES, "label": np.ones(rows),
        "score": own, "logit": 9 * own, "ic": (v > 0.6).astype(float), "ad": np.maximum(0, 60 * (1 - v) - 20),
        "add": 60 * v, "insertion": 0.9 * v, "deletion": 0.5 * (1 - v), "pointing": np.where(index % 4, v, np.nan),
        "completeness_gap": 1e-6 * v, "evaluations": np.full(rows, 3.0), "seconds": np.full(rows, 0.002),
        "negative": own / 2,
    }  # fmt: skip
    text = {
        "image": (np.repeat(np.arange(len(pictures)), methods), [names[i] for i in pictures]),
        "class": (index % _CLASSES, [f"class {i}" for i in range(_CLASSES)]),
        "method": (np.tile(np.arange(methods), len(pictures)), list(METHODS)),
        "boxes": (one, ["10.5 20.25 100 200"]), "empty": (one, [""]),
    }  # fmt: skip
    return numbers | {k: parts.Coded(codes.astype(np.int32), words) for k, (codes, words) in text.items()}


_TOLD = """
import resource, sys, time
from jaxcam.cli import main
begun = time.perf_counter()
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
busy, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
print("TOLD", status, time.perf_counter() - begun, busy, memory, file=sys.stderr)
"""


def command(*words: str) -> tuple[float, float, float]:
    """Seconds, seconds of a processor, and GiB of a jaxcam command in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _TOLD, *words], capture_output=True, text=True)
    told = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("TOLD")]
    if not told or told[0][0] != "0":
        raise SystemExit(done.stderr)
    seconds, processor, memory = map(float, told[0][1:])
    return seconds, processor, memory


def size(folder: pathlib.Path) -> tuple[int, float]:
    """Files, and MiB of them."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    return len(files), sum(f.stat().st_size for f in files) / 2**20


def tabled(pictures: int, folder: pathlib.Path) -> str:
    """A line of the table of simulated runs."""
    run = folder / str(pictures)
    begun = time.perf_counter()
    if not run.exists():
        simulate(run, pictures)
    made = time.perf_counter() - begun
    table = command("report", str(run), "--format", "markdown", "--out", str(folder / "table.md"))
    page = command("report", str(run))
    files, mib = size(run)
    html = (run / "report.html").stat().st_size / 2**20
    return (
        f"| {pictures:,} | {made:.0f} s | {files} | {mib:,.0f} | {table[0]:.0f} s | {table[1]:.0f} s | {table[2]:.2f} "
        f"| {page[0]:.0f} s | {page[1]:.0f} s | {page[2]:.2f} | {html:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("table",))
    parser.add_argument("pictures", type=int, nargs="+")
    parser.add_argument("--folder", type=pathlib.Path, help="where to keep what is made")
    options = parser.parse_args()
    folder = options.folder or pathlib.Path(tempfile.mkdtemp(prefix="jaxcam-scale-"))
    try:
        for pictures in options.pictures:
            print(tabled(pictures, folder), flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
        print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", file=sys.stderr)


if __name__ == "__main__":
    main()
