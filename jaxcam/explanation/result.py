"""What `explain` returns: a picture with what the methods say about it; it prints in a few lines and shows itself."""

from __future__ import annotations

import dataclasses
import html
import os
from typing import Any, SupportsIndex, overload

import numpy as np
from PIL import Image

from jaxcam import notebooks
from jaxcam.errors import JaxcamError, visible
from jaxcam.files import whole_file
from jaxcam.methods.maps import place_map
from jaxcam.methods.registry import request

#: Of many explanations a notebook shows so many.
_SHOWN = 20


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """What one method says about one class in one picture.

    Attributes:
      method: its name in `METHODS`, with its options: `shap_cam:num_permutations=1000`.
      target: the index of the class; None of a function of the logits.
      class_name: its name; of a function, that one's.
      probability: softmax, or sigmoid for a multi-label network, of the logit; NaN of a function.
      logit: F(A).
      coefficients: `(K,)`.
      map: `(h, w)` at the layer's resolution, in the units of the logit, not scaled.
      signed_map: `(h, w)`, the map before its ReLU: below zero where what is seen speaks against the class.
      completeness_gap: `sum alpha - (F(A) - F(0))`, with the mean of F over the references in place of F(0)
        for `deep_shap_cam`; close to 0 only for a method that promises completeness.
      seconds: wall time of this map when run in its batch: the picture's share of the forward pass
        plus the map's share of the method, without compilation.
      empty: why the map shows nothing; None where it does.
      region: `(x0, y0, x1, y1)`, the part of the picture that the network saw, in its pixels.
      size: `(H, W)` of the picture.
      negative: which share of the sum of absolute activations is below zero at the layer.
      doubt: what speaks against the map however well its numbers add up; None where nothing is known to.
    """

    method: str
    target: int | None
    class_name: str
    probability: float
    logit: float
    coefficients: np.ndarray
    map: np.ndarray
    completeness_gap: float
    seconds: float
    empty: str | None
    region: tuple[float, float, float, float]
    size: tuple[int, int]
    doubt: str | None = None
    negative: float = float("nan")
    signed_map: np.ndarray | None = None

    def __repr__(self) -> str:
        """What it is, and its numbers; not its arrays."""
        told = self.empty or f"map {self.map.shape[0]} x {self.map.shape[1]}, greatest {self.map.max():.4g}"
        return f"Attribution({self.method}, {self.class_name!r}, {self.value}: {told})"

    def _repr_html_(self) -> str:
        """The heat map alone and its numbers, which a notebook shows; a photo needs `jaxcam.overlay`."""
        rows = [
            ("method", self.method), ("class", self.class_name), ("probability", self.value),
            ("logit", f"{self.logit:.3f}"), ("completeness gap", gap_of(self)), ("empty", self.empty),
            ("doubt", self.doubt),
        ]  # fmt: skip
        high, wide = self.map.shape
        heat = notebooks.heat_png(place_map(self.map, (0, 0, wide, high), (high, wide)))
        told = notebooks.table((name, text) for name, text in rows if text is not None)
        return notebooks.embedded(heat, f"{self.method}, {self.class_name}") + told

    @property
    def value(self) -> str:
        """The probability of the class; of a function of the logits, its value."""
        return f"{self.logit:.4g}" if self.target is None else percent(self.probability)

    @property
    def cancellation(self) -> float:
        """`sum |alpha| / |F(A) - F(0)|` of a method that is complete: 1 where nothing speaks against the class; inf
        where all cancels; NaN of coefficients that are no contributions."""
        return request(self.method).info.cancellation(self.coefficients)

    @property
    def heatmap(self) -> np.ndarray:
        """`(H, W)` float32: the map in [0, 1] at the picture's own size, 0 where the network saw nothing."""
        return self.heatmap_at(self.size)

    @property
    def signed_heatmap(self) -> np.ndarray:
        """`(H, W)` float32 in [-1, 1]: the map before its ReLU, over its greatest absolute value."""
        return self.heatmap_at(self.size, signed=True)

    def heatmap_at(self, size: tuple[int, int], *, signed: bool = False, most: float | None = None) -> np.ndarray:
        """The heat map for a copy of the picture resized to `size (H, W)`.

        Args:
          size: `(H, W)`.
          signed: the map before its ReLU, in [-1, 1].
          most: what becomes 1, at least the greatest (absolute) value of the map, with 0 staying 0: one for several
            maps makes them comparable. Unless given, a map has its own: from its least to its greatest value in
            [0, 1] (from 0 where the method's entry says so), or over its greatest absolute value where it is signed.

        Raises:
          JaxcamError: the map before its ReLU was not kept (files of before it was).
        """
        (x0, y0, x1, y1), x, y = self.region, size[1] / self.size[1], size[0] / self.size[0]
        if signed and self.signed_map is None:
            raise JaxcamError("the signed map is not in this file; explain the picture again")
        values = self.signed_map if signed and self.signed_map is not None else self.map
        own = most is None and (signed or request(self.method).info.from_zero)
        if own:
            most = float(np.abs(values).max()) or 1.0
        placed = place_map(values, (x0 * x, y0 * y, x1 * x, y1 * y), size, None if most is None else (0.0, most))
        return np.clip(placed, -1, 1) if own else placed  # resizing rounds a flat map

    def box(self, share: float = 0.2) -> tuple[int, int, int, int] | None:
        """`(x0, y0, x1, y1)` in pixels of the picture: the box around the largest connected part of the heat map that
        is at least a share of its maximum (Zhou et al., CVPR 2016, with 0.2); None of an empty map.

        Raises:
          JaxcamError: the share is not above 0 and up to 1.
        """
        from jaxcam.explanation.overlays import box_of

        return box_of(self.heatmap, share)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What the methods say about one picture.

    Attributes:
      source: the picture's path, or `image 0`, `image 1` ... in the order given.
      image: the picture as read, RGB.
      model: the network's name.
      layer: where the maps were made.
      classes: names of the C classes.
      logits, probabilities: `(C,)`.
      results: one `Attribution` per target and method, targets outermost.
    """

    source: str
    image: Image.Image
    model: str
    layer: str
    classes: tuple[str, ...]
    logits: np.ndarray
    probabilities: np.ndarray
    results: tuple[Attribution, ...]

    def __getitem__(self, key: str | tuple[str, str | int]) -> Attribution:
        """The result of `(method, class)`, the class by name or index; of a function of the logits, by name.

        Where one class was asked for, the method alone is enough.

        Raises:
          KeyError: there is none, or several; the message names what there is.
        """
        name, target = (key, None) if isinstance(key, str) else key
        label = request(name).label
        found = [r for r in self.results if r.method == label]
        if target is not None:
            found = [r for r in found if target in (r.target, r.class_name)]
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"({r.method!r}, {r.class_name!r})" for r in (found or self.results)[:8])
        raise KeyError(f"{key!r}: {len(found)} results; there {'is' if len(self.results) == 1 else 'are'} {there}")

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """What the network sees in the picture: the most probable classes, and their probabilities."""
        order = np.argsort(-self.logits, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def _seen(self) -> str:
        return "sees " + ", ".join(f"{visible(name)} ({percent(p)})" for name, p in self.top(3))

    def __repr__(self) -> str:
        """The picture, what the network sees in it, and a line for each result."""
        what = visible(os.path.basename(self.source))
        head = f"Explanation of {what} by {self.model}, which {self._seen()}, at {self.layer}"
        return "\n  ".join([head, *map(repr, self.results[:20]), *(["..."] if len(self.results) > 20 else [])])

    def _repr_png_(self) -> bytes:
        """The figure, which a notebook shows."""
        from jaxcam.explanation.figures import plot

        return plot(self)._repr_png_()

    def _repr_html_(self) -> str:
        """The figure and a small table, which a notebook shows."""
        rows = [
            (r.method, r.class_name, r.value, f"{r.logit:.3f}", gap_of(r), r.empty or r.doubt or "")
            for r in self.results
        ]
        head = ("method", "class", "probability", "logit", "completeness gap", "note")
        alt = f"{os.path.basename(self.source)}: maps of {self.model} at {self.layer}"
        seen = f"<p>{html.escape(f'{self.model} {self._seen()}')}</p>"
        return notebooks.embedded(self._repr_png_(), alt) + seen + notebooks.table(rows, head)

    def to_dict(self) -> dict[str, Any]:
        """The numbers without the maps, ready for `json`; values that are not finite become None."""
        first = self.results[0]
        keys = (
            "method", "target", "class_name", "probability", "logit", "completeness_gap", "seconds", "empty", "doubt",
            "negative", "cancellation",
        )  # fmt: skip
        return {
            "image": self.source, "width": self.image.width, "height": self.image.height, "region": list(first.region),
            "model": self.model, "layer": self.layer, "map_size": list(first.map.shape),
            "results": [
                {**{k: _plain(getattr(r, k)) for k in keys}, "coefficients": list(map(_plain, r.coefficients.tolist()))}
                for r in self.results
            ],
        }  # fmt: skip

    def save(self, path: str | os.PathLike, *, digest: str = "") -> None:
        """Writes everything but the picture to an `.npz`, which appears whole or not at all.

        Arrays `coefficients (R, K)`, `maps` and `signed_maps (R, h, w)`, `heatmaps (R, H, W)` (float16) and one entry
        per result of `methods`, `targets`, `class_names`, `probabilities`, `logits`, `completeness_gaps`, `seconds`,
        `negative`, `empty` and `doubt` ("" where there is none; the target of a function is -1); besides
        `all_logits (C,)`,
        `classes (C,)`, `region (4,)`, `source`, `model`, `layer` and `digest`, which tells a later run what the file
        was made with.
        """
        r = self.results
        with whole_file(path) as f:
            np.savez_compressed(
                f,
                source=self.source, model=self.model, layer=self.layer, digest=digest,
                classes=list(self.classes), all_logits=_storable(self.logits), region=r[0].region,
                methods=[x.method for x in r], targets=[-1 if x.target is None else x.target for x in r],
                class_names=[x.class_name for x in r],
                probabilities=[x.probability for x in r], logits=[x.logit for x in r],
                completeness_gaps=[x.completeness_gap for x in r], seconds=[x.seconds for x in r],
                empty=[x.empty or "" for x in r], doubt=[x.doubt or "" for x in r], negative=[x.negative for x in r],
                coefficients=_storable(np.stack([x.coefficients for x in r])),
                maps=_storable(np.stack([x.map for x in r])),
                signed_maps=_storable(np.stack([x.map if x.signed_map is None else x.signed_map for x in r])),
                heatmaps=np.stack([x.heatmap.astype(np.float16) for x in r]),
            )  # fmt: skip


class Explanations(list[Explanation]):
    """What `explain` says of several pictures: a list that shows itself; of one picture it has the results, too."""

    @overload
    def __getitem__(self, key: SupportsIndex) -> Explanation: ...
    @overload
    def __getitem__(self, key: slice) -> Explanations: ...
    @overload
    def __getitem__(self, key: str | tuple[str, str | int]) -> Attribution: ...
    def __getitem__(self, key: Any) -> Any:
        """An explanation by its place; or, where there is one, a result of it by `(method, class)` or method.

        Raises:
          KeyError: a result is asked for, and there are several pictures, or none; or no such result.
        """
        if isinstance(key, str | tuple):
            if len(self) != 1:
                raise KeyError(f"{key!r}: there are explanations of {len(self)} pictures; take one by its number first")
            return self[0][key]
        found = super().__getitem__(key)
        return Explanations(found) if isinstance(key, slice) else found

    def __repr__(self) -> str:
        """Every explanation in a few lines."""
        return "\n".join(map(repr, self)) or "no explanations"

    def _repr_html_(self) -> str:
        """Figures and tables of the first pictures, which a notebook shows."""
        more = f"<p>and {len(self) - _SHOWN} more</p>" if len(self) > _SHOWN else ""
        return "".join(one._repr_html_() for one in self[:_SHOWN]) + more


def percent(probability: float) -> str:
    """A probability as a person reads it."""
    return f"{100 * probability:.1f} %" if probability >= 0.001 else "< 0.1 %"


def gap_of(result: Attribution) -> str:
    """The completeness gap; "-" where the method promises no completeness, and the number would say nothing."""
    return f"{result.completeness_gap:.1e}" if request(result.method).info.complete else "-"


def _storable(values: Any) -> np.ndarray:
    """An array of a type that NumPy itself knows: bfloat16 and its like, which a file would not name, as float32."""
    values = np.asarray(values)
    return values.astype(np.float32) if values.dtype.kind == "V" else values


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
