"""The networks and layers of the battery, and what every method makes of them in one compiled program each.

A row is a network at a layer; its columns are the methods, `METHODS`. A method that cannot explain a row refuses
with an error; which ones do is part of the table.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import guests
import jax
import jax.numpy as jnp
import numpy as np
import squeezenet
from networks import needs_attention

from jaxcam import cutting
from jaxcam.errors import JaxcamError
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import CAM, Inputs
from jaxcam.transforms.deeplift import deeplift
from jaxcam.transforms.walker import UnsupportedPrimitive
from jaxcam.zoo import load as zoo

TARGET = 1
#: Score-CAM asks for so many channels here; they are the ones checked.
SCORED = 3
#: Coalitions of LIME-CAM here; fewer than there are channels on most rows.
LIMED = 12
#: Its penalty, as a share of the logit.
BETA = 1e-3


@dataclasses.dataclass(frozen=True)
class Row:
    """A network at a layer.

    Attributes:
      network: "vgg16_slim", "resnet50_slim", "squeezenet" or the name of a guest.
      layer: where it is cut.
      attention: whether it has attentions over the layer's positions.
      weights: of a row that is a global average pool and a linear layer: `params -> (K, C)`.
      plain: whether methods are run here that do not depend on what the head is made of.
      whole: whether those of `WHOLE` are run here as well.
      alike: whether those of `ALIKE` are.
      refuses: method and what its error says; CAM refuses every row without `weights`.
    """

    network: str
    layer: str
    weights: Callable[[Any], jax.Array] | None = None
    plain: bool = False
    whole: bool = False
    alike: bool = False
    attention: bool = False
    refuses: tuple[tuple[str, str], ...] = ()

    def __str__(self):
        return f"{self.network}-{self.layer}"

    def has(self, method: str) -> bool:
        """Whether a method is run here."""
        if needs_attention(METHODS[method]):
            return self.attention
        also = (self.whole or method not in WHOLE) and (self.alike or method not in ALIKE)
        return takes_apart(method, self.weights is not None) or (self.plain and also)


def takes_apart(method: str, linear: bool) -> bool:
    """Whether each kind of operation in a head may be a method's undoing: it goes by rules, or takes channels away.

    The latter is of a class, by channel, and asks for neither a derivative nor the image. Where the sum over channels
    is complete by construction, it shows nothing of the coalitions unless the head is linear; others show them all.
    The rest ask for values and derivatives of a function, to which matters whether it is linear, activations are signed
    and a channel has none; FullGrad does take it apart, and test_full_gradient.py is about every kind of operation.
    """
    info = METHODS[method]
    coalitions = info.by_class and info.by_channel and not {"gradient", "head", "image"} & set(info.needs)
    return "rules" in info.needs or (coalitions and (linear or not info.complete))


#: What runs the whole network, once more each, beside Score-CAM: on few rows, as programs grow with every copy of one.
WHOLE = ("ss_cam", "is_cam", "group_cam", "opti_cam")
#: What asks the head for no more than others do that are run on every row, its values and its gradient at other points,
#: or treats its ReLUs in a way that test_backprop.py tests on many: on a linear head, and on another.
ALIKE = (
    "occlusion", "rise_cam", "sobol_cam", "hsic_cam", "gradient_shap", "integrated_gradients", "smooth_grad",
    "smooth_grad_cam_pp", "guided_backprop", "deconvolution",
)  # fmt: skip

#: Plain are one of each: dead channels before dense layers, signed activations within residuals, tokens before a linear
#: layer, a smooth head.
ROWS = (
    Row("vgg16_slim", "conv5_3", plain=True),
    Row("resnet50_slim", "layer4", weights=lambda p: p["fc"]["kernel"]),
    Row("resnet50_slim", "layer3"),
    Row("linen_residual", "block1.Conv_1", plain=True, whole=True),
    Row("equinox_cnn", "convs.1"),
    Row("squeezenet", "fire9"),
    Row("vit_class_token", "block0", attention=True),
    Row("vit_mean", "norm", weights=lambda p: p["params"]["Dense_0"]["kernel"], plain=True, alike=True, attention=True),
    Row("convnext", "block0"),
    Row(
        "log_sum_exp",
        "map",
        plain=True,
        whole=True,
        alike=True,
        refuses=tuple(
            (m, "rule for 'exp'") for m in ("lrp_cam", "hires_lrp_cam", "lrp_multiplier_cam", "relevance_cam")
        ),
    ),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A row, ready to be explained: `with_head_params(params, image)` are activations and what the head takes first."""

    params: Any
    image: jax.Array
    with_head_params: Callable
    head: Callable
    predict: Callable


def log_sum_exp(params: dict, x: jax.Array) -> jax.Array:
    """A smooth maximum over the positions: relevance has no way through an exponential that is no softmax."""
    a = cutting.tag(jax.nn.relu(x @ params["w1"] + params["b1"]), "map")
    return jnp.log(jnp.mean(jnp.exp(a), axis=(0, 1))) @ params["w2"]


def subject(row: Row, data: pathlib.Path | None) -> Subject | None:
    """The network of a row on a small image; None where it is not to be had."""
    if row.network in ("vgg16_slim", "resnet50_slim"):
        network = zoo.load(row.network)
        features, head = network.split(at=row.layer)
        size = 64 if row.layer in ("conv5_3", "layer4") else 32
        image = jax.image.resize(guests.image(3), (size, size, 3), "linear")
        return Subject(network.params, image, lambda p, x: (features(p, x), p), head, network.predict)
    if row.network == "squeezenet":
        path = None if data is None else data / "squeezenet_v1.0_decoded.npz"
        if path is None or not path.is_file():
            return None
        model, params, options = squeezenet.squeezenet, squeezenet.load(path), {}
        image = squeezenet.preprocess(np.random.default_rng(0).uniform(0, 255, (5, 5, 3)).repeat(13, 0).repeat(13, 1))
    elif row.network == "log_sum_exp":
        shapes = {"w1": (3, 6), "b1": (6,), "w2": (6, guests.CLASSES)}
        params = guests.draw({k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()})
        params["b1"] = params["b1"].at[0].set(-99)  # a channel without activation, for what promises it nothing
        model, options, image = log_sum_exp, {}, guests.image()[::2, ::2]
    elif row.network in guests.GUESTS:
        guest = guests.GUESTS[row.network]()
        model, params, options, image = guest.model, guest.params, guest.options, guests.image()
    else:
        return None
    cut = cutting.cut(model, params, at=row.layer, example=image, **options)
    return Subject(params, image, cut.features.with_head_params, cut.head, cut.predict)


#: Options under which a method is cheap, and can be checked: `(K, logit) -> options`. Others have their defaults.
OPTIONS: dict[str, Callable[[int, jax.Array], dict]] = {
    "shap_cam": lambda channels, logit: {"num_permutations": 2, "estimator": "antithetic"},
    "kernel_shap_cam": lambda channels, logit: {"num_samples": 2 * (channels - 1)},  # as few as determine all channels
    "lime_cam": lambda channels, logit: {"num_samples": LIMED, "beta": BETA * jnp.abs(logit)},
    "smooth_grad_cam_pp": lambda channels, logit: {"num_samples": 2, "sigma": 0.0},
    "score_cam": lambda channels, logit: {"score": "logit", "top": SCORED, "chunk_size": SCORED},
    "ss_cam": lambda channels, logit: {"score": "logit", "top": SCORED, "num_samples": 1, "sigma": 0.0},
    "is_cam": lambda channels, logit: {"score": "logit", "top": SCORED, "num_samples": 1},
    "group_cam": lambda channels, logit: {"score": "logit", "groups": 1, "keep": 1.0},
    "opti_cam": lambda channels, logit: {"steps": 1},
    "rise_cam": lambda channels, logit: {"num_samples": 3},
    "integrated_gradients": lambda channels, logit: {"steps": 1},
    "fem_cam": lambda channels, logit: {"sigmas": 1.0},  # of four positions none is two deviations above the mean
    "gradient_shap": lambda channels, logit: {"num_samples": 1},
    "occlusion": lambda channels, logit: {"window": 2, "stride": 2},
    "sobol_cam": lambda channels, logit: {"num_designs": 2, "cells": 2},
    "hsic_cam": lambda channels, logit: {"num_samples": 4, "cells": 2},
    "smooth_grad": lambda channels, logit: {"num_samples": 1, "sigma": 0.0},
}


def references(a: jax.Array) -> jax.Array:
    """Two references `(2, h, w, K)`."""
    return jnp.stack([jnp.zeros_like(a), 0.5 * jnp.flip(a, (0, 1))])


def run(name: str, inputs: Inputs, logit: jax.Array) -> CAM:
    """A method of `METHODS` on a row."""
    make = OPTIONS.get(name)
    return METHODS[name].call(inputs, **(make(inputs.activations.shape[-1], logit) if make else {}))


@dataclasses.dataclass(frozen=True)
class Explained:
    """A row, explained.

    Attributes:
      cams: method to its CAM, as NumPy arrays.
      refused: method to its error.
      activations: `(h, w, K)` of the row.
      gradient: dF/dA.
      multipliers: `(h, w, K)`, DeepLIFT's, with the reference 0; zeros where the head has an operation without a rule.
      logit, logit_zero, logit_whole: F(A), F(0), and what the uncut network says.
      logit_references: `(2,)`, F of `references`.
      logit_without: F without each channel of `ablated(K)`.
      logit_limed: `(LIMED,)`, F of the coalitions of LIME-CAM.
      logit_masked: `(SCORED,)` of the image behind the masks of the channels of largest range; none if not plain.
      weights: `(K, C)` or None.
    """

    cams: dict[str, Any]
    refused: dict[str, Exception]
    activations: np.ndarray
    gradient: np.ndarray
    multipliers: np.ndarray
    logit: float
    logit_zero: float
    logit_whole: float
    logit_references: np.ndarray
    logit_without: np.ndarray
    logit_limed: np.ndarray
    logit_masked: np.ndarray
    weights: np.ndarray | None


def ablated(channels: int) -> list[int]:
    """The channels whose drop is checked."""
    return [0, channels // 2, channels - 1]


def limed(channels: int) -> jax.Array:
    """The coalitions that LIME-CAM draws, `(LIMED, K)`."""
    return jax.random.bernoulli(jax.random.key(0), 0.5, (LIMED, channels)).astype(jnp.float32)


def explain(row: Row, s: Subject) -> Explained:
    """Runs every method on a row, and what they are checked against, in one program."""
    refused: dict[str, Exception] = {}

    def everything(params, image):
        a, head_params = s.with_head_params(params, image)

        def f(a):
            return s.head(head_params, a)[TARGET]

        given = Inputs(head_params, a, s.head, TARGET, jax.random.key(0), references(a), image, s.predict, params)
        logit, gradient = jax.value_and_grad(f)(a)
        cams = {}
        for name in METHODS:
            if not row.has(name):
                continue
            try:
                cams[name] = run(name, given, logit)
            except (JaxcamError, UnsupportedPrimitive) as error:
                refused[name] = error
        without = jnp.stack([a.at[..., k].set(0.0) for k in ablated(a.shape[-1])])
        coalitions = a * limed(a.shape[-1])[:, None, None]
        others = jnp.concatenate([a[None], jnp.zeros_like(a)[None], references(a), without, coalitions])
        logits = jax.vmap(f)(others)
        images = image[None]
        if row.plain:
            images = jnp.concatenate([images, jax.vmap(functools.partial(_mask, image, a))(_widest(a))])
        whole = jax.vmap(lambda x: s.predict(params, x)[TARGET])(images)
        weights = None if row.weights is None else row.weights(params)
        m = jnp.zeros_like(a) if "multiplier_cam" in refused else jax.grad(deeplift(f))(a, jnp.zeros_like(a))
        return cams, a, gradient, m, logits, whole, weights

    cams, a, g, m, logits, whole, weights = jax.tree.map(np.asarray, jax.jit(everything)(s.params, s.image))
    g, m = g.astype(np.float64), m.astype(np.float64)
    return Explained(
        cams, refused, a.astype(np.float64), g, m, logits[0], logits[1], whole[0], logits[2:4], logits[4:-LIMED],
        logits[-LIMED:], whole[1:], weights,
    )  # fmt: skip


def _widest(a: jax.Array) -> jax.Array:
    return jax.lax.top_k(jnp.max(a, (0, 1)) - jnp.min(a, (0, 1)), SCORED)[1]


def _mask(image: jax.Array, a: jax.Array, k: jax.Array) -> jax.Array:
    """The image behind a channel."""
    mask = jax.image.resize(a[..., k], image.shape[:2], "bilinear", antialias=False)
    return image * ((mask - mask.min()) / (mask.max() - mask.min()))[..., None]
