"""What LIFT-CAM promises, on real pictures: `python -m benchmarks.completeness DATA [--limit 200]`.

For the top-1 class of every picture and every bundled network: the completeness gap of LIFT-CAM
relative to `max(1, |F(A) - F(0)|)`; and where the head is linear, the distance of its coefficients
from the exact channel drops `F(A) - F(A without k)` (evaluated one by one in float64), and of the
scaled maps of Grad-CAM, XGrad-CAM and CAM from one another.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import save
from jaxcam.methods.contribution import lift_cam
from jaxcam.methods.gradient import cam, grad_cam, xgrad_cam
from jaxcam.methods.maps import scale_map
from jaxcam.models.network import Network
from jaxcam.models.resnet import ResNetConfig
from jaxcam.zoo.load import bundled, load

_SUFFIXES = {".jpg", ".jpeg", ".png"}


def exact_drops(network: Network, activations: np.ndarray, target: int) -> np.ndarray:
    """`F(A) - F(A without k)` for every channel, by evaluating the head K + 1 times in float64."""
    _, head = network.split()
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), network.params)
        a = jnp.asarray(activations, jnp.float64)
        without = a[None] * (1 - jnp.eye(a.shape[-1], dtype=a.dtype))[:, None, None, :]
        run = jax.jit(head)
        return np.asarray(run(params, a)[target] - run(params, without)[:, target])


def check(network: Network, pictures: list[pathlib.Path]) -> dict[str, float]:
    """The largest deviation of each kind over the pictures."""
    features, head = network.split()
    linear = isinstance(network.config, ResNetConfig)
    methods = {"lift_cam": lift_cam} | ({"grad_cam": grad_cam, "xgrad_cam": xgrad_cam, "cam": cam} if linear else {})
    compiled = {name: jax.jit(functools.partial(f, head=head)) for name, f in methods.items()}
    run_features, predict = jax.jit(features), jax.jit(network.predict)
    worst: dict[str, float] = {"completeness_gap": 0.0}
    for picture in pictures:
        x = network.preprocess(picture)
        target = jnp.argmax(predict(network.params, x))
        a = run_features(network.params, x)
        results = {name: f(network.params, a, target=target) for name, f in compiled.items()}
        lift = results["lift_cam"]
        f_a, f_0 = head(network.params, a)[target], head(network.params, jnp.zeros_like(a))[target]
        gap = abs(float(lift.coefficients.sum() - (f_a - f_0))) / max(1.0, abs(float(f_a - f_0)))
        figures = {"completeness_gap": gap}
        if linear:
            drops = exact_drops(network, np.asarray(a), int(target))
            figures["lift_vs_exact_drops"] = float(np.abs(lift.coefficients - drops).max() / np.abs(drops).max())
            maps = {name: np.asarray(scale_map(r.map)) for name, r in results.items()}
            for name in ("xgrad_cam", "cam"):
                figures[f"grad_cam_vs_{name}_maps"] = float(np.abs(maps["grad_cam"] - maps[name]).max())
        worst = {k: max(worst.get(k, 0.0), v) for k, v in figures.items()}
    return worst


def main(argv=None) -> int:
    """Prints one line per network and deviation; exits 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="a folder of pictures")
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args(argv)
    pictures = sorted(p for p in args.data.rglob("*") if p.suffix.lower() in _SUFFIXES)[: args.limit]
    if not pictures:
        print(f"{args.data}: holds no pictures", file=sys.stderr)
        return 2
    bounds = {"completeness_gap": 1e-4, "lift_vs_exact_drops": 1e-5}
    failed, record = False, {"pictures": len(pictures)}
    for name in bundled():
        record[name] = check(load(name), pictures)
        for what, value in record[name].items():
            bound = bounds.get(what, 1e-4)
            failed |= not value <= bound
            print(f"{name}: {what}: at most {value:.2e} on {len(pictures)} pictures (bound {bound:.0e})")
    save("completeness", record)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
