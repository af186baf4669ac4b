"""Class activation maps for JAX.

The methods (`lift_cam`, `grad_cam`, ...) are pure functions of `(params, activations)`;
`load` brings a network, and `explain` does the whole of it for a picture.
"""

from jaxcam.deferred import public

__version__ = "0.1.0"

_HOME, __getattr__, __dir__ = public(__name__, __file__)

__all__ = ["__version__", *_HOME]
