"""A long computation as steps: run to its end inside a program, or step by step from the host.

Step by step it can be watched, divided among devices, saved and taken up again; and on processors XLA runs
convolutions inside loops some 20 times slower than outside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxcam.errors import JaxcamError
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding, over_devices, replicate
from jaxcam.transforms.convolutions import for_cpu
from jaxcam.transforms.precision import at_precision

#: All that a computation has found so far: a `NamedTuple` of arrays.
State = Any


class Steps(Protocol):
    """A computation in steps, and how it is divided into them: frozen and hashable, as programs are compiled for it.

    The functions are pure, but for `share` and `check`. A state is a `NamedTuple` of arrays; what is compiled depends
    on its kind and shapes alone.
    """

    @property
    def states(self) -> tuple[type, ...]:
        """The kinds of states in the order in which they come; steps of the last kind are repeated."""

    @property
    def count(self) -> int:
        """Steps of the last kind, where nothing ends them early."""

    def __hash__(self) -> int:
        """Equal for equal steps."""

    @property
    def repeats(self) -> int | None:
        """How often a step of the last kind follows the first state of that kind; None where a state may end it."""

    def start(self, problem: Any, sharding: RowSharding = ONE_DEVICE) -> State:
        """The first state."""

    def advance(self, problem: Any, state: State, sharding: RowSharding = ONE_DEVICE) -> State:
        """The next state."""

    def done(self, state: State) -> jax.Array | bool:
        """Whether a state is the last one."""

    def share(self, state: State) -> float:
        """How much of the computation is behind a state, in [0, 1], where nothing ends it early."""

    def check(self, data: Any, state: State, resumed: bool) -> None:
        """Raises a JaxcamError for numbers that are not finite; of a `resumed` state, where it is of other data."""


def run(steps: Steps, problem: Any) -> State:
    """The last state; pure, for the inside of a program. Where nothing ends it early, gradients go through it."""
    state = steps.start(problem)
    while type(state) is not steps.states[-1]:
        state = steps.advance(problem, state)
    repeats = getattr(steps, "repeats", None)  # of steps written before there was such a thing
    if repeats is None:
        return jax.lax.while_loop(lambda s: ~steps.done(s), lambda s: steps.advance(problem, s), state)
    # Backwards each step is computed anew: kept, all of them would be as many activations as there are coalitions.
    step = jax.checkpoint(lambda s: steps.advance(problem, s))
    return jax.lax.fori_loop(0, repeats, lambda _, s: step(s), state)


def itself(data: Any) -> Any:
    """What steps that need no preparation work on."""
    return data


def drive(
    steps: Steps,
    data: Any,
    *,
    prepare: Callable[[Any], Any] = itself,
    mesh: Mesh | None = None,
    state: State | None = None,
    call: Callable[..., Any] = lambda program, *arrays: program(*arrays),
) -> Iterator[State]:
    """Yields the state after every step, as NumPy arrays, from the host.

    A state can be saved and passed back as `state`: the computation goes on from there, and its result is, to the bit,
    that of one without interruption on the same devices. Each kind of step is compiled once for equal `steps`, an
    equal `prepare` and data of the same shapes.

    Args:
      steps: the computation.
      data: a pytree of arrays.
      prepare: what the steps work on, of the data; hashable, and a part of every program.
      mesh: devices to divide the rows of each step among, with one axis (`sharded.orderings_mesh`), of one process or
        of several, of which each makes the same calls. The result does not depend on it, up to rounding.
      state: where an earlier run left off; it is yielded first.
      call: runs a compiled step, `call(program, *arrays)`: the place to take the time.

    Raises:
      JaxcamError: as `steps.check`, and for a state of another kind.
    """
    placed = replicate(data, mesh)
    resumed = state is not None
    if state is None:
        state = _on_host(call(_first(steps, prepare, mesh), placed))
    elif type(state) not in steps.states:
        raise JaxcamError("the saved state is of another estimator; begin anew, or ask for that one")
    steps.check(data, state, resumed)
    yield state
    while not bool(steps.done(state)):
        state = _on_host(call(_next(steps, prepare, mesh), placed, replicate(state, mesh)))
        steps.check(data, state, False)
        yield state


def _on_host(state: State) -> State:
    return jax.tree.map(np.asarray, state)


@functools.lru_cache(maxsize=64)
def _first(steps: Steps, prepare: Callable, mesh: Mesh | None) -> Any:
    return jax.jit(
        over_devices(lambda sharding: for_cpu(at_precision(lambda data: steps.start(prepare(data), sharding))), mesh)
    )


@functools.lru_cache(maxsize=64)
def _next(steps: Steps, prepare: Callable, mesh: Mesh | None) -> Any:
    def step(sharding: RowSharding) -> Callable:
        return for_cpu(at_precision(lambda data, state: steps.advance(prepare(data), state, sharding)))

    return jax.jit(over_devices(step, mesh))
