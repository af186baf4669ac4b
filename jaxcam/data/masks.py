"""Segmentation masks: which part of a picture the objects of a class cover, as PNGs paint and COCO outlines it."""

from __future__ import annotations

import dataclasses
import io
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxcam.data.images import MAX_PIXELS
from jaxcam.data.preprocessing import AnyPreprocessing
from jaxcam.errors import JaxcamError
from jaxcam.files import read_file

#: An outline is drawn this many times finer than pixels, and coarser where the picture is very large.
_FINER = 4
_MOST_DRAWN = 1 << 24
_MOST_BYTES = 256 << 20
#: Bits of a run length in COCO's text; numbers without end would take for ever.
_LONGEST_RUN = 40


@dataclasses.dataclass(frozen=True)
class Painted:
    """Pixels of a PNG that have a value, as in VOC's SegmentationObject and SegmentationClass.

    Attributes:
      file: the PNG.
      value: of the pixels, by their place in the palette where there is one; None for all that are not 0.
    """

    file: pathlib.Path
    value: int | None = None

    def read(self) -> np.ndarray:
        """`(h, w)` uint8, 255 where the object is. Of VOC, its void border (255) is no object's.

        Raises:
          JaxcamError: the file cannot be read.
        """
        try:
            with Image.open(io.BytesIO(read_file(self.file, _MOST_BYTES)), formats=("PNG",)) as image:
                pixels = np.asarray(image)
        except JaxcamError:
            raise
        except Exception as e:  # Pillow's parsers raise many kinds
            raise JaxcamError(f"{self.file}: is no PNG of a mask ({e})") from None
        if pixels.ndim == 3:  # colours: painted by hand; a wholly transparent pixel is none
            alpha = pixels[..., -1:] if pixels.shape[2] in (2, 4) else 1
            pixels = (pixels[..., : 1 if pixels.shape[2] < 3 else 3] * (np.asarray(alpha) > 0)).max(-1)
        here = pixels != 0 if self.value is None else pixels == self.value
        return here.astype(np.uint8) * 255

    def described(self, root: pathlib.Path) -> str:
        """What it is, for a digest that does not read it: the file's name below `root`, its size and the value."""
        name = self.file.relative_to(root).as_posix() if root in self.file.parents else self.file.name
        return f"{name} {self.file.stat().st_size if self.file.is_file() else -1} {self.value}"


@dataclasses.dataclass(frozen=True)
class Outlined:
    """An object of COCO: polygons, or run lengths.

    Attributes:
      size: `(w, h)` of the picture; None where only the run lengths tell it.
      shape: the `segmentation` of an annotation.
    """

    size: tuple[int, int] | None
    shape: Any = dataclasses.field(hash=False)

    def read(self) -> np.ndarray:
        """`(h, w)` uint8, how much of each pixel is covered, of 255.

        Raises:
          JaxcamError: these are neither polygons nor run lengths.
        """
        try:
            if isinstance(self.shape, dict):
                return _from_runs(self.shape, self.size)
            if self.size is None:
                raise ValueError("the size of the picture is not known")
            return _from_polygons(self.shape, self.size)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as e:
            raise JaxcamError(f"an outline is neither polygons nor run lengths ({type(e).__name__}: {e})") from None

    def described(self, root: pathlib.Path) -> str:
        """What it is, for a digest."""
        del root
        return f"{self.size} {self.shape}"


Mask = Painted | Outlined


def together(masks: Iterable[Mask]) -> np.ndarray:
    """`(h, w)` uint8 of 255: what the objects cover together.

    Raises:
      JaxcamError: one of them cannot be read, or they are not of one size.
    """
    read = [mask.read() for mask in masks]
    sizes = {m.shape for m in read}
    if len(sizes) > 1:
        raise JaxcamError(f"the masks of one picture are of the sizes {sorted(sizes)}")
    return np.maximum.reduce(read)


def mask_to_input(mask: np.ndarray, preprocessing: AnyPreprocessing) -> np.ndarray:
    """A mask of a picture as one of what the network sees of it.

    Args:
      mask: `(h, w)` uint8, of 255.
      preprocessing: resizes and crops.

    Returns:
      `(H, W)` float32, the share of each pixel of the input that is covered.
    """
    height, width, _ = preprocessing.shape
    region = preprocessing.region(mask.shape[1], mask.shape[0])
    small = Image.fromarray(mask).resize((width, height), Image.Resampling.BOX, box=region)
    return np.asarray(small, np.float32) / 255


def polygons(outline: Any) -> Any:
    """The polygons of an outline; one that stands alone, as numbers and in no list, is one."""
    alone = isinstance(outline, list) and outline and all(isinstance(v, int | float) for v in outline)
    return [outline] if alone else outline


def _from_polygons(outline: Any, size: tuple[int, int]) -> np.ndarray:
    width, height = size
    finer = max(1, min(_FINER, math.isqrt(_MOST_DRAWN // (width * height))))
    image = Image.new("L", (width * finer, height * finer))
    draw = ImageDraw.Draw(image)
    for polygon in polygons(outline):
        corners = np.asarray(polygon, np.float64).reshape(-1, 2)
        if not np.isfinite(corners).all():
            raise ValueError("corners that are not finite")
        if len(corners) >= 3:  # COCO has some of two
            draw.polygon([tuple(c) for c in corners * finer - 0.5], fill=255)
    return np.asarray(image.reduce(finer)) if finer > 1 else np.asarray(image)


def _from_runs(shape: dict, size: tuple[int, int] | None) -> np.ndarray:
    """Run lengths, down the columns and beginning with what is not covered; as numbers, or COCO's text of them."""
    height, width = (int(v) for v in shape["size"])
    if size is not None and size != (width, height):
        raise ValueError(f"runs for {width} x {height} pixels, the picture has {size[0]} x {size[1]}")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are no picture's")
    counts = shape["counts"]
    runs = np.asarray(_decoded(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    if height < 1 or width < 1 or ((runs < 0) | (runs > height * width)).any() or runs.sum() != height * width:
        raise ValueError(f"runs of {runs.sum()} pixels for {height} x {width}")
    covered = np.repeat((np.arange(len(runs)) % 2 * 255).astype(np.uint8), runs)
    return np.ascontiguousarray(covered.reshape(width, height).T)


def _decoded(text: str | bytes) -> list[int]:
    """COCO's text: each number, from the fourth on its difference to the one before the last, in sixes of bits."""
    data = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        bits = byte - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if shift > _LONGEST_RUN:
            raise ValueError("a run that is longer than any picture")
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
