"""Weights of other libraries: PyTorch (torchvision, timm, TorchRay) and Keras, in and out.

Files are untrusted: nothing in them is executed, and their sizes are checked before memory is taken.
"""

from jaxcam.converters.conversion import convert
from jaxcam.converters.export import export_torchvision, save_torchvision_safetensors
from jaxcam.converters.reading import read_tensors

__all__ = ["convert", "export_torchvision", "read_tensors", "save_torchvision_safetensors"]
