"""A network traced once: the places where it can be cut, each cut made once, and the whole of it as a function."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.cutting import layouts, listing, program
from jaxcam.cutting.adapters import Call
from jaxcam.cutting.axes import COLUMNS, ROWS, is_unknown, order
from jaxcam.cutting.bounds import bounds
from jaxcam.cutting.checks import Checked, like
from jaxcam.cutting.cut import Cut, cut_traced
from jaxcam.cutting.layouts import Layout
from jaxcam.errors import JaxcamError
from jaxcam.transforms.precision import HIGHEST, with_precision


@dataclasses.dataclass(frozen=True, eq=False)
class Whole(Checked):
    """`whole(params, image (H, W, 3)) -> logits (C,)`; a batch `(b, H, W, 3)` is mapped over.

    Attributes:
      image: shape and dtype of the image that the network was traced for, and takes.
    """

    image: jax.ShapeDtypeStruct

    def __call__(self, params: Any, image: jax.Array) -> jax.Array:
        image = jnp.asarray(image)
        if image.ndim == self.image.ndim + 1:
            return jax.vmap(self, in_axes=(None, 0))(params, image)
        (logits,) = self.run(params, like(image, self.image, "the image"))
        return logits


class Places:
    """The places of a network.

    Its functions are the same objects however often they are asked for, so that what is compiled for them is kept.

    Attributes:
      maps: of each place that gives a map under the layout, in the order of execution, the shape `(h, w, K)`.
      whole: the network uncut.
      logits: how many there are.
      outputs: between which numbers all of them lie, see `bounds`.
    """

    def __init__(
        self, model: Any, params: Any, *, example: Any, call: Call = None, layout: str | Layout | None = None,
        batched: bool | None = None,
    ):  # fmt: skip
        """Traces a network; arguments and errors as in `jaxcam.split`."""
        # Products that name no precision get theirs when the program runs: the highest, unless another is asked for,
        # as differences of close numbers are to come.
        with jax.default_matmul_precision(None):
            self._traced = listing.trace(model, params, example, call, batched)._replace(precision=HIGHEST)
        self._resolved = layouts.resolve(self._traced.layout if layout is None else layout)
        self._layout_given = layout is not None
        self._cuts: dict[str, Cut] = {}
        self._lock = threading.Lock()
        self.whole = Whole(self._traced.closed, self._traced.params, HIGHEST, self._traced.image)
        self.logits = int(self._traced.closed.out_avals[0].shape[0])
        [self.outputs] = bounds(self._traced.closed)
        self._axes = listing.axes(self._traced)
        self._unfit = ""
        self.maps = self._maps()

    def _maps(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for name, place, shape in listing.unbatched(self._traced):
            value = jax.ShapeDtypeStruct(shape, place.dtype)
            try:
                activations, _ = layouts.checked(self._resolved, value, name)
            except Exception:  # noqa: BLE001, S112 - a layout of the user's meets shapes that it was not written for
                continue
            if name in self._axes:
                try:
                    layouts.check_axes(self._resolved, self._axes[name], value, name)
                except JaxcamError as e:
                    self._unfit = str(e)
                    continue
            found[name] = activations.shape
        return found

    def cut(self, at: str) -> Cut:
        """The network cut behind the layer called `at`.

        Raises:
          JaxcamError: it cannot be cut there; see `jaxcam.split`.
        """
        with self._lock:
            if at not in self._cuts:
                made = cut_traced(self._traced, at, self._resolved)
                self._cuts[at] = self._cuts.setdefault(made.layer.name, made)
            return self._cuts[at]

    def last(self, matters: Callable[[Cut], bool] = lambda cut: True) -> str:
        """The last place whose map has more than one row and column, and where the network can be cut.

        A map's axes are the image's rows and columns. Where nothing is known of them, and no layout was given, it has
        the image's proportions, which the heads and tokens of an attention have not. Unless the layout was given, no
        tokens come after it, which would be the later map if it were told how they lie. Where it was given, one value
        at most goes around the map, as a residual does, if there is such a place: around the keys of an attention go
        its queries and its values.

        Args:
          matters: whether a cut is worth explaining.

        Raises:
          JaxcamError: there is none; the message says what would make one.
        """
        why = ""
        if self._unfit and not self.maps:
            raise JaxcamError(self._unfit)
        for most, (name, (h, w, _)) in itertools.product(
            (1, None) if self._layout_given else (None,), reversed(self.maps.items())
        ):
            if h > 1 and w > 1 and self._may_be_a_map(name, h, w):
                try:
                    cut = self.cut(name)
                except JaxcamError as e:  # a result that is not used, for example
                    why = why or f" ({e})"
                    continue
                if not self._layout_given and (tokens := self._tokens_behind(name)):
                    raise JaxcamError(
                        f"behind its last map, {name!r}, the network goes on with tokens ({tokens}): say how they lie, "
                        f"with layout=jaxcam.tokens(prefix=number of class tokens), or name layer={name!r}"
                    )
                if (most is None or len(cut.head.bypass[0]) <= most) and matters(cut):
                    return cut.layer.name
        flat = any(len(shape) == 2 for _, _, shape in listing.unbatched(self._traced))
        hint = "; where layers give tokens, say how they lie, with layout=jaxcam.tokens(...)" if flat else ""
        raise JaxcamError(
            f"no named layer gives a map with more than one position{why}: mark one in the network's code with "
            f"`x = jaxcam.tag(x, 'name')`{hint}"
        )

    def _may_be_a_map(self, name: str, h: int, w: int) -> bool:
        known = self._axes.get(name, ())
        if not is_unknown(known):
            return self._layout_given or {ROWS, COLUMNS} <= set(order(known))
        if self._layout_given:
            return all(map(is_unknown, self._axes.values()))
        return self._is_like_the_image(h, w)

    def _is_like_the_image(self, h: int, w: int) -> bool:
        """Whether a map has the image's proportions, up to a row or column that was lost or added at the edges."""
        height, width = self._traced.image.shape[:2]
        return abs(h - height * w / width) <= 1 or abs(w - width * h / height) <= 1

    def _tokens_behind(self, name: str) -> str:
        """Shape and name of the last tokens behind a place; "" where there are none."""
        later = itertools.dropwhile(lambda found: found[0] != name, listing.unbatched(self._traced))
        tokens = [f"{shape} of {other!r}" for other, _, shape in later if len(shape) == 2 and min(shape) > 1]
        return tokens[-1] if tokens else ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of what is computed, for parameters whatever they are, and of how layers become maps."""
        parts = [program.fingerprint(with_precision(self._traced.closed, HIGHEST))]
        for name, place, shape in listing.unbatched(self._traced):
            if name in self.maps:
                seen = jax.make_jaxpr(self._resolved.as_map)(jax.ShapeDtypeStruct(shape, place.dtype))
                parts.append(f"{name} {program.fingerprint(seen)}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
