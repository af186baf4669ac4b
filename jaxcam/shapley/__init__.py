"""Shapley values of any game `v: masks (n, K) -> values (n,)` in JAX; nothing here knows about networks.

`exact_shapley` for few players, `permutation_shapley` for any number, `adjusted_shapley` with much less noise, the
least where the game reads its coalition through one layer,
`kernel_shapley` for the regression view, `lime_lasso` for a sparse linear one; `shapley_interactions` of two players.
"""

from jaxcam.deferred import public

_HOME, __getattr__, __dir__ = public(__name__, __file__)

__all__ = [*_HOME]
