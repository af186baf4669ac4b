"""SHAP-CAM driven from the host, step by step: progress, several devices, and runs that survive a kill."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcam.errors import JaxcamError
from jaxcam.methods.result import CAM, HeadFn, Params, Target, scalar_score
from jaxcam.methods.sampling import exact, finish, present, sampled_layer
from jaxcam.methods.schedule import Plan, State, plan_shap_cam
from jaxcam.shapley import adjusted, moments, permutations
from jaxcam.shapley.adjusted import AdjustedState, Pilot
from jaxcam.shapley.permutations import PermutationState
from jaxcam.shapley.sharded import Rows, over_devices, replicate
from jaxcam.transforms.coalition import Game, coalition_game


class _Run(NamedTuple):
    """What a compiled step depends on besides its arrays."""

    head: HeadFn
    score: Callable | None
    estimator: str
    precision: str
    impl: str
    mesh: Mesh | None

    def game(self, params: Params, activations: jax.Array, target: Any) -> Game:
        score = scalar_score(self.head, params, target if self.score is None else self.score)
        return coalition_game(score, activations, precision=self.precision)


@functools.partial(jax.jit, static_argnames=("run", "plan"))
def _begin(params, activations, target, key, *, run: _Run, plan: Plan):
    def start(rows: Rows):
        def body(params, activations, target, key):
            game = run.game(params, activations, target)
            key = jax.random.wrap_key_data(key, impl=run.impl)
            if plan.kind == "exact":
                found = exact(game)
                none = moments.none(game.num_players, found.values.dtype)
                samples = none._replace(count=jnp.full_like(none.count, 2), mean=found.values)  # of no variance
                full, empty = (x.astype(found.values.dtype) for x in (found.v_full, found.v_empty))
                return PermutationState(permutations.raw_key(key), samples, full, empty, found.evaluations)
            if plan.kind == "permutations":
                return permutations.start(game, key, game.num_players)
            assert plan.spend is not None
            options: dict[str, Any] = {"spend": plan.spend, "chunk_size": plan.chunk, "rows": rows}
            return adjusted.pilot(game, sampled_layer(game), key, present(activations), **options)

        return body

    return over_devices(start, run.mesh)(params, activations, target, key)


@functools.partial(jax.jit, static_argnames=("run", "plan"))
def _advance(params, activations, target, state, *, run: _Run, plan: Plan):
    def step(rows: Rows):
        def body(params, activations, target, state):
            game = run.game(params, activations, target)
            options: dict[str, Any] = {"size": plan.size, "chunk_size": plan.chunk, "impl": run.impl, "rows": rows}
            if isinstance(state, PermutationState):
                return permutations.advance(game, state, plan.total, antithetic=plan.antithetic, **options)
            if isinstance(state, AdjustedState):
                return adjusted.advance(game, state, plan.total, **options)
            assert plan.spend is not None
            return adjusted.begin(sampled_layer(game), state, spend=plan.spend, impl=run.impl)

        return body

    return over_devices(step, run.mesh)(params, activations, target, state)


def shap_cam_steps(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_permutations: int = 100,
    estimator: str = "auto",
    tolerance: float | None = None,
    chunk_size: int | None = None,
    precision: str = "highest",
    mesh: Mesh | None = None,
    state: State | None = None,
) -> Iterator[State]:
    """`shap_cam` driven from the host: yields its state after every step; `shap_cam_result` makes a map of one.

    A state is a pytree of NumPy arrays, to be saved and passed back as `state`: the run goes on from there, and its
    result is, to the bit, that of a run without interruption on the same devices. Each kind of step is compiled
    once for all activations, classes, keys and parameters of the same shapes.

    Args:
      params, activations, key, target, num_permutations, estimator, precision: as in `shap_cam`, whose result this
        is, up to rounding.
      head: as in `shap_cam`; programs are kept by it, so that equal heads should be equal objects.
      tolerance: as in `shap_cam`, looked at after every step.
      chunk_size: coalitions evaluated at once by each device, and in each step; chosen from the head's size
        when None.
      mesh: devices to divide the orderings among, an axis "orderings" (`jaxcam.shapley.sharded.orderings_mesh`),
        of one process or of several, of which each makes the same calls. The result does not depend on it,
        up to rounding.
      state: where an earlier run with the same arguments left off.

    Raises:
      JaxcamError: as `shap_cam`; the head gives NaN; a `state` of another run.
    """
    devices = 1 if mesh is None else mesh.size
    plan = plan_shap_cam(
        params, activations, head=head, target=target, num_permutations=num_permutations, estimator=estimator,
        tolerance=tolerance, chunk_size=chunk_size, precision=precision, devices=devices,
    )  # fmt: skip
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        impl = permutations.key_impl(key)
    else:
        impl = str(jax.random.key_impl(jax.random.wrap_key_data(key)))
    run = _Run(head, target if callable(target) else None, estimator, precision, impl, mesh)
    index = np.asarray(0 if callable(target) else target, np.int32)
    data = replicate((params, activations, index), mesh)
    raw = np.asarray(permutations.raw_key(key))
    if state is None:
        state = _host(_begin(*data, *replicate((raw,), mesh), run=run, plan=plan))
        yield _finite(state)
    else:
        _check_state(state, plan, raw, impl, jnp.shape(activations)[-1])
        yield state
    while not is_done(state, plan, tolerance):
        state = _host(_advance(*data, replicate(state, mesh), run=run, plan=plan))
        yield _finite(state)


def is_done(state: State, plan: Plan, tolerance: float | None = None) -> bool:
    """Whether a state is the last one of its run."""
    if isinstance(state, Pilot):
        return False
    done = adjusted.done if isinstance(state, AdjustedState) else permutations.done
    return plan.kind == "exact" or bool(done(state, plan.total, tolerance))  # type: ignore[arg-type]


def shap_cam_result(state: AdjustedState | PermutationState, activations: jax.Array) -> CAM:
    """What `shap_cam` returns, as far as a state knows it."""
    return finish(jax.tree.map(jnp.asarray, state.estimate), activations)


def _host(state: Any) -> Any:
    return jax.tree.map(np.asarray, state)


def _finite(state: State) -> State:
    seen = state.differences if isinstance(state, Pilot) else state.samples.mean
    if not np.isfinite([state.v_full, state.v_empty]).all() or not np.isfinite(seen).all():
        raise JaxcamError(
            f"the head gives values that are not finite: {state.v_full} for all channels, {state.v_empty} for none; "
            "look for NaN or overflow in its weights and in the activations"
        )
    return state


def _check_state(state: State, plan: Plan, raw: np.ndarray, impl: str, channels: int) -> None:
    kinds = {"adjusted": Pilot | AdjustedState}.get(plan.kind, PermutationState)
    if not isinstance(state, kinds):
        raise JaxcamError("the saved state is of another estimator; begin anew, or ask for that one")
    players = state.present.shape[0] if isinstance(state, Pilot) else state.samples.mean.shape[0]
    if players != channels:
        raise JaxcamError(f"the saved state is of {players} channels, the activations have {channels}")
    key = jax.random.wrap_key_data(jnp.asarray(raw), impl=impl)
    expected = jax.random.split(key)[0] if plan.kind == "adjusted" else key
    if not np.array_equal(np.asarray(state.key), np.asarray(permutations.raw_key(expected))):
        raise JaxcamError("the saved state belongs to a run with another random key; pass the key it began with")
