"""The names of classes: of well-known data sets, and which of a network's are a data set's."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence

from jaxcam.errors import JaxcamError

#: Where VOC and COCO call one thing differently.
_ALIASES = {
    "aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip


#: Data sets whose classes are known by name.
KNOWN = ("imagenet", "voc", "coco")


@functools.cache
def class_names(name: str) -> tuple[str, ...]:
    """The names of a data set's classes in the order of its labels: "imagenet" (1000), "voc" (20) or "coco" (80).

    Where ImageNet gives two classes one name (two cranes, two maillots, a Cardigan and a cardigan), one or both
    say which is meant.
    """
    file = pathlib.Path(__file__).parent / "classes" / f"{name}.txt"
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except OSError:
        raise JaxcamError(f"this installation of jaxcam lacks {file}; install it again") from None


def class_indices(ids: Sequence[str], names: Sequence[str], classes: Sequence[str]) -> list[int | None]:
    """Of each class of a data set (id and name), the index in `classes`; None where it is not there.

    Ids that are the numbers from 0 on, as shards have them, are indices in `classes`, unless something is called so.
    """
    exact = {c.lower(): i for i, c in reversed(list(enumerate(classes)))}
    loose = {_plain(c): i for i, c in reversed(list(enumerate(classes)))}
    numbers = {w: i for i, w in enumerate(_wnids())} if len(classes) == 1000 else {}
    numbered = list(ids) == [str(i) for i in range(len(ids))] and not set(ids) & exact.keys()
    if numbered and list(names) == list(ids):
        return [i if i < len(classes) else None for i in range(len(ids))]
    found = []
    for identity, name in zip(ids, names, strict=True):
        keys = (exact.get(identity.lower()), exact.get(name.lower()), loose.get(_plain(name)), numbers.get(identity))
        found.append(next((k for k in keys if k is not None), None))
    return found


def names_of(ids: Sequence[str], names: Mapping[str, str] | None) -> tuple[str, ...]:
    """The classes in words: as `names` has them, else ImageNet's for a wnid, else the id itself."""
    known = dict(zip(_wnids(), class_names("imagenet"), strict=True))
    return tuple((names or {}).get(i) or known.get(i, i) for i in ids)


def _wnids() -> tuple[str, ...]:
    return class_names("imagenet_wnids")


def _plain(name: str) -> str:
    bare = "".join(c for c in name.lower() if c not in " _-")
    return _ALIASES.get(bare, bare)
