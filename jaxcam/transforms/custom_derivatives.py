"""Functions that bring their own derivative, such as `jax.nn.relu`: which of them a transformation takes as one.

Taken apart, they have another one at kinks and ties: `max(x, 0)` has 1/2 at 0, where `jax.nn.relu` has 0, and the parts
of `jax.nn.softplus` add up to 0, where it has 1/2. In a layer without biases that is where all absent channels are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jax.extend.core import Literal

from jaxcam.transforms.primitives import describe, is_affine, is_elementwise
from jaxcam.transforms.walker import called, opened

FORWARD, BACKWARD = "custom_jvp_call", ("custom_vjp_call", "custom_vjp_call_jaxpr")


def has_its_own(eqn: Any) -> bool:
    """Whether an equation calls a function with a derivative of its own, of any kind; entering it would lose that."""
    return eqn.primitive.name in (FORWARD, *BACKWARD)


def has_derivative(eqn: Any, acts: Callable[[Any], bool] = is_elementwise) -> bool:
    """Whether an equation calls an elementwise, non-linear function with a derivative of its own.

    Args:
      acts: whether an equation inside may be part of such a function.
    """
    return has_its_own(eqn) and _is_one_function(eqn, acts)


def has_jvp(eqn: Any, acts: Callable[[Any], bool] = is_elementwise) -> bool:
    """The same, and the derivative can be taken forward."""
    return eqn.primitive.name == FORWARD and _is_one_function(eqn, acts)


def name_of(eqn: Any) -> str:
    """What an equation is called in messages: its primitive, or the function that such a call is of."""
    if not has_its_own(eqn):
        return eqn.primitive.name
    info = getattr(opened(called(eqn))[0], "debug_info", None)
    return getattr(info, "func_name", None) or eqn.primitive.name


def _is_one_function(eqn: Any, acts: Callable[[Any], bool]) -> bool:
    inner = list(_inside(eqn))
    shapes = {v.aval.shape for v in [*eqn.invars, *eqn.outvars]} - {()}
    return (
        len(eqn.outvars) == 1
        and len(shapes) <= 1
        and all(acts(e) or describe(e).kind == "identity" for e in inner)
        # What is affine is worth taking apart, for the rules of linear operations.
        and not all(is_affine(e, [not isinstance(v, Literal) for v in e.invars]) for e in inner)
    )


def _inside(eqn: Any) -> Iterator[Any]:
    """The equations that a call stands for."""
    for e in opened(called(eqn))[0].eqns:
        if called(e) is None:
            yield e
        else:
            yield from _inside(e)
