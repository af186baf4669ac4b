"""What has been made of units that are not committed yet, for pictures that take longer than a kill should cost.

A file holds what one step of a unit made: the maps of a method, the scores of a perturbation, the values of a metric,
or the state of a map that takes many steps. It appears whole or not at all, and begins with a digest of its bytes, of
the run's settings and of the unit's pictures, by which it is known to be of this very step: one that does not fit does
not exist, and its step is made again. Steps that take a moment are not kept. When the unit is committed its files go.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import jax
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.explanation.resume import parsed_state, state_arrays
from jaxcam.files import read_file, whole_file
from jaxcam.shapley.stepping import State

#: Seconds that a step takes at least to be kept, and seconds between two states of a map.
LEAST, INTERVAL = 1.0, 10.0
_FOLDER, _DIGEST = "unfinished", 32


class Unfinished:
    """What there is of one unit.

    Args:
      folder: of the run; None where nothing is kept.
      unit: its number.
      of: says all that its results depend on; called where there is something to keep, or kept.
    """

    def __init__(self, folder: pathlib.Path | None = None, unit: int = 0, of: Callable[[], str] = str):
        self._folder = None if folder is None else folder / _FOLDER
        self._name, self._of = _name(unit), functools.cache(of)
        self._scope: tuple[object, ...] = ()
        self._saved = self._begun = 0.0

    def once(self, what: tuple[object, ...], make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """What `make` makes, or made in an earlier run. (The time that it took there is in no sum of this one.)"""
        if (data := self._read(what)) is not None:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if self._folder is None:
            return make()
        begun = time.monotonic()
        found = jax.block_until_ready(make())  # else only asking for it would be timed
        if time.monotonic() - begun >= LEAST:
            self._write(what, {name: np.asarray(value) for name, value in found.items()})
        return found

    @contextlib.contextmanager
    def within(self, *scope: object) -> Iterator[None]:
        """Steps of the block are other ones than those of the same name outside, and no states are kept."""
        before, self._scope = self._scope, scope
        try:
            yield
        finally:
            self._scope = before

    def load(self, source: str, label: str, target: int, kinds: tuple[type, ...]) -> State | None:
        """The state of a map that an earlier run began."""
        self._saved = self._begun = time.monotonic()
        if self._scope:
            return None
        data = self._read(("state", source, label, target))
        return None if data is None else parsed_state(data, kinds)

    def save(self, source: str, label: str, target: int, state: State, last: bool) -> None:
        """Keeps a state, unless another was kept a moment ago; the last one of all but short maps."""
        now = time.monotonic()
        if self._scope:
            return
        if now - self._begun >= LEAST if last else now - self._saved >= min(INTERVAL, 10 * LEAST):
            self._write(("state", source, label, target), state_arrays(state))
            self._saved = now

    def _known(self, what: tuple[object, ...], folder: pathlib.Path) -> tuple[pathlib.Path, bytes]:
        """The file of a step, and what is digested with its bytes."""
        told = f"{self._of()} {self._scope!r} {what!r}".encode()
        return folder / f"{self._name}-{hashlib.sha256(told).hexdigest()[:16]}.npz", told

    def _read(self, what: tuple[object, ...]) -> bytes | None:
        if self._folder is None or not self._folder.is_dir():
            return None
        file, told = self._known(what, self._folder)
        with contextlib.suppress(JaxcamError):
            data = read_file(file)
            if data[:_DIGEST] == _digest(told, data[_DIGEST:]):
                return data[_DIGEST:]
        return None

    def _write(self, what: tuple[object, ...], arrays: Mapping[str, np.ndarray]) -> None:
        if self._folder is None:
            return
        file, told = self._known(what, self._folder)
        memory = io.BytesIO()
        np.savez(memory, **dict(arrays))  # type: ignore[arg-type]
        with contextlib.suppress(OSError):  # which is told of the file
            self._folder.mkdir(exist_ok=True)
        with whole_file(file) as f:
            f.write(_digest(told, memory.getvalue()))
            f.write(memory.getvalue())


def forget(folder: pathlib.Path, units: Collection[int]) -> None:
    """Removes what was kept of units that are committed, and what a kill left half written of them.

    The folder stays, as other units may be writing to it now: see `close`.
    """
    place, names = folder / _FOLDER, set(map(_name, units))
    with contextlib.suppress(OSError):
        for name in os.listdir(place):
            if name.removeprefix(".")[: len(_name(0))] in names:  # a file that is being written begins with a point
                (place / name).unlink()


def close(folder: pathlib.Path) -> None:
    """When no unit is being made: removes what is half written, and the folder where nothing else is left in it."""
    place = folder / _FOLDER
    with contextlib.suppress(OSError):
        for file in place.glob(".*.tmp"):
            file.unlink()
        place.rmdir()


def _name(unit: int) -> str:
    return f"unit-{unit:06}"


def _digest(told: bytes, data: bytes) -> bytes:
    return hashlib.sha256(told + data).hexdigest()[:_DIGEST].encode()
