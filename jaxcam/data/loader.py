"""Pictures read in the background, in order, while the device works: for training and for evaluating.

Threads, as Pillow decodes outside of the interpreter's lock. Grain was measured beside them and is no faster (300
pictures of 224 x 224 on two cores, the best of seven runs each: 0.33 s here, 0.35 s there; of 640 x 480 the two are
alike), takes a third of a second to import, and its worker processes ask a program to parse its flags first.
"""

from __future__ import annotations

import collections
import concurrent.futures as cf
import contextlib
import dataclasses
import functools
import itertools
import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np
from PIL import Image

from jaxcam.data.annotations import Problem
from jaxcam.data.datasets import LabelledImages
from jaxcam.data.images import open_image
from jaxcam.data.masks import mask_to_input, together
from jaxcam.data.preprocessing import AnyPreprocessing
from jaxcam.data.samples import Item, box_outside, boxes_to_input, clip_boxes
from jaxcam.errors import JaxcamError

_CACHE_BYTES = 3 << 30
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_order(
    make: Callable[[_In], _Out], items: Iterable[_In], *, threads: int = 4, ahead: int = 32, processes: int = 0
) -> Generator[_Out, None, None]:
    """What `make` makes of each item, in the order of the items, made in threads before it is asked for.

    Closing the iterator stops the threads.

    Args:
      items: any number, taken as they are needed.
      ahead: bounds the memory to this many results, and `threads` on their way.
      processes: make them in so many processes, and in no threads; all that is given and made is then pickled.

    Raises:
      JaxcamError: `make` cannot be given to a process, or a process was ended.
    """
    pool: cf.Executor
    if processes:
        try:
            pickle.dumps(make)
        except Exception as e:  # of three kinds
            why = str(e).splitlines()[0]
            raise JaxcamError(f"what decodes a picture cannot be given to a process ({why}); use threads") from None
        pool = cf.ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    else:
        pool = cf.ThreadPoolExecutor(threads, thread_name_prefix="jaxcam-decode")
    waiting: collections.deque[cf.Future[_Out]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise JaxcamError("a process that decodes pictures was ended; use fewer of them, or threads") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Loader:
    """Serves batches of one data set at any size.

    Pictures are decoded on first use, shrunk so that their shorter side is at most `cache_side`,
    and kept in memory up to a budget. What augmentation does to a picture depends on
    `(seed, epoch, index)` alone, so a resumed run sees exactly what an uninterrupted one sees.

    Args:
      views: where given, an epoch does not augment each picture anew, but draws one of so many views of it: as it is,
        and as augmented in as many less one ways. The same view shows the same at any size.
    """

    def __init__(
        self, data: LabelledImages, *, cache_side: int, seed: int = 0, min_scale: float = 0.35, views: int | None = None
    ):
        self.data, self.cache_side, self.seed, self.min_scale, self.views = data, cache_side, seed, min_scale, views
        self._cache: dict[int, Image.Image] = {}
        self._cached_bytes = 0

    def _decoded(self, index: int) -> Image.Image:
        image = self._cache.get(index)
        if image is None:
            image = open_image(self.data.paths[index])
            shrink = self.cache_side / min(image.size)
            if shrink < 1:
                size = [max(1, round(s * shrink)) for s in image.size]
                image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=3.0)
            nbytes = 3 * image.width * image.height
            if self._cached_bytes + nbytes <= _CACHE_BYTES:
                self._cache[index] = image
                self._cached_bytes += nbytes
        return image

    def _augmented(self, index: int, epoch: int, size: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch, index))
        image = self._decoded(index)
        w, h = image.size
        box = (0.0, 0.0, float(w), float(h))
        for _ in range(10):
            area = rng.uniform(self.min_scale, 1.0) * w * h
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            bw, bh = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if bw <= w and bh <= h:
                x0, y0 = rng.uniform(0, w - bw), rng.uniform(0, h - bh)
                box = (x0, y0, x0 + bw, y0 + bh)
                break
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        brightness, contrast = rng.uniform(0.75, 1.25, 2)
        values = pixels.astype(np.float32)
        grey = values.mean()
        values = ((values - grey) * contrast + grey) * brightness
        return np.clip(np.round(values), 0, 255).astype(np.uint8)

    def _plain(self, index: int, size: int) -> np.ndarray:
        return np.asarray(self._decoded(index).resize((size, size), Image.Resampling.BILINEAR))

    def training(self, epoch: int, size: int, batch_size: int, *, skip: int = 0) -> Iterator[tuple]:
        """Shuffled, augmented `(images (b, size, size, 3) uint8, labels)`; the last short batch is dropped.

        Args:
          epoch: decides the order and the augmentation, or the views.
          skip: batches to leave out at the start, when a run resumes in mid-epoch.
        """
        batches, views = self.batches(epoch, batch_size)[skip:], self.drawn(epoch)
        make = self._augmented if self.views is None else self._view
        return self._serve(batches, lambda i: make(i, int(views[i]), size))

    def batches(self, epoch: int, batch_size: int) -> np.ndarray:
        """`(n, batch_size)` the pictures of each batch of an epoch, shuffled; the last short one is dropped."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.data))
        return order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)

    def drawn(self, epoch: int) -> np.ndarray:
        """`(n,)` which of its views an epoch shows of each picture; of one that augments anew, its own number."""
        count = len(self.data)
        if self.views is None:
            return np.full(count, epoch)
        return np.random.default_rng((self.seed, epoch, 1 << 32)).integers(self.views, size=count)

    def seen(self, indices: Iterable[int], view: int, size: int) -> Iterator[np.ndarray]:
        """One view `(size, size, 3)` of some pictures, in order."""
        return in_order(lambda i: self._view(i, view, size), indices)

    def _view(self, index: int, view: int, size: int) -> np.ndarray:
        return self._augmented(index, view, size) if view else self._plain(index, size)

    def plain(self, size: int, batch_size: int) -> Iterator[tuple]:
        """Every picture once, in order, squashed to `size`; the last batch may be short."""
        order = np.arange(len(self.data))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        return self._serve(batches, lambda i: self._plain(i, size))

    def _serve(self, batches, make: Callable[[int], np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        indices = (int(i) for batch in batches for i in batch)
        with contextlib.closing(in_order(make, indices, ahead=3 * max(map(len, batches), default=1))) as made:
            for batch in batches:
                yield np.stack(list(itertools.islice(made, len(batch)))), self.data.labels[batch]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A picture as the network sees it, or why it could not be read.

    Attributes:
      index: its place among the items that were asked for.
      item: which picture.
      pixels: `(s, s, C)` uint8, resized and cropped; `preprocessing.normalize` makes the input of it (which it is
        already where the preprocessing is a function). None where the picture could not be read.
      boxes: of each label that has any within the crop, `(n, 4)` float32 in pixels of the input.
      picture_size: `(w, h)` of the picture; (0, 0) where it could not be read.
      error: why it could not be read, in one line; None where it was.
      problems: boxes and masks that were left out.
      seconds: spent on it.
      masks: of each label that has any, where they were asked for, `(H, W)` float32: how much of each pixel of the
        input its objects cover.
    """

    index: int
    item: Item
    pixels: np.ndarray | None
    boxes: Mapping[int, np.ndarray]
    picture_size: tuple[int, int]
    error: str | None
    problems: tuple[Problem, ...]
    seconds: float
    masks: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stream(
    items: Iterable[Item], preprocessing: AnyPreprocessing, *, threads: int | None = None, ahead: int = 32,
    masks: bool = False, processes: int = 0,
) -> Generator[Loaded, None, None]:  # fmt: skip
    """Reads pictures in threads and yields them in order, at most `ahead` of them before they are asked for.

    A picture that cannot be read is yielded with its `error`, never raised. Closing the iterator stops the threads.

    Args:
      items: any number, taken as they are needed.
      threads: Pillow decodes outside of the interpreter's lock, so they run at once; one for each core, and at least 4,
        unless given.
      ahead: bounds the memory to this many inputs, and `threads` pictures on their way.
      masks: read the segmentation masks, too.
      processes: decode in so many processes in place of threads, for which pictures have to be many or large: each
        starts in a second, and what is decoded is copied.

    Raises:
      JaxcamError: `threads` or `ahead` is below 1.
    """
    threads = max(4, cores()) if threads is None else threads
    if threads < 1 or ahead < 1 or processes < 0:
        raise JaxcamError("at least one thread must decode pictures, and at least one picture ahead")
    make = functools.partial(_load, preprocessing, masks)
    return in_order(make, enumerate(items), threads=threads, ahead=ahead, processes=processes)


def _load(preprocessing: AnyPreprocessing, masks: bool, numbered: tuple[int, Item]) -> Loaded:
    return load(*numbered, preprocessing, masks=masks)


def load(index: int, item: Item, preprocessing: AnyPreprocessing, *, masks: bool = False) -> Loaded:
    """Reads one picture, here and now; see `stream`."""
    start = time.perf_counter()
    try:
        picture = item.open()
        pixels = preprocessing.pixels(picture)
    except JaxcamError as e:
        return Loaded(index, item, None, {}, (0, 0), str(e), (), time.perf_counter() - start)
    except MemoryError:
        why = f"{item.path}: there is not enough memory to decode it"
        return Loaded(index, item, None, {}, (0, 0), why, (), time.perf_counter() - start)
    boxes, problems = _locate(item, picture.size, preprocessing)
    covered, more = _covered(item, picture.size, preprocessing) if masks else ({}, ())
    seconds = time.perf_counter() - start
    return Loaded(index, item, pixels, boxes, picture.size, None, (*problems, *more), seconds, covered)


def _covered(
    item: Item, size: tuple[int, int], preprocessing: AnyPreprocessing
) -> tuple[dict[int, np.ndarray], tuple[Problem, ...]]:
    """The item's masks in the input."""
    found, problems = {}, []
    for label, masks in item.masks.items():
        try:
            mask = together(masks)
            if mask.shape == size and size[0] != size[1]:
                w, h = size
                raise JaxcamError(f"the mask is for {h} x {w} pixels, the picture is {w} x {h}: turned")
        except JaxcamError as e:
            problems.append(Problem("bad mask", item.name, str(e)))
            continue
        found[label] = mask_to_input(mask, preprocessing)
    return found, tuple(problems)


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
        problems += [box_outside(item.name, box, size) for box in outside]
        seen = boxes_to_input(inside, size, preprocessing)
        if len(seen):
            placed[label] = seen
    return placed, tuple(problems)
