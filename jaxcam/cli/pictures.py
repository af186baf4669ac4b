"""The pictures that a command names: files, folders of them, and what to call what is made of each."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from jaxcam.errors import JaxcamError


def expand(named: Sequence[str], out: pathlib.Path) -> list[str]:
    """The paths with each folder replaced by the pictures in it and below, sorted; hidden ones are left out.

    Raises:
      JaxcamError: a folder holds no pictures, or is the one that results go to.
    """
    paths: list[str] = []
    for name in named:
        folder = pathlib.Path(name)
        if not folder.is_dir():
            paths.append(name)
            continue
        if out.resolve() == folder.resolve():
            raise JaxcamError(f"{folder}: is a folder that the results would go to; give another --out")
        found = sorted(p for p in folder.rglob("*") if _is_picture(p, folder, out))
        if not found:
            raise JaxcamError(f"{folder}: is a folder without pictures")
        paths += map(str, found)
    return list(dict.fromkeys(paths))


def _is_picture(path: pathlib.Path, folder: pathlib.Path, out: pathlib.Path) -> bool:
    from jaxcam.data.datasets import SUFFIXES

    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    return out.resolve() not in path.resolve().parents  # figures of an earlier run


def stems(paths: Sequence[str], out: pathlib.Path) -> dict[str, str]:
    """A file name without ending for each path: its stem, with a number where that is taken or is the photo itself."""
    taken = {pathlib.Path(p).resolve() for p in paths}
    found: dict[str, str] = {}
    used: set[str] = set()
    for path in dict.fromkeys(paths):
        base = stem = pathlib.Path(path).stem
        number = 2
        while stem.lower() in used or (out / f"{stem}.png").resolve() in taken:
            stem, number = f"{base}-{number}", number + 1
        used.add(stem.lower())  # as some file systems see no difference
        found[path] = stem
    return found
