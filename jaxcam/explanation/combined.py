"""Maps of several layers as one, and the mean of those of several views of a picture, for any method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcam.errors import check_known
from jaxcam.explanation.engine import Engine, Forward, Maps
from jaxcam.explanation.targets import FunctionTarget
from jaxcam.methods.fusion import FUSIONS, View, fuse, views_of
from jaxcam.methods.registry import Method, Request


class Seen(NamedTuple):
    """The forward passes of a batch.

    Attributes:
      by_view: of every view, the plain one first, one `Forward` per layer.
    """

    by_view: tuple[tuple[Forward, ...], ...]

    @property
    def logits(self) -> np.ndarray:
        """`(n, C)` of the plain pictures."""
        return self.by_view[0][0].logits

    @property
    def negative(self) -> np.ndarray:
        """`(n,)` the largest negative share of the layers."""
        return np.max([f.negative for f in self.by_view[0]], axis=0)

    @property
    def seconds(self) -> float:
        """Per picture, of all passes."""
        return sum(f.seconds for layers in self.by_view for f in layers)

    @property
    def activations(self) -> list[Any]:
        """Of every picture its activations `(h, w, K)`; of several layers a tuple of these."""
        layers = [f.activations for f in self.by_view[0]]
        return list(layers[0]) if len(layers) == 1 else list(zip(*layers, strict=True))


class FusedMaps(NamedTuple):
    """One method on `p` pairs at several layers: as `Maps`, with coefficients of all layers, one after the other.

    Attributes:
      maps, signed: `(p, h, w)`, the fused map; it has no sign to lose.
      gaps: `(p,)` NaN: what maps of several layers add up to is nothing in particular.
      parts: the maps of each layer.
    """

    coefficients: np.ndarray
    maps: np.ndarray
    signed: np.ndarray
    gaps: np.ndarray
    evaluations: np.ndarray
    seconds: float
    notes: tuple[str | None, ...]
    from_zero: bool
    parts: tuple[Maps, ...]

    def left_over(self, i: int, info: Method) -> float:
        """The least of what channels leave of each other at any layer: scaled, rounding is a map like another."""
        return float(np.fmin.reduce([part.left_over(i, info) for part in self.parts]))  # a dead layer has NaN

    def why_empty(self, i: int, activations: Sequence[np.ndarray]) -> str | None:
        """Why the map of a pair shows nothing at any layer; None where one does show something."""
        causes = [part.why_empty(i, a) for part, a in zip(self.parts, activations, strict=True)]
        return None if None in causes else "; ".join(dict.fromkeys(filter(None, causes)))


class Combined:
    """Runs engines at several layers, over several views: in place of an `Engine`, with what `explain` asks of one.

    Args:
      engines: one for each layer.
      how: what is made of their maps, of `FUSIONS`.
      views: of each picture.

    Raises:
      JaxcamError: there is no such fusion.
    """

    def __init__(self, engines: Sequence[Engine], how: str, views: Sequence[View]):
        check_known("fusion", how, FUSIONS)
        self.engines, self.how, self.views = tuple(engines), how, tuple(views)
        self.layer = " + ".join(e.layer for e in engines)

    def forward(self, inputs: np.ndarray, sources: Sequence[str]) -> Seen:
        """The forward passes of `inputs (n, s, s, C)`; errors as of an engine."""
        seen = [np.asarray(_of(view)(inputs)) for view in self.views]
        return Seen(tuple(tuple(e.forward(x, sources) for e in self.engines) for x in seen))

    def maps(
        self,
        request: Request,
        forward: Seen,
        pairs: Sequence[tuple[int, int | FunctionTarget]],
        references: jax.Array | None = None,
        done: Callable[[float], None] = lambda maps: None,
    ) -> Maps | FusedMaps:
        """The maps of `pairs`; arguments and errors as of an engine."""
        share = len(self.engines) * len(self.views)
        parts = [
            self._over_views(engine, request, [layers[at] for layers in forward.by_view], pairs, references,
                             lambda maps: done(maps / share))
            for at, engine in enumerate(self.engines)
        ]  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        first, fused = parts[0], np.asarray(_fused(self.how)([p.maps for p in parts]))
        return FusedMaps(
            np.concatenate([p.coefficients for p in parts], 1), fused, fused, np.full(len(fused), np.nan),
            np.sum([p.evaluations for p in parts], 0), sum(p.seconds for p in parts), first.notes, first.from_zero,
            tuple(parts),
        )  # fmt: skip

    def _over_views(
        self, engine: Engine, request: Request, forwards: Sequence[Forward], pairs: Sequence, references: Any,
        done: Callable[[float], None],
    ) -> Maps:  # fmt: skip
        """The maps at one layer, turned back and averaged."""
        found = [engine.maps(request, forward, pairs, references, done) for forward in forwards]
        if len(found) == 1:
            return found[0]
        signed = np.mean([_back(view)(m.signed) for view, m in zip(self.views, found, strict=True)], 0)
        return found[0]._replace(
            coefficients=np.mean([m.coefficients for m in found], 0), maps=np.maximum(signed, 0), signed=signed,
            gaps=np.mean([m.gaps for m in found], 0), evaluations=np.sum([m.evaluations for m in found], 0),
            seconds=sum(m.seconds for m in found),
        )  # fmt: skip


def views_named(views: str | Sequence[str] | None) -> tuple[View, ...]:
    """The views that are asked for by the names of sets; the plain one alone unless given."""
    return views_of([views] if isinstance(views, str) else views) if views else (View("plain"),)


@functools.lru_cache(maxsize=16)
def _of(view: View) -> Callable:
    return jax.jit(jax.vmap(view.of))


@functools.lru_cache(maxsize=16)
def _back(view: View) -> Callable:
    return jax.jit(jax.vmap(view.back))


@functools.lru_cache(maxsize=4)
def _fused(how: str) -> Callable:
    return jax.jit(jax.vmap(lambda maps: fuse(maps, how)))
