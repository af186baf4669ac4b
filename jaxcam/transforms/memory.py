"""What a device has room for: chunks and batches are chosen by it where nobody names them."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from typing import Any

import jax

#: Bytes of temporary values with which sizes were measured on processors, which gain nothing from more.
PROCESSOR = 1 << 28
#: One of so many parts of the free memory is for the temporary values of a chunk: networks keep several of its size.
_PARTS = 8


def working_bytes(device: Any = None) -> int:
    """Bytes that the temporary values of one chunk may take: a power of two.

    An eighth of what the device had free when it was first asked, which then stays the answer: sizes of chunks and
    batches are parts of programs, and of runs that are taken up again. On processors 256 MB, where a container or a
    small machine has that much.

    Args:
      device: the default one of this process unless given.
    """
    return _working(_default_device() if device is None else device)


def room_for(count: int, most: int | None = None, device: Any = None) -> int:
    """How many to take at once where a processor takes `count`: as many times as much as the device has more memory.

    Args:
      most: all there are; no more than these, unless `count` is more.
    """
    fits = count * max(1, working_bytes(device) // PROCESSOR)
    return fits if most is None else max(count, min(fits, most))


def is_a_processor(device: Any = None) -> bool:
    """Whether a device, the default one unless given, is a CPU: it gains little from many at once."""
    return (_default_device() if device is None else device).platform == "cpu"


@functools.cache
def _working(device: Any) -> int:
    stats: dict | None = None
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # a runtime that does not count
        stats = device.memory_stats()
    if stats and stats.get("bytes_limit"):
        return _power(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return min(PROCESSOR, _power(_of_this_machine()))


def _power(free: int) -> int:
    return 1 << max(20, (max(free, 0) // _PARTS).bit_length() - 1)


def _of_this_machine() -> int:
    """Bytes of memory that this process may have: of the machine, or of its control group."""
    found = [_PARTS * PROCESSOR]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(pathlib.Path(file).read_text()))
    return min(found)


def _default_device() -> Any:
    chosen: Any = jax.config.jax_default_device  # type: ignore[attr-defined, unused-ignore]
    if chosen is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen
