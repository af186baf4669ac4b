"""Score-CAM in forward passes: `python -m benchmarks.score`.

Full-width VGG16 with drawn weights at 224, all 512 channels of conv5_3, beside as many bare forward passes in
the best of several batch sizes, both in every round. Score-CAM also draws the masks and multiplies the image by them.
The activations are drawn too: in a network that nobody trained most channels are constant, and would be skipped.
The coefficients of some channels are compared with masks made by hand before anything is timed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import drawn
from benchmarks.timing import interleaved, largest_error, ratio, save
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs
from jaxcam.models.network import Network
from jaxcam.models.vgg import VGGConfig

TARGET = 3


def by_hand(network: Network, a: np.ndarray, image: np.ndarray, channels: list[int]) -> np.ndarray:
    """Logits of the image behind some channels' masks, one by one."""
    predict, found = jax.jit(network.predict), []
    for k in channels:
        mask = np.asarray(jax.image.resize(jnp.asarray(a[..., k]), image.shape[:2], "bilinear", antialias=False))
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        found.append(float(predict(network.params, jnp.asarray(image * mask[..., None]))[TARGET]))
    return np.array(found)


def main(argv=None) -> int:
    """Prints the ratios and writes `benchmarks/results/score-cpu.json` (or `-gpu`)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32], help="of the forward pass")
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16], help="chunk sizes of Score-CAM")
    parser.add_argument("--rounds", type=int, default=2, help="of the whole comparison")
    args = parser.parse_args(argv)
    network = drawn(VGGConfig())
    image = jax.random.normal(jax.random.key(1), (224, 224, 3))
    a = jax.nn.relu(jax.random.normal(jax.random.key(2), network.layer_shape("conv5_3")))
    players = a.shape[-1]

    forward = jax.jit(jax.vmap(network.predict, (None, 0)))
    batches = {b: jnp.broadcast_to(image, (b, *image.shape)) + 0 for b in args.batches}
    quick = interleaved({str(b): lambda x=x: forward(network.params, x) for b, x in batches.items()}, 3)
    per_image = {b: float(np.median(quick[str(b)])) / b for b in batches}
    best = min(per_image, key=per_image.__getitem__)
    for b, s in per_image.items():
        print(f"forward pass, batch {b}: {1e3 * s:.0f} ms an image", flush=True)

    def forwards():
        for _ in range(players // best):
            out = forward(network.params, batches[best])
        return out

    some = [int(k) for k in np.argsort(-np.ptp(np.asarray(a), axis=(0, 1)), kind="stable")[[0, 1, 100]]]
    want = by_hand(network, np.asarray(a), np.asarray(image), some)
    calls = {"forwards": forwards}
    for size in args.chunks:
        inputs = Inputs(None, a, None, TARGET, image=image, network=network.predict, network_params=network.params)
        stepped = METHODS["score_cam"].stepped(inputs, score="logit", normalise="increase", chunk_size=size)
        start = time.perf_counter()
        cam = stepped.run(inputs)
        first = time.perf_counter() - start
        black = float(jax.jit(network.predict)(network.params, jnp.zeros_like(image))[TARGET])
        error = largest_error(jnp.asarray(np.asarray(cam.coefficients)[some] + black), jnp.asarray(want))
        print(f"chunks of {size}: error {error:.1e}, first call {first:.0f} s", flush=True)
        if error > 1e-4 or int(cam.diagnostics["scored"]) != players:
            print("error: Score-CAM is wrong, or leaves channels out; not timed", file=sys.stderr)
            return 1
        calls[f"chunks of {size}"] = functools.partial(stepped.run, inputs)
    seconds = interleaved(calls, args.rounds)
    rows = []
    for name, taken in seconds.items():
        rows.append({"name": name, "seconds": taken, "ratio": ratio(taken, seconds["forwards"])})
        print(f"{name}: {np.median(taken):.1f} s, {rows[-1]['ratio']:.3f} times {players} forward passes", flush=True)
    save(
        f"score-{jax.default_backend()}",
        {"channels": players, "best_batch": best, "forward_seconds_per_image": per_image, "rows": rows},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
