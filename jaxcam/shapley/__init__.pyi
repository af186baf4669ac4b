"""The public names: what type checkers see, and where `jaxcam/shapley/__init__.py` finds them."""

from jaxcam.shapley.adjusted import AdjustedState as AdjustedState
from jaxcam.shapley.adjusted import adjusted_shapley as adjusted_shapley
from jaxcam.shapley.exact import additive_shapley as additive_shapley
from jaxcam.shapley.exact import exact_shapley as exact_shapley
from jaxcam.shapley.exact import leave_one_out as leave_one_out
from jaxcam.shapley.host import numpy_game as numpy_game
from jaxcam.shapley.interactions import Interactions as Interactions
from jaxcam.shapley.interactions import shapley_interactions as shapley_interactions
from jaxcam.shapley.kernel import constrained_least_squares as constrained_least_squares
from jaxcam.shapley.kernel import kernel_shapley as kernel_shapley
from jaxcam.shapley.kernel import sample_coalitions as sample_coalitions
from jaxcam.shapley.lasso import LassoFit as LassoFit
from jaxcam.shapley.lasso import lime_lasso as lime_lasso
from jaxcam.shapley.lasso import weighted_lasso as weighted_lasso
from jaxcam.shapley.permutations import PermutationState as PermutationState
from jaxcam.shapley.permutations import estimate_within as estimate_within
from jaxcam.shapley.permutations import permutation_shapley as permutation_shapley
from jaxcam.shapley.permutations import permutation_shapley_steps as permutation_shapley_steps
from jaxcam.shapley.result import Estimate as Estimate
from jaxcam.shapley.surrogate import GameLayer as GameLayer
