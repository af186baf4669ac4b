"""Functions that bring their own derivative, such as `jax.nn.relu`: which of them a transformation takes whole.

Taken apart, they have another one at kinks and ties: `max(x, 0)` has 1/2 at 0, where `jax.nn.relu` has 0, and the parts
of `jax.nn.softplus` add up to 0, where it has 1/2. In a layer without biases that is where all absent channels are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jax.extend.core import Literal

from jaxcam.transforms.walker import called, opened

_FORWARD, _BACKWARD = "custom_jvp_call", ("custom_vjp_call", "custom_vjp_call_jaxpr")
#: Operations on each element by itself.
ELEMENTWISE = frozenset(
    "add sub mul div neg max min exp exp2 log log1p expm1 tanh logistic erf erfc sin cos sqrt rsqrt cbrt integer_pow "
    "pow square abs sign floor ceil round clamp select_n eq ne lt le gt ge and or not xor is_finite "
    "convert_element_type stop_gradient add_any".split()
)
_OF_DEGREE_ONE = frozenset("add sub add_any neg convert_element_type stop_gradient".split())


def has_own_derivative(eqn: Any) -> bool:
    """Whether an equation calls an elementwise, non-linear function with a derivative of its own."""
    return eqn.primitive.name in (_FORWARD, *_BACKWARD) and _is_elementwise(eqn)


def has_own_jvp(eqn: Any) -> bool:
    """The same, and the derivative can be taken forward."""
    return eqn.primitive.name == _FORWARD and _is_elementwise(eqn)


def name_of(eqn: Any) -> str:
    """What an equation is called in messages: its primitive, or the function that such a call is of."""
    if eqn.primitive.name not in (_FORWARD, *_BACKWARD):
        return eqn.primitive.name
    info = getattr(opened(called(eqn))[0], "debug_info", None)
    return getattr(info, "func_name", None) or eqn.primitive.name


def _is_elementwise(eqn: Any) -> bool:
    inner = list(_inside(eqn))
    shapes = {v.aval.shape for v in [*eqn.invars, *eqn.outvars]} - {()}
    return (
        len(eqn.outvars) == 1
        and len(shapes) <= 1
        and all(e.primitive.name in ELEMENTWISE for e in inner)
        and not all(_is_linear(e) for e in inner)  # else it is worth taking apart, for the rules of linear operations
    )


def _is_linear(eqn: Any) -> bool:
    scaled = eqn.primitive.name == "mul" and any(isinstance(v, Literal) for v in eqn.invars)
    return scaled or eqn.primitive.name in _OF_DEGREE_ONE


def _inside(eqn: Any) -> Iterator[Any]:
    """The equations that a call stands for."""
    for e in opened(called(eqn))[0].eqns:
        if called(e) is None:
            yield e
        else:
            yield from _inside(e)
