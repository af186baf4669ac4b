"""Several maps as one: of several layers, or of several views of a picture. Pure functions of arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError, check_known
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.result import CAM


def largest(maps: jax.Array, gamma: float = 2.0) -> jax.Array:
    """`max over layers of tanh(gamma M / max M)` of `maps (L, h, w)`; a map that is nowhere above 0 adds nothing.

    References:
      Jiang et al., LayerCAM, TIP 2021, section III-C, with its gamma of 2.
    """
    most = jnp.max(maps, (1, 2), keepdims=True)
    shares = jax.nn.relu(maps) / jnp.where(most > 0, most, 1)
    return jnp.max(jnp.tanh(gamma * shares), 0)


def mean_of_scaled(maps: jax.Array) -> jax.Array:
    """The mean of `maps (L, h, w)`, each scaled to [0, 1] from its least to its greatest value; zeros of a constant."""
    return jnp.mean(jax.vmap(scale_map)(maps), 0)


#: What is made of maps of one size.
FUSIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"max": largest, "mean": mean_of_scaled}


def fuse(maps: Sequence[jax.Array], how: str = "max", *, size: Sequence[int] | None = None) -> jax.Array:
    """One map `(h, w)` in [0, 1] of those of several layers.

    Args:
      maps: `(h_l, w_l)` each, not scaled.
      how: "max", the largest of `tanh(2 M / max M)` (LayerCAM's), or "mean", that of min-max scaled maps.
      size: of the result, to which maps are resized before they are scaled; that of the map with the most positions
        unless given.

    Raises:
      JaxcamError: there is no map, or no such fusion.
    """
    check_known("fusion", how, FUSIONS)
    if not len(maps):
        raise JaxcamError("there is no map to fuse")
    common = max((m.shape for m in maps), key=math.prod) if size is None else size
    return FUSIONS[how](jnp.stack([resize_map(m, common) for m in maps]))


@dataclasses.dataclass(frozen=True)
class View:
    """A way to look at a picture: mirrored, and nearer or farther.

    Attributes:
      name: what it is called.
      mirrored: left to right.
      zoom: how many times larger things are, about the middle; what comes into view is the mean colour, 0.
    """

    name: str
    mirrored: bool = False
    zoom: float = 1.0

    def of(self, image: jax.Array) -> jax.Array:
        """The image `(H, W, C)`, or a map `(h, w)`, as it is seen so."""
        seen = self._zoomed(image, self.zoom)
        return jnp.flip(seen, 1) if self.mirrored else seen

    def back(self, map: jax.Array) -> jax.Array:
        """A map `(h, w)` of what is seen, over the picture itself; 0 where nothing was seen."""
        return self._zoomed(jnp.flip(map, 1) if self.mirrored else map, 1 / self.zoom)

    def _zoomed(self, image: jax.Array, zoom: float) -> jax.Array:
        if zoom == 1:
            return image
        size = jnp.asarray(image.shape[:2], image.dtype)
        scale = jnp.full(2, zoom, image.dtype)
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, (1 - scale) * size / 2, "linear", antialias=zoom < 1
        )


_PLAIN, _MIRRORED = View("plain"), View("mirrored", mirrored=True)
#: Sets of views, each with the plain one first.
VIEWS: dict[str, tuple[View, ...]] = {
    "flips": (_PLAIN, _MIRRORED),
    "scales": (_PLAIN, View("nearer", zoom=1.25), View("farther", zoom=0.8)),
}


def views_of(names: Sequence[str]) -> tuple[View, ...]:
    """The views of some sets, each once.

    Raises:
      JaxcamError: there is no such set.
    """
    for name in names:
        check_known("set of views", name, VIEWS)
    return tuple(dict.fromkeys(view for name in names for view in VIEWS[name]))


def over_views(explain: Callable[[jax.Array], CAM], image: jax.Array, views: Sequence[View]) -> CAM:
    """The mean over several views of an image: of coefficients, and of maps that are turned back.

    Args:
      explain: makes a `CAM` of an image `(H, W, C)`: the features and a method in one function.
      image: `(H, W, C)`, the network's input.
      views: from `views_of`; the first one's diagnostics are kept.

    Returns:
      A `CAM`; its map is the ReLU of the mean of the maps before theirs.
    """
    cams = [explain(view.of(image)) for view in views]
    signed = jnp.mean(jnp.stack([v.back(c.diagnostics["signed_map"]) for v, c in zip(views, cams, strict=True)]), 0)
    coefficients = jnp.mean(jnp.stack([c.coefficients for c in cams]), 0)
    return CAM(coefficients, jax.nn.relu(signed), cams[0].diagnostics | {"signed_map": signed})
