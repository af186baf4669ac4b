"""How one parameter of a network is made of tensors in a file, of what shapes these must be, and tables of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxcam.data.preprocessing import Preprocessing
from jaxcam.models.config import Config

#: Keras's batch norm adds 1.001e-5 to the variance, ours 1e-5; the difference goes into the variance itself.
KERAS_EPSILON = 1.001e-5
EPSILON = 1e-5
#: Offsets of the networks trained with Caffe, red first.
_CAFFE = (123.68, 116.779, 103.939)
#: Pixel values up to 255 in the order blue, green, red.
KERAS_PREPROCESSING = Preprocessing(mean=_CAFFE[::-1], std=(1.0, 1.0, 1.0), scale=1.0, channels="BGR")
#: TorchRay shows the whole picture with its shorter side at 224; a square input squashes it instead of cropping.
TORCHRAY_PREPROCESSING = Preprocessing(resize="squash", mean=_CAFFE, std=(1.0, 1.0, 1.0), scale=1.0)

TORCH = (".weight", ".bias")
KERAS = ("/kernel", "/bias")
CAFFE = ("/w", "/b")
#: Kinds of which a few rows of the one source make a part of the parameter.
IN_ROWS = ("conv", "conv_bgr", "dense", "flat", "same")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table of names.

    Attributes:
      target: path of the parameter, `conv1_1.kernel`.
      kind: how it is laid out in the file: "conv" (out, in, h, w); "conv_bgr", the same for channels in the
        order blue, green, red; "dense" (out, in) or (out, in, 1, 1); "flat" (out, channels * h * w) or (out,
        channels, h, w), a dense layer behind a flattened map; "same", as here; "minus", the first source less
        the second; "keras_var", a variance with Keras's epsilon.
      sources: names in the file.
    """

    target: str
    kind: str
    sources: tuple[str, ...]

    @property
    def layer(self) -> str:
        """Path of the layer that the parameter is of."""
        return self.target.rpartition(".")[0]


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One library's names for one family of networks.

    Attributes:
      name: of the library.
      configs: every architecture that the library publishes in these names, at full width.
      table: the rules for one of them.
      preprocessing: of the weights that the library publishes.
      multi_label: whether its networks were trained with sigmoids.
      options: fields of the configuration that its networks always have.
      parted: whether batch norms are in two parts, a spelling that only TorchRay has.
      refusal: why weights of a configuration cannot be written in these names; empty where they can.
    """

    name: str
    configs: tuple[Config, ...]
    table: Callable[[Any], Iterator[Rule]]
    preprocessing: Preprocessing = Preprocessing()  # noqa: RUF009
    multi_label: bool = False
    options: tuple[tuple[str, bool], ...] = ()
    parted: bool = False
    refusal: Callable[[Any], str] = lambda config: ""

    @property
    def family(self) -> str:
        """Of the networks."""
        return self.configs[0].family

    def rules(self, config: Config) -> list[Rule]:
        """The table for one architecture."""
        return list(self.table(config))


def source_shape(kind: str, target: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a parameter of shape `target` has in a file."""
    if kind in ("conv", "conv_bgr"):
        h, w, c_in, c_out = target
        return (c_out, c_in, h, w)
    if kind in ("dense", "flat"):
        return target[::-1]
    return target


def spellings(kind: str, target: tuple[int, ...], pool: int = 1) -> list[tuple[int, ...]]:
    """Every shape that is accepted: classifiers are stored as dense layers or as convolutions."""
    shapes = [source_shape(kind, target)]
    if kind == "dense":
        shapes.append((*shapes[0], 1, 1))
    if kind == "flat":
        shapes.append((target[1], target[0] // pool**2, pool, pool))
    return shapes


def target_shape(kind: str, source: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the parameter that a tensor would make; empty where it can make none."""
    if kind in ("conv", "conv_bgr"):
        return (source[2], source[3], source[1], source[0]) if len(source) == 4 else ()
    if kind in ("dense", "flat"):
        return (int(np.prod(source[1:], dtype=np.int64)), source[0]) if len(source) in (2, 4) else ()
    return source


def to_target(kind: str, values: list[np.ndarray], pool: int = 1) -> np.ndarray:
    """The parameter, in one piece, from the float32 `values` of its sources.

    Args:
      pool: side of the flattened map, for "flat".
    """
    x = values[0]
    if kind == "conv_bgr":
        x = x[:, ::-1]
    if kind in ("conv", "conv_bgr"):
        return np.ascontiguousarray(x.transpose(2, 3, 1, 0))
    if kind == "dense":
        return np.ascontiguousarray(x.reshape(x.shape[0], -1).T)
    if kind == "flat":  # PyTorch flattens (channel, row, column), we (row, column, channel)
        out = x.shape[0]
        return np.ascontiguousarray(x.reshape(out, -1, pool, pool).transpose(2, 3, 1, 0)).reshape(-1, out)
    if kind == "minus":
        return (x.astype(np.float64) - values[1]).astype(np.float32)
    if kind == "keras_var":
        return (x.astype(np.float64) + (KERAS_EPSILON - EPSILON)).astype(np.float32)
    return x


def place(kind: str, out: np.ndarray, start: int, rows: np.ndarray, pool: int = 1) -> None:
    """Puts what the rows from number `start` on of a source make into the parameter `out`; for `IN_ROWS` only."""
    if kind == "same":
        out[start : start + len(rows)] = rows
    else:
        out[..., start : start + len(rows)] = to_target(kind, [rows], pool)


def to_source(kind: str, x: np.ndarray, pool: int = 1) -> np.ndarray:
    """The inverse of `to_target`, for the kinds that torchvision's files consist of.

    Of all but "same" the source's rows are the parameter's last axis, so that a part of it gives a part of them.
    """
    if kind == "conv":
        return np.ascontiguousarray(x.transpose(3, 2, 0, 1))
    if kind == "dense":
        return np.ascontiguousarray(x.T)
    if kind == "flat":
        return np.ascontiguousarray(x.reshape(pool, pool, -1, x.shape[1]).transpose(3, 2, 0, 1)).reshape(x.shape[1], -1)
    return np.ascontiguousarray(x)


def torch_norm(target: str, source: str) -> Iterator[Rule]:
    pairs = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for ours, theirs in pairs.items():
        yield Rule(f"{target}.{ours}", "same", (f"{source}.{theirs}",))


def affine(target: str, kind: str, source: str, leaves: tuple[str, str]) -> Iterator[Rule]:
    yield Rule(f"{target}.kernel", kind, (source + leaves[0],))
    yield Rule(f"{target}.bias", "same", (source + leaves[1],))
