"""What the rest of the library needs of a network: one base for this library's families and for everybody else's."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jaxcam import notebooks
from jaxcam.data.images import Picture, to_picture
from jaxcam.data.preprocessing import AnyPreprocessing
from jaxcam.errors import JaxcamError, unknown, visible
from jaxcam.models.trees import digest

#: `(params, x) -> logits (C,)`; or with a batch axis for both.
LogitsFunction = Callable[[Any, jax.Array], jax.Array]


class Features(Protocol):
    """A network up to a layer, for one input `(H, W, 3)` or a batch of them."""

    def __call__(self, params: Any, image: jax.Array, /) -> jax.Array:
        """The activations `(h, w, K)`."""

    def with_bypass(self, params: Any, image: jax.Array, /) -> tuple[jax.Array, Any]:
        """The activations, and a pytree of the values that go around the layer; without leaves where none do."""

    def __hash__(self) -> int:
        """Equal for equal functions."""


#: The layer in front of all others: its activations are the network's input, and its head is the network.
INPUT = "input"


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What lies in front of the layer `INPUT`: nothing."""

    said = "pixels"

    def __call__(self, params: Any, image: jax.Array) -> jax.Array:
        return image

    def with_bypass(self, params: Any, image: jax.Array) -> tuple[jax.Array, tuple]:
        return image, ()


class Classifier:
    """A network that can be explained: pure functions, and the data that goes with them.

    The functions (`whole`, and both halves of `split`) are hashable, and equal however often they are asked for: what
    is compiled for them is kept by them. They depend on the weights only through their first argument.

    Attributes:
      name: what it is called.
      params: its weights, a pytree of arrays.
      classes: names of the C logits.
      preprocessing: how pictures become inputs.
      multi_label: whether probabilities are sigmoids of independent logits.
      provenance: where the weights come from (source, licence, accuracy ...).
      precision: of matrix products when it is explained or evaluated, unless another is asked for; None for the usual.
    """

    name: str
    params: Any
    classes: tuple[str, ...]
    preprocessing: AnyPreprocessing
    multi_label: bool
    provenance: dict
    precision: str | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the places to split at, from the image to the logits."""
        raise NotImplementedError

    @property
    def default_layer(self) -> str:
        """Where maps are made unless another layer is named."""
        raise NotImplementedError

    def resolve_layer(self, at: str | None = None) -> str:
        """The full name of a layer; of the default one unless given.

        Raises:
          JaxcamError: there is no such layer; the message names the nearest ones.
        """
        raise NotImplementedError

    def layer_shape(self, at: str) -> tuple[int, ...]:
        """The shape `(h, w, K)` of the activations at a layer, for this network's input size."""
        raise NotImplementedError

    @property
    def whole(self) -> LogitsFunction:
        """The network as a function of `(params, x)`."""
        raise NotImplementedError

    def split(self, *, at: str | None = None) -> tuple[Features, LogitsFunction]:
        """Cuts the network behind the layer `at`, the default one unless given; "input" is in front of all of it.

        Returns:
          `features (params, image) -> activations (h, w, K)` and `head (params, activations) -> logits (C,)`, which
          takes `jaxcam.HeadParams` for `params` where values go around the layer.

        Raises:
          JaxcamError: there is no such layer; the message names the nearest ones.
        """
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """`family` and `architecture`: what it computes, apart from the weights; for JSON."""
        raise NotImplementedError

    def digest(self) -> str:
        """The sha256 of the weights."""
        return digest(self.params)

    def __repr__(self) -> str:
        """Its kind, layers and classes in a few lines; no weights."""
        return "\n  ".join(f"{name}: {text}" if name else text for name, text in self._told())

    def _repr_html_(self) -> str:
        """The same as a table, which a notebook shows."""
        return notebooks.table((name or "network", text) for name, text in self._told())

    def _told(self) -> list[tuple[str, str]]:
        """What is worth knowing of it at a glance."""
        count = sum(math.prod(jax.numpy.shape(leaf)) for leaf in jax.tree.leaves(self.params))
        layers, classes = self.layers, self.classes
        said = [
            ("", f"{type(self).__name__} {self.name!r}, {count:,} numbers"),
            ("input", " x ".join(map(str, self.preprocessing.shape))),
            ("layers", f"{len(layers)}, {_ends(layers)}; {self.default_layer} unless told otherwise"),
            ("classes", f"{len(classes)}, {_ends(classes)}" + ("; several at once" if self.multi_label else "")),
        ]
        return [(name, visible(text)) for name, text in said]

    def with_params(self, params: Any) -> Any:
        """The same network with other weights of the same shapes."""
        this: Any = self
        return dataclasses.replace(this, params=params)

    def preprocess(self, picture: Picture) -> jax.Array:
        """The network's input `(s, s, C)` for a picture (path, bytes, `PIL.Image` or array, see `to_picture`)."""
        return self.preprocessing(to_picture(picture))

    def predict(self, params: Any, x: jax.Array) -> jax.Array:
        """Logits `(C,)` of an input `x (s, s, 3)`, or `(b, C)` of a batch of them."""
        return self.whole(params, x)

    def probabilities(self, logits: Any) -> Any:
        """Softmax of `logits (..., C)`, or their sigmoid for a multi-label network; of NumPy's, without a device."""
        if isinstance(logits, np.ndarray):
            z = logits.astype(np.float64)
            total = np.logaddexp(0, z) if self.multi_label else np.logaddexp.reduce(z, -1, keepdims=True)
            return np.exp(z - total).astype(logits.dtype if logits.dtype.itemsize >= 4 else np.float32)
        return jax.nn.sigmoid(logits) if self.multi_label else jax.nn.softmax(logits)

    def class_index(self, name: str | int) -> int:
        """The index of a class given by its name or index; case, hyphens and underscores do not matter.

        A number is an index, also where a class is called so; its text is that class, and an index where there is none.

        Raises:
          JaxcamError: no class has that name or index, and the message names the nearest ones; or several have it.
        """
        for plain in (str, str.casefold, _plain) if isinstance(name, str) else ():
            called = [i for i, known in enumerate(self.classes) if plain(known) == plain(str(name))]
            if len(called) > 1:
                numbers = " and ".join(map(str, called))
                raise JaxcamError(
                    f"{self.name} has {len(called)} classes called {name!r}; say which by number: {numbers}"
                )
            if called:
                return called[0]
        try:
            if isinstance(name, bool | np.bool_):
                raise TypeError
            index = int(name) if isinstance(name, str) else operator.index(name)
        except (ValueError, TypeError):
            raise unknown(
                "class", name, self.classes, listed="jaxcam models NAME lists them, as does network.classes"
            ) from None
        if not 0 <= index < len(self.classes):
            raise JaxcamError(f"there is no class {index}; {self.name} has {len(self.classes)}, numbered from 0")
        return index


def _ends(names: Sequence[str]) -> str:
    """A few names, or the first and the last of many."""
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:3])} ... {names[-1]}"


def _plain(name: str) -> str:
    """A name without what people write differently."""
    return " ".join(name.casefold().replace("-", " ").replace("_", " ").split())
