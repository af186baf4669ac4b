"""What an evaluation will cost, from a few units of it."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import tempfile
import time
from typing import Any, NamedTuple

from jaxcam.errors import JaxcamError
from jaxcam.evaluate.driver import Progress, evaluate
from jaxcam.evaluate.run import read_run, units_of

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
        disk = sum(f.stat().st_size for f in run.folder.rglob("*") if f.is_file())
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
        disk=round(disk / tried * pictures), memory=_most_memory(),
    )  # fmt: skip


def _most_memory() -> int:
    """Bytes that this process has held at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
