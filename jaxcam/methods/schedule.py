"""How a long run of SHAP-CAM is divided into steps, found by tracing the head without any arithmetic."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError, unknown
from jaxcam.methods.result import HeadFn, Params, Target, check_activations, scalar_score
from jaxcam.methods.sampling import ESTIMATORS, is_adjusted, sampled_layer
from jaxcam.shapley.adjusted import AdjustedState, Budget, Pilot, budget
from jaxcam.shapley.permutations import PermutationState
from jaxcam.shapley.result import check_count, float_dtype
from jaxcam.transforms.coalition import CHUNK_ELEMENTS, Game, coalition_game

#: All that a run has found so far: a pytree of arrays.
State = Pilot | AdjustedState | PermutationState

#: MFLOP of one step: some seconds on a laptop's processor, a moment on an accelerator.
STEP_MEGAFLOPS = 2e5
#: What a coalition costs however small the head.
_LEAST_MEGAFLOPS = 0.01


class Plan(NamedTuple):
    """How a run is divided into steps; found by tracing the head, without arithmetic.

    Attributes:
      kind: "exact", "adjusted" or "permutations".
      total: independent samples: orderings, pairs of them, or pairs of coalitions.
      size: samples in a step.
      chunk: coalitions evaluated at once by a device.
      antithetic: whether orderings come in pairs.
      spend: what the evaluations of "adjusted" go to.
    """

    kind: str
    total: int
    size: int
    chunk: int
    antithetic: bool
    spend: Budget | None = None

    @property
    def steps(self) -> int:
        """Steps of a run that no tolerance ends early, those before the sampling proper not counted."""
        return 1 if self.kind == "exact" else -(-self.total // self.size)

    def share(self, state: State) -> float:
        """How much of the run is behind a state, in [0, 1]."""
        if self.kind == "exact":
            return 1.0
        if isinstance(state, Pilot):
            return 0.9 * state.differences.shape[0] / self.total
        return float(state.samples.count) / self.total


def plan_shap_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_permutations: int = 100,
    estimator: str = "auto",
    tolerance: float | None = None,
    chunk_size: int | None = None,
    precision: str = "highest",
    devices: int = 1,
) -> Plan:
    """How `shap_cam_steps` would go about it; the head is traced once for all arrays of these shapes.

    Raises:
      JaxcamError: as `shap_cam`, and for a tolerance that is not a positive number.
    """
    count = check_count("num_permutations", num_permutations)
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    if tolerance is not None and not (isinstance(tolerance, int | float) and 0 < tolerance < float("inf")):
        raise JaxcamError(f"tolerance must be a positive number, such as 0.01, not {tolerance!r}")
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)
    check_activations(activations)
    leaves, tree = jax.tree.flatten((params, activations))
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves)
    if not callable(target) and jnp.ndim(target) == 0 and jnp.issubdtype(jnp.result_type(target), jnp.integer):
        target = int(target)
    options = (count, estimator, chunk_size, precision, devices)
    return _plan(head, target, tree, shapes, float_dtype(), *options)


@functools.lru_cache(maxsize=256)
def _plan(head, target, tree, shapes, default, count, estimator, chunk_size, precision, devices) -> Plan:
    found: list[Plan] = []

    def look(params, activations):
        game = coalition_game(scalar_score(head, params, target), activations, precision=precision)
        found.append(_plan_of(game, count, estimator, chunk_size, devices))
        return 0

    jax.eval_shape(look, *jax.tree.unflatten(tree, shapes))
    return found[0]


def _plan_of(game: Game, count: int, estimator: str, chunk_size: int | None, devices: int) -> Plan:
    inner = game.num_players - 1
    if game.is_additive or not inner:
        return Plan("exact", 1, 1, 1, False)
    antithetic = estimator != "plain"
    count += count % 2 if antithetic else 0
    adjusted = is_adjusted(game, estimator, count)
    spend = budget(game.num_players, count, sampled_layer(game)) if adjusted else None
    # Evaluations of a sample: one ordering, two, or a coalition and its complement.
    each = 2 if spend else 2 * inner if antithetic else inner
    total = spend.total if spend else count // (2 if antithetic else 1)
    if chunk_size is None:
        chunk = game.default_chunk(count * inner)
        chunk = min(chunk, int(STEP_MEGAFLOPS / max(_LEAST_MEGAFLOPS, game.megaflops)) + 1)
        # Where a little more memory takes all of a sample at once, no loop is needed: XLA runs
        # convolutions inside loops slowly on processors.
        if each * game.elements <= 4 * CHUNK_ELEMENTS:
            chunk = max(chunk, each)
    else:
        chunk = chunk_size
    size = max(1, min(total, chunk * devices // each))
    size = -(-total // -(-total // size))
    return Plan("adjusted" if spend else "permutations", total, size, chunk, antithetic, spend)
