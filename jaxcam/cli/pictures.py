"""The pictures that a command names: files, folders of them, and what to call what is made of each."""

from __future__ import annotations

import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Sequence

from jaxcam.errors import JaxcamError
from jaxcam.files import clipped

#: The folder in the results' that holds frames of animated pictures, and what their animations are called.
FRAMES, ANIMATED = "frames", re.compile(r"(.+)-animated(-\d+)?")
#: Bytes; a number and an ending follow.
_LONGEST_STEM = 240


def expand(named: Sequence[str], out: pathlib.Path) -> tuple[list[str], list[str]]:
    """The paths with each folder replaced by the pictures in it and below, sorted; hidden ones are left out.

    Returns:
      The paths, and what is to be said of files in the folders that are no pictures.

    Raises:
      JaxcamError: a folder holds no pictures, or is the one that results go to; a name is an address, a pattern that
        fits nothing, or `-`.
    """
    paths: list[str] = []
    said: list[str] = []
    for name in named:
        folder = pathlib.Path(name)
        if not os.path.isdir(name):  # which a circle of links or an impossible name is not, without an error
            paths.append(_file(name))
            continue
        if os.path.realpath(out) == os.path.realpath(folder):
            raise JaxcamError(f"{folder}: is a folder that the results would go to; give another --out")
        files = sorted(p for p in folder.rglob("*") if _is_shown(p, folder, out))
        others = [p for p in files if not _is_picture(p)]
        drawn = _drawn(others)
        found = [p for p in files if _is_picture(p) and not drawn(p)]
        if not found:
            raise JaxcamError(f"{folder}: is a folder without pictures")
        if others:
            some = ", ".join(p.name for p in others[:3]) + (", ..." if len(others) > 3 else "")
            count = f"{len(others)} files skipped that are no pictures" if others[1:] else "1 file skipped, no picture"
            said.append(f"{folder}: {count} ({some})")
        own = len(files) - len(others) - len(found)
        if own:
            said.append(f"{folder}: {own} picture{'s' * (own > 1)} skipped that jaxcam explain drew")
        paths += map(str, found)
    return list(dict.fromkeys(paths)), said


def _file(name: str) -> str:
    """The name of a file; one that only looks like it is told what it is."""
    if name == "-":
        raise JaxcamError("-: pictures are not read from standard input; save it to a file, and name that")
    if re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        raise JaxcamError(f"{name}: is an address; download the picture, and name the file")
    if "*" in name and not os.path.lexists(name):
        raise JaxcamError(f"{name}: no file fits this pattern")
    return name


def _is_picture(path: pathlib.Path) -> bool:
    from jaxcam.data.datasets import SUFFIXES

    return path.suffix.lower() in SUFFIXES


def _drawn(others: Sequence[pathlib.Path]) -> Callable[[pathlib.Path], bool]:
    """Whether a picture was drawn by an earlier run: arrays stand beside it whose name it has, or begins with before
    the name of a method, and which are not of itself."""
    arrays: dict[pathlib.Path, dict[str, tuple[str, set[str]]]] = {}
    for path in others:
        if path.suffix == ".npz" and (told := _told(path)) is not None:
            arrays.setdefault(path.parent, {})[path.stem] = told

    def of(path: pathlib.Path, stem: str, photo: str, methods: set[str]) -> bool:
        if moving := ANIMATED.fullmatch(path.stem):
            return re.fullmatch(rf"{re.escape(moving[1])}-\d+", stem) is not None
        named = path.stem == stem or any(path.stem.startswith(f"{stem}-{m}") for m in methods)
        return named and _real(photo) != _real(path)

    def drawn(path: pathlib.Path) -> bool:
        if path.parent.name == FRAMES and path.stem in arrays.get(path.parent.parent, {}):
            return True  # a frame: the arrays are of itself, but it was written for them
        beside = arrays.get(path.parent, {})
        return _is_picture(path) and any(of(path, stem, *told) for stem, told in beside.items())

    return drawn


def _told(arrays: pathlib.Path) -> tuple[str, set[str]] | None:
    """The photo that arrays are of, and their methods; None where they are not of `Explanation.save`."""
    import numpy as np

    try:
        with np.load(arrays) as saved:
            methods = {str(m).partition(":")[0] for m in saved["methods"]}
            return (str(saved["source"]), methods) if "completeness_gaps" in saved.files else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _is_shown(path: pathlib.Path, folder: pathlib.Path, out: pathlib.Path) -> bool:
    """Whether a path in a folder is a file that is not hidden, and that no earlier run wrote."""
    if any(part.startswith(".") for part in path.relative_to(folder).parts) or os.path.isdir(path):
        return False
    return pathlib.Path(os.path.realpath(out)) not in pathlib.Path(os.path.realpath(path)).parents


def stems(paths: Sequence[str], out: pathlib.Path, ending: str = ".png", room: int = 0) -> dict[str, str]:
    """A file name without ending for each path: its stem, with a number where that is taken or is a photo's own.

    A name is a photo's where with the ending, or with more words behind it, it is that of one of the paths. A stem is
    clipped where the name, with `room` bytes of more words, would be longer than the 255 bytes that most disks take.
    """
    place = os.path.join(_real(out), "")
    taken = [t for t in map(_real, paths) if t.startswith(place)]

    def a_photos(stem: str) -> bool:
        return any(t == f"{place}{stem}{ending}" or t.startswith(f"{place}{stem}-") for t in taken)

    found: dict[str, str] = {}
    used: set[str] = set()
    for path in dict.fromkeys(paths):
        base = stem = clipped(pathlib.Path(path).stem, _LONGEST_STEM - room)
        number = 2
        while stem.lower() in used or a_photos(stem):
            stem, number = f"{base}-{number}", number + 1
        used.add(stem.lower())  # as some file systems see no difference
        found[path] = stem
    return found


def _real(path: str | os.PathLike) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a null byte: no such file can be
        return os.fspath(path)
