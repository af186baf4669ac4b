"""Reading an Orbax checkpoint with every doubt settled before memory is taken."""

from __future__ import annotations

import hashlib
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.models.trees import flatten, unflatten

#: Where in its folder a network keeps an Orbax checkpoint, where it keeps one.
ORBAX = "weights.orbax"


def file_digests(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder, by relative path."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as f:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(f, "sha256").hexdigest()
    return digests


def read_orbax(folder: pathlib.Path, expected: dict[str, Any], digests: Any) -> dict[str, np.ndarray]:
    """The arrays of an Orbax checkpoint by dotted path.

    Args:
      folder: the checkpoint.
      expected: anything with a shape for every array it must hold; compared before memory is taken.
      digests: the SHA-256 of its files, as the manifest has them. Orbax itself meets damage with pages of
        messages from several threads, so that it is found before.

    Raises:
      JaxcamError: it is no checkpoint, is damaged, or holds other arrays.
    """
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    if not folder.is_dir():
        raise JaxcamError(f"{folder}: cannot be read (no such folder); a network's checkpoint lies there")
    try:
        if file_digests(folder) != digests:
            raise JaxcamError(f"{folder}: is damaged: its files are not those that network.json lists")
        numbers = sum(math.prod(x.shape) for x in expected.values())
        stored = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    except OSError as e:
        raise JaxcamError(f"{folder}: cannot be read ({e.strerror or e})") from None
    if 4 * numbers > 100 * stored + (1 << 26):  # trained weights hardly compress
        raise JaxcamError(f"{folder}: {stored:,} bytes cannot hold the {numbers:,} numbers of this architecture")
    # Whatever devices wrote it: to the first of those here.
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {k: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=place) for k, x in expected.items()}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            there = flatten(dict(checkpointer.metadata(folder).item_metadata.tree))
            _compare(folder, {k: tuple(x.shape) for k, x in there.items()}, expected)
            return flatten(checkpointer.restore(folder, unflatten(target)))
    except JaxcamError:
        raise
    except Exception as e:  # tensorstore's errors have no class of their own
        told = " ".join(str(e).split())
        raise JaxcamError(f"{folder}: is no checkpoint that Orbax can restore ({told[:200]})") from None


def _compare(folder: pathlib.Path, there: dict[str, tuple[int, ...]], expected: dict[str, Any]) -> None:
    wanted = {k: tuple(x.shape) for k, x in expected.items()}
    wrong = sorted(k for k in there.keys() | wanted.keys() if there.get(k) != wanted.get(k))
    if wrong:
        first = wrong[0]
        raise JaxcamError(
            f"{folder}: does not hold the architecture of network.json: {len(wrong)} arrays differ, {first} is "
            f"{there.get(first, 'missing')} and not {wanted.get(first, 'expected')}"
        )
