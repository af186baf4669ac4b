"""Light, colour, noise, and layers that are drawn large and averaged.

Space is (x right, y up, z away from the camera) in radii of the ball. Colours are linear light; a layer is `(h, w, 4)`,
premultiplied by its alpha.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SUN = np.array([-0.55, 0.68, -0.49]) / np.linalg.norm([-0.55, 0.68, -0.49])
SUNLIGHT = np.array([1.0, 0.95, 0.86])
SKYLIGHT = np.array([0.70, 0.85, 1.05])
BALL_Z = 12.0  # distance of the ball from the camera, in radii


def encode(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB values in [0, 1]."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decode(srgb: np.ndarray) -> np.ndarray:
    """The inverse of `encode`."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def ink(linear: np.ndarray) -> tuple[int, ...]:
    """A linear colour as Pillow draws it."""
    return tuple(int(v) for v in np.round(255 * encode(linear)))


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def fractal(rng: np.random.Generator, height: int, width: int, slope: float) -> np.ndarray:
    """Noise `(height, width)` with a power-law spectrum, periodic, mean 0 and standard deviation 1."""
    fy, fx = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    noise = np.fft.irfft2(spectrum / np.maximum(np.hypot(fx, fy), 1.0) ** slope, s=(height, width))
    return (noise - noise.mean()) / noise.std()


def sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up in a periodic texture at columns `u` and rows `v`, in texels."""
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = u - u0, v - v0
    h, w = texture.shape
    rows = [texture[(v0 + i) % h, u0 % w] * (1 - fu) + texture[(v0 + i) % h, (u0 + 1) % w] * fu for i in (0, 1)]
    return rows[0] * (1 - fv) + rows[1] * fv


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `(h, w, c)` with repeated borders."""
    if sigma < 0.15:
        return image
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded, n = np.pad(image, pad, mode="edge"), image.shape[axis]
        image = sum(t * np.take(padded, np.arange(i, i + n), axis) for i, t in enumerate(taps))
    return image


class Canvas:
    """A transparent layer drawn with Pillow at `scale` pixels to a pixel."""

    def __init__(self, width: int, height: int, scale: int):
        self.scale = scale
        self.image = Image.new("RGBA", (width * scale, height * scale))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: np.ndarray, color: np.ndarray) -> None:
        self.draw.polygon([tuple(p) for p in (points * self.scale).tolist()], fill=ink(color))

    def line(self, points: np.ndarray, color: np.ndarray, width: float) -> None:
        points = [tuple(p) for p in (np.asarray(points) * self.scale).tolist()]
        self.draw.line(points, fill=ink(color), width=max(1, round(width * self.scale)), joint="curve")

    def limb(self, points: np.ndarray, color: np.ndarray, width: float) -> None:
        """A line with round ends."""
        self.line(points, color, width)
        for point in points:
            self.disc(point, width / 2, color)

    def disc(self, center: np.ndarray, radius: float, color: np.ndarray) -> None:
        (x, y), r = np.asarray(center) * self.scale, radius * self.scale
        self.draw.ellipse([x - r, y - r, x + r, y + r], fill=ink(color))

    def layer(self) -> np.ndarray:
        """The layer `(h, w, 4)`, linear and premultiplied."""
        return shrink(decode_rgba(np.asarray(self.image, np.float32) / 255), self.scale)


def decode_rgba(rgba: np.ndarray) -> np.ndarray:
    return np.concatenate([decode(rgba[..., :3]) * rgba[..., 3:], rgba[..., 3:]], -1)


def shrink(image: np.ndarray, scale: int) -> np.ndarray:
    """Mean over blocks of `scale` x `scale` pixels."""
    h, w, c = image.shape
    return image.reshape(h // scale, scale, w // scale, scale, c).mean((1, 3))


def over(picture: np.ndarray, layer: np.ndarray) -> np.ndarray:
    return picture * (1 - layer[..., 3:]) + layer[..., :3]
