"""DeepLIFT as a program transformation."""

from jaxcam.transforms.deeplift.transform import deeplift

__all__ = ["deeplift"]
