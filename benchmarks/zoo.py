"""Public networks of many libraries, handed over as they are: `python -m benchmarks.zoo`.

Each is made with random weights and for small inputs, wrapped, cut at its default layer and explained by LIFT-CAM and
Grad-CAM: layers are listed, maps are finite and not empty, and LIFT-CAM adds up. `results/zoo.md` says which pass,
which are refused and with what words. A library that cannot be imported is left out, with the reason. `make zoo`
installs what there is in an environment of its own and runs the same as tests.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.files import whole_file
from jaxcam.methods.signs import SIGNED_FROM

RESULTS = pathlib.Path(__file__).parent / "results" / "zoo.md"
CLASSES = 7
#: What LIFT-CAM may lack, as a share of the sum of its absolute coefficients.
GAP = 1e-3


class Made(NamedTuple):
    """What `jaxcam.wrap` takes.

    Attributes:
      model, params: the network and its weights.
      options: `call`, `layout` and so on.
    """

    model: Any
    params: Any = None
    options: dict[str, Any] = {}


class Entry(NamedTuple):
    """A public network.

    Attributes:
      package: what is to be imported for it.
      name: its own.
      make: `(the package, the side of its inputs) -> Made`.
      size: the side of its inputs.
      refused: a part of the message, where it is refused.
    """

    package: str
    name: str
    make: Callable[[Any, int], Made]
    size: int = 32
    refused: str = ""


class Found(NamedTuple):
    """What was found of a network.

    Attributes:
      layers: how many places it can be cut at that are maps.
      at, shape: the default one, and its activations.
      gap: what LIFT-CAM lacks, as a share of the sum of its absolute coefficients.
      signed: whether the layer has negative activations to be told of.
      seconds: all of it took.
    """

    layers: int
    at: str
    shape: tuple[int, ...]
    gap: float
    signed: bool
    seconds: float


def check(entry: Entry, package: Any) -> Found:
    """Everything about one network; raises where something is not as it should be."""
    start = time.perf_counter()
    made = entry.make(package, entry.size)
    rules = jaxcam.Preprocessing(size=entry.size, resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3)
    network = jaxcam.wrap(
        made.model, made.params, preprocessing=rules, classes=[str(i) for i in range(CLASSES)], **made.options
    )
    picture = np.random.default_rng(0).integers(0, 256, (entry.size, entry.size, 3), np.uint8)
    (explanation,) = jaxcam.explain(network, picture, methods=["lift_cam", "grad_cam"], targets=CLASSES)
    for method in ("lift_cam", "grad_cam"):
        maps = [r for r in explanation.results if r.method == method]
        assert all(np.isfinite(r.map).all() for r in maps), f"{method} is not finite"
        assert any(r.map.any() for r in maps), f"{method} is empty: {maps[0].empty}"
    sums = [r for r in explanation.results if r.method == "lift_cam"]
    gap = max(abs(r.completeness_gap) / max(np.abs(r.coefficients).sum(), 1e-30) for r in sums)
    assert gap <= GAP, f"LIFT-CAM lacks {gap:.1e}"
    at = network.default_layer
    return Found(
        len(network.layers),
        at,
        network.layer_shape(at),
        float(gap),
        any(r.negative > SIGNED_FROM for r in sums),
        time.perf_counter() - start,
    )


def outcome(entry: Entry) -> Found | str:
    """What was found, or why nothing was."""
    try:
        package = importlib.import_module(entry.package)
    except Exception as e:  # noqa: BLE001 - old libraries break in many ways on a new JAX
        return f"not installed here: {type(e).__name__}: {e}"
    try:
        return check(entry, package)
    except (JaxcamError, AssertionError, NotImplementedError) as e:
        return f"refused: {' '.join(str(e).split())}"
    finally:
        jax.clear_caches()
        gc.collect()


# --- Keras


def _keras(name: str, **options: Any) -> Callable[[Any, int], Made]:
    def make(keras, size):
        chosen = {"weights": None, "classes": CLASSES, "classifier_activation": None} | options
        keras.utils.set_random_seed(0)  # else a map of four positions may be empty, now and then
        return Made(getattr(keras.applications, name)(input_shape=(size, size, 3), **chosen))

    return make


# --- The others: weights are drawn for the shapes that their own initialisation gives, which need not run


def _drawn(shapes: Any, *, out_first: bool = False) -> Any:
    """Weights by fan-in, scales and variances around 1, other things not zero: maps of constants say nothing."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        name = jax.tree_util.keystr(path).lower()
        if not isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        if leaf.ndim >= 2 and not any(part in name for part in ("scale", "average", "['hidden']")):
            fan_in = np.prod(leaf.shape[1:] if out_first else leaf.shape[:-1])
            return jnp.asarray(rng.normal(size=leaf.shape) * np.sqrt(1.5 / fan_in), leaf.dtype)
        around_one = any(part in name for part in ("scale", "var", "weight", "gamma", "hidden", "average"))
        return jnp.asarray(
            rng.uniform(0.8, 1.2, leaf.shape) if around_one else 0.1 * rng.normal(size=leaf.shape), leaf.dtype
        )

    return jax.tree_util.tree_map_with_path(one, shapes)


def _haiku(name: str, **options: Any) -> Callable[[Any, int], Made]:
    def make(hk, size):
        def forward(x, is_training):
            return getattr(hk.nets, name)(num_classes=CLASSES, **options)(x, is_training)

        net = hk.transform_with_state(forward)
        shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), True))
        return Made(net, _drawn(shapes), {"call": {"is_training": False}})

    return make


def _linen(module: Any, size: int, **call: Any) -> Made:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), **call))
    return Made(module, _drawn(shapes), {"call": call})


def _flaxmodels(name: str) -> Callable[[Any, int], Made]:
    return lambda flaxmodels, size: _linen(
        getattr(flaxmodels, name)(output="logits", pretrained=None, num_classes=CLASSES), size, train=False
    )


def _jax_resnet(name: str) -> Callable[[Any, int], Made]:
    return lambda jax_resnet, size: _linen(getattr(jax_resnet, name)(n_classes=CLASSES), size)


def _image_classification(name: str) -> Callable[[Any, int], Made]:
    return lambda resnet, size: _linen(getattr(resnet, name)(num_classes=CLASSES), size, is_training=False)


def _equimo(name: str, **options: Any) -> Callable[[Any, int], Made]:
    layout = {"layout": options.pop("layout")} if "layout" in options else {}

    def make(models, size):
        import equinox as eqx

        key = jax.random.key(0)
        shapes = eqx.filter_eval_shape(lambda: getattr(models, name)(num_classes=CLASSES, key=key, **options))
        call = lambda module, x: module(x, key=key, inference=True)  # noqa: E731
        return Made(_drawn(shapes, out_first=True), None, {"call": call, **layout})

    return make


def _jimm(jimm: Any, size: int) -> Made:
    from flax import nnx
    from jimm.common.sharding import NoSharding

    def make():
        return jimm.VisionTransformer(
            num_classes=CLASSES, img_size=size, patch_size=8, num_layers=2, num_heads=4, mlp_dim=64, hidden_size=32,
            sharding=NoSharding(), rngs=nnx.Rngs(0),
        )  # fmt: skip

    with nnx.use_eager_sharding(False):
        model = nnx.eval_shape(make)
    graph, shapes = nnx.split(model)
    return Made(nnx.merge(graph, _drawn(shapes)), None, {"layout": jaxcam.tokens(prefix=1)})


def _hugging_face(kind: str, layout: Any = None, **config: Any) -> Callable[[Any, int], Made]:
    def make(transformers, size):
        sizes = {} if layout is None else {"image_size": size, "patch_size": 8}
        settings = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **config, **sizes)
        model = getattr(transformers, f"Flax{kind}ForImageClassification")(
            settings, input_shape=(1, size, size, 3), _do_init=False
        )
        params = _drawn(jax.eval_shape(lambda: model.init_weights(jax.random.key(0), model.input_shape)))
        return Made(model, params, {} if layout is None else {"layout": layout})

    return make


_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_STAGES = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
_TOKENS = jaxcam.tokens(prefix=1)


def _unmade(package: Any, size: int) -> Made:
    raise JaxcamError("this library could not be imported when the list was made; say how its network is made")


ZOO: tuple[Entry, ...] = (
    Entry("transformers", "ViT", _hugging_face("ViT", _TOKENS, **_TINY)),
    Entry("transformers", "DINOv2", _hugging_face("Dinov2", _TOKENS, **_TINY)),
    Entry("transformers", "BEiT", _hugging_face("Beit", _TOKENS, **_TINY)),
    Entry("transformers", "ResNet", _hugging_face("ResNet", **_STAGES), 64),
    Entry("transformers", "RegNet", _hugging_face("RegNet", groups_width=8, **_STAGES), 64),
    Entry("haiku", "ResNet18", _haiku("ResNet18"), 64),
    Entry("haiku", "MobileNetV1", _haiku("MobileNetV1"), 64),
    Entry("flaxmodels", "ResNet18", _flaxmodels("ResNet18"), 64),
    Entry("jax_resnet", "ResNet18", _jax_resnet("ResNet18"), 64),
    Entry("jax_resnet", "ResNetD18", _jax_resnet("ResNetD18"), 64),
    Entry("image_classification_jax.models.resnet", "ResNet18", _image_classification("ResNet18")),
    Entry("image_classification_jax.models.resnet", "ResNetTiny", _image_classification("ResNetTiny")),
    Entry("equimo.models", "mobilenetv3_small", _equimo("mobilenetv3_small"), 64),
    Entry("equimo.models", "convnext_t", _equimo("convnext_t"), 64),
    Entry("equimo.models", "iformer_t", _equimo("iformer_t"), 64),
    Entry("equimo.models", "reduceformer_backbone_b1", _equimo("reduceformer_backbone_b1"), 64),
    Entry("equimo.models", "vit_tiny_patch16", _equimo("vit_tiny_patch16_224", layout=_TOKENS, img_size=64), 64),
    Entry("jimm", "VisionTransformer", _jimm, refused="Reshard should only be used with"),  # it wants a mesh
    Entry("jimmy.models", "vit", _unmade),
    Entry("eqxvision.models", "resnet18", _unmade),
    Entry("flaim", "models", _unmade),
    Entry("keras", "VGG16", _keras("VGG16")),
    Entry("keras", "MobileNet", _keras("MobileNet")),
    Entry("keras", "MobileNetV2", _keras("MobileNetV2"), 64),
    Entry("keras", "MobileNetV3Small", _keras("MobileNetV3Small"), 64),
    Entry("jax_resnet", "ResNet50", _jax_resnet("ResNet50"), 64),
    Entry("flaxmodels", "ResNet50", _flaxmodels("ResNet50"), 64),
    Entry("haiku", "ResNet50 v2", _haiku("ResNet50", resnet_v2=True), 64),
    Entry("jax_resnet", "ResNeXt50", _jax_resnet("ResNeXt50"), 64),
    Entry("keras", "ResNet50", _keras("ResNet50"), 64),
    Entry("keras", "ResNet50V2", _keras("ResNet50V2"), 64),
    Entry("keras", "EfficientNetB0", _keras("EfficientNetB0"), 64),
    Entry("keras", "EfficientNetV2B0", _keras("EfficientNetV2B0"), 64),
    Entry("keras", "DenseNet121", _keras("DenseNet121"), 64),
    Entry("keras", "NASNetMobile", _keras("NASNetMobile"), 64),
    Entry("keras", "Xception", _keras("Xception"), 72),
    Entry("keras", "InceptionV3", _keras("InceptionV3"), 96),
    Entry("keras", "ConvNeXtTiny", _keras("ConvNeXtTiny"), 64),
    Entry("jax_resnet", "ResNeSt50", _jax_resnet("ResNeSt50"), 64),
)  # fmt: skip


def row(entry: Entry, found: Found | str) -> str:
    """A line of the table."""
    first = _first(entry)
    if isinstance(found, str):
        return f"{first} {entry.size} | | | | | | | {found} |"
    shape, told = " x ".join(map(str, found.shape)), "yes" if found.signed else ""
    return (
        f"{first} {entry.size} | {found.layers} | `{found.at}` | {shape} | {found.gap:.0e} | {told} | "
        f"{found.seconds:.0f} | passes |"
    )


def _first(entry: Entry) -> str:
    return f"| {entry.package.partition('.')[0]} | {entry.name} |"


def report(rows: dict[str, str]) -> str:
    """The table, in Markdown, of its lines by what they begin with."""
    lines = [rows[first] for first in map(_first, ZOO) if first in rows]
    passed, refused = (sum(text in line for line in lines) for text in ("| passes |", "| refused"))
    head = [
        "# Public networks, handed over as they are",
        "",
        f"`python -m benchmarks.zoo`, jax {jax.__version__}, {jax.devices()[0].device_kind}: {len(lines)} networks, of "
        f"which {passed} pass, {refused} are refused, and {len(lines) - passed - refused} could not be imported.",
        "Random weights, small inputs. Layers: places that are maps. Gap: what LIFT-CAM lacks at the default layer, as "
        "a share of its absolute coefficients. Signed: whether one is told that it has negative activations.",
        "",
        "| library | network | input | layers | default layer | shape | gap | signed | s | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n"


def main() -> None:
    """Checks them all, or some, and writes the table, in which the others stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", help="those whose library and name hold this")
    options = parser.parse_args()
    old = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {first: line for first in map(_first, ZOO) for line in old if line.startswith(first)}
    for entry in ZOO:
        if options.only and options.only.lower() not in f"{entry.package} {entry.name}".lower():
            continue
        rows[_first(entry)] = row(entry, outcome(entry))
        print(rows[_first(entry)], flush=True)
        with whole_file(RESULTS) as f:
            f.write(report(rows).encode())


if __name__ == "__main__":
    main()
