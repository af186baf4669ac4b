"""The names of the classes of well-known data sets."""

from __future__ import annotations

import functools
import pathlib

from jaxcam.errors import JaxcamError


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
