"""A network as a folder that holds an Orbax checkpoint, which any program of the JAX world can restore."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

from jaxcam.errors import JaxcamError
from jaxcam.models.network import Network
from jaxcam.zoo.orbax import ORBAX, file_digests
from jaxcam.zoo.store import manifest_of

#: Bytes of one chunk of an array, and about of one file of a checkpoint. Every core works on some at a time.
_CHUNK, _FILE = 1 << 20, 4 << 20
_OURS = {"network.json", "weights.safetensors", ORBAX}


def save_checkpoint(folder: str | os.PathLike, network: Network) -> None:
    """Writes a network to a folder that `load_network` reads: `network.json` and an Orbax checkpoint in float32.

    The folder takes its name when all of it is written; a network that was there before is replaced.

    Raises:
      JaxcamError: the folder cannot be written, or holds files that are not a network's.
    """
    import orbax.checkpoint as ocp  # slow to import, and few need it

    folder = pathlib.Path(folder).absolute()  # Orbax refuses others
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise JaxcamError(f"{folder}: is not a folder; choose another name")
    try:
        foreign = sorted({p.name for p in folder.iterdir()} - _OURS) if folder.is_dir() else []
        if foreign:
            raise JaxcamError(f"{folder}: holds other files ({foreign[0]}); choose another folder")
        with _whole_folder(folder) as temporary:
            _save_orbax(temporary / ORBAX, network.params)
            manifest = manifest_of(network) | {
                "orbax": {"version": ocp.__version__, "sha256": file_digests(temporary / ORBAX)}
            }
            (temporary / "network.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise JaxcamError(f"{folder}: cannot be written ({e.strerror or e}); choose another folder") from None


def _save_orbax(folder: pathlib.Path, params: dict) -> None:
    """Writes what `StandardCheckpointer` would, but in small chunks and files.

    By itself Orbax compresses a whole array at once and gathers the results for files of 2 GB: the weights are held
    twice then, and a VGG16 has one layer that is three quarters of it.
    """
    import jax
    import orbax.checkpoint as ocp

    small = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        told = ocp.args.PyTreeSave(params, save_args=small, ocdbt_target_data_file_size=_FILE)
        checkpointer.save(folder, args=told)


@contextlib.contextmanager
def _whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write to, which takes its name, and an older one's place, only when the block succeeds."""
    temporary, old = (folder.with_name(f".{folder.name[:200]}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
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
