"""Layer-wise relevance propagation as a program transformation, and its rules, which are open to yours (`register`)."""

from jaxcam.transforms.lrp.elementwise import activation, elementwise
from jaxcam.transforms.lrp.transform import (
    RULES,
    Relevance,
    equivalent_program,
    lrp,
    maximum,
    moves,
    product,
    register,
    sums,
)
from jaxcam.transforms.lrp.values import Value, propagate

__all__ = [
    "RULES", "Relevance", "Value", "activation", "elementwise", "equivalent_program", "lrp", "maximum", "moves",
    "product", "propagate", "register", "sums",
]  # fmt: skip
