"""The methods that ask for the logit of random coalitions of channels: SHAP-CAM, KSHAP-CAM and LIME-CAM."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcam import shapley
from jaxcam.errors import unknown
from jaxcam.methods.result import CAM, HeadFn, Params, Target, cam_of_coefficients, check_activations, scalar_score
from jaxcam.shapley.adjusted import Budget, budget
from jaxcam.shapley.result import check_count
from jaxcam.shapley.surrogate import MAX_FITTED, NODES, WAVES, Layer
from jaxcam.transforms.coalition import Game, coalition_game
from jaxcam.transforms.coalition.first_layer import first_layer

#: How `shap_cam` spends its evaluations; `plain` is the paper's.
ESTIMATORS = ("auto", "adjusted", "antithetic", "plain")
#: Elementwise arithmetic runs at about this fraction of the speed of matrix products.
ELEMENTWISE = 1 / 20
#: Larger layers (a convolution's) cost more to explain than they save.
MAX_LAYER = 4096
#: A surrogate may cost so many times what the head does. Error times seconds came out 2 to 6 times better than of
#: antithetic orderings on vgg16_slim from 30 orderings on (at 10, 1.6 times worse), 18 to 84 times on SqueezeNet.
WORTH = 16.0


def _game(params, activations, head, target, precision) -> Game:
    check_activations(activations)
    return coalition_game(scalar_score(head, params, target), activations, precision=precision)


def exact(game: Game) -> shapley.Estimate:
    """The Shapley values of an additive game, or of one channel: nothing to sample."""
    if not game.is_additive:
        return shapley.exact_shapley(game, num_players=game.num_players)
    base, values = game.marginals()
    return shapley.Estimate(values, jnp.zeros_like(values), jnp.asarray(0), base + jnp.sum(values), base)


def finish(estimate: shapley.Estimate, activations: jax.Array) -> CAM:
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
    precision: str = "highest",
) -> CAM:
    """SHAP-CAM: the Shapley value of each channel, its mean marginal contribution over random orderings.

    Exact, with no sampling and whatever the key, on a linear head. Otherwise every ordering's
    contributions sum to `F(A) - F(0)`, so the coefficients do. A channel that is zero everywhere gets 0.

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
      tolerance: stop once the largest standard error is at most this share of `|F(A) - F(0)|`.
      chunk_size: coalitions evaluated at once; chosen from the head's size when None.
      precision: of the matrix products; lower ones are faster on accelerators, and less exact.

    Returns:
      A `CAM`; `diagnostics` holds `logit` F(A), `logit_zero` F(0), `completeness_gap`, `standard_error (K,)`
      and `evaluations`. Cost: `num_permutations * (K - 1) + 2` evaluations (one more where those do not divide)
      of the head behind its first dense layer or convolution, which is shared by all of them.

    Raises:
      JaxcamError: activations are not `(h, w, K)` floats, the class does not exist, no permutation was
        asked for, or the head is not finite.

    References:
      Jung & Oh, Towards Better Explanations of Class Activation Mapping, ICCV 2021, eq. 6.
      Castro et al., Polynomial calculation of the Shapley value based on sampling, 2009.
    """
    count = check_count("num_permutations", num_permutations)
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    game = _game(params, activations, head, target, precision)
    players = game.num_players
    if game.is_additive or players == 1:
        return finish(exact(game), activations)
    if estimator != "plain":
        count += count % 2
    chunk = game.default_chunk(count * (players - 1)) if chunk_size is None else chunk_size
    if is_adjusted(game, estimator, count):
        estimate = shapley.adjusted_shapley(
            game, key, num_players=players, num_permutations=count, layer=sampled_layer(game),
            present=present(activations), chunk_size=chunk, tolerance=tolerance,
        )  # fmt: skip
    else:
        estimate = shapley.permutation_shapley(
            game, key, num_players=players, num_permutations=count, antithetic=estimator != "plain",
            chunk_size=chunk, tolerance=tolerance,
        )  # fmt: skip
    return finish(estimate, activations)


def sampled_layer(game: Game) -> Layer | None:
    """The head's first layer, where a surrogate can be made of its units."""
    layer = first_layer(game)
    return None if layer is None or layer.base.shape[0] > MAX_LAYER else Layer(*layer)


def present(activations: jax.Array) -> jax.Array:
    """`(K,)` bool: channels that are not zero everywhere."""
    return (activations != 0).any((0, 1))


def is_adjusted(game: Game, estimator: str, num_permutations: int) -> bool:
    """Whether an estimator fits a surrogate for so many orderings, by the cost of its arithmetic."""
    if estimator not in ("auto", "adjusted"):
        return False
    layer = sampled_layer(game)
    spend = budget(game.num_players, num_permutations, layer)
    if spend is None or estimator == "adjusted":
        return spend is not None
    units = 0 if layer is None else layer.base.shape[0]
    return megaflops(game.num_players, units, spend) <= WORTH * game.megaflops * 2 * spend.total


def megaflops(players: int, units: int, spend: Budget) -> float:
    """A surrogate's arithmetic, elementwise operations at the speed of matrix products."""
    width = 3 * players + min(units, MAX_FITTED)
    pair = 2 * players * units + 40 * units / ELEMENTWISE
    fixed = width**3 + 64 * players * units * WAVES * NODES / ELEMENTWISE
    return 1e-6 * (spend.total * pair + spend.pilot * (3 * width**2 + pair) + fixed)


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
    precision: str = "highest",
) -> CAM:
    """KSHAP-CAM: Shapley values by KernelSHAP, a weighted regression of the logit on coalitions.

    Sizes are drawn from the Shapley kernel; the empty and the full coalition, of infinite weight, are
    exact constraints, so the coefficients sum to `F(A) - F(0)`. Exact on a linear head, without sampling.

    Args:
      params, activations, key, head, target: as in `shap_cam`.
      num_samples: coalitions N; 10 K when None. The paper's KSHAP-CAM_K is `num_samples=K, paired=False`.
      paired: draw each coalition with its complement (an odd number is rounded up).
      chunk_size, precision: as in `shap_cam`.

    Returns:
      A `CAM`, diagnostics as in `shap_cam`. Cost: N + 2 evaluations behind the head's first layer, and a QR
      factorisation of an N x K matrix.

    Raises:
      JaxcamError: as in `shap_cam`, and for fewer coalitions than determine K coefficients.

    References:
      Lundberg & Lee, NeurIPS 2017; Jung & Oh, supplement, section 4.2.
    """
    game = _game(params, activations, head, target, precision)
    players = game.num_players
    count = 10 * players if num_samples is None else check_count("num_samples", num_samples)
    if game.is_additive or players == 1:
        return finish(exact(game), activations)
    count += count % 2 if paired else 0
    chunk = game.default_chunk(count) if chunk_size is None else chunk_size
    estimate = shapley.kernel_shapley(
        game, key, num_players=players, num_samples=count, paired=paired, chunk_size=chunk
    )
    return finish(estimate, activations)


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
    precision: str = "highest",
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
      JaxcamError: as in `shap_cam`.

    References:
      Ribeiro et al., KDD 2016; Jung & Oh, supplement, eq. 3 and section 4.1.
    """
    game = _game(params, activations, head, target, precision)
    players = game.num_players
    count = players if num_samples is None else check_count("num_samples", num_samples)
    energy = jnp.sum(jnp.square(activations), axis=(0, 1))
    share = energy / jnp.maximum(jnp.sum(energy), jnp.finfo(energy.dtype).tiny)

    def weight(masks):
        return jnp.exp(-jnp.matmul(1.0 - masks, share, precision="highest") / gamma**2)

    estimate = shapley.lime_lasso(
        game, key, num_players=players, num_samples=count, weight=weight, beta=beta,
        chunk_size=game.default_chunk(count) if chunk_size is None else chunk_size,
    )  # fmt: skip
    cam = finish(estimate, activations)
    kept = {k: v for k, v in cam.diagnostics.items() if k not in ("completeness_gap", "standard_error")}
    return cam._replace(diagnostics=kept)
