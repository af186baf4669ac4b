"""Small files of weights that would grow large or endless: each is refused in a line, soon, in little memory."""

from __future__ import annotations

import collections
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import foreign_files as ff
import numpy as np
import pytest

from jaxcam.converters import read_tensors
from jaxcam.errors import JaxcamError

h5py = pytest.importorskip("h5py")
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("f4")


def refused(path, *, why: str) -> None:
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(JaxcamError, match=why) as e:
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 10  # a second or two where nothing traces memory
    assert str(e.value).startswith(str(path)) and len(str(e.value)) < 600


def pickled(path, body: bytes):
    return ff.write_zip(path, {}, pickled=b"\x80\x02" + body + b".")


@pytest.mark.parametrize(
    "made", [b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n"]
)
def test_one_string_called_again_and_again(tmp_path, made):
    s = b"x" * (1 << 20)
    body = b"(" + made + b"q\x00X" + struct.pack("<I", len(s)) + s + b"\x85q\x01" + b"h\x00h\x01R" * 2000 + b"t"
    refused(pickled(tmp_path / "bomb.pth", body), why="refused|damaged|no table")


def test_strings_add_up(tmp_path):
    s = b"X" + struct.pack("<I", 1 << 19) + b"x" * (1 << 19) + b"0"
    refused(pickled(tmp_path / "long.pth", b"}" + s * 40), why="more than 16,777,216 bytes")


@pytest.mark.parametrize("length", [2, 100_000])
def test_what_training_scripts_keep_beside_the_weights_is_passed_over(tmp_path, length):
    """Counters, NumPy arrays and scalars, long and short, as the real pickle writes them."""
    beside = {"counts": collections.Counter("abca"), "loss": np.float64(0.5), "curve": np.arange(length, dtype="f8"),
              "kind": np.dtype("f4"), "flags": {1, 2}, "more": [np.int64(3), np.bool_(True)]}  # fmt: skip
    for protocol in (2, 3, 4, 5):
        body = pickle.dumps(beside, protocol)[:-1]
        start = 2 if protocol < 4 else 11  # PROTO, and the frame that covers all
        table = ff.text("state_dict") + ff.table({"w": KERNEL})
        data = bytes([0x80, protocol]) + body[start:] + b"(" + table + b"u."
        path = ff.write_zip(tmp_path / "w.pth", {"w": KERNEL}, pickled=data)
        np.testing.assert_array_equal(read_tensors(path)["w"], KERNEL)


def safetensors(path, header: bytes):
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    return path


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        (",".join(["1"] * 100_000), "not one of a tensor"),
        (",".join(["9" * 4000] * 1000), "not one of a tensor"),
        ("1,1,1,1,1,1,1,1,1", "not one of a tensor"),
        ("4611686018427387903,4611686018427387903", "not one of a tensor"),
        (",".join(["1"] * 1_000_000), "more than 500,000 parts"),
    ],
)
def test_dimensions_are_counted_before_they_are_multiplied(tmp_path, shape, why):
    header = '{"a.weight":{"dtype":"F32","shape":[' + shape + '],"data_offsets":[0,4]}}'
    refused(safetensors(tmp_path / "w.safetensors", header.encode()), why=why)


@pytest.mark.parametrize("unit", [b"{},", b"[],", b'"",', b'{"a":1},'])
def test_headers_of_many_things(tmp_path, unit):
    for size, why in ((15 << 20, "more than 500,000 parts"), (63 << 20, "more than 16,777,216 bytes")):
        header = b'{"a":[' + unit * (size // len(unit)) + b"1]}"
        refused(safetensors(tmp_path / "w.safetensors", header), why=why)


def test_long_names(tmp_path):
    header = json.dumps({"x" * 2000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    refused(safetensors(tmp_path / "w.safetensors", header.encode()), why="a name of 2,000 letters")


def test_a_zip_of_many_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as z:
        for i in range(3000):
            z.writestr(f"{i}" + "x" * 60_000, b"")
    tracemalloc.start()
    with pytest.raises(JaxcamError, match="more than 16,777,216 bytes"):
        read_tensors(tmp_path / "w.pth")
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()


def test_a_keras_archive_with_a_large_configuration(tmp_path):
    hdf5(tmp_path / "w.h5", lambda f, g: None)
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as z:
        z.write(tmp_path / "w.h5", "model.weights.h5")
        z.writestr("config.json", b"[" + b"{}," * 2_000_000 + b"1]")
    refused(tmp_path / "w.keras", why="more than 500,000 parts")


def hdf5(path, edit):
    with h5py.File(path, "w") as f:
        g = f.create_group("conv/conv")
        g["bias:0"] = np.zeros(5, "f4")
        edit(f, g)
        if "kernel:0" not in g:
            g["kernel:0"] = KERNEL
    return path


def _graph(f, g):
    groups = [f.create_group(f"g{i}") for i in range(10)]
    for a, b in zip(groups, groups[1:], strict=False):
        for j in range(8):
            a[f"l{j}"] = b


def _circle(f, g):
    g["again"] = f["conv"]


def _many(f, g):
    for i in range(26_000):
        f.create_group(f"g{i}")


def _deep(f, g):
    f.create_group("/".join(["d"] * 40))


def _linked(target):
    def edit(f, g):
        del f["conv"]
        f["model_weights"] = target

    return edit


def _virtual(f, g):
    layout = h5py.VirtualLayout(shape=KERNEL.shape, maxshape=(None, *KERNEL.shape[1:]), dtype="f4")
    pipe = os.path.join(os.path.dirname(f.filename), "pipe")
    source = h5py.VirtualSource(pipe, "x", shape=KERNEL.shape, maxshape=(None, *KERNEL.shape[1:]))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    g.create_virtual_dataset("kernel:0", layout)


def _external(f, g):
    pipe = os.path.join(os.path.dirname(f.filename), "pipe")
    g.create_dataset("kernel:0", shape=KERNEL.shape, dtype="f4", external=[(pipe, 0, KERNEL.nbytes)])


def _holes(f, g):
    g.create_dataset("kernel:0", shape=KERNEL.shape, chunks=KERNEL.shape, dtype="f4")


def _half(f, g):
    g.create_dataset("kernel:0", shape=KERNEL.shape, chunks=(1, 3, 4, 5), dtype="f4")[0] = KERNEL[0]


def _contiguous_holes(f, g):
    g.create_dataset("kernel:0", shape=KERNEL.shape, dtype="f4")


def _wide_chunk(f, g):
    shape = (3, 3, 4, 400_000)
    options = {"maxshape": (3, 3, 4, None), "chunks": shape, "compression": "gzip"}
    g.create_dataset("kernel:0", shape=KERNEL.shape, dtype="f4", **options)[...] = KERNEL


def _bomb(f, g):
    import zlib

    data = g.create_dataset("kernel:0", shape=KERNEL.shape, chunks=KERNEL.shape, dtype="f4", compression="gzip")
    data.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(200 << 20), 9)[:300_000])


def _filter(f, g):
    g.create_dataset("kernel:0", data=KERNEL, chunks=KERNEL.shape, compression="lzf")


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (_graph, "under another name as well"), (_circle, "under another name as well"), (_many, "500,000 parts"),
        (_deep, "nested too deeply"), (_virtual, "is virtual"), (_external, "external storage"),
        (_linked(h5py.ExternalLink("pipe", "/")), "link to another place"),
        (_linked(h5py.SoftLink("/nowhere")), "link to another place"), (_holes, "never written"),
        (_half, "never written, or not all"), (_contiguous_holes, "never written"),
        (_wide_chunk, "pieces that are larger"), (_bomb, "larger than itself|unpack to more"), (_filter, "not gzip's"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)  # fmt: skip
def test_hdf5_that_leads_elsewhere_or_has_no_end(tmp_path, edit, why):
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    refused(hdf5(tmp_path / "w.h5", edit), why=why)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_bfloat16_of_either_byte_order(tmp_path, order):
    def edit(f, g):
        values = (KERNEL.view("<u4") >> 16).astype(order)
        g.create_dataset("kernel:0", data=values).attrs["dtype"] = "bfloat16"

    expected = ((KERNEL.view("<u4") >> 16) << 16).view("f4")
    np.testing.assert_array_equal(read_tensors(hdf5(tmp_path / "w.h5", edit))["conv/kernel"], expected)


def test_gzip_is_read_and_bfloat16_of_other_types_refused(tmp_path):
    def packed(f, g):
        g.create_dataset(
            "kernel:0", data=KERNEL, chunks=(2, 3, 4, 5), compression="gzip", shuffle=True, fletcher32=True
        )

    np.testing.assert_array_equal(read_tensors(hdf5(tmp_path / "w.h5", packed))["conv/kernel"], KERNEL)

    def odd(f, g):
        g.create_dataset("kernel:0", data=KERNEL.astype("f2")).attrs["dtype"] = "bfloat16"

    refused(hdf5(tmp_path / "v.h5", odd), why="bfloat16 stored as float16")


def test_a_pipe_is_no_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    refused(tmp_path / "w.pth", why="is a pipe or a device")
