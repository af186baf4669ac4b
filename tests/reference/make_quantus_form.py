"""Values of Quantus's measures of form and place, where their definitions are ours: maps without zeros, whole pixels.

    pip install torch quantus
    python tests/reference/make_quantus_form.py

Made with quantus 0.6.0.
"""

from __future__ import annotations

import pathlib

import numpy as np
import quantus
import torch

rng = np.random.default_rng(12)
height, width, n = 6, 8, 4
maps = rng.uniform(0.05, 1, size=(n, height, width)).astype(np.float32)
boxes = np.asarray([[1, 1, 5, 4], [0, 0, 8, 6], [2, 3, 3, 4], [4, 0, 8, 3]], np.float32)
inside = np.zeros((n, height, width), np.float32)
for one, (x0, y0, x1, y1) in zip(inside, boxes.astype(int), strict=True):
    one[y0:y1, x0:x1] = 1
masks = (rng.uniform(size=(n, height, width)) < 0.4).astype(np.float32)
masks[1] = 1


class Nothing(torch.nn.Module):
    """A network that no measure here asks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2]


x = rng.normal(size=(n, 1, height, width)).astype(np.float32)
given = {"model": Nothing(), "x_batch": x, "y_batch": np.zeros(n, int), "a_batch": maps[:, None]}
plain = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
np.savez_compressed(
    pathlib.Path(__file__).with_name("quantus_form.npz"), maps=maps, boxes=boxes, masks=masks,
    gini=quantus.Sparseness(**plain)(**given), entropy=quantus.Complexity(**plain)(**given),
    weighting=quantus.RelevanceMassAccuracy(**plain)(**given, s_batch=masks[:, None]),
    pointing=quantus.RelevanceMassAccuracy(**plain)(**given, s_batch=inside[:, None]),
    hit=quantus.PointingGame(**plain)(**given, s_batch=inside[:, None]),
)  # fmt: skip
