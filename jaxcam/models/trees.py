"""Parameters as nested dicts and as flat ones with dotted paths, and their digest."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """A nested dict of arrays as one dict with dotted paths, `layer4.2.conv1.kernel`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, path + ".") if isinstance(value, dict) else {path: value}
    return flat


def digest(params: dict) -> str:
    """The sha256 of the weights as float32: names, shapes and values."""
    total = hashlib.sha256()
    for name, value in sorted(flatten(params).items()):
        array = np.ascontiguousarray(np.asarray(value, np.float32))
        total.update(f"{name}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def unflatten(flat: dict[str, Any]) -> dict:
    """The inverse of `flatten`."""
    tree: dict = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
