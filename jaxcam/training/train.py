"""The training recipe: AdamW, warm-up and cosine, progressive resizing, an average of the weights.

A run is a folder. It can be killed at any moment and started again with the same settings; it
then goes on from its last checkpoint and ends with the result an uninterrupted run ends with.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from jaxcam.data.datasets import LabelledImages
from jaxcam.data.loader import Loader
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.files import check_writable, whole_file
from jaxcam.models.config import Config
from jaxcam.models.network import Network, Part
from jaxcam.training.frozen import divided, joined, resolved, trained
from jaxcam.training.losses import accuracy, distillation_loss, multi_label_loss, single_label_loss
from jaxcam.training.outputs import FrozenOutputs, Outputs, Targets, Taught
from jaxcam.training.recipe import Recipe
from jaxcam.transforms.convolutions import for_cpu


class Trainer:
    """One run of a `Recipe` on one data set, in one folder.

    Args:
      config: the network.
      recipe: the choices.
      train, val: the data.
      out: the run's folder; created, or resumed where it holds a run with the same settings.
      init: a network of the same architecture whose weights to start from, for fine-tuning, and whose normalisation
        to keep. Where its classes are others, its last layer is drawn anew, as are layers that it has no weights of.
      teacher: a network that knows the classes, by their names, to learn from what it says of the same views of each
        picture, as it were a label for each class.
      checkpoint_every: steps between checkpoints, besides the one after each epoch.
      report: called with a dict of figures every few steps (for a progress bar).

    Raises:
      JaxcamError: `out` holds a run with other settings, the data are too few for one batch, `init`
        has another architecture, or `teacher` does not know a class.
    """

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        train: LabelledImages,
        val: LabelledImages,
        out: pathlib.Path,
        *,
        init: Network | None = None,
        teacher: Network | None = None,
        checkpoint_every: int = 100,
        report: Callable[[dict], None] = lambda figures: None,
    ):
        self.config, self.recipe, self.out = config, recipe, pathlib.Path(out)
        self.checkpoint_every, self.report = checkpoint_every, report
        shown = [recipe.eval_size, *recipe.sizes, *([] if teacher is None else [teacher.preprocessing.size])]
        cache_side = round(1.15 * max(shown))
        self.train_data: Any = Loader(
            train, cache_side=cache_side, seed=recipe.seed, min_scale=recipe.min_scale,
            views=recipe.views if recipe.freeze or teacher is not None else None,
        )  # fmt: skip
        pictures = self.train_data
        self.val_data: Any = Loader(val, cache_side=cache_side)
        self.steps_per_epoch = len(train) // recipe.batch_size
        if self.steps_per_epoch == 0:
            lacking = f"{len(train)} training pictures do not fill one batch of {recipe.batch_size}"
            raise JaxcamError(f"{lacking}; make it smaller")
        smallest = min([recipe.eval_size, *recipe.sizes])
        if smallest < config.smallest_input:
            raise JaxcamError(f"this network needs inputs of at least {config.smallest_input} pixels, not {smallest}")
        self.init, self.teacher, self.multi_label = init, teacher, train.multi_label
        given = Preprocessing() if init is None else init.preprocessing  # which the weights to start from have learnt
        self.preprocessing = dataclasses.replace(
            given, size=recipe.eval_size, resize="squash", resize_to=recipe.eval_size, interpolation="bilinear"
        )
        if init is not None and init.config.replace(num_classes=config.num_classes) != config:
            raise JaxcamError(f"{init.name} differs in its architecture from the network to be trained")
        taught = None if teacher is None else (_lesson(teacher, train), teacher.preprocessing.size)
        self._claim_folder(train)
        self.graphdef, *states = nnx.split(config.build(rngs=nnx.Rngs(recipe.seed)), nnx.Param, ...)
        params, stats = (nnx.to_pure_dict(state) for state in states)
        if init is not None:
            known = dict(init.params)
            if init.classes != train.classes:
                known.pop(config.last_layer, None)
            params, stats = _taken(params, known), _taken(stats, known)
        self.after = resolved(config, recipe.freeze) if recipe.freeze else None
        self.frozen: dict = {}
        if self.after is not None:
            params, stats = self._freeze(params, stats)
        if taught is not None:
            logits, size = taught
            told = self._outputs(Outputs, pictures, "teacher", logits, "teacher's logits", size)
            self.train_data = Taught(self.train_data, told)
        self.schedule = optax.warmup_cosine_decay_schedule(
            0.0, recipe.learning_rate, round(recipe.warmup * self.steps_per_epoch),
            len(recipe.sizes) * self.steps_per_epoch,
        )  # fmt: skip
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(5.0),
            optax.adamw(
                self.schedule, b2=0.99, weight_decay=recipe.weight_decay,
                mask=lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree),
            ),
        )  # fmt: skip
        self.state = {
            "params": params,
            "stats": stats,
            "optimizer": self.optimizer.init(params),
            "average": jax.tree.map(jnp.copy, {"params": params, "stats": stats}),  # donated: no sharing
            "step": jnp.zeros((), jnp.int32),
            "sums": jnp.zeros(2, jnp.float32),  # of the epoch so far: loss, and correct pictures
        }

    def _freeze(self, params: dict, stats: dict) -> tuple[dict, dict]:
        """Sets the frozen layers apart and puts what they give in the place of the pictures; returns the others."""
        config, recipe = self.config, self.recipe
        assert self.after is not None
        if self.init is None:
            raise JaxcamError("there is nothing to freeze in freshly drawn weights: name the network to begin with")
        if missing := sorted(set(self.init.provenance.get("absent", ())) & set(_stages_until(config, self.after))):
            raise JaxcamError(f"{self.init.name} has no weights of {', '.join(missing)}, which would be frozen")
        features = for_cpu(Part(config, None, self.after))
        whole = jax.tree.map(jnp.asarray, joined(params, stats))
        compute = jax.jit(lambda tree, pixels: features(tree, self.preprocessing.normalize(pixels)))
        paths = trained(config, self.after, recipe.eval_size)
        (params, frozen), (stats, statistics) = divided(params, paths), divided(stats, paths)
        self.frozen = {"params": frozen, "stats": statistics}
        outputs = functools.partial(compute, whole)
        for name in ("train", "val"):
            loader, said = getattr(self, f"{name}_data"), "frozen layers' outputs"
            setattr(self, f"{name}_data", self._outputs(FrozenOutputs, loader, name, outputs, said, recipe.eval_size))
        return params, stats

    def _outputs(self, kind: Any, loader: Loader, name: str, compute: Callable, said: str, size: int) -> Any:
        """What `compute` makes of the pictures of a loader, in a file of this name."""
        of = "validation" if name == "val" else "training"

        def report(done: int, total: int) -> None:
            self.report({"outputs": f"{said}, {of} pictures", "step": done, "steps": total})

        return kind(
            loader, compute, self.out / "features" / f"{name}.npy", size=size,
            batch_size=min(16, self.recipe.batch_size), said=said, report=report,
        )  # fmt: skip

    def _merged(self, params: dict, stats: dict) -> Any:
        """The network with these weights, and the frozen ones."""
        if self.after is not None:
            params, stats = joined(self.frozen["params"], params), joined(self.frozen["stats"], stats)
        return nnx.merge(self.graphdef, params, stats)

    def _trained(self, model: Any) -> Callable[..., jax.Array]:
        """The layers that are trained, as a function."""
        return model if self.after is None else functools.partial(model.run, after=self.after)

    def _input(self, served: jax.Array) -> jax.Array:
        """What the trained layers take: normalised pictures, or what the frozen ones gave of them."""
        return self.preprocessing.normalize(served) if self.after is None else served.astype(jnp.float32)

    def _claim_folder(self, train: LabelledImages) -> None:
        settings = {
            "network": {"family": type(self.config).__name__, **vars(self.config)},
            "recipe": dataclasses.asdict(self.recipe),
            "data": {"pictures": len(train), "classes": list(train.classes)},
        }
        for role, network in (("init", self.init), ("teacher", self.teacher)):
            if network is not None:
                settings[role] = {"name": network.name, "sha256": network.digest()}
        text = json.dumps(settings, indent=2)
        file = self.out / "settings.json"
        check_writable(self.out)
        if file.exists() and _read_json(file) != json.loads(text):
            raise JaxcamError(f"{self.out}: holds a run with other settings; name another folder or delete it")
        with whole_file(file) as f:
            f.write(text.encode())

    def _loss_of_labels(self, logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
        return multi_label_loss(logits, labels) if self.multi_label else single_label_loss(logits, labels, smoothing)

    def _loss(self, logits: jax.Array, labels: jax.Array, teacher: jax.Array | None) -> jax.Array:
        loss = self._loss_of_labels(logits, labels, self.recipe.label_smoothing)
        if teacher is None:
            return loss
        taught = distillation_loss(logits, teacher, self.recipe.temperature, multi_label=self.multi_label)
        return (1 - self.recipe.teacher_weight) * loss + self.recipe.teacher_weight * taught

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _step(self, state: dict, images: jax.Array, targets: jax.Array | Targets) -> dict:
        x = self._input(images)
        labels, teacher = targets if isinstance(targets, Targets) else Targets(targets)
        key = jax.random.fold_in(jax.random.key(self.recipe.seed), state["step"])

        def loss_fn(params):
            model = self._merged(params, state["stats"])
            logits = self._trained(model)(x, train=True, key=key)
            stats = _taken(state["stats"], nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
            return self._loss(logits, labels, teacher), (stats, logits)

        (loss, (stats, logits)), grads = for_cpu(jax.value_and_grad(loss_fn, has_aux=True))(state["params"])
        updates, optimizer = self.optimizer.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        step = state["step"] + 1
        decay = jnp.minimum(self.recipe.ema, (1.0 + step) / (10.0 + step))
        average = optax.incremental_update({"params": params, "stats": stats}, state["average"], 1.0 - decay)
        correct = (
            ((logits > 0) == (labels > 0)).mean(-1).sum() if self.multi_label else (logits.argmax(-1) == labels).sum()
        )
        sums = state["sums"] + jnp.stack([loss * len(x), correct.astype(jnp.float32)])
        return {
            "params": params, "stats": stats, "optimizer": optimizer, "average": average, "step": step, "sums": sums,
        }  # fmt: skip

    @functools.partial(jax.jit, static_argnums=0)
    def _logits(self, average: dict, images: jax.Array) -> jax.Array:
        def logits(average, images):
            model = self._merged(average["params"], average["stats"])
            return self._trained(model)(self._input(images))

        return for_cpu(logits)(average, images)

    def evaluate(self, size: int | None = None) -> dict[str, float]:
        """Loss and accuracy (or mean average precision) of the averaged weights on the validation data."""
        logits, labels = [], []
        for images, targets in self.val_data.plain(size or self.recipe.eval_size, self.recipe.batch_size):
            short = self.recipe.batch_size - len(images)
            padded = np.pad(images, ((0, short), *((0, 0),) * (images.ndim - 1)))
            logits.append(np.asarray(self._logits(self.state["average"], padded))[: len(images)])
            labels.append(targets)
        all_logits, all_labels = np.concatenate(logits), np.concatenate(labels)
        loss = self._loss_of_labels(jnp.asarray(all_logits), jnp.asarray(all_labels), 0.0)
        return {"val_loss": float(loss), "val_accuracy": accuracy(all_logits, all_labels)}

    def run(self, *, eval_every: int = 1) -> list[dict]:
        """Trains to the end and returns one row of figures per epoch (also in `metrics.json`)."""
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        with ocp.CheckpointManager((self.out / "checkpoints").absolute(), options=options) as checkpoints:
            latest = checkpoints.latest_step()
            if latest is not None:
                abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, self.state)
                self.state = checkpoints.restore(latest, args=ocp.args.StandardRestore(abstract))
            sizes = self.recipe.sizes
            step = int(self.state["step"])
            file = self.out / "metrics.json"
            rows = _read_json(file)[: step // self.steps_per_epoch] if file.exists() else []
            for epoch in range(len(rows), len(sizes)):
                rows.append(self._epoch(epoch, checkpoints, (epoch + 1) % eval_every == 0 or epoch + 1 == len(sizes)))
                with whole_file(file) as f:
                    f.write(json.dumps(rows, indent=1).encode())
                self.state["sums"] = jnp.zeros(2, jnp.float32)
                self._save(checkpoints)
            checkpoints.wait_until_finished()
        return rows

    def _epoch(self, epoch: int, checkpoints: ocp.CheckpointManager, evaluate: bool) -> dict:
        size, start = self.recipe.sizes[epoch], time.monotonic()
        done = int(self.state["step"]) - epoch * self.steps_per_epoch
        for images, targets in self.train_data.training(epoch, size, self.recipe.batch_size, skip=done):
            self.state = self._step(self.state, images, targets)
            done += 1
            if done % 10 == 0 or done == self.steps_per_epoch:
                loss, correct = np.asarray(self.state["sums"]) / (done * self.recipe.batch_size)
                if not np.isfinite(loss):
                    raise JaxcamError(f"epoch {epoch + 1}: the loss is {loss}; start again with a lower learning rate")
                self.report({
                    "epoch": epoch, "step": done, "steps": self.steps_per_epoch, "size": size,
                    "loss": float(loss), "accuracy": float(correct), "seconds": time.monotonic() - start,
                })  # fmt: skip
            if done % self.checkpoint_every == 0 and done < self.steps_per_epoch:
                self._save(checkpoints)
        loss, correct = np.asarray(self.state["sums"]) / (self.steps_per_epoch * self.recipe.batch_size)
        row = {
            "epoch": epoch, "size": size, "learning_rate": float(self.schedule(self.state["step"] - 1)),
            "loss": float(loss), "accuracy": float(correct), "seconds": round(time.monotonic() - start, 1),
        }  # fmt: skip
        if evaluate:
            row |= self.evaluate()
        self.report(row | {"step": self.steps_per_epoch, "steps": self.steps_per_epoch})
        return row

    def _save(self, checkpoints: ocp.CheckpointManager) -> None:
        # A copy: the next step donates these buffers while the checkpoint is still being written.
        copy = jax.tree.map(np.array, self.state)
        checkpoints.save(int(self.state["step"]), args=ocp.args.StandardSave(copy), force=True)

    def averaged_params(self) -> dict:
        """The averaged weights and statistics as one nested dict of NumPy arrays."""
        model = self._merged(self.state["average"]["params"], self.state["average"]["stats"])
        return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.split(model)[1]))


def _lesson(teacher: Network, data: LabelledImages) -> Callable[[np.ndarray], jax.Array]:
    """A teacher's logits `(b, C)` of the classes of some data, of `(b, size, size, 3)` uint8 pixels."""
    if teacher.multi_label != data.multi_label:
        kinds = ("one class of each picture", "several")
        knows, named = kinds[teacher.multi_label], kinds[data.multi_label]
        raise JaxcamError(f"{teacher.name} names {knows}, the labels {named}: it cannot teach them")
    columns = np.array([teacher.class_index(name) for name in data.classes])
    params = jax.tree.map(jnp.asarray, teacher.params)

    def logits(params, pixels):
        return teacher.predict(params, teacher.preprocessing.normalize(pixels))[:, columns]

    return functools.partial(jax.jit(for_cpu(logits)), params)


def _stages_until(config: Config, layer: str) -> tuple[str, ...]:
    return config.layers[: config.layers.index(layer) + 1]


def _taken(tree: dict, source: dict) -> dict:
    """`tree` with the leaves that `source` has in their places."""
    there = {k: v for k, v in tree.items() if k in source}
    taken = {k: _taken(v, source[k]) if isinstance(v, dict) else jnp.array(source[k]) for k, v in there.items()}
    return tree | taken


def _read_json(file: pathlib.Path):
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise JaxcamError(f"{file}: cannot be read ({e}); name another folder or delete this one") from None
