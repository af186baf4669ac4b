"""Slow NumPy float64 versions of the methods, written from the papers and not from the library.

Shapes: activations and their gradients (h, w, K), coefficients (K,). A "VGG head" is the dict of
`reference.seeded.vgg_head`: 2x2 max pool -> flatten -> dense+ReLU -> dense+ReLU -> dense.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np


def grad_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Selvaraju et al. 2017, eq. 1: the gradient averaged over the positions."""
    h, w, channels = a.shape
    alpha = np.zeros(channels)
    for k in range(channels):
        for i in range(h):
            for j in range(w):
                alpha[k] += g[i, j, k] / (h * w)
    return alpha


def grad_cam_pp(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Chattopadhyay et al. 2018, eqs. 5 and 10 with Y = exp(F): the second and third derivatives of exp(F) along
    one activation of a piecewise linear net are exp(F) g^2 and exp(F) g^3, and exp(F) cancels in the weights."""
    h, w, channels = a.shape
    alpha = np.zeros(channels)
    for k in range(channels):
        total = a[:, :, k].sum()
        for i in range(h):
            for j in range(w):
                slope = g[i, j, k]
                denominator = 2 * slope**2 + total * slope**3
                weight = slope**2 / denominator if denominator != 0 else 0.0
                alpha[k] += weight * max(slope, 0.0)
    return alpha


def xgrad_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Fu et al. 2020, eq. 6: the gradient averaged with each activation's share of its channel; 0 for a dead one."""
    channels = a.shape[2]
    alpha = np.zeros(channels)
    for k in range(channels):
        total = a[:, :, k].sum()
        if total != 0:
            alpha[k] = (a[:, :, k] / total * g[:, :, k]).sum()
    return alpha


def hires_cam(a: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draelos & Carin 2020: gradient times activation, summed over the channels position by position; the map after
    the ReLU, and what each channel adds to the sum of the map before it."""
    h, w, channels = a.shape
    map, alpha = np.zeros((h, w)), np.zeros(channels)
    for i in range(h):
        for j in range(w):
            for k in range(channels):
                map[i, j] += g[i, j, k] * a[i, j, k]
                alpha[k] += g[i, j, k] * a[i, j, k]
    return np.maximum(map, 0), alpha


def smooth_grad_cam_pp(a: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Omeiza et al. 2019, eqs. 6 to 8, with the gradients at the noisy copies, and D2 for D1 in the numerator."""
    h, w, channels = a.shape
    alpha = np.zeros(channels)
    for i, j, k in np.ndindex(h, w, channels):
        d1, d2, d3 = (np.mean([g[i, j, k] ** power for g in gradients]) for power in (1, 2, 3))
        denominator = 2 * d2 + a[:, :, k].sum() * d3
        alpha[k] += (d2 / denominator if denominator != 0 else 0.0) * max(d1, 0.0)
    return alpha


def shapley_cam(a: np.ndarray, gradient: Callable[[np.ndarray], np.ndarray], step: float = 1e-5) -> np.ndarray:
    """Cai 2025: the mean over positions of g - H A / 2, with H A by central differences of the gradient along A."""
    bend = (gradient(a + step * a) - gradient(a - step * a)) / (2 * step)
    return (gradient(a) - bend / 2).mean((0, 1))


def layer_cam(a: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jiang et al. 2021, eqs. 6 to 8: each activation weighted by its own gradient where that is positive; the map
    after the ReLU, and what each channel has of the sum of the map before it."""
    h, w, channels = a.shape
    map, alpha = np.zeros((h, w)), np.zeros(channels)
    for i, j, k in np.ndindex(h, w, channels):
        weight = g[i, j, k] if g[i, j, k] > 0 else 0.0
        map[i, j] += weight * a[i, j, k]
        alpha[k] += weight * a[i, j, k]
    return np.maximum(map, 0), alpha


def grad_cam_elementwise(a: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The products of gradient and activation where they are positive, summed over the channels and over positions."""
    h, w, channels = a.shape
    map, alpha = np.zeros((h, w)), np.zeros(channels)
    for i, j, k in np.ndindex(h, w, channels):
        if g[i, j, k] * a[i, j, k] > 0:
            map[i, j] += g[i, j, k] * a[i, j, k]
            alpha[k] += g[i, j, k] * a[i, j, k]
    return map, alpha


def first_component(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Muhammad & Yeasin 2020, eqs. 2 and 3: V_1 of O = U S V^T, of O (h w, K) with no mean taken off; its sign is that
    by which it adds up to something positive. And how well it is determined: the relative gap to the second eigenvalue
    of O^T O, times the cosine to equal coefficients, which give the sign."""
    _, s, v = np.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
    second = s[1] if len(s) > 1 else 0.0
    sign = np.sign(v[0].sum())
    return v[0] * sign, (1 - (second / s[0]) ** 2) * abs(v[0].sum()) / np.sqrt(x.shape[-1])


def cam(weights: np.ndarray, target: int) -> np.ndarray:
    """Zhou et al. 2016: the weights (K, C) of the linear layer after global average pooling."""
    return weights[:, target].copy()


# --- the VGG head, layer by layer --------------------------------------------------------------------------------


def _max_pool(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2x2 maxima (h/2, w/2, K) and the (row, column) of the first winner of each window (h/2, w/2, K, 2)."""
    h, w, channels = a.shape
    out = np.zeros((h // 2, w // 2, channels))
    where = np.zeros((h // 2, w // 2, channels, 2), int)
    for i, j, k in np.ndindex(*out.shape):
        window = a[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k]
        r, c = divmod(int(window.argmax()), 2)
        out[i, j, k] = window[r, c]
        where[i, j, k] = 2 * i + r, 2 * j + c
    return out, where


def _forward(p: dict[str, np.ndarray], a: np.ndarray) -> dict[str, np.ndarray]:
    """Every intermediate value of the VGG head."""
    pooled, where = _max_pool(a)
    z1 = pooled.reshape(-1) @ p["w1"] + p["b1"]
    z2 = np.maximum(z1, 0) @ p["w2"] + p["b2"]
    logits = np.maximum(z2, 0) @ p["w3"] + p["b3"]
    return {"pooled": pooled, "where": where, "z1": z1, "z2": z2, "logits": logits}


def vgg_logits(p: dict[str, np.ndarray], a: np.ndarray) -> np.ndarray:
    """The head's logits (C,)."""
    return _forward(p, a)["logits"]


def vgg_gradient(p: dict[str, np.ndarray], a: np.ndarray, target: int) -> np.ndarray:
    """dF/dA (h, w, K) by hand, F the logit of `target`."""
    f = _forward(p, a)
    back = p["w3"][:, target] * (f["z2"] > 0)
    back = (p["w2"] @ back) * (f["z1"] > 0)
    back = (p["w1"] @ back).reshape(f["pooled"].shape)
    g = np.zeros_like(a)
    for i, j, k in np.ndindex(*back.shape):
        row, column = f["where"][i, j, k]
        g[row, column, k] += back[i, j, k]
    return g


def _rescale(z: np.ndarray, z_ref: np.ndarray) -> np.ndarray:
    """Shrikumar et al. 2017, 3.5.2: the multiplier of a ReLU is delta_out / delta_in, its slope where delta_in = 0."""
    delta_out = np.maximum(z, 0) - np.maximum(z_ref, 0)
    multiplier = (z > 0).astype(float)
    for n in range(z.size):
        if z[n] != z_ref[n]:
            multiplier[n] = delta_out[n] / (z[n] - z_ref[n])
    return multiplier


def vgg_deeplift(
    p: dict[str, np.ndarray], a: np.ndarray, target: int, reference: np.ndarray | None = None
) -> np.ndarray:
    """DeepLIFT contributions (h, w, K) of the activations to the logit of `target`, rescale rule.

    The linear rule's multipliers are the weights, the chain rule multiplies them layer by layer (their section 3.3).
    A max pool window sends its change to its winner: (max(x) - max(ref)) / (x_winner - ref_winner). Where the winner
    itself has not changed, the change of the window is the reference's winner falling, and goes there. Within a
    channel this choice moves contributions between positions, never between channels.
    """
    reference = np.zeros_like(a) if reference is None else reference
    f, f0 = _forward(p, a), _forward(p, reference)
    m = p["w3"][:, target] * _rescale(f["z2"], f0["z2"])
    m = (p["w2"] @ m) * _rescale(f["z1"], f0["z1"])
    m = (p["w1"] @ m).reshape(f["pooled"].shape)
    contributions = np.zeros_like(a)
    for i, j, k in np.ndindex(*m.shape):
        delta_out = f["pooled"][i, j, k] - f0["pooled"][i, j, k]
        for row, column in (f["where"][i, j, k], f0["where"][i, j, k]):
            delta_in = a[row, column, k] - reference[row, column, k]
            if delta_in != 0:
                contributions[row, column, k] += m[i, j, k] * (delta_out / delta_in) * delta_in
                break
    return contributions


def hires_lift_cam(p: dict[str, np.ndarray], a: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The map of DeepLIFT's contributions at each position, summed over the channels: before and after the ReLU; and
    what each channel contributes over all positions (Jung & Oh 2021, eq. 9)."""
    contributions = vgg_deeplift(p, a, target)
    h, w, channels = a.shape
    map, alpha = np.zeros((h, w)), np.zeros(channels)
    for i, j, k in np.ndindex(h, w, channels):
        map[i, j] += contributions[i, j, k]
        alpha[k] += contributions[i, j, k]
    return map, np.maximum(map, 0), alpha


def multiplier_cam(p: dict[str, np.ndarray], a: np.ndarray, target: int) -> np.ndarray:
    """The mean over the positions of DeepLIFT's multipliers, contribution over change (Shrikumar et al. 2017, eq. 4);
    of activations that are nowhere 0, as it is 0/0 there."""
    assert (a != 0).all()
    return (vgg_deeplift(p, a, target) / a).mean((0, 1))


# --- the coalition game of the channels --------------------------------------------------------------------------


def channel_drops(value: Callable[[np.ndarray], float], a: np.ndarray) -> np.ndarray:
    """F(A) - F(A without channel k) for every k."""
    drops = np.zeros(a.shape[2])
    for k in range(a.shape[2]):
        without = a.copy()
        without[:, :, k] = 0
        drops[k] = value(a) - value(without)
    return drops


def shapley(value: Callable[[np.ndarray], float], a: np.ndarray) -> np.ndarray:
    """Exact Shapley values of the channels by enumeration of all 2^K coalitions (K at most 10)."""
    channels = a.shape[2]
    if channels > 10:
        raise ValueError(f"{channels} channels are too many to enumerate")
    worth = {}
    for kept in itertools.product((False, True), repeat=channels):
        worth[kept] = value(a * np.array(kept, float))
    phi = np.zeros(channels)
    for kept, v in worth.items():
        size = sum(kept)
        for k in range(channels):
            if not kept[k]:
                joined = kept[:k] + (True,) + kept[k + 1 :]
                weight = math.factorial(size) * math.factorial(channels - size - 1) / math.factorial(channels)
                phi[k] += weight * (worth[joined] - v)
    return phi
