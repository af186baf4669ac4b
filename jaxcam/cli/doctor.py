"""`jaxcam doctor` and `--version`: what is installed and whether it works, for a bug report."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pathlib
import platform
import shutil
import time
from typing import Any

from jaxcam import __version__
from jaxcam.cli import plugins
from jaxcam.errors import JaxcamError, visible

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "pillow", "matplotlib", "optax", "orbax-checkpoint")
#: Environment variables of these prefixes change what JAX does. (Others that begin with TF_ are Terraform's, and may
#: hold its secrets.)
_SETTINGS = ("JAX", "XLA", "CUDA_VISIBLE", "TF_CPP_", "TF_CUDNN_", "TF_FORCE_", "TF_GPU_", "TF_XLA_", "LIBTPU")


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "doctor", help="say what is installed and whether it works", allow_abbrev=False,
        description="Tells the versions, devices, settings and folders that a bug report needs, and explains the "
        "bundled picture to see that all of it works.",
    )  # fmt: skip
    p.set_defaults(run=run, plugins_first=False)  # of which it tells whether they work


class Version(argparse.Action):
    """Prints the versions and the devices, and ends."""

    def __init__(self, option_strings: Any, dest: str, **more: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="tell the versions and the devices, and end")

    def __call__(self, parser: Any, *unused: Any) -> None:
        import jax

        print(f"jaxcam {__version__}, jax {jax.__version__} on {devices()}, Python {platform.python_version()}")
        parser.exit(0)


def devices() -> str:
    """The devices of JAX: how many of which kind."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as e:
        return f"no device ({str(e).splitlines()[0]})"
    return f"{len(found)} x {found[0].device_kind}" + ("" if found[0].platform == "cpu" else f" ({found[0].platform})")


def run(options: argparse.Namespace) -> int:
    """Runs the command; 1 where something does not work."""
    from jaxcam.data.loader import cores
    from jaxcam.zoo.download import cache_folder
    from jaxcam.zoo.load import bundled

    where = pathlib.Path(__file__).parents[1]
    cache = cache_folder()
    told = {
        "jaxcam": f"{__version__} in {where}",
        "python": f"{platform.python_version()}, {platform.platform()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "devices": f"{devices()}; {cores()} processors",
        "settings": ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(_SETTINGS)) or "none",
        "networks": ", ".join(bundled()) or "none bundled",
        "plug-ins": _told_plugins(options.plugin),
        "cache": f"{cache}, {_megabytes(cache):,.0f} MB, {_free(cache):,.0f} MB free",
    }
    for name, text in told.items():
        print(visible(f"{name + ':':10} {text}"))
    started = time.perf_counter()
    try:
        said = _works()
    except Exception as e:  # whatever it is, it is what the report is for
        print(visible(f"{'works:':10} no: {type(e).__name__}: {' '.join(str(e).split())}"))
        return 1
    print(f"{'works:':10} yes, {said} in {time.perf_counter() - started:.1f} s")
    return 0


def _told_plugins(named: list[str]) -> str:
    try:
        plugins.load(named)
    except JaxcamError as e:
        return str(e)
    return ", ".join(plugins.loaded()) or "none"


def _works() -> str:
    """What came out of the bundled picture; raises where that is wrong."""
    from jaxcam.cli.explain import EXAMPLE
    from jaxcam.explanation.explain import explain
    from jaxcam.zoo.load import load

    [explanation] = explain(load(), EXAMPLE)
    [result] = explanation.results
    if not abs(result.completeness_gap) < 1e-3 * max(1.0, abs(result.logit)):
        raise ArithmeticError(f"{result.method} is off by {result.completeness_gap:.2g} of {result.logit:.4g}")
    return f"{explanation.model} sees {result.class_name} ({result.value}); {result.method} adds up"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _megabytes(folder: pathlib.Path) -> float:
    if not folder.is_dir():
        return 0.0
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


def _free(folder: pathlib.Path) -> float:
    there = next((p for p in (folder, *folder.parents) if p.is_dir()), None)
    return shutil.disk_usage(there).free / 1e6 if there else float("nan")
