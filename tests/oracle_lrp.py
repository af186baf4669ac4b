"""Slow NumPy float64 layer-wise relevance propagation, written from the papers and not from the library.

A network is a list of layers, tuples that begin with a kind:
  ("dense", w (in, out), b), ("conv", k (kh, kw, in, out), b, stride, padding), ("bn", mean, var, scale, bias),
  ("relu",), ("max", size, stride), ("avg", size, stride), ("mean",) over positions, ("flatten",),
  ("residual", branch, shortcut): the sum of two networks.
Every linear layer becomes a dense matrix, found by running it on each unit vector; a "bn" behind a "conv" or "dense"
is multiplied into that matrix first. A rule is ("epsilon", e), ("alpha_beta", alpha, beta, e) or ("gamma", g, e).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Net = list[tuple[Any, ...]]
BN_EPSILON = 1e-5


def _conv(x: np.ndarray, k: np.ndarray, stride: int, padding: int) -> np.ndarray:
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n - m) // stride + 1 for n, m in zip(x.shape, k.shape[:2], strict=False))
    out = np.zeros((rows, columns, k.shape[3]))
    for i, j in np.ndindex(rows, columns):
        window = x[i * stride : i * stride + k.shape[0], j * stride : j * stride + k.shape[1]]
        out[i, j] = np.tensordot(window, k, 3)
    return out


def _windows(x: np.ndarray, size: int, stride: int):
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    for i, j, k in np.ndindex(rows, columns, x.shape[2]):
        yield (i, j, k), (slice(i * stride, i * stride + size), slice(j * stride, j * stride + size), k)


def _pooled_shape(x: np.ndarray, size: int, stride: int) -> tuple[int, int, int]:
    return (x.shape[0] - size) // stride + 1, (x.shape[1] - size) // stride + 1, x.shape[2]


def _without_bias(layer: tuple, x: np.ndarray) -> np.ndarray:
    kind = layer[0]
    if kind == "dense":
        return x @ layer[1]
    if kind == "conv":
        return _conv(x, layer[1], layer[3], layer[4])
    if kind == "mean":
        return x.mean((0, 1))
    if kind == "avg":
        out = np.zeros(_pooled_shape(x, *layer[1:]))
        for at, window in _windows(x, *layer[1:]):
            out[at] = x[window].mean()
        return out
    _, _, var, scale, _ = layer
    return x * scale / np.sqrt(var + BN_EPSILON)


def _bias(layer: tuple) -> np.ndarray | float:
    if layer[0] in ("dense", "conv"):
        return layer[2]
    if layer[0] == "bn":
        _, mean, var, scale, bias = layer
        return bias - mean * scale / np.sqrt(var + BN_EPSILON)
    return 0.0


def _matrix(layers: Net, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """The matrix (out, in) and the bias (out,) of consecutive linear layers, and the shape of their output."""

    def run(v, biased):
        for layer in layers:
            v = _without_bias(layer, v) + (_bias(layer) if biased else 0.0)
        return v

    columns = []
    for at in np.ndindex(*x.shape):
        unit = np.zeros(x.shape)
        unit[at] = 1.0
        columns.append(run(unit, False).ravel())
    bias = run(np.zeros(x.shape), True)
    return np.stack(columns, 1), bias.ravel(), bias.shape


def _stable(z: np.ndarray, e: float) -> np.ndarray:
    return z + e * np.where(z >= 0, 1.0, -1.0)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def _linear(rule: tuple, m: np.ndarray, bias: np.ndarray, x: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, float]:
    """The relevance of x, and what the bias takes; the bias is a neuron with the value 1 (Montavon et al. 2019)."""
    z = np.concatenate([m * x, bias[:, None]], 1)  # z[j, i] = x_i w_ij
    plus, minus = np.maximum(z, 0), np.minimum(z, 0)
    if rule[0] == "epsilon":  # Bach et al. 2015, eq. 58
        shares = _divide(z, _stable(z.sum(1, keepdims=True), rule[1]))
    elif rule[0] == "alpha_beta":  # Bach et al. 2015, eq. 60
        _, alpha, beta, e = rule
        shares = alpha * _divide(plus, _stable(plus.sum(1, keepdims=True), e))
        shares = shares - beta * _divide(minus, -_stable(-minus.sum(1, keepdims=True), e))
    else:  # Montavon et al. 2019, the rule called LRP-gamma, with a_j w_jk+ = (a_j w_jk)+ as a_j >= 0
        weighted = z + rule[1] * plus
        shares = _divide(weighted, _stable(weighted.sum(1, keepdims=True), rule[2]))
    out = (shares * r[:, None]).sum(0)
    return out[:-1], out[-1]


def forward(net: Net, x: np.ndarray) -> np.ndarray:
    """The output of a network."""
    for layer in net:
        if layer[0] == "relu":
            x = np.maximum(x, 0)
        elif layer[0] == "flatten":
            x = x.ravel()
        elif layer[0] == "max":
            out = np.zeros(_pooled_shape(x, *layer[1:]))
            for at, window in _windows(x, *layer[1:]):
                out[at] = x[window].max()
            x = out
        elif layer[0] == "residual":
            x = forward(layer[1], x) + forward(layer[2], x)
        else:
            x = _without_bias(layer, x) + _bias(layer)
    return x


def lrp(net: Net, x: np.ndarray, relevance: np.ndarray, rules: Any, e: float = 1e-9) -> tuple[np.ndarray, float]:
    """The relevance of x given that of the output, and the total that biases took.

    Args:
      rules: an iterator over the rules of "dense" and "conv" layers, from the output to the input (of a sum, the
        second network first).
      e: the stabiliser of everything else, which follows the epsilon rule.
    """
    if not net:
        return relevance, 0.0
    last = [net[-1]]
    if last[0][0] == "bn" and len(net) > 1 and net[-2][0] in ("dense", "conv"):
        last = net[-2:]
    before = net[: -len(last)]
    at = forward(before, x)
    kind, absorbed = last[0][0], 0.0
    if kind == "relu":
        back = relevance
    elif kind == "flatten":
        back = relevance.reshape(at.shape)
    elif kind == "max":
        back = np.zeros(at.shape)
        for position, window in _windows(at, *last[0][1:]):
            winner = np.unravel_index(at[window].argmax(), at[window].shape)
            back[window][winner] += relevance[position]
    elif kind == "residual":  # in proportion to the two summands
        parts = [forward(branch, at) for branch in last[0][1:]]
        back = np.zeros(at.shape)
        for branch, part in reversed(list(zip(last[0][1:], parts, strict=True))):
            share = relevance * _divide(part, _stable(parts[0] + parts[1], e))
            r, a = lrp(branch, at, share, rules, e)
            back, absorbed = back + r, absorbed + a
    else:
        m, bias, _ = _matrix(last, at)
        rule = next(rules) if kind in ("dense", "conv") else ("epsilon", e)
        flat, absorbed = _linear(rule, m, bias, at.ravel(), relevance.ravel())
        back = flat.reshape(at.shape)
    r, a = lrp(before, x, back, rules, e)
    return r, a + absorbed
