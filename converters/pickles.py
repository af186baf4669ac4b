"""A reader of pickles that can build tensors and nothing else.

The standard `pickle` calls what a file tells it to call, and its C reader reserves memory as a file
tells it to. This one is a small stack machine: it knows the instructions that checkpoints consist
of, imports nothing, calls nothing but the handlers in `_BUILDERS`, and stops at the first
instruction or name that is not on its lists.

It reads every pickle, whether or not PyTorch is installed. PyTorch's own `weights_only` reader was left out on
purpose: before 2.6 a file could make it run code (CVE-2025-32434), it builds more types than a table of weights
needs, and it takes memory on a file's word (a storage of the older layout, a compressed member), where this one
compares every size with the file first. One reader that is always the same is also the one that the tests attack.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Callable
from typing import Any

from jaxcam.converters.budget import MOST_DIMENSIONS, Budget
from jaxcam.converters.tensors import shown
from jaxcam.errors import JaxcamError

_HIGHEST_STACK = 50_000
#: Longer strings than names can be are passed over: an array of NumPy's beside the weights.
_LONGEST = 1 << 20
_MARK = object()


@dataclasses.dataclass(frozen=True)
class Global:
    """A name the pickle asks for; never looked up."""

    module: str
    name: str


class Inert:
    """Stands for a harmless object that no tensor needs: a training option, a NumPy array or scalar, a device."""


@dataclasses.dataclass(frozen=True)
class StorageRef:
    """A storage by its key in the file: `numel` elements of `dtype`, from element `base` of that storage on."""

    key: str
    dtype: str
    numel: int
    base: int = 0


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A view of a storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
    **{f"{kind}Storage": kind for kind in ("ComplexFloat", "ComplexDouble", "QInt8", "QUInt8", "QInt32")},
}  # fmt: skip


def _tensor(args: tuple) -> TensorRef:
    storage, offset, shape, strides = args[:4]
    if not (isinstance(storage, StorageRef) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise ValueError("a tensor is not built from a storage and its shape")
    if len(args) > 6 and args[6]:
        raise ValueError("a tensor is conjugated or negated")
    return TensorRef(storage, offset, shape, strides)


def _size(args: tuple) -> tuple:
    (dimensions,) = args
    if not isinstance(dimensions, tuple | list) or len(dimensions) > MOST_DIMENSIONS:
        raise ValueError("a size is not made of a few numbers")
    return tuple(dimensions)


_BUILDERS: dict[tuple[str, str], Callable[[tuple], Any]] = {
    ("collections", "OrderedDict"): lambda args: {},
    ("collections", "defaultdict"): lambda args: {},
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda args: args[0],
    ("torch", "Size"): _size,
}
#: Objects that lie about in training checkpoints; each becomes an `Inert`, whatever it is built from.
_INERT = {
    ("argparse", "Namespace"), ("torch", "device"), ("_codecs", "encode"), ("numpy", "dtype"), ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    ("collections", "Counter"), ("collections", "deque"), ("datetime", "datetime"), ("datetime", "timedelta"),
    ("builtins", "bytearray"), ("builtins", "complex"), ("builtins", "frozenset"), ("__builtin__", "frozenset"),
    ("builtins", "set"), ("__builtin__", "set"), ("pathlib", "PurePosixPath"), ("pathlib._local", "PosixPath"),
    ("torch", "Generator"), ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"),
    ("torch", "float32"), ("torch", "float16"), ("torch", "float64"), ("torch", "bfloat16"), ("torch", "int64"),
    ("builtins", "dict"), ("builtins", "list"), ("__builtin__", "dict"), ("__builtin__", "list"),
}  # fmt: skip
#: Libraries whose objects training scripts keep beside the weights, settings, callbacks and results: `Inert` as well.
_BESIDE = frozenset(
    "pytorch_lightning lightning lightning_fabric lightning_utilities omegaconf hydra torchmetrics ml_collections yacs "
    "easydict addict box munch enum typing".split()
)


def _named(module: str, name: str) -> Global:
    known = (module, name) in _BUILDERS or (module, name) in _INERT or module.partition(".")[0] in _BESIDE
    if known or (module in ("torch", "torch.cuda") and name in STORAGES):
        return Global(module, name)
    what = shown(f"{module}.{name}")
    raise JaxcamError(
        f"asks for {what}, which no table of weights needs; refused (in PyTorch, save model.state_dict() alone)"
    )


def _call(function: Any, args: Any) -> Any:
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise ValueError("a call of something that is no function")
    builder = _BUILDERS.get((function.module, function.name))
    return Inert() if builder is None else builder(args)


class _Machine:
    """One pass over one pickle."""

    def __init__(self, file: io.BufferedIOBase, persistent: Callable[[Any], Any], budget: Budget):
        self.file, self.persistent, self.budget = file, persistent, budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def string(self, form: str, encoding: str = "") -> Any:
        """A text, or bytes, behind its length."""
        count = self.number(form)
        if count > _LONGEST:
            self.file.seek(count, io.SEEK_CUR)
            return Inert()
        self.budget.spend(size=count)
        data = self.take(count)
        return data.decode(encoding) if encoding else data

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError("cut off")
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        data = self.file.readline(1024)
        if not data.endswith(b"\n"):
            raise EOFError("cut off")
        return data[:-1].decode("utf-8")

    def integer(self, count: int) -> int:
        if not 0 <= count <= 32:
            raise ValueError("an integer too long")
        return int.from_bytes(self.take(count), "little", signed=True)

    def marked(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise ValueError("no mark")

    def last(self, count: int) -> tuple:
        if len(self.stack) < count:
            raise ValueError("an empty stack")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def put(self, items: list[Any]) -> None:
        """Adds pairs to the dict below them. Keys that are no strings name no tensor and are dropped."""
        target = self.stack[-1]
        if len(items) % 2 or not isinstance(target, dict | Inert):
            raise ValueError("pairs that belong to no dict")
        if isinstance(target, dict):
            target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if type(k) is str)

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list | Inert):
            raise ValueError("items that belong to no list")
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def run(self) -> Any:
        while True:
            self.budget.spend(objects=1)
            code = self.take(1)
            if code == b".":
                if len(self.stack) != 1:
                    raise ValueError("not one result")
                return self.stack.pop()
            step = _STEPS.get(code)
            if step is None:
                raise JaxcamError(
                    f"uses the instruction {code!r} of pickle, which is none of PyTorch's; save model.state_dict() anew"
                )
            step(self)
            if len(self.stack) > _HIGHEST_STACK:
                raise ValueError("too many things at once")


def _push(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value(m))


def _global_from_stack(m: _Machine) -> Global:
    module, name = m.last(2)
    if type(module) is not str or type(name) is not str:
        raise ValueError("a name that is no string")
    return _named(module, name)


def _discard_state(m: _Machine) -> None:
    """BUILD: an OrderedDict's `_metadata`, a Namespace's options. Nothing of it is kept."""
    m.last(1)
    if not m.stack or not isinstance(m.stack[-1], dict | Inert | TensorRef):
        raise ValueError("state for something that has none")


_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.number("<B"),  # PROTO
    b"\x95": lambda m: m.number("<Q"),  # FRAME
    b"c": _push(lambda m: _named(m.line(), m.line())),
    b"\x93": _push(_global_from_stack),
    b"q": lambda m: m.memo.__setitem__(m.number("<B"), m.stack[-1]),
    b"r": lambda m: m.memo.__setitem__(m.number("<I"), m.stack[-1]),
    b"\x94": lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    b"h": _push(lambda m: m.memo[m.number("<B")]),
    b"j": _push(lambda m: m.memo[m.number("<I")]),
    b"(": _push(lambda m: _MARK),
    b")": _push(lambda m: ()),
    b"}": _push(lambda m: {}),
    b"]": _push(lambda m: []),
    b"\x8f": _push(lambda m: Inert()),  # EMPTY_SET
    b"\x90": lambda m: m.marked(),  # ADDITEMS, to a set
    b"\x91": _push(lambda m: (m.marked(), Inert())[1]),  # FROZENSET
    b"t": _push(lambda m: tuple(m.marked())),
    b"\x85": _push(lambda m: m.last(1)),
    b"\x86": _push(lambda m: m.last(2)),
    b"\x87": _push(lambda m: m.last(3)),
    b"X": _push(lambda m: m.string("<I", "utf-8")),
    b"\x8c": _push(lambda m: m.string("<B", "utf-8")),
    b"\x8d": _push(lambda m: m.string("<Q", "utf-8")),
    b"U": _push(lambda m: m.string("<B", "latin-1")),
    b"T": _push(lambda m: m.string("<I", "latin-1")),
    b"C": _push(lambda m: m.string("<B")),
    b"B": _push(lambda m: m.string("<I")),
    b"\x8e": _push(lambda m: m.string("<Q")),
    b"\x96": _push(lambda m: m.string("<Q")),  # BYTEARRAY8
    b"K": _push(lambda m: m.number("<B")),
    b"M": _push(lambda m: m.number("<H")),
    b"J": _push(lambda m: m.number("<i")),
    b"\x8a": _push(lambda m: m.integer(m.number("<B"))),
    b"\x8b": _push(lambda m: m.integer(m.number("<i"))),
    b"G": _push(lambda m: m.number(">d")),
    b"N": _push(lambda m: None),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"R": _push(lambda m: _call(*m.last(2))),
    b"\x81": _push(lambda m: _call(*m.last(2))),  # NEWOBJ
    b"b": _discard_state,
    b"s": lambda m: m.put(list(m.last(2))),
    b"u": lambda m: m.put(m.marked()),
    b"a": lambda m: m.extend(list(m.last(1))),
    b"e": lambda m: m.extend(m.marked()),
    b"Q": _push(lambda m: m.persistent(m.last(1)[0])),
    b"0": lambda m: m.last(1),
    b"1": lambda m: m.marked(),
    b"2": _push(lambda m: m.stack[-1]),
}


def storage(pid: Any) -> StorageRef:
    """The storage that a persistent id of PyTorch's names.

    Raises:
      ValueError: it names none.
    """
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise ValueError("a reference to something that is no storage")
    kind, key, numel, view = pid[1], pid[2], pid[4], pid[5] if len(pid) == 6 else None
    if not isinstance(kind, Global) or kind.name not in STORAGES or type(key) is not str or type(numel) is not int:
        raise ValueError("a storage of an unknown kind")
    base = 0
    if view is not None:
        _, base, numel = view
    if type(base) is not int or type(numel) is not int or base < 0 or numel < 0:
        raise ValueError("a storage of an impossible size")
    return StorageRef(key, STORAGES[kind.name], numel, base)


def load(file: io.BufferedIOBase, budget: Budget, *, persistent: Callable[[Any], Any] = storage) -> Any:
    """The object that one pickle in an open file describes; the file is left behind the pickle.

    Args:
      persistent: turns a persistent id into an object.

    Raises:
      JaxcamError: it asks for a name that is not on the lists, or for more than the budget grants.
      ValueError, KeyError, IndexError, EOFError, TypeError, struct.error: it is broken.
    """
    return _Machine(file, persistent, budget).run()
