"""Whether a map stays where nothing that matters has changed: noise that no eye sees, a picture that is flipped."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.metrics.similarity import pearson

#: Of max-sensitivity: how far a number of the normalised input may move, and how many draws are made.
RADIUS, NUM_NEARBY = 0.02, 10
#: Of consistency under noise: its standard deviation in the normalised input, and how many draws.
NOISE, NUM_NOISY = 0.1, 4


def nearby_images(image: jax.Array, key: jax.Array) -> jax.Array:
    """Images whose numbers differ by at most `RADIUS`, evenly: `(NUM_NEARBY, H, W, C)`."""
    shape = (NUM_NEARBY, *image.shape)
    return image[None] + jax.random.uniform(key, shape, image.dtype, -RADIUS, RADIUS)


def noisy_images(image: jax.Array, key: jax.Array) -> jax.Array:
    """Images with normal noise of `NOISE`: `(NUM_NOISY, H, W, C)`."""
    return image[None] + NOISE * jax.random.normal(key, (NUM_NOISY, *image.shape), image.dtype)


def flipped_image(image: jax.Array) -> jax.Array:
    """The image with left and right exchanged: `(1, H, W, C)`."""
    return image[None, :, ::-1]


def flipped_map(heatmap: jax.Array) -> jax.Array:
    """The map with left and right exchanged, `(H, W)`."""
    return heatmap[:, ::-1]


def max_sensitivity(heatmap: jax.Array, again: jax.Array) -> jax.Array:
    """Max-sensitivity (Yeh et al., NeurIPS 2019): the greatest relative change of the map near the image.

    `max_r |s(x + r) - s(x)| / |s(x)|` over draws r whose numbers are at most 0.02, norms of Frobenius: as captum does;
    the paper does not divide. The greatest of ten draws is below the greatest there is. Lower is better. Costs ten
    forward passes, the same for all methods, and ten maps.

    Args:
      heatmap: `(H, W)`, s(M).
      again: `(n, H, W)`, the method's heatmaps of `nearby_images`.

    Returns:
      `()`, not negative. Of a map of zeros the change is divided by 1 (0/0 is 0).
    """
    size = jnp.sqrt(jnp.sum(heatmap * heatmap))
    change = jnp.sqrt(jnp.sum((again - heatmap[None]) ** 2, axis=(1, 2)))
    return jnp.max(change) / jnp.where(size == 0, 1.0, size)


def consistency(heatmap: jax.Array, again: jax.Array) -> jax.Array:
    """The mean of Pearson's correlations of a map and those of changed images, laid back; higher is better.

    With `flipped_image` it costs one forward pass and one map more; with `noisy_images`, four of each.

    Args:
      heatmap: `(H, W)`, s(M).
      again: `(n, H, W)`, the method's heatmaps of changed images, where those were moved, moved back.

    Returns:
      `()` in [-1, 1]. A constant map counts 0 (0/0).
    """
    return jnp.mean(jax.vmap(lambda other: pearson(heatmap, other))(again))
