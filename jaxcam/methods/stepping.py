"""A method that takes many steps: what an entry of `METHODS` gives for one, and its one way from the host."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcam.errors import JaxcamError
from jaxcam.methods.result import CAM, Inputs, Params, Target
from jaxcam.methods.targets import OfClasses
from jaxcam.shapley.permutations import raw_key
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding
from jaxcam.shapley.stepping import State, Steps, drive, itself, run

F = TypeVar("F", bound=Callable)


class Data(NamedTuple):
    """The arrays among the `Inputs`: what every step takes.

    Attributes:
      params, network_params, activations, image: as in `Inputs`.
      target: `()` the class, or the classes of a target that is a function of some; 0 of another function.
      key: the raw random key.
      references: as in `Inputs`.
    """

    params: Params
    network_params: Params
    activations: jax.Array
    image: Any
    target: Any
    key: Any
    references: Any = None

    @property
    def players(self) -> int:
        """K."""
        return jnp.shape(self.activations)[-1]

    def explained(self, function: Callable | None) -> Target:
        """The target: a function of the logits where there is one, else the class."""
        return joined_target(function, self.target)


def split_target(target: Target) -> tuple[Callable | None, Any]:
    """A target's two parts: the function, which is a part of programs, and the class or classes, which are data."""
    if isinstance(target, OfClasses):
        return target.parts()
    return (target, None) if callable(target) else (None, target)


def joined_target(function: Callable | None, data: Any) -> Target:
    """The target of which these are the parts."""
    if isinstance(function, OfClasses):
        return function.with_classes(data)
    return data if function is None else function


@dataclasses.dataclass(frozen=True)
class Repeated:
    """`Steps` of which all are alike and so many are taken: a subclass says how one begins, and what one does.

    Its states, of one kind, count the steps in a field `taken`. One device runs all of them.

    Attributes:
      count: of steps.
    """

    count: int

    @property
    def repeats(self) -> int:
        return self.count

    def step(self, data: Data, state: Any) -> Any:
        """The state after one more step, but for `taken`."""
        raise NotImplementedError

    def advance(self, data: Data, state: Any, sharding: RowSharding = ONE_DEVICE) -> Any:
        return self.step(data, state)._replace(taken=state.taken + 1)

    def done(self, state: Any) -> Any:
        return state.taken >= self.count

    def share(self, state: Any) -> float:
        return float(state.taken) / self.count

    def check(self, data: Data, state: Any, resumed: bool) -> None:
        if not resumed:
            return
        anew = jax.eval_shape(self.start, data)  # type: ignore[attr-defined]
        if jax.tree.map(jnp.shape, state) != jax.tree.map(jnp.shape, anew) or state.taken > self.count:
            raise JaxcamError("the saved state is of another layer or of other options; begin anew")


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
        _, classes = split_target(inputs.target)
        target = jax.tree.map(lambda index: np.asarray(index, np.int32), 0 if classes is None else classes)
        given = inputs.params, inputs.network_params, inputs.activations, inputs.image
        data = Data(*given, target, key, inputs.references)
        return drive(self.steps, data, prepare=self.prepare, mesh=mesh, state=state, **more)

    def run(self, inputs: Inputs, **more: Any) -> CAM:
        """All steps, and what the method returns."""
        *_, last = self.states(inputs, **more)
        return self.result(last, inputs.activations)

    def in_one_program(self, data: Data) -> CAM:
        """The same, of arrays, inside a program."""
        return self.result(run(self.steps, self.prepare(data)), data.activations)

    def result(self, state: State, activations: jax.Array) -> CAM:
        """Of a last state what the method returns; of another what is known so far."""
        return self.finish(self.steps, state, activations)


def divided(steps: Any) -> Any:
    """What a method under `one_program` returns: `Stepped`, of steps that have a `finish` of their own."""
    return Stepped(steps, itself, type(steps).finish)


def one_program(by: Callable[[Stepped, Data], CAM] = Stepped.in_one_program) -> Callable[[F], F]:
    """A method that ends in `divided` as its callers see it, and annotate it: all steps are done in one program.

    Args:
      by: how.
    """

    def made(divide: F) -> F:
        signature = inspect.signature(divide)

        @functools.wraps(divide)
        def method(*args: Any, **options: Any) -> CAM:
            return by(divide(*args, **options), _data(**signature.bind(*args, **options).arguments))

        return method  # type: ignore[return-value]

    return made


def division(method: Callable[..., CAM]) -> Callable[..., Stepped]:
    """The steps of a method under `one_program`; one device runs all of them: `devices` makes no difference."""
    divide: Any = inspect.unwrap(method)
    return lambda *args, devices=1, **options: divide(*args, **options)


def _data(params: Params, activations: jax.Array, *, target: Target, **given: Any) -> Data:
    """The arrays among a method's arguments; of one that takes the image the parameters are the network's."""
    image, key = given.get("image"), given.get("key")
    own, whole = (params, None) if image is None else (None, params)
    raw = None if key is None else raw_key(key)
    return Data(own, whole, activations, image, split_target(target)[1], raw, given.get("references"))
