"""Honest timings on noisy machines: everything in one run, interleaved, reported as ratios."""

from __future__ import annotations

import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def compiled(fn: Callable, *args) -> tuple[Callable, float]:
    """`fn` compiled ahead of time for these arguments, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    executable = jax.jit(fn).lower(*args).compile()
    return executable, time.perf_counter() - start


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; every round runs every call once, so noise hits all alike."""
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median over rounds of the ratio to the base in the same round."""
    return statistics.median(s / b for s, b in zip(seconds, base, strict=True))


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "precision": str(jax.config.jax_default_matmul_precision or "default"),
    }


def save(name: str, record: dict) -> pathlib.Path:
    """Writes `benchmarks/results/NAME.json`."""
    folder = pathlib.Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **record}, indent=1) + "\n")
    return path


def largest_error(a: jax.Array, b: jax.Array) -> float:
    """The largest difference relative to the largest value."""
    return float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30))
