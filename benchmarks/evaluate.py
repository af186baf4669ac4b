"""Pictures per second of a data set's evaluation: `python -m benchmarks.evaluate DATA [--torch-python PYTHON]`.

IC, AD and ADD of the methods that share one gradient, and of Ablation-CAM. Ours is `jaxcam.evaluate.evaluate` on the
folder, decoding and committing to disk included. The peers are loops with pytorch-grad-cam and torchcam over the same
network and pictures, which they get decoded; each side at its best batch size, in one run, interleaved. Nothing is
timed unless logits and maps agree. Without another interpreter, ours alone is timed. As the command `jaxcam evaluate`
does, all processes keep freed memory for the next call.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxcam
from benchmarks.peer import Peer, rest
from benchmarks.timing import compiled, largest_error, machine, save
from jaxcam.cli.memory import keep_freed_memory
from jaxcam.converters import save_torchvision_safetensors
from jaxcam.data.evaluation import load_dataset
from jaxcam.data.loader import stream
from jaxcam.data.samples import Dataset
from jaxcam.evaluate import evaluate
from jaxcam.evaluate.run import Run
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.models.network import Network
from jaxcam.models.vgg import VGGConfig

SHARED, ABLATION = ("grad_cam", "grad_cam_pp", "xgrad_cam"), ("ablation_cam",)
METRICS = ("ic", "ad", "add")
#: Peers of the shared gradient methods, and what each computes beside the six masked forward passes of the metrics.
PEERS = {
    "pytorch-grad-cam, own metrics": "3 forward and backward passes, 9 more forward passes in the metric classes",
    "pytorch-grad-cam, lean metrics": "3 forward and backward passes",
    "torchcam, lean metrics": "3 forward passes, 3 backward passes of the head",
    "torchcam, one forward pass": "1 forward pass by hand, 3 backward passes of the head",
}
OURS = "1 forward pass, 3 forward and backward passes of the head"
SLOW = "Ablation-CAM, pytorch-grad-cam"
#: Grad-CAM++ is left out: torchcam's is wrong, and pytorch-grad-cam's has an epsilon of the size of the terms.
GATED = ("grad_cam", "xgrad_cam")


def ours(network: Network, data: Dataset, methods: tuple[str, ...], batch: int) -> tuple[dict, Run, dict]:
    """What one evaluation took, into a folder that is new; the run; and its arrays of maps by method."""
    commits: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run = evaluate(
            network, data, methods=methods, metrics=METRICS, out=f"{folder}/run", batch_size=batch,
            progress=lambda state: commits.append((time.perf_counter(), state.done)),
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        maps = {m: run.arrays("maps", np.flatnonzero(run.columns["method"] == m)) for m in methods}
    if run.broken:
        raise SystemExit(f"pictures that cannot be used: {sorted(run.broken)}")
    (_, none), (first, some), *_, (last, count) = commits if len(commits) > 2 else [*commits, *commits[1:]]
    steady = (count - some) / (last - first) if last > first else float("nan")
    taken = {"batch": batch, "seconds": seconds, "rate": len(data) / seconds, "steady": steady,
             "first_unit_s": first - begun, "parts": parts(run)}  # fmt: skip
    return taken, run, maps


def parts(run: Run) -> dict[str, float]:
    """Seconds by part, of all units but the first; decoding happens in other threads, beside the rest."""
    units = [unit["seconds"] for unit in run.units[1:]]
    found = {
        "decode": sum(u["decode"] for u in units),
        "forward": sum(u["forward"] for u in units),
        "methods": sum(sum(u["methods"].values()) for u in units),
        "metrics": sum(sum(u["metrics"].values()) for u in units),
        "total": sum(u["total"] for u in units),
    }
    found["other"] = found["total"] - found["forward"] - found["methods"] - found["metrics"]
    return {"pictures": sum(unit["images"] for unit in run.units[1:]), **found}


def pictures(network: Network, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `(n, s, s, 3)` and classes `(n,)` of all pictures."""
    loaded = list(stream(data.items, network.preprocessing))
    if any(len(x.item.labels) != 1 for x in loaded):
        raise SystemExit("the peers' loops take one class per picture")
    x = network.preprocessing.normalize(np.stack([x.pixels for x in loaded]))
    return np.asarray(x), np.asarray([x.item.labels[0] for x in loaded])


def in_torch(python: str, network: Network, x: np.ndarray, classes: np.ndarray) -> Peer:
    """The peers' side, with the network and the pictures, and as many threads as this process has cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    folder = tempfile.TemporaryDirectory()
    save_torchvision_safetensors(f"{folder.name}/network.safetensors", network)
    np.savez(f"{folder.name}/images.npz", x=x.transpose(0, 3, 1, 2).copy(), classes=classes)
    return Peer(python, "evaluate_torch.py", folder, cores)


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`(n,)` cosines of maps; 1 where both are zero."""
    some, others = (m.reshape(len(m), -1).astype(np.float64) for m in (some, others))
    norms = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    alike = (some == 0).all(1) & (others == 0).all(1)
    return np.where(alike, 1.0, np.sum(some * others, axis=1) / np.where(norms > 0, norms, 1.0))


def agreement(peer: Peer, name: str, run: Run, maps: dict, batch: int, count: int, size: int) -> list[dict]:
    """Our metrics and maps of every method beside a peer's, over the first `count` pictures."""
    found = peer.ask("run", name, batch, count, "maps.npz")
    large = jax.jit(jax.vmap(lambda m: scale_map(resize_map(m, (size, size)))))
    rows = []
    with np.load(pathlib.Path(peer.folder.name, "maps.npz")) as theirs:
        for method, some in maps.items():
            alike = cosines(np.asarray(large(some[:count])), theirs[method])
            mine = np.flatnonzero(run.columns["method"] == method)[:count]
            rows.append({
                "peer": name, "method": method, "cosine": float(alike.mean()), "worst": float(alike.min()),
                "ours": [float(run.columns[m][mine].mean()) for m in METRICS], "theirs": found["metrics"][method],
            })  # fmt: skip
    return rows


def forward_passes(network: Network, x: np.ndarray, batches: list[int], peer: Peer | None) -> list[dict]:
    """Seconds an image of the forward pass, by batch, both sides in turn."""
    rows = []
    for batch in (b for b in batches if b <= len(x)):
        some = jnp.asarray(x[:batch])
        call = compiled(network.predict, network.params, some)[0]
        repeats = max(1, 64 // batch)
        row: dict = {"batch": batch, "ours": [], "theirs": []}
        for _ in range(4):
            rest()
            begun = time.perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(call(network.params, some))
            row["ours"].append((time.perf_counter() - begun) / repeats / batch)
            rest()
            if peer:
                row["theirs"].append(peer.ask("forward", batch, repeats))
        rows.append({k: v if k == "batch" else v[1:] for k, v in row.items()})
    return rows


def main(argv=None) -> int:
    """Prints Markdown tables and writes `benchmarks/results/evaluate-<platform>.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model", default="vgg16_slim", help="a VGG")
    parser.add_argument("--limit", type=int, help="of the pictures, drawn at random; all unless given")
    parser.add_argument("--torch-python", help="an interpreter with torch, torchvision, grad-cam and torchcam")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[4, 8, 12, 16, 24, 32], help="sizes to try on both sides"
    )
    parser.add_argument("--ablated", type=int, default=8, help="pictures of pytorch-grad-cam's Ablation-CAM")
    parser.add_argument("--ablation-batches", type=int, nargs="+", default=[8, 32, 128], help="channels at once")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    keep_freed_memory()
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_THRESHOLD_": "2147483647"}  # the peer's
    print(machine())
    if load > 0.25:
        print(f"load {load:.1f}: others use this machine, which costs PyTorch most; do not publish", file=sys.stderr)
    network = jaxcam.load(args.model)
    if not isinstance(network.config, VGGConfig):
        parser.error("the peers' side builds VGGs alone")
    data = load_dataset(args.data).for_classes(network.classes)
    data = data if args.limit is None else data.subset(args.limit, 0)
    x, classes = pictures(network, data)
    size, few = network.preprocessing.size, min(args.ablated, len(data))
    peer = in_torch(args.torch_python, network, x, classes) if args.torch_python else None
    record: dict = {"model": args.model, "pictures": len(data), "peers": peer and peer.greeting,
                    "load": load}  # fmt: skip

    sides = {"ours": SHARED, "ours, Ablation-CAM": ABLATION}
    opening = {name: ours(network, data, methods, args.batches[0]) for name, methods in sides.items()}
    if peer:
        logits = jnp.concatenate([network.predict(network.params, some) for some in np.array_split(x, 16) if len(some)])
        record["logits"] = largest_error(jnp.asarray(peer.ask("logits", 16)), logits)
        shared, ablated = (found[1:] for found in opening.values())
        rows = [row for name in PEERS for row in agreement(peer, name, *shared, 16, len(data), size)]
        rows += agreement(peer, SLOW, *ablated, args.ablation_batches[0], few, size)
        record["agreement"] = rows
        worst = min(row["cosine"] for row in rows if row["method"] in GATED)
        print(f"gates: logits {record['logits']:.1e} relative, cosine of {' and '.join(GATED)} at least {worst:.5f}")
        if not (record["logits"] < 1e-4 and worst > 0.99):
            print("the sides disagree; nothing is timed", file=sys.stderr)
            return 1

    record["forward"] = forward_passes(network, x, args.batches, peer)
    tried: dict[str, dict[int, float]] = {}
    record["compile_s"] = {name: {} for name in sides}
    for name, methods in sides.items():
        for batch in args.batches:
            first = opening[name] if batch == args.batches[0] else ours(network, data, methods, batch)
            rest()
            taken = max((ours(network, data, methods, batch)[0] for _ in range(2)), key=lambda t: t["rate"])
            tried.setdefault(name, {})[batch] = taken["rate"]
            record["compile_s"][name][batch] = first[0]["first_unit_s"] - taken["first_unit_s"]
    some = min(len(data), 64)
    loops = dict.fromkeys(PEERS, (args.batches, some)) | {SLOW: (args.ablation_batches, few)}
    for name, (sizes, count) in loops.items() if peer else ():
        tried[name] = {b: count / min(peer.ask("run", name, b, count)["seconds"] for _ in range(2)) for b in sizes}
    best = {name: max(rates, key=rates.__getitem__) for name, rates in tried.items()}
    record["tried"], record["best"] = tried, best
    for name, rates in tried.items():
        print(f"{name}, pictures/s by batch: { ({b: round(r, 2) for b, r in rates.items()}) }", flush=True)

    rounds: list[dict] = []
    for _ in range(args.rounds):
        found: dict[str, dict] = {}
        for name in tried:
            rest()
            if name in sides:
                found[name] = ours(network, data, sides[name], best[name])[0]
            else:
                count = few if name == SLOW else len(data)
                found[name] = {"rate": count / peer.ask("run", name, best[name], count)["seconds"]}
        rounds.append(found)
    record["rounds"] = rounds
    if peer:
        peer.close()
    text = report(record)
    print(text)
    path = save(f"evaluate-{jax.default_backend()}", record)
    path.with_suffix(".md").write_text(f"# Throughput of an evaluation\n\n{text}\n")
    return 0


def report(record: dict) -> str:
    """The tables."""
    rounds, best = record["rounds"], record["best"]
    lines = [f"{record['model']}, {record['pictures']} pictures, IC, AD and ADD; ours decodes and commits to disk.", ""]
    lines += ["| what | network passes beside six of the metrics | batch | pictures/s | ours is |", "|---" * 5 + "|"]
    for name, batch in best.items():
        base = "ours, Ablation-CAM" if "Ablation" in name else "ours"
        rate = statistics.median(r[name]["rate"] for r in rounds)
        factor = statistics.median(r[base]["rate"] / r[name]["rate"] for r in rounds)
        how = {"ours": OURS, **PEERS}.get(name, "")
        lines.append(
            f"| {name} | {how} | {batch} | {rate:.2f} | {'' if name.startswith('ours') else f'{factor:.1f} times'} |"
        )
    for name, seconds in record["compile_s"].items():
        p = rounds[-1][name]["parts"]
        spent = [f"{k} {1e3 * v / max(1, p['pictures']):.2f}" for k, v in p.items() if k not in ("pictures", "total")]
        steady = statistics.median(r[name]["steady"] for r in rounds)
        lines += ["", f"{name}: {steady:.2f} pictures/s from the first commit to the last; compilation "
                  f"{seconds[best[name]]:.1f} s; milliseconds a picture: {', '.join(spent)} "
                  "(decoding is in other threads)."]  # fmt: skip
    lines += ["", "| forward pass, batch | ours, ms an image | PyTorch, ms an image |", "|---" * 3 + "|"]
    for row in record["forward"]:
        cells = [f"{1e3 * statistics.median(row[k]):.2f}" if row[k] else "" for k in ("ours", "theirs")]
        lines.append(f"| {row['batch']} | {' | '.join(cells)} |")
    if record["peers"]:
        lines += ["", f"Logits agree to {record['logits']:.1e}. {record['peers']}", ""]
        lines += ["| peer | method | cosine of maps (worst) | IC, AD, ADD of ours | of the peer |", "|---" * 5 + "|"]
        for row in record["agreement"]:
            mine, theirs = (f"{100 * m[0]:.1f}, {m[1]:.2f}, {m[2]:.2f}" for m in (row["ours"], row["theirs"]))
            cosine = f"{row['cosine']:.5f} ({row['worst']:.4f})"
            lines.append(f"| {row['peer']} | {row['method']} | {cosine} | {mine} | {theirs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
