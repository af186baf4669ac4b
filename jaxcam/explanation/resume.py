"""What a run leaves for the next one with the same settings: finished pictures, and states of maps in flight."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import os
import pathlib
import time
import typing
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxcam import __version__
from jaxcam.data.images import MAX_BYTES
from jaxcam.errors import JaxcamError
from jaxcam.explanation.result import Attribution, Explanation
from jaxcam.files import check_writable, open_file, read_file, try_lock, whole_file
from jaxcam.models.classifier import Classifier
from jaxcam.shapley.stepping import State
from jaxcam.transforms.precision import HIGHEST

#: The folder, in that of the results, that holds the states.
FOLDER = ".jaxcam-progress"
#: What NumPy's reader makes of a file that is damaged, or none of ours.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)
#: Seconds between two states of a map that are kept.
INTERVAL = 10.0


def settings_digest(
    network: Classifier, *, layer: str, methods: Sequence[str], targets: Any, seed: int,
    precision: str | None = None, code: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """What decides the numbers of a run besides the pictures; batches and devices do not."""
    named = {"classes": list(network.classes), "multi_label": network.multi_label, **network.described()}
    named["preprocessing"] = network.preprocessing.fields()
    chosen = {"layer": layer, "methods": list(methods), "targets": targets, "seed": seed, "version": __version__}
    asked = precision or network.precision or HIGHEST
    if asked != HIGHEST:
        chosen["precision"] = asked
    if code:
        chosen["code"] = dict(code)
    text = json.dumps(named | chosen | {"weights": network.digest()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def code_of_others(functions: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files that functions stand in, so that results of another version of them are told apart.

    Left out are this library's own, which have its version. Of a function that stands in no file it is of its own code.
    """
    found = {}
    for name, function in functions.items():
        plain = inspect.unwrap(getattr(function, "func", function))
        home = plain if hasattr(plain, "__code__") else type(plain)
        if home.__module__.partition(".")[0] in ("builtins", __name__.partition(".")[0]):
            continue
        try:
            data = pathlib.Path(inspect.getfile(home)).read_bytes()
        except (OSError, TypeError):
            code = getattr(home, "__code__", None)
            data = (code.co_code + repr(code.co_names).encode()) if code else home.__qualname__.encode()
        found[name] = hashlib.sha256(data).hexdigest()[:16]
    return found


def from_first(data: bytes) -> bytes:
    """What the first process has, in all of them."""
    if jax.process_count() == 1:
        return data
    from jax.experimental import multihost_utils as hosts

    size = int(hosts.broadcast_one_to_all(np.int32(len(data))))
    padded = np.frombuffer(data if jax.process_index() == 0 else bytes(size), np.uint8)
    return np.asarray(hosts.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


def check_alike(settings: str) -> None:
    """Raises a JaxcamError in all processes unless they were started with the same settings."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils as hosts

    mine = np.frombuffer(bytes.fromhex(settings), np.uint8).astype(np.int32)
    if len(np.unique(np.asarray(hosts.process_allgather(mine)), axis=0)) > 1:
        raise JaxcamError("the processes were started with different weights, pictures or settings")


class Digests:
    """A digest for each picture: of its bytes and of the settings."""

    def __init__(self, settings: str):
        self.settings = settings
        self._known: dict[str, str] = {}

    def of(self, path: str) -> str:
        """The digest of a picture; of one that cannot be read, that of nothing."""
        if path not in self._known:
            content = hashlib.sha256()
            with contextlib.suppress(JaxcamError, OSError), open_file(path) as file:
                if os.fstat(file.fileno()).st_size <= MAX_BYTES:
                    content = hashlib.file_digest(file, "sha256")
            self._known[path] = hashlib.sha256(self.settings.encode() + content.digest()).hexdigest()
        return self._known[path]


class MapsInFlight:
    """The states of maps in flight, in a folder of their own that only one run uses at a time.

    With several processes the first one alone reads and writes.

    Attributes:
      strangers: states found that belong to other pictures or settings; they are not used.

    Raises:
      JaxcamError: another run is at work in the folder, or it cannot be written.
    """

    def __init__(self, out: pathlib.Path, digests: Digests, paths: Sequence[str]):
        self.folder, self.digests = out / FOLDER, digests
        self.first = jax.process_index() == 0
        self.strangers = 0
        self._saved = 0.0
        if self.first:
            check_writable(self.folder)
            lock = try_lock(self.folder / "lock")
            if lock is None:
                raise JaxcamError(f"{out}: another jaxcam is at work there; wait for it, or choose another --out")
            self._lock = lock  # held until `close`
            known = {digests.of(p)[:32] for p in paths}
            self.strangers = sum(p.name[:32] not in known for p in self.folder.glob("*.npz"))

    def _file(self, source: str, label: str, target: int) -> pathlib.Path:
        which = hashlib.sha256(f"{label} {target}".encode()).hexdigest()[:16]
        return self.folder / f"{self.digests.of(source)[:32]}-{which}.npz"

    def load(self, source: str, label: str, target: int, kinds: tuple[type, ...]) -> State | None:
        """The state of a map that an earlier run began, of one of these kinds; None where none can be read."""
        self._saved = time.monotonic()
        data = b""
        if self.first:
            with contextlib.suppress(JaxcamError):
                data = read_file(self._file(source, label, target))
        data = from_first(data)
        return parsed_state(data, kinds) if data else None

    def save(self, source: str, label: str, target: int, state: State, last: bool) -> None:
        """Keeps a state, unless another was kept a moment ago and this is not the last one."""
        if not self.first or (not last and time.monotonic() - self._saved < INTERVAL):
            return
        with whole_file(self._file(source, label, target)) as f:
            np.savez(f, **state_arrays(state))  # type: ignore[arg-type]
        self._saved = time.monotonic()

    def forget(self, source: str) -> None:
        """Removes the states of a picture whose results are written."""
        if self.first:
            for file in self.folder.glob(f"{self.digests.of(source)[:32]}-*.npz"):
                file.unlink(missing_ok=True)

    def close(self, *, remove: bool) -> None:
        """Ends the run's hold on the folder; with `remove` nothing is left of it."""
        if not self.first:
            return
        self._lock.release()
        if remove:
            with contextlib.suppress(OSError):
                for file in (*self.folder.glob("*.npz"), *self.folder.glob(".*.tmp"), self.folder / "lock"):
                    os.unlink(file)
                self.folder.rmdir()


def state_arrays(state: State) -> dict[str, np.ndarray]:
    """A state as arrays by name."""
    leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}
    return {"kind": np.asarray(type(state).__name__), **leaves}


def parsed_state(data: bytes, kinds: tuple[type, ...]) -> State | None:
    """A state from the file of its arrays, or None where the bytes are not one of these kinds."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            blank = _blank({kind.__name__: kind for kind in kinds}[str(arrays["kind"])])
            leaves = [arrays[f"leaf{i}"] for i in range(len(jax.tree.leaves(blank)))]
    except _DAMAGED:
        return None
    return jax.tree.unflatten(jax.tree.structure(blank), leaves)


def _blank(kind: Any) -> Any:
    """A state of a kind, of which only the structure counts."""
    return kind(*(_blank(t) if hasattr(t, "_fields") else 0 for t in typing.get_type_hints(kind).values()))


def saved_digest(file: pathlib.Path) -> str | None:
    """The digest in a file of results; None where there is no such file, or not a whole one."""
    try:
        with np.load(io.BytesIO(read_file(file)), allow_pickle=False) as arrays:
            return str(arrays["digest"]) if "digest" in arrays else ""
    except _DAMAGED:
        return None


def read_explanation(file: pathlib.Path, image: Image.Image, network: Classifier) -> Explanation | None:
    """What `Explanation.save` wrote, with the picture that it leaves out; None where the file is damaged."""
    try:
        with np.load(io.BytesIO(read_file(file)), allow_pickle=False) as arrays:
            return _explanation({k: arrays[k] for k in arrays.files}, image, network)
    except (*_DAMAGED, IndexError, TypeError):
        return None


def _explanation(a: dict[str, np.ndarray], image: Image.Image, network: Classifier) -> Explanation:
    results = [
        Attribution(
            method=str(a["methods"][i]), target=None if a["targets"][i] < 0 else int(a["targets"][i]),
            class_name=str(a["class_names"][i]),
            probability=float(a["probabilities"][i]), logit=float(a["logits"][i]), coefficients=a["coefficients"][i],
            map=a["maps"][i], completeness_gap=float(a["completeness_gaps"][i]), seconds=float(a["seconds"][i]),
            empty=str(a["empty"][i]) or None, region=tuple(a["region"].tolist()), size=(image.height, image.width),
            doubt=str(a["doubt"][i]) or None if "doubt" in a else None,
            negative=float(a["negative"][i]) if "negative" in a else float("nan"),
            signed_map=a["signed_maps"][i] if "signed_maps" in a else None,
        )
        for i in range(len(a["methods"]))
    ]  # fmt: skip
    return Explanation(
        source=str(a["source"]), image=image, model=str(a["model"]), layer=str(a["layer"]),
        classes=tuple(a["classes"].tolist()), logits=a["all_logits"],
        probabilities=network.probabilities(a["all_logits"]), results=tuple(results),
    )  # fmt: skip
