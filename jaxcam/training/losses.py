"""What training makes small, and what it is judged by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax


def single_label_loss(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Mean softmax cross entropy of `logits (b, C)` and class indices `labels (b,)`."""
    onehot = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, onehot).mean()


def multi_label_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean sigmoid cross entropy over the known entries of `labels (b, C)` (1, 0, or -1 unknown)."""
    known = labels >= 0
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(labels, 0.0))
    return jnp.where(known, losses, 0.0).sum() / jnp.maximum(known.sum(), 1)


def distillation_loss(logits: jax.Array, teacher: jax.Array, temperature: float, *, multi_label: bool) -> jax.Array:
    """Mean cross entropy of `logits (b, C)` against those of a teacher, both divided by the temperature T, times T².

    Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015, section 2: so gradients stay as large
    as they are against labels. Of multi-label data it is the sigmoid cross entropy of each class.
    """
    soft, hard = logits / temperature, teacher.astype(logits.dtype) / temperature
    if multi_label:
        losses = optax.sigmoid_binary_cross_entropy(soft, jax.nn.sigmoid(hard))
    else:
        losses = optax.softmax_cross_entropy(soft, jax.nn.softmax(hard))
    return temperature**2 * losses.mean()


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy, or for multi-label data the mean average precision over classes."""
    if labels.ndim == 1:
        return float((logits.argmax(-1) == labels).mean())
    precisions = []
    for scores, truth in zip(logits.T, labels.T, strict=True):
        truth, scores = truth[truth >= 0], scores[truth >= 0]
        hits = truth[np.argsort(-scores, kind="stable")] > 0
        if hits.any():
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            precisions.append(precision[hits].mean())
    return float(np.mean(precisions)) if precisions else float("nan")
