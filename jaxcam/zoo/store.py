"""A network as a folder: `network.json`, and `weights.safetensors` or an Orbax checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as serialize_safetensors

from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.files import check_writable, whole_file
from jaxcam.models.network import Network, graph
from jaxcam.models.registry import FAMILIES
from jaxcam.models.trees import flatten, unflatten


def save_network(folder: str | os.PathLike, network: Network, *, dtype: str = "float32") -> None:
    """Writes a network to a folder that `load_network` reads; each file appears whole or not at all.

    Args:
      dtype: "float32", or "float16" to halve the size (values beyond its range are refused).
    """
    folder, manifest = pathlib.Path(folder), manifest_of(network)
    with np.errstate(over="ignore"):  # told below, with the name of the weights
        tensors = {k: np.asarray(v).astype(dtype) for k, v in flatten(network.params).items()}
    bad = [k for k, v in tensors.items() if not np.isfinite(v).all()]
    if bad:
        raise JaxcamError(f"{network.name}: the weights {bad[0]} hold NaN or values that {dtype} cannot hold")
    check_writable(folder)
    with whole_file(folder / "weights.safetensors") as f:
        f.write(serialize_safetensors(tensors))
    with whole_file(folder / "network.json") as f:
        f.write((json.dumps(manifest, indent=2) + "\n").encode())


def manifest_of(network: Network) -> dict:
    """What `network.json` says of a network: everything but its weights.

    Raises:
      JaxcamError: it is not of this library's families, so that nothing could read it again.
    """
    if not isinstance(network, Network):
        raise JaxcamError(f"{network.name}: only a VGG or ResNet of jaxcam's can be saved; save this one yourself")
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
        manifest = json.loads(file.read_text(encoding="utf-8"))
        manifest["architecture"], manifest["preprocessing"], manifest["classes"], manifest["family"]
    except OSError as e:
        raise JaxcamError(f"{file}: cannot be read ({e.strerror}); a network's folder holds one") from None
    except (ValueError, KeyError, TypeError):
        raise JaxcamError(f"{file}: is not a manifest written by jaxcam") from None
    return manifest


def load_network(folder: str | os.PathLike) -> Network:
    """Reads a network written by `save_network` or `save_checkpoint`; weights are float32 whatever their dtype on disk.

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
        expected = flatten(graph(config)[2])
    except (KeyError, TypeError, ValueError) as e:
        raise JaxcamError(f"{folder / 'network.json'}: describes no network that jaxcam knows ({e})") from None
    if "orbax" in manifest:
        from jaxcam.zoo.orbax import ORBAX, read_orbax  # slow to import, and few need it

        source, listed = folder / ORBAX, manifest["orbax"]
        tensors = read_orbax(source, expected, listed.get("sha256") if isinstance(listed, dict) else None)
    else:
        source = folder / "weights.safetensors"
        tensors = _read_safetensors(source)
    check_fit(str(source), tensors, expected)
    return Network(
        name=manifest.get("name", folder.name),
        config=config,
        params=unflatten({k: jnp.asarray(v, jnp.float32) for k, v in tensors.items()}),
        classes=tuple(manifest["classes"]),
        preprocessing=rules,
        multi_label=bool(manifest.get("multi_label", False)),
        provenance=manifest.get("provenance", {}),
    )


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return parse_safetensors(file.read_bytes())
    except OSError as e:
        raise JaxcamError(f"{file}: cannot be read ({e.strerror})") from None
    except (SafetensorError, ValueError, KeyError) as e:
        raise JaxcamError(f"{file}: is not a safetensors file, or is cut off ({e})") from None


def check_fit(source: str, tensors: dict[str, np.ndarray], expected: dict) -> None:
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
