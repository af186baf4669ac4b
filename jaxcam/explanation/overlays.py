"""One map over one photo, at the photo's own size and without margins, and the box around what it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from PIL import Image, ImageDraw

from jaxcam.data.images import Picture, to_picture
from jaxcam.errors import JaxcamError, unknown
from jaxcam.methods.maps import place_map
from jaxcam.notebooks import COLOURS, SIGNED_COLOURS

#: Opacity of a map where it is greatest; elsewhere it fades.
ALPHA = 0.7
#: The share of the maximum above which a box is drawn, as in Zhou et al. 2016.
BOX_SHARE = 0.2
_FAINTEST = 0.4
#: In which values are told apart: four for each colour of a map of 256.
_STEPS = 1024
_BOX_COLOUR = (0, 255, 170)


def overlay(
    image: Picture,
    heatmap: Any,
    *,
    cmap: str | Colormap | None = None,
    alpha: float = ALPHA,
    signed: bool | None = None,
    box: tuple[int, int, int, int] | None = None,
) -> Image.Image:
    """A photo in grey under a map in colour, at the photo's own size.

    Args:
      image: a path, a `PIL.Image`, bytes, or an array `(H, W)` or `(H, W, C)` of uint8 or floats in [0, 1].
      heatmap: `(h, w)`, of any size (it is resized bilinearly to the photo): values in [0, 1], such as
        `Attribution.heatmap`, for which the `Attribution` itself may stand; or signed ones in [-1, 1], such as
        `Attribution.signed_heatmap`. None for a map that shows nothing: the photo in grey.
      cmap: a colour map of matplotlib; `inferno` unless given, `RdBu_r` for a signed map.
      alpha: opacity from 0 (the photo alone) to 1, where the map is greatest. Where it is lowest, it is 0.4 times that,
        and 0 for a signed map, so that the photo stays readable.
      signed: whether the colours run from -1 to 1; they do where a value is negative, unless told.
      box: `(x0, y0, x1, y1)` in pixels of the photo, to be drawn; `Attribution.box()` finds one.

    Returns:
      An RGB picture. `np.asarray` makes an array `(H, W, 3)` uint8 of it; a notebook shows it.

    Raises:
      JaxcamError: the map is not `(h, w)`, not finite or not within [-1, 1]; alpha is outside [0, 1]; there is no such
        colour map; the image is none.
    """
    picture = to_picture(image, name="the image")
    if not 0 <= alpha <= 1:
        raise JaxcamError(f"alpha is an opacity from 0 to 1, not {alpha}")
    size = (picture.height, picture.width)
    values, alpha = (np.zeros(size, np.float32), 0.0) if heatmap is None else (checked(heatmap), alpha)
    if values.shape != size:
        values = place_map(values, (0, 0, *picture.size), size, span=(0.0, 1.0))
    signed = bool(values.min() < 0) if signed is None else signed
    # What a value gives of the colour, and leaves of the photo, by its step: photos are large, and pass by few times.
    middle = (np.arange(_STEPS, dtype=np.float32) + 0.5) / _STEPS
    faintest = 0.0 if signed else _FAINTEST
    strength = alpha * (faintest + (1 - faintest) * np.abs(2 * middle - 1 if signed else middle))
    given = np.asarray(strength[:, None] * colour_map(cmap, signed)(middle)[:, :3] * 255 + 0.5, np.float32)
    steps = _steps(values, signed)
    left = np.take(1 - strength, steps, mode="clip") * np.asarray(picture.convert("L"))
    mixed = np.take(given, steps, axis=0, mode="clip")
    mixed += left[..., None]
    return _boxed(Image.fromarray(mixed.astype(np.uint8)), box)


def heatmap_picture(
    heatmap: Any, *, cmap: str | Colormap | None = None, signed: bool | None = None, box: Any = None
) -> Image.Image:
    """A map `(h, w)` in its colours alone, a pixel for each value; arguments as those of `overlay`."""
    values = checked(heatmap)
    signed = bool(values.min() < 0) if signed is None else signed
    table = colour_map(cmap, signed)
    found = np.round(255 * table((np.arange(_STEPS) + 0.5) / _STEPS)[:, :3]).astype(np.uint8)
    return _boxed(Image.fromarray(np.take(found, _steps(values, signed), axis=0, mode="clip")), box)


def _steps(values: np.ndarray, signed: bool) -> np.ndarray:
    """Which step of a colour map's way each value is in, of values in [0, 1], or of signed ones in [-1, 1]."""
    return ((values + 1) * (_STEPS / 2) if signed else values * _STEPS).astype(np.int32)


def colour_map(cmap: str | Colormap | None, signed: bool = False) -> Colormap:
    """A colour map of matplotlib by its name, or the default one.

    Raises:
      JaxcamError: there is no such map.
    """
    if isinstance(cmap, Colormap):
        return cmap
    name = cmap or (SIGNED_COLOURS if signed else COLOURS)
    if name not in colormaps:
        raise unknown("colour map", name, list(colormaps))
    return colormaps[name]


def checked(heatmap: Any) -> np.ndarray:
    """A map as an array `(h, w)` of float32 in [-1, 1].

    Raises:
      JaxcamError: it is none.
    """
    try:
        values = np.asarray(getattr(heatmap, "heatmap", heatmap), np.float32)
    except (TypeError, ValueError):
        raise JaxcamError(
            f"a heat map is an array (h, w) or one result, explanation[method], and no {type(heatmap).__name__}"
        ) from None
    if values.ndim != 2 or not values.size:
        raise JaxcamError(f"a heat map must be (h, w), not {values.shape}")
    least, most = float(values.min()), float(values.max())  # NaN where there is one
    if not np.isfinite([least, most]).all():
        raise JaxcamError("the heat map holds NaN or infinite values")
    if least < -1 - 1e-6 or most > 1 + 1e-6:
        raise JaxcamError("a heat map must lie in [0, 1], a signed one in [-1, 1]; jaxcam.scale_map scales it")
    return values if least >= -1 and most <= 1 else np.clip(values, -1, 1)


def box_of(heatmap: Any, share: float = BOX_SHARE) -> tuple[int, int, int, int] | None:
    """The box around the largest connected part of a map that is at least a share of its maximum.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 3.2 (their share is 0.2).
    Positions are connected by their sides. Of parts of equal size the one with more heat counts.

    Args:
      heatmap: `(h, w)`.
      share: of the maximum, above 0, at most 1.

    Returns:
      `(x0, y0, x1, y1)` in positions of the map, the last ones excluded; None of a map without a positive value.

    Raises:
      JaxcamError: the share is not in (0, 1]; the map is none.
    """
    if not 0 < share <= 1:
        raise JaxcamError(f"a box takes a share of the maximum above 0 and up to 1, not {share}")
    values = np.asarray(heatmap, np.float32)
    if values.ndim != 2 or not values.size:
        raise JaxcamError(f"a heat map must be (h, w), not {values.shape}")
    if not np.nan_to_num(values).max() > 0:
        return None
    from scipy import ndimage  # slow to import, and most maps are drawn without a box

    parts, count = ndimage.label(values >= share * np.nanmax(values))
    numbers = range(1, count + 1)
    sizes, heat = (ndimage.sum_labels(x, parts, numbers) for x in (np.ones_like(values), values))
    rows, columns = ndimage.find_objects(parts)[int(np.lexsort((heat, sizes))[-1])]
    return int(columns.start), int(rows.start), int(columns.stop), int(rows.stop)


def _boxed(picture: Image.Image, box: tuple[int, int, int, int] | None) -> Image.Image:
    """The picture with a frame, dark around bright so that it is seen on anything."""
    if box is None:
        return picture
    draw, width = ImageDraw.Draw(picture), max(1, round(min(picture.size) / 120))
    x0, y0, x1, y1 = box
    for grow, colour in ((width, (0, 0, 0)), (0, _BOX_COLOUR)):
        draw.rectangle((x0 - grow, y0 - grow, x1 - 1 + grow, y1 - 1 + grow), outline=colour, width=width)
    return picture
