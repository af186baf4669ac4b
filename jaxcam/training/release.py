"""From a finished training run to the network that is handed on, measured as it is handed on."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcam import __version__
from jaxcam.data.datasets import LabelledImages
from jaxcam.data.images import open_image
from jaxcam.data.loader import in_order
from jaxcam.models.config import fold_batch_norm
from jaxcam.models.network import Network
from jaxcam.training.losses import accuracy
from jaxcam.training.train import Trainer
from jaxcam.transforms.convolutions import for_cpu
from jaxcam.zoo.store import save_network


def metric(multi_label: bool) -> str:
    """What `accuracy` computes."""
    return "mean average precision" if multi_label else "top-1 accuracy"


def measure(network: Network, data: LabelledImages, *, batch_size: int = 64) -> float:
    """Top-1 accuracy, or mean average precision, of a network on pictures preprocessed as it asks for."""
    predict = jax.jit(for_cpu(lambda params, pixels: network.predict(params, network.preprocessing.normalize(pixels))))
    params = jax.tree.map(jnp.asarray, network.params)
    read = in_order(lambda path: network.preprocessing.pixels(open_image(path)), data.paths)
    logits = []
    while pixels := list(itertools.islice(read, batch_size)):
        padded = np.pad(np.stack(pixels), ((0, batch_size - len(pixels)), (0, 0), (0, 0), (0, 0)))
        logits.append(np.asarray(predict(params, padded))[: len(pixels)])
    return accuracy(np.concatenate(logits), data.labels)


def release(
    trainer: Trainer,
    folder: str | os.PathLike,
    *,
    name: str,
    command: str,
    source: str | os.PathLike,
    fold: bool = False,
    dtype: str = "float32",
) -> Network:
    """Writes the averaged weights of a run as a network's folder, with where they come from.

    The accuracy in the provenance is that of the numbers written: folded, and rounded to `dtype`.

    Args:
      trainer: after `run`.
      command: what made them.
      source: the data set's folder.
      fold: merge batch norm into the convolutions.
      dtype: "float32" or "float16".

    Raises:
      JaxcamError: the weights hold values that `dtype` cannot hold, or the folder cannot be written.
    """
    config, params = trainer.config, trainer.averaged_params()
    if fold:
        config, params = fold_batch_norm(config, params)
    train, val = trainer.train_data.data, trainer.val_data.data
    with np.errstate(over="ignore"):  # `save_network` says which weights are too large
        rounded = jax.tree.map(lambda p: np.asarray(p).astype(dtype).astype(np.float32), params)
    network = Network(
        name=name, config=config, params=rounded, classes=train.classes, preprocessing=trainer.preprocessing,
        multi_label=trainer.multi_label,
    )  # fmt: skip
    provenance: dict[str, Any] = {
        "source": "trained from scratch with jaxcam train",
        "command": command,
        "seed": trainer.recipe.seed,
        "data": pathlib.Path(source).resolve().name,
        "training_pictures": len(train),
        "validation_pictures": len(val),
        "metric": metric(trainer.multi_label),
        "accuracy": round(measure(network, val, batch_size=min(64, len(val))), 5),
        "dtype": dtype,
        "batch_norm": "folded into the convolutions" if fold else "as trained",
        "recipe": dataclasses.asdict(trainer.recipe),
        "versions": {
            "jaxcam": __version__, "jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__,
        },
    }  # fmt: skip
    if trainer.init is not None:
        provenance |= {"source": "fine-tuned with jaxcam train", "from": trainer.init.provenance}
    if trainer.teacher is not None:
        provenance["teacher"] = {"name": trainer.teacher.name, "sha256": trainer.teacher.digest()}
    network = dataclasses.replace(network, provenance=provenance)
    save_network(folder, network, dtype=dtype)
    return network
