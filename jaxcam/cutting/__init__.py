"""Cutting any network behind a layer given by name, without editing the network.

`split` gives the pure functions `features` and `head` that the methods work on, `cut` the same with
all that is known about the place, `layers` the places there are, and `tag` marks one in one's own code.
"""

from jaxcam.cutting.cut import Cut, Features, Head, HeadParams, cut, head_params, split
from jaxcam.cutting.layouts import Layout, tokens
from jaxcam.cutting.libraries import Adapter, Library, register
from jaxcam.cutting.listing import Layer, layers
from jaxcam.cutting.tags import tag

__all__ = [
    "Adapter", "Cut", "Features", "Head", "HeadParams", "Layer", "Layout", "Library", "cut", "head_params", "layers",
    "register", "split", "tag", "tokens",
]  # fmt: skip
