"""What a run found, read from its folder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import html
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, overload

import numpy as np

from jaxcam import notebooks
from jaxcam.data.annotations import Problem
from jaxcam.errors import JaxcamError, check_known, unknown
from jaxcam.evaluate.records import Columns, Records
from jaxcam.evaluate.store import MADE, arrays_file, made
from jaxcam.files import read_file

FORMAT = 1


class Units(Sequence[dict]):
    """The commit lines of a run in their order, read when they are asked for."""

    def __init__(self, records: Records):
        self._records = records

    def __len__(self) -> int:
        return len(self._records.numbers)

    def __iter__(self) -> Iterator[dict]:
        if (np.diff(self._records.numbers) > 0).all():
            return self._records.summaries()
        return iter(sorted(self._records.summaries(), key=lambda summary: summary["unit"]))

    @overload
    def __getitem__(self, at: int) -> dict: ...
    @overload
    def __getitem__(self, at: slice) -> list[dict]: ...
    def __getitem__(self, at):
        return list(self)[at]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run, finished or not.

    Attributes:
      folder: where it is.
      manifest: its settings, the pictures, and what it was made with; see `jaxcam.evaluate.manifest`.
      columns: arrays of length R by name, read when they are asked for; one row per (picture, class, method), sorted by
        these: `index` and `image` (the picture's place in the data set, and name), `target` and `class`, `label` (1
        where the class is in the picture, 0 where not, NaN unknown), `predicted` (the top class), `boxes` (of the
        target, in pixels of the input: `x0 y0 x1 y1`, and `;` between two), `method`, `score` (probability of the
        target), `logit`, one column per metric (fractions, NaN where undefined), `completeness_gap`,
        `evaluations` (of the head; NaN where the method does not say), `seconds` (of the method, per map),
        `empty` (why the map shows nothing, or ""), `negative` (which share of the sum of absolute activations is
        below zero at the layer) and `left_over` (of a map from positions, what its channels leave of each other;
        NaN, as the former, in runs of before it was recorded).
      broken: pictures that could not be used, and why.
      units: the commit lines: `unit`, `images`, `records`, `broken`, `problems` (kind, picture,
        reason), `seconds` by part.
      complete: whether nothing is missing.
      spoilt: how many units were found damaged, and left out; the same `jaxcam evaluate` makes them again.
    """

    folder: pathlib.Path
    manifest: dict
    columns: Mapping[str, np.ndarray]
    broken: dict[str, str]
    units: Sequence[dict]
    complete: bool
    spoilt: int

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __repr__(self) -> str:
        """Where it is, how much of it is done, and its means, in a few lines."""
        named = [(name, zip(self.metrics, row, strict=True)) for name, *row in self._means()]
        means = [f"  {name}: {', '.join(f'{metric} {mean}' for metric, mean in row)}" for name, row in named]
        return "\n".join([f"Run {self.folder}: {self._done()}", *means])

    def _repr_html_(self) -> str:
        """The same as a table, which a notebook shows; `summarize` gives intervals."""
        return notebooks.table(self._means(), ("method", *self.metrics)) + f"<p>{html.escape(self._done())}</p>"

    @property
    def problems(self) -> list[Problem]:
        """Boxes and masks that were left out when their pictures were read, in the order of the units."""
        return [Problem(*one) for unit in self.units for one in unit.get("problems", ())]

    def _done(self) -> str:
        """How much of it is done."""
        count = len(np.unique(self.columns["index"]))
        broken = f", {len(self.broken)} could not be used" if self.broken else ""
        return f"{count} of {len(self.images)} pictures{broken}" + ("" if self.complete else "; unfinished")

    def _means(self) -> list[tuple[str, ...]]:
        """Each method with the mean of each metric where it is defined."""
        rows = []
        for rank, method in enumerate(self.methods):
            here = self.ranks == rank
            found = [self.columns[metric][here] for metric in self.metrics]
            defined = [x[np.isfinite(x)] for x in found]
            rows.append((method, *(f"{x.mean():.3f}" if x.size else "-" for x in defined)))
        return rows

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, as asked for."""
        return tuple(self.manifest["settings"]["methods"])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics, as asked for."""
        return tuple(self.manifest["settings"]["metrics"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the random subsets."""
        return tuple(int(s) for s in self.manifest["subsets"])

    @property
    def images(self) -> tuple[str, ...]:
        """The names of all pictures of the run, done or not."""
        return tuple(self.manifest["images"].values())

    @functools.cached_property
    def ranks(self) -> np.ndarray:
        """`(R,)` the place of each row's method among the methods."""
        if isinstance(self.columns, Columns):
            return self.columns.ranks
        rank = {label: i for i, label in enumerate(self.methods)}
        return np.asarray([rank[label] for label in self.columns["method"]], np.int16)

    def value(self, name: str, row: int) -> Any:
        """`columns[name][row]`, without reading the whole column of a large run."""
        return self.columns.value(name, row) if isinstance(self.columns, Columns) else self.columns[name][row]

    def in_subset(self, seed: int) -> np.ndarray:
        """`(R,)` whether the picture of each row is in the random subset of `seed`."""
        subsets = self.manifest["subsets"]
        if str(seed) not in subsets:
            raise unknown("seed", seed, subsets)
        return np.isin(self.columns["index"], np.asarray(subsets[str(seed)], np.int64))

    def arrays(self, kind: str, rows: np.ndarray | None = None) -> np.ndarray | None:
        """What was kept of the maps, `(R, ...)` float32 in the order of the columns; None where it was not kept.

        Args:
          kind: "coefficients" `(R, K)`, "maps" `(R, h, w)` at the layer's resolution and not scaled,
            "insertion_curve" or "deletion_curve" `(R, S)`, "reference" `(R, K)`.
          rows: indices of the rows wanted, all unless given.

        Raises:
          JaxcamError: a file is missing or damaged.
        """
        from jaxcam.metrics.registry import METRICS  # here, since it imports JAX, and reading a run does not

        curves = {m.perturbation.array for m in METRICS.values() if m.perturbation and m.perturbation.says}
        kinds = ("coefficients", "maps", "reference", *sorted(curves))
        check_known("kind of array", kind, kinds)
        assert isinstance(self.columns, Columns)
        wanted = self.columns.places(np.arange(len(self)) if rows is None else np.asarray(rows))
        result: np.ndarray | None = None
        for unit in np.unique(wanted[:, 0]):
            values = self._unit_arrays(int(unit), kind)
            if values is None:
                return None
            here = np.flatnonzero(wanted[:, 0] == unit)
            if result is None:
                result = np.empty((len(wanted), *values.shape[1:]), values.dtype)
            if not values.shape or values.shape[1:] != result.shape[1:] or wanted[here, 1].max() >= len(values):
                raise _damaged(arrays_file(self.folder, int(unit)))
            result[here] = values[wanted[here, 1]]
        return result

    def _unit_arrays(self, unit: int, kind: str) -> np.ndarray | None:
        file = arrays_file(self.folder, unit)
        if not self.manifest["settings"]["keep"]:
            return None
        try:
            with np.load(file, allow_pickle=False) as f:
                if MADE in f.files and str(f[MADE]) != made(unit, self._stamp):
                    raise ValueError("of another unit, or another run")
                if kind not in f.files:
                    if kind in self.manifest["settings"]["keep"]:
                        raise ValueError("not all that was kept")
                    return None
                values = f[kind]
        except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile):
            raise _damaged(file) from None
        return values

    @functools.cached_property
    def _stamp(self) -> str:
        return stamp(self.manifest)


def _damaged(file: pathlib.Path) -> JaxcamError:
    return JaxcamError(f"{file}: is missing or damaged; remove it, and the same jaxcam evaluate makes it again")


def read_manifest(folder: pathlib.Path) -> dict:
    """The manifest of a run.

    Raises:
      JaxcamError: there is none, or it is not one.
    """
    file = folder / "manifest.json"
    if not os.path.lexists(file):
        raise JaxcamError(f"{folder}: holds no run of jaxcam evaluate (there is no manifest.json)")
    data = read_file(file)
    try:
        manifest = json.loads(data)
        written = manifest["format"]
        settings, *tables = (manifest[k] for k in ("settings", "images", "subsets"))
        whole = all(isinstance(t, dict) for t in (settings, *tables)) and settings["batch_size"] >= 1
        whole = whole and bool(settings["methods"]) and manifest.get("sha256") in (None, _digest(manifest))
    except (ValueError, KeyError, TypeError, RecursionError):
        written, whole = FORMAT, False
    if written == FORMAT and not whole:
        raise JaxcamError(
            f"{file}: is not the manifest of a run of jaxcam evaluate, or is damaged; the same jaxcam evaluate mends "
            "it, where its records are whole"
        )
    if written != FORMAT:
        raise JaxcamError(
            f"{file}: has the format {written}, and this jaxcam reads {FORMAT}; read it with the other one"
        )
    return manifest


def units_of(manifest: dict) -> list[np.ndarray]:
    """Places in the data set of the pictures of each unit.

    They depend on the settings alone, so that where a run was stopped, and who makes which unit, changes no batch and
    hence no bit of a result.
    """
    places = np.asarray([int(i) for i in manifest["images"]], np.int64)
    size = manifest["settings"]["batch_size"]
    return [places[start : start + size] for start in range(0, len(places), size)]


def read_run(folder: str | os.PathLike) -> Run:
    """Reads a run, also one that is not finished or is being made.

    Raises:
      JaxcamError: the folder holds no run, it cannot be read, or its records are not those of its manifest.
    """
    folder = pathlib.Path(folder)
    manifest = read_manifest(folder)
    records = Records(folder)
    check_units(folder, manifest, records)
    settings = manifest["settings"]
    return Run(
        folder=folder, manifest=manifest, columns=Columns(records, settings["methods"], settings["metrics"]),
        broken=records.broken, units=Units(records), complete=len(records.numbers) == len(units_of(manifest)),
        spoilt=records.spoilt,
    )  # fmt: skip


def check_units(folder: pathlib.Path, manifest: dict, records: Records) -> None:
    """Raises a JaxcamError, which says what to do, unless every unit can be one of the manifest's run."""

    def refuse(number: int, why: str) -> NoReturn:
        raise JaxcamError(
            f"{folder}: the records do not add up: unit {number} {why}; the folder was damaged, or two runs wrote into "
            "it. Give the jaxcam evaluate command again with another --out, or remove this folder first"
        )

    # Before anything else is read of a manifest that may be damaged.
    if foreign := [first for run, first in records.stamps.items() if run != stamp(manifest)]:
        refuse(min(foreign), "was made with other settings than manifest.json says")
    pictures, methods = units_of(manifest), set(manifest["settings"]["methods"])
    odd = records.numbers[(records.numbers < 0) | (records.numbers >= len(pictures))]
    if len(odd):
        refuse(odd.min(), f"is none of the {len(pictures)} that the manifest divides the pictures into")
    if not len(records):
        return
    places, sizes = np.concatenate(pictures), [len(p) for p in pictures]
    own = np.full(places.max() + 1, -1)
    own[places] = np.repeat(np.arange(len(pictures)), sizes)
    unit, index = np.repeat(records.numbers, records.counts), records.column("index")
    known = (index >= 0) & (index < len(own))
    good = known & (own[np.where(known, index, 0)] == unit)
    codes, words = records.text("method")
    good &= np.asarray([word in methods for word in words])[codes]
    if not good.all():
        refuse(unit[~good].min(), "holds pictures or methods that are not its own")


def stamp(manifest: dict) -> str:
    """A digest of all that the results of a run depend on; every commit line carries it."""
    return _sha256({k: manifest[k] for k in ("settings", "images", "subsets")})


def sealed(manifest: dict) -> dict:
    """A manifest with a digest of all of it, by which one that was changed afterwards is known."""
    return manifest | {"sha256": _digest(manifest)}


def _digest(manifest: dict) -> str:
    return _sha256({k: v for k, v in manifest.items() if k != "sha256"})


def _sha256(said: dict) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
