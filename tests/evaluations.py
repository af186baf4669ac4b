"""A small data set, a small network, and the program that a kill test kills."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time
from typing import Any

import numpy as np
from forking import serve
from networks import CLASSES, VGG, network, picture
from PIL import Image

SETTINGS: dict[str, Any] = dict(
    methods=("lift_cam", "grad_cam", "shap_cam:num_permutations=2"), metrics=("ic", "ad", "add", "insertion", "gap"),
    reference="shap_cam:num_permutations=3", batch_size=4, steps=4,
)  # fmt: skip


def pictures(root: pathlib.Path, each: int = 5, *, broken: bool = True) -> pathlib.Path:
    """Four classes of pictures of various sizes, one of them broken."""
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(picture(40 + i, 36 + c, seed=10 * c + i)).save(root / name / f"{i}.png")
    if broken:
        file = root / CLASSES[1] / "1.png"
        file.write_bytes(file.read_bytes()[:200])
    return root


def tiny():
    """The network."""
    return network(VGG, size=32)


def table(run) -> dict[str, np.ndarray]:
    """All that must not depend on how a run was made."""
    columns = {k: v for k, v in run.columns.items() if k != "seconds"}
    kinds = ("coefficients", "maps", "insertion_curve", "reference")
    return (
        columns | {k: a for k in kinds if (a := run.arrays(k)) is not None} | {"broken": np.asarray(sorted(run.broken))}
    )


def assert_same(run, other) -> None:
    """Equal bit for bit."""
    ours, theirs = table(run), table(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def kill_at(call: str, count: int, of: str = "") -> None:
    """Kills this process in the middle of the `count`-th call of a function of `os` that has to do with such a name."""
    real, left = getattr(os, call), [count]

    def dying(*args):
        left[0] -= of in str(args[-1])
        if left[0] == 0:
            if call == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    setattr(os, call, dying)


def main(data: str, out: str, cache: str, when: str) -> None:
    """Evaluates; dies `when` it is said: "write 2", "fsync 3", "replace 1", "keep 5", "after 0.05" (s), or "never"."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    from jaxcam.evaluate import evaluate, unfinished

    unfinished.LEAST = 0.0

    kind, _, value = when.partition(" ")
    begun = threading.Event()

    def later():
        begun.wait()
        time.sleep(float(value))
        os.kill(os.getpid(), signal.SIGKILL)

    if kind == "after":
        threading.Thread(target=later, daemon=True).start()
    elif kind == "keep":
        kill_at("replace", int(value), "unfinished")
    elif kind != "never":
        kill_at(kind, int(value), {"replace": "arrays"}.get(kind, ""))

    def slowly(state) -> None:  # so that there is something left to kill
        begun.set()
        time.sleep(0.02)

    evaluate(tiny(), data, out=out, progress=slowly, **SETTINGS)


if __name__ == "__main__":
    from jaxcam.evaluate import evaluate, unfinished  # noqa: F401

    serve(main, 300)
