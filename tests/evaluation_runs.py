"""A run folder made up in the store's own format: known effects, names that attack the page, and nothing to compute."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from PIL import Image

from jaxcam.evaluate.store import arrays_file, encode, records_file
from jaxcam.methods.registry import METHODS
from jaxcam.metrics import METRICS

EVIL = "<script>alert(1)<script> & \"x\" 'y' $_%.png"
CLASSES = ("golf ball", "<img src=x onerror=alert(2)>", "tench")
#: Of every kind of value: shares, percent, curves, undefined ones, a reference's, absolute ones.
MEASURED = ("ic", "ad", "add", "insertion", "deletion", "pointing", "cosine", "gap")
_BATCH = 8


def make_run(
    folder: pathlib.Path, *, methods=("lift_cam", "grad_cam", "grad_cam_pp", "xgrad_cam"), metrics=MEASURED,
    images=24, seeds=(0, 1, 2), keep=("coefficients", "maps", "curves"), network="vgg16_slim", kind="voc", units=None,
    pictures=True, step=0.35, spread=0.2,
) -> pathlib.Path:  # fmt: skip
    """Writes a run; every third picture has two classes and every fourth no boxes; the last picture is broken.

    Method m is worse than the one before it by a fixed step, plus noise that it shares with the others.
    """
    data, out = folder / "data", folder / "run"
    data.mkdir(parents=True)
    out.mkdir()
    rng = np.random.default_rng(0)
    names = [EVIL, *(f"{i:03}.png" for i in range(1, images - 1)), "broken " + EVIL]
    half = {str(s): sorted(rng.permutation(images)[: max(2, images // 2)].tolist()) for s in seeds}
    limited = len(seeds) > 1
    manifest = {
        "format": 1,
        "settings": {
            "model": {
                "name": network, "sha256": "0" * 64, "classes": list(CLASSES), "multi_label": True,
                "preprocessing": {"size": 64, "resize": "squash", "resize_to": 64, "mean": [0.5] * 3, "std": [0.5] * 3},
            },
            "layer": "conv5_3", "methods": list(methods), "metrics": list(metrics),
            "reference": "shap_cam:num_permutations=1000" if any(METRICS[k].needs_reference for k in metrics) else None,
            "limit": images // 2 if limited else None, "seeds": list(seeds), "targets": "label", "seed": 0,
            "batch_size": _BATCH, "keep": list(keep), "baseline": "mean", "steps": 20,
            "data": {"name": "shapes", "kind": kind, "sha256": "1" * 64, "images": images, "total": 100,
                     "multi_label": True, "boxes": True},
            "versions": {"jaxcam": "0.1.0", "jax": "0"}, "platform": "cpu",
        },
        "about": {"python": "3", "numpy": "2", "device": "cpu", "created": "2026-01-01T00:00:00+00:00",
                  "command": "jaxcam evaluate <data>", "provenance": {"licence": "none"}, "data_root": str(data)},
        "method_info": {
            m: {"title": METHODS[n].title if (n := m.partition(":")[0]) in METHODS else n, "cost": "1 forward",
                "promise": "none", "paper": "someone"} for m in methods
        },
        "layer_shape": [4, 4, 6],
        "images": {str(i): n for i, n in enumerate(names)},
        "subsets": half if limited else {str(seeds[0]): list(range(images))},
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(manifest))
    with open(records_file(out), "wb") as f:
        for unit, start in enumerate(range(0, images, _BATCH)):
            if units is not None and unit >= units:
                break
            records, arrays, broken = (
                [],
                {"coefficients": [], "maps": [], "insertion_curve": [], "deletion_curve": []},
                {},
            )
            for i in range(start, min(images, start + _BATCH)):
                if i == images - 1:
                    broken[names[i]] = f"{names[i]}: is cut off"
                    continue
                if pictures:
                    _picture(i).save(data / names[i])
                for target in range(1 + (i % 3 == 0)):
                    _pair(rng, i, names[i], (i + target) % 3, methods, metrics, records, arrays, step, spread)
            summary = {"unit": unit, "images": list(range(start, min(images, start + _BATCH))), "broken": broken,
                       "seconds": {"total": 1.5, "methods": {}, "metrics": {}}}  # fmt: skip
            f.write(encode(summary, records))
            kept = {
                k: np.stack(v).astype(np.float32)
                for k, v in arrays.items()
                if k in keep or (k.endswith("curve") and "curves" in keep)
            }
            if kept:
                arrays_file(out, unit).parent.mkdir(exist_ok=True)
                np.savez(arrays_file(out, unit), **kept)
    return out


def _pair(rng, index, name, target, methods, metrics, records, arrays, step, spread):
    hard = rng.normal()
    base = rng.normal(size=6)
    for m, method in enumerate(methods):
        noise = spread * rng.normal()
        level = float(1 / (1 + np.exp(-(0.8 + 0.5 * hard - step * m + noise))))  # in (0, 1), higher is better
        values = {
            "ic": float(level > 0.6), "ad": 60 * (1 - level), "add": 60 * level, "insertion": 0.9 * level,
            "deletion": 0.5 * (1 - level), "pointing": float("nan") if index % 4 == 0 else level,
            "cosine": 1 - 0.2 * m, "gap": 1e-7 * noise if m == 0 else noise,
        }  # fmt: skip
        empty = "no evidence for the class: ..." if m == len(methods) - 1 and index % 5 == 1 else ""
        records.append({
            "index": index, "image": name, "target": target, "class": CLASSES[target], "label": 1.0, "predicted": 0,
            "boxes": "" if index % 4 == 0 else "8 8 40 56;30 4 60.5 20",
            "method": method, "score": 0.7, "logit": 3.0, **{k: values[k] for k in metrics},
            "completeness_gap": values["gap"], "evaluations": 3.0 if m % 2 == 0 else float("nan"),
            "seconds": 0.002 * 3**m, "empty": empty,
        })  # fmt: skip
        rows, columns = np.mgrid[:4, :4]
        bump = np.exp(-((rows - 1.5 + 0.4 * m) ** 2 + (columns - 1.5) ** 2) / 1.5)
        arrays["maps"].append(np.zeros((4, 4)) if empty else bump)
        arrays["coefficients"].append(base + 0.4 * m * rng.normal(size=6))
        t = np.linspace(0, 1, 21)
        arrays["insertion_curve"].append(level * t ** (0.4 + 0.1 * m))
        arrays["deletion_curve"].append(level * (1 - t) ** (3 / (1 + 0.2 * m)))


def _picture(i: int) -> Image.Image:
    rows, columns = np.mgrid[:48, :72]
    disc = (rows - 24) ** 2 + (columns - 36) ** 2 < 15**2
    pixels = np.stack([60 + 2 * rows, 90 + columns, np.full_like(rows, (40 * i) % 255)], -1)
    pixels[disc] = (240, 200, 60)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
