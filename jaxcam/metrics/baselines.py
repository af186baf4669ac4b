"""What stands in for a pixel that is taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError, check_known


def blur(image: jax.Array, *, sigma: float = 5.0, radius: int = 5) -> jax.Array:
    """`image (H, W, c)` under a Gaussian that is cut off `radius` pixels from its centre.

    The defaults are what RISE's paper and code name, an 11 x 11 kernel with a standard deviation of 5 pixels. The
    kernel that RISE's code then makes is another, nearly flat one: see `rise_blur`. At the border the weights that
    fall outside are left out and the rest sum to 1, so that a plain image stays as it is.

    Args:
      image: `(H, W, c)`.
      sigma: standard deviation in pixels.
      radius: in pixels.
    """
    # The kernel is separable and small beside a network: two products with banded matrices, no convolution,
    # which costs the same under vmap and inside loops.
    rows, columns = (_blur_matrix(n, sigma, radius) for n in image.shape[:2])
    return jnp.einsum("hi,wj,ijc->hwc", rows, columns, image, precision="highest")


def rise_blur(image: jax.Array) -> jax.Array:
    """`image (H, W, c)` blurred exactly as the code of RISE does (Petsiuk et al. 2018), for figures beside theirs.

    Its kernel is an 11 x 11 array of zeros with a one in the middle, filtered by a Gaussian of 5 pixels that is cut off
    at 20 and whose borders reflect. Of the Gaussian little is left: the weight in the middle is 1.14 times that in a
    corner (2.72 times in `blur`). Outside the image there are zeros, the mean colour of a normalised one, so that
    borders fade to it.

    Args:
      image: `(H, W, c)`, normalised.
    """
    weights = np.exp(-0.5 * (np.arange(-20, 21) / 5.0) ** 2)
    folded = (np.arange(-20, 21) + 5) % 22  # the one's place is 5; a period of reflections is there and back
    line = np.bincount(np.minimum(folded, 21 - folded), weights / weights.sum(), minlength=11)
    rows, columns = (
        sum(weight * np.eye(n, k=k - 5) for k, weight in enumerate(line)).astype(np.float32) for n in image.shape[:2]
    )
    return jnp.einsum("hi,wj,ijc->hwc", rows, columns, image, precision="highest")


def _blur_matrix(size: int, sigma: float, radius: int) -> np.ndarray:
    distance = np.abs(np.arange(size)[:, None] - np.arange(size))
    weights = np.where(distance <= radius, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One way to take a picture away; nothing outside its entry in `BASELINES` knows it by name.

    Attributes:
      function: `(image (H, W, 3), normalised) -> (H, W, 3)`; with `normalize` after it where that is needed.
      about: in a few words.
      normalizes: whether it needs to know what pixel values become in the network's input.
      blurs: whether something of the picture is left, so that insertion can start from it.
    """

    function: Callable[..., jax.Array]
    about: str = ""
    normalizes: bool = False
    blurs: bool = False


def _mean(image: jax.Array) -> jax.Array:
    return jnp.zeros_like(image)


def _black(image: jax.Array, normalize: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return normalize(jnp.zeros_like(image)).astype(image.dtype)


#: What `baseline` can make; a new one is an entry, from outside as well.
BASELINES: dict[str, Baseline] = {
    "mean": Baseline(_mean, "the mean colour of the data set: 0 in a normalised image, as the LIFT-CAM paper has it"),
    "zero": Baseline(_black, "black pixels", normalizes=True),
    "blur": Baseline(blur, "the image under a Gaussian of RISE's size", blurs=True),
    "rise": Baseline(rise_blur, "the image blurred exactly as RISE's code does", blurs=True),
}


def baseline(kind: str, image: jax.Array, *, normalize: Callable[[jax.Array], jax.Array] | None = None) -> jax.Array:
    """The image `(H, W, 3)` in which nothing is left of `image`.

    Args:
      kind: of `BASELINES`: "mean", the mean colour of the data set, which is 0 in a normalised image (what the LIFT-CAM
        paper multiplies into its images); "zero", black pixels; "blur", the image under a Gaussian of RISE's size
        (`blur`); "rise", the image blurred exactly as RISE's code does (`rise_blur`).
      image: `(H, W, 3)`, normalised: the network's input.
      normalize: turns pixel values in [0, 255] into the network's input (`Preprocessing.normalize`); of these only
        "zero" asks for it, since black is not 0 after normalisation.

    Raises:
      JaxcamError: there is no such kind, or it needs `normalize`, which is not given.
    """
    check_known("baseline", kind, BASELINES)
    made = BASELINES[kind]
    if not made.normalizes:
        return made.function(image)
    if normalize is None:
        raise JaxcamError(f"the baseline {kind!r} is made before normalisation; give normalize=preprocessing.normalize")
    return made.function(image, normalize)
