"""`wrap`: a network that is not of this library's families, with all that explaining and evaluating it needs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.cutting.adapters import Call, own_params, params_of
from jaxcam.cutting.cut import Cut, Features, Head
from jaxcam.cutting.layouts import Layout
from jaxcam.cutting.places import Places, Whole
from jaxcam.data.class_names import KNOWN, class_names
from jaxcam.data.preprocessing import AnyPreprocessing, Preprocessing, own_preprocessing
from jaxcam.errors import JaxcamError, check_known
from jaxcam.models.classifier import INPUT, Classifier, Pixels
from jaxcam.models.trees import on_purpose
from jaxcam.transforms.convolutions import for_cpu
from jaxcam.transforms.precision import check_precision


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Wrapped(Classifier):
    """A network of the user's own, from `wrap`.

    Attributes:
      name, params, classes, preprocessing, multi_label, provenance, precision: as in `Classifier`.
      places: the network itself, and where it can be cut.
      layer: the default one.
    """

    name: str
    params: Any
    classes: tuple[str, ...]
    preprocessing: AnyPreprocessing
    places: Places
    layer: str
    multi_label: bool = False
    provenance: dict = dataclasses.field(default_factory=dict)
    precision: str | None = None

    def __post_init__(self):
        if len(self.classes) != self.places.logits:
            raise JaxcamError(f"{self.name}: {len(self.classes)} class names for {self.places.logits} logits")

    def with_params(self, params: Any) -> Wrapped:
        """The same network with other weights of the same shapes: parameters, or the model itself that has trained on.

        Nothing is traced or compiled anew.
        """
        return super().with_params(params_of(params))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the places that give maps, in the order of execution."""
        return tuple(self.places.maps)

    @property
    def default_layer(self) -> str:
        """The layer named to `wrap`, or else the last one whose map has more than one position."""
        return self.layer

    def resolve_layer(self, at: str | None = None) -> str:
        """The name of a layer as `layers` has it; of the default one unless given.

        Raises:
          JaxcamError: the network cannot be cut there; see `jaxcam.split`.
        """
        return INPUT if self._is_input(at) else self.places.cut(at or self.layer).layer.name

    def layer_shape(self, at: str) -> tuple[int, ...]:
        """The shape `(h, w, K)` of the activations at a layer, for this network's input size."""
        if self._is_input(at):
            return self.preprocessing.shape
        return self.places.maps.get(at) or self.places.cut(at).layer.shape

    @property
    def whole(self) -> Whole:
        """The network as a function of `(params, x)`."""
        return self.places.whole

    def split(self, *, at: str | None = None) -> tuple[Features, Head]:
        """Cuts the network behind the layer `at`, the default one unless given; see `jaxcam.split`."""
        if self._is_input(at):
            pixels: Any = (Pixels(), self.whole)
            return pixels
        cut = self.places.cut(at or self.layer)
        return cut.features, cut.head

    def _is_input(self, at: str | None) -> bool:
        """Whether a layer is the one in front of all others; a layer of the network that is called so goes first."""
        return at == INPUT and INPUT not in self.places.maps

    def described(self) -> dict[str, Any]:
        """`family` and `architecture`: the digest of the network's program; for JSON."""
        return {"family": "wrapped", "architecture": {"program": self.places.fingerprint}}

    def digest(self) -> str:
        """The sha256 of the weights and of the network's program."""
        return hashlib.sha256(f"{super().digest()} {self.places.fingerprint}".encode()).hexdigest()


@on_purpose
def wrap(
    model: Any, params: Any = None, *, preprocessing: Any, classes: str | Sequence[str] | Mapping[int, str],
    layer: str | None = None, multi_label: bool = False, name: str | None = None, provenance: dict | None = None,
    call: Call = None, layout: str | Layout | None = None, batched: bool | None = None, precision: str | None = None,
) -> Wrapped:  # fmt: skip
    """Any network as one that `jaxcam.explain` and `jaxcam.evaluate.evaluate` take; the model itself is left as it is.

    It is traced once, on shapes, in eval mode. Its functions compute matrix products at the highest precision where
    it does not name its own, unless `jax.default_matmul_precision` says otherwise: explanations are small differences.

    Args:
      model, params, call, layout, batched: as in `jaxcam.split`. An NNX or Equinox module's own parameters
        are taken where none are given.
      preprocessing: a `jaxcam.Preprocessing`; or a function that takes a `PIL.Image` and returns the network's input
        `(H, W, C)`, always of one shape. It gets the picture in its own channels (L, LA, RGB, RGBA; I;16, I or F where
        it is deeper), or as RGB where it does not take that. For arrays `(h, w, channels)` that are no such picture, it
        has an attribute `channels`. A function that does not use the whole picture needs an attribute `region`, a
        function `(w, h) -> (x0, y0, x1, y1)`: the part that it uses, in pixels of the picture.
      classes: names of the C logits, in their order or by their index, as Hugging Face's `config.id2label` has them; or
        "imagenet", "voc" or "coco".
      layer: where maps are made unless another layer is asked for; the last map with more than one row and
        column unless given (with class tokens, the last one on whose patches the logits depend). See `jaxcam.layers`.
      multi_label: whether the logits are independent, their probabilities sigmoids; a single logit must be.
      name: what to call it; the model's own name, its class or the function unless given.
      provenance: what is known of the weights, for reports.
      precision: with which it is explained and evaluated unless another is asked for there: "highest", "tf32" or
        "bfloat16", see `jaxcam.explain`.

    Returns:
      The network, with `predict`, `preprocess`, `layers`, `split(at=...)` and the rest that one of `jaxcam.load` has.

    Raises:
      JaxcamError: the network gives no logits for such inputs (but probabilities, say, or with `multi_label` their
        logarithms), or not as many as there are classes; it has no such layer, or none that gives a map; the
        preprocessing fails, or crops the picture and does not say where.
    """
    rules = preprocessing if isinstance(preprocessing, Preprocessing) else own_preprocessing(preprocessing)
    if isinstance(classes, str):
        check_known("list of classes", classes, KNOWN)
        classes = class_names(classes)
    classes = _names(classes)
    params = own_params(model, params)
    example = jax.ShapeDtypeStruct(rules.shape, jnp.float32)
    places = Places(model, params, example=example, call=call, layout=layout, batched=batched)
    if places.logits == 1 == len(classes) and not multi_label:
        raise JaxcamError(
            f"one logit ({classes[0]!r}) has no other class to be compared with, and a softmax of it is always 100 %; "
            "wrap it with multi_label=True for its sigmoid. What speaks against it is explained by the target "
            "`lambda logits: -logits[0]`"
        )
    if places.outputs.within(0, 1):
        raise JaxcamError(
            "the network returns probabilities, numbers between 0 and 1, of which a second softmax or sigmoid would be "
            "shown: let it return logits, what comes before its own (a Keras model with "
            "model.layers[-1].activation = None, one of keras.applications with classifier_activation=None)"
        )
    if multi_label and places.outputs.high <= 0:
        raise JaxcamError(
            "the network returns logarithms of probabilities, numbers up to 0, of which another sigmoid would be "
            "shown: let it return logits, what comes before its own log_sigmoid or log_softmax"
        )
    return Wrapped(
        name=name or _name(model),
        params=jax.tree.map(jnp.asarray, params),
        classes=classes,
        preprocessing=rules,
        places=places,
        layer=places.cut(layer).layer.name if layer else places.last(lambda cut: _matters(cut, params, places.logits)),
        multi_label=multi_label,
        provenance=dict(provenance or {}),
        precision=check_precision(precision),
    )


def _names(classes: Any) -> tuple[str, ...]:
    """The names of classes in their order, however they were given."""
    if not isinstance(classes, Iterable):
        raise JaxcamError(f"classes are names, as in ['cat', 'dog'], one for each logit, not {classes!r}")
    if isinstance(classes, Mapping):
        # As JSON has them: its keys are text.
        classes = {int(k) if isinstance(k, str) and k.isdecimal() else k: name for k, name in classes.items()}
        if set(classes) != set(range(len(classes))):
            raise JaxcamError(
                f"classes by index must have the indices 0 to {len(classes) - 1} as their keys, not "
                f"{', '.join(map(repr, list(classes)[:3]))} ..."
            )
        classes = [classes[i] for i in range(len(classes))]
    return tuple(map(str, classes))


def _name(model: Any) -> str:
    """The model's own name, that of the function, or that of its class."""
    names = (getattr(model, attribute, None) for attribute in ("__name__", "name"))
    return next((n for n in names if n and isinstance(n, str)), type(model).__name__)


def _matters(cut: Cut, params: Any, logits: int) -> bool:
    """Whether the logits depend on the map: behind the last attention, only the class token counts.

    Asked only of layouts that hold something beside the map, as it compiles the head.
    """
    _, rest = cut.head.bypass
    if not jax.tree.leaves(rest):
        return True

    def slopes(params):
        image = jax.random.normal(jax.random.key(0), cut.features.image.shape, cut.features.image.dtype)
        activations, first = cut.features.with_head_params(params, image)
        weighted = lambda a: jnp.dot(cut.head(first, a), jnp.sin(1.0 + jnp.arange(logits)))  # noqa: E731
        return jax.grad(weighted)(activations)

    return bool(jnp.any(jax.jit(for_cpu(slopes))(params) != 0))
