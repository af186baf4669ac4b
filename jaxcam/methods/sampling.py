"""The methods that ask for the logit of random coalitions of channels: SHAP-CAM, KSHAP-CAM and LIME-CAM."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam import shapley
from jaxcam.errors import JaxcamError, check_known
from jaxcam.methods.result import (
    CAM,
    HeadFn,
    Params,
    Target,
    cam_of_coefficients,
    check_activations,
    scalar_score,
)
from jaxcam.methods.stepping import Data, Stepped, split_target
from jaxcam.shapley import moments, sparse
from jaxcam.shapley.adjusted import Adjusted, Budget, budget
from jaxcam.shapley.exact import Enumeration, is_enumerable
from jaxcam.shapley.permutations import Permutations, PermutationState, check_values, key_impl
from jaxcam.shapley.result import Problem, at_least, check_count, check_key, check_tolerance, float_dtype
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding
from jaxcam.shapley.stepping import Steps
from jaxcam.shapley.surrogate import MAX_FITTED, NODES, SINES, GameLayer
from jaxcam.transforms.arithmetic import quotient
from jaxcam.transforms.coalition import Game, chunk_elements, coalition_game
from jaxcam.transforms.coalition.first_layer import first_layer
from jaxcam.transforms.memory import room_for

#: How `shap_cam` spends its evaluations; `plain` is the paper's.
ESTIMATORS = ("auto", "adjusted", "antithetic", "plain")
#: Elementwise arithmetic runs at about this fraction of the speed of matrix products.
ELEMENTWISE = 1 / 20
#: Larger layers (a convolution's) cost more to explain than they save.
MAX_LAYER = 4096
#: A surrogate may cost so many times what the head does. Error times seconds came out 2 to 6 times better than of
#: antithetic orderings on vgg16_slim from 30 orderings on (at 10, 1.6 times worse), 18 to 84 times on SqueezeNet.
WORTH = 16.0
#: MFLOP of one step: some seconds on a laptop's processor. Devices with more memory take more.
STEP_MEGAFLOPS = 200_000
#: What a coalition costs however small the head.
_LEAST_MEGAFLOPS = 0.01


def _game(params, activations, head, target, precision) -> Game:
    check_activations(activations)
    return coalition_game(scalar_score(head, params, target), activations, precision=precision)


def _additive(game: Game) -> shapley.Estimate:
    """The Shapley values of an additive game: nothing to evaluate."""
    base, values = game.marginals()
    return shapley.Estimate(values, jnp.zeros_like(values), jnp.asarray(0, jnp.int32), base + jnp.sum(values), base)


def _enumerated(game: Game, chunk_size: int | None) -> shapley.Estimate:
    """The Shapley values of few channels, from all coalitions."""
    chunk = game.default_chunk(2**game.num_players) if chunk_size is None else check_count("chunk_size", chunk_size)
    return shapley.exact_shapley(game, num_players=game.num_players, chunk_size=chunk)


def _shapley(estimate: shapley.Estimate, activations: jax.Array) -> CAM:
    """The result of an estimate of Shapley values: those of dead channels are known."""
    here = _present(activations)
    alpha, error = (jnp.where(here, x, 0) for x in (estimate.values, estimate.standard_error))
    return _result(estimate._replace(values=alpha, standard_error=error), activations)


def _result(estimate: shapley.Estimate, activations: jax.Array) -> CAM:
    # A sampler adds up in 64 bits where it may; what comes out is as precise as what went in.
    dtype = at_least(jnp.float32, activations.dtype)
    estimate = jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, estimate)
    alpha = estimate.values
    gap = jnp.sum(alpha) - (estimate.v_full - estimate.v_empty)
    return cam_of_coefficients(
        alpha, activations, logit=estimate.v_full, logit_zero=estimate.v_empty, completeness_gap=gap,
        standard_error=estimate.standard_error, evaluations=estimate.evaluations,
    )  # fmt: skip


def shap_cam(
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
    precision: str | None = None,
) -> CAM:
    """SHAP-CAM: the Shapley value of each channel, its mean marginal contribution over random orderings.

    Exact, with no sampling and whatever the key, on a linear head; and wherever all `2^K` coalitions, of at most 16
    channels, cost no more than what was asked for: they are enumerated then, whichever the estimator. Otherwise every
    ordering's contributions sum to `F(A) - F(0)`, so the coefficients do. A channel that is zero everywhere gets
    exactly 0.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example.
      key: a `jax.random` key; the same key gives the same coefficients whatever the chunk size.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function `logits -> ()`.
      num_permutations: orderings, at most; for "adjusted" what they cost.
      estimator: all are unbiased. "plain" is the paper's: independent orderings. "antithetic" takes each
        ordering with its reverse (an odd number is rounded up), which cancels the noise of all interactions of two
        channels. "adjusted" takes random coalitions with their complements, which cancels that too, and samples only
        what a fitted surrogate leaves unexplained, in the units of the head's first layer where it has one of at most
        4096 (`jaxcam.shapley.adjusted_shapley`); where the cost is too little to fit anything, it is "antithetic".
        "auto" is "adjusted" unless the surrogate's own arithmetic is more than it saves, as for a tiny head.
      tolerance: stop once the largest standard error is at most this share of `|F(A) - F(0)|`. The errors then hold
        what events as large as any seen, but too rare to be in the samples, may add (`shapley.permutation_shapley`).
      chunk_size: coalitions evaluated at once; chosen from the head's size when None.
      precision: of the products that each coalition costs: "highest", "tf32" or "bfloat16", of which lower ones are
        faster on accelerators, and less exact; what an outer `transforms.at_precision` says, else the highest.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A), `logit_zero` F(0), `completeness_gap`, `standard_error (K,)`
      and `evaluations`. Cost: `num_permutations * (K - 1) + 2` evaluations (one more where those do not divide), or
      `2^K` where that is less, of the head behind its first dense layer or convolution, which is shared by all of them.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, the class does not exist (a traced one gives NaN
        throughout instead), no permutation was asked for, a tolerance is no positive number, or the head is not
        finite.

    References:
      Jung & Oh, Towards Better Explanations of Class Activation Mapping, ICCV 2021, eq. 6.
      Castro et al., Polynomial calculation of the Shapley value based on sampling, 2009.
    """
    count = check_count("num_permutations", num_permutations)
    check_key(key)
    check_tolerance(tolerance)
    check_known("estimator", estimator, ESTIMATORS)
    game = _game(params, activations, head, target, precision)
    players = game.num_players
    if game.is_additive:
        return _shapley(_additive(game), activations)
    if estimator != "plain":
        count += count % 2
    if is_enumerable(players, count * (players - 1) + 2):
        return _shapley(_enumerated(game, chunk_size), activations)
    chunk = game.default_chunk(count * (players - 1)) if chunk_size is None else chunk_size
    if _is_adjusted(game, estimator, count):
        estimate = shapley.adjusted_shapley(
            game, key, num_players=players, num_permutations=count, layer=sampled_layer(game),
            present=_present(activations), chunk_size=chunk, tolerance=tolerance,
        )  # fmt: skip
    else:
        estimate = shapley.permutation_shapley(
            game, key, num_players=players, num_permutations=count, antithetic=estimator != "plain",
            chunk_size=chunk, tolerance=tolerance,
        )  # fmt: skip
    return _shapley(estimate, activations)


def sampled_layer(game: Game) -> GameLayer | None:
    """The head's first layer, where a surrogate can be made of its units."""
    layer = first_layer(game)
    return None if layer is None or layer.base.shape[0] > MAX_LAYER else GameLayer(*layer)


def _present(activations: jax.Array) -> jax.Array:
    """`(K,)` bool: channels that are not zero everywhere."""
    return (activations != 0).any((0, 1))


def _is_adjusted(game: Game, estimator: str, num_permutations: int) -> bool:
    """Whether an estimator fits a surrogate for so many orderings, by the cost of its arithmetic."""
    if estimator not in ("auto", "adjusted"):
        return False
    layer = sampled_layer(game)
    spend = budget(game.num_players, num_permutations, layer)
    if spend is None or estimator == "adjusted":
        return spend is not None
    if layer is None:
        cost = sparse.megaflops(game.num_players, spend.pilot, spend.total)
    else:
        cost = _megaflops(game.num_players, layer.base.shape[0], spend)
    return cost <= WORTH * game.megaflops * 2 * spend.total


def _megaflops(players: int, units: int, spend: Budget) -> float:
    """The arithmetic of a layer's surrogate, elementwise operations at the speed of matrix products."""
    width = 3 * players + min(units, MAX_FITTED)
    pair = 2 * players * units + 40 * units / ELEMENTWISE
    fixed = width**3 + 64 * players * units * SINES * NODES / ELEMENTWISE
    return 1e-6 * (spend.total * pair + spend.pilot * (3 * width**2 + pair) + fixed)


@dataclasses.dataclass(frozen=True)
class HeadGame:
    """`prepare` of SHAP-CAM: the game of a head.

    Attributes:
      head: as in `shap_cam`.
      score: the target, where it is a function, without the classes that it is of.
      precision: as in `shap_cam`.
    """

    head: HeadFn
    score: Callable | None
    precision: str | None

    def __call__(self, data: Data) -> Problem:
        score = scalar_score(self.head, data.params, data.explained(self.score))
        game = coalition_game(score, data.activations, precision=self.precision)
        return Problem(game, data.key, _present(data.activations), sampled_layer(game))


@dataclasses.dataclass(frozen=True)
class Exact:
    """The Shapley values of a game that has nothing to evaluate, as `Steps`: one."""

    count = 1
    repeats = 0
    states = (PermutationState,)

    def start(self, problem: Problem, sharding: RowSharding = ONE_DEVICE) -> PermutationState:
        game: Any = problem.v
        found = _additive(game)
        none = moments.none(problem.players, found.values.dtype)
        samples = none._replace(count=jnp.full_like(none.count, 2), mean=found.values)  # of no variance
        full, empty = (x.astype(found.values.dtype) for x in (found.v_full, found.v_empty))
        return PermutationState(problem.key, samples, full, empty, found.evaluations, jnp.abs(full - empty))

    def advance(self, problem: Problem, state: Any, sharding: RowSharding = ONE_DEVICE) -> Any:
        return state

    def done(self, state: PermutationState) -> bool:
        return True

    def share(self, state: PermutationState) -> float:
        return 1.0

    def check(self, data: Data, state: PermutationState, resumed: bool) -> None:
        check_values(state.v_full, state.v_empty, state.samples.mean)


def stepped_shap_cam(
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
    precision: str | None = None,
    devices: int = 1,
) -> Stepped:
    """`shap_cam` divided into steps, with the same result up to rounding.

    The head is traced once for all arrays of these shapes, without any arithmetic.

    Args:
      params, activations, key, target, num_permutations, estimator, tolerance, precision: as in `shap_cam`; the
        tolerance is looked at after every step.
      head: as in `shap_cam`; programs are kept by it, so that equal heads should be equal objects.
      chunk_size: coalitions evaluated at once by each device, and in each step; chosen from the head's size when None.
      devices: that share a step.

    Raises:
      JaxcamError: as `shap_cam`.
    """
    count = check_count("num_permutations", num_permutations)
    check_known("estimator", estimator, ESTIMATORS)
    check_tolerance(tolerance)
    if chunk_size is not None:
        check_count("chunk_size", chunk_size)
    check_activations(activations)
    leaves, tree = jax.tree.flatten((params, activations))
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves)
    if not callable(target) and jnp.ndim(target) == 0 and jnp.issubdtype(jnp.result_type(target), jnp.integer):
        target = int(target)
    options = (count, estimator, chunk_size, precision, devices, key_impl(key))
    steps = _division(head, target, tree, shapes, float_dtype(), *options)
    if isinstance(steps, Adjusted | Permutations):
        steps = dataclasses.replace(steps, tolerance=tolerance)
    else:
        tolerance = None
    return Stepped(steps, HeadGame(head, split_target(target)[0], precision), _OfState(tolerance))


@dataclasses.dataclass(frozen=True)
class _OfState:
    """The result of a state: part of the program, unlike the steps' own tolerance, as errors depend on it."""

    tolerance: float | None

    def __call__(self, steps: Steps, state: Any, activations: jax.Array) -> CAM:
        return _shapley(shapley.estimate_within(state, self.tolerance), activations)


@functools.lru_cache(maxsize=256)
def _division(head, target, tree, shapes, default, count, estimator, chunk_size, precision, devices, impl) -> Steps:
    found: list[Steps] = []

    def look(params, activations):
        game = coalition_game(scalar_score(head, params, target), activations, precision=precision)
        found.append(_division_of(game, count, estimator, chunk_size, devices, impl))
        return 0

    jax.eval_shape(look, *jax.tree.unflatten(tree, shapes))
    return found[0]


def _division_of(game: Game, count: int, estimator: str, chunk_size: int | None, devices: int, impl: str) -> Steps:
    inner = game.num_players - 1
    if game.is_additive:
        return Exact()
    antithetic = estimator != "plain"
    count += count % 2 if antithetic else 0
    if is_enumerable(game.num_players, count * inner + 2):
        total = 2**game.num_players
        chunk = _step_chunk(game, total, 1) if chunk_size is None else chunk_size
        return Enumeration(game.num_players, min(total, chunk * devices), chunk)
    adjusted = _is_adjusted(game, estimator, count)
    spend = budget(game.num_players, count, sampled_layer(game)) if adjusted else None
    # Evaluations of a sample: one ordering, two, or a coalition and its complement.
    each = 2 if spend else 2 * inner if antithetic else inner
    total = spend.total if spend else count // (2 if antithetic else 1)
    chunk = _step_chunk(game, count * inner, each) if chunk_size is None else chunk_size
    size = max(1, min(total, chunk * devices // each))
    size = -(-total // -(-total // size))
    return Adjusted(spend, size, chunk, impl) if spend else Permutations(total, size, antithetic, chunk, impl)


def _step_chunk(game: Game, wanted: int, each: int) -> int:
    """How many of `wanted` coalitions a device takes at once, where a sample is `each` of them."""
    chunk = min(game.default_chunk(wanted), int(room_for(STEP_MEGAFLOPS) / max(_LEAST_MEGAFLOPS, game.megaflops)) + 1)
    # Where a little more memory takes all of a sample at once, no loop is needed: XLA runs
    # convolutions inside loops slowly on processors.
    return max(chunk, each) if each * game.elements <= 4 * chunk_elements() else chunk


def kernel_shap_cam(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_samples: int | None = None,
    paired: bool = True,
    chunk_size: int | None = None,
    precision: str | None = None,
) -> CAM:
    """KSHAP-CAM: Shapley values by KernelSHAP, a weighted regression of the logit on coalitions.

    Sizes are drawn from the Shapley kernel; the empty and the full coalition, of infinite weight, are
    exact constraints, so the coefficients sum to `F(A) - F(0)`. Exact on a linear head, without sampling, and where
    all `2^K` coalitions of at most 16 channels cost no more than N + 2: of all of them the regression gives the
    Shapley values, which are then computed as such.

    Args:
      params, activations, key, head, target: as in `shap_cam`.
      num_samples: coalitions N; 10 K when None. The paper's KSHAP-CAM_K is `num_samples=K`: of the ways to draw and
        solve that were tried, pairs and the solution of least norm come nearest to its figures.
      paired: draw each coalition with its complement (an odd number is rounded up).
      chunk_size, precision: as in `shap_cam`.

    Returns:
      A `CAM`, diagnostics as in `shap_cam`. Cost: N + 2 evaluations behind the head's first layer, and a QR
      factorisation of an N x K matrix.

    Raises:
      JaxcamError: as in `shap_cam`, and for fewer coalitions than K - 1.

    References:
      Lundberg & Lee, NeurIPS 2017; Jung & Oh, supplement, section 4.2.
    """
    game = _game(params, activations, head, target, precision)
    players = game.num_players
    count = 10 * players if num_samples is None else check_count("num_samples", num_samples)
    check_key(key)
    if game.is_additive:
        return _shapley(_additive(game), activations)
    count += count % 2 if paired else 0
    if is_enumerable(players, count + 2):
        return _shapley(_enumerated(game, chunk_size), activations)
    chunk = game.default_chunk(count) if chunk_size is None else chunk_size
    estimate = shapley.kernel_shapley(
        game, key, num_players=players, num_samples=count, paired=paired, chunk_size=chunk
    )
    return _result(estimate, activations)


def lime_cam(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_samples: int | None = None,
    beta: float = 0.01,
    gamma: float = 0.5,
    chunk_size: int | None = None,
    precision: str | None = None,
) -> CAM:
    """LIME-CAM: a Lasso of the logit on coalitions in which each channel is kept with probability 1/2.

    Minimises `(1/N) sum_i w_i (F_i - b - alpha . a_i)^2 + beta |alpha|_1` with the weights
    `w_i = exp(-|A - A_i|^2 / (gamma^2 |A|^2))`, all 1 where A is zero everywhere.

    Args:
      params, activations, key, head, target: as in `shap_cam`.
      num_samples: coalitions N; K when None. The paper uses K and 10 K.
      beta: the penalty, in units of the logit.
      gamma: width of the weights.
      chunk_size, precision: as in `shap_cam`.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A), `logit_zero` F(0) and `evaluations`. Cost: N + 2 evaluations
      behind the head's first layer.

    Raises:
      JaxcamError: as in `shap_cam`, and for a penalty below 0 or a width that is not above it.

    References:
      Ribeiro et al., KDD 2016; Jung & Oh, supplement, eq. 3 and section 4.1.
    """
    game = _game(params, activations, head, target, precision)
    players = game.num_players
    count = players if num_samples is None else check_count("num_samples", num_samples)
    check_key(key)
    if not isinstance(gamma, jax.core.Tracer) and not 0 < float(gamma) < float("inf"):
        raise JaxcamError(f"gamma must be a positive number, such as 0.5, not {gamma!r}")
    a = activations.astype(at_least(jnp.float32, activations.dtype))
    most = jax.lax.stop_gradient(jnp.max(jnp.abs(a)))  # of which shares of squares do not depend
    energy = jnp.sum(jnp.square(a / jnp.where(most > 0, most, 1)), axis=(0, 1))
    total = jnp.sum(energy)
    share = quotient(energy, total, total > 0)

    def weight(masks):
        return jnp.exp(-jnp.matmul(1.0 - masks, share, precision="highest") / gamma**2)

    estimate = shapley.lime_lasso(
        game, key, num_players=players, num_samples=count, weight=weight, beta=beta,
        chunk_size=game.default_chunk(count) if chunk_size is None else chunk_size,
    )  # fmt: skip
    cam = _result(estimate, activations)
    kept = {k: v for k, v in cam.diagnostics.items() if k not in ("completeness_gap", "standard_error")}
    return cam._replace(diagnostics=kept)
