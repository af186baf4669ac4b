"""The network families: an entry is all that the rest of the library is told of one. Light: the help reads it."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

from jaxcam.errors import check_known

if TYPE_CHECKING:
    from jaxcam.models.config import Config


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks that one configuration describes.

    Attributes:
      title: what the literature calls it.
      home: where its configuration is, `module:class`; imported when it is needed.
      architectures: its members by name, with the fields of the configuration that make each.
    """

    title: str
    home: str
    architectures: dict[str, dict[str, Any]]

    @property
    def config(self) -> type[Config]:
        """The class of its configurations."""
        module, _, name = self.home.partition(":")
        return getattr(importlib.import_module(module), name)


#: By the name that a network's `network.json` has, and its configuration.
FAMILIES = {
    "vgg": Family(
        "VGG",
        "jaxcam.models.vgg:VGGConfig",
        {
            f"vgg{depth}" + "_bn" * norm: {"depth": depth, "batch_norm": norm}
            for depth in (11, 13, 16, 19)
            for norm in (False, True)
        },
    ),
    "resnet": Family(
        "ResNet",
        "jaxcam.models.resnet:ResNetConfig",
        {f"resnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101, 152)},
    ),
    "efficientnet_lite": Family(
        "EfficientNet-Lite",
        "jaxcam.models.efficientnet:EfficientNetLiteConfig",
        {f"efficientnet_lite{variant}": {"variant": variant} for variant in range(5)},
    ),
}


def architectures() -> dict[str, Family]:
    """Which family each architecture is of, by name."""
    return {name: family for family in FAMILIES.values() for name in family.architectures}


def architecture(name: str, **fields: Any) -> Config:
    """The configuration of `vgg16_bn`, `resnet50` ..., with some fields set otherwise.

    Raises:
      JaxcamError: there is none of that name; the message names the nearest ones.
    """
    known = architectures()
    check_known("architecture", name, known)
    return known[name].config(**known[name].architectures[name], **fields)


def name_of(config: Config) -> str:
    """The architecture's name, whatever its width and number of classes."""
    members = FAMILIES[config.family].architectures
    return next(name for name, made in members.items() if all(getattr(config, k) == v for k, v in made.items()))
