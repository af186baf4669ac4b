"""JAX's strict flags all at once: every method op by op; methods of each kind and every metric from the picture on."""

from __future__ import annotations

import contextlib

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import needs_attention, of_each_kind, picture
from PIL import Image
from reference import seeded

import jaxcam
from jaxcam.data.evaluation import load_dataset
from jaxcam.evaluate import evaluate
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs
from jaxcam.metrics import METRICS

#: On together; what breaks one of them says which.
FLAGS = {
    "jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict", "jax_transfer_guard": "disallow",
    "jax_enable_x64": True, "jax_debug_nans": True,
}  # fmt: skip
#: Options under which a method samples, and in several ways; others have their defaults.
OPTIONS = {
    "shap_cam": ("estimator=antithetic,num_permutations=4", "estimator=adjusted,num_permutations=12"),
    "kernel_shap_cam": ("num_samples=30",),
}  # fmt: skip
CLASSES = ("cat", "dog")
CHANNELS = 6


def draw(seed: int, *shape: int) -> jax.Array:
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def network(params, x, hidden: bool):
    x = x.reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, 4, 48)
    a = jaxcam.tag(jax.nn.relu(jnp.einsum("hwc,ck->hwk", x, params["in"])), "map").mean((0, 1))
    if hidden:
        a = jax.nn.relu(a @ params["hidden"] + params["bias"])
    return a @ params["out"]


def wrapped(hidden: bool):
    """A network with a hidden layer behind its map, or a global average pool and a linear layer."""
    params = {"in": draw(0, 48, CHANNELS), "hidden": draw(1, CHANNELS, CHANNELS), "bias": draw(2, CHANNELS),
              "out": draw(3, CHANNELS, 2)}  # fmt: skip
    rules = jaxcam.Preprocessing(size=16, resize="squash")
    return jaxcam.wrap(
        lambda p, x: network(p, x, hidden), params, preprocessing=rules, classes=CLASSES, name=f"hidden {hidden}"
    )


@contextlib.contextmanager
def flags(values: dict):
    """Flags for all threads."""
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A picture of each class, with a box and a mask."""
    root, masks, rows = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("masks"), ["image,wnid,x0,y0,x1,y1"]
    for i, name in enumerate(CLASSES):
        (root / name).mkdir()
        Image.fromarray(picture(20, 20 + i, seed=i)).save(root / name / "0.png")
        rows.append(f"{name}/0.png,{name},1,2,12,15")
        (masks / name).mkdir()
        Image.fromarray(np.tri(20, 20 + i, dtype=np.uint8)).save(masks / name / "0.png")
    (root / "boxes.csv").write_text("\n".join(rows) + "\n")
    return load_dataset(root, masks=masks)


def numbers(data, folder) -> dict[str, np.ndarray]:
    """All that a run of methods of each kind and of every metric finds; and an explanation of one picture."""
    at_once = of_each_kind(name for name, m in METHODS.items() if m.steps is None)
    found, kinds = {}, {*at_once, "shap_cam", "score_cam"}  # and of those of many steps two
    networks = {hidden: wrapped(hidden) for hidden in (True, False)}  # what is compiled for one serves all its runs
    once = {"batch_size": 2, "steps": 2, "devices": jax.local_devices()[:1], "keep": ["coefficients", "maps"]}
    for hidden, network in networks.items():
        methods = [
            name if options is None else f"{name}:{options}"
            for name, m in METHODS.items() if name in kinds and (m.heads is None) == hidden
            for options in OPTIONS.get(name, (None,))
        ]  # fmt: skip
        run = evaluate(network, data, methods=methods, metrics=["ic"], out=folder / str(hidden), **once)
        assert run.complete and not run.broken
        found |= {f"{k} {hidden}": run.arrays(k) for k in ("coefficients", "maps")} | {
            f"ic {hidden}": run.columns["ic"]
        }
    run = evaluate(networks[True], data, methods=["grad_cam", "random_cam"], metrics=list(METRICS),
                   reference="lift_cam", out=folder / "metrics", **once)  # fmt: skip
    found |= {k: run.columns[k] for k in METRICS}
    [explanation] = jaxcam.explain(
        networks[True], data.root / "cat" / "0.png", methods="deep_shap_cam", targets=["dog"]
    )
    return found | {"heatmap": explanation.results[0].heatmap}


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return numbers(data, tmp_path_factory.mktemp("plain"))


def test_methods_of_each_kind_and_every_metric_give_the_same_under_all_flags(data, plain, tmp_path):
    with flags(FLAGS):
        found = numbers(data, tmp_path)
    assert found.keys() == plain.keys()
    for key, value in plain.items():
        assert np.isfinite(value).all()
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(found[key], value, rtol=0, atol=2e-5 * scale, err_msg=key)


def attentive(params, a):
    tokens = a.reshape(-1, a.shape[-1])
    return (jax.nn.softmax(tokens @ tokens.T) @ tokens).mean(0) @ params["w"] + params["b"]


#: A head of attention without a broadcast of its own, which these flags forbid.
ATTENTIVE = heads.HEADS["linear_gap"]._replace(fn=attentive)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_op_by_op_and_no_operation_of_it_makes_a_nan_or_another_dtype(name):
    head = ATTENTIVE if needs_attention(METHODS[name]) else heads.HEADS["linear_gap"]
    a = jnp.asarray(seeded.activations(7, heads.SHAPE), jnp.float32)
    a = a.at[..., 1].set(0)  # a dead channel: 0 / 0 wherever it can be
    few = {"lime_cam": {"num_samples": 6, "beta": 0.5}, "ss_cam": {"num_samples": 2}, "is_cam": {"num_samples": 2},
           "opti_cam": {"steps": 2}, "rise_cam": {"num_samples": 6}, "gradient_shap": {"num_samples": 1},
           "sobol_cam": {"num_designs": 2, "cells": 2}, "hsic_cam": {"num_samples": 6}}.get(name, {})  # fmt: skip
    given = Inputs(heads.to_jax(head.params), a, head.fn, 1, jax.random.key(0), jnp.stack([0 * a, a[::-1] / 2]), a,
                   head.fn, heads.to_jax(head.params))  # fmt: skip
    # Every constant is a transfer to the device where nothing is compiled.
    with jax.disable_jit(), flags({k: v for k, v in FLAGS.items() if k != "jax_transfer_guard"}):
        cam = METHODS[name].call(given, **few)
    assert np.isfinite(cam.coefficients).all() and np.isfinite(cam.map).all()
    assert cam.coefficients[1] == 0 or not METHODS[name].null_channels
    floats = [x for x in jax.tree.leaves(cam) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    assert {x.dtype.name for x in floats} == {"float32"}


def test_draws_do_not_depend_on_the_batch_under_other_generators():
    """Those of `rbg` do: two pictures at once would get other maps than one by one."""
    pictures = [picture(20, 20, seed=i) for i in range(2)]
    options = {"methods": "random_cam", "targets": [0]}
    with flags({"jax_default_prng_impl": "rbg"}):
        network = wrapped(False)
        one, two = (jaxcam.explain(network, pictures, batch_size=n, **options) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.results[0].coefficients, b.results[0].coefficients, rtol=1e-5)


def test_no_rule_of_relevance_keeps_a_traced_value():
    """`jax_check_tracer_leaks`: dense layers, sums, products, a softmax, a maximum, a broadcast, a quotient."""
    w = draw(0, 6, 6)

    def head(w, a):
        x = a.reshape(-1, 6) @ w + 0.1
        x = jax.nn.relu(x) + x / (1 + jnp.abs(x))
        x = x * jax.nn.sigmoid(x) + jax.nn.softmax(x @ x.T) @ x
        return (x * x.mean(0) + jnp.broadcast_to(x.mean(0)[None], x.shape)).max(0) @ w / jnp.linalg.norm(x)

    with jax.checking_leaks():
        for options in ({}, {"attention": "attnlrp"}):
            pulled = jax.jit(lambda a, o=options: jaxcam.lrp(lambda a: head(w, a)[0], **o)(a).relevance)
            assert pulled(draw(1, 4, 4, 6)).shape == (4, 4, 6)
