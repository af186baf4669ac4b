"""Forward passes on a CPU, with and without the rewriting of convolutions: `python -m benchmarks.forward`.

Seven networks at 224 pixels with drawn weights: three of this library's families, and four guests. Everything is timed
in turn: each round runs every program once, and PyTorch's, where `--torch-python` names an interpreter that has it. It
has as many threads as there are cores here, and the better one of its two layouts of arrays. Before anything is timed,
the two programs must agree, and with PyTorch. Times are medians over rounds; ratios are medians of the ratios in the
same round. On a machine that others use, trust the ratios more than the times.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from benchmarks.networks import NETWORKS, drawn
from benchmarks.peer import Peer, rest
from benchmarks.timing import compiled, largest_error, machine, ratio, save
from jaxcam.models.efficientnet import EfficientNetLiteConfig
from jaxcam.models.graph import graph
from jaxcam.models.network import Part
from jaxcam.models.resnet import ResNetConfig
from jaxcam.models.trees import named
from jaxcam.models.vgg import VGGConfig
from jaxcam.transforms import fast_convolutions, for_cpu

FAMILIES = {"efficientnet_lite0": EfficientNetLiteConfig(0), "resnet50": ResNetConfig(50), "vgg16": VGGConfig(16)}


class Ops:
    """The operations of `benchmarks.networks`, as Flax would have them; arrays are `(b, h, w, k)`."""

    relu, relu6 = map(staticmethod, (jax.nn.relu, jax.nn.relu6))
    hard_swish, hard_sigmoid = map(staticmethod, (jax.nn.hard_swish, jax.nn.hard_sigmoid))
    gelu = staticmethod(functools.partial(jax.nn.gelu, approximate=False))

    def __init__(self, weights: dict[str, jax.Array] | None):
        self.weights, self.shapes = weights, {}

    def weight(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        """A weight by name; zeros where the shapes are still being asked for."""
        self.shapes[name] = shape
        return jnp.zeros(shape) if self.weights is None else self.weights[name]

    def conv(self, x, name, channels, kernel, stride=1, *, groups=1, bias=False, padding=None):
        """Padding as TensorFlow's SAME unless it is given."""
        weight = self.weight(f"{name}.kernel", (kernel, kernel, x.shape[-1] // groups, channels))
        x = lax.conv_general_dilated(
            x, weight, (stride, stride), "SAME" if padding is None else [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip
        return x + self.weight(f"{name}.bias", (channels,)) if bias else x

    def norm(self, x, name, epsilon):
        """Batch norm in evaluation mode."""
        mean, var, scale, shift = (self.weight(f"{name}.{k}", x.shape[-1:]) for k in ("mean", "var", "scale", "bias"))
        return (x - mean) * (lax.rsqrt(var + epsilon) * scale) + shift

    def layer_norm(self, x, name):
        """Over the channels."""
        x = jax.nn.standardize(x, epsilon=1e-6)
        return x * self.weight(f"{name}.scale", x.shape[-1:]) + self.weight(f"{name}.bias", x.shape[-1:])

    def scaled(self, x, name):
        """Times a number for each channel."""
        return x * self.weight(f"{name}.scale", x.shape[-1:])

    def dense(self, x, name, channels):
        """Of `(b, k)`."""
        return x @ self.weight(f"{name}.kernel", (x.shape[1], channels)) + self.weight(f"{name}.bias", (channels,))

    def max_pool(self, x, window, stride, padding):
        """Padded alike on all sides."""
        return nnx.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)

    def mean_pool(self, x):
        """2 x 2."""
        return nnx.avg_pool(x, (2, 2), (2, 2))

    def mean(self, x, keep=False):
        """Over the positions."""
        return jnp.mean(x, (1, 2), keepdims=keep)

    def concatenate(self, several):
        """Of channels."""
        return jnp.concatenate(several, -1)

    def flat(self, x):
        """`(b, h w k)`."""
        return x.reshape(len(x), -1)


@functools.lru_cache(maxsize=1)
def network(name: str):
    """`(params, x) -> logits` of a name, and its weights."""
    if name in FAMILIES:
        shapes = graph(FAMILIES[name])[2]
        leaves = [jnp.asarray(drawn(path, leaf.shape)) for path, leaf in named(shapes).items()]
        return Part(FAMILIES[name], None, None), jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    ops = Ops(None)
    jax.eval_shape(lambda x: NETWORKS[name](ops, x), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    return lambda weights, x: NETWORKS[name](Ops(weights), x), {
        path: jnp.asarray(drawn(path, shape)) for path, shape in ops.shapes.items()
    }


def once(call) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(name: str, batch: int, rounds: int, images: np.ndarray, peer: Peer | None) -> dict:
    """One row of the table.

    Raises:
      RuntimeError: the programs disagree.
    """
    function, params = network(name)
    x = jnp.asarray(images[:batch])
    with fast_convolutions(False):
        plain, plain_s = compiled(function, params, x)
    fast, fast_s = compiled(for_cpu(function), params, x)
    want = plain(params, x)
    errors = {"rewriting": largest_error(fast(params, x), want)}
    layout = ""
    if peer:
        logits, layout = peer.ask("load", name, batch)
        errors["PyTorch"] = largest_error(jnp.asarray(logits), want)
    if not (errors["rewriting"] < 1e-5 and max(errors.values()) < 1e-4):
        raise RuntimeError(f"{name}: the programs disagree, {errors}")
    seconds: dict[str, list[float]] = {"plain": [], "fast": [], "torch": []}
    repeats = 3 if batch == 1 else 1
    for _ in range(rounds):
        for label, program in {"plain": plain, "fast": fast}.items():
            seconds[label].append(statistics.median(once(lambda p=program: p(params, x)) for _ in range(repeats)))
        if peer:
            rest()
            seconds["torch"].append(statistics.median(peer.ask("run", repeats)))
    return {"network": name, "batch": batch, "seconds": seconds, "compile_s": [plain_s, fast_s], "errors": errors,
            "layout": layout}  # fmt: skip


HEAD = (
    "| network | batch | as it is, ms | rewritten, ms | PyTorch, ms | rewritten / as it is | rewritten / PyTorch "
    "| compilation, s (as it is) | error | of PyTorch |\n" + "|---" * 10 + "|"
)


def line(row: dict) -> str:
    """A row of the table."""
    s = row["seconds"]
    ms = {k: f"{1e3 * statistics.median(v):.1f}" if v else "" for k, v in s.items()}
    beside = f"{ratio(s['fast'], s['torch']):.2f}" if s["torch"] else ""
    layout = f" ({row['layout']})" if row["layout"] else ""
    other = f"{row['errors']['PyTorch']:.0e}" if "PyTorch" in row["errors"] else ""
    plain_s, fast_s = row["compile_s"]
    return (
        f"| {row['network']} | {row['batch']} | {ms['plain']} | {ms['fast']} | {ms['torch']}{layout} "
        f"| {ratio(s['fast'], s['plain']):.2f} | {beside} | {fast_s:.1f} ({plain_s:.1f}) "
        f"| {row['errors']['rewriting']:.0e} | {other} |"
    )


def main(argv=None) -> int:
    """Prints a Markdown table and writes `benchmarks/results/forward-<platform>.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", help="an interpreter with torch")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    images = np.random.default_rng(0).normal(size=(max(args.batches), 224, 224, 3)).astype(np.float32)
    folder = tempfile.TemporaryDirectory()
    np.save(f"{folder.name}/images.npy", images)
    peer = Peer(args.torch_python, "forward_torch.py", folder, cores) if args.torch_python else None
    about = {"load": load, "cores": cores, "peer": peer and peer.greeting}
    rows = []
    print(HEAD, flush=True)
    for batch in args.batches:
        for name in args.networks:
            rows.append(measure(name, batch, args.rounds if batch == 1 else max(3, args.rounds // 2), images, peer))
            print(line(rows[-1]), flush=True)
            path = save(f"forward-{jax.default_backend()}", about | {"rows": rows})  # what is measured is kept
            path.with_suffix(".md").write_text(report(about, rows))
    if peer:
        peer.close()
    return 0


def report(about: dict, rows: list[dict]) -> str:
    """The page of results."""
    return "\n".join([
        "# Forward passes with and without the rewriting of convolutions", "",
        f"`python -m benchmarks.forward`: 224 pixels, float32, {about['cores']} cores, jax {machine()['jax']}"
        f"{', ' + about['peer'] if about['peer'] else ''}; load before the run {about['load']:.1f}. Medians; all "
        "interleaved in one run. A load above 0.3 means that others used the machine: then the ratios, of the same "
        "round each, say more than the times, and PyTorch loses most.", "", HEAD, *map(line, rows), "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
