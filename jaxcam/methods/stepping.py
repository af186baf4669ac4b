"""A method that takes many steps: what an entry of `METHODS` gives for one, and its one way from the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcam.methods.result import CAM, Inputs, Params
from jaxcam.shapley.permutations import raw_key
from jaxcam.shapley.stepping import State, Steps, drive


class Data(NamedTuple):
    """The arrays among the `Inputs`: what every step takes.

    Attributes:
      params, network_params, activations, image: as in `Inputs`.
      target: `()` the class; 0 where the target is a function.
      key: the raw random key.
    """

    params: Params
    network_params: Params
    activations: jax.Array
    image: Any
    target: Any
    key: Any

    @property
    def players(self) -> int:
        """K."""
        return jnp.shape(self.activations)[-1]


@dataclasses.dataclass(frozen=True)
class Stepped:
    """A method with its options, divided into steps; equal ones are compiled once.

    Attributes:
      steps: the computation.
      prepare: what it works on, of `Data`.
      finish: `(steps, state, activations) -> CAM`.
    """

    steps: Steps
    prepare: Callable[[Data], Any]
    finish: Callable[[Any, State, jax.Array], CAM]

    def states(self, inputs: Inputs, *, mesh: Mesh | None = None, state: State | None = None, **more: Any) -> Iterator:
        """The method step by step: `drive` on one example."""
        key = None if inputs.key is None else np.asarray(raw_key(inputs.key))
        target = np.asarray(0 if callable(inputs.target) else inputs.target, np.int32)
        data = Data(inputs.params, inputs.network_params, inputs.activations, inputs.image, target, key)
        return drive(self.steps, data, prepare=self.prepare, mesh=mesh, state=state, **more)

    def run(self, inputs: Inputs, **more: Any) -> CAM:
        """All steps, and what the method returns."""
        *_, last = self.states(inputs, **more)
        return self.result(last, inputs.activations)

    def result(self, state: State, activations: jax.Array) -> CAM:
        """Of a last state what the method returns; of another what is known so far."""
        return self.finish(self.steps, state, activations)
