"""Learning from another network: the loss, the views that both see, the classes it is asked about, and the command."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import VGG, TinyConfig, colour_folder, network
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.data.datasets import LabelledImages, train_and_validation
from jaxcam.data.loader import Loader
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.models.classifier import Classifier
from jaxcam.training.losses import distillation_loss
from jaxcam.training.recipe import Recipe
from jaxcam.training.train import Trainer
from jaxcam.zoo.store import save_network

RECIPE = Recipe(
    schedule=((24, 4),), eval_size=24, batch_size=9, learning_rate=0.05, warmup=0.5, ema=0.8, views=3, seed=1,
    temperature=2.0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Colours(Classifier):
    """Knows the classes of the folder by their colour, in another order and spelling, and one class more."""

    name: str = "colours"
    params: Any = dataclasses.field(default_factory=lambda: {"w": jnp.asarray(20 * np.eye(3)[[1, 2, 0]].T)})
    classes: tuple[str, ...] = ("N2", "n3", "n1", "grey")
    preprocessing: Any = Preprocessing(size=36, resize="squash", resize_to=36)
    multi_label: bool = False
    provenance: dict = dataclasses.field(default_factory=dict)

    @property
    def whole(self):
        return lambda params, x: jnp.pad(x.mean((-3, -2)) @ params["w"], ((0, 0), (0, 1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def parts(folder):
    return train_and_validation(folder, holdout=0.25)


def mislabelled(data):
    """The same pictures under labels that mean nothing."""
    return dataclasses.replace(data, labels=np.random.default_rng(5).permutation(data.labels))


@pytest.fixture(scope="module")
def taught(parts, tmp_path_factory):
    train, val = parts
    trainer = Trainer(
        TinyConfig(), RECIPE, mislabelled(train), val, tmp_path_factory.mktemp("run"), teacher=Colours()
    )  # fmt: skip
    return trainer, trainer.run()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss(temperature, multi_label):
    """From Hinton, Vinyals & Dean, in float64: the soft targets' cross entropy, times the temperature's square."""
    rng = np.random.default_rng(0)
    z, v = rng.normal(size=(2, 5, 4)) * 4

    def said(logits):
        if multi_label:
            p = 1 / (1 + np.exp(-logits / temperature))
            return np.stack([p, 1 - p], -1)
        p = np.exp(logits / temperature)
        return p / p.sum(-1, keepdims=True)

    entropies = -(said(v) * np.log(said(z))).sum(-1)
    found = distillation_loss(jnp.asarray(z, jnp.float32), jnp.asarray(v), temperature, multi_label=multi_label)
    np.testing.assert_allclose(found, temperature**2 * entropies.mean(), rtol=1e-6)


def test_a_view_shows_the_same_at_any_size(tmp_path):
    y, x = np.mgrid[:60, :60]
    for i in range(6):  # smooth, so that a size of its own makes no other colours
        pixels = 40 + 2 * np.stack([x, y, (x + y) / 2 + 8 * i], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
    data = LabelledImages(tuple(sorted(tmp_path.iterdir())), np.zeros(6, int), ("a",))
    loader = Loader(data, cache_side=60, seed=4, views=3)
    for view in range(3):
        small, large = (np.stack(list(loader.seen(range(6), view, size))).astype(float) for size in (8, 24))
        pooled = large.reshape(6, 8, 3, 8, 3, 3).mean((2, 4))
        assert np.abs(small - pooled).mean() < 1 and np.ptp(small) > 60
    drawn = [loader.drawn(epoch) for epoch in (0, 1)]
    assert all(set(d) <= {0, 1, 2} for d in drawn) and (drawn[0] != drawn[1]).any()
    assert set(Loader(data, cache_side=24).drawn(7)) == {7}


def test_the_teacher_speaks_of_what_the_network_sees(taught):
    trainer, _ = taught
    loader, teacher = trainer.train_data.served, trainer.teacher
    for epoch in (0, 2):
        views, batches = loader.drawn(epoch), loader.batches(epoch, 9)
        for (images, targets), batch in zip(trainer.train_data.training(epoch, 24, 9), batches, strict=True):
            for image, label, said, i in zip(images, targets.labels, targets.teacher, batch, strict=True):
                [seen], [larger] = (loader.seen([i], views[i], size) for size in (24, 36))
                np.testing.assert_array_equal(image, seen)
                assert label == trainer.train_data.data.labels[i]
                means = np.asarray(teacher.preprocessing.normalize(larger)).mean((0, 1))
                np.testing.assert_allclose(said, 20 * means, rtol=2e-3, atol=2e-2)  # red, green, blue are n1, n2, n3


def test_the_network_learns_what_it_is_taught(taught):
    """Of its labels nothing can be learnt, and they have no weight; the validation's are right."""
    _, rows = taught
    assert rows[-1]["val_accuracy"] > 0.9 > 0.6 > rows[-1]["accuracy"]


def test_labels_have_the_weight_that_is_left(taught, parts, tmp_path):
    trainer, _ = taught
    half = Trainer(
        TinyConfig(), dataclasses.replace(RECIPE, teacher_weight=0.25), *parts, tmp_path, teacher=Colours()
    )  # fmt: skip
    rng = np.random.default_rng(2)
    logits, teacher, labels = rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), rng.integers(3, size=9)
    alone = trainer._loss(logits, labels, teacher)
    np.testing.assert_allclose(alone, distillation_loss(logits, teacher, 2.0, multi_label=False))
    expected = 0.75 * half._loss(logits, labels, None) + 0.25 * alone
    np.testing.assert_allclose(half._loss(logits, labels, teacher), expected, rtol=1e-6)


def test_a_taught_run_is_known_again(taught, parts, tmp_path):
    """Its logits are kept: nothing is asked of the teacher twice, and another teacher is another run."""
    trainer, rows = taught
    train, val = mislabelled(parts[0]), parts[1]
    again = Trainer(TinyConfig(), RECIPE, train, val, trainer.out, teacher=Colours())
    again.train_data.teacher.compute = lambda pixels: 1 / 0
    assert again.run() == rows and again.train_data.teacher.kept.shape == (3 * 27, 3)
    other = Colours(params={"w": jnp.eye(3)})
    with pytest.raises(JaxcamError, match="holds a run with other settings"):
        Trainer(TinyConfig(), RECIPE, train, val, trainer.out, teacher=other)


def test_teachers_that_know_other_things_are_refused(parts, tmp_path):
    stranger = Colours(classes=("n1", "n2", "red", "grey"))
    with pytest.raises(JaxcamError, match="class called 'n3'"):
        Trainer(TinyConfig(), RECIPE, *parts, tmp_path, teacher=stranger)
    several = Colours(multi_label=True)
    with pytest.raises(JaxcamError, match="colours names several, the labels one class of each picture"):
        Trainer(TinyConfig(), RECIPE, *parts, tmp_path, teacher=several)
    assert not list(tmp_path.iterdir())
    for fields in ({"temperature": 0.0}, {"teacher_weight": 1.5}):
        with pytest.raises(JaxcamError, match=f"cannot be run: {next(iter(fields))}"):
            dataclasses.replace(RECIPE, **fields)


def test_the_command(folder, tmp_path, capsys):
    """Behind frozen layers, too."""
    three = network(dataclasses.replace(VGG, num_classes=3), size=32, classes=("n1", "n2", "n3"))
    save_network(tmp_path / "net", three)
    command = ["train", str(folder), "--out", str(tmp_path / "run"), "--init", str(tmp_path / "net")]
    command += ["--freeze", "pool5", "--schedule", "32x2", "--eval-size", "32", "--batch-size", "9", "--views", "2"]
    command += ["--holdout", "0.25"]
    assert main([*command, "--temperature", "3"]) == 2
    assert "--temperature is of no use without --teacher" in capsys.readouterr().err
    assert main([*command, "--teacher", str(tmp_path / "net"), "--temperature", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "teacher's logits, training pictures: 54 views kept" in printed.out
    taught = jaxcam.load(tmp_path / "run" / "network")
    assert taught.provenance["teacher"] == {"name": "tiny", "sha256": jaxcam.load(tmp_path / "net").digest()}
    # It was its own teacher: it began with no loss but the entropy of what it says, and stays near where it was.
    x = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    before, after = (np.asarray(n.predict(n.params, x)) for n in (three, taught))
    np.testing.assert_allclose(after - after.mean(), before - before.mean(), atol=0.25 * np.ptp(before))
