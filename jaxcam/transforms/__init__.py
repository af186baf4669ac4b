"""Transformations of traced programs: explanations of one kind or another, and one for speed."""

from jaxcam.transforms.convolutions import fast_convolutions, for_cpu

__all__ = ["fast_convolutions", "for_cpu"]
