"""How many pictures make a unit, which is committed whole: a run that is killed loses no more than that of its work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxcam.evaluate.manifest import BATCH
from jaxcam.methods.registry import Request
from jaxcam.metrics import METRICS
from jaxcam.models.classifier import Classifier

#: What a unit is to take at most, by the estimate; twice of it is still less than a minute.
SECONDS = 30.0
#: Of a slow processor with two cores.
_OPERATIONS_A_SECOND = 5e10
#: Passes of the network that a map takes whose method asks for its derivative; LIFT-CAM takes them on a pair.
_PASSES = 4
#: Networks with fewer numbers than this are not looked at: a dozen pictures of theirs take seconds.
_SMALL = 6_000_000


def on_a_processor(network: Classifier, methods: Sequence[Request], metrics: Sequence[str], steps: int) -> int:
    """Pictures in a unit that a processor makes in half a minute: `BATCH` for most runs.

    One where a method makes a map at a time: it may take many steps for each, and gains nothing from more. Else by the
    operations of the network, of which the methods and the metrics take so many passes.

    Args:
      network: the network; it is traced, not compiled, where it is not small.
      methods: of the run.
      metrics: names of `METRICS`.
      steps: of insertion and deletion.
    """
    if not all(method.info.batched for method in methods):
        return 1
    if sum(math.prod(np.shape(x)) for x in jax.tree.leaves(network.params)) < _SMALL:
        return BATCH
    perturbations = {METRICS[m].perturbation for m in metrics} - {None}
    variations = {METRICS[m].variation for m in metrics} - {None}
    scores = sum(len(p.points(network.preprocessing.shape[:2], steps)) for p in perturbations if p)
    again = sum(v.count for v in variations if v)
    passes = 1 + len(methods) * (_PASSES * (1 + again) + scores + len(metrics))
    seconds = passes * _operations(network) / _OPERATIONS_A_SECOND
    return max(1, min(BATCH, int(SECONDS / max(seconds, 1e-9))))


def _operations(network: Classifier) -> float:
    """Of one pass for one picture."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), network.params)
    image = jax.ShapeDtypeStruct(network.preprocessing.shape, np.float32)
    analysed: Any = jax.jit(network.whole).lower(params, image).cost_analysis()
    told = analysed[0] if isinstance(analysed, list) else analysed or {}
    return float(told.get("flops", 0.0))
