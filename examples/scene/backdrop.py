"""The sky and what stands on the horizon."""

from __future__ import annotations

import numpy as np

from scene.optics import fractal, sample, smoothstep


def sky(rng: np.random.Generator, width: int, height: int, horizon: float, clouds: float) -> np.ndarray:
    """A blue gradient with fair-weather clouds on a plane overhead, so that they flatten towards the horizon."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    elevation = np.clip((horizon - y) / horizon, 0, 1)[..., None]
    blue = np.array([0.045, 0.20, 0.58]) * (1 - elevation * 0.25)
    picture = blue + (np.array([0.50, 0.68, 0.86]) - blue) * np.exp(-3.2 * elevation)
    noise = fractal(rng, 1024, 1024, 1.75)
    distance = 1 / (elevation[..., 0] + 0.35)
    u, v = (x / width - 0.5) * distance * 330 + 512, distance * 260
    density, towards_sun = sample(noise, u, v), sample(noise, u - 9, v - 9)
    cover = smoothstep(1.25 - clouds, 2.6 - clouds, density)[..., None]
    lit = np.clip(0.80 + 0.35 * (density - towards_sun), 0.45, 1.0)[..., None]
    return picture * (1 - 0.88 * cover) + 0.88 * cover * lit * np.array([0.93, 0.95, 0.98])


def trees(rng: np.random.Generator, width: int, height: int, horizon: float) -> np.ndarray:
    """A hazy line of trees on the horizon, as a layer."""
    y = np.arange(height)[:, None] + 0.5
    tall = 0.052 + 0.014 * fractal(rng, 1, width, 1.1)[0] + 0.006 * fractal(rng, 1, width, 0.4)[0]
    alpha = smoothstep(-1.0, 1.0, y - (horizon - height * np.maximum(tall, 0.012)))
    alpha = alpha * smoothstep(-6.0, -1.0, horizon + 4 - y)
    crown = np.exp(0.35 * fractal(rng, height, width, 0.8))[..., None] * np.array([0.035, 0.075, 0.022])
    color = 0.82 * crown + 0.18 * np.array([0.42, 0.55, 0.66])
    return np.concatenate([color * alpha[..., None], alpha[..., None]], -1)
