"""Compiled programs, kept between the runs of a command."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import platform

#: The switch: `JAXCAM_PROGRAMS=0` keeps none.
SWITCH = "JAXCAM_PROGRAMS"
#: Bytes of all programs, half for JAX's files and half for those of our own networks; what was used longest ago goes
#: first.
MOST = 512 << 20
#: Programs that compile faster than this are not worth a file.
_SECONDS = 0.05


def keep_programs(*, ours: bool) -> pathlib.Path | None:
    """Has JAX keep what it compiles in the cache folder, and returns where; None where it is not to, or cannot.

    A folder of JAX's own, where the user named one, stays. It is for a command, whose process is its own, to ask for
    it; the library never does.

    Args:
      ours: that no code but this library's runs: its programs are then found without tracing them, too.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return None
    import jax

    from jaxcam.explanation.kept import keep_in
    from jaxcam.zoo.download import cache_folder

    named = jax.config.values["jax_compilation_cache_dir"]
    if named:
        return pathlib.Path(named)
    folder = cache_folder() / "programs" / _processor()
    traced = folder.with_name(f"{folder.name}-traced")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        traced.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or not ours to write
        return None
    if not os.access(folder, os.W_OK):
        return None
    keep_in(traced if ours and _private(traced) else None, MOST // 2)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST // 2)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _private(folder: pathlib.Path) -> bool:
    """Whether nobody else can write to a folder: what lies in it is run."""
    told = folder.stat()
    return not hasattr(os, "getuid") or told.st_uid == os.getuid() and not told.st_mode & 0o022


def _processor() -> str:
    """The kind of processor: a program compiled for one may not run on another that shares the folder."""
    told = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
