"""Whether a map stays where nothing that matters has changed: noise that no eye sees, a picture that is flipped."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam.metrics.form import in_single
from jaxcam.metrics.similarity import pearson
from jaxcam.shapley.result import check_key

#: Of max-sensitivity: how far a number of the normalised input may move, and how many draws are made.
RADIUS, NUM_NEARBY = 0.02, 10
NEARBY = tuple(range(NUM_NEARBY))
#: Of consistency under noise: its standard deviation in the normalised input, and how many draws.
NOISE, NUM_NOISY = 0.1, 4


def nearby_images(image: jax.Array, key: jax.Array) -> jax.Array:
    """Images whose numbers differ by at most `RADIUS`, evenly: `(NUM_NEARBY, H, W, C)`."""
    check_key(key)
    shape = (NUM_NEARBY, *image.shape)
    return image[None] + jax.random.uniform(key, shape, image.dtype, -RADIUS, RADIUS)


def noisy_images(image: jax.Array, key: jax.Array) -> jax.Array:
    """Images with normal noise of `NOISE`: `(NUM_NOISY, H, W, C)`."""
    check_key(key)
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
    heatmap, again = in_single(heatmap), in_single(again)
    size = jnp.sqrt(jnp.sum(heatmap * heatmap))
    change = jnp.sqrt(jnp.sum((again - heatmap[None]) ** 2, axis=(1, 2)))
    return jnp.max(change) / jnp.where(size == 0, 1.0, size)


def nearby_image(point: jax.Array, *, image: jax.Array, key: jax.Array) -> jax.Array:
    """That of `nearby_images` with number `point`, `(H, W, C)`."""
    return nearby_images(image, key)[jnp.asarray(point).astype(jnp.int32)]


def local_lipschitz(heatmap: jax.Array, again: jax.Array, image: jax.Array, key: jax.Array) -> jax.Array:
    """The local Lipschitz estimate (Alvarez-Melis & Jaakkola 2018): the steepest change of the map near the image.

    `max_i |s(x_i) - s(x)| / |x_i - x|` over `nearby_images`, norms of Frobenius. It has the unit of the map over that
    of the image, so that only maps of one network's inputs may be compared. Lower is better. Cost as `max_sensitivity`,
    with which it shares the maps.

    Args:
      heatmap: `(H, W)`, s(M).
      again: `(n, H, W)`, the method's heatmaps of `nearby_images(image, key)`.

    Returns:
      `()`, not negative.
    """
    moved = _norms(nearby_images(image, key) - image[None])
    return jnp.max(_norms(again - heatmap[None]) / jnp.where(moved > 0, moved, 1))


def relative_stability(heatmap: jax.Array, again: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """Relative stability (Agarwal et al. 2022): the greatest relative change of the map, over that of something else.

    `max_i (|s_i - s| / |s|) / max(|b_i - b| / |b|, 1e-6)`. With b the image it is relative input stability, with the
    logits relative output stability, with activations relative representation stability. (The paper divides element by
    element before it takes norms: a heatmap has zeros, and what is nearly zero then decides all.) All draws count, also
    one with another prediction. Lower is better.

    Args:
      heatmap: `(H, W)`, s(M).
      again: `(n, H, W)`, heatmaps of changed images.
      before: b, of any shape.
      after: `(n, ...)`, b of the changed images.

    Returns:
      `()`, not negative. What is zero everywhere is divided by 1 in place of its norm (0/0 is 0).
    """

    def relative(values: jax.Array, changed: jax.Array) -> jax.Array:
        (size,) = _norms(values[None])
        return _norms(changed - values[None]) / jnp.where(size > 0, size, 1)

    return jnp.max(relative(heatmap, again) / jnp.maximum(relative(before, after), 1e-6))


def relative_input_stability(heatmap: jax.Array, again: jax.Array, image: jax.Array, key: jax.Array) -> jax.Array:
    """`relative_stability` beside the change of the image, over `nearby_images`; cost as `max_sensitivity`."""
    return relative_stability(heatmap, again, image, nearby_images(image, key))


def relative_output_stability(heatmap: jax.Array, again: jax.Array, logits: jax.Array, answers: jax.Array) -> jax.Array:
    """`relative_stability` beside the change of the logits, over `nearby_images`; ten passes more than there."""
    return relative_stability(heatmap, again, logits, answers)


def _norms(x: jax.Array) -> jax.Array:
    """Of each row, `(n,)`."""
    x = in_single(x)
    return jnp.sqrt(jnp.sum((x * x).reshape(len(x), -1), 1))


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
