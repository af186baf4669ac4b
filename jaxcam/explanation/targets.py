"""Which classes to explain: the most probable ones, or those that were named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.models.classifier import Classifier

#: The n most probable classes, or classes by name or index; for pictures one by one, a list of such lists.
Targets = int | Sequence[str | int] | Sequence[Sequence[str | int]]


def is_one(value: Any) -> bool:
    """Whether this is one name or index, and not a list of them."""
    return isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0


def as_list(value: Any) -> list:
    """A list of what may be one name or index."""
    return [value] if is_one(value) else list(value)


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def chooser(network: Classifier, targets: str | Targets) -> tuple[Callable[[np.ndarray, int], list[int]], int]:
    """A function `(logits (C,), position of the picture) -> class indices`, and how many these are at most."""
    if not isinstance(targets, str) and isinstance(targets, int | np.integer):
        if targets < 1:
            raise JaxcamError(f"the number of top classes must be at least 1, not {targets}")
        first = min(int(targets), len(network.classes))
        return (lambda logits, position: np.argsort(-logits, kind="stable")[:first].tolist()), first
    asked = as_list(targets)
    if not asked:
        raise JaxcamError("no target: name a class, or give a number for that many of the most probable ones")
    if all(map(is_one, asked)):
        shared = _unique(network.class_index(t) for t in asked)
        return (lambda logits, position: shared), len(shared)
    each = [_unique(network.class_index(t) for t in as_list(one)) for one in asked]
    if not all(each):
        raise JaxcamError(f"picture {each.index([])} has no target")

    def own(logits: np.ndarray, position: int) -> list[int]:
        if position >= len(each):
            raise JaxcamError(f"{len(each)} lists of targets for more pictures than that")
        return each[position]

    return own, max(map(len, each))
