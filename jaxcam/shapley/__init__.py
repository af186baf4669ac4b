"""Shapley values of any game `v: masks (n, K) -> values (n,)` in JAX; nothing here knows about networks.

`exact_shapley` for few players, `permutation_shapley` for any number, `adjusted_shapley` with much less noise, the
least where the game reads its coalition through one layer,
`kernel_shapley` for the regression view, `lime_lasso` for a sparse linear one; `shapley_interactions` of two players.
"""

from jaxcam.shapley.adjusted import AdjustedState, adjusted_shapley
from jaxcam.shapley.exact import additive_shapley, exact_shapley, leave_one_out
from jaxcam.shapley.interactions import Interactions, shapley_interactions
from jaxcam.shapley.kernel import constrained_least_squares, kernel_shapley, sample_coalitions
from jaxcam.shapley.lasso import LassoFit, lime_lasso, weighted_lasso
from jaxcam.shapley.permutations import (
    PermutationState,
    estimate_within,
    permutation_shapley,
    permutation_shapley_steps,
)
from jaxcam.shapley.result import Estimate
from jaxcam.shapley.surrogate import GameLayer

__all__ = [
    "AdjustedState",
    "Estimate",
    "LassoFit",
    "GameLayer",
    "Interactions",
    "PermutationState",
    "additive_shapley",
    "adjusted_shapley",
    "constrained_least_squares",
    "estimate_within",
    "exact_shapley",
    "kernel_shapley",
    "leave_one_out",
    "lime_lasso",
    "permutation_shapley",
    "permutation_shapley_steps",
    "sample_coalitions",
    "shapley_interactions",
    "weighted_lasso",
]
