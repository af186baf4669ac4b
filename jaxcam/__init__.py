"""Class activation maps for JAX.

The methods (`lift_cam`, `grad_cam`, ...) are pure functions of `(params, activations)`;
`load` brings a network, and `explain` does the whole of it for a picture.
"""

import ast
import importlib
import pathlib

__version__ = "0.1.0"

# Public names are imported on first use, so that `import jaxcam` stays light. The stub that type checkers read is also
# the table of where they live: there is no second list to forget.
_HOME = {
    name.name: str(line.module)
    for line in ast.parse(pathlib.Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(line, ast.ImportFrom)
    for name in line.names
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxcam' has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    value = globals()[name] = getattr(home, name, None) or importlib.import_module(f"{_HOME[name]}.{name}")
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
