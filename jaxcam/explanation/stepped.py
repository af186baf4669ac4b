"""Maps that take many steps: their progress, their devices, and their states between two runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxcam.explanation.compiled import timed
from jaxcam.methods.registry import Request
from jaxcam.methods.result import Inputs
from jaxcam.methods.stepping import Stepped
from jaxcam.shapley.stepping import State


class States(Protocol):
    """Where the states of maps in flight are kept."""

    def load(self, source: str, label: str, target: int, kinds: tuple[type, ...]) -> State | None:
        """The state of a map that an earlier run began, of one of these kinds."""

    def save(self, source: str, label: str, target: int, state: State, last: bool) -> None:
        """Keeps a state, unless another was kept a moment ago and this is not the last one."""


@dataclasses.dataclass(frozen=True)
class SteppedMaps:
    """Runs the requests that take more than one step.

    Attributes:
      mesh: devices to divide a map's steps among; None for the default one.
      states: where states are kept; None for nowhere.
      precision: of the programs.
    """

    mesh: Mesh | None
    states: States | None
    precision: str | None = None

    def division(self, request: Request, inputs: Inputs) -> Stepped | None:
        """The steps of a request on inputs of these shapes; None where one program does it at once."""
        stepped = request.stepped(inputs)
        if stepped is None or stepped.steps.count == 1:  # whatever the number of devices
            return None
        return stepped if self.mesh is None else request.stepped(inputs, self.mesh.size)

    def run(
        self, stepped: Stepped, inputs: Inputs, where: tuple[str, str, int], done: Callable[[float], None]
    ) -> tuple[tuple, float]:
        """One map, as `Request.call` gives it, with a leading axis of one, and its seconds without compilation.

        Args:
          inputs: of which all processes have the same, to the bit: see `agreed`.
          where: the picture, the request's label and the class, by which states are kept.
          done: called with the parts of the map as they are made.
        """
        seconds = 0.0

        def call(program, *arrays):
            nonlocal seconds
            result, spent = timed(program, *arrays, warm=False, precision=self.precision)
            seconds += spent
            return result

        steps, told = stepped.steps, 0.0
        state = None if self.states is None else self.states.load(*where, steps.states)
        for following in stepped.states(inputs, mesh=self.mesh, state=state, call=call):
            state, last = following, bool(steps.done(following))
            share = 1.0 if last else steps.share(state)
            done(share - told)
            told = share
            if self.states is not None:
                self.states.save(*where, state, last)
        cam = call(_result(stepped), state, inputs.activations)
        return jax.tree.map(lambda x: np.asarray(x)[None], tuple(cam)), seconds


@functools.lru_cache(maxsize=64)
def _result(stepped: Stepped) -> Any:
    return jax.jit(stepped.result)


def agreed(values: Any) -> Any:
    """Arrays, to the bit the same in all processes."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return jax.tree.map(lambda x: np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(x))), values)
