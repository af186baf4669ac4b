"""Small networks as users bring them: Linen, NNX, Equinox, bare functions; with residuals, dense connections, tokens.

`GUESTS` maps a name to a function that makes a `Guest`; parameters are drawn with NumPy from a seed (biases and
normalisation statistics far from trivial). All take images `(16, 16, 3)` and give `CLASSES` logits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from guests_modern import ConvNeXt, ViT

import jaxcam.cutting as cutting

IMAGE = (16, 16, 3)
CLASSES = 5


class Guest(NamedTuple):
    """A network that is not ours.

    Attributes:
      model, params: what `cut` takes.
      layers: places to cut at, and the shapes of their activations.
      options: the other arguments of `cut`, for every layer.
      logits: `(params, image) -> (C,)`: the network as its author calls it.
      bypassed: which of the layers have values that go around them.
    """

    model: Any
    params: Any
    layers: dict[str, tuple[int, int, int]]
    options: dict[str, Any]
    logits: Callable[[Any, jax.Array], jax.Array]
    bypassed: tuple[str, ...] = ()


GUESTS: dict[str, Callable[[], Guest]] = {}


def guest(make: Callable[[], Guest]) -> Callable[[], Guest]:
    """Registers a function that makes a network under its own name."""
    GUESTS[make.__name__] = make
    return make


def image(seed: int = 0) -> jax.Array:
    """A smooth random image, `IMAGE`."""
    rng = np.random.default_rng(seed)
    coarse = jnp.asarray(rng.normal(size=(4, 4, 3)), jnp.float32)
    return jax.image.resize(coarse, IMAGE, "linear")


def draw(shapes: Any, seed: int = 0) -> Any:
    """Values for a pytree of shapes: kernels by fan-in, scales and variances around 1, other things not zero."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        name = jax.tree_util.keystr(path)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        if leaf.ndim >= 2:
            fan_in = np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.normal(size=leaf.shape) * np.sqrt(1.5 / fan_in), leaf.dtype)
        if "scale" in name or "var" in name:
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


class ResidualBlock(nn.Module):
    """Two convolutions and what goes around them."""

    width: int

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.BatchNorm(use_running_average=not train)(nn.Conv(self.width, (3, 3), use_bias=False)(x))
        y = nn.Conv(self.width, (3, 3))(nn.relu(y))
        return nn.relu(y + nn.Conv(self.width, (1, 1))(x))


class LinenNet(nn.Module):
    """A residual network with batch norm, dropout and a rematerialised block."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, name="stem")(x))
        x = ResidualBlock(8, name="block1")(x, train)
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.remat(ResidualBlock, static_argnums=(2,))(8, name="block2")(x, train)
        x = nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not train)(x))


def _linen(module: nn.Module, **kwargs) -> tuple[Any, Callable]:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *IMAGE)), **kwargs))
    return draw(shapes), lambda variables, x: module.apply(variables, x[None], **kwargs)[0]


@guest
def linen_residual() -> Guest:
    module = LinenNet()
    params, logits = _linen(module, train=False)
    layers = {"stem": (8, 8, 8), "block1.Conv_1": (8, 8, 8), "block1": (8, 8, 8), "block2.Conv_0": (4, 4, 8)}
    layers["block2"] = (4, 4, 8)
    around = ("block1.Conv_1", "block2.Conv_0")
    return Guest(module, params, layers, {"call": {"train": False}}, logits, around)


class NNXBlock(nnx.Module):
    """A convolution with batch norm and dropout."""

    def __init__(self, width_in, width, rngs):
        self.conv = nnx.Conv(width_in, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return self.dropout(jax.nn.relu(self.norm(self.conv(x))))


class NNXNet(nnx.Module):
    """A list of blocks, pooled in between, and two dense layers."""

    def __init__(self, rngs):
        self.blocks = nnx.List([NNXBlock(3, 6, rngs), NNXBlock(6, 8, rngs), NNXBlock(8, 8, rngs)])
        self.hidden = nnx.Linear(4 * 4 * 8, 12, rngs=rngs)
        self.out = nnx.Linear(12, CLASSES, rngs=rngs)

    def __call__(self, x):
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < 2:
                x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.out(jax.nn.relu(self.hidden(x.reshape(x.shape[0], -1))))


@guest
def nnx_blocks() -> Guest:
    model = NNXNet(nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
    params = draw(nnx.to_pure_dict(params))
    nnx.update(model, params)  # as its author has it: in training mode, with its dropout keys
    graphdef, _ = nnx.split(model)

    def logits(params, x):
        copy = nnx.merge(graphdef, {**params, **_keys(model, params)})
        copy.eval()
        return copy(x[None])[0]

    layers = {"blocks.0.conv": (16, 16, 6), "blocks.1": (8, 8, 8), "blocks.2.norm": (4, 4, 8), "blocks.2": (4, 4, 8)}
    return Guest(model, params, layers, {}, logits)


def _keys(model: nnx.Module, params: dict) -> dict:
    """The whole state of the model (dropout keys included), with `params` in it."""

    def overlay(own, given):
        return {k: overlay(v, given.get(k, {})) if isinstance(v, dict) else given.get(k, v) for k, v in own.items()}

    return overlay(nnx.to_pure_dict(nnx.state(model)), params)


def tagged(params: dict, x: jax.Array) -> jax.Array:
    """A bare function of a single image, with two places marked; the second lies in a jitted function."""
    x = jax.nn.silu(_conv(x, params["w1"]) + params["b1"])
    x = cutting.tag(x, "first")

    @jax.jit
    def rest(x):
        x = cutting.tag(jax.nn.relu(_conv(x, params["w2"]) + params["b2"]), "second")
        return jnp.tanh(x).mean((0, 1)) @ params["w3"]

    return rest(x)


def _conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


@guest
def function_tagged() -> Guest:
    shapes = {"w1": (3, 3, 3, 6), "b1": (6,), "w2": (3, 3, 6, 8), "b2": (8,), "w3": (8, CLASSES)}
    params = draw({k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()})
    return Guest(tagged, params, {"first": (8, 8, 6), "second": (4, 4, 8)}, {}, tagged)


class DenseNet(nn.Module):
    """Every layer sees all before it, and the classifier as well."""

    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(x, (2, 2), (2, 2))
        for i in range(3):
            x = jnp.concatenate([x, nn.relu(nn.Conv(4, (3, 3), name=f"conv{i}")(x))], axis=-1)
        x = x * nn.sigmoid(nn.Dense(x.shape[-1], name="gate")(x.mean((1, 2), keepdims=True)))
        return nn.Dense(CLASSES, name="out")(nn.relu(x).mean((1, 2)))


@guest
def linen_dense() -> Guest:
    module = DenseNet()
    params, logits = _linen(module)
    layers = {f"conv{i}": (8, 8, 4) for i in range(3)}
    return Guest(module, params, layers, {}, logits, tuple(layers))


@guest
def vit_class_token() -> Guest:
    module = ViT(CLASSES)
    params, logits = _linen(module)
    layers = {"block0": (4, 4, 8), "block1.LayerNorm_0": (4, 4, 8)}
    return Guest(module, params, layers, {"layout": cutting.tokens(prefix=1)}, logits, tuple(layers))


@guest
def vit_mean() -> Guest:
    module = ViT(CLASSES, class_token=False)
    params, logits = _linen(module)
    layers = {"block0": (4, 4, 8), "block1": (4, 4, 8), "block1.attention": (4, 4, 8), "norm": (4, 4, 8)}
    return Guest(module, params, layers, {"layout": cutting.tokens(prefix=0)}, logits, ("block1.attention",))


@guest
def convnext() -> Guest:
    module = ConvNeXt(CLASSES)
    params, logits = _linen(module)
    layers = {"stem": (8, 8, 8), "block0": (8, 8, 8), "block1.depthwise": (8, 8, 8), "block1": (8, 8, 8)}
    return Guest(module, params, layers, {}, logits, ("block1.depthwise",))


if importlib.util.find_spec("equinox"):
    import equinox as eqx

    class EquinoxNet(eqx.Module):
        """A stem, a list of convolutions, dropout and a perceptron; channels first, one example."""

        stem: eqx.nn.Conv2d
        convs: list
        pool: eqx.nn.MaxPool2d
        dropout: eqx.nn.Dropout
        classifier: eqx.nn.Sequential

        def __init__(self, key):
            keys = jax.random.split(key, 5)
            self.stem = eqx.nn.Conv2d(3, 6, 3, stride=2, padding=1, key=keys[0])
            self.convs = [eqx.nn.Conv2d(6, 6, 3, padding=1, key=k) for k in keys[1:3]]
            self.pool = eqx.nn.MaxPool2d(2, 2)
            self.dropout = eqx.nn.Dropout(0.4)
            lambdas = [eqx.nn.Linear(96, 12, key=keys[3]), eqx.nn.Lambda(jax.nn.relu)]
            self.classifier = eqx.nn.Sequential([*lambdas, eqx.nn.Linear(12, CLASSES, key=keys[4])])

        def __call__(self, x, *, key=None):
            x = jax.nn.relu(self.stem(x))
            for conv in self.convs:
                x = x + jax.nn.relu(conv(x))
            return self.classifier(self.dropout(self.pool(x), key=key).reshape(-1))

    @guest
    def equinox_cnn() -> Guest:
        model = EquinoxNet(jax.random.key(0))
        params = eqx.filter(model, eqx.is_array)

        def logits(params, x):
            return eqx.nn.inference_mode(eqx.combine(params, model))(jnp.transpose(x, (2, 0, 1)))

        layers = {"stem": (8, 8, 6), "convs.1": (8, 8, 6), "pool": (4, 4, 6)}
        return Guest(model, params, layers, {}, logits, ("convs.1",))
