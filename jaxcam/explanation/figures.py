"""Pictures of results: the photo with its maps, and the learning curve of a training run."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from jaxcam.explanation.explain import Attribution, Explanation
from jaxcam.files import whole_file
from jaxcam.methods.registry import request, told_together

COLOURS = "turbo"
_CELL = 2.6  # inches, the longer side of one picture
_DPI = 150
_MOST_ROWS = 20


def overlay(result: Attribution, image: Image.Image) -> np.ndarray:
    """The greyed picture with the map over it, `(h, w, 3)` floats in [0, 1], at the size of `image`."""
    heat = result.heatmap_at((image.height, image.width))[..., None]
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    # Faint where the map is low, so that the picture stays readable; full colour where it is high.
    strength = 0.35 + 0.3 * heat
    return (1 - strength) * grey + strength * colormaps[COLOURS](heat[..., 0])[..., :3].astype(np.float32)


def plot(explanation: Explanation, file: str | os.PathLike | None = None) -> Figure:
    """The photo and one overlay per class and method: a row per class, a column per method.

    Args:
      explanation: from `explain`. Of more than 20 classes the first 20 are drawn.
      file: where to write it, as PNG; the file appears whole or not at all.

    Returns:
      The figure, which belongs to no window and no global state.
    """
    targets = list(dict.fromkeys((r.target, r.class_name) for r in explanation.results))
    methods = list(dict.fromkeys(r.method for r in explanation.results))
    results = {((r.target, r.class_name), r.method): r for r in explanation.results}
    picture = explanation.image.copy()
    picture.thumbnail((round(_CELL * _DPI * 1.25),) * 2)
    aspect = max(0.3, picture.height / picture.width)  # narrower than that, a title has no room
    width, height = (_CELL, _CELL * aspect) if aspect < 1 else (max(_CELL / aspect, 0.6 * _CELL), _CELL)
    rows, columns = min(len(targets), _MOST_ROWS), 1 + len(methods)
    title = 0.5  # inches above each picture
    margin, bar = 0.2, 0.85
    wide = columns * (width + margin) + margin + bar
    foot = _footnotes(explanation, round(16 * (wide - 2 * margin)))
    below = 0.14 * len(foot)
    size = (wide, rows * (height + title) + 2 * margin + below)
    figure = Figure(figsize=size, dpi=_DPI)
    if foot:
        figure.text(margin / size[0], margin / 2 / size[1], "\n".join(foot), fontsize=7, parse_math=False)
    FigureCanvasAgg(figure)
    letters = max(10, int(width * 11))

    def cell(row: int, column: int, pixels: Any, text: str) -> None:
        x = margin + column * (width + margin)
        y = size[1] - margin - (row + 1) * (height + title)
        axes = figure.add_axes((x / size[0], y / size[1], width / size[0], height / size[1]))
        axes.imshow(pixels)
        axes.set_axis_off()
        axes.set_title(text, fontsize=10, parse_math=False, pad=4)

    for row, target in enumerate(targets[:rows]):
        first = results[target, methods[0]]
        name = textwrap.shorten(first.class_name, 2 * letters - 10, placeholder="...")
        value = f"{first.logit:.4g}" if first.target is None else _percent(first.probability)
        cell(row, 0, picture, "\n".join(textwrap.wrap(f"{name}, {value}", letters)))
        for column, method in enumerate(methods, 1):
            result = results[target, method]
            text = request(method).info.title
            options = method.partition(":")[2]
            text += "\n" + textwrap.shorten(options.replace(",", ", "), letters, placeholder="...") if options else ""
            if result.empty:
                text += "\nempty: " + textwrap.shorten(result.empty.split(":")[0], letters - 7, placeholder="...")
            cell(row, column, overlay(result, picture), text)
    left = margin + columns * (width + margin)
    top = size[1] - margin - title
    axes = figure.add_axes((left / size[0], (top - height) / size[1], 0.12 / size[0], height / size[1]))
    figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), cax=axes, label="share of the map's maximum")
    axes.tick_params(labelsize=8)
    _save(figure, file)
    return figure


def _footnotes(explanation: Explanation, letters: int) -> list[str]:
    """What speaks against maps of the figure, in lines of so many letters."""
    said = told_together((request(r.method).info.title, r.doubt) for r in explanation.results)
    return [line for sentence in said for line in textwrap.wrap(sentence, letters)]


def learning_curve(rows: Sequence[dict[str, Any]], metric: str, file: str | os.PathLike | None = None) -> Figure:
    """Loss and accuracy over the epochs of a training run.

    Args:
      rows: one dict per epoch, as `Trainer.run` returns them.
      metric: what the accuracy is: "top-1 accuracy" or "mean average precision".
      file: where to write it, as PNG.
    """
    figure = Figure(figsize=(10, 4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("loss", metric), strict=True):
        for prefix, label in (("", "training (augmented)"), ("val_", "validation")):
            points = [(r["epoch"] + 1, r[prefix + key]) for r in rows if prefix + key in r]
            # Of multi-label data the training steps know the share of right labels only: another figure.
            comparable = key == "loss" or prefix or metric.startswith("top-1")
            if points and comparable:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        for before, after in zip(rows, rows[1:], strict=False):
            if before["size"] != after["size"]:
                axes.axvline(after["epoch"] + 0.5, color="grey", linestyle=":", linewidth=1)
                axes.annotate(
                    f"{after['size']} px", (after["epoch"] + 0.55, 1), xycoords=("data", "axes fraction"),
                    fontsize=8, color="grey", va="top",
                )  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, file)
    return figure


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %" if probability >= 0.001 else "< 0.1 %"


def _save(figure: Figure, file: str | os.PathLike | None) -> None:
    if file is not None:
        with whole_file(file) as f:
            figure.savefig(f, format="png")
