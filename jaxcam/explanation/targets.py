"""What to explain: the most probable classes, classes that were named, or functions of the logits."""

from __future__ import annotations

import collections
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.methods.targets import OfClasses, difference
from jaxcam.models.classifier import Classifier

#: A class by name or index, or a function of the logits `(C,) -> ()`.
One = str | int | Callable[[jax.Array], jax.Array]
#: What stands between the classes of a difference; names may hold hyphens.
BETWEEN = " - "
#: The n most probable classes, or targets; for pictures one by one, a list of such lists.
Targets = int | One | Sequence[One] | Sequence[Sequence[One]]


@dataclasses.dataclass(frozen=True)
class FunctionTarget:
    """A function of the logits as a target.

    Attributes:
      function: `(C,) -> ()`; what is compiled for it is kept by it.
      name: its own, and another one's neither.
    """

    function: Callable[[jax.Array], jax.Array]
    name: str

    @property
    def number(self) -> int:
        """What it has in the place of a class's index, where draws are told apart."""
        return zlib.crc32(self.name.encode()) >> 1

    def of(self, logits: np.ndarray) -> np.ndarray:
        """Its values `(n,)` on logits `(n, C)`."""
        return np.asarray([self.function(jnp.asarray(z)) for z in logits], np.float64)


def is_one(value: Any) -> bool:
    """Whether this is one name, index or function, and not a list of them."""
    return isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0


def as_list(value: Any) -> list:
    """A list of what may be one name, index or function."""
    return [value] if is_one(value) else list(value)


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def chooser(
    network: Classifier, targets: str | Targets
) -> tuple[Callable[[np.ndarray, int], list[int | FunctionTarget]], int]:
    """A function `(logits (C,), position of the picture) -> class indices and functions`, and how many at most."""
    if not isinstance(targets, str) and isinstance(targets, int | np.integer):
        if targets < 1:
            raise JaxcamError(f"the number of top classes must be at least 1, not {targets}")
        first = min(int(targets), len(network.classes))
        return (lambda logits, position: np.argsort(-logits, kind="stable")[:first].tolist()), first
    asked = as_list(targets)
    if not asked:
        raise JaxcamError("no target: name a class, or give a number for that many of the most probable ones")
    asked = [known(network, one) if is_one(one) else [known(network, t) for t in one] for one in asked]
    functions = _named([t for one in asked for t in as_list(one) if callable(t)], network.classes)

    def resolved(target: Any) -> int | FunctionTarget:
        return functions[target] if callable(target) else target

    if all(map(is_one, asked)):
        shared = _unique(map(resolved, asked))
        return (lambda logits, position: shared), len(shared)
    each = [_unique(map(resolved, as_list(one))) for one in asked]
    if not all(each):
        raise JaxcamError(f"picture {each.index([])} has no target")

    def own(logits: np.ndarray, position: int) -> list[int | FunctionTarget]:
        if position >= len(each):
            raise JaxcamError(f"{len(each)} lists of targets for more pictures than that")
        return each[position]

    return own, max(map(len, each))


def known(network: Classifier, target: One) -> int | Callable[[jax.Array], jax.Array]:
    """A target with the network's indices for the classes that it names; "cat - dog" is their difference.

    Raises:
      JaxcamError: there is no such class; or text can be divided into two classes in more than one way.
    """
    if isinstance(target, OfClasses):
        return target.known(network.class_index, network.classes)
    if callable(target):
        return target
    try:
        return network.class_index(target)
    except JaxcamError:
        parts = target.split(BETWEEN) if isinstance(target, str) else []
        halves = [(BETWEEN.join(parts[:i]), BETWEEN.join(parts[i:])) for i in range(1, len(parts))]
        found = [pair for pair in halves if all(_is_class(network, half) for half in pair)]
        if len(found) > 1:
            raise JaxcamError(
                f"{target!r} is the difference of two classes in {len(found)} ways; use indices"
            ) from None
        if not found and len(halves) != 1:
            raise
    a, b = (found or halves)[0]
    return difference(network.class_index(a), network.class_index(b)).known(network.class_index, network.classes)


def _is_class(network: Classifier, name: str) -> bool:
    try:
        network.class_index(name)
    except JaxcamError:
        return False
    return True


def _named(functions: list[Callable], classes: Sequence[str]) -> dict[Callable, FunctionTarget]:
    """Each function with its name: `lambda#1`, `lambda#2` where they share one, `dog()` where a class has it."""
    functions = _unique(functions)
    plain = [
        str(f if isinstance(f, OfClasses) else getattr(f, "__name__", type(f).__name__)).strip("<>") for f in functions
    ]
    total, seen, named = collections.Counter(plain), collections.Counter[str](), {}
    for function, name in zip(functions, plain, strict=True):
        seen[name] += 1
        name = f"{name}#{seen[name]}" if total[name] > 1 else name
        named[function] = FunctionTarget(function, f"{name}()" if name in classes else name)
    return named
