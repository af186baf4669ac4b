"""The public names: what type checkers see, and where `jaxcam/evaluate/__init__.py` finds them."""

from jaxcam.evaluate.driver import evaluate as evaluate
from jaxcam.evaluate.run import Run as Run
from jaxcam.evaluate.run import read_run as read_run
