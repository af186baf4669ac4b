"""Memory of a command that runs the same programs over and over on a processor."""

from __future__ import annotations

import contextlib
import ctypes

# What glibc's malloc.h calls M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed for the next run, and says whether it could.

    Else XLA's temporary arrays go back to the system after each call, and every page of them is asked for anew in the
    next: a tenth of the time of an evaluation of small networks. The most that is held at a time stays the same.
    It is for a command, whose process is its own, to say so; the library never does.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        return all([mallopt(what, _NEVER) for what in (_TRIM_THRESHOLD, _MMAP_THRESHOLD)]) and bool(
            mallopt(_ARENA_MAX, 1)
        )
    return False
