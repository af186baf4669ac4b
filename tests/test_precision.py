"""Precision of matrix products is a choice: what each one is in the program, and what it does to the numbers."""

from __future__ import annotations

import functools
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import networks
import numpy as np
import pytest
from evaluations import pictures
from jax import export, lax
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate, measures
from jaxcam.evaluate.manifest import Options
from jaxcam.evaluate.work import Worker
from jaxcam.explanation import compiled
from jaxcam.explanation.lower_precision import costs, told
from jaxcam.methods.registry import request
from jaxcam.metrics import METRICS
from jaxcam.transforms import PRECISIONS, at_precision, for_cpu
from jaxcam.transforms.precision import PASSES, choosing
from jaxcam.zoo.store import save_network

ASKED = ["lift_cam", "grad_cam", "ablation_cam", "shap_cam:num_permutations=4,estimator=antithetic"]


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def rounded(x):
    """In float64, what bfloat16 makes of a number."""
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


def conv(x, w, groups=1):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def windows(x, w):
    """The same sum in NumPy, of one group."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(x, w.shape[:2], axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", seen, w)


def close(got, want, tolerance=2e-6):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_bfloat16_rounds_what_is_multiplied_and_adds_up_in_float32():
    x, w = drawn(5, 40), drawn(40, 7, seed=1)
    got = jax.jit(at_precision(jnp.dot, "bfloat16"))(x, w)
    assert got.dtype == jnp.float32
    close(got, rounded(x) @ rounded(w))
    assert 1e-4 < np.abs(got - x @ w).max() / np.abs(got).max() < 1e-2  # and is another number
    image, kernel = drawn(2, 6, 5, 4), drawn(3, 3, 4, 6, seed=1)
    close(jax.jit(for_cpu(at_precision(conv, "bfloat16")))(image, kernel), windows(rounded(image), rounded(kernel)))


@pytest.mark.parametrize("fast", [False, True])
def test_derivatives_of_products_are_products_of_rounded_values_too(fast):
    image, kernel, seed = drawn(1, 6, 6, 3), drawn(3, 3, 1, 3, seed=1), drawn(1, 6, 6, 3, seed=2)
    f = functools.partial(conv, groups=3)
    backward = lambda x, w, t: jax.vjp(f, x, w)[1](t)  # noqa: E731
    program = at_precision(backward, "bfloat16")
    got = jax.jit(for_cpu(program) if fast else program)(image, kernel, seed)
    with jax.enable_x64(True):
        want = backward(*(jnp.asarray(rounded(v)) for v in (image, kernel, seed)))
    for one, other in zip(got, want, strict=True):
        assert one.dtype == jnp.float32
        close(one, np.asarray(other))


def precisions(function, *args, platform="cuda") -> list[str]:
    """Of every product in the program for a platform, the precision that it asks for, in alphabetical order."""
    text = export.export(jax.jit(function), platforms=[platform])(*args).mlir_module()
    products = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|convolution)\b", line)]
    asked = [re.search(r"precision(?:_config)? = \[(?:#stablehlo<precision )?(\w+)", line) for line in products]
    return sorted(m[1] if m else "DEFAULT" for m in asked)


def test_each_name_is_a_precision_of_the_accelerator_and_what_names_its_own_keeps_it():
    x = drawn(4, 4)
    both = lambda x: jnp.matmul(x @ x, x, precision="highest")  # noqa: E731
    assert precisions(at_precision(both, "highest"), x) == ["HIGHEST", "HIGHEST"]
    assert precisions(at_precision(both, "tf32"), x) == ["HIGH", "HIGHEST"]
    # The rounded operands are what an accelerator multiplies in one pass.
    assert precisions(at_precision(both, "bfloat16"), x) == ["DEFAULT", "HIGHEST"]
    text = export.export(jax.jit(at_precision(both, "bfloat16")), platforms=["tpu"])(x).mlir_module()
    assert re.search(r"stablehlo.dot_general.*\(tensor<4x4xbf16>, tensor<4x4xbf16>\) -> tensor<4x4xf32>", text)


def network(**more):
    params = {"in": drawn(48, 8), "hidden": drawn(8, 16, seed=1), "out": drawn(16, 3, seed=2)}

    def run(params, x):
        x = x.reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, 4, 48)
        a = jaxcam.tag(jax.nn.relu(x @ params["in"]), "map")
        return jax.nn.relu((a.mean((0, 1)) - 0.5) @ params["hidden"]) @ params["out"]

    rules = jaxcam.Preprocessing(size=16, resize="squash")
    return jaxcam.wrap(run, params, preprocessing=rules, classes=["a", "b", "c"], name="net", **more)


def test_a_wrapped_network_asks_for_the_highest_unless_another_is_chosen():
    net = network()
    features, head = net.split()
    x, a = drawn(16, 16, 3), drawn(4, 4, 8)
    for function, args, count in ((net.whole, (x,), 3), (features, (x,), 1), (head, (a,), 2)):
        assert precisions(function, net.params, *args) == ["HIGHEST"] * count
        assert precisions(at_precision(function, "tf32"), net.params, *args) == ["HIGH"] * count
        assert precisions(at_precision(function, "bfloat16"), net.params, *args) == ["DEFAULT"] * count


def test_a_head_that_was_cut_asks_for_what_the_method_does():
    def run(params, x):
        return jaxcam.tag(jax.nn.relu(x @ params["in"]), "map").mean((0, 1)) @ params["out"]

    params = {"in": drawn(3, 8), "out": drawn(8, 3, seed=2)}
    _, head = jaxcam.split(run, params, at="map", example=drawn(4, 4, 3))
    a = drawn(4, 4, 8)
    assert precisions(head, params, a) == ["DEFAULT"]  # the device's own
    lift = lambda a: jaxcam.lift_cam(params, a, head=head, target=1).coefficients  # noqa: E731
    assert set(precisions(lift, a)) == {"HIGHEST"}
    assert set(precisions(at_precision(lift, "tf32"), a)) == {"HIGH"}


def test_an_evaluation_lowers_its_forward_passes_and_nothing_that_maps_are_made_of():
    net = network()
    features, head = net.split()
    images, rows = (jax.ShapeDtypeStruct(shape, d) for shape, d in (((2, 16, 16, 3), jnp.float32), ((2,), jnp.int32)))
    maps = jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.float32)
    made = Worker(net, Options((request("lift_cam"),), ("ad",), batch_size=2), stopping=lambda: False)
    assert (made.engine.precision, made.engine.passes, made.measures.precision) == (None, PASSES, PASSES)
    with choosing("highest"):
        forward = compiled.forward(features, head, made.engine.passes)
        assert precisions(forward, net.params, images) == ["HIGH", "HIGHEST", "HIGHEST"]
        lift = compiled.maps(request("lift_cam"), head, net.whole)
        assert set(precisions(lift, net.params, maps, ((), None), {}, rows, rows)) == {"HIGHEST"}
    with choosing(made.measures.precision):
        heat, logits = jax.ShapeDtypeStruct((2, 16, 16), jnp.float32), jax.ShapeDtypeStruct((2, 3), jnp.float32)
        score = measures._compiled(METRICS["ad"].function, METRICS["ad"].needs, net.whole, "softmax")
        of_picture = {"image": images, "baseline": images, "logits": logits}
        asked = precisions(score, net.params, of_picture, rows, {"heatmap": heat, "target": rows})
        assert asked == ["HIGH"] * 3


PICTURE = networks.picture(30, 30, seed=3)


@pytest.fixture(scope="module")
def explained():
    net = network()
    return {p: jaxcam.explain(net, PICTURE, methods=ASKED, precision=p)[0] for p in PRECISIONS}


def test_on_a_processor_tf32_is_float32_and_bfloat16_is_not(explained):
    exact, tf32, bfloat16 = (explained[p].results for p in ("highest", "tf32", "bfloat16"))
    for one, same, other in zip(exact, tf32, bfloat16, strict=True):
        np.testing.assert_array_equal(same.coefficients, one.coefficients)
        x, y = one.coefficients, other.coefficients
        error = np.abs(x - y).max() / np.abs(x).max()
        assert 1e-4 < error < 5e-2, one.method
        assert 1e-4 < abs(one.logit - other.logit) / abs(one.logit) < 2e-2


def test_without_a_choice_it_is_the_highest_and_wrap_makes_one(explained):
    [plain] = jaxcam.explain(network(), PICTURE, methods=ASKED)
    [chosen] = jaxcam.explain(network(precision="bfloat16"), PICTURE, methods=ASKED)
    for found, name in ((plain, "highest"), (chosen, "bfloat16")):
        for one, other in zip(found.results, explained[name].results, strict=True):
            np.testing.assert_array_equal(one.coefficients, other.coefficients)


def test_what_it_costs_is_measured(explained):
    found = costs(network(), PICTURE, precision="bfloat16", methods=ASKED)
    assert [c.method for c in found] == [r.method for r in explained["highest"].results]
    for cost, one, other in zip(found, explained["highest"].results, explained["bfloat16"].results, strict=True):
        x, y = (r.coefficients.astype(np.float64) for r in (one, other))
        assert cost.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), abs=1e-12) and 0.99 < cost.cosine < 1
        if np.isnan(cost.gap):
            assert "completeness" not in str(cost)
        else:
            assert (cost.gap, cost.gap_highest) == (other.completeness_gap, one.completeness_gap)
    by_name = {c.method.split(":")[0]: c for c in found}
    # LIFT-CAM's contributions come from a backward pass, whose rounding is not that of the logit.
    lift = by_name["lift_cam"]
    assert abs(lift.gap_highest) < 1e-5 < abs(lift.gap)
    assert np.isnan(by_name["grad_cam"].gap)
    assert told(network(), PICTURE, precision=None) == told(network(), PICTURE, precision="highest") == []
    [said] = told(network(), PICTURE, precision="tf32")
    assert "has no such products" in said


def test_coalitions_are_rounded_and_the_tables_are_not():
    params = {"w1": drawn(48, 32), "w2": drawn(32, 3, seed=1)}
    head = lambda params, a: jax.nn.relu(a.reshape(-1) @ params["w1"]) @ params["w2"]  # noqa: E731
    a = jnp.abs(drawn(2, 2, 12))

    def shap(precision):
        method = functools.partial(jaxcam.shap_cam, head=head, target=1, num_permutations=8, estimator="antithetic")
        return jax.jit(lambda a: method(params, a, jax.random.key(0), precision=precision))(a)

    exact, lower = shap(None), shap("bfloat16")
    size = np.abs(exact.coefficients).max()
    assert 1e-4 * size < np.abs(exact.coefficients - lower.coefficients).max() < 5e-2 * size
    assert abs(lower.diagnostics["completeness_gap"]) < 1e-3 * size  # the marginals of an ordering add up all the same
    np.testing.assert_array_equal(shap("highest").coefficients, exact.coefficients)
    np.testing.assert_array_equal(shap("tf32").coefficients, exact.coefficients)


def test_an_evaluation_keeps_its_precision(tmp_path):
    data, net = pictures(tmp_path / "data", each=1, broken=False), networks.network(networks.VGG, size=32)
    asked = {"methods": "grad_cam", "metrics": ["ad"], "batch_size": 4}
    plain = evaluate(net, data, out=tmp_path / "plain", **asked)
    lower = evaluate(net, data, out=tmp_path / "lower", precision="bfloat16", **asked)
    assert "precision" not in plain.manifest["settings"] and lower.manifest["settings"]["precision"] == "bfloat16"
    difference = np.abs(plain.columns["ad"] - lower.columns["ad"]) + np.abs(
        plain.columns["logit"] - lower.columns["logit"]
    )
    assert (difference > 0).all() and (difference < 5).all()
    with pytest.raises(JaxcamError, match="other settings: precision was"):
        evaluate(net, data, out=tmp_path / "lower", precision="tf32", **asked)


def test_the_commands_tell_what_it_costs(tmp_path, capsys):
    net = networks.network(networks.VGG, size=32)
    save_network(tmp_path / "net", net)
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    common = ["--model", str(tmp_path / "net"), "--out"]
    explain = [
        "explain",
        str(tmp_path / "a.png"),
        *common,
        str(tmp_path / "out"),
        "--method",
        "lift_cam",
        "--no-figure",
    ]
    assert main([*explain, "--precision", "bfloat16"]) == 0
    said = capsys.readouterr().out
    assert "bfloat16, 8 bits" in said and re.search(r"lift_cam: cosine 0\.99\d+, completeness gap -?\d", said)
    assert main([*explain, "--precision", "tf32"]) == 0
    assert "no such products" in capsys.readouterr().out
    assert main([*explain, "--precision", "bfloat"]) == 2
    assert "did you mean bfloat16" in capsys.readouterr().err
    data = pictures(tmp_path / "data", each=1, broken=False)
    run = tmp_path / "run"
    asked = ["--methods", "grad_cam", "--metrics", "ad", "--batch-size", "4", "--precision", "bfloat16"]
    assert main(["evaluate", str(data), *common, str(run), *asked]) == 0
    assert "bfloat16, 8 bits" in capsys.readouterr().out
    assert json.loads((run / "manifest.json").read_text())["settings"]["precision"] == "bfloat16"
