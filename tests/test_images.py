"""Pictures are read as a person sees them, and what is no picture is refused in one line."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from networks import VGG, network, picture
from PIL import Image, ImageCms

from jaxcam.data.images import MAX_PIXELS, as_it_is, open_image, to_picture
from jaxcam.data.preprocessing import Preprocessing, own_preprocessing
from jaxcam.errors import JaxcamError

UPRIGHT = picture(6, 9)

#: How the pixels lie in the file for the picture to be UPRIGHT when shown (EXIF 2.3, tag 0x0112).
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),  # is turned clockwise when shown
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def read_image(path) -> np.ndarray:
    return np.asarray(open_image(path))


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "p.png", Image.fromarray(np.ascontiguousarray(STORED[orientation])), exif=exif)
    np.testing.assert_array_equal(read_image(path), UPRIGHT)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(np.asarray(to_picture(opened)), UPRIGHT)


def test_broken_exif_is_ignored(tmp_path):
    path = save(tmp_path / "p.png", Image.fromarray(UPRIGHT), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(path), UPRIGHT)


def test_grey(tmp_path):
    path = save(tmp_path / "p.png", Image.fromarray(UPRIGHT[..., 0]))
    np.testing.assert_array_equal(read_image(path), np.repeat(UPRIGHT[..., :1], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(tmp_path, mode):
    image = Image.new(mode, (3, 1), 0)
    black = (0,) * (len(mode) - 1)
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*black, alpha))
    values = read_image(save(tmp_path / "p.png", image))[0, :, 0]
    np.testing.assert_allclose(values, [255, 127, 0], atol=1)


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = save(tmp_path / "p.png", image, transparency=0)
    np.testing.assert_array_equal(read_image(path)[0], [[255, 255, 255], [200, 100, 50]])


def test_cmyk(tmp_path):
    path = save(tmp_path / "p.jpg", Image.new("CMYK", (8, 8), (255, 0, 0, 0)), quality=100)
    np.testing.assert_allclose(read_image(path)[4, 4], [0, 255, 255], atol=4)


def test_16_bits(tmp_path):
    ramp = np.array([[0, 65535 // 2, 65535, 200]], np.uint16)
    path = save(tmp_path / "p.png", Image.fromarray(ramp))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 127, 255, 1])


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize(("bits", "offset"), [(10, 0), (12, 0), (14, 0), (12, 32768), (8, 0)])
def test_a_few_bits_in_16(tmp_path, kind, bits, offset):
    """Shown by a window; a preprocessing function gets the picture as it is."""
    grey = (offset + np.linspace(0, 2**bits - 1, 4096)).reshape(64, 64).astype(np.uint16)
    shown = open_image(save(tmp_path / f"p.{kind}", Image.fromarray(grey)))
    pixels = np.asarray(shown)
    assert pixels.min() == 0 and pixels.max() == 255 and len(np.unique(pixels)) == 256
    np.testing.assert_array_equal(np.asarray(as_it_is(shown)), grey)
    np.testing.assert_array_equal(np.asarray(as_it_is(to_picture(shown))), grey)
    seen = []

    def look(picture):
        seen.append(np.asarray(picture))
        return np.zeros((8, 8, 3), np.float32)

    look.region = lambda w, h: (0, 0, w, h)
    own_preprocessing(look).pixels(shown)
    assert seen[-1].dtype.itemsize == 2
    np.testing.assert_array_equal(seen[-1], grey)


def test_a_picture_of_one_grey_in_16_bits_stays_as_it_was(tmp_path):
    path = save(tmp_path / "p.png", Image.fromarray(np.full((3, 3), 32768, np.uint16)))
    assert (read_image(path) == 128).all()


def _with_gamma(path, values: np.ndarray, *, chunks: list[tuple[bytes, bytes]]):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + values.tobytes())) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*c) for c in chunks) + body)
    return path


def test_the_gamma_of_a_png(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)
    linear = np.round((ramp / 255) ** 2.2 * 255).astype(np.uint8)
    one, usual = ((b"gAMA", struct.pack(">I", g)) for g in (100_000, 45_455))
    shown = open_image(_with_gamma(tmp_path / "p.png", linear, chunks=[one]))
    expected = np.round(255 * (linear / 255) ** (1 / 2.2))
    np.testing.assert_array_equal(np.asarray(shown)[0, :, 0], expected)
    np.testing.assert_array_equal(np.asarray(to_picture(shown))[0, :, 0], expected)  # not twice
    for chunks in ([usual], [one, (b"sRGB", b"\0")], [(b"gAMA", bytes(4))]):
        path = _with_gamma(tmp_path / "q.png", ramp, chunks=chunks)
        np.testing.assert_array_equal(read_image(path)[0, :, 0], ramp)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 255, 0))]
    path = save(tmp_path / "p.gif", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(path)[0, 0], [255, 0, 0])


def _swapped_profile() -> bytes:
    """sRGB with red and green exchanged: a picture that carries it looks red where its numbers say green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = entries[b"rXYZ"] + 4, entries[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile(tmp_path, mode):
    image = Image.new("RGB", (4, 4), (0, 255, 0)).convert(mode)
    path = save(tmp_path / "p.png", image, icc_profile=_swapped_profile())
    np.testing.assert_allclose(read_image(path)[0, 0], [255, 0, 0], atol=3)


def test_a_colour_profile_is_applied_once(tmp_path):
    shown = open_image(save(tmp_path / "p.png", Image.fromarray(UPRIGHT), icc_profile=_swapped_profile()))
    assert "icc_profile" not in shown.info and to_picture(shown) is shown  # what was read is read again as it is


def test_broken_colour_profile_is_ignored(tmp_path):
    path = save(tmp_path / "p.png", Image.fromarray(UPRIGHT), icc_profile=b"not a profile")
    np.testing.assert_array_equal(read_image(path), UPRIGHT)


@pytest.mark.parametrize(
    "array",
    [UPRIGHT, UPRIGHT / 255.0, np.dstack([UPRIGHT, np.full((6, 9), 255, np.uint8)])],
    ids=["uint8", "float", "opaque"],
)
def test_arrays(array):
    np.testing.assert_array_equal(np.asarray(to_picture(array)), UPRIGHT)


def test_grey_arrays():
    expected = np.repeat(UPRIGHT[..., :1], 3, axis=2)
    for array in (UPRIGHT[..., 0], UPRIGHT[..., :1]):
        np.testing.assert_array_equal(np.asarray(to_picture(array)), expected)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (UPRIGHT.astype(np.float32), "must lie in"),
        (UPRIGHT.astype(np.int64), "must be uint8"),
        (np.full((2, 2), np.nan), "must lie in"),
        (np.zeros((3, 4, 2, 2), np.uint8), r"\(h, w, channels\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
    ],
)
def test_arrays_that_are_no_pictures(array, why):
    with pytest.raises(JaxcamError, match=why):
        to_picture(array)


def test_a_network_sees_the_same_in_every_form(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "p.png", Image.fromarray(np.ascontiguousarray(STORED[6])), exif=exif)
    net = network(VGG, size=32)
    for form in (path, str(path), Image.open(path)):
        np.testing.assert_array_equal(net.preprocess(form), net.preprocess(UPRIGHT))


def _jpeg() -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture(200, 200)).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"These are words.\n", "is not a picture"),
        (_jpeg()[:3000], "broken or cut off"),
        (b"\x89PNG\r\n\x1a\n", "is not a picture"),
    ],
    ids=["empty", "text", "truncated", "header"],
)
def test_broken_files(tmp_path, content, why):
    path = tmp_path / "p.jpg"
    path.write_bytes(content)
    with pytest.raises(JaxcamError, match=why) as e:
        open_image(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(JaxcamError, match="no such file"):
        open_image(tmp_path / "nope.jpg")
    with pytest.raises(JaxcamError, match="is a folder"):
        open_image(tmp_path)


def huge_png(path, side: int):
    """A genuine black PNG of side x side pixels, 1 bit each."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + (side + 7) // 8) * side), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [20_000, 12_000], ids=["beyond Pillow's bound", "within it"])
def test_huge_pictures_are_refused_before_they_take_memory(tmp_path, side):
    path = huge_png(tmp_path / "huge.png", side)
    assert side**2 > MAX_PIXELS
    script = (
        "import sys, resource, warnings; warnings.simplefilter('ignore')\n"
        "from jaxcam.data.images import open_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: open_image(sys.argv[1])\n"
        "except ValueError as e: print(e)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    message, growth = done.stdout.strip().splitlines()
    assert "pixels" in message and "shrink the picture first" in message
    assert int(growth) < 50_000 * (1024 if sys.platform == "darwin" else 1)  # KiB; decoded it would be 100 MB and more


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (50, 30), (30, 50)])
@pytest.mark.parametrize("resize", ["squash", "shorter"])
def test_any_size_becomes_an_input(size, resize):
    rules = Preprocessing(size=32, resize=resize, resize_to=36)
    assert rules(picture(*size)).shape == (32, 32, 3)


def test_a_long_strip_is_not_blown_up(monkeypatch):
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *args, **more: sizes.append(size) or resize(self, size, *args, **more)
    )
    long = np.zeros((2, 60_000, 3), np.uint8)  # 36 x 1,080,000 pixels when its shorter side becomes 36
    long[:, 29_990:30_010] = 100
    assert (Preprocessing(size=32, resize="shorter", resize_to=36).pixels(long) == 100).all()
    assert max(w * h for w, h in sizes) < 100_000


@pytest.mark.parametrize(("w", "h"), [(300, 200), (200, 300), (64, 64), (1, 7)])
def test_region_is_what_pixels_shows(w, h):
    """A picture that is white inside the region and black outside gives a white input, up to the filter's reach."""
    rules = Preprocessing(size=32, resize="shorter", resize_to=40)
    x0, y0, x1, y1 = rules.region(w, h)
    assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h
    assert x1 - x0 == pytest.approx(0.8 * min(w, h)) == y1 - y0
    if min(w, h) > 32:
        marked = np.zeros((h, w, 3), np.uint8)
        marked[round(y0) : round(y1), round(x0) : round(x1)] = 255
        assert (rules.pixels(marked)[2:-2, 2:-2] == 255).all()
        assert rules.pixels(255 - marked)[2:-2, 2:-2].max() == 0
