"""What an evaluation will cost, from a few units of it."""

from __future__ import annotations

import contextlib
import math
import pathlib
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.evaluate import parts
from jaxcam.evaluate.driver import Progress, evaluate
from jaxcam.evaluate.run import Run, read_run, units_of
from jaxcam.evaluate.store import records_file

#: Units that are made, and seconds after which no further one is begun once two are there.
_UNITS, _SECONDS = 4, 60.0


class Estimate(NamedTuple):
    """What an evaluation will cost.

    Attributes:
      pictures: that it takes; `tried` of them were evaluated for the estimate.
      tried: see there.
      units: it is made and committed in.
      starting: seconds until the first unit is begun: compiling, mostly. Every device compiles.
      per_picture: seconds, on one device.
      passes: of the network that would take a picture's time.
      disk: bytes of the run's folder.
      memory: the most bytes that this process has held on the host; 0 where the system does not tell.
    """

    pictures: int
    tried: int
    units: int
    starting: float
    per_picture: float
    passes: float
    disk: int
    memory: int

    def seconds(self, devices: int = 1) -> float:
        """Of the whole run on so many devices like this one."""
        busy = -(-self.units // devices) * self.pictures / self.units  # a unit is made by one device
        return self.starting + busy * self.per_picture


class _EnoughError(Exception):
    """As many units are there as were wanted."""


def estimate(network: Any, data: Any, **options: Any) -> Estimate:
    """What `evaluate` with these arguments will cost, from its first units, made in a folder of their own.

    Args:
      network: as of `evaluate`.
      data: likewise.
      options: all else that `evaluate` is given, but for `out` and `progress`.

    Raises:
      JaxcamError: as `evaluate` does; or not one of the first pictures could be used.
    """
    begun = time.perf_counter()
    made = 0

    def watch(state: Progress) -> None:
        nonlocal made
        made += state.rate > 0
        if made >= _UNITS or (made > 1 and time.perf_counter() - begun > _SECONDS):
            raise _EnoughError

    with tempfile.TemporaryDirectory(prefix="jaxcam-estimate-") as folder:
        with contextlib.suppress(_EnoughError):
            evaluate(network, data, out=pathlib.Path(folder) / "run", progress=watch, **options)
        run = read_run(pathlib.Path(folder) / "run")
        disk = bytes_on_disk(run) if len(run) else 0
    first, *rest = sorted(run.units, key=lambda unit: unit["unit"])
    tried = sum(unit["images"] for unit in run.units)
    if not len(run):
        raise JaxcamError(f"none of the first {tried} pictures could be used; nothing can be said of the others")
    later = rest or [first]
    per_picture = sum(u["seconds"]["total"] for u in later) / sum(u["images"] for u in later)
    forward = sum(u["seconds"]["forward"] for u in later) / sum(u["images"] for u in later)
    pictures = len(run.images)
    return Estimate(
        pictures=pictures, tried=tried, units=len(units_of(run.manifest)),
        starting=max(0.0, first["seconds"]["total"] - first["images"] * per_picture) if rest else 0.0,
        per_picture=per_picture, passes=per_picture / forward if forward > 0 else float("nan"),
        disk=disk, memory=_most_memory(),
    )  # fmt: skip


def bytes_on_disk(run: Run) -> int:
    """What a run's folder will take, by the units of it that are there: records in lines, and in parts once there are
    enough of them, arrays, and the manifest, which names all pictures from the first."""
    files = {f.relative_to(run.folder): f.stat().st_size for f in run.folder.rglob("*") if f.is_file()}
    arrays = sum(size for file, size in files.items() if file.parent.name == "arrays")
    lines = files[records_file(run.folder).relative_to(run.folder)]
    share = len(run.images) / sum(unit["images"] for unit in run.units)
    records, in_unit = len(run) * share, len(run) / len(run.units)
    moved = 0.0
    total = sum(files.values()) - arrays - lines + arrays * share
    if parts.available() and records >= parts.ROWS:
        rows = math.ceil(parts.ROWS / in_unit) * in_unit  # a part holds whole units
        moved = records // rows * rows
        total += moved / rows * _part_like(run, round(rows))
    return round(total + (records - moved) * lines / len(run))


def _part_like(run: Run, rows: int) -> int:
    """Bytes of a part of so many records, of which each has its like among those of a run.

    They are those of the run again and again, but that pictures have other names and that numbers which differ from
    picture to picture differ in their last digits: what repeats takes no room.
    """
    place, turn = np.arange(rows) % len(run), np.arange(rows) // len(run)
    jitter = 1 + 1e-4 * np.random.default_rng(0).random(turn[-1] + 1)
    seen = len(np.unique(run.columns["index"]))
    columns: dict[str, np.ndarray | parts.Coded] = {}
    for name, values in run.columns.items():
        if name == "image":
            codes = parts.coded(values.tolist()).codes
            names = [run.images[i % len(run.images)] for i in range(seen * (turn[-1] + 1))]
            columns[name] = parts.Coded((codes[place] + seen * turn).astype(np.int32), names)
        elif name in parts.TEXT:
            codes, words = parts.coded(values.tolist())
            columns[name] = parts.Coded(codes[place], words)
        elif name in parts.WHOLE:
            columns[name] = values[place] + (seen * turn if name == "index" else 0)
        else:
            own = values[place]
            if len(np.unique(values)) > seen / 2:
                own = own * jitter[turn]
            single = np.array_equal(values, values.astype(np.float32), equal_nan=True)
            columns[name] = own.astype(np.float32).astype(np.float64) if single else own
    summaries = list(run.units) * math.ceil(rows / len(run))
    with tempfile.TemporaryDirectory(prefix="jaxcam-estimate-") as folder:
        parts.write(pathlib.Path(folder), summaries[: math.ceil(rows * len(run.units) / len(run))], columns)
        return sum(f.stat().st_size for f in pathlib.Path(folder).iterdir())


def _most_memory() -> int:
    """Bytes that this process has held at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
