"""Evaluating explanations on a data set: a run that can be killed and goes on, and what it found.

`evaluate` makes or continues a run, `read_run` reads one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcam.evaluate.driver import evaluate as evaluate
    from jaxcam.evaluate.run import Run as Run
    from jaxcam.evaluate.run import read_run as read_run

__all__ = ["Run", "evaluate", "read_run"]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: reading a run needs no JAX."""
    if name == "evaluate":
        from jaxcam.evaluate.driver import evaluate

        return evaluate
    if name in ("Run", "read_run"):
        from jaxcam.evaluate import run

        return getattr(run, name)
    raise AttributeError(f"module 'jaxcam.evaluate' has no attribute {name!r}")
