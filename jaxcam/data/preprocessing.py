"""How a picture becomes a network's input; it belongs to the weights and travels with them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import numpy as np
from PIL import Image

from jaxcam.data.images import as_it_is
from jaxcam.errors import JaxcamError, blaming, check_known, raised

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MANY_PIXELS = 30_000_000
#: Pixels; the longest side of a square picture that is read.
_LONGEST_SIDE = 9_400
#: Times the greatest value of a pixel that a mean, or times a deviation that this value, can be.
_FAR = 20
#: By what `Preprocessing.channels` can be: Pillow's name for such pictures, and how many channels they have.
_CHANNELS = {"RGB": ("RGB", 3), "BGR": ("RGB", 3), "L": ("L", 1), "RGBA": ("RGBA", 4)}
#: The kinds of pictures that a function may be for, by Pillow's names; it is for the first of them that it takes.
_MODES = ("RGB", "L", "RGBA", "LA")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalisation of one set of weights.

    Attributes:
      size: side of the square input, in pixels.
      resize: "squash" resizes the whole picture to `size`, ignoring its aspect; "shorter" resizes
        its shorter side to `resize_to` and crops `size` from the centre.
      resize_to: the shorter side before the crop; unused when squashing.
      interpolation: "bilinear", "bicubic" or "nearest" (antialiased, as Pillow does it).
      mean, std: per channel, on pixel values divided by `scale`; a number is that of every channel.
      scale: 255 for values in [0, 1], 1 for Caffe-style values in [0, 255].
      channels: what the network expects: "RGB"; "BGR", the same in this order; "L", grey; "RGBA", with the picture's
        alpha (opaque where it has none). 1, 3 and 4 mean L, RGB and RGBA. For 1 and 4, name `mean` and `std`.

    Raises:
      JaxcamError: there are no such channels, or not as many numbers in `mean` and `std`.
    """

    size: int = 224
    resize: str = "shorter"
    resize_to: int = 256
    interpolation: str = "bilinear"
    mean: float | tuple[float, ...] = IMAGENET_MEAN
    std: float | tuple[float, ...] = IMAGENET_STD
    scale: float = 255.0
    channels: str | int = "RGB"

    #: Boxes in a picture can be followed into the input.
    places_boxes: ClassVar[bool] = True

    def __post_init__(self):
        by_number = {count: mode for mode, count in _CHANNELS.values()}
        channels = by_number.get(self.channels, self.channels) if isinstance(self.channels, int) else self.channels
        check_known("kind of channels", channels, _CHANNELS)
        object.__setattr__(self, "channels", channels)
        ways = [method.name.lower() for method in Image.Resampling]
        for kind, value, known in (
            ("way to resize", self.resize, ("squash", "shorter")), ("interpolation", self.interpolation.lower(), ways),
        ):  # fmt: skip
            check_known(kind, value, known)
        for name in ("size",) if self.resize == "squash" else ("size", "resize_to"):
            if not isinstance(getattr(self, name), int | np.integer):
                raise JaxcamError(
                    f"{name} is one whole number of pixels, the side of a square, not {getattr(self, name)}"
                )
            if not 1 <= getattr(self, name) <= _LONGEST_SIDE:
                raise JaxcamError(f"{name} must lie between 1 and {_LONGEST_SIDE:,} pixels, not {getattr(self, name)}")
        count = _CHANNELS[str(channels)][1]
        for name in ("mean", "std"):
            given = np.asarray(getattr(self, name))
            values = tuple((np.full(count, given) if given.ndim == 0 else given).tolist())
            if len(values) != count:
                raise JaxcamError(
                    f"{name} holds {len(values)} numbers for inputs of {count} channel{'s' * (count > 1)} "
                    f"(channels={channels!r}); give Preprocessing(..., mean=..., std=...) with {count} each"
                )
            object.__setattr__(self, name, values)
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        if not np.isfinite([*mean, *std, self.scale]).all() or min(*std, self.scale) <= 0:
            raise JaxcamError("mean, std and scale must be finite numbers, and std and scale greater than 0")
        top = 255 / self.scale
        if np.abs(mean).max() > _FAR * top or top > _FAR * std.max() and mean.any() and np.abs(mean).max() <= 1:
            raise JaxcamError(
                f"mean {self.mean} and std {self.std} are not those of pixels from 0 to {top:g}, which scale="
                f"{self.scale:g} makes of 0 to 255: scale=255 goes with a mean such as 0.485, scale=1 with 123.7"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an input: `(size, size, C)`."""
        return self.size, self.size, _CHANNELS[str(self.channels)][1]

    def fields(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return dataclasses.asdict(self)

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """The part of the picture that the network sees: `(size, size, C)` uint8.

        Raises:
          JaxcamError: the picture is an array with other channels than a picture has.
        """
        seen = self._seen(image)
        return seen[..., None] if seen.ndim == 2 else seen

    def _seen(self, image: Image.Image | np.ndarray) -> np.ndarray:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        method = Image.Resampling[self.interpolation.upper()]
        own, mode = as_it_is(image), _CHANNELS[str(self.channels)][0]
        if isinstance(own, np.ndarray):
            raise JaxcamError(
                f"an array of {own.shape[2]} channels is no picture for Preprocessing(channels={self.channels!r}); "
                "give a function with an attribute `channels` as preprocessing"
            )
        image = (own if mode.endswith("A") and own.mode.endswith("A") else image).convert(mode)  # else white behind it
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
        """`(..., h, w, C)` pixel values in [0, 255], in RGB order, to the network's input, float32; traceable."""
        x = pixels.astype(np.float32) / np.float32(self.scale)
        if self.channels == "BGR":
            x = x[..., ::-1]
        each = (1,) * (x.ndim - 1) + (-1,)  # for those who forbid to broadcast without a word
        mean, std = (np.asarray(v, np.float32).reshape(each) for v in (self.mean, self.std))
        made = (x - mean) / std
        return made if isinstance(made, jax.Array) else jax.device_put(made)

    def __call__(self, image: Image.Image | np.ndarray) -> jax.Array:
        """The network's input `(size, size, C)` for a picture."""
        return self.normalize(self.pixels(image))


@dataclasses.dataclass(frozen=True, eq=False)
class OwnPreprocessing:
    """A function `picture -> input (H, W, C)`, with the interface of `Preprocessing`; made by `own_preprocessing`.

    Attributes:
      function: takes a `PIL.Image` in the picture's own channels: L, LA, RGB or RGBA; a grey one of 16 or more bits as
        it is in the file, its modes `I;16`, `I` or `F`. Where it does not take these, it gets the picture as RGB, or as
        `mode`. With an attribute `channels` it is for arrays `(h, w, channels)` instead. Where it does not use
        the whole picture, `function.region(w, h)` says which part it uses, `(x0, y0, x1, y1)` in pixels of a picture of
        that width and height.
      shape: of an input.
      name: of the function.
      sha256: of what it makes of a made-up picture.
      mode: by Pillow's name, what kind of picture it is for; "" for arrays.
    """

    function: Callable[[Any], Any]
    shape: tuple[int, int, int]
    name: str
    sha256: str
    mode: str = "RGB"

    @property
    def places_boxes(self) -> bool:
        """Whether boxes in a picture can be followed into the input."""
        return hasattr(self.function, "region")

    def fields(self) -> dict[str, Any]:
        """What is known of it, for JSON."""
        told = {"function": self.name, "shape": list(self.shape), "sha256": self.sha256}
        return told | {"whole_picture": not hasattr(self.function, "region")}

    def __call__(self, image: Image.Image | np.ndarray) -> jax.Array:
        """The network's input for a picture."""
        return jax.device_put(self.pixels(image))

    def pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """The same as float32 in NumPy. There are no pixels apart from the input: `normalize` does nothing more.

        Raises:
          JaxcamError: the function fails, or gives another shape than for other pictures.
        """
        first: JaxcamError | None = None
        for picture in self._forms(image):
            try:
                values = _applied(self.function, self.name, picture)
            except JaxcamError as e:
                first = first or e
                continue
            if values.shape == self.shape:
                return values
            height, width = np.shape(picture)[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
            first = first or JaxcamError(
                f"the preprocessing {self.name} gives shape {values.shape} for a picture of {width} x {height} pixels "
                f"and {self.shape} for others; a network takes inputs of one shape"
            )
        assert first is not None
        raise first

    def _forms(self, image: Image.Image | np.ndarray) -> Iterator[Image.Image | np.ndarray]:
        """What the function may take of a picture: as it is; else as RGB, or as it was tried out with."""
        if not self.mode:
            yield image if isinstance(image, np.ndarray) else np.asarray(as_it_is(image))
            return
        shown = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        own = as_it_is(shown)
        yield own
        if not isinstance(own, np.ndarray):
            for mode in {"RGB": None, self.mode: None}:
                if mode != own.mode:
                    yield shown.convert(mode)

    def normalize(self, pixels: jax.Array | np.ndarray) -> jax.Array:
        """What `pixels` gave, as it is."""
        return pixels if isinstance(pixels, jax.Array) else jax.device_put(np.asarray(pixels, np.float32))

    def region(self, w: int, h: int) -> tuple[float, float, float, float]:
        """The part of a picture of that width and height that the network sees, `(x0, y0, x1, y1)` in its pixels."""
        told = getattr(self.function, "region", None)
        if told is None:
            return 0.0, 0.0, float(w), float(h)
        try:
            x0, y0, x1, y1 = map(float, told(w, h))
        except Exception as e:
            raise JaxcamError(f"{self.name}.region({w}, {h}) gives no (x0, y0, x1, y1): {raised(e)}") from e
        return x0, y0, x1, y1


def own_preprocessing(function: Any) -> OwnPreprocessing:
    """A function as a preprocessing; it is tried on a few made-up pictures.

    Raises:
      JaxcamError: it is not callable, fails, or gives no `(H, W, C)`; or it uses a part of the picture and does not say
        which, so that a map could not be laid over it.
    """
    if not callable(function):
        raise JaxcamError(
            f"preprocessing must be a jaxcam.Preprocessing or a function picture -> (H, W, C), not {function!r}"
        )
    name = str(getattr(function, "__qualname__", type(function).__qualname__))
    mode, values = _tried(function, name)
    height, width, count = values.shape
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    own = OwnPreprocessing(function, (height, width, count), name, digest, mode)
    if not hasattr(function, "region") and not (_sees_all(own, 240, 120) and _sees_all(own, 120, 240)):
        if height in _USUAL and count not in _USUAL:
            raise _misshapen(name, values)
        raise JaxcamError(
            f"the preprocessing {name} crops or moves the picture and does not say where, so that no map could be laid "
            "over it: use jaxcam.Preprocessing(size=..., resize_to=...), or give the function an attribute `region`, a "
            "function (w, h) -> (x0, y0, x1, y1)"
        )
    return own


def _misshapen(name: str, values: np.ndarray) -> JaxcamError:
    return JaxcamError(
        f"the preprocessing {name} gives shape {values.shape}, not (H, W, C): channels last and no batch axis"
    )


#: Numbers of channels of pictures.
_USUAL = (1, 3, 4)


def _tried(function: Callable, name: str) -> tuple[str, np.ndarray]:
    """The kind of picture that a function is for, and what it makes of a made-up one."""
    channels: Any = getattr(function, "channels", None)
    first: JaxcamError | None = None
    for mode in _MODES if channels is None else ("",):
        picture: Any = Image.fromarray(_noise(240, 120)).convert(mode) if mode else _noise(240, 120, channels)
        try:
            values = _applied(function, name, picture)
        except JaxcamError as e:
            first = first or e
            continue
        if values.ndim == 3 and 0 not in values.shape:
            return mode, values
        first = first or _misshapen(name, values)
    assert first is not None
    raise first


def _applied(function: Callable, name: str, picture: Image.Image | np.ndarray) -> np.ndarray:
    with blaming(f"the preprocessing {name}"):
        values = np.asarray(function(picture))
    if values.dtype == object or not np.issubdtype(values.dtype, np.number) and values.dtype.kind not in "Vb":
        raise JaxcamError(f"the preprocessing {name} gives {values.dtype}, not numbers")
    return values.astype(np.float32)


def _noise(w: int, h: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (h, w, channels)).astype(np.uint8)


def _sees_all(own: OwnPreprocessing, w: int, h: int) -> bool:
    """Whether the input is the whole picture, stretched: what is done to a side of one shows on that side of the other.

    The pictures are dark in one half, and their sides are inverted: that leaves their mean and contrast as they are.
    """
    count = 3 if own.mode else own.function.channels  # type: ignore[attr-defined]
    for axis, first in itertools.product((0, 1), (True, False)):
        picture, expected = np.full((h, w, count), 225, np.uint8), np.zeros(own.shape[:2], bool)
        _part(picture, 1 - axis, True, 1 / 2)[:] = 30
        changed = picture.copy()
        side = _part(changed, axis, first, 1 / 4)
        side[:] = 255 - side
        _part(expected, axis, first, 1 / 4)[:] = True
        difference = np.abs(own.pixels(changed) - own.pixels(picture)).max(-1)
        seen = difference > difference.max() / 2
        if np.mean(seen != expected) > max(0.02, 1.5 / min(own.shape[:2])):
            return False
    return True


def _part(array: np.ndarray, axis: int, first: bool, share: float) -> np.ndarray:
    """A view of the first or the last part along an axis."""
    along = np.moveaxis(array, axis, 0)
    count = round(len(along) * share)
    return along[:count] if first else along[-count:]


#: How pictures become a network's inputs.
AnyPreprocessing = Preprocessing | OwnPreprocessing
