"""The two sides of a cut as pure functions, and what goes around it."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.cutting import layouts, listing, program
from jaxcam.cutting.adapters import Call
from jaxcam.cutting.checks import Checked, like, same_structure, some
from jaxcam.cutting.layouts import Layout
from jaxcam.cutting.libraries import known
from jaxcam.errors import JaxcamError, unknown


class HeadParams(NamedTuple):
    """What a head takes first where values go around the cut: the parameters, and those values for one image.

    Attributes:
      params: of the network.
      bypass: a pytree of arrays, from `Features.with_bypass`.
    """

    params: Any
    bypass: Any


def head_params(params: Any, bypass: Any) -> Any:
    """What a head takes first: `HeadParams`, or the parameters alone where nothing goes around the cut."""
    return HeadParams(params, bypass) if jax.tree.leaves(bypass) else params


@dataclasses.dataclass(frozen=True, eq=False)
class _Side(Checked):
    layout: Layout
    axis: int | None
    layer: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Features(_Side):
    """`features(params, image (H, W, 3)) -> activations (h, w, K)`: the network up to a layer.

    A pure function, for `jax.jit`, `jax.vmap` and `jax.grad`; a batch `(b, H, W, 3)` is mapped over.

    Attributes:
      layer: the name of the place.
      image: shape and dtype of the image that the network was cut for, and takes.
    """

    image: jax.ShapeDtypeStruct

    def __repr__(self) -> str:
        """What goes in and what comes out; not the program."""
        return f"Features(params, image {self.image.shape} -> {self.layer!r})"

    def __call__(self, params: Any, image: jax.Array) -> jax.Array:
        return self.with_bypass(params, image)[0]

    def with_bypass(self, params: Any, image: jax.Array) -> tuple[jax.Array, Any]:
        """`(activations, bypass)`: with the values that the head needs besides, a pytree of arrays.

        Under `jax.vmap`, or for a batch of images, both have a leading axis.
        """
        image = jnp.asarray(image)
        if image.ndim == self.image.ndim + 1:
            return jax.vmap(self.with_bypass, in_axes=(None, 0))(params, image)
        value, *around = self.run(params, like(image, self.image, "the image"))
        if self.axis is not None:
            value = jnp.squeeze(value, self.axis)
        activations, rest = self.layout.as_map(value)
        return activations, (tuple(around), rest)

    def with_head_params(self, params: Any, image: jax.Array) -> tuple[jax.Array, HeadParams]:
        """`(activations, head_params)` of one image: the latter is what the methods take as `params`, on any network.

        For a batch, vmap what follows as well, or keep `with_bypass`: returned from a vmapped function,
        the parameters in `head_params` would be copied for every image.
        """
        activations, bypass = self.with_bypass(params, image)
        return activations, HeadParams(params, bypass)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Head(_Side):
    """`head(params, activations (h, w, K)) -> logits (C,)`: the network from a layer on.

    A pure function. Where values go around the cut (`needs_bypass`), it takes `HeadParams(params, bypass)`
    for `params`, and holds those values fixed: derivatives and contributions are those of the
    activations alone. A batch `(b, h, w, K)` is mapped over, and with it a batch of bypasses.

    Attributes:
      layer: the name of the place.
      activations: shape and dtype of the activations.
      bypass: shapes and dtypes of the bypass of one image.
      around: for each value that goes around the cut, its shape and where it comes from.
    """

    activations: jax.ShapeDtypeStruct
    bypass: Any
    around: tuple[str, ...]

    def __repr__(self) -> str:
        """What goes in and what comes out; not the program."""
        params = "HeadParams" if self.needs_bypass else "params"
        return f"Head({params}, {self.layer!r} {self.activations.shape} -> logits)"

    @property
    def needs_bypass(self) -> bool:
        """Whether values go around the cut."""
        return bool(jax.tree.leaves(self.bypass))

    def __call__(self, params: Any, activations: jax.Array) -> jax.Array:
        if not isinstance(params, HeadParams):
            if self.needs_bypass:
                raise JaxcamError(
                    f"values of this image go around {self.layer!r} ({some(self.around)}) and the head needs them: "
                    "use `activations, head_params = features.with_head_params(params, image)`, and `head_params` "
                    "where params are asked for"
                )
            params = HeadParams(params, self.bypass)
        params, bypass = params
        given, expected, tree = jax.tree.leaves(bypass), jax.tree.leaves(self.bypass), jax.tree.structure(bypass)
        if not same_structure(bypass, self.bypass):
            raise JaxcamError(f"the bypass is not that of a cut at {self.layer!r}; take features.with_bypass(...)")
        activations = jnp.asarray(activations)
        if activations.ndim == 4:
            axes = [0 if jnp.ndim(v) == s.ndim + 1 else None for v, s in zip(given, expected, strict=True)]
            axes_of_params = HeadParams(None, jax.tree.unflatten(tree, axes))
            return jax.vmap(self, in_axes=(axes_of_params, 0))(HeadParams(params, bypass), activations)
        around, rest = jax.tree.unflatten(
            tree, [like(v, s, "the bypass") for v, s in zip(given, expected, strict=True)]
        )
        value = self.layout.from_map(like(activations, self.activations, "the activations"), rest)
        if self.axis is not None:
            value = jnp.expand_dims(value, self.axis)
        (logits,) = self.run(params, *around, value)
        return logits


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """A network cut behind one layer.

    Attributes:
      layer: the name, activation shape and kind of the place.
      features: `(params, image) -> activations`, with `with_bypass` and `with_head_params`.
      head: `(params or HeadParams, activations) -> logits`.
    """

    layer: listing.Layer
    features: Features
    head: Head

    def predict(self, params: Any, image: jax.Array) -> jax.Array:
        """The logits `(C,)` of an image `(H, W, 3)`, or `(b, C)` of a batch of them."""
        activations, bypass = self.features.with_bypass(params, image)
        return self.head(HeadParams(params, bypass), activations)


def cut(
    model: Any, params: Any = None, *, at: str, example: Any, call: Call = None,
    layout: str | Layout | None = None, batched: bool | None = None,
) -> Cut:  # fmt: skip
    """Cuts a network behind the layer called `at`; arguments and errors as in `split`.

    Returns:
      A `Cut`: `features`, `head`, `layer` and `predict`.
    """
    return cut_traced(listing.trace(model, params, example, call, batched), at, layout)


def cut_traced(traced: listing.Traced, at: str, layout: str | Layout | None = None) -> Cut:
    """`cut`, of a network that is traced already."""
    name, place, occurrence = _find(listing.numbered(traced), at)
    axis = listing.batch_axis(place, traced.batched)
    shape = tuple(n for i, n in enumerate(place.shape) if i != axis)
    resolved = layouts.resolve(traced.layout if layout is None else layout)
    value = jax.ShapeDtypeStruct(shape, place.dtype)
    activations, rest = layouts.checked(resolved, value, name)
    if (axes := listing.axes(traced).get(name)) is not None:
        layouts.check_axes(resolved, axes, value, name)
    halves = program.halve(traced.closed, place.name, occurrence, len(jax.tree.leaves(traced.params)))
    around = tuple(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in halves.features.out_avals[1:])
    told = halves.bypass + [f"{r.shape} beside the map" for r in jax.tree.leaves(rest)]
    shared = {"params": traced.params, "precision": traced.precision, "layout": resolved, "axis": axis, "layer": name}
    return Cut(
        listing.Layer(name, activations.shape, place.kind),
        Features(halves.features, image=traced.image, **shared),
        Head(halves.head, activations=activations, bypass=(around, rest), around=tuple(told), **shared),
    )


def split(
    model: Any, params: Any = None, *, at: str, example: Any, call: Call = None,
    layout: str | Layout | None = None, batched: bool | None = None,
) -> tuple[Features, Head]:  # fmt: skip
    """Cuts a network behind the layer called `at`, without editing it or leaving anything on it.

    The network is traced once, on shapes, and its program cut where that layer returns: under `jax.jit`,
    `head(params, features(params, image))` costs what the network costs and gives the same. It is
    explained in eval mode. Keep the two functions: each `split` makes new ones, which compile anew.

    Args:
      model: a Flax Linen, Flax NNX, Equinox or Keras model, a Haiku `Transformed`, one of Hugging Face's Flax models;
        or a function `(params, image) -> logits` around any of them, or with places marked by `jaxcam.tag`. More
        libraries: `jaxcam.cutting.register`.
      params: of a Linen module its variables; of an NNX module `nnx.to_pure_dict(nnx.state(model))` or part of it
        (the rest is the module's own); of an Equinox module `eqx.filter(model, eqx.is_array)`; of a Keras model
        `{v.path: v.value for v in model.variables}` or the values in order; of Haiku what `init` returned; of a
        function whatever it takes. None: the module's own values, compiled into the programs as
        constants, which for large networks takes long.
      at: the layer: its path in the model, joined by dots (`block2.Conv_0`, `layers.3.conv`), or the
        name of the tag. `name#2` for the second call of a layer that is called several times. See `layers`.
      example: an image `(H, W, C)`, a signal `(T, C)` or a volume `(D, H, W, C)`, or its `jax.ShapeDtypeStruct`.
      call: keyword arguments of the model's call, `{"train": False}`; or a function `(module, x) ->
        logits`, for a model that returns more than logits or takes more than an image.
      layout: `"hwk"` or `"khw"`, the axes of the layer's output; `jaxcam.tokens(...)` for the tokens of a transformer;
        or a pair of functions, see `Layout`. The default is `hwk`, for Equinox `khw`. An Equinox
        module is given its image as `(3, H, W)`; images here are `(H, W, 3)` all the same.
      batched: whether the network takes a batch of images. None: tried, with a batch of one first
        (Equinox: a single image first).

    Returns:
      `features (params, image (H, W, 3)) -> activations (h, w, K)` and `head (params, activations) ->
      logits (C,)`. If values computed from the image go around the layer (a residual branch, dense connections, a class
      token), `head.needs_bypass` is true, and it takes `HeadParams(params, bypass)` for params, from
      `activations, head_params = features.with_head_params(params, image)`. That works for any network.

    Raises:
      JaxcamError: there is no such layer (the nearest ones are named), it is called several times, lies in a
        loop or gives no map; the network gives no logits; the logits do not depend on the layer.
    """
    made = cut(model, params, at=at, example=example, call=call, layout=layout, batched=batched)
    return made.features, made.head


def _find(places: dict[str, tuple[program.Place, int]], at: str) -> tuple[str, program.Place, int]:
    """The place called `at`, its name as `layers` spells it, and which of that name it is."""
    name = at.replace("/", ".") if at not in places else at
    repeated = [n for n in places if n.rsplit("#", 1)[0] == name and n != name]
    if name in places:
        place, occurrence = places[name]
    elif repeated and places[repeated[0]][0].inside is None:
        raise JaxcamError(f"{at!r} is called {len(repeated)} times; choose one of {', '.join(repeated)}")
    elif repeated:
        place, occurrence = places[repeated[0]]
    elif not places:
        raise JaxcamError(
            "the network names no layers: mark the value with `x = jaxcam.tag(x, 'name')` in its code; or hand over, "
            f"in place of a function, {known()}"
        )
    else:
        raise unknown("layer", at, [n for n, (place, _) in places.items() if place.inside is None])
    if place.inside:
        raise JaxcamError(
            f"{at!r} is inside {place.inside}, and a loop or branch cannot be cut within: cut before or behind it"
        )
    return name, place, occurrence
