"""DeepLIFT as a program transformation, and its rules, which are open to yours (`register`)."""

from jaxcam.transforms.deeplift.multipliers import bilinear, rescale
from jaxcam.transforms.deeplift.pairs import Pair
from jaxcam.transforms.deeplift.transform import (
    RULES,
    deeplift,
    elementwise,
    equivalent_program,
    linear,
    maximum,
    product,
    register,
)

__all__ = [
    "RULES", "Pair", "bilinear", "deeplift", "elementwise", "equivalent_program", "linear", "maximum", "product",
    "register", "rescale",
]  # fmt: skip
