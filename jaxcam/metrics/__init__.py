"""How good an explanation is: pure functions of one image and one map, made for `jax.vmap` and `jax.jit`."""

from jaxcam.deferred import public

_HOME, __getattr__, __dir__ = public(__name__, __file__)

__all__ = [*_HOME]
