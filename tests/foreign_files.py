"""Writers of the foreign formats, so that the tests need neither PyTorch nor a download.

The pickles are written instruction by instruction, as `torch.save` writes them (protocol 2, storages as persistent
ids); tests/reference/torch_*.pth, which PyTorch wrote, prove that the readers do not merely read what is written here.
"""

from __future__ import annotations

import pathlib
import struct
import zipfile

import numpy as np

_STORAGE = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage",
    "uint16": "BFloat16Storage", "uint8": "ByteStorage", "int32": "IntStorage",
}  # fmt: skip
_ORDERED = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    """A string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """An integer of any size."""
    if abs(value) < 2**31:
        return struct.pack("<ci", b"J", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def numbers(values: tuple[int, ...]) -> bytes:
    """A tuple of integers."""
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(key: str, array: np.ndarray, *, legacy: bool, shape=None, strides=None, numel=None, offset=0) -> bytes:
    """A tensor that views the whole of a storage; the keywords lie about it."""
    shape = array.shape if shape is None else shape
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :], dtype=object)) for i in range(len(shape)))
    numel = array.size if numel is None else numel
    pid = text("storage") + f"ctorch\n{_STORAGE[array.dtype.name]}\n".encode() + text(key) + text("cpu")
    pid = b"(" + pid + integer(numel) + (b"N" if legacy else b"") + b"tQ"
    rest = integer(offset) + numbers(shape) + numbers(strides) + b"\x89" + _ORDERED
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + rest + b"tR"


def table(state: dict[str, np.ndarray], *, legacy: bool = False, lies: dict[str, dict] | None = None) -> bytes:
    """An OrderedDict of tensors; `lies` gives keywords of `tensor` for some of them."""
    items = b"".join(
        text(name) + tensor(str(i), array, legacy=legacy, **(lies or {}).get(name, {}))
        for i, (name, array) in enumerate(state.items())
    )
    return _ORDERED + b"(" + items + b"u"


def wrapped(inner: bytes, name: str | None) -> bytes:
    """A whole pickle: the table, alone or beside the other things that a training script keeps."""
    if name is None:
        return b"\x80\x02" + inner + b"."
    others = text("epoch") + integer(3) + text("best") + b"G" + struct.pack(">d", 0.7) + text("args") + b"}"
    options = text("opt") + b"cargparse\nNamespace\n)\x81}" + text("lr") + b"G" + struct.pack(">d", 0.1) + b"sb"
    return b"\x80\x02}(" + others + options + text(name) + inner + b"u."


def write_zip(path: pathlib.Path, state: dict[str, np.ndarray], *, wrap=None, pickled=None, lies=None) -> pathlib.Path:
    """A `.pth` as PyTorch writes it since 1.6; `pickled` replaces the pickle in it."""
    data = wrapped(table(state, lies=lies), wrap) if pickled is None else pickled
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        z.writestr("archive/data.pkl", data)
        z.writestr("archive/byteorder", "little")
        for i, array in enumerate(state.values()):
            z.writestr(f"archive/data/{i}", memoryview(np.ascontiguousarray(array)).cast("B"))
        z.writestr("archive/version", "3\n")
    return path


def write_legacy(path: pathlib.Path, state: dict[str, np.ndarray], *, wrap=None, pickled=None, lies=None):
    """A `.pth` in the layout before 1.6."""
    sizes = text("short") + integer(2) + text("int") + integer(4) + text("long") + integer(4)
    system = text("protocol_version") + integer(1001) + text("little_endian") + b"\x88" + text("type_sizes")
    with open(path, "wb") as f:
        f.write(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02" + integer(1001) + b".")
        f.write(b"\x80\x02}(" + system + b"}(" + sizes + b"uu.")
        f.write(wrapped(table(state, legacy=True, lies=lies), wrap) if pickled is None else pickled)
        f.write(b"\x80\x02](" + b"".join(text(str(i)) for i in range(len(state))) + b"e.")
        for array in state.values():
            f.write(struct.pack("<q", array.size) + np.ascontiguousarray(array).tobytes())
    return path


def timm_vgg(state: dict[str, np.ndarray], *, dense: bool = False) -> dict[str, np.ndarray]:
    """torchvision's VGG as timm spells it: a classifier of convolutions, and `head.fc`."""
    out = {}
    for name, array in state.items():
        for theirs, ours in {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}.items():
            if name.startswith(theirs):
                side = 7 if theirs == "classifier.0" else 1
                if array.ndim == 2 and not dense:
                    array = array.reshape(array.shape[0], -1, side, side)
                name = name.replace(theirs, ours)
        out[name.replace("classifier.6", "head.fc")] = array
    return out


def torchray_vgg(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torchvision's VGG as TorchRay's loader expects it: from Caffe, blue first, numbered without dropout."""
    out = {}
    for name, array in timm_vgg(state).items():
        if name == "features.0.weight":
            array = np.ascontiguousarray(array[:, ::-1])
        if name == "head.fc.weight":
            array = array[:, :, None, None]
        for new, old in {"classifier.0": "pre_logits.fc1", "classifier.2": "pre_logits.fc2"}.items():
            name = name.replace(old, new)
        out[name.replace("head.fc", "classifier.4")] = array
    return out


def torchray_resnet(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A ResNet as TorchRay's loader expects it: blue first, batch norms in two parts."""
    out = {}
    for name, array in state.items():
        if name == "conv1.weight":
            array = np.ascontiguousarray(array[:, ::-1])
        *path, leaf = name.split(".")
        if path[-1].startswith("bn") or path[-2:] == ["downsample", "1"]:
            path.append("0" if leaf.startswith("running") else "1")
        out[".".join((*path, leaf))] = array
    return out
