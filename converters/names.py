"""The tables of names: which tensor of a file becomes which parameter, for every library and architecture.

What is known of each:
  torchvision: its source; the same names serve timm's ResNets.
  timm: its source. `vgg16.tv_in1k` keeps its classifier as convolutions `pre_logits.fc1`, `pre_logits.fc2`
    and a dense `head.fc`; files in torchvision's spelling exist as well, and both are read.
  torchray: only its loader (the files themselves were not at hand): VGG16's classifier is
    `classifier.0/2/4`, stored as convolutions; ResNet-50 has a biased `conv1` and batch norms in two parts
    `bn1.0` and `bn1.1`, of which the loader drops the number, as `canonical` does. Both take blue, green,
    red, which is turned round here; both were converted from Caffe.
  keras: its source and files written by it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from jaxcam.converters.rules import Rule
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.models.network import Config
from jaxcam.models.resnet import RESNET_LAYERS, ResNetConfig
from jaxcam.models.vgg import VGG_BLOCKS, VGGConfig

#: Offsets of the networks trained with Caffe, red first.
_CAFFE = (123.68, 116.779, 103.939)
#: Pixel values up to 255 in the order blue, green, red.
KERAS_PREPROCESSING = Preprocessing(mean=_CAFFE[::-1], std=(1.0, 1.0, 1.0), scale=1.0, channels="BGR")
#: TorchRay shows the whole picture with its shorter side at 224; a square input squashes it instead of cropping.
TORCHRAY_PREPROCESSING = Preprocessing(resize="squash", mean=_CAFFE, std=(1.0, 1.0, 1.0), scale=1.0)

#: Tensors that carry nothing the network computes with, and why.
IGNORED = {
    r"(^|\.)num_batches_tracked$": "counts training steps",
    r"(^|/)seed_generator(_state)?(/|$)": "Keras's random state for dropout",
}
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One library's names for one family of networks.

    Attributes:
      name: of the library.
      family: its configurations' class.
      preprocessing: of the weights that the library publishes.
      multi_label: whether its networks were trained with sigmoids.
      options: fields of the configuration that its networks always have.
    """

    name: str
    family: type[Config]
    preprocessing: Preprocessing = Preprocessing()  # noqa: RUF009
    multi_label: bool = False
    options: tuple[tuple[str, bool], ...] = ()

    def configs(self) -> Iterator[Config]:
        """Every architecture that the library publishes in these names, at full width."""
        options = dict(self.options)
        if self.family is VGGConfig:
            norms = (False, True) if self.name in ("torchvision", "timm") else (False,)
            yield from (VGGConfig(depth=d, batch_norm=b) for d in VGG_BLOCKS for b in norms)
            return
        for depth, (_, bottleneck) in RESNET_LAYERS.items():
            if bottleneck or self.name == "torchvision":
                yield ResNetConfig(depth=depth, **options)

    def rules(self, config: Config) -> list[Rule]:
        """The table for one architecture."""
        if isinstance(config, VGGConfig):
            return list(_vgg_keras(config) if self.name == "keras" else _vgg_torch(config, self.name))
        return list(_resnet_keras(config) if self.name == "keras" else _resnet_torch(config, self.name))


_CAFFE_RESNET = (("stride_first", True), ("ceil_pool", True))
DIALECTS = (
    Dialect("torchvision", VGGConfig),
    Dialect("torchvision", ResNetConfig),
    Dialect("timm", VGGConfig),
    Dialect("torchray", VGGConfig, TORCHRAY_PREPROCESSING, multi_label=True),
    Dialect("torchray", ResNetConfig, TORCHRAY_PREPROCESSING, multi_label=True, options=_CAFFE_RESNET),
    Dialect("keras", VGGConfig, KERAS_PREPROCESSING),
    Dialect("keras", ResNetConfig, KERAS_PREPROCESSING, options=(("stride_first", True),)),
)


def canonical(names: list[str]) -> tuple[dict[str, str], bool]:
    """The names in a file -> the names in the tables, and whether the file is in TorchRay's two-part names.

    Prefixes that every name carries (DataParallel's `module.`, `torch.compile`'s `_orig_mod.`) are dropped.
    """
    short = {n: n for n in names}
    for _ in range(3):
        common = [p for p in _PREFIXES if short and all(s.startswith(p) for s in short.values())]
        if not common:
            break
        short = {n: s[len(common[0]) :] for n, s in short.items()}
    parted = {n: re.sub(r"(bn\d|downsample\.\d)\.[01]\.", r"\1.", s) for n, s in short.items()}
    return parted, parted != short


def ignorable(name: str) -> bool:
    """Whether a tensor is on the list of those that no network needs."""
    return any(re.search(p, name) for p in IGNORED)


def _torch_norm(target: str, source: str) -> Iterator[Rule]:
    pairs = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for ours, theirs in pairs.items():
        yield Rule(f"{target}.{ours}", "same", (f"{source}.{theirs}",))


def _affine(target: str, kind: str, source: str, leaves: tuple[str, str]) -> Iterator[Rule]:
    yield Rule(f"{target}.kernel", kind, (source + leaves[0],))
    yield Rule(f"{target}.bias", "same", (source + leaves[1],))


_CLASSIFIERS = {
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
    "torchray": ("classifier.0", "classifier.2", "classifier.4"),
}
_TORCH = (".weight", ".bias")
_KERAS = ("/kernel", "/bias")


def _vgg_torch(config: VGGConfig, name: str) -> Iterator[Rule]:
    at = 0
    for block, count in enumerate(VGG_BLOCKS[config.depth], 1):
        for i in range(1, count + 1):
            kind = "conv_bgr" if name == "torchray" and at == 0 else "conv"
            yield from _affine(f"conv{block}_{i}", kind, f"features.{at}", _TORCH)
            if config.batch_norm:
                yield from _torch_norm(f"bn{block}_{i}", f"features.{at + 1}")
            at += 3 if config.batch_norm else 2  # with the ReLU
        at += 1  # the pool
    for layer, source in zip(("fc6", "fc7", "fc8"), _CLASSIFIERS[name], strict=True):
        yield from _affine(layer, "flat" if layer == "fc6" else "dense", source, _TORCH)


def _vgg_keras(config: VGGConfig) -> Iterator[Rule]:
    for block, count in enumerate(VGG_BLOCKS[config.depth], 1):
        for i in range(1, count + 1):
            yield from _affine(f"conv{block}_{i}", "same", f"block{block}_conv{i}", _KERAS)
    for layer, source in (("fc6", "fc1"), ("fc7", "fc2"), ("fc8", "predictions")):
        yield from _affine(layer, "same", source, _KERAS)


def _blocks(config: ResNetConfig) -> Iterator[tuple[int, int, int, bool]]:
    """Layer, block, number of convolutions, and whether there is a projection."""
    counts, bottleneck = RESNET_LAYERS[config.depth]
    for layer, count in enumerate(counts, 1):
        for i in range(count):
            yield layer, i, 3 if bottleneck else 2, i == 0 and (bottleneck or layer > 1)


def _resnet_torch(config: ResNetConfig, name: str) -> Iterator[Rule]:
    caffe = name == "torchray"
    yield Rule("conv1.kernel", "conv_bgr" if caffe else "conv", ("conv1.weight",))
    for rule in _torch_norm("bn1", "bn1"):
        if caffe and rule.target == "bn1.mean":  # the bias before a batch norm shifts its mean
            rule = Rule(rule.target, "minus", (*rule.sources, "conv1.bias"))
        yield rule
    for layer, i, convs, projected in _blocks(config):
        block = f"layer{layer}.{i}"
        for k in range(1, convs + 1):
            yield Rule(f"{block}.conv{k}.kernel", "conv", (f"{block}.conv{k}.weight",))
            yield from _torch_norm(f"{block}.bn{k}", f"{block}.bn{k}")
        if projected:
            yield Rule(f"{block}.downsample.conv1.kernel", "conv", (f"{block}.downsample.0.weight",))
            yield from _torch_norm(f"{block}.downsample.bn1", f"{block}.downsample.1")
    yield from _affine("fc", "dense", "fc", _TORCH)


def _keras_conv(conv: str, norm: str, source: str) -> Iterator[Rule]:
    """A biased convolution and its batch norm; the bias moves into the mean."""
    yield Rule(f"{conv}.kernel", "same", (f"{source}_conv/kernel",))
    yield Rule(f"{norm}.scale", "same", (f"{source}_bn/gamma",))
    yield Rule(f"{norm}.bias", "same", (f"{source}_bn/beta",))
    yield Rule(f"{norm}.mean", "minus", (f"{source}_bn/moving_mean", f"{source}_conv/bias"))
    yield Rule(f"{norm}.var", "keras_var", (f"{source}_bn/moving_variance",))


def _resnet_keras(config: ResNetConfig) -> Iterator[Rule]:
    yield from _keras_conv("conv1", "bn1", "conv1")
    for layer, i, convs, projected in _blocks(config):
        block, source = f"layer{layer}.{i}", f"conv{layer + 1}_block{i + 1}"
        for k in range(1, convs + 1):
            yield from _keras_conv(f"{block}.conv{k}", f"{block}.bn{k}", f"{source}_{k}")
        if projected:
            yield from _keras_conv(f"{block}.downsample.conv1", f"{block}.downsample.bn1", f"{source}_0")
    yield from _affine("fc", "same", "predictions", _KERAS)
