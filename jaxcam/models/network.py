"""This library's own families: a network with its weights, classes and preprocessing, split at any named layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError, unknown
from jaxcam.models.classifier import INPUT, Classifier, Pixels
from jaxcam.models.config import Config


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a network as a pure function `(params, x) -> y`, with or without a batch axis.

    Equal parts compare equal, so `jax.jit` compiles a part once however often it is asked for.

    Attributes:
      config: which network.
      after: the stage whose output the part takes; None for the image.
      until: the stage whose output the part returns; None for the logits.
      rank: the rank of one unbatched input.
    """

    config: Config
    after: str | None
    until: str | None
    rank: int = 3

    def __call__(self, params: dict, x: jax.Array) -> jax.Array:
        from flax import nnx

        from jaxcam.models.graph import graph

        graphdef, _, _ = graph(self.config)
        model = nnx.merge(graphdef, params)
        if x.ndim == self.rank:
            return model.run(x[None], after=self.after, until=self.until)[0]
        if x.ndim != self.rank + 1:
            taken = "an image" if self.after is None else f"the activations of {self.after}"
            raise JaxcamError(f"{taken} must have rank {self.rank} (or one more, batched), not shape {x.shape}")
        # Batched through vmap: written as matrices of b rows, XLA's CPU backend fuses consecutive dense layers
        # into one program that packs their weights anew at every call (VGG16, b = 8: 3.3 s instead of 1.9 s).
        return jax.vmap(self, in_axes=(None, 0))(params, x)

    @property
    def said(self) -> str:
        """What it computes, in words that are the same in every process."""
        return repr(self)

    def with_bypass(self, params: dict, x: jax.Array) -> tuple[jax.Array, tuple]:
        """`self(params, x)`, and the values that go around it to later stages: none do."""
        return self(params, x), ()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Network(Classifier):
    """A VGG, ResNet or other family's network that can be explained: pure functions, and the data that goes with them.

    Attributes:
      name, classes, preprocessing, multi_label, provenance: as in `Classifier`.
      config: the architecture.
      params: nested dict of arrays, batch-norm statistics included.
    """

    name: str
    config: Config
    params: dict
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    multi_label: bool = False
    provenance: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if len(self.classes) != self.config.num_classes:
            raise JaxcamError(f"{self.name}: {len(self.classes)} class names for {self.config.num_classes} logits")

    @classmethod
    def create(cls, config: Config, *, seed: int = 0, name: str = "untrained", **fields) -> Network:
        """A network with freshly drawn weights; classes are numbered unless given."""
        from flax import nnx

        params = nnx.to_pure_dict(nnx.split(config.build(rngs=nnx.Rngs(seed)))[1])
        fields.setdefault("classes", tuple(str(i) for i in range(config.num_classes)))
        fields.setdefault("preprocessing", Preprocessing())
        return cls(name=name, config=config, params=params, **fields)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the places to split at, from the image to the logits: the convolutional ones."""
        return tuple(n for n in self.config.layers if not n.startswith("fc") and n != "avgpool")

    @property
    def default_layer(self) -> str:
        """The last convolutional layer: `conv5_3` of VGG16, `layer4` of a ResNet."""
        return self.config.default_layer

    def layer_shape(self, at: str) -> tuple[int, ...]:
        """The shape `(h, w, K)` of the activations at a layer, for this network's input size."""
        from jaxcam.models.graph import graph

        features, _ = self.split(at=at)
        image = jax.ShapeDtypeStruct(self.preprocessing.shape, jnp.float32)
        return jax.eval_shape(features, graph(self.config)[2], image).shape

    def resolve_layer(self, at: str | None = None) -> str:
        """The full name of a layer: `layer4` is `layer4.2` in a ResNet-50. Of the default one unless given.

        Raises:
          JaxcamError: there is no such layer; the message names the nearest ones.
        """
        at = at or self.default_layer
        if at in self.layers or at == INPUT:
            return at
        blocks = [n for n in self.layers if n.startswith(at + ".")]
        if not blocks:
            raise unknown("layer", at, self.layers)
        return blocks[-1]

    @property
    def whole(self) -> Part:
        """The network as a function of `(params, x)`."""
        return Part(self.config, None, None)

    def split(self, *, at: str | None = None) -> tuple[Part, Part]:
        """As in `Classifier`; `head(params, features(params, x))` is `predict(params, x)` exactly."""
        layer = self.resolve_layer(at)
        if layer == INPUT:
            pixels: Any = Pixels()
            return pixels, self.whole
        return Part(self.config, None, layer), Part(self.config, layer, None)

    def described(self) -> dict[str, Any]:
        """`family` and `architecture`, for JSON; `jaxcam.models.registry.FAMILIES` reads them."""
        config: Any = self.config
        return {"family": config.family, "architecture": dataclasses.asdict(config)}
