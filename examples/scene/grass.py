"""The lawn: ground in perspective and thousands of bent blades, in layers that are out of focus by their distance."""

from __future__ import annotations

import dataclasses

import numpy as np

from scene.optics import SKYLIGHT, SUN, SUNLIGHT, Canvas, blur, fractal, sample, smoothstep

BALL_Z = 12.0  # distance of the ball from the camera


@dataclasses.dataclass(frozen=True)
class View:
    """A camera that looks level over the lawn at a ball of `radius` pixels which touches the ground at `contact`."""

    width: int
    height: int
    horizon: float
    radius: float
    contact: tuple[float, float]

    @property
    def camera(self) -> float:
        """Height of the camera above the ground."""
        return (self.contact[1] - self.horizon) / self.radius

    @property
    def ball(self) -> np.ndarray:
        """The centre of the ball in space."""
        return np.array([(self.contact[0] - self.width / 2) / self.radius, 1.0, BALL_Z])

    def project(self, points: np.ndarray) -> np.ndarray:
        """`(..., 3)` in space to `(..., 2)` in pixels."""
        zoom = self.radius * BALL_Z / points[..., 2]
        x, y = self.width / 2 + points[..., 0] * zoom, self.horizon + (self.camera - points[..., 1]) * zoom
        return np.stack([x, y], -1)

    def sunlit(self, points: np.ndarray) -> np.ndarray:
        """Share of the sun that reaches `points (..., 3)` past the ball, and past its contact with the ground."""
        offset = self.ball - points
        along = offset @ SUN
        distance = np.linalg.norm(offset - along[..., None] * SUN, axis=-1)
        return np.where(along > 0, smoothstep(0.86, 1.08, distance), 1.0)

    def open_sky(self, points: np.ndarray) -> np.ndarray:
        """Share of the sky that the ball leaves to `points (..., 3)`."""
        distance = np.linalg.norm(points - self.ball, axis=-1)
        return 1 - 0.75 * np.exp(-1.6 * np.maximum(distance - 1, 0))


def ground(rng: np.random.Generator, view: View) -> np.ndarray:
    """The lawn without blades, as a layer: what shows between them and far away."""
    y, x = np.mgrid[0 : view.height, 0 : view.width] + 0.5
    below = np.maximum(y - view.horizon, 0.5)
    z = view.radius * BALL_Z * view.camera / below
    across = (x - view.width / 2) / (view.radius * BALL_Z) * z
    patches = sample(fractal(rng, 512, 512, 1.3), across * 5 + 200, z * 2.5)
    fine = sample(fractal(rng, 512, 512, 0.5), across * 40, z * 9)
    tone = np.exp(0.20 * patches + 0.16 * fine * np.minimum(1, 30 / z))[..., None]
    near = smoothstep(60, 14, z)[..., None]
    color = tone * ((1 - near) * np.array([0.175, 0.27, 0.055]) + near * np.array([0.030, 0.062, 0.010]))
    haze = smoothstep(60, 400, z)[..., None] * 0.35
    color = color * (1 - haze) + haze * np.array([0.40, 0.52, 0.55])
    points = np.stack([across, np.zeros_like(z), z], -1)
    color = color * (0.30 + 0.70 * view.sunlit(points) * view.open_sky(points))[..., None]
    alpha = smoothstep(-0.8, 0.8, y - view.horizon)[..., None]
    return np.concatenate([color * alpha, alpha], -1)


def blades(rng: np.random.Generator, view: View, count: int, length: float) -> dict[str, np.ndarray]:
    """Random blades `(n, ...)`, farthest first: `spine (n, 6, 3)`, `thick (n,)` and `color (n, 3)`."""
    z = np.exp(rng.uniform(np.log(6.2), np.log(70), count))
    x = rng.uniform(-0.62, 0.62, count) * view.width / (view.radius * BALL_Z) * z
    size = length * rng.gamma(14, 1 / 14, count)
    lean, heading = rng.gamma(2.2, 0.24, count), rng.uniform(0, 2 * np.pi, count)
    step = np.linspace(0, 1, 6)[None]
    rise = size[:, None] * (step - 0.28 * (lean[:, None] * step) ** 2)
    away = size[:, None] * lean[:, None] * step**1.7
    spine = np.stack(
        [x[:, None] + away * np.cos(heading)[:, None], rise, z[:, None] + away * np.sin(heading)[:, None]], -1
    )
    flat = np.linalg.norm(spine - view.ball, axis=-1).min(-1) > 1.02  # no blade passes through the ball
    hue = rng.uniform(0, 1, (count, 1))
    color = (1 - hue) * np.array([0.050, 0.170, 0.018]) + hue * np.array([0.185, 0.300, 0.035])
    straw = rng.uniform(size=(count, 1)) < 0.05
    color = np.where(straw, np.array([0.34, 0.27, 0.10]), color) * rng.uniform(0.75, 1.25, (count, 1))
    thick = rng.uniform(0.028, 0.062, count) * np.maximum(1, z / 22)
    order = np.argsort(-z)
    order = order[flat[order]]
    return {"spine": spine[order], "thick": thick[order], "color": color[order], "z": z[order]}


def shade(view: View, field: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Colours `(n, 5, 3)` of the pieces of every blade."""
    middle = (field["spine"][:, 1:] + field["spine"][:, :-1]) / 2
    depth = np.linspace(0.05, 1, 5)[None]
    shelter = 0.10 + 0.90 * depth**1.4  # blades hide the sun and the sky from each other's feet
    glance = rng.uniform(0.25, 1.0, (len(middle), 1)) * (0.75 + 0.5 * depth)
    sun = (view.sunlit(middle) * shelter * glance)[..., None] * SUNLIGHT * 1.45
    sky = (view.open_sky(middle) * shelter)[..., None] * SKYLIGHT * 0.42
    gleam = (view.sunlit(middle) * shelter * glance**8)[..., None] * 0.05
    return field["color"][:, None] * (sun + sky) + gleam


def lawn(rng: np.random.Generator, view: View, scale: int, *, count: int, length: float, aperture: float):
    """Yields `(z, layer)` from back to front: the blades, blurred by their distance from the ball."""
    field = blades(rng, view, count, length)
    colors, pixels = shade(view, field, rng), view.project(field["spine"])
    along = np.gradient(pixels, axis=1)
    normal = np.stack([-along[..., 1], along[..., 0]], -1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    taper = np.array([0.85, 1.0, 0.95, 0.75, 0.45, 0.06])
    half = (field["thick"] * view.radius * BALL_Z / field["z"] / 2)[:, None] * taper
    left, right = pixels + normal * half[..., None], pixels - normal * half[..., None]
    edges = np.array([70.1, 48, 34, 26, 20.5, 17, 14.6, 13.1, BALL_Z, 11.1, 10.3, 9.4, 8.4, 7.3, 6.1])
    for far, near in zip(edges[:-1], edges[1:], strict=True):
        canvas = Canvas(view.width, view.height, scale)
        for i in np.flatnonzero((field["z"] <= far) & (field["z"] > near)):
            for j in range(5):
                canvas.polygon(np.stack([left[i, j], left[i, j + 1], right[i, j + 1], right[i, j]]), colors[i, j])
        middle = (far * near) ** 0.5
        yield near, blur(canvas.layer(), aperture * abs(1 / BALL_Z - 1 / middle) * BALL_Z)
