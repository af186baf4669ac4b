"""Maps that take many steps: their progress, their devices, and their states between two runs."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxcam.cutting import held
from jaxcam.methods.registry import Request
from jaxcam.methods.schedule import Plan, State, plan_shap_cam
from jaxcam.methods.steps import is_done, shap_cam_result, shap_cam_steps
from jaxcam.models.classifier import Predict
from jaxcam.shapley.sharded import replicate


class States(Protocol):
    """Where the states of maps in flight are kept."""

    def load(self, source: str, label: str, target: int) -> State | None:
        """The state of a map that an earlier run began."""

    def save(self, source: str, label: str, target: int, state: State, last: bool) -> None:
        """Keeps a state, unless another was kept a moment ago and this is not the last one."""


class LongMaps:
    """Runs the requests that take more than one step.

    Args:
      head: the network behind the layer.
      params: its parameters.
      mesh: devices to divide a map's orderings among; None for the default one.
      states: where states are kept; None for nowhere.
    """

    def __init__(self, head: Predict, params: Any, mesh: Mesh | None, states: States | None):
        self.head, self.params, self.mesh, self.states = head, params, mesh, states
        self._placed: Any = None
        self._warm: set[Any] = set()

    def plan(self, request: Request, activations: jax.Array, bypass: Any) -> Plan | None:
        """How a request goes about it; None where one program does it at once."""
        if request.name != "shap_cam":
            return None
        options: dict[str, Any] = {k: v for k, v in request.options if k != "head"}
        first = held(self.params, bypass)
        plan = plan_shap_cam(first, activations, head=self.head, target=0, **options)
        if plan.steps == 1:  # whatever the number of devices
            return None
        devices = 1 if self.mesh is None else self.mesh.size
        return plan_shap_cam(first, activations, head=self.head, target=0, devices=devices, **options)

    def run(
        self,
        request: Request,
        plan: Plan,
        activations: jax.Array,
        bypass: Any,
        key: jax.Array,
        target: int,
        source: str,
        done: Callable[[float], None],
    ) -> tuple[tuple, float]:
        """One map, as `request.function` gives it, with a leading axis of one, and its seconds without compilation."""
        if self._placed is None:
            self._placed = replicate(self.params, self.mesh)
        options: dict[str, Any] = dict(request.options)
        where = (source, request.label, target)
        state = None if self.states is None else self.states.load(*where)
        a, bypass = jax.tree.map(self._agreed, (activations, bypass))
        steps = shap_cam_steps(
            held(self._placed, bypass), a, key, head=self.head, target=target, mesh=self.mesh, state=state, **options
        )
        seconds = collections.defaultdict(list)
        told, before = 0.0, type(state)
        while True:
            start = time.perf_counter()
            with jax.default_matmul_precision("highest"):  # differences of close numbers are to come
                following = next(steps, None)
            if following is None:
                break
            seconds[before].append(time.perf_counter() - start)
            state, before = following, type(following)
            share = plan.share(state)
            last = is_done(state, plan, options.get("tolerance"))
            done((1.0 if last else share) - told)
            told = 1.0 if last else share
            if self.states is not None:
                self.states.save(*where, state, last)
        assert state is not None
        cam = shap_cam_result(state, np.asarray(a))  # type: ignore[arg-type]
        return jax.tree.map(lambda x: np.asarray(x)[None], tuple(cam)), self._without_compilation(request, seconds)

    def _agreed(self, values: jax.Array) -> Any:
        """An array, to the bit the same in all processes."""
        if jax.process_count() == 1:
            return values
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(values)))

    def _without_compilation(self, request: Request, seconds: dict[Any, list[float]]) -> float:
        total = 0.0
        for kind, spent in seconds.items():
            if (request, kind) not in self._warm and len(spent) > 1:
                spent = [statistics.median(spent[1:]), *spent[1:]]
            self._warm.add((request, kind))
            total += sum(spent)
        return total
