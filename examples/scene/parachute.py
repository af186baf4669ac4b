"""The parachute: a round canopy of billowing gores seen from below, its lines, and the jumper."""

from __future__ import annotations

import numpy as np

from scene.optics import SKYLIGHT, SUN, SUNLIGHT, Canvas

PALETTE = np.array([[0.68, 0.012, 0.02], [0.88, 0.50, 0.01], [0.86, 0.86, 0.84], [0.012, 0.085, 0.50]])


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """A rotation about y, then x, then z; angles in degrees."""
    a, b, c = np.deg2rad([yaw, pitch, roll])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def canopy(rng: np.random.Generator, gores: int, across: int = 10, down: int = 36) -> np.ndarray:
    """The cloth as points `(gores, across + 1, down + 1, 3)`, of radius 1, the plane of the rim at y = 0."""
    u, v = np.linspace(0, 1, across + 1)[:, None], np.linspace(0.05, 1, down + 1)[None]
    bulge = np.sin(np.pi * u)
    wobble = 1 + 0.015 * rng.standard_normal(gores)
    cloth = []
    for g in range(gores):
        polar = v * np.deg2rad(97)
        radius = np.sin(polar) * (1 + 0.075 * wobble[g] * bulge * v**1.2)
        azimuth = 2 * np.pi * (g + u) / gores
        rise = 0.62 * np.cos(polar) + 0.10 * bulge * v**8 + 0.02 * bulge * v
        rise = rise + 0.012 * np.sin(2 * np.pi * (2.5 * v + g * 0.37)) * bulge * v
        cloth.append(np.stack([radius * np.cos(azimuth), rise + 0 * azimuth, radius * np.sin(azimuth)], -1))
    return np.array(cloth)


def cloth_light(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Light `(n, 3)` that leaves white cloth towards the camera; `normals` point out of the canopy."""
    outside = normals[:, 2] < 0
    sun = normals @ SUN
    reflected = np.clip(sun, 0, None) * outside
    through = np.clip(sun, 0, None) * ~outside * 0.62  # the far cloth, seen from within with the sun behind it
    sky = 0.42 + 0.30 * np.where(outside, normals[:, 1], -normals[:, 1])
    glow = np.where(outside, 0.10, 0.16)
    return (
        ((reflected + through) * 1.05)[:, None] * SUNLIGHT
        + np.clip(sky, 0.12, 1)[:, None] * SKYLIGHT * 0.62
        + glow[:, None]
    )


def jumper(canvas: Canvas, feet: np.ndarray, up: np.ndarray, tall: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws a person hanging in the harness; `tall` in pixels. Returns where the two risers begin."""
    right = np.array([-up[1], up[0]])

    def at(x: float, y: float) -> np.ndarray:
        return feet + tall * (x * right + y * up)

    suit, lit, boots = np.array([0.050, 0.014, 0.016]), np.array([0.16, 0.032, 0.030]), np.array([0.01, 0.01, 0.012])
    skin, pack = np.array([0.42, 0.22, 0.14]), np.array([0.012, 0.016, 0.030])
    for side, knee, foot in ((-1, (-0.15, 0.26), (-0.09, 0.03)), (1, (0.16, 0.28), (0.17, 0.05))):
        canvas.limb([at(side * 0.07, 0.48), at(*knee)], suit if side > 0 else lit, 0.13 * tall)
        canvas.limb([at(*knee), at(*foot)], suit if side > 0 else lit * 0.7, 0.10 * tall)
        canvas.limb([at(*foot), at(foot[0] - 0.07, foot[1] - 0.035)], boots, 0.085 * tall)
    canvas.polygon(np.stack([at(-0.20, 0.80), at(0.20, 0.80), at(0.16, 0.50), at(-0.16, 0.50)]), pack)
    canvas.polygon(np.stack([at(-0.15, 0.82), at(0.14, 0.82), at(0.11, 0.45), at(-0.12, 0.45)]), suit)
    canvas.polygon(np.stack([at(-0.15, 0.82), at(-0.01, 0.82), at(-0.02, 0.46), at(-0.12, 0.45)]), lit)
    risers = at(-0.23, 1.12), at(0.23, 1.12)
    for side, riser in zip((-1, 1), risers, strict=True):
        canvas.line([at(side * 0.13, 0.80), riser], pack, 0.035 * tall)
        canvas.limb([at(side * 0.15, 0.79), at(side * 0.27, 0.90)], lit if side < 0 else suit, 0.085 * tall)
        canvas.limb([at(side * 0.27, 0.90), at(side * 0.225, 1.07)], lit if side < 0 else suit, 0.07 * tall)
        canvas.disc(at(side * 0.225, 1.09), 0.04 * tall, skin)
    canvas.disc(at(0, 0.90), 0.085 * tall, skin)
    canvas.disc(at(0, 0.935), 0.092 * tall, np.array([0.55, 0.55, 0.52]))
    canvas.disc(at(-0.03, 0.955), 0.045 * tall, np.array([0.95, 0.94, 0.9]))
    return risers


def parachute(
    rng: np.random.Generator,
    width: int,
    height: int,
    scale: int,
    *,
    center: tuple[float, float],
    size: float,
    gores: int,
    pitch: float,
    roll: float,
    lines: float,
) -> tuple[np.ndarray, list[float]]:
    """The parachute as a layer, and its box in pixels.

    Args:
      center: of the plane of the canopy's rim, in pixels.
      size: diameter of the canopy in pixels.
      gores: panels of cloth.
      pitch: how far the canopy is seen from below, in degrees.
      roll: how far the whole swings to the side, in degrees.
      lines: length from the rim to the risers, in diameters.
    """
    canvas = Canvas(width, height, scale)
    turn = rotation(rng.uniform(0, 360 / gores), -pitch, roll)
    cloth = canopy(rng, gores) @ turn.T
    flat = np.array([1.0, -1.0]) * cloth[..., :2] * size / 2 + np.array(center)
    up = turn @ np.array([0, 1.0, 0])
    tall = 0.25 * size
    up_flat = np.array([up[0], -up[1]]) / np.linalg.norm(up[:2])
    feet = np.array(center) - up_flat * (size * lines + 1.12 * tall)
    risers = jumper(canvas, feet, up_flat, tall)

    a, b, c, d = cloth[:, :-1, :-1], cloth[:, 1:, :-1], cloth[:, 1:, 1:], cloth[:, :-1, 1:]
    middle, normal = (a + b + c + d) / 4, np.cross(c - a, d - b)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    hub = turn @ np.array([0, -0.3, 0])
    normal *= np.sign(((middle - hub) * normal).sum(-1, keepdims=True))
    light = cloth_light(middle.reshape(-1, 3), normal.reshape(-1, 3)).reshape(middle.shape)
    seam = np.ones(light.shape[1:3])
    seam[[0, -1]] *= 0.80
    seam[:, [8, 17, 26]] *= 0.90
    seam[:, -1] *= 0.75
    dye = PALETTE[np.arange(gores) % len(PALETTE)][:, None, None]
    color = dye * light * seam[None, ..., None] + 0.02 * light

    drawn = []  # far to near: cloth and lines hide each other
    corners = np.stack([flat[:, :-1, :-1], flat[:, 1:, :-1], flat[:, 1:, 1:], flat[:, :-1, 1:]], -2).reshape(-1, 4, 2)
    for z, quad, tint in zip(middle[..., 2].ravel(), corners, color.reshape(-1, 3), strict=True):
        drawn.append((-z, quad, tint))
    for g in range(gores):
        side = 0 if cloth[g, 0, -1, 0] < 0 else 1
        grey = np.array([0.30, 0.31, 0.34]) if cloth[g, 0, -1, 2] > 0 else np.array([0.62, 0.62, 0.62])
        drawn.append((-cloth[g, 0, -1, 2] + 0.01, np.stack([flat[g, 0, -1], risers[side]]), grey))
    for _, points, tint in sorted(drawn, key=lambda item: item[0]):
        if len(points) == 4:
            canvas.polygon(points, tint)
        else:
            canvas.line(points, tint, 0.0042 * size)
    left, top, right, bottom = canvas.image.getbbox()
    return canvas.layer(), [v / scale for v in (left, top, right, bottom)]
