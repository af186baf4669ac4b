"""What a network that is not trained gives of the pictures: computed once, kept in the run's folder, served in batches.

Two are kept: outputs of frozen layers, which are served in the pictures' place, and the logits of a teacher, which are
served beside the labels.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcam.data.loader import Loader
from jaxcam.errors import JaxcamError
from jaxcam.files import whole_file


class Outputs:
    """Of each picture of a `Loader`, in each of its views, an array; in float16 in one file.

    They are computed on the first use, and a run that was killed goes on with them.

    Args:
      loader: the pictures. Of each there are `loader.views`: as it is, and as augmented in that many less one ways; one
        where it has none.
      compute: `(b, size, size, 3)` uint8 pixels to `(b, ...)` outputs.
      file: where they are kept.
      size: side of the pictures in pixels.
      batch_size: pictures at once.
      said: what they are, for a message.
      report: called with how many views are done, and how many there are.
    """

    def __init__(
        self, loader: Loader, compute: Callable[[np.ndarray], jax.Array], file: pathlib.Path, *,
        size: int, batch_size: int, said: str = "outputs",
        report: Callable[[int, int], None] = lambda done, total: None,
    ):  # fmt: skip
        self.loader, self.compute, self.file, self.size, self.said = loader, compute, file, size, said
        self.batch_size, self.report, self.data = batch_size, report, loader.data
        self._kept: np.ndarray | None = None

    @property
    def kept(self) -> np.ndarray:
        """`(views * n, ...)` float16, all views of a kind after another."""
        if self._kept is None:
            self._kept = self._made()
        return self._kept

    def _made(self) -> np.ndarray:
        count, progress = len(self.data), self.file.with_suffix(".json")
        total = (self.loader.views or 1) * count
        done = json.loads(progress.read_text())["done"] if progress.exists() and self.file.exists() else 0
        kept = np.load(self.file, mmap_mode="r+") if done else None
        while done < total:
            view, start = divmod(done, count)
            wanted = range(start, min(start + self.batch_size, count))
            pixels = np.stack(list(self.loader.seen(wanted, view, self.size)))
            padded = np.pad(pixels, ((0, self.batch_size - len(pixels)), (0, 0), (0, 0), (0, 0)))
            found = np.asarray(self.compute(padded))[: len(pixels)]
            with np.errstate(over="ignore"):
                halves = found.astype(np.float16)
            if not np.isfinite(halves).all():
                raise JaxcamError(f"the {self.said} are not finite, or exceed what float16 holds")
            if kept is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                shape = (total, *found.shape[1:])
                kept = np.lib.format.open_memmap(self.file, "w+", np.float16, shape)
            kept[done : done + len(halves)] = halves
            done += len(halves)
            kept.flush()
            with whole_file(progress) as f:
                f.write(json.dumps({"done": done}).encode())
            self.report(done, total)
        assert kept is not None
        return kept

    def of_epoch(self, epoch: int, batch_size: int, *, skip: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What there is of the pictures of each batch of an epoch, in the views that it drew, and which they are."""
        views = self.loader.drawn(epoch)
        for batch in self.loader.batches(epoch, batch_size)[skip:]:
            yield self.at(views[batch] * len(self.data) + batch), batch

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows of `kept`."""
        order = np.argsort(rows)  # a file is read faster forwards
        out = np.empty((len(rows), *self.kept.shape[1:]), np.float16)
        out[order] = self.kept[rows[order]]
        return out


class FrozenOutputs(Outputs):
    """Outputs of frozen layers in the place of the pictures of a `Loader`: `training` and `plain` serve them."""

    def training(self, epoch: int, size: int, batch_size: int, *, skip: int = 0) -> Iterator[tuple]:
        """As `Loader.training`."""
        for outputs, batch in self.of_epoch(epoch, batch_size, skip=skip):
            yield outputs, self.data.labels[batch]

    def plain(self, size: int, batch_size: int) -> Iterator[tuple]:
        """As `Loader.plain`."""
        for start in range(0, len(self.data), batch_size):
            batch = np.arange(start, min(start + batch_size, len(self.data)))
            yield self.at(batch), self.data.labels[batch]


class Targets(NamedTuple):
    """What is to be learnt of a batch of pictures.

    Attributes:
      labels: `(b,)` class indices, or `(b, C)`: 1, 0, or -1 unknown.
      teacher: `(b, C)` the teacher's logits; None without one.
    """

    labels: Any
    teacher: Any = None


class Taught:
    """A `Loader`, or what serves in its place, whose training batches say what a teacher says of the same views."""

    def __init__(self, served: Any, teacher: Outputs):
        self.served, self.teacher, self.data = served, teacher, served.data

    def training(self, epoch: int, size: int, batch_size: int, *, skip: int = 0) -> Iterator[tuple]:
        """As `Loader.training`, with `Targets` for labels."""
        said = self.teacher.of_epoch(epoch, batch_size, skip=skip)
        for (inputs, labels), (logits, _) in zip(
            self.served.training(epoch, size, batch_size, skip=skip), said, strict=True
        ):
            yield inputs, Targets(labels, logits)
