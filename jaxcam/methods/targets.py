"""What to explain besides one class: small functions of the logits, or of whatever a network returns.

`jaxcam.targets.difference(3, 7)` is a target of every method; with names, `difference("cat", "dog")`, one of
`jaxcam.explain`, where the network knows them. On the command line it is `--target difference:cat,dog`, or "cat - dog".
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.transforms.arithmetic import quotient

#: A class by its index, or, where a network is there to tell the index, by its name.
Class = int | str


@dataclasses.dataclass(frozen=True)
class TargetForm:
    """What there is to know of a kind of target; nothing outside its entry in `TARGETS` knows it by name.

    Attributes:
      function: `(logits (C,), *classes) -> ()`, with numbers as keyword arguments. The classes are indices that exist,
        and are traced where programs are compiled: one serves all classes.
      written: what people read, with a `{}` for every single class, `{more}` for the others, and the numbers by name.
      about: in a few words, for lists.
      classes: how many single ones it takes.
      more: whether one or more others follow them.
      between: what stands between those others.
      paper: where it comes from.
    """

    function: Callable[..., jax.Array]
    written: str
    about: str = ""
    classes: int = 1
    more: bool = False
    between: str = ", "
    paper: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that it takes, with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}

    def of(self, *classes: Class, **numbers: float) -> OfClasses:
        """The target of some classes.

        Raises:
          JaxcamError: there are too few or too many classes, or there is no such number.
        """
        if len(classes) < self.classes + self.more or len(classes) > self.classes and not self.more:
            wanted = f"{self.classes + self.more} class{'es' * (self.classes + self.more > 1)}"
            raise JaxcamError(f"{self.written!r} takes {wanted}{' or more' * self.more}, not {len(classes)}")
        known = self.numbers
        for name, value in numbers.items():
            if name not in known:
                raise JaxcamError(f"{self.written!r} takes no {name}; there is {', '.join(known) or 'nothing'} to set")
            if not np.isfinite(value):
                raise JaxcamError(f"{name} must be finite, not {value}")
        return OfClasses(self, tuple(classes), tuple(sorted({**known, **numbers}.items())))


@dataclasses.dataclass(frozen=True)
class OfClasses:
    """A function of the logits `(C,) -> ()` and of some classes; equal ones are compiled once.

    Attributes:
      form: of which it is one.
      classes: by index or name.
      numbers: pairs of keyword and value.
      names: of the classes, for people; what `classes` says unless given.
    """

    form: TargetForm
    classes: tuple[Class, ...]
    numbers: tuple[tuple[str, float], ...] = ()
    names: tuple[str, ...] = ()

    def __call__(self, logits: jax.Array) -> jax.Array:
        """The value.

        Raises:
          JaxcamError: a class is given by its name, or does not exist.
        """
        for index in self.classes:
            if isinstance(index, jax.core.Tracer):
                continue
            if isinstance(index, str):
                raise JaxcamError(
                    f"{self} names the class {index!r}, and a method takes indices: network.class_index({index!r}) "
                    "finds it, and jaxcam.explain takes names"
                )
            if not 0 <= index < logits.shape[-1]:
                raise JaxcamError(f"there is no class {index} among {logits.shape[-1]} logits, numbered from 0")
        try:
            return self.form.function(logits, *self.classes, **dict(self.numbers))
        except jax.errors.JAXTypeError as e:
            if not any(isinstance(index, jax.core.Tracer) for index in self.classes):
                raise
            raise JaxcamError(
                f"{self.form.written!r} asks for the value of a class's index, which is traced so that one program "
                "serves all classes; write it with logits[a] and jnp.arange(len(logits)) != a"
            ) from e

    def __str__(self) -> str:
        names = [str(n) for n in self.names or self.classes]
        single, others = names[: self.form.classes], names[self.form.classes :]
        numbers = {name: f"{value:g}" for name, value in self.numbers}
        return self.form.written.format(*single, more=self.form.between.join(others), **numbers)

    def parts(self) -> tuple[OfClasses, tuple[Any, ...]]:
        """What is a part of programs, and what is data: the target without its classes, and these."""
        return dataclasses.replace(self, classes=(), names=()), self.classes

    def with_classes(self, classes: Sequence[Any]) -> OfClasses:
        """The first of the parts with other classes, which may be traced."""
        return dataclasses.replace(self, classes=tuple(classes))


def difference(a: Class, b: Class) -> OfClasses:
    """`z_a - z_b`: why one class, and not the other."""
    return TARGETS["difference"].of(a, b)


def total(classes: Sequence[Class]) -> OfClasses:
    """The sum of the logits of some classes, such as the breeds of dogs.

    Raises:
      JaxcamError: there is no class, or text in place of a sequence of classes.
    """
    return TARGETS["total"].of(*_several("total", classes))


def against_rest(a: Class) -> OfClasses:
    """`z_a - log sum_b exp(z_b)` over all other classes: the log odds of the class by the softmax.

    Relevance has no rule for the exponential: not with `lrp_cam`.

    Raises:
      JaxcamError: where it is called, there is no other class.
    """
    return TARGETS["against_rest"].of(a)


def not_class(a: Class) -> OfClasses:
    """`-z_a`: what speaks against the class. For one logit of two classes, the negative one."""
    return TARGETS["not_class"].of(a)


def finer(a: Class, similar: Sequence[Class], strength: float = 0.6) -> OfClasses:
    """`z_a - strength * mean z_b` over classes b that are easily taken for `a`: Finer-CAM's target, for any method.

    The paper takes the three classes whose weights in the last layer are most similar: `similar` finds them.

    Raises:
      JaxcamError: there is no similar class, or text in place of a sequence of classes.

    References:
      Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation, CVPR 2025.
    """
    return TARGETS["finer"].of(a, *_several("finer", similar), strength=strength)


def similar(weights: Any, a: int, count: int = 3) -> list[int]:
    """The classes that are most easily taken for `a`: those whose weights in the last layer are most like its own.

    Args:
      weights: `(D, C)`, the kernel of the last dense layer; concrete.
      a: the class's index.
      count: how many; all others where there are fewer.

    Returns:
      Indices by falling cosine, ties by index; 0 of a class without weights.

    Raises:
      JaxcamError: weights are no matrix, or there is no such class.

    References:
      Zhang et al., Finer-CAM, CVPR 2025, section 3.2.
    """
    kernel = np.asarray(weights, np.float64)
    if kernel.ndim != 2 or not 0 <= a < kernel.shape[1]:
        raise JaxcamError(f"similar takes weights (D, C) and one of C classes, not {kernel.shape} and {a}")
    size = np.linalg.norm(kernel, axis=0)
    cosines = kernel.T @ kernel[:, a] / np.where(size * size[a] > 0, size * size[a], 1)
    order = np.argsort(-cosines, kind="stable")
    return [int(c) for c in order if c != a][:count]


# --- of other outputs than one row of logits -----------------------------------------------------------------------


def similarity(embedding: Any) -> Callable[[jax.Array], jax.Array]:
    """`z e / (|z| |e|)`: how like what the network returns `(D,)` is to an embedding, of another picture or of a text.

    0 where one of them is zero (0/0). In `jaxcam.explain`, z is the logits.

    Args:
      embedding: e `(D,)`.

    Raises:
      JaxcamError: where it is called, the network returns something of another shape.
    """
    wanted = np.asarray(embedding, np.float32)

    def similarity(output: jax.Array) -> jax.Array:
        if jnp.shape(output) != wanted.shape or wanted.ndim != 1:
            raise JaxcamError(f"similarity takes an embedding {wanted.shape} of an output {jnp.shape(output)}")
        e = jnp.asarray(wanted, output.dtype)
        square = jnp.sum(output**2) * jnp.sum(e**2)
        return jnp.where(square > 0, jnp.sum(output * e) / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)

    return similarity


def segment(mask: Any, a: int) -> Callable[[jax.Array], jax.Array]:
    """The mean of `z_a` over the pixels of a segment, of a network that returns logits at every pixel `(H, W, C)`.

    0 of a segment without pixels (0/0).

    Args:
      mask: `(H, W)`, the share of each pixel that is in the segment.
      a: class index.

    Raises:
      JaxcamError: where it is called, the network returns something of another shape, or there is no such class.
    """
    inside = np.asarray(mask, np.float32)

    def segment(output: jax.Array) -> jax.Array:
        if jnp.ndim(output) != 3 or output.shape[:2] != inside.shape or not 0 <= a < output.shape[-1]:
            raise JaxcamError(f"segment takes class {a} in a mask {inside.shape} of logits {jnp.shape(output)}")
        return jnp.sum(output[..., a] * jnp.asarray(inside / max(inside.sum(), 1e-12), output.dtype))

    return segment


def box_score(box: Any, a: int, *, least: float = 0.5) -> Callable[[tuple[jax.Array, jax.Array]], jax.Array]:
    """The score of class a of the box that overlaps a given one most, of a detector that returns boxes and scores.

    The choice of the box has no derivative, its score does. 0 where the overlap, intersection over union, is below
    `least`: there is no such box.

    Args:
      box: `x0, y0, x1, y1`.
      a: class index.
      least: overlap.

    Returns:
      A function of `(boxes (n, 4), scores (n, C))`.

    Raises:
      JaxcamError: where it is called, the network returns something else, or there is no such class.
    """
    wanted = np.asarray(box, np.float32)

    def box_score(output: tuple[jax.Array, jax.Array]) -> jax.Array:
        shapes = [jnp.shape(x) for x in output]
        if [len(s) for s in shapes] != [2, 2] or shapes[0] != (shapes[1][0], 4) or not 0 <= a < shapes[1][1]:
            raise JaxcamError(f"box_score takes class {a} of boxes (n, 4) and scores (n, C), not {shapes}")
        boxes, scores = output
        own = jnp.asarray(wanted, boxes.dtype)
        sides = jnp.minimum(boxes[:, 2:], own[None, 2:]) - jnp.maximum(boxes[:, :2], own[None, :2])
        both = jnp.prod(jax.nn.relu(sides), -1)
        union = jnp.prod(boxes[:, 2:] - boxes[:, :2], -1) + jnp.prod(own[2:] - own[:2]) - both
        overlap = quotient(both, union, union > 0)
        return jnp.where(jnp.max(overlap) >= least, scores[jnp.argmax(overlap), a], 0)

    return box_score


def _several(name: str, classes: Sequence[Class]) -> tuple[Class, ...]:
    if isinstance(classes, str) or not len(classes):
        raise JaxcamError(f"{name} takes a list of one class or more, as in [3, 7], not {classes!r}")
    return tuple(classes)


def _difference(logits: jax.Array, a: Any, b: Any) -> jax.Array:
    return logits[a] - logits[b]


def _total(logits: jax.Array, *classes: Any) -> jax.Array:
    return functools.reduce(operator.add, [logits[c] for c in classes])


def _against_rest(logits: jax.Array, a: Any) -> jax.Array:
    if logits.shape[-1] < 2:
        raise JaxcamError("against_rest: there is no other class")
    return logits[a] - jax.nn.logsumexp(logits, where=jnp.arange(logits.shape[-1]) != a)


def _not_class(logits: jax.Array, a: Any) -> jax.Array:
    return -logits[a]


def _finer(logits: jax.Array, a: Any, *similar: Any, strength: float = 0.6) -> jax.Array:
    return logits[a] - strength / len(similar) * _total(logits, *similar)


#: Kinds of targets by name; a new one is an entry, from outside as well.
TARGETS: dict[str, TargetForm] = {
    "difference": TargetForm(_difference, "{} - {}", "why one class and not another", classes=2),
    "total": TargetForm(_total, "{more}", "several classes as one", classes=0, more=True, between=" + "),
    "against_rest": TargetForm(_against_rest, "{} against the rest", "a class against all others: its log odds"),
    "not_class": TargetForm(_not_class, "not {}", "what speaks against a class"),
    "finer": TargetForm(
        _finer, "{} - {strength} x mean of {more}", "a class less those that are easily taken for it", more=True,
        paper="Zhang et al., CVPR 2025",
    ),
}  # fmt: skip
