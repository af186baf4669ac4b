"""The golf ball: a sphere with dimples on a Fibonacci lattice, lit by sun, sky and grass."""

from __future__ import annotations

import numpy as np

from scene.optics import SKYLIGHT, SUN, SUNLIGHT, fractal, sample, shrink, smoothstep

GRASSLIGHT = np.array([0.15, 0.19, 0.085])


def lattice(count: int, rng: np.random.Generator) -> np.ndarray:
    """`(count, 3)` unit vectors spread evenly, in a random orientation so that no pole faces the camera."""
    i = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / count), np.pi * (1 + 5**0.5) * i
    points = np.stack([np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)], -1)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return points @ rotation


def relax(points: np.ndarray, steps: int = 40) -> np.ndarray:
    """Pushes the points apart: a Fibonacci lattice shows its spirals, moulded dimples are nearly hexagonal."""
    for _ in range(steps):
        offset = points[:, None] - points[None]
        square = (offset**2).sum(-1) + np.eye(len(points))
        force = (offset / square[..., None] ** 2.5).sum(1)
        force -= (force * points).sum(-1, keepdims=True) * points
        step = 0.15 * (4 * np.pi / len(points)) ** 0.5
        points = points + step * force / np.linalg.norm(force, axis=-1).max()
        points /= np.linalg.norm(points, axis=-1, keepdims=True)
    return points


def dimpled(normals: np.ndarray, centers: np.ndarray, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Perturbed normals `(n, 3)`, and how far into a dimple each point lies, `(n,)` in [0, 1]."""
    nearest = np.concatenate([np.argmax(part @ centers.T, -1) for part in np.array_split(normals, 64)])
    center = centers[nearest]
    cosine = (normals * center).sum(-1, keepdims=True)
    radius = 0.92 * (4 / len(centers)) ** 0.5  # of a dimple, as an angle; 1.0 would cover all of the ball
    t = np.arccos(np.clip(cosine, -1, 1)) / radius
    inward = center - cosine * normals
    inward /= np.maximum(np.linalg.norm(inward, axis=-1, keepdims=True), 1e-6)
    # A shallow cap: the slope grows towards the rim and falls off over it; the rim itself bulges outward.
    slope = t * (1 - smoothstep(0.80, 1.0, t)) - 0.35 * np.exp(-(((t - 1.02) / 0.10) ** 2))
    normals = normals + depth * slope * inward
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True), (1 - smoothstep(0.55, 1.0, t))[..., 0]


def golf_ball(
    rng: np.random.Generator,
    width: int,
    height: int,
    scale: int,
    *,
    center: tuple[float, float],
    radius: float,
    dimples: int,
    depth: float,
) -> np.ndarray:
    """The ball as a layer; `center` and `radius` in pixels."""
    y, x = (np.mgrid[0 : height * scale, 0 : width * scale] + 0.5) / scale
    x, y = (x - center[0]) / radius, (center[1] - y) / radius
    inside = x**2 + y**2 < 1
    x, y = x[inside], y[inside]
    smooth = np.stack([x, y, -np.sqrt(1 - x**2 - y**2)], -1)
    normals, pit = dimpled(smooth, relax(lattice(dimples, rng)), depth)
    facing = -normals[:, 2]

    sun = np.clip(normals @ SUN, 0, None) * smoothstep(-0.05, 0.12, smooth @ SUN)
    up = normals[:, 1] * 0.5 + 0.5
    close = np.exp(-2.2 * (1 + smooth[:, 1]))  # how near the ground is: it hides the sky and sends green light up
    sky = up**1.3 * (1 - 0.75 * close) * (1 - 0.22 * pit)
    ground = (1 - up) * (1 - 0.55 * close) * (1 - 0.40 * pit)
    light = sun[:, None] * SUNLIGHT * 0.92 + sky[:, None] * SKYLIGHT * 0.33 + ground[:, None] * GRASSLIGHT
    grime = 1 - 0.035 * np.clip(sample(fractal(rng, 256, 256, 1.4), 150 * x, 150 * y), 0, 3)
    color = 0.84 * light * grime[:, None]

    half = SUN + np.array([0, 0, -1])
    half /= np.linalg.norm(half)
    cosine = np.clip(normals @ half, 0, None)
    fresnel = 0.04 + 0.50 * (1 - np.clip(facing, 0, 1)) ** 5
    color += (0.55 * cosine**140 + 0.10 * cosine**18)[:, None] * SUNLIGHT
    color += (fresnel * smoothstep(-0.1, 0.9, normals[:, 1]) * 0.55)[:, None] * SKYLIGHT * (1 - close[:, None])

    layer = np.zeros((height * scale, width * scale, 4))
    layer[inside] = np.concatenate([color, np.ones((len(color), 1))], -1)
    return shrink(layer, scale)
