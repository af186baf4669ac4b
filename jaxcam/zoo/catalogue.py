"""Weights that others published: where they lie, how to know them, and what belongs to them.

The digests are the publishers' own: torchvision and TorchRay write the first eight digits of the SHA-256 into the
name of the file, the Hugging Face hub shows it in full, and Keras has MD5 sums in its source.

A licence is given only where somebody stated one for the weights themselves. What the terms of the pictures they
were trained on mean for weights is a question that none of the publishers answers.
"""

from __future__ import annotations

import dataclasses

from jaxcam.converters.rules import KERAS_PREPROCESSING, TORCHRAY_PREPROCESSING
from jaxcam.data.class_names import class_names
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.models.config import Config
from jaxcam.models.registry import architecture

TORCHVISION = Preprocessing()
#: The recipe of 2021 was evaluated with a looser crop.
TORCHVISION_V2 = Preprocessing(resize_to=232)


@dataclasses.dataclass(frozen=True)
class Published:
    """One published set of weights.

    Attributes:
      name: what `jaxcam.load` calls it.
      config: the architecture.
      parameters: how many numbers are learnt, which tells the size of the file.
      url: where it is to be had.
      digest: `sha256:` or `md5:` and the digest or its beginning.
      licence: of the weights, in short; "not stated" where only the code that goes with them has one.
      terms: who says so, and what else is known.
      source: who published them.
      preprocessing: the one they were evaluated with.
      classes: a list of names in `classes/`.
      multi_label: whether they were trained with sigmoids.
      top1: accuracy on ImageNet's 50 000 validation pictures, as published; None where nothing was.
      file: its name in the cache; the address's last part unless given.
    """

    name: str
    config: Config
    parameters: int
    url: str
    digest: str
    licence: str
    terms: str
    source: str
    preprocessing: Preprocessing
    classes: str = "imagenet"
    multi_label: bool = False
    top1: float | None = None
    file: str = ""

    @property
    def cached_as(self) -> str:
        """The file's name in the cache."""
        return self.file or self.url.rsplit("/", 1)[1]

    @property
    def largest(self) -> int:
        """More bytes than the file can have."""
        return 5 * self.parameters + (1 << 24)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the logits."""
        return class_names(self.classes)

    @property
    def provenance(self) -> dict:
        """What a network's provenance says of these weights."""
        licence = f"{self.licence}; {self.terms}"
        told: dict = {"source": self.source, "url": self.url, "digest": self.digest, "licence": licence}
        if self.top1 is not None:
            told |= {"accuracy": self.top1, "metric": "top-1 accuracy, as published,", "validation_pictures": 50_000}
        return told


_TORCHVISION = """
vgg11      132863336 8a719046 69.020
vgg11_bn   132868840 6002323d 70.370
vgg13      133047848 19584684 69.928
vgg13_bn   133053736 abd245e5 71.586
vgg16      138357544 397923af 71.592
vgg16_bn   138365992 6c64b313 73.360
vgg19      143667240 dcbb9e9d 72.376
vgg19_bn   143678248 c79401a0 74.218
resnet18    11689512 f37072fd 69.758
resnet34    21797672 b627a593 73.314
resnet50    25557032 0676ba61 76.130
resnet101   44549160 63fe2227 77.374
resnet152   60192808 394f9c45 78.312
resnet50.v2   25557032 11ad3fa6 80.858
resnet101.v2  44549160 cd907fc2 81.886
resnet152.v2  60192808 f82ba261 82.284
"""
_TIMM = """
vgg16.tv_in1k    138357544 57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8
vgg16_bn.tv_in1k 138365992 88bbedbc8e780413736db38ac4efd41b06fc0e93fd5b8879b584bba63a950129
resnet50.tv_in1k  25557032 5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888
"""
_KERAS = """
vgg16.keras     138357544 64373286793e3c8b2b4e3219cbf3544b
vgg19.keras     143667240 cbe5617147190e668d6c5d5026f83318
resnet50.keras   25636712 2cb95161c43110f7111970584f804107
resnet101.keras  44707176 f1aeb4b969a6efcfb50fad2f0c20cfc5
resnet152.keras  60419944 100835be76be38e30d865e96f2aaae62
"""
_TORCHRAY = """
vgg16.voc     134342484 b050e8c3
vgg16.coco    134588304 d82c8150
resnet50.voc   23549012 9ca920d6
resnet50.coco  23671952 e99468c5
"""


_TERMS = {
    "torchvision": "torchvision's code is BSD-3-Clause; its README says that weights may be under terms derived from "
    "the data set they were trained on (ImageNet's pictures: non-commercial research and education)",
    "timm": "as the model card says; torchvision, which trained these weights, states no licence for them",
    "keras vgg": "the VGG group's page puts its models under the Creative Commons Attribution License",
    "keras resnet": "Keras's documentation says so of Kaiming He's models, from which these were converted",
    "torchray": "TorchRay's README puts TorchRay under CC-BY-NC and does not mention weights; those were trained by "
    "the authors of Excitation Backprop, whose code is for academic research and non-commercial purposes only",
}


#: Of Keras's networks: the folder of a file, whose Caffe model it was, and under what licence that is.
_KERAS_SOURCES = {"vgg": ("{name}", "the VGG group", "CC-BY"), "resnet": ("resnet", "Kaiming He", "MIT")}
#: Where the networks that were trained with Caffe differ from torchvision's, by family.
_CAFFE = {"vgg": {}, "resnet": {"stride_first": True}}
_CAFFE_POOL = {"vgg": {}, "resnet": {"ceil_pool": True}}


def _rows(table: str):
    for line in table.strip().splitlines():
        name, parameters, *rest = line.split()
        network, _, version = name.partition(".")
        yield name, network, version, int(parameters), *rest


def _torchvision():
    for name, network, version, parameters, digest, top1 in _rows(_TORCHVISION):
        yield Published(
            name, architecture(network), parameters, f"https://download.pytorch.org/models/{network}-{digest}.pth",
            f"sha256:{digest}", "not stated", _TERMS["torchvision"],
            "torchvision, IMAGENET1K_" + ("V2" if version else "V1"), TORCHVISION_V2 if version else TORCHVISION,
            top1=round(float(top1) / 100, 5),
        )  # fmt: skip


def _timm():
    for name, network, _, parameters, digest in _rows(_TIMM):
        yield Published(
            name, architecture(network), parameters, f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
            f"sha256:{digest}", "BSD-3-Clause", _TERMS["timm"],
            f"torchvision's weights, in timm/{name} on the Hugging Face hub", TORCHVISION, file=f"{name}.safetensors",
        )  # fmt: skip


def _keras():
    for name, network, _, parameters, digest in _rows(_KERAS):
        family = architecture(network).family
        folder, maker, licence = _KERAS_SOURCES[family]
        address = "https://storage.googleapis.com/tensorflow/keras-applications/" + folder.format(name=network)
        yield Published(
            name, architecture(network, **_CAFFE[family]), parameters,
            f"{address}/{network}_weights_tf_dim_ordering_tf_kernels.h5", f"md5:{digest}", licence,
            _TERMS[f"keras {family}"], f"keras.applications, from {maker}'s Caffe model", KERAS_PREPROCESSING,
        )  # fmt: skip


def _torchray():
    for name, network, data, parameters, digest in _rows(_TORCHRAY):
        family = architecture(network).family
        options = _CAFFE[family] | _CAFFE_POOL[family] | {"num_classes": len(class_names(data))}
        yield Published(
            name, architecture(network, **options), parameters,
            f"https://dl.fbaipublicfiles.com/torchray/{network}_{data}-{digest}.pth.tar", f"sha256:{digest}",
            "not stated", _TERMS["torchray"],
            f"TorchRay, trained on {data.upper()} by Zhang et al. (Excitation Backprop)", TORCHRAY_PREPROCESSING,
            classes=data, multi_label=True,
        )  # fmt: skip


#: Every published set of weights that `jaxcam.load` knows, by name.
CATALOGUE: dict[str, Published] = {
    p.name: p for group in (_torchvision, _timm, _keras, _torchray) for p in group()
}  # fmt: skip
