"""What to explain: the most probable classes, classes that were named, or functions of the logits."""

from __future__ import annotations

import collections
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError, blaming, raised, unknown
from jaxcam.methods.stepping import split_target
from jaxcam.methods.targets import TARGETS, OfClasses, TargetForm
from jaxcam.models.classifier import Classifier

#: A class by name or index, or a function of the logits `(C,) -> ()`.
One = str | int | Callable[[jax.Array], jax.Array]
#: What stands between the classes of a difference; names may hold hyphens.
BETWEEN = " - "
#: The n most probable classes, or targets; for pictures one by one, a list of such lists.
Targets = int | One | Sequence[One] | Sequence[Sequence[One]]

#: Classes that a picture decides, by what they are called in targets: its own in a data set, the most probable one, and
#: the most probable one of those that a target has not named before.
LABEL, PREDICTED, RIVAL = "label", "predicted", "rival"


@dataclasses.dataclass(frozen=True)
class FunctionTarget:
    """A function of the logits as a target.

    Attributes:
      function: `(C,) -> ()`; what is compiled for it is kept by it, but for the classes that it is of.
      name: its own, and another one's neither.
    """

    function: Callable[[jax.Array], jax.Array]
    name: str

    @property
    def number(self) -> int:
        """What it has in the place of a class's index, where draws are told apart."""
        return zlib.crc32(self.name.encode()) >> 1

    @functools.cached_property
    def _parts(self) -> tuple[Callable | None, Any]:
        return split_target(self.function)

    @property
    def kind(self) -> Callable | None:
        """What is a part of programs."""
        return self._parts[0]

    @property
    def classes(self) -> tuple[int, ...]:
        """What is data: the classes that it is of; none of a function that is not known to be of some."""
        return tuple(self._parts[1] or ())

    def of(self, logits: np.ndarray) -> float:
        """Its value on logits `(C,)`."""
        return float(self.function(jnp.asarray(logits)))


def is_one(value: Any) -> bool:
    """Whether this is one name, index or function, and not a list of them."""
    return isinstance(value, str | bytes) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0


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
    functions = _named([t for one in asked for t in as_list(one) if _has_own_name(t)], network.classes)
    for function in functions.values():
        _check(function.function, function.name, len(network.classes))

    def resolved(target: Any, logits: np.ndarray) -> int | FunctionTarget:
        return functions[target] if _has_own_name(target) else of_picture(network, target, logits)

    if all(map(is_one, asked)):
        return (lambda logits, position: _unique(resolved(t, logits) for t in asked)), len(_unique(asked))
    each = [_unique(as_list(one)) for one in asked]
    if not all(each):
        raise JaxcamError(f"picture {each.index([])} has no target")

    def own(logits: np.ndarray, position: int) -> list[int | FunctionTarget]:
        if position >= len(each):
            raise JaxcamError(f"{len(each)} lists of targets for more pictures than that")
        return _unique(resolved(t, logits) for t in each[position])

    return own, max(map(len, each))


def of_picture(network: Classifier, target: Any, logits: np.ndarray, first: int | None = None) -> int | FunctionTarget:
    """A target that `known` found, of a picture with logits `(C,)`: the classes that the picture decides are put in.

    Args:
      first: the class in the place of the first one.

    Raises:
      JaxcamError: there is no other class that could be the rival.
    """
    order = functools.cache(lambda: np.argsort(-logits, kind="stable"))  # which most targets do not ask for
    found: list[int] = [] if first is None else [first]
    classes: tuple[Any, ...] = target.classes if isinstance(target, OfClasses) else (target,)
    for one in classes[len(found) :]:
        if one == PREDICTED:
            one = int(order()[0])
        elif one == RIVAL:
            others = [int(c) for c in order() if c not in (found or order()[:1])]
            if not others:
                raise JaxcamError(f"{network.name}: has no class left that could be the {RIVAL}")
            one = others[0]
        found.append(one)
    if not isinstance(target, OfClasses):
        return found[0]
    function = _with_names(dataclasses.replace(target, classes=tuple(found)), network)
    return FunctionTarget(function, _apart(str(function), network.classes))


def known(network: Classifier, target: One, words: Sequence[str] | None = None) -> Any:
    """A target with the network's indices for the classes that it names.

    Text is a class; a kind of `TARGETS` with its classes and numbers, as in "finer:cat,dog,strength=0.5"; or the
    difference of two classes, "cat - dog".

    Args:
      words: what stands for a class that a picture decides, and stays as it is; `PREDICTED` and `RIVAL` unless given,
        but for one that is the name of a class.

    Raises:
      JaxcamError: there is no such class; or text can be divided into classes in more than one way.
    """

    if words is None:
        words = [word for word in (PREDICTED, RIVAL) if word not in network.classes]

    def index(one: Any) -> Any:
        return one if isinstance(one, str) and one in words else network.class_index(one)

    if isinstance(target, OfClasses):
        return _with_names(dataclasses.replace(target, classes=tuple(index(c) for c in target.classes)), network)
    if callable(target):
        return target
    try:
        return index(target)
    except JaxcamError as e:
        if not isinstance(target, str):
            raise
        name, colon, rest = target.partition(":")
        if colon and (form := TARGETS.get(name.strip().lower().replace("-", "_"))) is not None:
            return _with_names(_of_form(form, name, rest, index), network)
        pieces = target.split(BETWEEN)
        found = _divided(target, pieces, BETWEEN, index, exactly=2)
        if found is None and len(pieces) != 2:
            if colon and name.isidentifier() and not rest.startswith(" "):
                raise unknown("class or kind of target", name, TARGETS) from None
            raise e
        a, b = found or map(index, pieces)
    return _with_names(TARGETS["difference"].of(a, b), network)


def of_data(network: Classifier, text: str) -> Any:
    """What is to be explained of each picture of a data set: a target whose first class is `LABEL` or `PREDICTED`.

    Raises:
      JaxcamError: it is none, or names a class that does not exist.
    """
    found = known(network, text, (LABEL, PREDICTED, RIVAL))
    first, *others = found.classes if isinstance(found, OfClasses) else (found,)
    if first not in (LABEL, PREDICTED) or LABEL in others:
        raise JaxcamError(
            f"targets: {text!r} does not begin with the class that is measured; it is {LABEL}, for every class that is "
            f"in a picture, or {PREDICTED}, or a kind of target of one, as in against_rest:{LABEL} or "
            f"'{LABEL}{BETWEEN}{RIVAL}'"
        )
    return found


def first_class(target: Any) -> Any:
    """The class that a target is about."""
    return target.classes[0] if isinstance(target, OfClasses) else target


def _with_names(target: OfClasses, network: Classifier) -> OfClasses:
    return dataclasses.replace(
        target, names=tuple(c if isinstance(c, str) else network.classes[c] for c in target.classes)
    )


def _of_form(form: TargetForm, name: str, text: str, index: Callable[[Any], Any]) -> OfClasses:
    """The target of "cat,dog,strength=0.5"."""
    pieces, numbers = [], {}
    for piece in text.split(","):
        number, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or number not in form.numbers:
            pieces.append(piece)
            continue
        try:
            numbers[number] = float(value)
        except ValueError:
            raise JaxcamError(f"{name}: {number} must be a number, not {value!r}") from None
    single = form.classes if not form.more else None
    found = _divided(text, pieces, ",", index, exactly=single)
    if found is None:
        found = [index(piece.strip()) for piece in pieces if piece.strip()]  # which says what is no class
    return form.of(*found, **numbers)


def _divided(
    text: str, pieces: Sequence[str], between: str, index: Callable[[Any], Any], exactly: int | None = None
) -> list | None:
    """The classes that pieces are when some are put together again, as names may hold what stands between; None: none.

    Raises:
      JaxcamError: there is more than one way.
    """

    @functools.cache
    def ways(start: int) -> list[list]:
        if start == len(pieces):
            return [[]]
        found = []
        for end in range(start + 1, len(pieces) + 1):
            try:
                first = index(between.join(pieces[start:end]).strip())
            except JaxcamError:
                continue
            found += [[first, *others] for others in ways(end)]
        return found

    fit = [way for way in ways(0) if exactly is None or len(way) == exactly]
    if len(fit) > 1:
        raise JaxcamError(f"{text!r} can be divided into classes in {len(fit)} ways; use indices")
    return fit[0] if fit else None


def _has_own_name(target: Any) -> bool:
    """Whether it is a function that is not of classes, which have names."""
    return callable(target) and not isinstance(target, OfClasses)


def _apart(name: str, classes: Sequence[str]) -> str:
    """The name of a function, which no class has."""
    return f"{name}()" if name in classes else name


@functools.lru_cache(maxsize=64)
def _check(function: Callable, name: str, classes: int) -> None:
    """Raises a JaxcamError where a function cannot be called as methods call it, or asks for a class that is none."""
    mend = "a target takes the logits (C,) and is written with jax.numpy: jnp.where in the place of `if`"
    with blaming(f"the target {name}", mend):
        jax.eval_shape(function, jax.ShapeDtypeStruct((classes,), jnp.float32))
    try:
        with np.errstate(all="ignore"):
            function(np.zeros(classes, np.float32))
    except IndexError as e:  # in the place of which JAX takes the last
        raise JaxcamError(f"the target {name} asks for a class that is none: {raised(e)}") from None
    except Exception:  # noqa: BLE001 - which NumPy cannot do, and JAX just could
        return


def _named(functions: list[Callable], classes: Sequence[str]) -> dict[Callable, FunctionTarget]:
    """Each function with its name: `lambda#1`, `lambda#2` where they share one, `dog()` where a class has it."""
    functions = _unique(functions)
    plain = [getattr(f, "__name__", type(f).__name__).strip("<>") for f in functions]
    total, seen, named = collections.Counter(plain), collections.Counter[str](), {}
    for function, name in zip(functions, plain, strict=True):
        seen[name] += 1
        named[function] = FunctionTarget(function, _apart(f"{name}#{seen[name]}" if total[name] > 1 else name, classes))
    return named
