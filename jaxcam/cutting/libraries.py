"""What there is to know of a library of networks: how its models become functions whose layers name their outputs.

A library is added by one entry, `jaxcam.cutting.register(jaxcam.cutting.Library(...))`, from outside as well. None is
imported here: an entry counts once the user's own code has imported its module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from jaxcam.cutting.tags import mark_in_order

#: `{"train": False}`, keyword arguments of the model's call; or `(module, x) -> logits`.
Call = Mapping[str, Any] | Callable[[Any, Any], Any] | None


class Adapter(NamedTuple):
    """A model as a function.

    Attributes:
      run: `(params, x) -> output` of the whole model.
      layout: `hwk` or `khw`: how the library lays out images and maps.
      batched_first: whether models of this kind usually take a batch.
      picked: how one of several outputs is picked, for errors; its index follows.
    """

    run: Callable[[Any, Any], Any]
    layout: str = "hwk"
    batched_first: bool = True
    picked: str = "call=lambda module, x: module(x)"


@dataclasses.dataclass(frozen=True)
class Library:
    """A library of networks. Its module, once imported, is the first argument of all functions here.

    Attributes:
      name: what people call it.
      module: the name of the module that everybody who has a model of it has imported.
      is_model: `(module, object)`, whether an object is a model of this library.
      adapt: `(module, model, params, call) -> Adapter`, or a `JaxcamError` that says what to give.
      own_params: `(module, model, params)`, the parameters that were given, as plain containers, or, for None, the
        model's own.
      naming: `(module)`, a context in which the layers of this library name what they return, whatever function they
        are called in.
      give: what to hand over, for errors.
    """

    name: str
    module: str
    is_model: Callable[[Any, Any], bool]
    adapt: Callable[[Any, Any, Any, Call], Adapter]
    own_params: Callable[[Any, Any, Any], Any] = lambda module, model, params: params
    naming: Callable[[Any], AbstractContextManager] = contextlib.nullcontext
    give: str = ""


#: By name; the later ones are asked first.
LIBRARIES: dict[str, Library] = {}


def register(library: Library) -> Library:
    """Makes the models of a library known to `split`, `layers` and `wrap`; in place of one of that name."""
    LIBRARIES.pop(library.name, None)
    LIBRARIES[library.name] = library
    return library


def known() -> str:
    """What can be handed over, in words."""
    return "; ".join(library.give for library in LIBRARIES.values() if library.give)


def imported() -> Iterator[tuple[Library, Any]]:
    """The libraries that somebody has imported, each with its module."""
    for library in reversed(LIBRARIES.values()):
        if sys.modules.get(library.module) is not None:
            yield library, sys.modules[library.module]


def invoke(module: Any, x: Any, call: Call) -> Any:
    """A model's call."""
    return call(module, x) if callable(call) else module(x, **(call or {}))


def has_call(cls: type) -> bool:
    """Whether instances of a class are called, as layers are."""
    return any("__call__" in vars(c) for c in cls.__mro__)


#: Classes change for as long as they name their calls; one at a time may do that.
_CHANGED = threading.RLock()


@contextlib.contextmanager
def calls_named(base: type, name: Callable[[list[Any]], str]) -> Iterator[None]:
    """While the block runs, what instances of `base` and of its subclasses return in this thread has a name.

    Their classes' `__call__` are others for that time; in other threads these do what they always did.

    Args:
      name: of the layer at the end of a list of objects, each called by the one before; "" for none.
    """
    calls: list[Any] = []
    thread = threading.get_ident()

    def naming(original):
        @functools.wraps(original)
        def __call__(self, *args, **kwargs):
            if threading.get_ident() != thread or calls and calls[-1] is self:  # the call of a base class
                return original(self, *args, **kwargs)
            calls.append(self)
            try:
                out = original(self, *args, **kwargs)
                label = name(calls)
            finally:
                calls.pop()
            return mark_in_order(out, label, type(self).__name__) if label else out

        return __call__

    with _CHANGED, contextlib.ExitStack() as changes:
        for cls in _subclasses(base):
            if "__call__" in vars(cls):
                original = vars(cls)["__call__"]
                type.__setattr__(cls, "__call__", naming(original))
                changes.callback(type.__setattr__, cls, "__call__", original)
        yield


def _subclasses(base: type) -> Iterator[type]:
    seen: set[Any] = {base}
    left: list[Any] = [base]
    while left:
        cls = left.pop()
        yield cls
        for sub in type.__subclasses__(cls):
            if sub not in seen:
                seen.add(sub)
                left.append(sub)
