"""What a lower precision of matrix products does to a picture's maps, measured beside the highest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxcam.data.images import Picture
from jaxcam.explanation.explain import explain
from jaxcam.methods.registry import request
from jaxcam.models.classifier import Classifier
from jaxcam.transforms.precision import HIGHEST, PRECISIONS, check_precision


class Cost(NamedTuple):
    """What a method loses on one picture and class.

    Attributes:
      method: as in `Attribution`.
      cosine: of its coefficients with those at the highest precision; NaN where either are all zero.
      gap, gap_highest: its completeness gap in logits, at either precision; NaN of a method that promises none.
    """

    method: str
    cosine: float
    gap: float
    gap_highest: float

    def __str__(self) -> str:
        told = f"{self.method}: cosine {self.cosine:.7f}"
        if math.isnan(self.gap):
            return told
        return f"{told}, completeness gap {self.gap:.1e} (at the highest {self.gap_highest:.1e})"


def costs(
    network: Classifier, picture: Picture, *, precision: str, methods: str | Sequence[str] | None = None,
    layer: str | None = None, seed: int = 0,
) -> list[Cost]:  # fmt: skip
    """The methods on a picture's most probable class, at a precision and at the highest. Arguments as of `explain`."""
    given = {"layer": layer, "seed": seed, "batch_size": 1}
    [exact] = explain(network, picture, methods=methods, precision=HIGHEST, **given)  # type: ignore[arg-type]
    labels, target = [r.method for r in exact.results], exact.results[0].target
    [other] = explain(network, picture, methods=labels, targets=[target], precision=precision, **given)  # type: ignore
    found = []
    for at_highest, lower in zip(exact.results, other.results, strict=True):
        x, y = (r.coefficients.astype(np.float64) for r in (at_highest, lower))
        size = math.sqrt(float(x @ x) * float(y @ y))
        promised = request(lower.method).info.complete is not None
        gaps = (lower.completeness_gap, at_highest.completeness_gap) if promised else (math.nan, math.nan)
        found.append(Cost(lower.method, float(x @ y) / size if size else math.nan, *gaps))
    return found


def told(
    network: Classifier, picture: Picture, *, precision: str | None, methods: str | Sequence[str] | None = None,
    layer: str | None = None, seed: int = 0,
) -> list[str]:  # fmt: skip
    """The same in sentences, for a command; none of the highest, or of many processes."""
    name = check_precision(precision) or network.precision or HIGHEST
    if name == HIGHEST or jax.process_count() > 1:
        return []
    device = jax.devices()[0]
    if not PRECISIONS[name].differs_on(device.platform):
        return [f"{name}: this device ({device.device_kind}) has no such products; all are float32, as at the highest"]
    found = costs(network, picture, precision=name, methods=methods, layer=layer, seed=seed)
    return [f"{name} ({PRECISIONS[name].says}) beside the highest precision, on the first picture:", *map(str, found)]
