"""How an evaluation grows with its pictures: `python -m benchmarks.scale WHAT`.

`table N`: N pictures by twelve methods and six metrics, simulated in parts as an evaluation leaves them, then tabled
and reported, each in a process of its own, whose time and memory count.
`grow N`: N pictures of 32 x 32 with a network of a few channels, from the files to the page.
`paper N`: what N pictures of ImageNet take on H100s, by arithmetic.
`ray N`: the same by one process, by two workers and by four with a thread each, and with workers and a node that are
killed; `--model` takes a network that computes for longer, `--kills 0` leaves the killing out.
`pool N`: the same by the workers of a pool that Ray's autoscaler makes from nothing, and of which a node is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from PIL import Image

from jaxcam.data.preprocessing import Preprocessing
from jaxcam.evaluate import parts
from jaxcam.evaluate.run import sealed
from jaxcam.methods.registry import METHODS as KNOWN
from jaxcam.metrics import METRICS as MEASURES
from jaxcam.models.graph import graph
from jaxcam.models.network import Network
from jaxcam.models.trees import flatten, unflatten
from jaxcam.models.vgg import VGGConfig
from jaxcam.zoo.store import save_network

METHODS = (
    "lift_cam grad_cam grad_cam_pp xgrad_cam score_cam ablation_cam layer_cam eigen_cam lrp_cam shap_cam random_cam "
    "uniform_cam"
).split()
METRICS = ("ic", "ad", "add", "insertion", "deletion", "pointing")
_BATCH, _CLASSES = 12, 1000


def simulate(folder: pathlib.Path, pictures: int) -> None:
    """A run of so many pictures in parts."""
    names = [f"n{i % _CLASSES:08}/ILSVRC2012_val_{i:08}.JPEG" for i in range(pictures)]
    classes = [f"class {i}" for i in range(_CLASSES)]
    folder.mkdir(parents=True)
    settings = {
        "model": {"name": "vgg16", "sha256": "0" * 64, "classes": classes, "multi_label": False, "preprocessing":
                  {"size": 224, "resize": "squash", "resize_to": 224, "mean": [0.5] * 3, "std": [0.5] * 3}},
        "layer": "conv5_3", "methods": list(METHODS), "metrics": list(METRICS), "reference": None, "limit": None,
        "seeds": [0], "targets": "label", "seed": 0, "batch_size": _BATCH, "keep": [], "baseline": "mean", "steps": 50,
        "data": {"name": "simulated", "kind": "folder", "sha256": "1" * 64, "images": pictures, "total": pictures,
                 "multi_label": False, "boxes": True},
        "versions": {}, "platform": "cpu",
    }  # fmt: skip
    manifest = {
        "format": 1, "settings": settings, "about": {"data_root": None},
        "method_info": {m: {"title": KNOWN[m].title} for m in METHODS},
        "layer_shape": [14, 14, 512], "images": {str(i): n for i, n in enumerate(names)},
        "subsets": {"0": list(range(pictures))},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    rng = np.random.default_rng(0)
    units = [range(start, min(pictures, start + _BATCH)) for start in range(0, pictures, _BATCH)]
    together = parts.ROWS // (_BATCH * len(METHODS)) + 1
    for first in range(0, len(units), together):
        some = units[first : first + together]
        parts.write(folder, [_summary(first + i, unit) for i, unit in enumerate(some)], _columns(some, names, rng))


def _summary(number: int, unit: range) -> dict:
    seconds = {"decode": 0.1, "forward": 0.2, "methods": dict.fromkeys(METHODS, 0.1), "metrics": {"ic ad add": 0.1}}
    records = len(unit) * len(METHODS)
    return {"unit": number, "images": len(unit), "broken": {}, "problems": [], "seconds": seconds, "records": records}


def _columns(units: list[range], names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    """What a part holds of some units: methods that are the worse the later, on pictures that are hard for all."""
    pictures, methods = np.concatenate([np.asarray(u) for u in units]), len(METHODS)
    hard = rng.normal(size=(len(pictures), 1)) + 0.3 * rng.normal(size=(len(pictures), methods))
    level = (1 / (1 + np.exp(hard)) - 0.02 * np.arange(methods)).astype(np.float32).astype(np.float64)
    v, own = level.ravel(), np.repeat(level[:, 0], methods)
    index = np.repeat(pictures, methods)
    rows, one = len(v), np.zeros(len(v), np.int32)
    numbers = {
        "index": index, "target": index % _CLASSES, "predicted": index % _CLASSES, "label": np.ones(rows),
        "score": own, "logit": 9 * own, "ic": (v > 0.6).astype(float), "ad": np.maximum(0, 60 * (1 - v) - 20),
        "add": 60 * v, "insertion": 0.9 * v, "deletion": 0.5 * (1 - v), "pointing": np.where(index % 4, v, np.nan),
        "completeness_gap": 1e-6 * v, "evaluations": np.full(rows, 3.0), "seconds": np.full(rows, 0.002),
        "negative": own / 2,
    }  # fmt: skip
    text = {
        "image": (np.repeat(np.arange(len(pictures)), methods), [names[i] for i in pictures]),
        "class": (index % _CLASSES, [f"class {i}" for i in range(_CLASSES)]),
        "method": (np.tile(np.arange(methods), len(pictures)), list(METHODS)),
        "boxes": (one, ["10.5 20.25 100 200"]), "empty": (one, [""]),
    }  # fmt: skip
    return numbers | {k: parts.Coded(codes.astype(np.int32), words) for k, (codes, words) in text.items()}


_TOLD = """
import resource, sys, time
from jaxcam.cli import main
begun = time.perf_counter()
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
busy, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
print("TOLD", status, time.perf_counter() - begun, busy, memory, file=sys.stderr)
"""


def command(*words: str) -> tuple[float, float, float]:
    """Seconds, seconds of a processor, and GiB of a jaxcam command in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _TOLD, *words], capture_output=True, text=True)
    told = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("TOLD")]
    if not told or told[0][0] != "0":
        raise SystemExit(done.stderr)
    seconds, processor, memory = map(float, told[0][1:])
    return seconds, processor, memory


def size(folder: pathlib.Path) -> tuple[int, float]:
    """Files, and MiB of them."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    return len(files), sum(f.stat().st_size for f in files) / 2**20


def tabled(pictures: int, folder: pathlib.Path) -> str:
    """A line of the table of simulated runs."""
    run = folder / str(pictures)
    begun = time.perf_counter()
    if not run.exists():
        simulate(run, pictures)
    made = time.perf_counter() - begun
    table = command("report", str(run), "--format", "markdown", "--out", str(folder / "table.md"))
    page = command("report", str(run))
    files, mib = size(run)
    html = (run / "report.html").stat().st_size / 2**20
    return (
        f"| {pictures:,} | {made:.0f} s | {files} | {mib:,.0f} | {table[0]:.0f} s | {table[1]:.0f} s | {table[2]:.2f} "
        f"| {page[0]:.0f} s | {page[1]:.0f} s | {page[2]:.2f} | {html:.2f} |"
    )


def tiny(folder: pathlib.Path) -> pathlib.Path:
    """A folder with a VGG of a few channels and random weights."""
    config = VGGConfig(11, num_classes=4, width=0.03, hidden=8, pool_size=1)
    rng = np.random.default_rng(0)
    shapes = {k: v.shape for k, v in flatten(graph(config)[2]).items()}
    params = {
        k: rng.normal(size=s).astype(np.float32) * np.sqrt(2 / max(1, np.prod(s[:-1]))) for k, s in shapes.items()
    }
    rules = Preprocessing(size=32, resize="squash", resize_to=32)
    save_network(folder, Network("tiny", config, unflatten(params), tuple("abcd"), rules))
    return folder


def noise(folder: pathlib.Path, pictures: int) -> pathlib.Path:
    """Folders of four classes with so many pictures of 32 x 32."""
    rng = np.random.default_rng(0)
    for c in "abcd":
        (folder / c).mkdir(parents=True)
    for i in range(pictures):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "abcd"[i % 4] / f"{i:07}.png")
    return folder


def grown(pictures: int, folder: pathlib.Path) -> str:
    """A line of the table of runs from pictures to a page."""
    net, data, run = tiny(folder / "net"), noise(folder / f"pictures-{pictures}", pictures), folder / f"run-{pictures}"
    words = [
        str(data),
        "--model",
        str(net),
        "--methods",
        "grad_cam",
        "lift_cam",
        "--batch-size",
        "96",
        "--keep",
        "none",
    ]
    seconds, busy, memory = command("evaluate", *words, "--out", str(run), "--quiet")
    page = command("report", str(run))
    files, mib = size(run)
    shutil.rmtree(data)
    return (
        f"| {pictures:,} | {seconds:.0f} s | {busy:.0f} s | {pictures / seconds:,.0f} | {memory:.2f} | {files} "
        f"| {mib:.1f} | {page[1]:.0f} s | {page[2]:.2f} |"
    )


_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def clustered(pictures: int, folder: pathlib.Path, kills: int, model: str | None, batch: int) -> list[str]:
    """One process, two workers, four, and two of which one is killed again and again and a node once."""
    os.environ["XLA_FLAGS"] = _ONE_THREAD
    os.environ["OMP_NUM_THREADS"] = "1"
    import jax
    from ray.cluster_utils import Cluster as Nodes

    from jaxcam.evaluate import evaluate
    from jaxcam.evaluate.cluster import Cluster
    from jaxcam.zoo.load import load

    os.sched_setaffinity(0, {0})
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    net, data = load(model or tiny(folder / "net")), noise(folder / "pictures", pictures)
    how: dict[str, Any] = {"methods": ("grad_cam", "lift_cam"), "metrics": ("ic", "insertion"), "batch_size": batch}
    how |= {"keep": (), "targets": "predicted" if model else "label"}  # the folders are named as the tiny one's classes

    def steady(states: list[tuple[float, float, int]], skip: int) -> np.ndarray:
        """Seconds of the clock, and of processors, for a picture, but for the first units, which compile."""
        first, last = np.asarray(states[skip]), np.asarray(states[-1])
        return ((last - first) / (last - first)[2])[:2]

    def run(name: str, then: Any = lambda state: None, **more: Any) -> tuple[Any, list[tuple[float, float, int]]]:
        states = []

        def progress(state: Any) -> None:
            states.append((time.perf_counter(), busy(), state.done))
            then(state)

        return evaluate(net, data, out=folder / name, progress=progress, **how, **more), states

    alone, states = run("alone")
    one = steady(states, 4)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    lines = [f"one process, one thread: {1 / one[0]:.1f} pictures/s, {1000 * one[1]:.0f} ms of a processor each"]
    with Cluster("local", workers=2) as cluster:
        both, states = run("two", cluster=cluster)
        two = steady(states, 8)
        lines.append(f"two workers, a thread each: {1 / two[0]:.1f} pictures/s, {1000 * two[1]:.0f} ms of a processor "
                     f"each; efficiency {one[0] / two[0] / 2:.2f} by the clock, {one[1] / two[1]:.2f} by processors; "
                     f"same table: {same(both, alone)}")  # fmt: skip
        if not kills:
            return lines
        rng, begun, killed = np.random.default_rng(), time.perf_counter(), []

        def kill(state: Any) -> None:
            if len(killed) < kills and rng.random() < 2 * kills / len(both.units) and (found := actors()):
                os.kill(int(rng.choice(found)), signal.SIGKILL)
                killed.append(state.done)

        struck, states = run("killed", kill, cluster=cluster)
        lines.append(f"{len(killed)} actors killed, after {killed} pictures: {time.perf_counter() - begun:.0f} s, same "
                     f"table: {same(struck, alone)}, batches {len(struck.units)} of {len(alone.units)}")  # fmt: skip
    with Cluster("local", workers=4) as cluster:
        four, _ = run("four", cluster=cluster)
        lines.append(f"four workers: same table: {same(four, alone)}")
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    there = [nodes.add_node(num_cpus=1) for _ in range(2)]
    with Cluster(nodes.address, workers=2, resources={"CPU": 1}) as cluster:
        lost: list[int] = []

        def end(state: Any) -> None:
            if state.done > pictures // 3 and not lost:
                lost.append(state.done)
                nodes.remove_node(there[0], allow_graceful=False)

        left, _ = run("node", end, cluster=cluster)
        lines.append(f"a node of two killed for good, after {lost[0]} pictures: same table: {same(left, alone)}")
    nodes.shutdown()
    return lines


def pooled(pictures: int, folder: pathlib.Path, batch: int) -> list[str]:
    """One process, and a pool of at most two nodes that is empty at first; one of them is killed, and replaced."""
    os.environ["XLA_FLAGS"] = _ONE_THREAD
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    import jax
    import ray

    from jaxcam.evaluate import evaluate
    from jaxcam.evaluate.cluster import Cluster
    from jaxcam.zoo.load import load

    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    net, data = load(tiny(folder / "net")), noise(folder / "pictures", pictures)
    how: dict[str, Any] = {"methods": ("grad_cam", "lift_cam"), "metrics": ("ic", "insertion"), "batch_size": batch}
    alone = evaluate(net, data, out=folder / "alone", keep=(), **how)
    nodes: list[tuple[int, int]] = []

    def alive() -> list[dict]:
        return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    with pool(folder, most=2) as address, Cluster(address, workers=2, resources={"CPU": 1}) as cluster:
        lost: list[int] = []

        def watch(state: Any) -> None:
            nodes.append((state.done, len(alive())))
            if state.done > pictures // 3 and len(alive()) == 2 and not lost:
                lost.append(state.done)
                raylet(alive()[0]).kill()

        before = len(alive())
        begun = time.perf_counter()
        run = evaluate(net, data, out=folder / "pool", keep=(), cluster=cluster, progress=watch, **how)
        seconds = time.perf_counter() - begun
    second = next((done for done, count in nodes if count == 2), None)
    fewer = [done for done, count in nodes if count < 2 and lost and done > lost[0]]
    return [
        f"a pool of {before} nodes at first: {seconds:.0f} s; two were there after {second} pictures; one was killed "
        f"after {lost}, {len(fewer)} batches were made with fewer; {len(cluster.pids)} processes began; same table: "
        f"{same(run, alone)}, batches {len(run.units)} of {len(alone.units)}"
    ]


@contextlib.contextmanager
def pool(folder: pathlib.Path, most: int) -> Iterator[str]:
    """The address of a cluster whose head computes nothing, and whose autoscaler starts nodes of one core here."""
    import ray

    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "pool", "max_workers": most, "upscaling_speed": 1.0, "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "gcs_address": address,
        },
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "node": {
                "resources": {"CPU": 1, "object_store_memory": 200_000_000}, "node_config": {}, "min_workers": 0,
                "max_workers": most,
            },
        },
        "head_node_type": "head", "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [],
        **{f"{name}_commands": [] for name in commands},
    }  # fmt: skip
    file = folder / "pool.json"
    file.write_text(json.dumps(config))
    own = {
        "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "f" * 51 + "0" * 5,
    }  # fmt: skip
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=0",
         "--include-dashboard=false", f"--autoscaling-config={file}", "--object-store-memory=200000000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | own,
    )  # fmt: skip
    try:
        assert head.stdout is not None
        if not any("Ray runtime started" in line for line in head.stdout):
            raise RuntimeError("ray start gave up")
        threading.Thread(target=head.stdout.read, daemon=True).start()
        yield address
    finally:
        started = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        head.terminate()
        for process in psutil.wait_procs(started, timeout=10)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def raylet(node: dict) -> psutil.Process:
    """The process of a node that the autoscaler started here."""
    for process in family():
        with contextlib.suppress(psutil.Error):
            if f"--raylet_socket_name={node['RayletSocketName']}" in process.cmdline():
                return process
    raise LookupError(f"no process of {node['NodeID']}")


def family() -> list[psutil.Process]:
    """This process and all that it started."""
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def busy() -> float:
    """Seconds that they have used of processors: a rate that others on the machine do not change."""
    used = 0.0
    for process in family():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def actors() -> list[int]:
    """The living actors."""
    found = []
    for process in family():
        with contextlib.suppress(psutil.Error):
            found += [process.pid] * any("ray::_Maker" in word for word in process.cmdline())
    return found


def same(run: Any, other: Any) -> bool:
    """Whether two tables agree in every bit, times excepted."""
    return len(run) == len(other) and all(
        np.array_equal(run.columns[k], other.columns[k], equal_nan=run.columns[k].dtype.kind == "f")
        for k in other.columns if k != "seconds"
    )  # fmt: skip


#: Of VGG16 on 224 x 224 pixels, in GFLOP: a forward pass, and what lies behind conv5_3 (the dense layers).
_FORWARD, _HEAD = 31.0, 0.25
#: What a method does for a map besides the features that all share: forward passes, and passes of the head. (SHAP-CAM:
#: 100 orderings of 512 channels, each evaluation of the two layers behind the first, 0.042 GFLOP.)
_COSTS = {
    "lift_cam": (0, 4), "grad_cam": (0, 3), "grad_cam_pp": (0, 3), "xgrad_cam": (0, 3), "hires_cam": (0, 3),
    "layer_cam": (0, 3), "eigen_cam": (0, 0), "lrp_cam": (0, 4), "ablation_cam": (0, 513), "score_cam": (512, 0),
    "shap_cam": (0, 8_600), "random_cam": (0, 0),
}  # fmt: skip
#: Of an H100 SXM, dense, in TFLOP/s as its data sheet says, for forward passes and for the head, of which differences
#: are taken; and the share of it that is assumed.
_TF32, _FLOAT32, _SHARE = 494, 67, 0.4


def paper(pictures: int) -> list[str]:
    """What the paper's table on ImageNet takes, by arithmetic."""
    scored = 2  # IC, AD and ADD together
    steps = [len(MEASURES[name].perturbation.points((224, 224), 50)) for name in ("insertion", "deletion")]
    measured = len(_COSTS) * (scored + sum(steps))
    forward, head = (sum(c[i] for c in _COSTS.values()) for i in range(2))
    passes = 1 + forward + measured
    seconds = (passes * _FORWARD / _TF32 + head * _HEAD / _FLOAT32) / 1000 / _SHARE
    lines = [
        f"{pictures:,} pictures, {len(_COSTS)} methods ({', '.join(_COSTS)}).",
        f"Each picture: {passes:,} forward passes of {_FORWARD:g} GFLOP (1 for the features, {forward:,} for maps, "
        f"{measured:,} for metrics: of each map {scored} for IC, AD and ADD, {steps[0]} for insertion, {steps[1]} for "
        f"deletion) and {head:,} of the head of {_HEAD:g} GFLOP.",
        f"H100 SXM: {_TF32} TFLOP/s in TF32 for the former, {_FLOAT32} in float32 for the latter, {100 * _SHARE:.0f} % "
        f"of both: {seconds:.2f} s a picture.",
    ]
    lines += [f"{n} H100: {pictures * seconds / n / 3600:.1f} h" for n in (1, 8)]
    records = pictures * len(_COSTS)
    kept = 4 * (14 * 14 + 512 + sum(steps))
    lines.append(f"{records:,} records: {records * 55 / 1e6:.0f} MB in columns, {records * kept / 1e9:.1f} GB of maps, "
                 "coefficients and curves unless --keep none")  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("table", "grow", "ray", "pool", "paper"))
    parser.add_argument("pictures", type=int, nargs="+")
    parser.add_argument("--kills", type=int, default=10, help="of actors")
    parser.add_argument("--model", help="of `ray`; a tiny one unless given")
    parser.add_argument("--batch", type=int, default=24, help="pictures of a unit of `ray`")
    parser.add_argument("--folder", type=pathlib.Path, help="where to keep what is made")
    options = parser.parse_args()
    folder = options.folder or pathlib.Path(tempfile.mkdtemp(prefix="jaxcam-scale-"))
    try:
        for pictures in options.pictures:
            lines = {
                "table": lambda n: [tabled(n, folder)], "grow": lambda n: [grown(n, folder)],
                "ray": lambda n: clustered(n, folder, options.kills, options.model, options.batch),
                "pool": lambda n: pooled(n, folder, options.batch), "paper": paper,
            }[options.what](pictures)  # fmt: skip
            print("\n".join(lines), flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
        print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", file=sys.stderr)


if __name__ == "__main__":
    main()
