"""Every program of the library lowered for accelerators, on a machine that has none; nothing is compiled, or run.

A method or metric gets these tests by its entry.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from networks import needs_attention, of_each_kind

import jaxcam
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.evaluate import measures
from jaxcam.explanation import compiled
from jaxcam.methods.registry import METHODS, request
from jaxcam.methods.result import Inputs
from jaxcam.methods.stepping import Data
from jaxcam.metrics import BASELINES, METRICS
from jaxcam.shapley import stepping
from jaxcam.transforms import fast_convolutions

PLATFORMS = ("cuda", "rocm", "tpu")
#: Further ways in which a method samples, where its defaults enumerate.
MORE = {
    "shap_cam": ("estimator=antithetic,num_permutations=4", "estimator=adjusted,num_permutations=12"),
    "kernel_shap_cam": ("num_samples=30",),
}
CASES = [f"{name}:{options}" if options else name for name in METHODS for options in ("", *MORE.get(name, ()))]
#: Where what becomes of convolutions is looked at: it is no matter of the method, but of what kind of program it is.
KINDS = of_each_kind()
SIZE, CHANNELS, CLASSES, PAIRS, BOXES, POINTS = 16, 6, 3, 2, 2, 4


def conv(x, w, strides=(1, 1), groups=1):
    return lax.conv_general_dilated(
        x[None], w, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )[0]


def convolutions(params, x):
    """A depthwise convolution on either side of a map, and a pooled linear end."""
    x = jax.nn.relu(conv(x, params["in"], (4, 4)))
    x = jaxcam.tag(jax.nn.relu(conv(x, params["before"], groups=CHANNELS)), "map")
    x = jaxcam.tag(jax.nn.relu(conv(conv(x, params["after"], groups=CHANNELS), params["point"])), "last")
    return x.mean((0, 1)) @ params["out"]


def attentive(params, x):
    """Attention over the patches of a map, which they are numbered by."""
    x = jaxcam.tag(jax.nn.relu(conv(x, params["in"], (4, 4))), "map")
    tokens = x.reshape(-1, CHANNELS)
    return (jax.nn.softmax(tokens @ tokens.T) @ tokens).mean(0) @ params["out"]


SHAPES = {
    "in": (4, 4, 3, CHANNELS), "before": (3, 3, 1, CHANNELS), "after": (3, 3, 1, CHANNELS),
    "point": (1, 1, CHANNELS, CHANNELS), "out": (CHANNELS, CLASSES),
}  # fmt: skip


@functools.cache
def wrapped(program):
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
    rules = Preprocessing(size=SIZE, resize="squash")
    return jaxcam.wrap(program, params, preprocessing=rules, classes=["a", "b", "c"], layer="map")


@pytest.fixture(scope="module")
def network():
    return wrapped(convolutions)


def shaped(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@contextlib.contextmanager
def uncompiled(program: Any) -> Iterator[None]:
    """Fails where the program was compiled inside. (Where a game has its channels is found out while it is traced.)"""
    seen: list[str] = []

    def listen(event: str, seconds: float, **more: Any) -> None:
        if "backend_compile" in event:
            seen.append(more.get("fun_name", "unnamed"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not {f"jit({program.__name__})", program.__name__, "unnamed"} & set(seen), seen


def lower(program: Any, *args: Any) -> str:
    """The text of a program for all accelerators at once, which calls nothing on the host."""
    with uncompiled(program):
        text = export.export(program, platforms=PLATFORMS)(*args).mlir_module()
    outside = re.findall(r'custom_call(?: @|.*?call_target_name = ")([\w.$]+)', text)
    assert not [name for name in outside if re.search("cpu|lapack|callback|host", name, re.IGNORECASE)], outside
    return text


def operations(text: str) -> tuple[set[str], set[str]]:
    """The kinds of operations that there are, and the convolutions with their options and shapes.

    The choice of a branch by the platform is left out; how often alike ones are written down depends on JAX.
    """
    found = set(re.findall(r"\b(?:stablehlo|chlo)\.\w+", text)) - {f"stablehlo.{k}" for k in ("case", "return")}
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    return found, {re.sub(r"%[\w#]+|loc\(.*", "", line).strip() for line in convolutions}


def lowered(program: Any, *args: Any) -> str:
    """The text, in which no convolution is written as a CPU likes it: neither for one accelerator nor for another."""
    text = lower(program, *args)
    with fast_convolutions(False):
        assert operations(lower(program, *args)) == operations(text)
    return text


def shapes_at(network: Any, layer: str) -> tuple[Any, Any, Any]:
    """What lies at a layer for a batch of two: activations and bypass; and the head."""
    features, head = network.split(at=layer)
    activations, bypass = jax.eval_shape(features.with_bypass, network.params, shaped(2, SIZE, SIZE, 3))
    return activations, bypass, head


@pytest.mark.parametrize("case", CASES)
def test_every_method_in_the_program_that_explain_runs(case):
    asked = request(case)
    attention = needs_attention(asked.info)
    network = wrapped(attentive if attention else convolutions)
    activations, bypass, head = shapes_at(network, "last" if asked.info.heads and not attention else "map")
    pairs = PAIRS if asked.info.batched else 1
    needs = {
        "key": shaped(2, 2, dtype=jnp.uint32), "image": shaped(2, SIZE, SIZE, 3),
        "references": shaped(2, 4, *activations.shape[1:]),
    }  # fmt: skip
    given = {name: shape for name, shape in needs.items() if name in asked.info.needs}
    program = compiled.maps(asked, head, network.whole)

    def run(params, activations, bypass, given, rows, targets):
        if "key" in given:  # an exported program takes raw ones
            given = given | {"key": jax.random.wrap_key_data(given["key"])}
        return program(params, activations, bypass, given, rows, targets)

    numbers = shaped(pairs, dtype=jnp.int32)
    both = lowered if case in KINDS else lower
    text = both(jax.jit(run), network.params, activations, bypass, given, numbers, numbers)
    assert "stablehlo.dot_general" in text


@pytest.mark.parametrize("case", [c for c in CASES if request(c).info.steps])
def test_every_step_of_a_method_of_many(case, network):
    activations, _, head = shapes_at(network, "map")
    a, image = (
        jnp.asarray(np.ones(activations.shape[1:], np.float32)),
        jnp.asarray(np.ones((SIZE, SIZE, 3), np.float32)),
    )
    key, target = jax.random.key(0), np.int32(1)
    references = jnp.stack([a])
    given = Inputs(network.params, a, head, 1, key, references, image, network.whole, network.params)
    stepped = request(case).stepped(given)
    steps = stepped.steps
    data = Data(network.params, network.params, a, image, target, np.asarray(jax.random.key_data(key)), references)
    state = None
    while state is None or type(state) is not steps.states[-1]:
        program, args = (
            (stepping._first(steps, stepped.prepare, None), (data,))
            if state is None
            else (stepping._next(steps, stepped.prepare, None), (data, state))
        )
        assert lowered(program, *args)
        state = jax.eval_shape(program, *args)
    assert lowered(stepping._next(steps, stepped.prepare, None), data, state)
    assert lower(jax.jit(stepped.result), state, a)


def test_the_forward_pass_and_the_default_references(network):
    features, head = network.split()
    images = shaped(2, SIZE, SIZE, 3)
    for program in (compiled.forward(features, head), compiled.default_references(features)):
        assert "feature_group_count = 6" in lowered(program, network.params, images)


#: A batch of two pictures, and of each map of `PAIRS`.
QUANTITIES = {
    "image": shaped(2, SIZE, SIZE, 3), "baseline": shaped(2, SIZE, SIZE, 3), "blurred": shaped(2, SIZE, SIZE, 3),
    "activations": shaped(2, 4, 4, CHANNELS), "logits": shaped(2, CLASSES),
    "key": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)),
}  # fmt: skip
OF_MAP = {
    "map": shaped(PAIRS, 4, 4), "heatmap": shaped(PAIRS, SIZE, SIZE), "coefficients": shaped(PAIRS, CHANNELS),
    "reference": shaped(PAIRS, CHANNELS), "completeness_gap": shaped(PAIRS), "target": shaped(PAIRS, dtype=jnp.int32),
    "boxes": shaped(PAIRS, BOXES, 4), "valid": shaped(PAIRS, BOXES, dtype=jnp.bool_), "scores": shaped(PAIRS, POINTS),
    "mask": shaped(PAIRS, SIZE, SIZE), "ranks": shaped(PAIRS, SIZE, SIZE, dtype=jnp.int32),
    "odds": shaped(PAIRS, POINTS), "outputs": shaped(PAIRS, POINTS),
}  # fmt: skip


SHARED = measures.Shared(QUANTITIES, [])


ROWS = shaped(PAIRS, dtype=jnp.int32)


def one_of_each(*fields: str) -> list[str]:
    """Names of metrics that differ in a field; of those without, none."""
    return list({of: n for n, m in METRICS.items() if (of := tuple(getattr(m, f) for f in fields))[0]}.values())


@pytest.mark.parametrize("name", one_of_each("function", "needs"))
def test_every_metric_in_the_program_that_evaluate_runs(name, network):
    metric, more, counts = METRICS[name], {}, np.zeros(0)
    if metric.perturbation:
        counts = metric.perturbation.points((SIZE, SIZE), POINTS - 1)
        more = dict.fromkeys(("scores", "odds", "outputs"), shaped(PAIRS, len(counts)))
        more["answers"] = shaped(PAIRS, len(counts), CLASSES)
    if metric.variation:
        more["again"] = shaped(PAIRS, metric.variation.count, SIZE, SIZE)
    of_picture, of_map = measures._wanted(metric.needs, SHARED, OF_MAP | more)
    taken = measures._one_batch(network.whole) if "predict" in metric.needs else None
    program = measures._compiled(metric.function, metric.needs, taken, "softmax", tuple(counts.tolist()))
    params = network.params if "params" in metric.needs else None
    if "predict" in metric.needs:
        assert "stablehlo.convolution" in lowered(program, params, of_picture, ROWS, of_map)
    else:  # no convolution that could be written in two ways
        assert "stablehlo.convolution" not in lower(program, params, of_picture, ROWS, of_map)


@pytest.mark.parametrize("name", one_of_each("perturbation"))
def test_every_perturbation(name, network):
    probes = METRICS[name].perturbation
    of_picture, of_map = measures._wanted((*probes.needs, "target"), SHARED, OF_MAP)
    points = jax.ShapeDtypeStruct((2,), probes.points((SIZE, SIZE), POINTS - 1).dtype)
    program = measures._probed(probes, measures._one_batch(network.whole), "softmax")
    assert "stablehlo.convolution" in lowered(program, network.params, of_picture, ROWS, of_map, points)


@pytest.mark.parametrize("name", one_of_each("variation"))
def test_every_variation(name):
    variation = METRICS[name].variation
    of_picture, of_map = measures._wanted(variation.needs, SHARED, OF_MAP)
    program = measures._varied(variation)
    made = jax.eval_shape(program, of_picture, ROWS, of_map)
    assert made.shape == (PAIRS, variation.count, SIZE, SIZE, 3)
    assert lower(program, of_picture, ROWS, of_map)
    assert lower(measures.heatmaps((SIZE, SIZE), False, variation.back), OF_MAP["map"])


def test_heatmaps_and_what_removed_pixels_become(network):
    assert lower(measures.heatmaps((SIZE, SIZE)), OF_MAP["map"])
    assert "stablehlo.sort" in lower(measures._ranks, OF_MAP["heatmap"])
    for kind in BASELINES:
        assert lowered(measures._baseline(kind, network.preprocessing), QUANTITIES["image"])


def test_nothing_in_the_library_asks_for_a_kind_of_device():
    root = pathlib.Path(jaxcam.__file__).parent
    asks = re.compile(
        r"""devices\(\s*["']|backend\s*=\s*["']|["']jax_platforms|environ.*JAX_PLATFORMS|\.(pure_|io_|debug\.)callback\("""
    )
    asking = [str(f.relative_to(root)) for f in sorted(root.rglob("*.py")) for _ in asks.findall(f.read_text())]
    # The writer of a cluster's run leaves its devices to the workers, and says so; a game in NumPy is asked for.
    assert asking == ["cli/evaluate.py", "shapley/host.py"]
