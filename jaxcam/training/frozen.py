"""The part of a network that is not trained, and its outputs, which are computed once and kept in the run's folder."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jaxcam.data.loader import Loader
from jaxcam.errors import JaxcamError, unknown
from jaxcam.files import whole_file
from jaxcam.models.config import Config
from jaxcam.models.graph import graph
from jaxcam.models.network import Part
from jaxcam.models.trees import flatten, unflatten


def resolved(config: Config, layer: str) -> str:
    """The full name of the last layer that is kept as it is.

    Raises:
      JaxcamError: there is no such layer, or nothing is left to train behind it.
    """
    stages = graph(config)[1]
    within = [n for n in stages if n == layer or n.startswith(layer + ".")]
    if not within:
        raise unknown("layer", layer, stages)
    if within[-1] == stages[-1]:
        raise JaxcamError(f"behind {layer} nothing is left to train")
    return within[-1]


def trained(config: Config, after: str, size: int) -> set[str]:
    """Paths of the parameters and statistics that the layers behind `after` use, for inputs of `size` pixels."""
    flat = flatten(graph(config)[2])
    image = jax.ShapeDtypeStruct((size, size, 3), np.float32)
    a = jax.eval_shape(Part(config, None, after), graph(config)[2], image)
    part = Part(config, after, None, rank=len(a.shape))
    program = jax.make_jaxpr(lambda values, x: part(unflatten(dict(zip(flat, values, strict=True))), x))(
        list(flat.values()), a
    )
    read = {id(v) for eqn in program.jaxpr.eqns for v in eqn.invars}
    return {path for path, v in zip(flat, program.jaxpr.invars, strict=False) if id(v) in read}


def divided(tree: dict, paths: set[str]) -> tuple[dict, dict]:
    """A nested dict in two: what lies at `paths`, and the rest."""
    flat = flatten(tree)
    return tuple(unflatten({p: v for p, v in flat.items() if (p in paths) is inside}) for inside in (True, False))  # type: ignore[return-value]


def joined(a: dict, b: dict) -> dict:
    """The inverse of `divided`."""
    return unflatten(flatten(a) | flatten(b))


class Features:
    """Outputs of the frozen layers for the pictures of a `Loader`, in its place: `training` and `plain` serve them.

    They are computed on the first use and kept in float16 in one file, which a run that was killed goes on with. Of
    each picture there are `views`: as it is, and as augmented in that many less one ways, one of which is drawn for
    each epoch.

    Args:
      loader: the pictures.
      compute: `(b, size, size, 3)` uint8 pixels to `(b, ...)` outputs.
      file: where they are kept.
      size: side of the pictures in pixels.
      views: of each picture.
      batch_size: pictures at once.
      report: called with how many views are done, and how many there are.
    """

    def __init__(
        self, loader: Loader, compute: Callable[[np.ndarray], jax.Array], file: pathlib.Path, *,
        size: int, views: int, batch_size: int, report: Callable[[int, int], None] = lambda done, total: None,
    ):  # fmt: skip
        self.loader, self.compute, self.file, self.size, self.views = loader, compute, file, size, views
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
        total = self.views * count
        done = json.loads(progress.read_text())["done"] if progress.exists() and self.file.exists() else 0
        kept = np.load(self.file, mmap_mode="r+") if done else None
        while done < total:
            view, start = divmod(done, count)
            wanted = range(start, min(start + self.batch_size, count))
            pixels = np.stack(list(self.loader.views(wanted, view, self.size)))
            padded = np.pad(pixels, ((0, self.batch_size - len(pixels)), (0, 0), (0, 0), (0, 0)))
            found = np.asarray(self.compute(padded))[: len(pixels)]
            with np.errstate(over="ignore"):
                halves = found.astype(np.float16)
            if not np.isfinite(halves).all():
                raise JaxcamError("the frozen layers' outputs are not finite, or exceed what float16 holds")
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

    def training(self, epoch: int, size: int, batch_size: int, *, skip: int = 0) -> Iterator[tuple]:
        """As `Loader.training`; the epoch draws the view of each picture as well."""
        count = len(self.data)
        view = np.random.default_rng((self.loader.seed, epoch, 1 << 32)).integers(self.views, size=count)
        for batch in self.loader.batches(epoch, batch_size)[skip:]:
            yield self._at(view[batch] * count + batch), self.data.labels[batch]

    def plain(self, size: int, batch_size: int) -> Iterator[tuple]:
        """As `Loader.plain`."""
        for start in range(0, len(self.data), batch_size):
            batch = np.arange(start, min(start + batch_size, len(self.data)))
            yield self._at(batch), self.data.labels[batch]

    def _at(self, rows: np.ndarray) -> np.ndarray:
        order = np.argsort(rows)  # a file is read faster forwards
        out = np.empty((len(rows), *self.kept.shape[1:]), np.float16)
        out[order] = self.kept[rows[order]]
        return out
