"""Layer-wise relevance propagation as a program transformation."""

from jaxcam.transforms.lrp.transform import Relevance, lrp

__all__ = ["Relevance", "lrp"]
