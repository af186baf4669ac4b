"""Tensors of types that cannot be read: named and left beside the weights, refused among them."""

from __future__ import annotations

import json
import struct

import foreign_files as ff
import numpy as np
import pytest
from hostile_files import FIRST, STATE

from jaxcam.converters import convert, read_tensors
from jaxcam.errors import JaxcamError


def safetensors(path, extra):
    """The weights, and one tensor each of a name, type, shape and bytes in place of what is called so."""
    header, body = {}, b""
    known = {name: ("F32", values.shape, values.tobytes()) for name, values in STATE.items()}
    for name, (kind, shape, data) in (known | extra).items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def told(network):
    return network.provenance["beside"], network.provenance["left"]


@pytest.mark.parametrize("kind", ["F8_E4M3", "U16", "C64", "F4"])
def test_a_safetensors_file_with_another_type(tmp_path, kind):
    path = safetensors(tmp_path / "a", {"amax": (kind, (3,), bytes(6))})
    assert told(convert(path)) == (["amax"], 1)
    with pytest.raises(JaxcamError, match=f"a: amax: has the type {kind}, which is not supported"):
        read_tensors(path)
    path = safetensors(tmp_path / "a", {FIRST: (kind, STATE[FIRST].shape, bytes(STATE[FIRST].size))})
    with pytest.raises(JaxcamError, match=f"{FIRST} has the type {kind}, which is not supported; store it as F32"):
        convert(path)


@pytest.mark.parametrize(
    "value",
    [np.array(["cat", "dog"]), np.array({"a": len}, object), np.ones(3, complex), np.ones(3, ">f4"),
     np.zeros(2, [("a", "f4")]), np.array("2020-01-01", "M8[D]"), np.ones(3, np.uint16)],
)  # fmt: skip
def test_an_npz_with_another_type(tmp_path, value):
    np.savez(tmp_path / "a.npz", **STATE, beside=value)
    assert told(convert(tmp_path / "a.npz")) == (["beside"], 1)
    among = np.empty(STATE[FIRST].shape, value.dtype)
    among.fill(value.reshape(-1)[0])
    np.savez(tmp_path / "a.npz", **STATE | {FIRST: among})
    with pytest.raises(JaxcamError, match=f"{FIRST} (has the type|was written on a big-endian)"):
        convert(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["ComplexFloat", "QUInt8"])
def test_a_pth_with_another_type(tmp_path, kind):
    odd = ff.tensor("0", STATE[FIRST], legacy=False).replace(b"FloatStorage", f"{kind}Storage".encode())
    pickled = b"\x80\x02" + ff.table(STATE)[:-1] + ff.text("phases") + odd + b"u."
    assert told(convert(ff.write_zip(tmp_path / "a.pth", STATE, pickled=pickled))) == (["phases"], 1)
    legacy = ff.wrapped(ff.table(STATE, legacy=True), None).replace(b"FloatStorage", f"{kind}Storage".encode())
    with pytest.raises(JaxcamError, match=f"has the type {kind}, which is not supported"):
        convert(ff.write_legacy(tmp_path / "b.pth", STATE, pickled=legacy))
