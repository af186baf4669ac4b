"""The pictures that a command names: files, folders of them, and what to call what is made of each."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from jaxcam.errors import JaxcamError
from jaxcam.files import clipped

#: Bytes; a number and an ending follow.
_LONGEST_STEM = 240


def expand(named: Sequence[str], out: pathlib.Path) -> list[str]:
    """The paths with each folder replaced by the pictures in it and below, sorted; hidden ones are left out.

    Raises:
      JaxcamError: a folder holds no pictures, or is the one that results go to.
    """
    paths: list[str] = []
    for name in named:
        folder = pathlib.Path(name)
        if not os.path.isdir(name):  # which a circle of links or an impossible name is not, without an error
            paths.append(name)
            continue
        if os.path.realpath(out) == os.path.realpath(folder):
            raise JaxcamError(f"{folder}: is a folder that the results would go to; give another --out")
        found = sorted(p for p in folder.rglob("*") if _is_picture(p, folder, out))
        if not found:
            raise JaxcamError(f"{folder}: is a folder without pictures")
        paths += map(str, found)
    return list(dict.fromkeys(paths))


def _is_picture(path: pathlib.Path, folder: pathlib.Path, out: pathlib.Path) -> bool:
    from jaxcam.data.datasets import SUFFIXES

    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or path.suffix.lower() not in SUFFIXES or os.path.isdir(path):
        return False
    return pathlib.Path(os.path.realpath(out)) not in pathlib.Path(os.path.realpath(path)).parents  # earlier figures


def stems(paths: Sequence[str], out: pathlib.Path) -> dict[str, str]:
    """A file name without ending for each path: its stem, with a number where that is taken or is the photo itself.

    A stem is clipped where the name would be longer than the 255 bytes that most disks take.
    """
    taken = {_real(p) for p in paths}
    found: dict[str, str] = {}
    used: set[str] = set()
    for path in dict.fromkeys(paths):
        base = stem = clipped(pathlib.Path(path).stem, _LONGEST_STEM)
        number = 2
        while stem.lower() in used or _real(out / f"{stem}.png") in taken:
            stem, number = f"{base}-{number}", number + 1
        used.add(stem.lower())  # as some file systems see no difference
        found[path] = stem
    return found


def _real(path: str | os.PathLike) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a null byte: no such file can be
        return os.fspath(path)
