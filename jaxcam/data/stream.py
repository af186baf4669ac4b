"""Pictures decoded in the background, in order, while the device works."""

from __future__ import annotations

import collections
import concurrent.futures as cf
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from jaxcam.data.annotations import Problem
from jaxcam.data.boxes import boxes_to_input
from jaxcam.data.images import open_image
from jaxcam.data.own_preprocessing import AnyPreprocessing
from jaxcam.data.samples import Item, clip_boxes
from jaxcam.errors import JaxcamError


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A picture as the network sees it, or why it could not be read.

    Attributes:
      index: its place among the items that were asked for.
      item: which picture.
      pixels: `(s, s, 3)` uint8 RGB, resized and cropped; `preprocessing.normalize` makes the input of it (which it is
        already where the preprocessing is a function). None where the picture could not be read.
      boxes: of each label that has any within the crop, `(n, 4)` float32 in pixels of the input.
      picture_size: `(w, h)` of the picture; (0, 0) where it could not be read.
      error: why it could not be read, in one line; None where it was.
      problems: boxes that were left out.
      seconds: spent on it.
    """

    index: int
    item: Item
    pixels: np.ndarray | None
    boxes: Mapping[int, np.ndarray]
    picture_size: tuple[int, int]
    error: str | None
    problems: tuple[Problem, ...]
    seconds: float


def stream(
    items: Iterable[Item], preprocessing: AnyPreprocessing, *, threads: int = 4, ahead: int = 32
) -> Iterator[Loaded]:
    """Reads pictures in threads and yields them in order, at most `ahead` of them before they are asked for.

    A picture that cannot be read is yielded with its `error`, never raised. Closing the iterator stops the threads.

    Args:
      items: any number, taken as they are needed.
      threads: Pillow decodes outside of the interpreter's lock, so they run at once.
      ahead: bounds the memory to this many inputs, and `threads` pictures on their way.

    Raises:
      JaxcamError: `threads` or `ahead` is below 1.
    """
    if threads < 1 or ahead < 1:
        raise JaxcamError("at least one thread must decode pictures, and at least one picture ahead")
    return _stream(items, preprocessing, threads, ahead)


def _stream(items: Iterable[Item], preprocessing: AnyPreprocessing, threads: int, ahead: int) -> Iterator[Loaded]:
    pool = cf.ThreadPoolExecutor(threads, thread_name_prefix="jaxcam-decode")
    waiting: collections.deque[cf.Future[Loaded]] = collections.deque()
    try:
        for index, item in enumerate(items):
            waiting.append(pool.submit(load, index, item, preprocessing))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def load(index: int, item: Item, preprocessing: AnyPreprocessing) -> Loaded:
    """Reads one picture, here and now; see `stream`."""
    start = time.perf_counter()
    try:
        picture = open_image(item.path)
        pixels = preprocessing.pixels(picture)
    except JaxcamError as e:
        return Loaded(index, item, None, {}, (0, 0), str(e), (), time.perf_counter() - start)
    except MemoryError:
        why = f"{item.path}: there is not enough memory to decode it"
        return Loaded(index, item, None, {}, (0, 0), why, (), time.perf_counter() - start)
    boxes, problems = _locate(item, picture.size, preprocessing)
    return Loaded(index, item, pixels, boxes, picture.size, None, problems, time.perf_counter() - start)


def _locate(
    item: Item, size: tuple[int, int], preprocessing: AnyPreprocessing
) -> tuple[dict[int, np.ndarray], tuple[Problem, ...]]:
    """The item's boxes in the input, measured in the picture that there really is."""
    w, h = size
    measured = item.size or size
    if measured == (h, w) and w != h:
        why = f"the boxes are for {h} x {w} pixels, the picture is {w} x {h}: turned after it was annotated"
        return {}, (Problem("boxes of a turned picture", item.name, why),) if item.boxes else ()
    placed, problems = {}, []
    for label, boxes in item.boxes.items():
        scaled = boxes * (np.asarray([w, h, w, h]) / np.asarray([*measured, *measured])).astype(np.float32)
        inside, outside = clip_boxes(scaled, size)
        for box in outside:
            spelled = ", ".join(f"{v:g}" for v in box)
            problems.append(Problem("box outside the picture", item.name, f"({spelled}) in {w} x {h} pixels"))
        seen = boxes_to_input(inside, size, preprocessing)
        if len(seen):
            placed[label] = seen
    return placed, tuple(problems)


def batches(loaded: Iterable[Loaded], size: int) -> Iterator[tuple[list[Loaded], list[Loaded]]]:
    """Groups pictures into batches: `size` that were read (the last batch may hold fewer), and those that were not.

    Closes `loaded`, where it can be closed, when it is closed itself.
    """
    if size < 1:
        raise JaxcamError(f"a batch must hold at least one picture, not {size}")
    good: list[Loaded] = []
    failed: list[Loaded] = []
    try:
        for one in loaded:
            (good if one.error is None else failed).append(one)
            if len(good) == size:
                yield good, failed
                good, failed = [], []
        if good or failed:
            yield good, failed
    finally:
        close = getattr(loaded, "close", None)
        if close is not None:
            close()
