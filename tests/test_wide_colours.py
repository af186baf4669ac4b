"""Colours of more than 8 bits, which Pillow cuts to their upper eight, or turns round, or takes for others."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxcam.data import images
from jaxcam.data.images import as_it_is, frames, open_image
from jaxcam.errors import JaxcamError

GREY = np.linspace(0, 4095, 4096).reshape(64, 64).astype(np.uint16)
COLOURS = np.stack([GREY, GREY[::-1], GREY.T], -1)
FULL = np.full((64, 64, 1), 65535, np.uint16)


def png(path, values, *chunks):
    """A PNG of 16 bits a channel."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    h, w = values.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    head = (b"IHDR", struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0))
    parts = [head, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def tiff(path, values, *, order="<", planes=False, packed=False, photometric=None):
    """A TIFF of the array's own type, in one strip, or one for each plane."""
    h, w = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    lying = np.moveaxis(values, -1, 0) if planes else values[None]
    strips = [part.astype(values.dtype.newbyteorder(order)).tobytes() for part in lying]
    strips = [zlib.compress(s) if packed else s for s in strips]
    bits, form = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    photometric = (2 if channels > 2 else 1) if photometric is None else photometric
    sizes = [len(s) for s in strips]
    tags = {256: [w], 257: [h], 258: [bits] * channels, 259: [8 if packed else 1], 262: [photometric], 273: sizes,
            277: [channels], 278: [h], 279: sizes, 284: [2 if planes else 1], 339: [form] * channels}  # fmt: skip
    behind, entries, first = b"", b"", 8 + 2 + 12 * len(tags) + 4
    start = first + sum(4 * len(v) for v in tags.values() if len(v) > 1)
    for tag, numbers in tags.items():
        if tag == 273:
            numbers = [start + sum(sizes[:i]) for i in range(len(sizes))]
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            data, behind = struct.pack(f"{order}I", first + len(behind)), behind + data
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + data
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + behind + b"".join(strips))
    return path


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_colours_of_any_bits_are_shown_as_greys_are(tmp_path, bits):
    colours = (COLOURS.astype(np.uint32) << 4 >> (16 - bits)).astype(np.uint16)
    most = colours.max() if bits < 16 else 65535
    right = np.round(colours.astype(np.float32) * 255 / most)
    files = [
        png(tmp_path / "a.png", colours), png(tmp_path / "b.png", np.concatenate([colours, FULL], -1)),
        png(tmp_path / "c.png", np.concatenate([colours[..., :1], FULL], -1)),
        tiff(tmp_path / "a.tif", colours), tiff(tmp_path / "b.tif", colours, order=">"),
        tiff(tmp_path / "c.tif", colours, planes=True), tiff(tmp_path / "d.tif", colours, planes=True, order=">"),
        tiff(tmp_path / "e.tif", colours, packed=True), tiff(tmp_path / "f.tif", colours, packed=True, order=">"),
    ]  # fmt: skip
    for file in files:
        shown = np.asarray(open_image(file))
        wanted = right[..., [0, 0, 0]] if file.name == "c.png" else right
        assert np.abs(shown - wanted).max() <= 1, file.name


def test_an_alpha_of_few_bits_is_none_that_hides_the_picture(tmp_path):
    shown = np.asarray(open_image(png(tmp_path / "a.png", np.concatenate([COLOURS, FULL >> 4], -1))))
    assert np.abs(shown - np.round(COLOURS * (255 / 4095))).max() <= 1


def test_zero_is_white_where_the_file_says_so(tmp_path):
    for values in (GREY, GREY.astype(np.float32), (GREY >> 4).astype(np.uint8)):
        shown = np.asarray(open_image(tiff(tmp_path / "a.tif", values, photometric=0)))
        assert shown[0, 0].tolist() == [255] * 3 and shown[-1, -1].tolist() == [0] * 3
    picture = open_image(tiff(tmp_path / "a.tif", GREY, photometric=0))
    assert np.array_equal(np.asarray(as_it_is(picture)), GREY)


def test_a_gamma_and_a_profile_of_16_bits_are_heeded(tmp_path):
    linear = ((GREY / 4095) ** 2.2 * 65535).round().astype(np.uint16)
    shown = open_image(png(tmp_path / "a.png", linear, (b"gAMA", struct.pack(">I", 100000))))
    assert abs(np.asarray(shown).mean() - 127.5) < 2
    keyed = open_image(png(tmp_path / "b.png", GREY << 4, (b"tRNS", struct.pack(">H", 0))))
    assert np.asarray(keyed).max() == 255


def test_what_pillow_cannot_read_of_a_tiff_is_told(tmp_path):
    with pytest.raises(JaxcamError, match="a TIFF of a kind that cannot be read.* save it as"):
        open_image(tiff(tmp_path / "a.tif", COLOURS.astype(np.float32)))


def test_frames_and_bombs_of_wide_colours(tmp_path, monkeypatch):
    assert list(frames(tiff(tmp_path / "a.tif", COLOURS))) == []
    with pytest.raises(JaxcamError, match="more than"), monkeypatch.context() as few:
        few.setattr(images, "MAX_PIXELS", 1000)
        open_image(png(tmp_path / "a.png", COLOURS))
    cut = png(tmp_path / "b.png", COLOURS).read_bytes()[:400]
    (tmp_path / "b.png").write_bytes(cut)
    with pytest.raises(JaxcamError, match="cut off"):
        open_image(tmp_path / "b.png")
    assert isinstance(open_image(png(tmp_path / "c.png", COLOURS * 0)), Image.Image)


def test_a_thumbnail_is_not_taken_for_the_picture(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.dng", format="TIFF", tiffinfo={254: 1})
    with pytest.raises(JaxcamError, match=r"a.dng: begins with a thumbnail"):
        open_image(tmp_path / "a.dng")
    Image.new("RGB", (6, 4)).save(tmp_path / "b.tif", tiffinfo={254: 2})  # a page
    assert open_image(tmp_path / "b.tif").size == (6, 4)
