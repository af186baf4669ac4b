"""How a picture becomes a network's input; it belongs to the weights and travels with them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MANY_PIXELS = 30_000_000


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalisation of one set of weights.

    Attributes:
      size: side of the square input, in pixels.
      resize: "squash" resizes the whole picture to `size`, ignoring its aspect; "shorter" resizes
        its shorter side to `resize_to` and crops `size` from the centre.
      resize_to: the shorter side before the crop; unused when squashing.
      interpolation: "bilinear", "bicubic" or "nearest" (antialiased, as Pillow does it).
      mean, std: per channel, on pixel values divided by `scale`.
      scale: 255 for values in [0, 1], 1 for Caffe-style values in [0, 255].
      channels: "RGB" or "BGR", the order the network expects.
    """

    size: int = 224
    resize: str = "shorter"
    resize_to: int = 256
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: float = 255.0
    channels: str = "RGB"

    #: Boxes in a picture can be followed into the input.
    places_boxes: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an input: `(size, size, 3)`."""
        return self.size, self.size, 3

    def fields(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return dataclasses.asdict(self)

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """The part of the picture that the network sees: `(size, size, 3)` uint8 RGB."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        method = Image.Resampling[self.interpolation.upper()]
        image = image.convert("RGB")
        if self.resize == "squash":
            return np.asarray(image.resize((self.size, self.size), method))
        w, h = image.size
        width, height, x0, y0 = self._resized(w, h)
        if width * height > _MANY_PIXELS:  # a long thin strip: resize nothing but the part that is kept
            return np.asarray(image.resize((self.size, self.size), method, box=self.region(w, h)))
        image = image.resize((width, height), method)
        return np.asarray(image.crop((x0, y0, x0 + self.size, y0 + self.size)))

    def _resized(self, w: int, h: int) -> tuple[int, int, int, int]:
        """Width and height before the crop, and the crop's left and upper edge."""
        short = min(w, h)
        width, height = max(self.size, w * self.resize_to // short), max(self.size, h * self.resize_to // short)
        return width, height, round((width - self.size) / 2), round((height - self.size) / 2)

    def region(self, w: int, h: int) -> tuple[float, float, float, float]:
        """The part of a picture of that width and height that the network sees, `(x0, y0, x1, y1)` in its pixels."""
        if self.resize == "squash":
            return 0.0, 0.0, float(w), float(h)
        width, height, x0, y0 = self._resized(w, h)
        x, y = w / width, h / height
        return x0 * x, y0 * y, (x0 + self.size) * x, (y0 + self.size) * y

    def normalize(self, pixels: jax.Array | np.ndarray) -> jax.Array:
        """`(..., h, w, 3)` RGB pixel values in [0, 255] to the network's input, float32; traceable."""
        x = jnp.asarray(pixels, jnp.float32) / jnp.float32(self.scale)
        if self.channels == "BGR":
            x = x[..., ::-1]
        return (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def __call__(self, image: Image.Image | np.ndarray) -> jax.Array:
        """The network's input `(size, size, 3)` for a picture."""
        return self.normalize(self.pixels(image))
