"""What a network family declares of a network: data, for which neither Flax nor weights are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from flax import nnx

    from jaxcam.models.layers import Staged


class Config:
    """What distinguishes one network of a family from another: a frozen dataclass, whose fields its manifest keeps.

    A family is a subclass of this, the module that it builds, and an entry of `jaxcam.models.registry`. Its tables of
    other libraries' names, if there are any, are a module of the converters.

    Attributes:
      family: its name in the registry.
      last_layer: path of the dense layer that gives the logits.
      smallest_input: side in pixels that its pooling leaves something of.
      num_classes: number of logits.
      width: multiplier on every layer's channels.
      batch_norm: whether batch norm follows its convolutions; they hold it, merged and biased, where it was folded.
      epsilon: of its batch norms.
    """

    family: ClassVar[str]
    last_layer: ClassVar[str]
    smallest_input: ClassVar[int] = 1
    epsilon: ClassVar[float] = 1e-5
    num_classes: Any
    width: Any
    batch_norm: Any

    def build(self, *, rngs: nnx.Rngs) -> Staged:
        """A freshly initialised network."""
        raise NotImplementedError

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the stages in order; asked of the module, where a family does not know them without."""
        from jaxcam.models.graph import graph

        return graph(self)[1]

    @property
    def default_layer(self) -> str:
        """Where maps are made unless another layer is named."""
        raise NotImplementedError

    @property
    def input_size(self) -> int:
        """The side in pixels that published weights are shown."""
        return 224

    @property
    def flat_side(self) -> int:
        """Side of the map that the first dense layer takes flattened; 1 where its mean is taken."""
        return 1

    @property
    def channels(self) -> dict[str, int]:
        """Of kernels by path the channels at full width, which tell the width of a network from its shapes."""
        raise NotImplementedError

    def replace(self, **fields: Any) -> Any:
        """The same with other fields."""
        this: Any = self
        return dataclasses.replace(this, **fields)

    def fitted(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """The same with the width, the classes and whatever else the shapes of its parameters, by path, show.

        Shapes that contradict each other are left for the comparison with the finished network to report.
        """
        kernels = [(base, shapes[k][-1]) for k, base in self.channels.items() if len(shapes.get(k, ())) == 4]
        changes: dict[str, Any] = {"width": _width(kernels)}
        last = shapes.get(f"{self.last_layer}.kernel", ())
        if len(last) == 2 and 1 <= last[1] <= 10_000_000:
            changes["num_classes"] = last[1]
        return self.replace(**changes)


def scaled(channels: int, width: float) -> int:
    """The number of channels of a layer at a width multiplier, at least one."""
    return max(1, round(channels * width))


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


def fold_batch_norm(config: Config, params: dict) -> tuple[Config, dict]:
    """A network without batch norm that computes what `params` computes in evaluation mode.

    Every `bnX` is merged into the sibling `convX`, whose bias absorbs the shift.

    Returns:
      The configuration without batch norm, and its parameters (float32 NumPy arrays).
    """
    return config.replace(batch_norm=False), _fold(params, config.epsilon)


def _fold(tree: dict, epsilon: float) -> dict:
    out = {}
    for name, value in tree.items():
        if not isinstance(value, dict) or name.startswith("bn"):
            if not name.startswith("bn"):
                out[name] = value
            continue
        norm = tree.get("bn" + name[4:]) if name.startswith("conv") else None
        if norm is None:
            out[name] = _fold(value, epsilon)
            continue
        norm = {k: np.asarray(v, np.float64) for k, v in norm.items()}
        gain = norm["scale"] / np.sqrt(norm["var"] + epsilon)
        bias = np.asarray(value.get("bias", 0.0), np.float64)
        out[name] = {
            "kernel": (np.asarray(value["kernel"], np.float64) * gain).astype(np.float32),
            "bias": ((bias - norm["mean"]) * gain + norm["bias"]).astype(np.float32),
        }
    return out
