"""What `benchmarks.accelerator` measures: each part gives the names of its rows, and how each is measured."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.coalitions import TARGET, ordering_masks
from benchmarks.peer import Peer
from benchmarks.speed import drawn
from benchmarks.timing import compiled, interleaved, ratio
from jaxcam.data.loader import cores, stream
from jaxcam.data.samples import Dataset
from jaxcam.evaluate import evaluate
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.registry import METHODS, Request, request
from jaxcam.methods.result import Inputs, scalar_score
from jaxcam.methods.sampling import shap_cam
from jaxcam.models.efficientnet import EfficientNetLiteConfig
from jaxcam.models.network import Network
from jaxcam.models.resnet import ResNetConfig
from jaxcam.models.vgg import VGGConfig
from jaxcam.shapley import permutation_shapley
from jaxcam.transforms import PRECISIONS, at_precision, for_cpu
from jaxcam.transforms.coalition import coalition_game, masked_game
from jaxcam.transforms.memory import room_for


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a part.

    Attributes:
      name: what it is called.
      measure: gives a dictionary, from what `ahead` gave, where there is one; with nothing running beside it.
      ahead: what has no need of quiet, as compiling: of as many rows at a time as there are cores.
    """

    name: str
    measure: Callable[..., dict]
    ahead: Callable[[], Any] | None = None


Rows = Iterator[Row]
#: A function without arguments, and what it should give.
Compared = tuple[Callable[[], Any], np.ndarray]
#: Inputs of which each error is the median.
PICTURES = 3


def once(function: Callable) -> Callable:
    """Remembers results; threads that ask for the same wait for the first."""
    found: dict[tuple, Future] = {}
    lock = threading.Lock()

    @functools.wraps(function)
    def call(*args):
        with lock:
            first = args not in found
            future = found.setdefault(args, Future())
        if first:
            try:
                future.set_result(function(*args))
            except BaseException as e:
                future.set_exception(e)
        return future.result()

    return call


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the rows depend on.

    Attributes:
      small: sizes that a processor finishes.
      methods: requests of the parts on methods; none for all.
      torch_python: an interpreter, perhaps with torch.
    """

    small: bool
    methods: tuple[str, ...]
    torch_python: str

    @property
    def requests(self) -> list[Request]:
        """The methods; of orderings and of steps that lead to steps a few, as rounding grows with them."""
        asked = [request(m) for m in self.methods or METHODS]
        few = {"num_permutations": 8, "steps": 4}
        return [r.with_defaults([(k, v) for k, v in few.items() if k in r.info.options]) for r in asked]


SMALL = VGGConfig(11, num_classes=4, width=0.03, hidden=8, pool_size=1)
SMALL_LINEAR = ResNetConfig(18, num_classes=4, width=0.03, batch_norm=False)


def differing() -> list[str]:
    """The highest precision, and the others that are others here."""
    platform = jax.devices()[0].platform
    return [name for name, p in PRECISIONS.items() if name == "highest" or p.differs_on(platform)]


@once
def network(config: Any) -> Network:
    """Weights that are drawn, with biases."""
    return drawn(config)


def noise(*shape: int) -> jax.Array:
    """Inputs."""
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


# --- is it right ------------------------------------------------------------------------------------------------------


def correctness(settings: Settings) -> Rows:
    """Every method at the highest precision, on a network that fits its head."""
    for asked in settings.requests:
        yield Row(asked.label, errors, functools.partial(beside_float64, settings.small, asked, ("highest",)))


def lower_precisions(settings: Settings) -> Rows:
    """Every method at the others."""
    if others := tuple(name for name in differing() if name != "highest"):
        for asked in settings.requests:
            yield Row(asked.label, errors, functools.partial(beside_float64, settings.small, asked, others))


def subject(small: bool, asked: Request) -> tuple[Network, str | None, int]:
    """A network, the layer that it is cut at, and the size of its inputs: with convolutions on either side."""
    linear = asked.info.heads is not None
    if small:
        return (network(SMALL_LINEAR), None, 32) if linear else (network(SMALL), "conv5_1", 32)
    if linear:
        return network(ResNetConfig(50, num_classes=10, width=0.25)), None, 128
    return network(VGGConfig(16, num_classes=10, width=0.25)), "conv5_2", 128


def coefficients(net: Network, head: Callable, asked: Request) -> Callable:
    """`(params, activations, image) -> (K,)`."""

    def of(params, a, x):
        references = jnp.stack([jnp.zeros_like(a), 0.5 * jnp.flip(a, (0, 1))])
        given = Inputs(params, a, head, TARGET, jax.random.key(0), references, x, net.whole, params)
        return asked.call(given).coefficients

    return of


@once
def exact(small: bool, asked: Request) -> list[tuple[np.ndarray, np.ndarray]]:
    """Activations of some inputs, and in float64 on the processor a method's coefficients."""
    net, layer, size = subject(small, asked)
    features, head = net.split(at=layer)
    found = []
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        params = jax.tree.map(lambda v: jnp.asarray(np.asarray(v), jnp.float64), net.params)
        run, up_to = jax.jit(coefficients(net, head, asked)), jax.jit(features)
        for x in noise(PICTURES, size, size, 3):
            x = jnp.asarray(np.asarray(x), jnp.float64)
            a = up_to(params, x).astype(jnp.float32)
            found.append((np.asarray(a), np.asarray(run(params, a.astype(jnp.float64), x))))
    return found


def beside_float64(small: bool, asked: Request, precisions: tuple[str, ...]) -> dict[str, list[Compared]]:
    """A method's coefficients of some inputs at some precisions, compiled; and what they are in float64."""
    net, layer, size = subject(small, asked)
    _, head = net.split(at=layer)
    given, wanted = [], []
    for (a, want), x in zip(exact(small, asked), noise(PICTURES, size, size, 3), strict=True):
        given.append((net.params, jnp.asarray(a), x))
        wanted.append(want)
    found = {}
    for name in precisions:
        run, _ = compiled(for_cpu(at_precision(coefficients(net, head, asked), name)), *given[0])
        found[name] = [(functools.partial(run, *g), want) for g, want in zip(given, wanted, strict=True)]
    return found


def errors(prepared: dict[str, list[Compared]]) -> dict:
    """The largest error of a coefficient at each precision: the median over the inputs.

    At one of them rounding may turn a ReLU, or change which value of a window is the largest.
    """
    found = {name: statistics.median(error(run(), want) for run, want in some) for name, some in prepared.items()}
    return {"inputs": PICTURES, **found}


def error(got: Any, want: np.ndarray) -> float:
    """The largest error, relative to the largest value."""
    return float(np.abs(np.asarray(got, np.float64) - want).max() / max(np.abs(want).max(), 1e-30))


# --- SHAP-CAM ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Head:
    """VGG16 behind conv5_3.

    Attributes:
      network, activations: what is explained.
      masks: `(n, K)` of orderings.
      orderings: how many the coefficients are checked over.
    """

    network: Network
    activations: jax.Array
    masks: np.ndarray
    orderings: int


@once
def vgg_head(small: bool) -> Head:
    """The head, at normal noise."""
    net = network(SMALL if small else VGGConfig(16))
    layer, size, orderings = (None, 32, 4) if small else ("conv5_3", 224, 8)
    features, _ = net.split(at=layer)
    a = jax.jit(at_precision(features, "highest"))(net.params, noise(size, size, 3))
    return Head(net, a, ordering_masks(a.shape[-1], 64 if small else 256), orderings)


@once
def exact_head(small: bool) -> tuple[np.ndarray, np.ndarray]:
    """In float64 on the processor: the values of the masks, and SHAP-CAM's coefficients."""
    given = vgg_head(small)
    a = np.asarray(given.activations)
    _, head = given.network.split(at=None if small else "conv5_3")
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), given.network.params)
        game = masked_game(scalar_score(head, wide, TARGET), jnp.asarray(a, jnp.float64))
        values = np.asarray(jax.jit(game)(jnp.asarray(given.masks, jnp.float64)))
        run = functools.partial(
            permutation_shapley, game, num_players=a.shape[-1], num_permutations=given.orderings, chunk_size=64
        )
        return values, np.asarray(jax.jit(run)(jax.random.key(0)).values)


def shap(settings: Settings) -> Rows:
    """SHAP-CAM_10k at each precision, and a head written in PyTorch at the same."""
    for name in differing():
        yield Row(name, functools.partial(shap_at, settings, name))
    if has(settings.torch_python, "torch"):
        for name in PRECISIONS if not settings.small else ["highest"]:
            yield Row(f"PyTorch, {name}", functools.partial(torch_at, settings, name))


def shap_at(settings: Settings, precision: str) -> dict:
    """Seconds of one picture, its share of the card's product, and both errors."""
    given, (values_there, coefficients_there) = vgg_head(settings.small), exact_head(settings.small)
    orderings, side, rounds = (20, 256, 2) if settings.small else (10_000, 8192, 3)
    net, a, key = given.network, given.activations, jax.random.key(0)
    _, head = net.split(at=None if settings.small else "conv5_3")
    found: list[Any] = []

    def values(params, a, masks):
        found.append(coalition_game(scalar_score(head, params, TARGET), a))
        return found[-1](masks)

    def whole(params, a, key, count=orderings):
        method = functools.partial(shap_cam, head=head, target=TARGET, estimator="antithetic")
        return method(params, a, key, num_permutations=count).coefficients

    def here(function):
        return for_cpu(at_precision(function, precision))

    square = jax.random.normal(jax.random.key(1), (side, side))
    product = compiled(here(jnp.matmul), square, square)[0]
    run, compile_s = compiled(here(whole), net.params, a, key)
    got = jax.jit(here(values))(net.params, a, jnp.asarray(given.masks))
    few = jax.jit(here(functools.partial(whole, count=given.orderings)))(net.params, a, key)
    calls = {"product": lambda: product(square, square), "run": lambda: run(net.params, a, key)}
    seconds = {name: statistics.median(times) for name, times in interleaved(calls, rounds).items()}
    coalitions, speed = orderings * (a.shape[-1] - 1), 2e-12 * side**3 / seconds["product"]
    return {
        "seconds": seconds["run"], "rate": coalitions / seconds["run"], "product_tflops": speed, "compile_s": compile_s,
        "share": coalitions * found[0].megaflops / 1e6 / seconds["run"] / speed, "coalitions": coalitions,
        "value_error": error(got, values_there),
        "error": error(few, coefficients_there),
    }  # fmt: skip


def torch_at(settings: Settings, precision: str) -> dict:
    """The seconds that a head written by hand takes for as many coalitions, at its best batch."""
    given = vgg_head(settings.small)
    orderings = 20 if settings.small else 10_000
    coalitions = orderings * (given.activations.shape[-1] - 1)
    peer = torch_peer(settings)
    rates = {n: n / peer.ask("time", n, precision) for n in ((16, 64) if settings.small else (256, 1024, 4096))}
    best = max(rates, key=rates.__getitem__)
    got = np.asarray(peer.ask("values", len(given.masks), precision))
    wrong = error(got, exact_head(settings.small)[0])
    return {"seconds": coalitions / rates[best], "rate": rates[best], "batch": best, "value_error": wrong}


@functools.cache
def has(python: str, module: str) -> bool:
    """Whether an interpreter has a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


_peers: list[Peer] = []


@functools.lru_cache(maxsize=1)
def torch_peer(settings: Settings) -> Peer:
    """PyTorch's side, given the weights, the activations and masks."""
    given = vgg_head(settings.small)
    net, a = given.network, np.asarray(given.activations)
    folder = tempfile.TemporaryDirectory()
    dense = {f"{n}/{k}": np.asarray(net.params[n][k]) for n in ("fc6", "fc7", "fc8") for k in ("kernel", "bias")}
    side, channels = net.config.pool_size, a.shape[-1]
    kernel = dense["fc6/kernel"].reshape(side, side, channels, -1)  # PyTorch flattens (c, h, w), we (h, w, c)
    dense["fc6/kernel"] = kernel.transpose(2, 0, 1, 3).reshape(side * side * channels, -1)
    count = max(len(given.masks), 64 if settings.small else 4096)
    np.savez(f"{folder.name}/head.npz", a=a.transpose(2, 0, 1), masks=ordering_masks(channels, count), **dense)
    _peers.append(Peer(settings.torch_python, "accelerator_torch.py", folder, TARGET))
    return _peers[-1]


def close() -> None:
    """Ends the other interpreter."""
    torch_peer.cache_clear()
    while _peers:
        _peers.pop().close()


# --- what a map costs -------------------------------------------------------------------------------------------------


def first_costs(settings: Settings) -> Rows:
    """Every method on VGG16, 32 pictures at a time."""
    return itertools.islice(_costs(settings), _first(settings))


def more_costs(settings: Settings) -> Rows:
    """Every method on three networks at three batches; those that fill a device by themselves on one picture."""
    return itertools.islice(_costs(settings), _first(settings), None)


def _first(settings: Settings) -> int:
    return sum(request(m).info.batched and request(m).info.heads is None for m in settings.methods or METHODS)


def _costs(settings: Settings) -> Rows:
    networks: dict[str, Any]
    if settings.small:
        networks, batches, size = {"small VGG": SMALL, "small ResNet": SMALL_LINEAR}, (2, 1), 32
    else:
        networks = {
            "vgg16": VGGConfig(16),
            "resnet50": ResNetConfig(50),
            "efficientnet_lite0": EfficientNetLiteConfig(0),
        }
        batches, size = (32, 1, 256), 224
    for batch in batches:
        for name, config in networks.items():
            for asked in [request(m) for m in settings.methods or METHODS]:
                pooled = isinstance(config, ResNetConfig)  # of these, cut at the default layer
                if (asked.info.batched or batch == 1) and (asked.info.heads is None or pooled):
                    yield Row(
                        f"{name}, {batch}, {asked.label}",
                        cost,
                        functools.partial(map_program, config, size, batch, asked),
                    )


@dataclasses.dataclass(frozen=True)
class Timed:
    """Programs with what they are called with.

    Attributes:
      run, forward: from inputs to maps; and one forward pass.
      compile_s: what tracing and compiling the first took.
      peak_mb: what it holds at a time.
    """

    run: Callable
    forward: Callable
    compile_s: float
    peak_mb: float | None


def map_program(config: Any, size: int, batch: int, asked: Request) -> Timed:
    """A method from inputs to maps at their size, compiled."""
    net = network(config)
    features, head = net.split()
    x, targets = noise(batch, size, size, 3), jnp.arange(batch, dtype=jnp.int32) % config.num_classes
    keys = jax.random.split(jax.random.key(0), batch)

    def maps(params, images, targets, keys):
        def one(a, image, target, key):
            references = jnp.stack([jnp.zeros_like(a), 0.5 * jnp.flip(a, (0, 1))])
            cam = asked.call(Inputs(params, a, head, target, key, references, image, net.whole, params))
            return scale_map(resize_map(cam.map, (size, size)))

        activations = features(params, images)
        if batch == 1:  # a loop that stops early must not become one that does not
            return one(activations[0], images[0], targets[0], keys[0])[None]
        return jax.vmap(one)(activations, images, targets, keys)

    forward = bare(config, size, batch)
    run, compile_s = compiled(for_cpu(at_precision(maps, "highest")), net.params, x, targets, keys)
    given = net.params, x, targets, keys
    return Timed(functools.partial(run, *given), functools.partial(forward, *given[:2]), compile_s, megabytes(run))


def cost(given: Timed) -> dict:
    """Milliseconds, and how many forward passes that is."""
    timed = interleaved({"forward": given.forward, "maps": given.run}, 5)
    return {
        "ms": 1e3 * statistics.median(timed["maps"]), "forwards": ratio(timed["maps"], timed["forward"]),
        "forward_ms": 1e3 * statistics.median(timed["forward"]), "compile_s": given.compile_s,
        "peak_mb": given.peak_mb,
    }  # fmt: skip


@once
def bare(config: Any, size: int, batch: int) -> Callable:
    """One forward pass, compiled."""
    net = network(config)
    return compiled(for_cpu(at_precision(net.whole, "highest")), net.params, noise(batch, size, size, 3))[0]


def megabytes(executable: Any) -> float | None:
    """What a compiled program holds at a time: arguments, results and temporary values."""
    known = executable.memory_analysis()
    if known is None:
        return None
    parts = known.argument_size_in_bytes, known.output_size_in_bytes, known.temp_size_in_bytes
    return sum(parts) / 1e6


# --- data sets --------------------------------------------------------------------------------------------------------


@functools.cache
def jpegs(count: int) -> list[bytes]:
    """Photos of 500 x 375, of which twenty differ."""
    made = []
    for seed in range(min(count, 20)):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        pixels = np.clip(np.asarray(coarse, np.int16) + rng.integers(-12, 13, (375, 500, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return [made[i % len(made)] for i in range(count)]


#: What the aim of an evaluation is about: gradients and coalitions, and those that draw orderings or samples.
PAPER = "lift_cam hires_lift_cam multiplier_cam grad_cam grad_cam_pp xgrad_cam hires_cam ablation_cam lrp_cam".split()
SAMPLED = "shap_cam kernel_shap_cam lime_cam".split()


def evaluation(settings: Settings) -> Rows:
    """IC, AD and ADD of some methods, at two batches and each precision; curves of one; the peer; those that draw."""
    count, few = (8, 8) if settings.small else (1000, 128)
    batch = 4 if settings.small else room_for(12, most=count)
    drops, curves = ("ic", "ad", "add"), ("insertion", "deletion")

    def row(methods, metrics=drops, count=count, batch=batch, precision=None):
        named = f"{len(methods)} methods" if methods in (PAPER, [*PAPER, *SAMPLED]) else " ".join(methods)
        name = f"{named}: {' '.join(metrics)}, {precision or 'maps at the highest, passes as usual'}, batch {batch}"
        return Row(name, functools.partial(evaluated, settings, methods, metrics, count, batch, precision))

    asked = list(settings.methods) or PAPER
    if settings.small:
        yield row(asked)
        yield row(["lift_cam"], curves, count=few)
        return
    yield row(asked)
    yield row(asked, batch=32)  # kernels are tried on as many pictures: the first batch should take less
    yield row(["grad_cam"])
    if has(settings.torch_python, "pytorch_grad_cam"):
        for several in (32, 128):
            name = f"pytorch-grad-cam, Grad-CAM: ic ad add, batch {several}"
            yield Row(name, functools.partial(peer_cam, settings, several))
    yield row(["lift_cam"], curves, count=few, batch=min(batch, few))
    for precision in differing():
        yield row(asked, precision=precision)
    if not settings.methods:
        yield row([*PAPER, *SAMPLED])


def evaluated(
    settings: Settings,
    methods: list[str],
    metrics: tuple[str, ...],
    count: int,
    batch: int,
    precision: str | None,
) -> dict:
    """One evaluation into a new folder, compilation included; and its pace after the first unit."""
    net = network(SMALL if settings.small else VGGConfig(16))
    if settings.small:
        net = dataclasses.replace(net, preprocessing=dataclasses.replace(net.preprocessing, size=32, resize_to=32))
    labels = [i % net.config.num_classes for i in range(count)]
    commits: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run = evaluate(
            net, (jpegs(count), labels), methods=methods, metrics=metrics, out=f"{folder}/run", batch_size=batch,
            steps=2 if settings.small else 50, devices=jax.local_devices()[:1], keep=(), precision=precision,
            progress=lambda state: commits.append((time.perf_counter(), state.done)),
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        decode = sum(unit["seconds"]["decode"] for unit in run.units)
    first, last = commits[1], commits[-1]
    steady = (last[1] - first[1]) / (last[0] - first[0]) if len(commits) > 2 else None
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {
        "batch": batch, "pictures": count, "seconds": seconds, "steady": steady, "decode_s": decode,
        "first_unit_s": first[0] - begun,
        "peak_mb": None if peak is None else peak / 1e6,
    }  # fmt: skip


def peer_cam(settings: Settings, batch: int) -> dict:
    """Grad-CAM by pytorch-grad-cam with lean metrics, on pictures that lie on the card already."""
    count = 256
    seconds = torch_peer(settings).ask("cam", count, batch)
    return {"batch": batch, "pictures": count, "seconds": seconds, "steady": count / seconds}


def decoding(settings: Settings) -> Rows:
    """The loader with nothing behind it."""
    for threads in dict.fromkeys([4, max(4, cores())]):
        yield Row(f"{threads} threads", functools.partial(decoded, settings, threads))


def decoded(settings: Settings, threads: int) -> dict:
    """Pictures a second, from JPEG in memory to the network's input."""
    count = 20 if settings.small else 1000
    net = network(SMALL if settings.small else VGGConfig(16))
    data = Dataset.of(jpegs(count), [0] * count, classes=net.classes)
    begun, worked = time.perf_counter(), time.process_time()
    for _ in stream(data.items, net.preprocessing, threads=threads):
        pass
    seconds, of_cores = time.perf_counter() - begun, time.process_time() - worked
    return {"threads": threads, "cores": cores(), "rate": count / seconds, "rate_of_a_core": count / of_cores}
