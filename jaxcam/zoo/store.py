"""A network as a folder: `network.json`, and `weights.safetensors` or an Orbax checkpoint.

Any program of the JAX world can restore the latter. What is read is checked before memory is taken for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as serialize_safetensors

from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.files import MOST_LISTED, check_writable, clipped, read_file, whole_file
from jaxcam.models.config import Config
from jaxcam.models.network import Network
from jaxcam.models.registry import FAMILIES
from jaxcam.models.trees import flatten, unflatten

# Orbax is imported where it is needed: it is slow to import, and few need it.
#: Where in its folder a network keeps an Orbax checkpoint, where it keeps one.
_ORBAX = "weights.orbax"
_OURS = {"network.json", "weights.safetensors", _ORBAX}
#: Bytes of one chunk of an array, and about of one file of a checkpoint. Every core works on some at a time.
_CHUNK, _FILE = 1 << 20, 4 << 20


def save_network(folder: str | os.PathLike, network: Network, *, dtype: str = "float32") -> None:
    """Writes a network to a folder that `load_network` reads; each file appears whole or not at all.

    Args:
      dtype: "float32", or "float16" to halve the size of the kernels (values beyond its range are refused); biases
        and norms, of which there are few, stay float32.
    """
    folder, manifest = pathlib.Path(folder), _manifest(network)
    with np.errstate(over="ignore"):  # told below, with the name of the weights
        tensors = {
            k: np.asarray(v).astype(dtype if v.ndim > 1 else "float32") for k, v in flatten(network.params).items()
        }
    bad = [k for k, v in tensors.items() if not np.isfinite(v).all()]
    if bad:
        raise JaxcamError(f"{network.name}: the weights {bad[0]} hold NaN or values that {dtype} cannot hold")
    check_writable(folder)
    with whole_file(folder / "weights.safetensors") as f:
        f.write(serialize_safetensors(tensors))
    with whole_file(folder / "network.json") as f:
        f.write((json.dumps(manifest, indent=2) + "\n").encode())


def save_checkpoint(folder: str | os.PathLike, network: Network) -> None:
    """Writes a network to a folder that `load_network` reads: `network.json` and an Orbax checkpoint in float32.

    The folder takes its name when all of it is written; a network that was there before is replaced.

    Raises:
      JaxcamError: the folder cannot be written, or holds files that are not a network's.
    """
    import orbax.checkpoint as ocp

    folder = pathlib.Path(folder).absolute()  # Orbax refuses others
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise JaxcamError(f"{folder}: is not a folder; choose another name")
    try:
        foreign = sorted({p.name for p in folder.iterdir()} - _OURS) if folder.is_dir() else []
        if foreign:
            raise JaxcamError(f"{folder}: holds other files ({foreign[0]}); choose another folder")
        with _whole_folder(folder) as temporary:
            _check_room(temporary, sum(x.nbytes for x in jax.tree.leaves(network.params)))
            _save_orbax(temporary / _ORBAX, network.params)
            manifest = _manifest(network) | {
                "orbax": {"version": ocp.__version__, "sha256": _file_digests(temporary / _ORBAX)}
            }
            (temporary / "network.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise JaxcamError(f"{folder}: cannot be written ({e.strerror or e}); choose another folder") from None


def _manifest(network: Network) -> dict:
    """What `network.json` says of a network: everything but its weights.

    Raises:
      JaxcamError: it is not of this library's families, so that nothing could read it again.
    """
    if not isinstance(network, Network):
        raise JaxcamError(
            f"{network.name}: only networks of jaxcam's own families can be saved; save this one yourself"
        )
    return {
        "name": network.name,
        **network.described(),
        "layers": list(network.layers),
        "classes": list(network.classes),
        "multi_label": network.multi_label,
        "preprocessing": dataclasses.asdict(network.preprocessing),
        "provenance": network.provenance,
    }


def read_manifest(folder: str | os.PathLike) -> dict:
    """The `network.json` of a folder.

    Raises:
      JaxcamError: it is missing or is not a manifest.
    """
    file = pathlib.Path(folder) / "network.json"
    try:
        data = read_file(file, MOST_LISTED)
    except JaxcamError as e:
        raise JaxcamError(f"{e}; a network's folder holds one") from None
    try:
        manifest = json.loads(data)
        manifest["architecture"], manifest["preprocessing"], manifest["classes"], manifest["family"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise JaxcamError(f"{file}: is not a manifest written by jaxcam") from None
    return manifest


def load_network(folder: str | os.PathLike, *, fits: bool = False) -> Network:
    """Reads a network written by `save_network` or `save_checkpoint`; weights are float32 whatever their dtype on disk.

    Args:
      fits: the folder is known to hold the weights of its architecture, which is then not made to compare them.

    Raises:
      JaxcamError: a file is missing or broken, the weights do not fit the architecture, or hold NaN.
    """
    folder = pathlib.Path(folder)
    manifest = read_manifest(folder)
    try:
        config = FAMILIES[manifest["family"]].config(**manifest["architecture"])
        preprocessing = dict(manifest["preprocessing"])
        preprocessing |= {k: tuple(preprocessing[k]) for k in ("mean", "std")}
        rules = Preprocessing(**preprocessing)
        expected = None if fits else _expected(config)
        told = dict(manifest.get("provenance", {}))
        classes = tuple(manifest["classes"])
        if not all(isinstance(c, str) for c in classes):
            raise TypeError("classes that are no names")
        if not isinstance(manifest.get("multi_label", False), bool):  # "false", as a text, would be true
            raise TypeError(f"multi_label is true or false, not {manifest['multi_label']!r}")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as e:
        raise JaxcamError(f"{folder / 'network.json'}: describes no network that jaxcam knows ({e})") from None
    source = folder / "weights.safetensors"
    if expected is not None and "orbax" in manifest:
        source, listed = folder / _ORBAX, manifest["orbax"]
        tensors = _read_orbax(source, expected, listed.get("sha256") if isinstance(listed, dict) else None)
    else:
        tensors = _read_safetensors(source, expected)
    if expected is not None:
        _check_fit(str(source), tensors, expected)
    return Network(
        name=str(manifest.get("name", folder.name)),
        config=config,
        params=unflatten(jax.device_put({k: v.astype(np.float32, copy=False) for k, v in tensors.items()})),
        classes=classes,
        preprocessing=rules,
        multi_label=bool(manifest.get("multi_label", False)),
        provenance=told,
    )


def _expected(config: Config) -> dict[str, Any]:
    """The shapes of a network's parameters by dotted path."""
    from jaxcam.models.graph import graph

    return flatten(graph(config)[2])


def _read_safetensors(file: pathlib.Path, expected: dict[str, Any] | None) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, which takes no more bytes than what is expected would in float64."""
    try:
        most = file.stat().st_size if expected is None else 8 * sum(math.prod(x.shape) for x in expected.values())
        return parse_safetensors(read_file(file, MOST_LISTED + most))
    except JaxcamError:
        raise
    except (SafetensorError, ValueError, KeyError) as e:
        raise JaxcamError(f"{file}: is not a safetensors file, or is cut off ({e})") from None


def _check_fit(source: str, tensors: dict[str, np.ndarray], expected: dict) -> None:
    """Raises one JaxcamError that names every missing, unexpected, misshapen or non-finite tensor."""
    problems = [f"{k} is missing" for k in expected if k not in tensors]
    problems += [f"{k} belongs to no layer" for k in tensors if k not in expected]
    for k in expected:
        if k not in tensors:
            continue
        if tuple(tensors[k].shape) != tuple(expected[k].shape):
            problems.append(f"{k} has shape {tuple(tensors[k].shape)}, not {tuple(expected[k].shape)}")
        elif not np.isfinite(tensors[k]).all():
            problems.append(f"{k} holds NaN or infinite values")
    if problems:
        more = f" (and {len(problems) - 5} more problems)" if len(problems) > 5 else ""
        raise JaxcamError(f"{source}: the weights do not fit: " + "; ".join(problems[:5]) + more)


def _check_room(folder: pathlib.Path, size: int) -> None:
    """Takes so many bytes of the disk for a moment: Orbax meets a full one with pages of messages from its threads.

    Raises:
      OSError: the disk is full.
    """
    allocate = getattr(os, "posix_fallocate", None)  # not on macOS
    if allocate is None:
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    probes = [folder / f".room{i}" for i in range(-(-size // _FILE))]
    try:
        for probe in probes:
            with open(probe, "wb") as f:
                allocate(f.fileno(), 0, min(_FILE, size))
    finally:
        for probe in probes:
            probe.unlink(missing_ok=True)


def _save_orbax(folder: pathlib.Path, params: dict) -> None:
    """Writes what `StandardCheckpointer` would, but in small chunks and files.

    By itself Orbax compresses a whole array at once and gathers the results for files of 2 GB: the weights are held
    twice then, and a VGG16 has one layer that is three quarters of it.
    """
    import orbax.checkpoint as ocp

    small = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            told = ocp.args.PyTreeSave(params, save_args=small, ocdbt_target_data_file_size=_FILE)
            checkpointer.save(folder, args=told)
    except ValueError as e:  # what tensorstore makes of the system's errors
        raise OSError(" ".join(str(e).split())[-200:]) from None


@contextlib.contextmanager
def _whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write to, which takes its name, and an older one's place, only when the block succeeds."""
    temporary, old = (folder.with_name(f".{clipped(folder.name, 200)}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.is_dir():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.is_dir() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _file_digests(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder, by relative path."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with open(path, "rb") as f:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(f, "sha256").hexdigest()
    return digests


def _read_orbax(folder: pathlib.Path, expected: dict[str, Any], digests: Any) -> dict[str, np.ndarray]:
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
        if _file_digests(folder) != digests:
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
