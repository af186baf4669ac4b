"""The metrics by name: what they are called, which way is better, and in which unit they are published."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      name: as asked for.
      title: as a table's heading or a figure's axis spells it.
      short: as papers abbreviate it.
      better: "higher", "lower", or "zero" where the ideal is 0 from either side.
      scale: the value of one image, as this package returns it, times `scale` is in `unit`.
      unit: "%" or "".
      needs_boxes: whether it is defined only where the picture's objects have boxes.
    """

    name: str
    title: str
    short: str
    better: str
    scale: float = 1.0
    unit: str = ""
    needs_boxes: bool = False


METRICS = {
    m.name: m
    for m in (
        Metric("ic", "Increase in Confidence", "IC", "higher", 100.0, "%"),
        Metric("ad", "Average Drop", "AD", "lower", 1.0, "%"),
        Metric("add", "Average Drop in Deletion", "ADD", "higher", 1.0, "%"),
        Metric("insertion", "Insertion AUC", "Ins", "higher", 100.0, "%"),
        Metric("deletion", "Deletion AUC", "Del", "lower", 100.0, "%"),
        Metric("pointing", "Energy-based pointing game", "EPG", "higher", 100.0, "%", needs_boxes=True),
        Metric("cosine", "Cosine similarity of coefficients", "cos", "higher"),
        Metric("gap", "Completeness gap", "gap", "zero"),
    )
}
