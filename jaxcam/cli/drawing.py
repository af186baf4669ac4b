"""What `jaxcam explain` draws of a picture: a figure of all maps, or a file for each map."""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jaxcam.errors import JaxcamError, check_known
from jaxcam.files import clipped, whole_file

if TYPE_CHECKING:
    from jaxcam.explanation.result import Attribution, Explanation

#: Bytes of a file's name that a method and a class may take.
_LONGEST_NAME = 120


def add_options(p: Any) -> None:
    """Adds the options to the parser of a command."""
    drawn = p.add_argument_group("pictures")
    what = drawn.add_mutually_exclusive_group()
    what.add_argument(
        "--overlay-only", action="store_true",
        help="a file for each map instead of a figure: the photo under the map, at its own size, without margins",
    )  # fmt: skip
    what.add_argument("--heatmap-only", action="store_true", help="the same, without the photo")
    what.add_argument("--no-figure", action="store_true", help="write the arrays only")
    drawn.add_argument("--format", metavar="F", help="png, jpg or webp; a figure also svg or pdf (default: png)")
    drawn.add_argument("--cmap", metavar="C", help="colour map of matplotlib (default: inferno; RdBu_r with --signed)")
    drawn.add_argument(
        "--alpha", type=float, metavar="A", help="opacity of a map where it is greatest, 0 to 1 (default: 0.7)"
    )
    drawn.add_argument(
        "--scale", metavar="S", default="each", help="each map in colours of its own, or shared by the maps of a "
        "method, which can then be compared (default: each)",
    )  # fmt: skip
    drawn.add_argument("--signed", action="store_true", help="show what speaks against the class as well, in blue")
    drawn.add_argument(
        "--box", type=float, nargs="?", const=0.2, metavar="SHARE",
        help="draw the box around the largest part of a map above a share of its maximum (0.2 unless given)",
    )  # fmt: skip


def check(options: argparse.Namespace) -> None:
    """Raises a JaxcamError for options that are wrong, before anything is computed."""
    from jaxcam.explanation.figures import FORMATS, SCALES
    from jaxcam.explanation.overlays import ALPHA, colour_map

    asked = [name for name in ("format", "cmap", "alpha", "box") if getattr(options, name) is not None]
    asked += ["signed"] * options.signed
    if options.no_figure and asked:
        raise JaxcamError(f"--no-figure writes arrays and draws nothing, so leave out --{' and --'.join(asked)}")
    formats = [f for f in FORMATS if f not in ("svg", "pdf")] if _single(options) else FORMATS
    options.format = (options.format or "png").lower().removeprefix(".")
    check_known("format", options.format, formats)
    check_known("scale", options.scale, SCALES)
    options.alpha = ALPHA if options.alpha is None else options.alpha
    if not 0 <= options.alpha <= 1:
        raise JaxcamError(f"--alpha is an opacity from 0 to 1, not {options.alpha}")
    if options.box is not None and not 0 < options.box <= 1:
        raise JaxcamError(f"--box takes a share of the maximum above 0 and up to 1, not {options.box}")
    colour_map(options.cmap, options.signed)


def room(options: argparse.Namespace) -> int:
    """Bytes that are added to the name of a picture's files."""
    return 1 + _LONGEST_NAME if _single(options) else 0


def files(options: argparse.Namespace, explanation: Explanation, out: pathlib.Path, stem: str) -> list[pathlib.Path]:
    """The files that `write` writes, in its order."""
    if options.no_figure:
        return []
    if not _single(options):
        return [out / f"{stem}.{options.format}"]
    return [out / f"{stem}-{name}.{options.format}" for name in _names(explanation.results)]


def write(options: argparse.Namespace, explanation: Explanation, out: pathlib.Path, stem: str) -> list[str]:
    """Draws the maps of a picture, and returns the files; each appears whole or not at all."""
    paths = files(options, explanation, out, stem)
    how = {"cmap": options.cmap, "scale": options.scale, "signed": options.signed, "alpha": options.alpha}
    if paths and not _single(options):
        from jaxcam.explanation.figures import plot

        plot(explanation, paths[0], box=options.box, **how)
    elif paths:
        from jaxcam.explanation.figures import pictures

        drawn = pictures(explanation, box=options.box, photo=options.overlay_only, **how)
        for path, picture in zip(paths, drawn, strict=True):
            with whole_file(path) as f:
                picture.save(f, {"jpg": "jpeg"}.get(options.format, options.format), quality=92)
    return list(map(str, paths))


def _single(options: argparse.Namespace) -> bool:
    """Whether each map has a file of its own."""
    return options.overlay_only or options.heatmap_only


def _names(results: Iterable[Attribution]) -> list[str]:
    """A piece of a file's name for each map: its method and class."""
    found: dict[str, str] = {}
    for result in results:
        plain = re.sub(r"[^\w.=+-]+", "_", f"{result.method}-{result.class_name}").strip("_.") or "map"
        base = name = clipped(plain, _LONGEST_NAME)
        number = 2
        while name.lower() in found:  # as some file systems see no difference
            name, number = f"{base}-{number}", number + 1
        found[name.lower()] = name
    return list(found.values())
