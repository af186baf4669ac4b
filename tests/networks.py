"""Small networks, pictures and data sets; weights are drawn with NumPy, since Flax compiles every initializer."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jaxcam.data.preprocessing import Preprocessing
from jaxcam.methods.registry import METHODS, Method
from jaxcam.models.config import Config
from jaxcam.models.graph import graph
from jaxcam.models.network import Network
from jaxcam.models.resnet import ResNetConfig
from jaxcam.models.trees import flatten, unflatten
from jaxcam.models.vgg import VGGConfig

CLASSES = ("golf ball", "parachute", "tench", "church")
VGG = VGGConfig(11, num_classes=4, width=0.03, hidden=8, pool_size=1)
RESNET = ResNetConfig(18, num_classes=4, width=0.03, batch_norm=False)
#: Beside "all", for what would run a network hundreds of times.
CHEAP = ("ss_cam:num_samples=1", "is_cam:num_samples=1", "opti_cam:steps=1", "rise_cam:num_samples=12",
         "integrated_gradients:steps=2", "smooth_grad:num_samples=2", "gradient_shap:num_samples=1",
         "sobol_cam:num_designs=2,cells=2", "hsic_cam:num_samples=12")  # fmt: skip


def needs_attention(method: Method) -> bool:
    """Whether a method is for networks that one tells by their program."""
    return method.heads is not None and method.heads.diagnostic is None


def of_each_kind(methods=METHODS) -> list[str]:
    """The first method of each kind: those that what runs methods cannot tell apart, since it reads declarations.

    Of those that any network has; what needs attentions is run in test_rollout.py, also by `explain`.
    """
    kinds: dict[str, str] = {}
    for name in methods:
        m = METHODS[name]
        if needs_attention(m):
            continue
        kind = sorted(m.needs), m.map_from, m.steps is None, m.heads is None
        kinds.setdefault(str(kind), name)
    return list(kinds.values())


def network(config, *, seed: int = 0, size: int = 64, **fields) -> Network:
    """A network with random weights, biases and batch-norm statistics."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        kind = path.rsplit(".", 1)[-1]
        if kind == "kernel":
            return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        if kind in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape)
        return 0.2 * rng.normal(size=shape)

    params = {k: jnp.asarray(draw(k, v.shape), jnp.float32) for k, v in flatten(graph(config)[2]).items()}
    fields = {
        "name": "tiny", "classes": CLASSES[: config.num_classes],
        "preprocessing": Preprocessing(size=size, resize="squash", resize_to=size),
    } | fields  # fmt: skip
    return Network(config=config, params=unflatten(params), **fields)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, `(height, width, 3)` uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (4, 4, 3))
    rows, columns = (np.linspace(0, 3, n).round().astype(int) for n in (height, width))
    noise = rng.uniform(-20, 20, (height, width, 3))
    return np.clip(coarse[rows][:, columns] + noise, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class TinyConfig(Config):
    """A network with everything that the trainer handles (batch norm, dropout) and little to compile."""

    num_classes: int = 3

    def build(self, *, rngs: nnx.Rngs):
        return Tiny(self.num_classes, rngs=rngs)


class Tiny(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.conv = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, momentum=0.9, rngs=rngs)
        self.fc = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, x, *, train=False, key=None):
        x = jax.nn.relu(self.norm(self.conv(x), use_running_average=not train)).mean((1, 2))
        if train:
            x = jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0.0)
        return self.fc(x)


def colour_folder(root: pathlib.Path) -> pathlib.Path:
    """Three classes of 12 noisy pictures, 24 px: reddish, greenish, bluish."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(("n1", "n2", "n3")):
        (root / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 120, (24, 24, 3))
            pixels[..., c] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


#: Of each picture: what it holds, and whether that is marked difficult.
OBJECTS = {
    "01": [("cat", 0)],
    "02": [("cat", 1)],
    "03": [("cat", 1), ("cat", 0), ("dog", 1)],
    "04": [],
    "05": [("dog", 0), ("cat", 0)],
}


def voc_folder(folder: pathlib.Path) -> pathlib.Path:
    """A PASCAL VOC devkit with the classes cat and dog and one list, `test`."""
    root = folder / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for i, (name, objects) in enumerate(OBJECTS.items()):
        Image.fromarray(np.full((32, 40, 3), 40 * i, np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        inside = "".join(f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in objects)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{inside}</annotation>")
    for c in ("cat", "dog"):
        lines = [f"{n} {1 if any(o == c for o, _ in objects) else -1}" for n, objects in OBJECTS.items()]
        (root / "ImageSets" / "Main" / f"{c}_test.txt").write_text("\n".join(lines) + "\n")
    return root
