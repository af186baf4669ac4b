"""Animated pictures for `jaxcam explain --frames`: a file for each frame, and the maps of all in one animation."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxcam.cli.pictures import FRAMES, stems
from jaxcam.errors import JaxcamError
from jaxcam.files import whole_file

#: Modes of Pillow's that a PNG keeps as they are.
_IN_PNG = ("L", "LA", "RGB", "RGBA", "I;16")


@dataclasses.dataclass(frozen=True)
class Animation:
    """A picture that moves.

    Attributes:
      stem: of the names of what is made of it.
      frames: the files of its frames, in order.
      milliseconds: how long each is shown.
    """

    stem: str
    frames: tuple[str, ...]
    milliseconds: tuple[float, ...]


def add_options(p: Any) -> None:
    """Adds the option to the parser of a command."""
    p.add_argument(
        "--frames", metavar="N|all", help="explain N frames of each animated picture, evenly spread, or all, and "
        "join their maps to an animation (default: the first frame)",
    )  # fmt: skip


def check(options: argparse.Namespace) -> None:
    """Raises a JaxcamError for an option that is wrong; the number of frames is in its place after."""
    asked = options.frames
    if asked is None or asked == "all":
        return
    if not asked.isascii() or not asked.isdigit() or int(asked) < 1:
        raise JaxcamError(f"--frames takes a number of frames, at least 1, or all, not {asked}")
    options.frames = int(asked)


def taken(paths: Sequence[str], wanted: int | str | None, out: pathlib.Path) -> tuple[list[str], list[Animation]]:
    """The pictures to explain, where frames of the animated ones stand in their place, written as files below `out`.

    They keep the channels and the depth that they have: as PNG, and as TIFF where no PNG holds it. What cannot be read
    stays, for whoever reads it to say why.
    """
    if wanted is None:
        return list(paths), []
    from jaxcam.data.images import as_it_is, frames

    names, listed, animations = stems(paths, out), [], []
    for path in paths:
        files, times = [], []
        try:
            for number, picture, milliseconds in frames(path, None if wanted == "all" else int(wanted)):
                own: Any = as_it_is(picture)
                kind = "png" if own.mode in _IN_PNG else "tiff"
                file = out / FRAMES / f"{names[path]}-{number:04}.{kind}"
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(file) as f:
                    own.save(f, kind)
                files.append(str(file))
                times.append(milliseconds)
        except (JaxcamError, MemoryError):
            files = []
        listed += files or [path]
        if files:
            animations.append(Animation(names[path], tuple(files), tuple(times)))
    return listed, animations


def join(animation: Animation, drawn: Mapping[str, Sequence[str]], out: pathlib.Path) -> list[str]:
    """Writes the animations of what was drawn of each frame, and returns their files.

    Args:
      animation: which.
      drawn: the pictures made of each frame, by the frame's file; frames that could not be explained are left out.
    """
    there = [(drawn[f], t) for f, t in zip(animation.frames, animation.milliseconds, strict=True) if drawn.get(f)]
    each = min((len(pictures) for pictures, _ in there), default=0)
    files = [out / f"{animation.stem}-animated{f'-{i + 1}' if each > 1 else ''}.gif" for i in range(each)]
    for place, file in enumerate(files):
        pages = _pages([pictures[place] for pictures, _ in there])
        with whole_file(file) as f:
            next(pages).save(f, "gif", save_all=True, append_images=pages, duration=[t for _, t in there], loop=0)
    return list(map(str, files))


def _pages(files: Sequence[str]) -> Iterator[Any]:
    """Pictures of one size, white where one is smaller; the largest comes to its own."""
    from PIL import Image

    sizes = []
    for file in files:
        with Image.open(file) as opened:
            sizes.append(opened.size)
    size = max(w for w, _ in sizes), max(h for _, h in sizes)
    for file in files:
        page = Image.new("RGB", size, "white")
        with Image.open(file) as opened:
            page.paste(opened.convert("RGB"), (0, 0))
        yield page
