"""Pictures of results: the photo with its maps, and the learning curve of a training run."""

from __future__ import annotations

import io
import math
import os
import pathlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from jaxcam.errors import JaxcamError, check_known, visible
from jaxcam.explanation.overlays import ALPHA, colour_map, heatmap_picture, overlay
from jaxcam.files import whole_file
from jaxcam.methods.registry import request, told_together

if TYPE_CHECKING:
    from PIL import Image

    from jaxcam.explanation.result import Attribution, Explanation

#: What a file's ending may be.
FORMATS = ("png", "jpg", "jpeg", "webp", "svg", "pdf")
#: What a map's greatest colour stands for: its own greatest value, or that of all maps of its method in the picture.
SCALES = ("each", "shared")
#: Pictures in a row.
COLUMNS = 4
_CELL = 2.6  # inches, the longer side of one picture
_DPI = 150
_MOST_ROWS = 20
_BARS = {
    ("each", False): "each map: from its least to its greatest value",
    ("shared", False): "share of the greatest value of the method",
    ("each", True): "each map: share of its greatest |value|; blue speaks against the class",
    ("shared", True): "share of the greatest |value| of the method; blue speaks against the class",
}


class Drawing(Figure):
    """A figure that belongs to no window and no global state, and that a notebook shows as it is."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plot(
    explanation: Explanation,
    file: str | os.PathLike | None = None,
    *,
    ax: Axes | None = None,
    cmap: str | Colormap | None = None,
    alpha: float = ALPHA,
    scale: str = "each",
    signed: bool = False,
    box: float | None = None,
) -> Any:
    """The photo and one overlay per class and method: a group of rows per class, four pictures to a row.

    Args:
      explanation: from `explain`. Twenty rows are drawn at most; what is left out is said below them.
      file: where to write it; the ending says how: png, jpg, webp, svg or pdf. The file appears whole or not at all.
      ax: axes of matplotlib to draw into, for an explanation of one class by one method; nothing else is drawn.
      cmap: a colour map of matplotlib; `inferno` unless given, `RdBu_r` for signed maps.
      alpha: opacity of a map where it is greatest, as in `jaxcam.overlay`.
      scale: "each" map has its own colours; or "shared" by the maps of a method, which can then be compared.
      signed: also what speaks against the class: the maps before their ReLU.
      box: a share of the maximum: the box around the largest part of a map above it is drawn (`Attribution.box`).

    Returns:
      The axes, where they were given; else the figure, which belongs to no window, and which a notebook shows.

    Raises:
      JaxcamError: an unknown ending, colour map or scale; more than one map for one pair of axes.
    """
    check_known("scale", scale, SCALES)
    style = _Style(explanation, colour_map(cmap, signed), alpha, scale, signed, box)
    if ax is not None:
        if len(explanation.results) != 1 or file is not None:
            raise JaxcamError("axes take one map, and write no file: explain one class by one method, or leave ax away")
        [result] = explanation.results
        style.show(ax, result, explanation.image)
        ax.set_title(f"{request(result.method).info.title}: {visible(result.class_name)}, {result.value}", fontsize=10,
                     parse_math=False)  # fmt: skip
        return ax
    form = None if file is None else format_of(file)
    figure = _page(explanation, style)
    if file is not None:
        with whole_file(file) as f:
            # A tenth larger than at the usual level, in a third of its time, which is most of a figure's.
            quickly: Any = {"pil_kwargs": {"compress_level": 3}} if form == "png" else {}
            figure.savefig(f, format=form, **quickly)
    return figure


def pictures(
    explanation: Explanation, *, photo: bool = True, cmap: str | Colormap | None = None, alpha: float = ALPHA,
    scale: str = "each", signed: bool = False, box: float | None = None,
) -> Iterator[Image.Image]:  # fmt: skip
    """A picture for each result, at the photo's own size and without margins; arguments as those of `plot`.

    Args:
      photo: under the map; else the map's colours alone.
    """
    style = _Style(explanation, colour_map(cmap, signed), alpha, scale, signed, box)
    for result in explanation.results:
        heat = style.heat(result, result.size)
        around = None if box is None else result.box(box)
        if photo:
            yield overlay(explanation.image, heat, cmap=style.table, alpha=alpha, signed=signed, box=around)
        else:
            heat = np.zeros(result.size) if heat is None else heat
            yield heatmap_picture(heat, cmap=style.table, signed=signed, box=around)


def format_of(file: str | os.PathLike) -> str:
    """The format that the ending of a file's name stands for.

    Raises:
      JaxcamError: it is none of `FORMATS`.
    """
    ending = pathlib.Path(file).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise JaxcamError(f"{file}: a figure's name ends in .{', .'.join(FORMATS)}")
    return ending


class _Style:
    """How the maps of an explanation are drawn."""

    def __init__(
        self, explanation: Explanation, table: Colormap, alpha: float, scale: str, signed: bool, box: float | None
    ):
        self.table, self.alpha, self.scale, self.signed, self.box = table, alpha, scale, signed, box
        self.most = shared_scale(explanation, signed) if scale == "shared" else {}

    def heat(self, result: Attribution, size: tuple[int, int]) -> np.ndarray | None:
        """The heat map of a result at a size `(H, W)`; None of one that shows nothing."""
        if (result.empty and not self.signed) or not np.isfinite(result.map).all():
            return None
        return result.heatmap_at(size, signed=self.signed, most=self.most.get(result.method))

    def show(self, axes: Axes, result: Attribution, picture: Image.Image) -> None:
        """Draws a map over the picture; of an empty one the reason."""
        size = (picture.height, picture.width)
        heat = self.heat(result, size)
        shown = overlay(picture, heat, cmap=self.table, alpha=self.alpha, signed=self.signed)
        axes.imshow(np.asarray(shown))
        axes.set_axis_off()
        if heat is None:
            text = "\n".join(textwrap.wrap(f"empty: {visible(result.empty or 'not finite')}", 34))
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=7.5,
                      parse_math=False, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85})  # fmt: skip
        elif self.box is not None and (found := result.box(self.box)):
            wide, high = picture.width / result.size[1], picture.height / result.size[0]
            x0, y0, x1, y1 = (v * by for v, by in zip(found, (wide, high) * 2, strict=True))
            for width, colour in ((3.0, "black"), (1.5, "#00ffaa")):
                axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=colour, linewidth=width)


def shared_scale(explanation: Explanation, signed: bool) -> dict[str, float]:
    """The greatest (absolute) value of the maps of each method, for `Attribution.heatmap_at`."""
    most: dict[str, float] = {}
    for r in explanation.results:
        values = r.signed_map if signed and r.signed_map is not None else r.map
        if np.isfinite(values).all():
            most[r.method] = max(most.get(r.method, 0.0), float(np.abs(values).max()))
    return {method: value or 1.0 for method, value in most.items()}


def _page(explanation: Explanation, style: _Style) -> Drawing:
    """The figure of all results."""
    groups: dict[tuple, list[Attribution]] = {}
    for result in explanation.results:
        groups.setdefault((result.target, result.class_name), []).append(result)
    picture = explanation.image.copy()
    picture.thumbnail((round(_CELL * _DPI * 1.25),) * 2)
    aspect = max(0.3, picture.height / picture.width)  # narrower than that, a title has no room
    width, height = (_CELL, _CELL * aspect) if aspect < 1 else (max(_CELL / aspect, 0.6 * _CELL), _CELL)
    cells = 1 + max(map(len, groups.values()))
    columns = min(COLUMNS, cells)
    rows = math.ceil(cells / columns)
    drawn = list(groups.values())[: max(1, _MOST_ROWS // rows)]
    letters = max(10, int(width * 11))
    titles = [[_title(results[0], letters), *(_name(r, letters) for r in results)] for results in drawn]
    lines = max(text.count("\n") + 1 for group in titles for text in group)
    title, head, margin, bar = 0.12 + 0.17 * lines, 0.2, 0.2, 1.0  # inches: over a picture, over all, around, right
    wide = columns * (width + margin) + margin + bar
    foot = _footnotes(explanation, round(16 * (wide - 2 * margin)), len(groups) - len(drawn))
    size = (wide, rows * len(drawn) * (height + title) + head + 2 * margin + 0.14 * len(foot))
    figure = Drawing(figsize=size, dpi=_DPI)
    FigureCanvasAgg(figure)
    where = " · ".join((os.path.basename(explanation.source), explanation.model, f"maps at {explanation.layer}"))
    where = textwrap.shorten(visible(where), round(13 * (wide - 2 * margin)), placeholder=" ...")
    figure.text(margin / size[0], 1 - margin / size[1], where, fontsize=8.5, color="0.35", parse_math=False, va="top")
    if foot:
        figure.text(margin / size[0], margin / 2 / size[1], "\n".join(foot), fontsize=7, parse_math=False)

    def cell(row: int, column: int, text: str) -> Axes:
        x = margin + column * (width + margin)
        y = size[1] - margin - head - (row + 1) * (height + title)
        axes = figure.add_axes((x / size[0], y / size[1], width / size[0], height / size[1]))
        axes.set_axis_off()
        axes.set_title(text, fontsize=10, parse_math=False, pad=4, y=1.0)  # without y, ticks are made to find its place
        return axes

    for group, results in enumerate(drawn):
        axes = cell(group * rows, 0, titles[group][0])
        axes.imshow(np.asarray(picture))
        axes.set_axis_off()
        for place, result in enumerate(results, 1):
            axes = cell(group * rows + place // columns, place % columns, titles[group][place])
            style.show(axes, result, picture)
    left = margin + columns * (width + margin)
    top = size[1] - margin - head - title
    axes = figure.add_axes((left / size[0], (top - height) / size[1], 0.12 / size[0], height / size[1]))
    label = "\n".join(textwrap.wrap(_BARS[style.scale, style.signed], max(24, round(height * 13))))
    figure.colorbar(ScalarMappable(Normalize(-1 if style.signed else 0, 1), style.table), cax=axes)
    axes.set_ylabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    return figure


def _title(result: Attribution, letters: int) -> str:
    """The class and its probability, in lines of so many letters."""
    name = textwrap.shorten(visible(result.class_name), 2 * letters - 10, placeholder="...")
    return "\n".join(textwrap.wrap(f"{name}, {result.value}", letters))


def _name(result: Attribution, letters: int) -> str:
    """The method, and on a second line its options."""
    text, options = request(result.method).info.title, result.method.partition(":")[2]
    return text + ("\n" + textwrap.shorten(options.replace(",", ", "), letters, placeholder="...") if options else "")


def _footnotes(explanation: Explanation, letters: int, left_out: int) -> list[str]:
    """What speaks against maps of the figure, and what is not in it, in lines of so many letters."""
    said = list(told_together((request(r.method).info.title, r.doubt) for r in explanation.results))
    if left_out:
        said.append(f"{left_out} further classes are in the arrays, and not drawn.")
    return [line for sentence in said for line in textwrap.wrap(visible(sentence), letters)]


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
    if file is not None:
        with whole_file(file) as f:
            figure.savefig(f, format="png")
    return figure
