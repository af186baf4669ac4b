"""Which network a file holds, told from the names and shapes in it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from jaxcam.converters.names import DIALECTS, Dialect, ignorable
from jaxcam.converters.rules import Rule, target_shape
from jaxcam.converters.tensors import Tensor, shown
from jaxcam.errors import JaxcamError
from jaxcam.models.layers import scaled
from jaxcam.models.network import Config
from jaxcam.models.resnet import RESNET_LAYERS, ResNetConfig
from jaxcam.models.vgg import VGGConfig

#: The part of the names that must agree before a file is taken for a network with faults.
_ALIKE = 0.75
_VGG_CHANNELS = (64, 128, 256, 512, 512)


def label(config: Config) -> str:
    """A short name of an architecture: `vgg16_bn`, `resnet50`."""
    if isinstance(config, VGGConfig):
        return f"vgg{config.depth}" + ("_bn" if config.batch_norm else "")
    return f"resnet{config.depth}"


def recognise(names: Iterable[str], *, parted: bool, wanted: Config | None = None) -> tuple[Dialect, Config]:
    """The table that fits the names best.

    Args:
      names: the tensors in the file, as the tables spell them.
      parted: whether they were in TorchRay's two-part spelling, which no other library has.
      wanted: consider this architecture only.

    Returns:
      The dialect, and the architecture at full width.

    Raises:
      JaxcamError: none fits well enough to say what is missing.
    """
    there = {n for n in names if not ignorable(n)}
    best: tuple[float, int, int, Dialect, Config] | None = None
    for dialect in DIALECTS:
        if (wanted and not isinstance(wanted, dialect.family)) or parted != (
            dialect.name == "torchray" and dialect.family is ResNetConfig
        ):
            continue
        options = dict(dialect.options)
        for config in [dataclasses.replace(wanted, **options)] if wanted else dialect.configs():
            needed = {s for rule in dialect.rules(config) for s in rule.sources}
            common = len(needed & there)
            score = common / len(needed | there)
            if best is None or score > best[0]:
                best = (score, common, len(needed), dialect, config)
    if best is None or (best[0] < _ALIKE and not (wanted and best[1])):
        example = ", ".join(shown(n) for n in sorted(there)[:3]) or "nothing"
        near = f"; nearest is {label(best[4])}, of whose {best[2]} tensors it has {best[1]}" if best and best[1] else ""
        raise JaxcamError(
            f"is not an architecture that jaxcam knows (VGG 11 to 19, ResNet 18 to 152): it holds {len(there)} "
            f"tensors such as {example}{near}"
        )
    return best[3], best[4]


def sized(config: Config, rules: list[Rule], tensors: dict[str, Tensor], dialect: Dialect) -> Config:
    """The architecture with the width, the classes and the hidden layers that the shapes show.

    Shapes that contradict each other are left for the comparison with the finished table to report.
    """
    shapes = {r.target: target_shape(r.kind, tensors[r.sources[0]].shape) for r in rules if r.sources[0] in tensors}
    changes: dict = dict(dialect.options)
    if isinstance(config, VGGConfig):
        kernels = [r.target for r in rules if r.target.startswith("conv") and r.target.endswith("kernel")]
        bases = {k: _VGG_CHANNELS[int(k[4]) - 1] for k in kernels}
    else:
        bases = {"conv1.kernel": 64}
        counts, _ = RESNET_LAYERS[config.depth]
        bases |= {f"layer{i}.0.conv1.kernel": 32 * 2**i for i in range(1, len(counts) + 1)}
    channels = [(base, shapes[t][-1]) for t, base in bases.items() if len(shapes.get(t, ())) == 4]
    changes["width"] = _width(channels)
    last = shapes.get("fc8.kernel" if isinstance(config, VGGConfig) else "fc.kernel", ())
    if len(last) == 2 and 1 <= last[1] <= 10_000_000:
        changes["num_classes"] = last[1]
    if isinstance(config, VGGConfig) and len(shapes.get("fc6.kernel", ())) == 2:
        flat, hidden = shapes["fc6.kernel"]
        side = math.isqrt(flat // scaled(512, changes["width"]))
        if 1 <= side <= 64:
            changes["pool_size"] = side
        changes["hidden"] = None if hidden == scaled(4096, changes["width"]) or not hidden else hidden
    return dataclasses.replace(config, **changes)


def _width(channels: list[tuple[int, int]]) -> float:
    """The multiplier that explains most layers' channels; an exact one, or else the plainest."""
    tried = {1.0}
    for base, count in channels:
        tried |= {count / base, *(round(count / base, digits) for digits in (1, 2, 3, 4))}

    def merit(width: float) -> tuple[int, int, int, float]:
        explained = sum(scaled(b, width) == c for b, c in channels)
        exact = sum(b * width == c for b, c in channels)
        return explained, exact if exact == len(channels) else 0, -len(repr(width)), -width

    return max((w for w in tried if 0 < w <= 64), key=merit)
