"""Pictures with the maps of all methods, as the paper's figure 1, and the best and worst cases by each metric."""

from __future__ import annotations

import contextlib
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from jaxcam.data.evaluation import SOURCES, load_dataset, recognised
from jaxcam.data.images import open_image
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.data.samples import Item
from jaxcam.errors import JaxcamError
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import Cube
from jaxcam.explanation.overlays import overlay
from jaxcam.methods.maps import place_map
from jaxcam.metrics.registry import METRICS, Metric
from jaxcam.notebooks import data_uri

SIDE = 288  # pixels of a picture, which the page shows smaller until it is asked
_QUALITY = 82
_DRAWN = 20_000  # pairs


class Case(NamedTuple):
    """A picture and a class of it: row of the cube, and the pictures as data URIs.

    Attributes:
      pair: row of the cube.
      photo: what the network saw.
      overlays: one per method.
    """

    pair: int
    photo: str
    overlays: list[str]


class Gallery:
    """Draws cases of a run, each once.

    Args:
      run: with maps, or the gallery says why it cannot be drawn.
      cube: of the run.
      data: the folder of the pictures; as the manifest says unless given.

    Attributes:
      missing: why no case can be drawn; None where some can.
      failed: pictures that are gone or broken, and why.
      boxed: whether the boxes of the class are drawn: where the run measured against them.
    """

    def __init__(self, run: Run, cube: Cube, data: pathlib.Path | None = None):
        self.run, self.cube = run, cube
        about = run.manifest.get("about", {})
        root = data or about.get("data_root")
        self.root = pathlib.Path(root) if root else None
        self._elsewhere = _elsewhere(str(root), about.get("data_split")) if root else {}
        self.preprocessing = _preprocessing(run.manifest["settings"]["model"]["preprocessing"])
        self.failed: dict[str, str] = {}
        self.boxed = any(METRICS[k].needs_boxes for k in run.metrics)
        self._drawn: dict[int, Case | None] = {}
        self.missing: str | None = None
        if self.preprocessing is None:
            self.missing = "the part of a picture that the network saw is known to its own preprocessing alone"
        elif self.root is None:
            self.missing = "the run does not say where its pictures are; name their folder with --data"
        elif not self._elsewhere and not self.root.is_dir():
            self.missing = f"there is no folder {self.root}; name the folder of the pictures with --data"
        elif run.arrays("maps", rows=cube.rows[0][cube.rows[0] >= 0][:1]) is None:
            self.missing = "the maps were not kept (jaxcam evaluate keeps them unless --keep says otherwise)"

    def cases(self, pairs: np.ndarray, count: int) -> list[Case]:
        """The first `count` of these that can be drawn."""
        found: list[Case] = []
        for pair in pairs.tolist():
            if self.missing or len(found) == count or len(self.failed) > 20:
                break
            if pair not in self._drawn:
                self._drawn[pair] = self._draw(pair)
            if case := self._drawn[pair]:
                found.append(case)
        return found

    def _draw(self, pair: int) -> Case | None:
        """None where the picture cannot be read, or a method has no map of it."""
        rows = self.cube.rows[pair]
        if (rows < 0).any():
            return None
        name = str(self.run.value("image", rows[0]))
        assert self.root is not None and self.preprocessing is not None
        try:
            item = self._elsewhere.get(name)
            seen = self.preprocessing.pixels(item.open() if item else open_image(self.root / name))
        except JaxcamError as e:
            self.failed[name] = str(e)
            return None
        picture = Image.fromarray(seen).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        maps = self.run.arrays("maps", rows=rows)
        assert maps is not None
        boxes = self._boxes(int(rows[0]), seen.shape)
        drawn = (boxed(p, boxes) for p in (picture, *(under(picture, m) for m in maps)))
        photo, *overlays = (data_uri(p, "jpeg", quality=_QUALITY, optimize=True) for p in drawn)
        return Case(pair, photo, overlays)

    def _boxes(self, row: int, shape: tuple[int, ...]) -> np.ndarray:
        """`(n, 4)` of the class in a thumbnail; none where they are not drawn."""
        if not self.boxed:
            return np.zeros((0, 4))
        boxes = [box.split() for box in str(self.run.value("boxes", row)).split(";") if box]
        return np.asarray(boxes, np.float64).reshape(-1, 4) * SIDE / np.asarray([shape[1], shape[0]] * 2)


def _elsewhere(place: str, split: str | None) -> dict[str, Item]:
    """The pictures, by name, of a place that is no folder of them; none where it is one, or cannot be read."""
    with contextlib.suppress(JaxcamError):
        if not SOURCES[kind := recognised(place)].local:
            return {item.name: item for item in load_dataset(place, kind=kind, split=split).items}
    return {}


def _preprocessing(fields: dict) -> Preprocessing | None:
    """What shows of a picture what the network saw; None where only a function of the user's knows."""
    if "function" in fields:
        side = max(fields["shape"][:2])  # the thumbnail is a square anyway
        return Preprocessing(size=side, resize="squash") if fields["whole_picture"] else None
    shown = {k: v for k, v in fields.items() if k not in ("mean", "std", "channels")}  # in colour, whatever it saw
    return Preprocessing(**shown)


def under(picture: Image.Image, map: np.ndarray) -> Image.Image:
    """The picture under a map `(h, w)` that covers it all; an empty map leaves it grey."""
    heat = place_map(map, (0, 0, picture.width, picture.height), (picture.height, picture.width))
    return overlay(picture, heat if heat.any() else None)


def boxed(picture: Image.Image, boxes: np.ndarray) -> Image.Image:
    """The picture with the outlines of boxes, seen on light and on dark."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    for box in boxes.tolist():
        draw.rectangle(box, outline="black", width=5)
        draw.rectangle([v + d for v, d in zip(box, (1, 1, -1, -1), strict=True)], outline="white", width=3)
    return picture


def sample(cube: Cube) -> np.ndarray:
    """Pairs in a random order that takes every class once before any class twice, one pair per picture first.

    Of a large run so many that every one of a thousand classes is among them.
    """
    order = np.random.default_rng(0).permutation(len(cube.pairs))[:_DRAWN]
    turns: dict[int, int] = {}
    pictures: dict[int, int] = {}
    keys = []
    for i in order.tolist():
        picture, target = cube.pairs[i].tolist()
        keys.append((pictures.get(picture, 0), turns.get(target, 0)))
        pictures[picture] = pictures.get(picture, 0) + 1
        turns[target] = turns.get(target, 0) + 1
    return order[sorted(range(len(keys)), key=keys.__getitem__)] if keys else order


def ranked(values: np.ndarray, metric: Metric) -> np.ndarray:
    """Pairs from best to worst by the values `(P,)` of a metric; ties in the order of the data, undefined left out.

    A metric that takes two values only (IC) has no best case and gives an empty array; so does one whose ideal is 0
    (the completeness gap), which is no matter of more or less.
    """
    defined = np.flatnonzero(np.isfinite(values))
    if metric.absolute or len(np.unique(values[defined])) <= 2:
        return defined[:0]
    return defined[np.argsort(-metric.sign * values[defined], kind="stable")]
