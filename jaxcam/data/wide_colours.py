"""Colours of 16 bits, of which Pillow keeps the upper eight: all of them, where those alone would be black."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

#: How Pillow spells what it decodes: channels of 16 bits, and in which order their bytes are.
_WIDE = re.compile(r"(RGB|RGBA|RGBX|[RGBA]);16([BLN])")
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
#: Values that are all below a quarter of 16 bits are those of 10, 12 or 14.
_DARK = 64
_BIG_ENDIAN = b"MM"


def window(values: np.ndarray) -> tuple[float, float]:
    """Which values of finite whole numbers to show as black and as white: their nominal range where it is known.

    Values that span a quarter of 16 bits or less are those of 10, 12 or 14 bits, as scanners write them: a window
    around them is shown, since the whole range would be black.
    """
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if most > 65535 or least < 0:
        return least, most
    if most <= 255:
        return 0.0, 255.0
    return (least, most) if 255 < most - least < 16384 else (0.0, 65535.0)


def eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as uint8, `low` as 0 and `high` as 255; works in place on float32."""
    values -= low
    values *= 255.0 / max(high - low, 1e-12)
    return np.clip(np.round(values, out=values), 0, 255).astype(np.uint8)


def opened(data: bytes, formats: list[str], check: Callable[[Image.Image], None]) -> Image.Image:
    """A picture's file, opened by Pillow; of wide colours that would be nearly black, decoded and brightened.

    Args:
      data: the file.
      formats: that may be read.
      check: called with the picture before it is decoded; raises where it is too large.
    """
    image = _planes(Image.open(io.BytesIO(data), formats=formats), data)
    spelled = {_spelling(tile) for tile in image.tile}
    if not spelled or not all(_WIDE.fullmatch(s) or s == "LA;16B" for s in spelled):
        return image
    check(image)
    image.load()
    high = np.asarray(image)
    if high[..., :3].max(initial=0) >= _DARK:
        return image
    again = _planes(Image.open(io.BytesIO(data), formats=formats), data)
    if spelled == {"LA;16B"}:  # four bytes a pixel, which are read as they are: grey, and its alpha
        again.tile = [_respelled(tile, "RGBA") for tile in again.tile]
        pairs = np.asarray(again).astype(np.uint16)
        values = pairs[..., [0, 0, 0, 2]] << 8 | pairs[..., [1, 1, 1, 3]]
    else:
        again.tile = [_respelled(tile, _lower(_spelling(tile))) for tile in again.tile]
        values = high.astype(np.uint16) << 8 | np.asarray(again)
    shown = eight_bits(values[..., :3].astype(np.float32), *window(values[..., :3]))
    if values.shape[2] == 4:  # an alpha of few bits, too, would leave next to nothing
        most = int(values[..., 3].max())
        alpha = eight_bits(values[..., 3:].astype(np.float32), 0.0, most if 0 < most < _DARK << 8 else 65535)
        shown = np.concatenate([shown, alpha], -1)
    image.paste(Image.fromarray(shown))
    return image


def _planes(image: ImageFile.ImageFile, data: bytes) -> ImageFile.ImageFile:
    """The same; planes of 16 bits in a TIFF that is not packed are known as such, which Pillow takes for 8 bits."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(284) == 2 and set(tags.get(258, ())) == {16}:
        order = "B" if data.startswith(_BIG_ENDIAN) else "L"
        image.tile = [_respelled(t, f"{_spelling(t)};16{order}") if t[0] == "raw" else t for t in image.tile]
    return image


def _lower(spelling: str) -> str:
    """The spelling by which Pillow keeps the lower eight bits."""
    return spelling[:-1] + _OTHER[spelling[-1]]


def _spelling(tile: Any) -> str:
    arguments = tile[3]
    found = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    return found if isinstance(found, str) else ""


def _respelled(tile: Any, spelling: str) -> Any:
    arguments = tile[3]
    new = spelling if isinstance(arguments, str) else (spelling, *arguments[1:])
    return tile._replace(args=new) if hasattr(tile, "_replace") else (*tile[:3], new)
