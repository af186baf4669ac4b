"""Labelled data sets on disk: an ImageNet-style folder and a PASCAL VOC devkit."""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib

import numpy as np

from jaxcam.data.annotations import read_xml
from jaxcam.errors import JaxcamError
from jaxcam.files import read_text

#: Files that are taken for pictures.
SUFFIXES = set(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .jp2 .avif .heic .heif".split())


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Paths with labels.

    Attributes:
      paths: the pictures, in a fixed order.
      labels: `(n,)` class indices, or `(n, C)` float32 for multi-label sets, where 1 is present,
        0 absent and -1 unknown (left out of losses and metrics).
      classes: names of the C classes.
    """

    paths: tuple[pathlib.Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        """Whether a picture may hold several classes."""
        return self.labels.ndim == 2

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: np.ndarray) -> LabelledImages:
        """The pictures at `indices`."""
        return dataclasses.replace(self, paths=tuple(self.paths[i] for i in indices), labels=self.labels[indices])


def read_class_names(path: pathlib.Path) -> dict[str, str]:
    """A CSV of `folder,name` lines: what to call the class of each folder."""
    try:
        text = io.StringIO(read_text(path), newline="")
        rows = [row for row in csv.reader(text) if row and not row[0].startswith("#")]
    except csv.Error as e:
        raise JaxcamError(f"{path}: cannot be read ({e})") from None
    bad = [i for i, row in enumerate(rows, 1) if len(row) != 2]
    if bad:
        raise JaxcamError(f"{path}: line {bad[0]} is not of the form folder,name")
    return {folder.strip(): name.strip() for folder, name in rows}


def image_folder(root: pathlib.Path, names: dict[str, str] | None = None) -> LabelledImages:
    """Reads `root/<class>/<picture>`; classes are the sorted folder names, renamed by `names`."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    paths, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise JaxcamError(f"{folder}: holds no pictures; every folder of {root} is read as a class")
        paths += found
        labels += [label] * len(found)
    if len(folders) < 2:
        raise JaxcamError(f"{root}: holds {len(folders)} class folders; at least two are needed")
    classes = tuple((names or {}).get(f.name, f.name) for f in folders)
    double = [c for i, c in enumerate(classes) if c in classes[:i]]
    if double:
        raise JaxcamError(f"{root}: two folders are called {double[0]!r}; the names of classes must differ")
    return LabelledImages(tuple(paths), np.asarray(labels, np.int32), classes)


def class_roots(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders of a data set in which every folder is read as a class; none in a VOC devkit."""
    if (root / "ImageSets" / "Main").is_dir():
        return []
    parts = [root / "train", root / "val"]
    return parts if all(p.is_dir() for p in parts) else [root]


def voc_devkit(root: pathlib.Path, split: str) -> LabelledImages:
    """Reads one split of a PASCAL VOC devkit (`JPEGImages`, `Annotations`, `ImageSets/Main`).

    A class that appears in a picture only in objects marked difficult is unknown there (-1).
    """
    listing = root / "ImageSets" / "Main"
    classes = tuple(sorted({p.name.rsplit("_", 1)[0] for p in listing.glob(f"*_{split}.txt")}))
    ordered = voc_ids(listing, split)
    if not ordered or not classes:
        raise JaxcamError(f"{listing}: has no lists for the split {split!r}")
    index = {name: i for i, name in enumerate(classes)}
    labels = np.zeros((len(ordered), len(classes)), np.float32)
    for row, name in zip(labels, ordered, strict=True):
        for c, difficult in _voc_objects(root / "Annotations" / f"{name}.xml", index):
            row[c] = max(row[c], 1.0) if not difficult else (row[c] or -1.0)
    return LabelledImages(tuple(root / "JPEGImages" / f"{n}.jpg" for n in ordered), labels, classes)


def voc_ids(lists: pathlib.Path, split: str) -> list[str]:
    """The sorted names of the pictures of a split of a VOC devkit: its own list's, or else all classes' lists'."""
    own = lists / f"{split}.txt"
    ids = set()
    for file in [own] if own.is_file() else lists.glob(f"*_{split}.txt"):
        ids |= {line.split()[0] for line in read_text(file).splitlines() if line.strip()}
    return sorted(ids)


def _voc_objects(file: pathlib.Path, index: dict[str, int]) -> list[tuple[int, bool]]:
    """The class and the difficult mark of each object in an annotation."""
    try:
        return [(index[o.label], o.hard) for o in read_xml(file).objects]
    except KeyError as e:
        raise JaxcamError(f"{file}: names the class {e.args[0]!r}, which ImageSets/Main does not list") from None


def train_and_validation(
    root: pathlib.Path, *, names: dict[str, str] | None = None, holdout: float = 0.2
) -> tuple[LabelledImages, LabelledImages]:
    """The training and validation parts of a data set folder.

    An ImageNet-style folder with `train/` and `val/`, or with class folders only, of which every
    `1/holdout`-th picture is held out; or a VOC devkit with `train` and `val` lists (or `trainval`
    and `test`), or with one list only, of which the last `holdout` part by sorted id is held out.

    Raises:
      JaxcamError: there is no data set there, or a part of it is broken; the message names the file.
    """
    if not 0 < holdout < 1:
        raise JaxcamError(f"the share held out must lie between 0 and 1, not {holdout:g}")
    root = pathlib.Path(root)
    if not root.is_dir():
        raise JaxcamError(f"{root}: there is no such folder")
    if (root / "ImageSets" / "Main").is_dir():
        splits = {p.stem.rsplit("_", 1)[-1] for p in (root / "ImageSets" / "Main").glob("*_*.txt")}
        for train_split, val_split in (("train", "val"), ("trainval", "test"), ("train", "test")):
            if {train_split, val_split} <= splits:
                return voc_devkit(root, train_split), voc_devkit(root, val_split)
        if not splits:
            raise JaxcamError(f"{root}: its ImageSets/Main holds no <class>_<split>.txt lists")
        whole = voc_devkit(root, sorted(splits)[0])
        cut = len(whole) - max(1, round(len(whole) * holdout))
        return whole.take(np.arange(cut)), whole.take(np.arange(cut, len(whole)))
    if len(parts := class_roots(root)) == 2:
        train, val = (image_folder(part, names) for part in parts)
        if train.classes != val.classes:
            raise JaxcamError(f"{root}: train/ and val/ hold different classes")
        return train, val
    whole = image_folder(root, names)
    held = np.arange(len(whole)) % max(2, round(1 / holdout)) == 0
    return whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
