"""Broken and hostile files of weights: what happens to files, and what people could do to them."""

from __future__ import annotations

import io
import json
import pathlib
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator

import foreign_files as ff
import numpy as np
from safetensors.numpy import save

sys.path.insert(0, str(pathlib.Path(__file__).parent / "reference"))
import seeded_networks as seeded  # noqa: E402

STATE = {k: seeded.draw(k, s) for k, s in seeded.vgg_shapes(11, False, 1 / 64, 5, 512).items()}
FIRST, DENSE = "features.0.weight", "classifier.3.weight"
WRITERS: dict[str, Callable] = {
    "zip": ff.write_zip,
    "legacy": ff.write_legacy,
    "safetensors": lambda path, state: path.write_bytes(save(state)) and path,
}
Variants = Iterator[tuple[str, bytes]]


def written(layout: str, folder: pathlib.Path, state: dict[str, np.ndarray], **lies) -> bytes:
    return WRITERS[layout](folder / "made", state, **lies).read_bytes()


def truncated(layout: str, folder: pathlib.Path) -> Variants:
    data = written(layout, folder, STATE)
    cuts = {1, 2, 7, 8, 9, 64, 300, len(data) - 1, len(data) - 8, *range(40, len(data), len(data) // 14)}
    yield from ((f"{layout} cut at {n}", data[:n]) for n in sorted(cuts))


def misfits(layout: str, folder: pathlib.Path) -> Variants:
    """Whole files whose tensors are wrong."""
    for name in (FIRST, "features.3.bias", "classifier.0.weight", DENSE, "classifier.6.bias"):
        yield f"{layout} without {name}", written(layout, folder, {k: v for k, v in STATE.items() if k != name})
        yield f"{layout} with int64 {name}", written(layout, folder, STATE | {name: STATE[name].astype(np.int64)})
        for number in (np.nan, np.inf, -np.inf):
            spoiled = STATE[name].copy()
            spoiled.flat[-1] = number
            yield f"{layout} with {number} in {name}", written(layout, folder, STATE | {name: spoiled})
    for name in (FIRST, "features.11.weight", "classifier.0.weight"):
        turned = np.ascontiguousarray(STATE[name].T)
        yield f"{layout} with {name} transposed", written(layout, folder, STATE | {name: turned})
        yield f"{layout} with {name} flat", written(layout, folder, STATE | {name: STATE[name].reshape(-1)})
    for extra in (
        "features.99.weight",
        "features.a\nb",
        "features.\x1b[31mred",
        "x" * 5000,
        "classifier.6.weight_orig",
    ):
        yield f"{layout} with extra {extra[:9]!r}", written(layout, folder, STATE | {extra: np.ones(3, np.float32)})
    huge = STATE | {FIRST: np.full_like(STATE[FIRST], 1e300, np.float64)}
    yield f"{layout} with values beyond float32", written(layout, folder, huge)
    yield f"{layout} with no tensor", written(layout, folder, {})


ABSURD = [
    {"shape": (10**6, 10**6, 3, 3)}, {"shape": (2**40, 3, 3, 3)}, {"shape": (-1, 3, 3, 3)}, {"shape": (2**62,) * 4},
    {"shape": (10**6, 10**6), "strides": (0, 0)}, {"shape": (1, 3, 3, 3), "strides": (0, 0, 0, 0)},
    {"offset": 10**12}, {"offset": -5}, {"offset": 5}, {"numel": 10**15}, {"numel": -1}, {"shape": (1,) * 40},
    {"strides": (27, 9, 3)}, {"strides": (-27, 9, 3, 1)}, {"strides": (27, 10**15, 3, 1)}, {"shape": ()},
]  # fmt: skip


def absurd(layout: str, folder: pathlib.Path) -> Variants:
    for lie in ABSURD:
        yield f"{layout} claiming {lie}", written(layout, folder, STATE, lies={FIRST: lie})


def call(module: str, name: str, argument: str) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + ff.text(argument) + b"tR"


def pickles(folder: pathlib.Path) -> Variants:
    """Pickles that call, import, or never end. Every command would leave the file `ran` behind."""
    mark = folder / "ran"
    command = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    harmful = [
        ("os", "system", command), ("posix", "system", command), ("nt", "system", command), ("os", "popen", command),
        ("subprocess", "getoutput", command), ("subprocess", "Popen", command), ("builtins", "exec", code),
        ("builtins", "eval", code), ("__builtin__", "eval", code), ("builtins", "open", str(mark)),
        ("builtins", "getattr", "x"), ("builtins", "__import__", "os"), ("importlib", "import_module", "os"),
        ("runpy", "_run_code", code), ("torch", "load", str(mark)), ("torch.hub", "load", "x"),
        ("torch.os", "system", command),
        ("torch._utils", "os.system", command), ("collections", "OrderedDict.__init__", "x"),
        ("numpy", "load", str(mark)),
        ("torch.serialization", "load", str(mark)), ("pickle", "loads", "x"), ("webbrowser", "open", "x"),
    ]  # fmt: skip
    for module, name, argument in harmful:
        yield f"{module}.{name} alone", ff.wrapped(call(module, name, argument), None)
        beside = ff.text("opt") + call(module, name, argument) + ff.text("state_dict") + ff.table(STATE)
        yield f"{module}.{name} beside weights", b"\x80\x02}(" + beside + b"u."
    yield "os.system by its name on the stack", b"\x80\x04" + ff.text("os") + ff.text("system") + b"\x93" + b"(" + (
        ff.text(command) + b"tR.")  # fmt: skip
    yield "os.system as an instance", b"(S'" + command.encode() + b"'\nios\nsystem\n."
    yield "os.system as an object", b"(cos\nsystem\nX" + struct.pack("<I", len(command)) + command.encode() + b"o."
    yield "an extension code", b"\x80\x02\x82\x01."
    yield "a memo at 2^32", b"\x80\x02Nr\xff\xff\xff\xff."
    yield "a string of 4 GB", b"\x80\x02X\xff\xff\xff\xff."
    yield "a string of 2^63 bytes", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f."
    yield "an integer of 2 GB", b"\x80\x02\x8b\xff\xff\xff\x7f."
    yield "an integer of negative length", b"\x80\x02\x8b\xff\xff\xff\xff."
    yield "a million marks", b"\x80\x02" + b"(" * 1_000_000 + b"."
    yield "endless instructions", b"\x80\x02" + b"N0" * 2_000_000 + b"."
    yield "doubling", b"\x80\x02]" + b"q\x00" + b"h\x00\x86q\x00".replace(b"\x86", b"h\x00\x86") * 60 + b"."
    yield "a dict that holds itself", b"\x80\x02}q\x00" + ff.text("state_dict") + b"h\x00s."
    yield "an empty stack", b"\x80\x02."
    yield "nothing but items", b"\x80\x02(u."
    yield "a tensor of no storage", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR."
    yield "a storage with a path for a key", ff.wrapped(ff.table(STATE).replace(ff.text("0"), ff.text("../../x")), None)
    yield "a list for a key", b"\x80\x02}]Ns."
    yield "an unhashable call", b"\x80\x02]]R."


def pickled(layout: str, folder: pathlib.Path) -> Variants:
    for what, data in pickles(folder):
        if layout == "legacy":
            data = data.replace(b"tQ", b"NtQ")
        yield f"{layout}: {what}", WRITERS[layout](folder / "made", STATE, pickled=data).read_bytes()


def archives(folder: pathlib.Path) -> Variants:
    """Zip bombs, and archives that contradict themselves."""

    def made(compression=zipfile.ZIP_STORED, **members: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as z:
            for name, data in members.items():
                z.writestr(name, data)
        return buffer.getvalue()

    good = ff.wrapped(ff.table(STATE), None)
    yield "compressed zeros", made(zipfile.ZIP_DEFLATED, **{"a/data.pkl": good, "a/data/0": bytes(50_000_000)})
    yield "a compressed pickle", made(zipfile.ZIP_DEFLATED, **{"a/data.pkl": b"N" * 50_000_000})
    yield "no storages", made(**{"a/data.pkl": good})
    yield "no pickle", made(**{"a/data/0": b"1234"})
    yield "an empty archive", made()
    yield "TorchScript", made(**{"a/data.pkl": good, "a/constants.pkl": b"\x80\x02)."})
    yield "big-endian", made(**{"a/byteorder": b"big", "a/data.pkl": good})
    whole = written("zip", folder, STATE)
    end, entry = whole.rindex(b"PK\x05\x06"), whole.index(b"PK\x01\x02")
    for field, size in ((20, 4), (24, 4), (42, 4), (10, 2), (16, 4), (28, 2)):  # sizes, offset, method, checksum, name
        for value in (0xFFFFFFF0, 0x7FFFFFFF, 1):
            bad = bytearray(whole)
            bad[entry + field : entry + field + size] = struct.pack("<I", value)[:size]
            yield f"directory field {field} = {value:#x}", bytes(bad)
    for field, size in ((12, 4), (16, 4)):  # size and place of the directory
        bad = bytearray(whole)
        bad[end + field : end + field + size] = b"\xfe" * size
        yield f"end of directory, field {field}", bytes(bad)


def headers() -> Variants:
    """safetensors headers that lie."""
    data = save(STATE)
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def made(changed: object) -> bytes:
        text = (changed if isinstance(changed, str) else json.dumps(changed)).encode()
        return struct.pack("<Q", len(text)) + text + body

    for n in (0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1):
        yield f"header of {n} bytes", struct.pack("<Q", n) + data[8:]
    entry = header[FIRST]
    for change in (
        {"shape": [10**6] * 4}, {"shape": [-1, 3, 3, 3]}, {"shape": ["3", 3, 3, 3]}, {"shape": [1.0, 3, 3, 3]},
        {"shape": 27}, {"shape": [2**62] * 6}, {"data_offsets": [0, 10**15]}, {"data_offsets": [-108, 0]},
        {"data_offsets": [0]}, {"data_offsets": "no"}, {"data_offsets": [0.5, 108.5]}, {"dtype": "F8_E4M3"},
        {"dtype": "F64"}, {"dtype": ["F32"]}, {"dtype": None}, {"data_offsets": [entry["data_offsets"][0]] * 2},
        {"data_offsets": [True, False]},
    ):  # fmt: skip
        yield f"header with {change}", made(header | {FIRST: entry | change})
    overlap = {**entry, "data_offsets": header["features.0.bias"]["data_offsets"]}
    yield "header with an overlap", made(header | {FIRST: overlap})
    yield "header with a hole", made({k: v for k, v in header.items() if k != "classifier.6.bias"})
    twice = json.dumps(header)[:-1] + ', "features.0.bias": ' + json.dumps(header["features.0.bias"]) + "}"
    yield "header with a name twice", made(twice)
    for text in ("{", "[]", "null", "{}", '{"a": 1}', "{" * 9, '{"a":' * 50_000, '{"__metadata__": {}}'):
        yield f"header {text[:12]}", made(text)
