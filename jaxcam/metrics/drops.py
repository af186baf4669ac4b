"""What the class loses when the image is reduced to its explanation, or robbed of it: IC, AD and ADD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError, check_known
from jaxcam.transforms.arithmetic import of_class

#: `(params, image (H, W, 3)) -> logits (C,)`.
Predict = Callable[[Any, jax.Array], jax.Array]
#: What turns logits into the score of a class: one of all classes, or each on its own (multi-label).
SCORES = ("softmax", "sigmoid")


class Confidence(NamedTuple):
    """The class score of an image, with and without what its map shows; each of shape `()`, float32.

    Attributes:
      original: Y, of the image, in [0, 1].
      kept: O, of `image * s(M)`.
      removed: D, of `image * (1 - s(M))`.
      ic: 1 where Y < O, else 0; its mean over images is the Increase in Confidence.
      ad: `100 max(0, Y - O) / Y`; its mean is the Average Drop in percent.
      add: `100 max(0, Y - D) / Y`; its mean is the Average Drop in Deletion in percent.
    """

    original: jax.Array
    kept: jax.Array
    removed: jax.Array
    ic: jax.Array
    ad: jax.Array
    add: jax.Array


def confidence(
    params: Any, image: jax.Array, heatmap: jax.Array, *, predict: Predict, target: int | jax.Array,
    score: str = "softmax", baseline: float | jax.Array = 0.0, original: jax.Array | None = None,
) -> Confidence:  # fmt: skip
    """IC, AD and ADD of one map (Jung and Oh, ICCV 2021, section 4; IC and AD after Chattopadhay et al. 2018).

    The products are `image * s + baseline * (1 - s)` and, for ADD, the same with `1 - s`. Scores are compared as
    log-odds and divided as logarithms, so neither a score that rounds to 1 hides an increase, nor does one that
    rounds to 0 divide by it: Y > 0 for finite logits, and 0/0 cannot arise.

    A map of zeros counts like any other: O is then the score of the baseline, and D that of the image (ADD 0).
    NaN in the logits makes the values that depend on them NaN.

    Costs three evaluations of the network, in one batch; two where `original` is given.

    Args:
      params: what `predict` takes first.
      image: `(H, W, 3)`, the network's input, normalised.
      heatmap: `(H, W)`, s(M): the map at the image's size, scaled to [0, 1] (`resize_map`, then `scale_map`).
      predict: the network, for one image.
      target: class index.
      score: "softmax", or "sigmoid" for a multi-label network.
      baseline: what removed pixels turn into, a number or an array that broadcasts to the image. 0 is the mean
        colour, as in the paper; see `jaxcam.metrics.baseline` for others.
      original: `log_odds` of the image itself, where it is known (it is the same for every method).

    Raises:
      JaxcamError: shapes that do not fit, or an unknown score.
    """
    if heatmap.shape != image.shape[:2]:
        raise JaxcamError(f"a map must have its image's size {image.shape[:2]}, not {heatmap.shape}; see resize_map")
    s = heatmap[..., None]
    shown = [image * s + baseline * (1 - s), image * (1 - s) + baseline * s]
    if original is None:
        shown.append(image)
    logits = jax.vmap(predict, in_axes=(None, 0))(params, jnp.stack(shown))
    odds = jax.vmap(lambda z: log_odds(z, target, score=score))(logits)
    kept, removed = odds[0], odds[1]
    whole = odds[2] if original is None else original
    unknowable = jnp.isnan(whole) | jnp.isnan(kept)
    return Confidence(
        original=jax.nn.sigmoid(whole),
        kept=jax.nn.sigmoid(kept),
        removed=jax.nn.sigmoid(removed),
        ic=jnp.where(unknowable, jnp.nan, (whole < kept).astype(kept.dtype)),
        ad=drop(whole, kept),
        add=drop(whole, removed),
    )


def log_odds(logits: jax.Array, target: int | jax.Array, *, score: str = "softmax") -> jax.Array:
    """`log(p / (1 - p))` of a class score p, `()`: `jax.nn.sigmoid` of it is p.

    Unlike p it keeps apart the scores of a network that is nearly certain: in 32 bits, p is 1 from log-odds of 17 on.
    With one class under softmax, p is 1 and the result infinite. NaN for a traced class that is none, below 0 too.

    Args:
      logits: `(C,)`.
      target: class index.
      score: "softmax" or "sigmoid".

    Raises:
      JaxcamError: an unknown score, logits of another shape, or a target that is (where it is known) no class.
    """
    check_known("score", score, SCORES)
    if jnp.ndim(logits) != 1:
        raise JaxcamError(f"a network must return logits of shape (C,) for one image, not {jnp.shape(logits)}")
    own = own_logit(logits, target)
    if score == "sigmoid":
        return own
    classes = jnp.arange(logits.shape[0], dtype=jnp.result_type(target))
    others = jnp.where(classes == target, -jnp.inf, logits.astype(jnp.float32))
    return own - jax.nn.logsumexp(others)


def own_logit(logits: jax.Array, target: int | jax.Array) -> jax.Array:
    """`F(x)`, `()` in float32: of the target among the logits `(C,)`; NaN for a traced class that is none.

    Raises:
      JaxcamError: the target is no class's index, or (where it is known) none of these logits'.
    """
    if isinstance(target, str) or jnp.ndim(target) != 0 or not jnp.issubdtype(jnp.result_type(target), jnp.integer):
        raise JaxcamError("a target is the index of one class, a whole number; use jax.vmap for several")
    return of_class(logits, target).astype(jnp.float32)


def drop(before: jax.Array, after: jax.Array) -> jax.Array:
    """`100 max(0, p - q) / p` of the scores with such log-odds `()`, `before` p and `after` q."""
    return 100 * jnp.maximum(0, -jnp.expm1(jax.nn.log_sigmoid(after) - jax.nn.log_sigmoid(before)))
