"""How much two maps are alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.metrics.form import in_single


def pearson(first: jax.Array, second: jax.Array) -> jax.Array:
    """Pearson's correlation of two arrays of one shape: `()` in [-1, 1]; 0 where one of them is constant (0/0).

    NaN where one holds NaN or infinity.
    """
    _check_alike(first, second)

    def unit(x: jax.Array) -> jax.Array:
        x = in_single(x)
        most = jnp.max(jnp.abs(x))
        x = x * jnp.where(most > 2.0**60, jnp.asarray(2.0**-70, x.dtype), 1)  # lest sums and differences overflow
        rounding = 4 * float(jnp.finfo(x.dtype).eps) * jnp.max(jnp.abs(x))  # which is no pattern
        flat = jnp.max(x) - jnp.min(x) <= rounding
        x = x.ravel() - jnp.mean(x)
        largest = jnp.max(jnp.abs(x))
        x = x / jnp.where(largest > 0, largest, 1.0)
        norm = jnp.sqrt(jnp.sum(x * x))
        return jnp.where(flat & jnp.isfinite(most), 0.0, x / jnp.where(norm > 0, norm, 1.0))

    return jnp.clip(jnp.sum(unit(first) * unit(second)), -1.0, 1.0)


def spearman(first: jax.Array, second: jax.Array) -> jax.Array:
    """Spearman's rank correlation, equal values having the mean of their ranks: `()` in [-1, 1]; 0 at 0/0."""
    _check_alike(first, second)

    def ranks(x: jax.Array) -> jax.Array:
        x = in_single(x).ravel()
        ordered = jnp.sort(x)
        below, upto = (jnp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
        mean = 0.5 * (below + upto - 1).astype(x.dtype)
        return jnp.where(jnp.isnan(x), jnp.nan, mean)

    return pearson(ranks(first), ranks(second))


def _check_alike(first: jax.Array, second: jax.Array) -> None:
    if jnp.shape(first) != jnp.shape(second) or not jnp.size(first):
        raise JaxcamError(
            f"a correlation is of two arrays of one shape, not {jnp.shape(first)} and {jnp.shape(second)}"
        )


def ssim(first: jax.Array, second: jax.Array) -> jax.Array:
    """The structural similarity of two maps `(H, W)` in [0, 1] (Wang et al., TIP 2004): `()` in [-1, 1].

    The paper's window, a Gaussian of 1.5 pixels within 11 x 11 that is kept inside the image, and its constants, 0.01
    and 0.03. Maps smaller than the window have one as large as they are, of odd side. 1 for equal maps, constant ones
    too.
    """
    radius = min(5, *((side - 1) // 2 for side in first.shape))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 1.5) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    rows, columns = (_sliding(weights, side) for side in first.shape)

    def local(x: jax.Array) -> jax.Array:
        return jnp.einsum("ih,hw,jw->ij", rows, x, columns, precision="highest")

    a, b = local(first), local(second)
    var_a, var_b = local(first * first) - a * a, local(second * second) - b * b
    both = local(first * second) - a * b
    c1, c2 = 0.01**2, 0.03**2
    return jnp.mean((2 * a * b + c1) * (2 * both + c2) / ((a * a + b * b + c1) * (var_a + var_b + c2)))


def _sliding(weights: np.ndarray, side: int) -> np.ndarray:
    """A matrix that takes the weighted mean at every place where the window lies inside: `(side - n + 1, side)`."""
    n = len(weights)
    matrix = np.zeros((side - n + 1, side), np.float32)
    for i in range(len(matrix)):
        matrix[i, i : i + n] = weights
    return matrix
