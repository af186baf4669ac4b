"""Coalitions per second, full-width VGG16 at conv5_3: `python -m benchmarks.coalitions [--torch-python PYTHON]`.

Drawn weights, random orderings, everything in one run and interleaved. Beside ours: the machine's own float32
matrix product in JAX; a batched PyTorch head (masked activations, no_grad, as many threads as cores, its best
batch size); Ablation-CAM of pytorch-grad-cam; and one forward pass. What disagrees with the plain masked
evaluation is not timed. PyTorch runs in an interpreter that has it, and only where one is named.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peer import Peer, rest
from benchmarks.speed import drawn
from benchmarks.timing import compiled, largest_error, machine, save
from jaxcam.methods.coalition import ablation_cam
from jaxcam.methods.result import scalar_score
from jaxcam.methods.sampling import shap_cam
from jaxcam.models.network import Network
from jaxcam.models.vgg import VGGConfig
from jaxcam.shapley.permutations import ordering_ranks
from jaxcam.transforms.coalition import coalition_game, masked_game

TARGET = 3
GATED = 24


def ordering_masks(players: int, count: int) -> np.ndarray:
    """The first `count` coalitions of random orderings, `(count, K)` float32."""
    orderings = -(-count // (players - 1))
    ranks = np.asarray(ordering_ranks(jax.random.key(7), jnp.arange(orderings), players, False))[:, 0]
    return np.concatenate([r <= np.arange(players - 1)[:, None] for r in ranks])[:count].astype(np.float32)


def torch_head(python: str, network: Network, a: np.ndarray, masks: np.ndarray) -> Peer:
    """PyTorch's side, given the head's weights, the activations and the masks."""
    folder = tempfile.TemporaryDirectory()
    dense = {f"{n}/{k}": np.asarray(network.params[n][k]) for n in ("fc6", "fc7", "fc8") for k in ("kernel", "bias")}
    # PyTorch flattens (c, h, w), we (h, w, c).
    side, channels = network.config.pool_size, a.shape[-1]
    kernel = dense["fc6/kernel"].reshape(side, side, channels, -1)
    dense["fc6/kernel"] = kernel.transpose(2, 0, 1, 3).reshape(side * side * channels, -1)
    np.savez(f"{folder.name}/head.npz", a=a.transpose(2, 0, 1), masks=masks, **dense)
    return Peer(python, "coalitions_torch.py", folder, os.cpu_count(), TARGET)


def seconds_of(call: Callable) -> float:
    """Wall time of one call, after a rest."""
    rest()
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


def main(argv=None) -> int:
    """Prints a Markdown table and writes `benchmarks/results/coalitions-<platform>.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", help="an interpreter with torch, and grad-cam for its Ablation-CAM")
    parser.add_argument("--chunks", type=int, nargs="+", default=[1024, 4096], help="coalitions in one call of ours")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 512], help="coalitions in one of PyTorch's")
    parser.add_argument("--orderings", type=int, default=10, help="of the whole SHAP-CAM that is timed")
    parser.add_argument("--channels", type=int, default=32, help="that pytorch-grad-cam ablates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=float, default=1.0, help="of the network; 1 is VGG16")
    args = parser.parse_args(argv)
    print(machine())
    network = drawn(VGGConfig(16, width=args.width))
    features, head = network.split(at="conv5_3")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(224, 224, 3)), jnp.float32)
    a = jax.jit(features)(network.params, x)
    players = a.shape[-1]
    masks = ordering_masks(players, max(*args.chunks, *args.batches))
    found = []

    def values(params, a, masks):
        found.append(coalition_game(scalar_score(head, params, TARGET), a))
        return found[-1](masks)

    shap, ablation = (
        functools.partial(f, head=head, target=TARGET)
        for f in (functools.partial(shap_cam, num_permutations=args.orderings), ablation_cam)
    )
    plain = functools.partial(shap, estimator="antithetic")
    on = (network.params, a)
    key = jax.random.key(0)
    calls = {f"ours, {n} at once": (n, compiled(values, *on, jnp.asarray(masks[:n]))[0]) for n in args.chunks}
    calls = {name: (n, functools.partial(f, *on, jnp.asarray(masks[:n]))) for name, (n, f) in calls.items()}
    coalitions = args.orderings * (players - 1)
    calls["SHAP-CAM, antithetic, whole"] = (coalitions, functools.partial(compiled(plain, *on, key)[0], *on, key))
    calls["SHAP-CAM, default, whole"] = (coalitions, functools.partial(compiled(shap, *on, key)[0], *on, key))
    calls["Ablation-CAM, whole"] = (players + 1, functools.partial(compiled(ablation, *on)[0], *on))
    calls["one forward pass"] = (
        0,
        functools.partial(compiled(network.predict, network.params, x)[0], network.params, x),
    )
    size = max(4096, max(args.chunks)) if args.width == 1 else 512
    square = jax.random.normal(jax.random.key(1), (size, 4096 if args.width == 1 else 512))
    other = square[: square.shape[1]]
    product = compiled(lambda p, q: jnp.matmul(p, q, precision="highest"), square, other)[0]
    calls["matrix product"] = (0, functools.partial(product, square, other))
    game = found[0]
    structure = re.sub(r" at \S+:\d+ \(.*?\)", "", game.structure)  # without a path of this machine
    print(f"structure: {structure}")

    score = scalar_score(head, network.params, TARGET)
    truth = jax.jit(masked_game(score, a))(jnp.asarray(masks[:GATED]))
    span = float(score(a) - score(jnp.zeros_like(a)))
    gates = {name: largest_error(call()[:GATED], truth) for name, (_, call) in calls.items() if name.startswith("ours")}
    some = np.random.default_rng(2).choice(players, 12, replace=False)
    without = jnp.asarray(1 - np.eye(players, dtype=np.float32)[some])
    drops = score(a) - jax.jit(masked_game(score, a))(without)
    gates["Ablation-CAM, whole"] = largest_error(calls["Ablation-CAM, whole"][1]().coefficients[some], drops)
    for name in ("SHAP-CAM, antithetic, whole", "SHAP-CAM, default, whole"):
        gates[name] = abs(float(calls[name][1]().coefficients.sum()) - span) / abs(span)
    torch = torch_head(args.torch_python, network, np.asarray(a), masks) if args.torch_python else None
    if torch:
        gates["PyTorch head"] = largest_error(jnp.asarray(torch.ask("values", GATED)), truth)
    print("gates:", {k: f"{v:.1e}" for k, v in gates.items()})
    if not max(gates.values()) < 1e-4:
        print("something disagrees with the masked evaluation; nothing is timed", file=sys.stderr)
        return 1

    timed: dict[str, list[float]] = {name: [] for name in calls}
    best = None
    if torch:
        rates = {n: n / min(torch.ask("time", n) for _ in range(2)) for n in args.batches}
        best = max(rates, key=rates.__getitem__)
        timed["PyTorch head"] = []
        calls["PyTorch head"] = (best, None)
        print("PyTorch head, coalitions/s by batch:", {n: round(r) for n, r in rates.items()})
    for _ in range(args.rounds):
        for name, (_, call) in calls.items():
            if call is None:
                rest()
                timed[name].append(torch.ask("time", best))
            else:
                timed[name].append(seconds_of(call))
    flops = 2 * size * square.shape[1] ** 2 / 1e9
    speed = [flops / s for s in timed["matrix product"]]
    lines, rows = ["| what | seconds | coalitions/s | share of the matrix product's speed |", "|---" * 4 + "|"], []
    for name, seconds in timed.items():
        count = calls[name][0]
        rate = count / statistics.median(seconds)
        share = statistics.median(count * game.megaflops / 1e3 / s / v for s, v in zip(seconds, speed, strict=True))
        counted = name.startswith(("ours", "SHAP-CAM"))
        rows.append({"what": name, "coalitions": count, "seconds": seconds, "rate": rate,
                     "share": share if counted else None, "gate": gates.get(name)})  # fmt: skip
        lines.append(f"| {name} | {statistics.median(seconds):.3f} | {f'{rate:,.0f}' if count else ''} "
                     f"| {f'{100 * share:.0f} %' if counted else ''} |")  # fmt: skip
    by_name = {r["what"]: r for r in rows}
    ours = max((r for r in rows if r["what"].startswith("ours")), key=lambda r: r["rate"])
    said = [f"Matrix product: {statistics.median(speed):.0f} GFLOP/s; the head behind its first layer: "
            f"{game.megaflops:.1f} MFLOP a coalition ({structure})."]  # fmt: skip
    passes = statistics.median(
        s / f for s, f in zip(timed["Ablation-CAM, whole"], timed["one forward pass"], strict=True)
    )
    said.append(f"Ablation-CAM over {players} channels costs {passes:.2f} forward passes.")
    if torch:
        factor = ours["rate"] / by_name["PyTorch head"]["rate"]
        said.append(f"Ours is {factor:.1f} times PyTorch's head (torch {torch.greeting}, batch {best}).")
        try:
            once, seconds = torch.ask("ablation", args.channels, min(args.channels, 32))
            said.append(f"pytorch-grad-cam's Ablation-CAM: {args.channels / seconds:.2f} channels/s "
                        f"({seconds:.1f} s for {args.channels}; one forward pass {once:.2f} s).")  # fmt: skip
            rows.append({"what": "pytorch-grad-cam Ablation-CAM", "coalitions": args.channels, "seconds": [seconds],
                         "rate": args.channels / seconds})  # fmt: skip
            torch.close()
        except RuntimeError:
            said.append("pytorch-grad-cam was not there.")
    text = "\n".join([*said, "", *lines])
    print(text)
    path = save(f"coalitions-{jax.default_backend()}", {"megaflops": game.megaflops, "said": said, "rows": rows})
    path.with_suffix(".md").write_text(f"# Coalitions per second\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
