"""Small networks for the tests of LRP: the layers of oracle_lrp as a JAX function, and some of them to run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracle_lrp
from jax import lax
from reference import seeded


def run(net: oracle_lrp.Net, x: jax.Array) -> jax.Array:
    """A network of oracle_lrp in JAX, with batch norm written as libraries write it."""
    for kind, *p in net:
        if kind == "dense":
            x = x @ p[0] + p[1]
        elif kind == "conv":
            layout, padding = ("NHWC", "HWIO", "NHWC"), [(p[3], p[3])] * 2
            x = lax.conv_general_dilated(x[None], p[0], (p[2], p[2]), padding, dimension_numbers=layout)[0] + p[1]
        elif kind == "bn":
            mean, var, scale, bias = p
            x = (x - mean) * (lax.rsqrt(var + oracle_lrp.BN_EPSILON) * scale) + bias
        elif kind == "relu":
            x = jax.nn.relu(x)
        elif kind == "flatten":
            x = x.reshape(-1)
        elif kind == "mean":
            x = x.mean((0, 1))
        elif kind == "residual":
            x = run(p[0], x) + run(p[1], x)
        else:
            window = (p[0], p[0], 1), (p[1], p[1], 1), "VALID"
            if kind == "max":
                x = lax.reduce_window(x, -jnp.inf, lax.max, *window)
            else:
                x = lax.reduce_window(x, 0.0, lax.add, *window) / p[0] ** 2
    return x


class Draw:
    """Layers with random parameters; biases far from zero, unless there are none."""

    def __init__(self, seed: int, biased: bool = True):
        self.rng, self.biased = np.random.RandomState(seed), biased

    def bias(self, n: int) -> np.ndarray:
        return 0.4 * self.rng.standard_normal(n) * self.biased

    def dense(self, n_in: int, n_out: int) -> tuple:
        return "dense", self.rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in), self.bias(n_out)

    def conv(self, size: int, c_in: int, c_out: int, stride: int = 1, padding: int = 0) -> tuple:
        kernel = self.rng.standard_normal((size, size, c_in, c_out)) * np.sqrt(2 / (size * size * c_in))
        return "conv", kernel, self.bias(c_out), stride, padding

    def bn(self, n: int) -> tuple:
        """Batch norm with gains of both signs."""
        var, scale = self.rng.uniform(0.5, 2.0, n), self.rng.uniform(0.5, 1.5, n) * np.where(np.arange(n) % 3, 1, -1)
        return "bn", self.bias(n), var, scale, self.bias(n)


SHAPE = (6, 6, 3)
CLASSES = 3


def networks(biased: bool = True) -> dict[str, oracle_lrp.Net]:
    """Networks from (6, 6, 3) to three numbers that between them use every layer."""
    d = Draw(3, biased)
    return {
        "dense": [("flatten",), d.dense(108, 9), ("relu",), d.dense(9, 12), ("relu",), d.dense(12, CLASSES)],
        "max_pool": [d.conv(3, 3, 4, 2, 1), ("relu",), ("max", 2, 1), ("flatten",), d.dense(16, CLASSES)],
        "batch_norm": [
            d.conv(3, 3, 5, 1, 1), d.bn(5), ("relu",), ("avg", 3, 3), ("flatten",),
            d.dense(20, 12), d.bn(12), ("relu",), d.dense(12, CLASSES),
        ],
        "residual": [
            ("residual", [d.conv(3, 3, 4, 2, 1), d.bn(4), ("relu",), d.conv(3, 4, 4, 1, 1), d.bn(4)],
             [d.conv(1, 3, 4, 2, 0), d.bn(4)]), ("relu",),
            ("residual", [d.conv(3, 4, 4, 1, 1), d.bn(4)], []), ("relu",),
            ("mean",), d.dense(4, CLASSES),
        ],
        "lone_batch_norm": [d.bn(3), ("relu",), d.conv(2, 3, 4), ("relu",), ("max", 2, 2), ("mean",), d.dense(4, 3)],
    }  # fmt: skip


def weighted(net: oracle_lrp.Net) -> int:
    """How many layers with weights a network has."""
    return sum(
        sum(map(weighted, layer[1:])) if layer[0] == "residual" else layer[0] in ("dense", "conv") for layer in net
    )


def activations(signed: bool = False) -> np.ndarray:
    """An input as a ReLU leaves it, or one of both signs; float64 (6, 6, 3)."""
    a = seeded.activations(7, SHAPE)
    return a - 0.5 * seeded.activations(8, SHAPE) if signed else a
