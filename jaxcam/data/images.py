"""Reading pictures as a person sees them: orientation, palette, alpha, CMYK and 16 bits included."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms, ImageOps

from jaxcam.data.wide_colours import eight_bits, opened, window
from jaxcam.errors import JaxcamError
from jaxcam.files import read_file

#: Pictures with more pixels than this are refused, before they are decoded. Reading one takes up to
#: about 12 bytes a pixel, so 1 GiB at this bound, which lies below the one where Pillow starts to warn.
MAX_PIXELS = 89_000_000

#: What is read, by Pillow's names; never whatever else Pillow finds installed, as interpreters of PostScript.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "PPM", "WEBP", "JPEG2000", "AVIF", "HEIF")
#: RGBA of 16 bits each takes 8 bytes a pixel; a larger file is no picture within `MAX_PIXELS`.
MAX_BYTES = 8 * MAX_PIXELS + (1 << 20)
#: Formats that hold frames, or pages, and how many of a picture are given at the most.
_MOVING, MAX_FRAMES = ("GIF", "PNG", "WEBP", "AVIF", "TIFF"), 1000
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: What a TIFF says of a picture that is another one, made small.
_REDUCED = 1
_TIFF_LOCK = threading.Lock()

#: What a picture can be given as: a path, the bytes of a file, an opened picture, or an array of pixels.
Picture = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | np.ndarray


def open_image(path: str | os.PathLike) -> Image.Image:
    """Decodes the picture at `path` into an RGB `PIL.Image`, upright and composited on white.

    Of an animation the first frame is read. An embedded colour profile is converted to sRGB.

    Raises:
      JaxcamError: the file is missing, is not a picture, is cut off, or holds more than `MAX_PIXELS`.
    """
    path = pathlib.Path(path)
    return _parsed(_content(path), str(path))


def frames(path: str | os.PathLike, count: int | None = None) -> Iterator[tuple[int, Image.Image, float]]:
    """Frames of an animated picture, or pages of a TIFF, each as `open_image` gives it; none of a still picture.

    Args:
      path: the file.
      count: how many, evenly spread from the first on; all where None, or where there are fewer.

    Yields:
      The frame's number, the frame, and how long it is shown until the next one that is given, in milliseconds.

    Raises:
      JaxcamError: as `open_image`; or there are more than `MAX_FRAMES` to give.
    """
    path = pathlib.Path(path)
    data = _content(path)
    try:
        image = Image.open(io.BytesIO(data), formats=_readable(data))
        total = getattr(image, "n_frames", 1) if image.format in _MOVING else 1
    except Exception:  # what it is, and what is wrong with it, says the one who reads it
        open_image(path)
        return
    if total < 2:
        return
    wanted = range(total) if count is None else sorted({i * total // count for i in range(count)})
    if len(wanted) > MAX_FRAMES:
        raise JaxcamError(f"{path}: has {total} frames, of which at most {MAX_FRAMES} are explained; ask for fewer")
    ends = [*wanted[1:], total]
    for number, end in zip(wanted, ends, strict=True):
        try:
            image.seek(number)
            frame, shown = image.copy(), _milliseconds(image)
            frame.info = dict(image.info)
        except Exception as e:
            raise _broken(str(path), e) from None
        picture = _decode(frame, str(path), white=_zero_is_white(image))
        with contextlib.suppress(Exception):  # those between count by their time alone
            for between in range(number + 1, end):
                image.seek(between)
                shown += _milliseconds(image)
        yield number, picture, shown


def _milliseconds(image: Image.Image) -> float:
    """How long the frame is shown that a file is at."""
    told = image.info.get("duration", 0)
    return float(told) if isinstance(told, int | float) and told > 0 else 100.0


def _parsed(data: bytes, name: str) -> Image.Image:
    """The picture in the bytes of a file."""
    try:
        with _quiet_libtiff() if data[:4] in _TIFF else contextlib.nullcontext():
            image = opened(data, _readable(data), lambda image: _check_size(image, name))
        if data[:4] in _TIFF and getattr(image, "tag_v2", {}).get(254) == _REDUCED:
            raise JaxcamError(f"{name}: begins with a thumbnail, as a camera's raw files do; save the picture as PNG")
        return _decode(image, name)
    except Image.UnidentifiedImageError:
        raise JaxcamError(f"{name}: {_unreadable(data)}") from None
    except Image.DecompressionBombError as e:
        raise JaxcamError(f"{name}: {first_line(e)}; shrink the picture first") from None
    except JaxcamError:
        raise
    except Exception as e:  # Pillow's parsers raise many kinds
        raise _broken(name, e) from None


def _content(path: pathlib.Path) -> bytes:
    """The bytes of a file, of which there are no more than `MAX_BYTES`."""
    data = read_file(path, MAX_BYTES)
    if not data:
        raise JaxcamError(f"{path}: is empty (0 bytes)")
    return data


def _readable(data: bytes) -> list[str]:
    """Of `FORMATS` those that the installed Pillow reads."""
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        Image.preinit()  # what most photos are needs none of the many others
    else:
        Image.init()
    if _brand(data) == "HEIC" and "HEIF" not in Image.OPEN:
        with contextlib.suppress(ImportError):  # not everybody's: its codec is under patents
            import pillow_heif  # type: ignore[import-not-found, import-untyped, unused-ignore]

            pillow_heif.register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def _brand(data: bytes) -> str:
    """ "HEIC" or "AVIF" where the file says so; "" for every other."""
    if data[4:8] != b"ftyp":
        return ""
    brands = {data[8:12], *(data[i : i + 4] for i in range(16, min(int.from_bytes(data[:4], "big"), 256), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"} else ""


def _unreadable(data: bytes) -> str:
    """Why no reader takes a file."""
    if (brand := _brand(data)) == "HEIC" and "HEIF" not in Image.OPEN:
        return "is a HEIC picture; to read it, pip install pillow-heif, or save it as JPEG"
    if brand == "AVIF" and "AVIF" not in Image.OPEN:
        return "is an AVIF picture; to read it, pip install 'pillow>=11.3', or save it as JPEG"
    if data.lstrip()[:4] == b"%!PS" or data[:4] == b"\xc5\xd0\xd3\xc6":
        return "is PostScript, a program and not a picture; save what it draws as PNG"
    if data[128:132] == b"DICM":
        return "is DICOM; save its pixels as PNG, which keeps 16 bits, with pydicom or your viewer"
    if data[:5] == b"%PDF-":
        return "is a PDF; save the page as PNG"
    if data[:4] in _TIFF:
        return (
            "is a TIFF of a kind that cannot be read, as of colours in floats or of 64 bits, or is cut off; save it "
            "as a TIFF or PNG of 8 or 16 bits"
        )
    if b"<svg" in data[:1024]:
        return "is SVG, a drawing; save it as PNG"
    return "is not a picture in a format that can be read (JPEG, PNG, WebP, GIF, TIFF, ...), or is cut off"


@contextlib.contextmanager
def _quiet_libtiff() -> Iterator[None]:
    """Keeps from standard error what libtiff writes there of its own accord while the block runs.

    There is no other way than to turn the descriptor away, for all threads; other lines than libtiff's are passed on.
    """
    with _TIFF_LOCK, tempfile.TemporaryFile() as heard:
        kept = os.dup(2)
        try:
            os.dup2(heard.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            heard.seek(0)
            lines = [x for x in heard.read(1 << 20).splitlines(True) if not re.match(rb"[\w.]+: |More samples", x)]
            with contextlib.suppress(OSError):
                os.write(2, b"".join(lines))


def to_picture(picture: Picture, *, name: str = "the picture") -> Image.Image:
    """An RGB `PIL.Image`, as `open_image` gives it, of a picture in any of the forms it may come in.

    Args:
      picture: a path; the bytes of a picture's file; a `PIL.Image` (turned upright and composited like a file); or an
        array `(h, w)` or `(h, w, C)` of uint8, or of floats in [0, 1]; without channels of uint16, too. Channels are
        those of grey, RGB and RGBA for C of 1, 3 and 4; of any other number the mean is shown.
      name: what to call it in an error.

    Raises:
      JaxcamError: it cannot be read, or the array is not a picture.
    """
    if isinstance(picture, str | os.PathLike):
        return open_image(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return _parsed(bytes(picture), name)
    if isinstance(picture, Image.Image):
        return _decode(picture, name)
    pixels = np.asarray(picture)
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise JaxcamError(f"{name}: an array must be (h, w) or (h, w, channels), not {pixels.shape}")
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    shown = pixels
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN as well
            raise JaxcamError(f"{name}: an array of floats must lie in [0, 1]; for 0 to 255 use uint8")
        shown = np.round(pixels.astype(np.float32) * 255).astype(np.uint8)
    if shown.dtype != np.uint8 and not (shown.dtype == np.uint16 and shown.ndim == 2):
        raise JaxcamError(f"{name}: an array must be uint8, or floats in [0, 1], not {pixels.dtype}")
    if shown.ndim == 2 or shown.shape[2] in _PILLOWS:
        return _decode(Image.fromarray(shown), name)
    grey = _decode(Image.fromarray(np.round(shown.mean(-1)).astype(np.uint8)), name)
    grey.as_it_is = pixels  # type: ignore[attr-defined]
    return grey


#: Numbers of channels that an array has like a picture of Pillow's: RGB and RGBA.
_PILLOWS = (3, 4)


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise JaxcamError(
            f"{name}: {image.width} x {image.height} pixels are more than the {MAX_PIXELS / 1e6:.0f} "
            "megapixels that are read; shrink the picture first"
        )
    if image.width * image.height == 0:
        raise JaxcamError(f"{name}: holds no pixels")


def _decode(image: Image.Image, name: str, *, white: bool | None = None) -> Image.Image:
    """The picture as it is shown; `white`: whether its zeros are white, None to ask it."""
    _check_size(image, name)
    try:
        white = _zero_is_white(image) if white is None else white
        with _quiet_libtiff() if image.format == "TIFF" else contextlib.nullcontext():
            image.load()
        upright = _upright(image)
        shown, alpha = _to_rgb(upright, white)
        own = upright if _is_deep(upright) else shown
        if upright.mode in ("1", "L", "LA", "La"):
            own = shown.convert("L")
        if alpha is not None:
            own = shown.copy() if own is shown else own
            own.putalpha(alpha)
            shown.paste((255, 255, 255), mask=alpha.point(lambda a: 255 - a))
        if own is not shown:
            shown.as_it_is = own  # type: ignore[attr-defined]
        return shown
    except Exception as e:  # Pillow's decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error
        raise _broken(name, e) from None


def _broken(name: str, error: Exception) -> JaxcamError:
    return JaxcamError(f"{name}: the picture is broken or cut off ({first_line(error)})")


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(0x0112, 1) in range(2, 9)
        return ImageOps.exif_transpose(image) if turned else image  # which copies, turned or not
    except Exception:  # a broken EXIF block: viewers show the picture as it lies
        return image


def as_it_is(image: Image.Image) -> Image.Image | np.ndarray:
    """What one of `open_image` or `to_picture` shows, in channels of its own: grey, alpha, more than 8 bits.

    A `PIL.Image` of mode L, LA, RGB or RGBA, or (as in the file) I;16, I or F; an array where it was one with other
    channels than those. Palettes and other colours are RGB.
    """
    return getattr(image, "as_it_is", image)


def _is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _zero_is_white(image: Image.Image) -> bool:
    """Whether a TIFF has more than 8 bits, as Pillow does not turn them, and says that 0 is white: an X-ray's film."""
    return _is_deep(image) and getattr(image, "tag_v2", {}).get(262) == 0


def _to_rgb(image: Image.Image, white: bool) -> tuple[Image.Image, Image.Image | None]:
    """The colours of a picture as RGB, and its alpha; None where it has none."""
    gamma = _gamma(image)
    if _is_deep(image):
        told = {k: v for k, v in image.info.items() if k != "transparency"}  # a grey of 16 bits
        image = _from_high_depth(image)
        image.info = told
    if white:
        image = image.point([255 - v for v in range(256)])
    profile = image.info.get("icc_profile")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    elif image.mode in ("1", "L", "RGB") and "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is not None:
        image = image.convert(image.mode[:-1])
    if profile:
        image = _to_srgb(image, profile)
    if image.mode == "LAB":  # which Pillow itself does not convert
        profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB") or image
    if image.mode != "RGB":
        image = image.convert("RGB")
    if gamma is not None:
        image = image.point(gamma * 3)
        image.info.pop("gamma", None)  # it is applied
    return image, alpha


def _gamma(image: Image.Image) -> list[int] | None:
    """The table that turns values of a PNG which declares another gamma than a screen's, 1 / 2.2, into a screen's.

    What declares its colours better, by a profile or as sRGB, is left as it is.
    """
    told, info = image.info.get("gamma"), image.info
    if not isinstance(told, float) or not 0.05 < told < 5 or "srgb" in info or info.get("icc_profile"):
        return None
    exponent = 1 / (2.2 * told)
    if abs(exponent - 1) < 0.02:
        return None
    return [round(255 * (v / 255) ** exponent) for v in range(256)]


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    if image.mode == "1":
        image = image.convert("L")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and source.profile.xcolor_space.strip() == "GRAY":
            image = image.convert("L")  # a grey palette picture
        shown = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
        shown.info.pop("icc_profile", None)  # it is applied, and that of sRGB would be again
        return shown
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image  # a broken profile, or one for other colours: the plain conversion, as viewers do


def _from_high_depth(image: Image.Image) -> Image.Image:
    """Greys of 16 and more bits as 8: by their nominal range, or by their own where that is unknown."""
    values = np.asarray(image, np.float32)
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, posinf=most, neginf=least)
    return Image.fromarray(eight_bits(values, *((least, most) if image.mode == "F" else window(finite))))
