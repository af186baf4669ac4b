"""SqueezeNet v1.0 in plain JAX: a network nobody wrote for jaxcam, with its real ImageNet weights.

Forward pass as in Iandola et al. (2016), table 1, in the layout of its Caffe release.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxcam.cutting as cutting

SIZE = 227
MEAN_BGR = (104.0, 117.0, 123.0)
#: Where the three max pools come after.
POOLED = ("conv1", "fire4", "fire8")


def load(path: pathlib.Path) -> dict[str, jax.Array]:
    """The parameters: `name/w` as HWIO, `name/b`."""
    with np.load(path) as arrays:
        return {k: jnp.asarray(v.transpose(2, 3, 1, 0) if v.ndim == 4 else v) for k, v in arrays.items()}


def preprocess(rgb: np.ndarray) -> jax.Array:
    """The network's input for a picture `(227, 227, 3)`, RGB from 0 to 255."""
    return jnp.asarray(rgb, jnp.float32)[..., ::-1] - jnp.asarray(MEAN_BGR)


def _conv(params, x, name, stride=1, padding=0):
    out = jax.lax.conv_general_dilated(
        x[None], params[f"{name}/w"], (stride, stride), [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    return jax.nn.relu(out[0] + params[f"{name}/b"])


def _pool(x):
    """3 x 3, stride 2, in ceil mode: a last window that hangs over the edge counts."""
    padding = [(0, -(-(n - 3) // 2) * 2 + 3 - n) for n in x.shape[:2]]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 3, 1), (2, 2, 1), [*padding, (0, 0)])


def squeezenet(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Logits `(1000,)` of one input `(227, 227, 3)`; the tags are `conv1`, `fire2` ... `fire9`, `conv10`."""
    x = cutting.tag(_conv(params, x, "conv1", stride=2), "conv1")
    x = _pool(x)
    for i in range(2, 10):
        name = f"fire{i}"
        squeezed = _conv(params, x, f"{name}/conv1x1_1")
        wide = [_conv(params, squeezed, f"{name}/conv1x1_2"), _conv(params, squeezed, f"{name}/conv3x3_2", padding=1)]
        x = cutting.tag(jnp.concatenate(wide, axis=-1), name)
        x = _pool(x) if name in POOLED else x
    x = cutting.tag(_conv(params, x, "conv10", padding=1), "conv10")
    return x.mean((0, 1))
