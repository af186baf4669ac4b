"""Parameters as nested dicts, or other pytrees, and as flat dicts with dotted paths; their digest, and their way to the
device.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jaxcam.transforms.arithmetic import numbers

F = TypeVar("F", bound=Callable)


def on_purpose(function: F) -> F:
    """A function that takes numbers to the device and back, as what it is for.

    `jax.transfer_guard("disallow")` is there to find where that happens by accident: such a function is none of these.
    It is no wrapper for generators, whose caller would work in it.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        with jax.transfer_guard("allow"):
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """A nested dict of arrays as one dict with dotted paths, `layer4.2.conv1.kernel`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, path + ".") if isinstance(value, dict) else {path: value}
    return flat


def named(tree: Any) -> dict[str, Any]:
    """The arrays of any pytree with dotted paths; of nested dicts, what `flatten` gives."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def digest(params: Any) -> str:
    """The sha256 of the weights as float32: names, shapes and values."""
    total = hashlib.sha256()
    for name, value in sorted(named(params).items()):
        array = np.ascontiguousarray(numbers(value), np.float32)
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
