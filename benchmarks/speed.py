"""Cost of every method in forward passes: `python -m benchmarks.speed`.

Full-width VGG16 and ResNet50 at 224 pixels with drawn weights (non-zero biases, non-trivial batch
norm), batch 1 and 8. A method's time runs from the normalised image to the map at image size; the
unit is one bare jitted forward pass of the same network and batch in the same round of the same
run. Before anything is timed, each compiled method must agree with an independent evaluation.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import compiled, interleaved, largest_error, machine, ratio, save
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.registry import METHODS
from jaxcam.models.network import Network
from jaxcam.models.resnet import ResNetConfig
from jaxcam.models.vgg import VGGConfig

CONFIGS = {"vgg16": VGGConfig(16), "resnet50": ResNetConfig(50)}


def drawn(config) -> Network:
    """A network with biases, scales and statistics that are neither zero nor one."""
    network = Network.create(config, seed=0)
    rng = np.random.default_rng(0)

    def shake(path, value):
        name = path[-1].key
        if name == "kernel":
            return value
        noise = rng.normal(size=value.shape)
        return jnp.asarray(np.exp(0.1 * noise) if name in ("scale", "var") else 0.05 * noise, value.dtype)

    return Network("drawn", config, jax.tree_util.tree_map_with_path(shake, network.params), network.classes,
                   network.preprocessing)  # fmt: skip


def explainer(network: Network, name: str):
    """`(params, images (b, s, s, 3), targets (b,)) -> (maps (b, s, s), coefficients (b, K))`."""
    features, head = network.split()
    function = METHODS[name].function

    def run(params, images, targets):
        activations = features(params, images)
        result = jax.vmap(lambda a, t: function(params, a, head=head, target=t))(activations, targets)
        size = images.shape[1:3]
        return jax.vmap(lambda m: scale_map(resize_map(m, size)))(result.map), result.coefficients

    return run


def expected(network: Network, name: str, params, images, targets) -> jax.Array:
    """Coefficients by another way than the method's own code."""
    features, head = network.split()
    a = features(params, images)
    g = jax.grad(lambda a: jnp.take_along_axis(head(params, a), targets[:, None], 1).sum())(a)
    if name == "cam":
        return params["fc"]["kernel"][:, targets].T
    if name == "grad_cam":
        return g.mean((1, 2))
    if name == "xgrad_cam":
        total = a.sum((1, 2))
        return jnp.where(total != 0, (a * g).sum((1, 2)) / jnp.where(total != 0, total, 1), 0)
    if name == "grad_cam_pp":
        denominator = 2 * g**2 + a.sum((1, 2), keepdims=True) * g**3
        w = jnp.where(denominator != 0, g**2 / jnp.where(denominator != 0, denominator, 1), 0)
        return (w * jax.nn.relu(g)).sum((1, 2))
    raise KeyError(name)


def dropped(network: Network, channels: np.ndarray, params, images, targets) -> jax.Array:
    """The drop of the logit without each of some channels, `(b, n)`, by running the head on what is left."""
    features, head = network.split()
    a = features(params, images)
    pick = lambda a: jnp.take_along_axis(head(params, a), targets[:, None], 1)[:, 0]  # noqa: E731
    without = jax.jit(lambda a, k: pick(a) - pick(a * (jnp.arange(a.shape[-1]) != k)))
    return jnp.stack([without(a, k) for k in channels], 1)


def gate(network: Network, name: str, coefficients, params, images, targets) -> float:
    """The disagreement with an independent evaluation; must be small before timing means anything."""
    if name == "ablation_cam":
        some = np.random.default_rng(2).choice(coefficients.shape[1], 12, replace=False)
        return largest_error(coefficients[:, some], dropped(network, some, params, images, targets))
    if name in ("lift_cam", "deep_shap_cam"):
        features, head = network.split()
        a = features(params, images)
        pick = functools.partial(jnp.take_along_axis, indices=targets[:, None], axis=1)
        drop = (pick(head(params, a)) - pick(head(params, jnp.zeros_like(a))))[:, 0]
        error = float(jnp.max(jnp.abs(coefficients.sum(-1) - drop) / jnp.maximum(1, jnp.abs(drop))))
        if isinstance(network.config, ResNetConfig):
            exact = a.mean((1, 2)) * params["fc"]["kernel"][:, targets].T
            error = max(error, largest_error(coefficients, exact))
        return error
    return largest_error(coefficients, expected(network, name, params, images, targets))


def import_time(statement: str) -> float:
    """Seconds that a fresh interpreter needs for an import statement, the median of several."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout)
        for _ in range(7)
    ]
    return statistics.median(runs)


def main(argv=None) -> int:
    """Prints a Markdown table and writes `benchmarks/results/speed-<platform>.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    args = parser.parse_args(argv)
    print({k: v for k, v in machine().items()})
    base = import_time("import jax, flax.nnx")
    imports = {"jax + flax.nnx": base, "jaxcam": import_time("import jaxcam"),
               "jaxcam with all its public names": import_time("from jaxcam import *")}  # fmt: skip
    for what, seconds in imports.items():
        print(f"import {what}: {seconds:.2f} s ({seconds / base:.2f} x)")
    rows = []
    print("\n| network | batch | method | compile, s | run, ms | run, forwards | gate |\n|---|---|---|---|---|---|---|")
    for name, config in CONFIGS.items():
        if name not in args.networks:
            continue
        network = drawn(config)
        for batch in args.batches:
            rng = np.random.default_rng(1)
            images = jnp.asarray(rng.normal(size=(batch, 224, 224, 3)), jnp.float32)
            targets = jnp.asarray(rng.integers(0, 1000, batch), jnp.int32)
            forward, seconds = compiled(network.predict, network.params, images)
            calls, facts = {"forward": functools.partial(forward, network.params, images)}, {"forward": (seconds, 0.0)}
            for method in args.methods:
                if METHODS[method].heads is not None and name != "resnet50":
                    continue
                run, seconds = compiled(explainer(network, method), network.params, images, targets)
                _, coefficients = run(network.params, images, targets)
                error = gate(network, method, coefficients, network.params, images, targets)
                if not error < 1e-4:
                    print(f"{name} {method}: wrong by {error:.1e}; not timed", file=sys.stderr)
                    return 1
                calls[method] = functools.partial(run, network.params, images, targets)
                facts[method] = (seconds, error)
            timed = interleaved(calls, args.rounds)
            for method, seconds in timed.items():
                row = {
                    "network": name, "batch": batch, "method": method, "compile_s": facts[method][0],
                    "run_ms": 1e3 * statistics.median(seconds), "forwards": ratio(seconds, timed["forward"]),
                    "gate": facts[method][1],
                }  # fmt: skip
                rows.append(row)
                print(
                    f"| {name} | {batch} | {method} | {row['compile_s']:.1f} | {row['run_ms']:.0f} "
                    f"| {row['forwards']:.3f} | {row['gate']:.0e} |",
                    flush=True,
                )
    path = save(f"speed-{jax.default_backend()}", {"imports_s": imports, "rows": rows})
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
