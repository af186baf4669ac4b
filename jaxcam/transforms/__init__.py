"""Transformations of traced programs: explanations of one kind or another, and two for speed."""

from jaxcam.transforms.convolutions import fast_convolutions, for_cpu
from jaxcam.transforms.precision import PRECISIONS, at_precision

__all__ = ["PRECISIONS", "at_precision", "fast_convolutions", "for_cpu"]
