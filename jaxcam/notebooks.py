"""What a notebook shows of a result: a picture and a small table, as HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxcam.errors import visible

#: Perceptually even, and told apart under every common colour blindness; for signed maps blue to red over white.
COLOURS, SIGNED_COLOURS = "inferno", "RdBu_r"
_SIDE = 224


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """A table of texts; without a head the first cell of each row is one."""
    lines = [f"<tr>{''.join(_cell('th', x) for x in head)}</tr>"] if head else []
    for first, *others in rows:
        lines.append(f"<tr>{_cell('td' if head else 'th', first)}{''.join(_cell('td', x) for x in others)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(tag: str, text: object) -> str:
    return f'<{tag} style="text-align:left">{html.escape(visible(text))}</{tag}>'


def embedded(png: bytes, alt: str) -> str:
    """A picture in the page itself; as WebP, a fifth of the size, so that a notebook of many stays small."""
    from PIL import Image

    picture = data_uri(Image.open(io.BytesIO(png)).convert("RGB"), "webp", quality=90)
    return f'<img style="max-width:100%" alt="{html.escape(visible(alt))}" src="{picture}">'


def data_uri(picture: Any, kind: str, **how: Any) -> str:
    """A `PIL.Image` as the address of itself, by Pillow's name for a kind of file and its options."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def heat_png(values: Any) -> bytes:
    """A map `(h, w)` in [0, 1] as a small picture in colours."""
    from matplotlib import colormaps
    from PIL import Image

    array = np.nan_to_num(np.asarray(values, np.float32))
    scale = _SIDE / max(array.shape)
    size = (max(1, round(scale * array.shape[1])), max(1, round(scale * array.shape[0])))
    pixels = np.uint8(255 * colormaps[COLOURS](array)[..., :3] + 0.5)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()
