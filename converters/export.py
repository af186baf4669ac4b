"""The other direction: a network's weights in torchvision's names, for people who use PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import numpy as np

from jaxcam.converters import names
from jaxcam.converters.rules import Rule, source_shape, to_source
from jaxcam.converters.safetensors_files import write_safetensors
from jaxcam.errors import JaxcamError
from jaxcam.models.network import Network
from jaxcam.models.registry import name_of
from jaxcam.models.trees import flatten

_STEPS = "num_batches_tracked"
_PART = 16 << 20


def _rules(network: Network) -> list[Rule]:
    tables = (d for d in names.DIALECTS if d.name == "torchvision" and d.family == network.config.family)
    dialect = next(tables, None)
    refusal = dialect.refusal(network.config) if dialect else "torchvision has no such network"
    if dialect is None or refusal:
        raise JaxcamError(f"{network.name}: {refusal}")
    return dialect.rules(network.config)


def _parts(network: Network, rule: Rule, flat: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """The tensor of a rule, a few megabytes of its rows at a time."""
    pool = network.config.flat_side
    values = np.asarray(flat[rule.target], np.float32)
    if rule.kind == "same":
        yield values
        return
    rows = values.shape[-1]
    step = max(1, _PART * rows // max(1, values.nbytes))
    for start in range(0, rows, step):
        yield to_source(rule.kind, values[..., start : start + step], pool)


def _counters(rules: list[Rule]) -> Iterator[str]:
    """Names of the step counters that PyTorch keeps beside every batch norm."""
    for rule in rules:
        if rule.sources[0].endswith("running_var"):
            yield rule.sources[0].replace("running_var", _STEPS)


def export_torchvision(network: Network) -> dict[str, np.ndarray]:
    """The weights as `torchvision.models` names and lays them out: a state dict of float32 arrays.

    Convolutions are (out, in, h, w), the first dense layer of a VGG takes (channel, row, column), and every
    batch norm has its `num_batches_tracked`, which is zero.

    Raises:
      JaxcamError: torchvision has no such network.
    """
    rules, flat = _rules(network), flatten(network.params)
    arrays = {r.sources[0]: np.concatenate(list(_parts(network, r, flat))) for r in rules}
    return arrays | {name: np.zeros((), np.int64) for name in _counters(rules)}


def save_torchvision_safetensors(path: str | os.PathLike, network: Network) -> None:
    """Writes what `export_torchvision` gives to a `.safetensors` file, whole or not at all.

    The header keeps the architecture, the classes and the preprocessing, as texts in JSON.

    Raises:
      JaxcamError: torchvision has no such network, or the file cannot be written.
    """
    rules, flat = _rules(network), flatten(network.params)
    sources = {r.sources[0]: r for r in rules}
    plan = [(n, source_shape(r.kind, tuple(flat[r.target].shape)), "F32") for n, r in sources.items()]
    plan += [(name, (), "I64") for name in _counters(rules)]

    def read(name: str) -> Iterator[np.ndarray]:
        return _parts(network, sources[name], flat) if name in sources else iter([np.zeros((), np.int64)])

    metadata = {
        "format": "pt",
        "architecture": name_of(network.config),
        "classes": json.dumps(list(network.classes)),
        "preprocessing": json.dumps(vars(network.preprocessing)),
    }
    write_safetensors(path, plan, read, metadata=metadata)
