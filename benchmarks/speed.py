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
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import compiled, interleaved, largest_error, machine, ratio, save
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.registry import METHODS
from jaxcam.models.network import Network
from jaxcam.models.resnet import ResNetConfig
from jaxcam.models.vgg import VGGConfig
from jaxcam.transforms import for_cpu

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


def of_weights(network: Network, params, a, g, targets) -> jax.Array:
    """CAM: the weights of the linear layer behind the average."""
    return params["fc"]["kernel"][:, targets].T


def of_activations(network: Network, params, a, g, targets) -> jax.Array:
    """XGrad-CAM: the gradient averaged with each activation's share of its channel; 0 for a dead one."""
    total = a.sum((1, 2))
    return jnp.where(total != 0, (a * g).sum((1, 2)) / jnp.where(total != 0, total, 1), 0)


def of_powers(network: Network, params, a, g, targets) -> jax.Array:
    """Grad-CAM++: the second and third powers of the gradient."""
    denominator = 2 * g**2 + a.sum((1, 2), keepdims=True) * g**3
    w = jnp.where(denominator != 0, g**2 / jnp.where(denominator != 0, denominator, 1), 0)
    return (w * jax.nn.relu(g)).sum((1, 2))


#: Coefficients `(b, K)` by another way than the method's own code, from activations and gradients `(b, h, w, K)`.
EXPECTED = {
    "cam": of_weights,
    "grad_cam": lambda network, params, a, g, targets: g.mean((1, 2)),
    "xgrad_cam": of_activations,
    "grad_cam_pp": of_powers,
    "hires_cam": lambda network, params, a, g, targets: (a * g).sum((1, 2)),
}


def selected(head: Callable, params, a: jax.Array, targets: jax.Array) -> jax.Array:
    """The logits `(b,)` of the targets."""
    return jnp.take_along_axis(head(params, a), targets[:, None], 1)[:, 0]


def by_expectation(network: Network, name: str, coefficients, params, a, targets) -> float:
    """The largest error beside `EXPECTED`."""
    head = network.split()[1]
    g = jax.grad(lambda a: selected(head, params, a, targets).sum())(a)
    return largest_error(coefficients, EXPECTED[name](network, params, a, g, targets))


def by_masking(network: Network, name: str, coefficients, params, a, targets) -> float:
    """The largest error beside the drop without each of some channels, by running the head on what is left."""
    head = network.split()[1]
    some = np.random.default_rng(2).choice(coefficients.shape[1], 12, replace=False)
    full = selected(head, params, a, targets)
    without = jax.jit(lambda a, k: full - selected(head, params, a * (jnp.arange(a.shape[-1]) != k), targets))
    return largest_error(coefficients[:, some], jnp.stack([without(a, k) for k in some], 1))


def by_sum(network: Network, name: str, coefficients, params, a, targets) -> float:
    """What is missing from F(A) - F(0); with a linear head behind the average, the error of each channel as well."""
    head = network.split()[1]
    drop = selected(head, params, a, targets) - selected(head, params, jnp.zeros_like(a), targets)
    error = float(jnp.max(jnp.abs(coefficients.sum(-1) - drop) / jnp.maximum(1, jnp.abs(drop))))
    if isinstance(network.config, ResNetConfig):
        error = max(error, largest_error(coefficients, a.mean((1, 2)) * of_weights(network, params, a, None, targets)))
    return error


#: What a compiled method must agree with before its time means anything; the methods that are timed.
GATES = {
    **dict.fromkeys(EXPECTED, by_expectation),
    "ablation_cam": by_masking,
    **dict.fromkeys(("lift_cam", "hires_lift_cam", "deep_shap_cam"), by_sum),
}


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
    parser.add_argument("--methods", nargs="*", default=list(GATES), choices=GATES)
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
            activations = network.split()[0](network.params, images)
            forward, seconds = compiled(for_cpu(network.predict), network.params, images)
            calls, facts = {"forward": functools.partial(forward, network.params, images)}, {"forward": (seconds, 0.0)}
            for method in args.methods:
                if METHODS[method].heads is not None and name != "resnet50":
                    continue
                run, seconds = compiled(for_cpu(explainer(network, method)), network.params, images, targets)
                _, coefficients = run(network.params, images, targets)
                error = GATES[method](network, method, coefficients, network.params, activations, targets)
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
