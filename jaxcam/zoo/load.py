"""The networks that can be asked for, by name or by the file or folder that holds them."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from jaxcam.converters import convert
from jaxcam.data.class_names import class_names
from jaxcam.errors import JaxcamError, unknown
from jaxcam.models.config import Config
from jaxcam.models.network import Network
from jaxcam.models.registry import name_of
from jaxcam.zoo.catalogue import CATALOGUE, Published
from jaxcam.zoo.download import fetch
from jaxcam.zoo.store import load_network, read_manifest

#: Of files of weights; what ends so is meant for one.
_ENDINGS = {".pth", ".pt", ".th", ".ckpt", ".bin", ".tar", ".safetensors", ".npz", ".h5", ".hdf5", ".keras"}
_BUNDLED = pathlib.Path(__file__).parent / "bundled"
DEFAULT_MODEL = "efficientnet_lite0"


def bundled() -> dict[str, dict]:
    """The manifests of the networks that come with jaxcam, by name; the default one first."""
    names = sorted(p.parent.name for p in _BUNDLED.glob("*/network.json"))
    names.sort(key=lambda n: n != DEFAULT_MODEL)
    return {name: read_manifest(_BUNDLED / name) for name in names}


def load(
    name: str | os.PathLike | None = None, *, weights: str | os.PathLike | None = None, table: str | None = None
) -> Network:
    """Loads a network.

    Args:
      name: a bundled network (`efficientnet_lite0`, which knows ImageNet's 1,000 classes, `vgg16_slim` and
        `resnet50_slim`, which know ten; the first unless given), a name of the catalogue (`vgg16`, `resnet50` ...;
        downloaded on first use), a folder that `jaxcam train`, `jaxcam convert` or `save_network` wrote, or a file of
        weights by PyTorch or Keras. A name goes before a file: `./vgg16` is always a path.
      weights: use the weights in this file or folder instead. `name`, where given too, then says which
        architecture to expect, and a file that does not tell its classes and preprocessing takes them from there.
      table: which of several tables of weights in that file to take, such as `ema`; see `jaxcam convert`.

    Raises:
      JaxcamError: there is no such network; its files are broken, or cannot be downloaded.
    """
    if weights is not None:
        return _with_weights(pathlib.Path(weights), name, table)
    name = DEFAULT_MODEL if name is None else os.fspath(name)
    if os.sep not in name and os.path.isfile(_BUNDLED / name / "network.json"):
        return load_network(_BUNDLED / name, fits=True)
    if name in CATALOGUE:
        return _published(CATALOGUE[name])
    path = pathlib.Path(name)
    if os.path.isdir(path):  # which an impossible name is not, without an error
        return load_network(path)
    if os.path.isfile(path):
        return _foreign(path)
    if os.sep in name or path.suffix.lower() in _ENDINGS:
        raise JaxcamError(f"there is no such file or folder, and no model called {name!r}")
    raise unknown("model", name, [*bundled(), *CATALOGUE])


def begin_with(name: str | os.PathLike, architecture: Config | None = None) -> Network:
    """A network to begin training with: as `load`; a file of weights may lack layers, which are not among the
    parameters then.

    Args:
      name: as of `load`.
      architecture: of the network in a file, with the layers that the file lacks; told from the file where None.

    Raises:
      JaxcamError: as `load`.
    """
    path = pathlib.Path(name)
    known = os.path.isfile(_BUNDLED / path / "network.json") or os.fspath(name) in CATALOGUE
    if known or not os.path.isfile(path):
        return load(name)
    return _foreign(path, architecture, partial=True)


def _published(entry: Published) -> Network:
    """A network of the catalogue."""
    path = fetch(entry.url, entry.cached_as, digest=entry.digest, largest=entry.largest)
    network = convert(
        path, architecture=entry.config, classes=entry.class_names, preprocessing=entry.preprocessing,
        multi_label=entry.multi_label, name=entry.name,
    )  # fmt: skip
    return dataclasses.replace(network, provenance=entry.provenance | _of_the_file(network))


def _of_the_file(network: Network) -> dict:
    """What the conversion says of the file, beside what the catalogue says of the weights."""
    told = dict(network.provenance)
    return {"file": told.pop("source", "")} | told


def _foreign(
    path: pathlib.Path, architecture: Config | None = None, table: str | None = None, *, partial: bool = False
) -> Network:
    """A network from another library's file, with the names of a well-known data set where its size is telling."""
    name = path.stem if architecture is None else None
    network = convert(path, architecture=architecture, name=name, table=table, partial=partial)
    known = {(1000, False): "imagenet", (20, True): "voc", (80, True): "coco"}
    if data := known.get((len(network.classes), network.multi_label)):
        told = network.provenance | {"classes": f"{data}'s, as the number of logits suggests"}
        network = dataclasses.replace(network, classes=class_names(data), provenance=told)
    return network


def _with_weights(weights: pathlib.Path, name: str | os.PathLike | None, table: str | None) -> Network:
    """The network in a file or folder; what the file does not say comes from the network called `name`."""
    if not weights.exists():
        raise JaxcamError(f"{weights}: there is no such file or folder of weights")
    if name is None:
        return load_network(weights) if weights.is_dir() else _foreign(weights, table=table)
    pattern = _pattern(os.fspath(name))
    if weights.is_dir():
        network = load_network(weights)
        there, asked = network.config, pattern.config
        if (name_of(there), there.batch_norm) != (name_of(asked), asked.batch_norm):
            raise JaxcamError(f"{weights}: holds another architecture than {name}; leave the model's name out")
        return network
    network = _foreign(weights, pattern.config, table)
    fields: dict = {}
    if network.provenance.get("names") in ("torchvision", "timm"):  # others' names tell the preprocessing
        fields = {"preprocessing": pattern.preprocessing, "multi_label": pattern.multi_label}
    if len(network.classes) == len(pattern.classes):
        fields["classes"] = pattern.classes
    return dataclasses.replace(network, name=os.fspath(name), **fields)


def _pattern(name: str) -> Network:
    """What a network is like; nothing is downloaded, so that one of the catalogue has no weights."""
    if name not in CATALOGUE:
        return load(name)
    entry = CATALOGUE[name]
    return Network(name, entry.config, {}, entry.class_names, entry.preprocessing, entry.multi_label)
