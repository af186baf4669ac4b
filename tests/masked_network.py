"""A small network on images, activations to mask them with, and what a mask is, in slow float64 NumPy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

SIZE, CHANNELS, CLASSES = (9, 7), 7, 4
CONSTANT, DEAD = 2, 5


def made() -> tuple[dict, np.ndarray, np.ndarray]:
    """Parameters, activations (3, 4, 7) with a dead channel and a constant one, image (9, 7, 3); float64."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (3, 5), "b1": (5,), "w2": (5 * 9 * 7, CLASSES), "b2": (CLASSES,)}
    params = {k: rng.normal(size=s) / (4 if k == "w2" else 1) for k, s in shapes.items()}
    activations = np.maximum(rng.normal(size=(3, 4, CHANNELS)) + 0.3, 0) * rng.uniform(0.2, 3, CHANNELS)
    activations[..., CONSTANT], activations[..., DEAD] = 0.7, 0.0
    return params, activations, rng.normal(size=(*SIZE, 3))


def network(xp, p, x):
    """A dense layer on each pixel, ReLU, and a dense layer on all of them."""
    return xp.maximum(x @ p["w1"] + p["b1"], 0).reshape(-1) @ p["w2"] + p["b2"]


predict = functools.partial(network, jnp)


def upsampled(a: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Bilinear, half-pixel centres, position by position."""
    (h, w), out = a.shape, np.zeros(size)
    for i, j in np.ndindex(*size):
        y = np.clip((i + 0.5) * h / size[0] - 0.5, 0, h - 1)
        x = np.clip((j + 0.5) * w / size[1] - 0.5, 0, w - 1)
        y0, x0 = int(y), int(x)
        y1, x1, fy, fx = min(y0 + 1, h - 1), min(x0 + 1, w - 1), y - y0, x - x0
        top, bottom = a[y0, x0] * (1 - fx) + a[y0, x1] * fx, a[y1, x0] * (1 - fx) + a[y1, x1] * fx
        out[i, j] = top * (1 - fy) + bottom * fy
    return out


def mask_of(a: np.ndarray) -> np.ndarray:
    """A map as a mask on the image: resized, and scaled to [0, 1]."""
    mask = upsampled(a)
    return (mask - mask.min()) / (mask.max() - mask.min())


def scored(p: dict, x: np.ndarray, target: int, score: str) -> float:
    """What is made of the class's logit."""
    logits = network(np, p, x)
    probability = np.exp(logits) / np.exp(logits).sum()
    return {"logit": logits, "softmax": probability, "sigmoid": 1 / (1 + np.exp(-logits))}[score][target]


P, A, X = made()
P32, A32, X32 = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), (P, A, X))


def close(got, want, tolerance=2e-6):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 1e-30))
