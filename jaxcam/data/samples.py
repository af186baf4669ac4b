"""A data set to evaluate explanations on: pictures, what is in them, and where."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from jaxcam.data.annotations import Annotation, Problem
from jaxcam.data.class_names import class_indices
from jaxcam.data.images import Picture, as_it_is, to_picture
from jaxcam.data.masks import Mask
from jaxcam.data.preprocessing import AnyPreprocessing
from jaxcam.errors import JaxcamError, check_known, unknown


class Fetcher(Protocol):
    """Fetches a picture when it is called; -1 where its size is not known. Raises a JaxcamError where it cannot."""

    @property
    def size(self) -> int: ...
    def __call__(self) -> Picture: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One picture.

    Attributes:
      name: its path below the data set's folder, with forward slashes; no two items share one.
      path: the file; where the picture is none, what it is called in errors.
      labels: indices of the classes that are present, ascending; each of them is to be explained.
      boxes: of each label that has any, `(n, 4)` float32 `x0, y0, x1, y1` in pixels of the picture.
      size: `(w, h)` that the boxes are measured in; None for the picture's own.
      picture: the picture itself, or what fetches it and knows its `size` in bytes, where it is no file.
      masks: of each label that has any, what its objects cover; read when they are asked for.
    """

    name: str
    path: pathlib.Path
    labels: tuple[int, ...]
    boxes: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    size: tuple[int, int] | None = None
    picture: Picture | Fetcher | None = None
    masks: Mapping[int, tuple[Mask, ...]] = dataclasses.field(default_factory=dict)

    def open(self) -> Image.Image:
        """The picture, read.

        Raises:
          JaxcamError: it cannot be; see `jaxcam.data.images.to_picture`.
        """
        picture = self.picture() if callable(self.picture) else self.picture
        return to_picture(self.path if picture is None else picture, name=self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with labels and boxes, in an order that depends on their names alone.

    Attributes:
      root: the folder.
      kind: of `jaxcam.data.evaluation.SOURCES`, or "memory".
      ids: the classes as the data set calls them: folders, wnids, names.
      classes: the same in words.
      items: the pictures.
      multi_label: whether a picture may hold several classes.
      problems: what was left out, and why.
      url: where it lies, if in no folder of pictures; they are fetched from there.
      split: the part of what lies there, where it holds several.
    """

    root: pathlib.Path
    kind: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    multi_label: bool = False
    problems: tuple[Problem, ...] = ()
    url: str = ""
    split: str | None = None

    @property
    def place(self) -> str:
        """Where it lies, in words."""
        return self.url or str(self.root)

    @classmethod
    def of(
        cls, pictures: Iterable[Picture | Fetcher], labels: Iterable, *, classes: Sequence[str],
        boxes: Iterable | None = None, name: str = "pictures in memory",
    ) -> Dataset:  # fmt: skip
        """Pictures that lie in no folder: paths, bytes of files, `PIL.Image`s or arrays.

        Args:
          pictures: n of them, see `jaxcam.data.images.to_picture`. They are called `0000`, `0001` ... in a run.
          labels: of each its class, by index or name, or a list of them.
          classes: what the labels are.
          boxes: of each picture, for each class that has any, `(n, 4)` as in `Item`, by index or name; or None.
          name: what to call the data set.

        Raises:
          JaxcamError: there are not as many labels as pictures, or no such class.
        """
        pictures, labels = list(pictures), list(labels)
        marked = [None] * len(pictures) if boxes is None else list(boxes)
        if not len(pictures) == len(labels) == len(marked):
            raise JaxcamError(f"{len(pictures)} pictures, {len(labels)} labels and boxes of {len(marked)} do not fit")
        classes = tuple(classes)
        several = any(isinstance(own, list | tuple | set) for own in labels)
        items = []
        for i, (picture, own, box) in enumerate(zip(pictures, labels, marked, strict=True)):
            listed = own if isinstance(own, list | tuple | set) else [own]
            present = tuple(sorted({_index(label, classes) for label in listed}))
            placed = {_index(k, classes): np.asarray(v, np.float32).reshape(-1, 4) for k, v in (box or {}).items()}
            items.append(Item(f"{i:04}", pathlib.Path(f"picture {i}"), present, placed, picture=picture))
        return cls(pathlib.Path(name), "memory", classes, classes, tuple(items), several)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def has_boxes(self) -> bool:
        """Whether any picture has a box."""
        return any(item.boxes for item in self.items)

    @property
    def has_masks(self) -> bool:
        """Whether any picture has a segmentation mask."""
        return any(item.masks for item in self.items)

    def take(self, indices: Iterable[int]) -> Dataset:
        """The pictures at `indices`, in that order."""
        return dataclasses.replace(self, items=tuple(self.items[int(i)] for i in indices))

    def subset(self, n: int, seed: int) -> Dataset:
        """`n` pictures drawn at random without replacement, in the data set's order; all where it has no more.

        Raises:
          JaxcamError: `n` is below 1.
        """
        if n < 1:
            raise JaxcamError(f"a subset must hold at least one picture, not {n}")
        drawn = np.random.default_rng(seed).permutation(len(self))[:n]
        return self.take(np.sort(drawn))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the names, sizes in bytes, classes and boxes of the pictures, in their order.

        The content of files is not read: a data set is known by it in a second, not by every pixel.
        """
        total = hashlib.sha256(f"{self.kind}\n".encode())
        for item in self.items:
            size: object = item.path.stat().st_size if item.path.is_file() else -1
            if callable(item.picture):
                size = item.picture.size
            elif item.picture is not None:
                size = hashlib.sha256(_content(item)).hexdigest()
            labels = [self.classes[label] for label in item.labels]
            total.update(f"{item.name}\t{size}\t{labels}\t{item.size}\n".encode("utf-8", "surrogateescape"))
            for label in sorted(item.boxes):
                total.update(f"{self.classes[label]}\t{item.boxes[label].shape}\n".encode("utf-8", "surrogateescape"))
                total.update(np.ascontiguousarray(item.boxes[label], "<f4").tobytes())
        return total.hexdigest()

    @functools.cached_property
    def masks_digest(self) -> str:
        """The same of the segmentation masks, apart, since few metrics ask for them."""
        total = hashlib.sha256()
        for item in self.items:
            told = {self.classes[k]: [m.described(self.root) for m in item.masks[k]] for k in sorted(item.masks)}
            total.update(f"{item.name}\t{told}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def for_classes(self, classes: Sequence[str], *, missing: str = "error") -> Dataset:
        """The same with the labels numbered as a network numbers its classes.

        A class is found by its id or its name (case, spaces, hyphens and underscores do not matter; VOC's and
        COCO's names for one thing are known), or by its wnid where the network has ImageNet's 1000 classes.

        Args:
          classes: names of the network's logits.
          missing: what becomes of a class that the network does not have: "error", or "drop", which leaves it out,
            and with it the pictures that hold no other (a problem of each is noted).

        Raises:
          JaxcamError: a class is missing, or all of them are; the message names them.
        """
        if tuple(classes) == self.classes == self.ids:  # of which two may have one name
            return self
        index = class_indices(self.ids, self.classes, classes)
        used = sorted({label for item in self.items for label in item.labels})
        absent = [label for label in used if index[label] is None]
        if absent and (missing != "drop" or len(absent) == len(used)):
            raise _unknown_classes(self, [self.ids[i] for i in absent], len(used), classes)
        items, problems = [], list(self.problems)
        for item in self.items:
            labels = {label: j for label in item.labels if (j := index[label]) is not None}
            if not labels:
                lost = ", ".join(self.classes[label] for label in item.labels)
                problems.append(Problem("class unknown to the network", item.name, lost))
                continue
            boxes = {labels[label]: box for label, box in item.boxes.items() if label in labels}
            masks = {labels[label]: mask for label, mask in item.masks.items() if label in labels}
            items.append(dataclasses.replace(item, labels=tuple(sorted(labels.values())), boxes=boxes, masks=masks))
        names = tuple(classes)
        return dataclasses.replace(self, ids=names, classes=names, items=tuple(items), problems=tuple(problems))

    def summary(self) -> list[str]:
        """What it holds, one line, and each kind of problem, one line each, with the first names."""
        pairs = sum(len(item.labels) for item in self.items)
        boxes = sum(len(b) for item in self.items for b in item.boxes.values())
        used = len({label for item in self.items for label in item.labels})
        lines = [f"{self.place}: {_count(len(self), 'picture')} ({self.kind}), {pairs} labels of {used} classes, "
                 f"{_count(boxes, 'box', 'boxes')}"]  # fmt: skip
        return lines + tally(self.problems)


def _index(label: object, classes: Sequence[str]) -> int:
    """The number of a class that is given by number or by name."""
    if isinstance(label, str):
        check_known("class", label, classes)
        return classes.index(label)
    if not isinstance(label, int | np.integer) or not 0 <= label < len(classes):
        raise JaxcamError(f"there is no class {label!r}; there are {len(classes)}, numbered from 0")
    return int(label)


def _content(item: Item) -> bytes:
    """What a picture that is no file holds, for a digest."""
    if isinstance(item.picture, bytes | bytearray | memoryview):
        return bytes(item.picture)
    image = as_it_is(item.open())
    pixels = np.asarray(image)
    return f"{getattr(image, 'mode', 'array')} {pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()


def tally(problems: Iterable[Problem]) -> list[str]:
    """One line for each kind of problem: how often, and the first three."""
    groups = collections.defaultdict(list)
    for problem in problems:
        groups[problem.kind].append(problem)
    lines = []
    for kind, some in groups.items():
        named = "; ".join(f"{p.name} ({p.why})" if p.why else p.name for p in some[:3])
        lines.append(f"{kind}: {len(some)}: {named}{'; ...' if len(some) > 3 else ''}")
    return lines


def make_item(
    name: str, path: pathlib.Path, annotation: Annotation, index: Mapping[str, int], *, include_hard: bool = False,
    label: str | None = None,
) -> tuple[Item, list[Problem]]:  # fmt: skip
    """An item from what is marked in a picture, with its boxes clipped to the picture where its size is known.

    Args:
      annotation: the objects. Those marked hard (VOC: difficult, COCO: a crowd) are left out, labels and boxes,
        unless `include_hard`.
      index: of each class that is known, its number.
      label: the one class of the picture, where that is known otherwise; objects of others are then left out.
    """
    problems = [Problem("bad box", name, why) for why in annotation.faults]
    labels: set[int] = set() if label is None else {index[label]}
    boxes: dict[int, list] = {}
    masks: dict[int, dict[Mask, None]] = {}
    for mark in annotation.objects:
        if mark.hard and not include_hard or label is not None and mark.label != label:
            continue
        if mark.label not in index:
            problems.append(Problem("unknown class", name, repr(mark.label)))
            continue
        labels.add(index[mark.label])
        if mark.box is not None:
            boxes.setdefault(index[mark.label], []).append(mark.box)
        if mark.mask is not None:
            masks.setdefault(index[mark.label], {})[mark.mask] = None
    others = sorted({m.label for m in annotation.objects if m.box is not None})
    if label is not None and others and label not in others:
        problems.append(Problem("boxes of another class", name, f"{', '.join(others)} in a picture of {label}"))
    arrays = {k: np.asarray(v, np.float32).reshape(-1, 4) for k, v in boxes.items()}
    if annotation.size is not None:
        for k, box in list(arrays.items()):
            arrays[k], outside = clip_boxes(box, annotation.size)
            problems += [box_outside(name, b, annotation.size) for b in outside]
        arrays = {k: box for k, box in arrays.items() if len(box)}
    covered = {k: tuple(masks[k]) for k in sorted(masks)}
    return Item(
        name, path, tuple(sorted(labels)), dict(sorted(arrays.items())), annotation.size, masks=covered
    ), problems  # fmt: skip


def clip_boxes(boxes: np.ndarray, size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The parts of `boxes (n, 4)` within a picture of `size (w, h)`, and the boxes that lie wholly outside."""
    limits = np.asarray([size[0], size[1], size[0], size[1]], np.float32)
    clipped = np.clip(boxes, 0, limits)
    inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    return clipped[inside], boxes[~inside]


def boxes_to_input(boxes: np.ndarray, size: tuple[int, int], preprocessing: AnyPreprocessing) -> np.ndarray:
    """Boxes in a picture as boxes in what the network sees of it.

    Args:
      boxes: `(n, 4)` `x0, y0, x1, y1` in pixels of the picture.
      size: `(w, h)` of the picture.
      preprocessing: resizes and crops.

    Returns:
      `(m, 4)` float32 in pixels of the input, clipped to it; boxes that the crop leaves nothing of are left out.
    """
    height, width, _ = preprocessing.shape
    x0, y0, x1, y1 = preprocessing.region(*size)
    scale = np.asarray([width / (x1 - x0), height / (y1 - y0)] * 2)
    moved = (np.asarray(boxes, np.float64).reshape(-1, 4) - (x0, y0, x0, y0)) * scale
    return clip_boxes(moved.astype(np.float32), (width, height))[0]


def pad_boxes(boxes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of several pictures as one array, for `jax.vmap`.

    The length is a power of two, so that few different shapes, and compiled programs, arise.

    Args:
      boxes: p arrays `(n_i, 4)`.

    Returns:
      `(p, n, 4)` float32 and `(p, n)` bool, False where a row is padding.
    """
    longest = max([len(b) for b in boxes] + [1])
    n = 1 << (longest - 1).bit_length()
    padded, valid = np.zeros((len(boxes), n, 4), np.float32), np.zeros((len(boxes), n), bool)
    for i, b in enumerate(boxes):
        padded[i, : len(b)], valid[i, : len(b)] = b, True
    return padded, valid


def box_outside(name: str, box: np.ndarray, size: tuple[int, int]) -> Problem:
    """What is told of a box that lies outside of its picture."""
    spelled = ", ".join(f"{v:g}" for v in box)
    return Problem("box outside the picture", name, f"({spelled}) in {size[0]} x {size[1]} pixels")


def _unknown_classes(data: Dataset, absent: list[str], used: int, classes: Sequence[str]) -> JaxcamError:
    if len(absent) == used:
        some = ", ".join(absent[:3]) + (", ..." if used > 3 else "")
        return JaxcamError(
            f"{data.place}: none of its {used} classes ({some}) is one of the network's {len(classes)}, for example "
            f"{', '.join(classes[:3])}; give the names of the classes, or another network"
        )
    first = unknown("class", data.classes[data.ids.index(absent[0])], classes)
    more = f" ({len(absent)} classes of {used} are missing: {', '.join(absent[:5])})" if len(absent) > 1 else ""
    return JaxcamError(f"{data.place}: the network has {first}{more}; drop such classes, or name them otherwise")


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
