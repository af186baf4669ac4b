"""Evaluating explanations on a data set: a run that can be killed and goes on, and what it found.

`evaluate` makes or continues a run, `read_run` reads one, for which no JAX is imported.
"""

from jaxcam.deferred import public

_HOME, __getattr__, __dir__ = public(__name__, __file__)

__all__ = [*_HOME]
