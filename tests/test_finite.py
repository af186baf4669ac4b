"""Where a program stops being finite, and what is said where it does at the reference of a contribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import picture
from PIL import Image

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.explanation.engine import Engine
from jaxcam.transforms.finite import origin_of_nonfinite

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
KEEP = jnp.tril(jnp.ones((4, 4), bool))
ZERO = jnp.zeros_like(X)


@pytest.mark.parametrize(
    "name, fn, primitive, value",
    [
        ("unit norm", lambda x: x / jnp.linalg.norm(x), "div", "NaN"),
        ("logarithm of a sum", lambda x: jnp.log(jnp.sum(x * x)) * 2, "log", "infinity"),
        ("its infinity times 0", lambda x: jnp.log(jnp.sum(x * x)) * x, "log", "infinity"),
        ("power", lambda x: jnp.sum(x) ** -0.5, "pow", "infinity"),
        ("a norm without epsilon", lambda x: (x - x.mean()) * jax.lax.rsqrt(x.var()), "rsqrt", "infinity"),
        ("inside jit", lambda x: jax.jit(lambda y: y / y.sum())(x) + 1, "div", "NaN"),
        ("nothing is left of a mask", lambda x: jax.nn.softmax(jnp.where(x > 0, x, -jnp.inf)), "sub", "NaN"),
        ("a loop", lambda x: jax.lax.scan(lambda c, y: (c / y.sum(), None), jnp.float32(1), x)[0], "scan", "infinity"),
    ],
)  # fmt: skip
def test_the_operation_is_named_with_its_place(name, fn, primitive, value):
    found = origin_of_nonfinite(lambda x: jnp.sum(fn(x)), ZERO)
    assert found is not None and (found.primitive, found.value) == (primitive, value)
    assert found.place and found.place.startswith(__file__)
    assert str(found) == f"{primitive!r} at {found.place} gives {value}"


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x / jnp.maximum(jnp.linalg.norm(x), 1e-6),
        lambda x: jnp.where(x > 0, jnp.log(x), 0.0),  # what is not chosen does not count
        lambda x: jax.nn.softmax(jnp.where(KEEP, x @ x.T, -jnp.inf)),
        lambda x: jnp.argmax(x),
    ],
)
def test_what_ends_finite_is_nobodys_fault(fn):
    assert origin_of_nonfinite(lambda x: jnp.sum(fn(x)), ZERO) is None


def test_what_comes_in_or_is_written_down_is_nobodys_fault_either():
    assert origin_of_nonfinite(lambda x: x * 2, ZERO.at[0, 0].set(jnp.nan)) is None
    assert origin_of_nonfinite(lambda x: jnp.where(KEEP, x @ x.T, -jnp.inf), ZERO) is None


def test_it_is_found_under_the_flags_that_forbid_it():
    with jax.debug_nans(True), jax.transfer_guard("disallow"):
        found = origin_of_nonfinite(lambda x: x / x.sum(), ZERO)
    assert found is not None and found.primitive == "div"


@pytest.fixture(scope="module")
def unit_norm():
    """Embeddings of length one, and two layers behind them: at activations of zero this is 0 / 0."""
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s).astype("f4") for k, s in {"w": (3, 8), "out": (8, 3)}.items()}

    def net(p, x):
        e = jaxcam.tag(jax.nn.relu(x @ p["w"]), "map").mean((0, 1))
        return jax.nn.relu(e / jnp.linalg.norm(e) - 0.1) @ p["out"]

    return jaxcam.wrap(
        net, params, preprocessing=jaxcam.Preprocessing(size=16, resize="squash"), classes=list("abc"), name="unit"
    )


def test_a_reference_at_which_the_logit_is_not_finite_is_told(unit_norm):
    methods = ["lift_cam", "hires_lift_cam", "deep_shap_cam", "ablation_cam", "grad_cam"]
    [e] = jaxcam.explain(unit_norm, Image.fromarray(picture(16, 16)), methods=methods, targets=["a", "b"])
    for method in ("lift_cam", "hires_lift_cam"):
        for said in (e[method, "a"].empty, e[method, "a"].doubt, e[method, "b"].empty):
            assert "'div' at " in said and f"{__file__}:" in said and "gives NaN" in said and "deep_shap_cam" in said
        assert e[method, "a"].empty.startswith("the coefficients hold NaN")
    shap = e["deep_shap_cam", "a"]
    assert shap.empty is None and np.isfinite(shap.coefficients).all() and abs(shap.completeness_gap) < 1e-5
    # Activations of zero, and those of an input of zeros.
    assert shap.doubt.startswith("2 of its references left out: F(0)") and "'div' at " in shap.doubt
    for method in ("ablation_cam", "grad_cam"):
        assert e[method, "a"].empty is None and e[method, "a"].doubt is None
    told = {r["method"]: (r["empty"], r["doubt"]) for r in e.to_dict()["results"] if r["class_name"] == "a"}
    assert told["lift_cam"] == (e["lift_cam", "a"].empty, e["lift_cam", "a"].doubt)
    assert told["deep_shap_cam"] == (None, shap.doubt) and told["grad_cam"] == (None, None)


@pytest.mark.parametrize("around", [False, True])
def test_each_class_is_told_its_own_operation(around):
    """One class owes it to a logarithm, one to a quotient, one is finite; and what goes past the layer may decide."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 4)).astype("f4")}

    def net(p, x):
        e = jaxcam.tag(jax.nn.relu(x @ p["w"]), "map").mean((0, 1))
        past = x.mean() if around else 1.0
        bright = jnp.where(past > 0.7, e[1] / jnp.linalg.norm(e), jnp.exp(e[1]))
        return jnp.stack([jnp.log(e.sum()), bright if around else e[1] / jnp.linalg.norm(e), e.sum()])

    rules = jaxcam.Preprocessing(size=8, resize="squash", mean=(0, 0, 0), std=(1, 1, 1))
    network = jaxcam.wrap(net, params, preprocessing=rules, classes=list("abc"), name="net")
    pictures = [np.full((8, 8, 3), v, np.uint8) for v in (90, 220)]
    engine = Engine(network, None, 2, 1)
    forward = engine.forward(np.stack([rules(p) for p in pictures]), ["dark", "bright"])
    told = [[engine._not_finite_at_zero(forward, row, c) for c in range(3)] for row in (0, 1)]
    for first, second, third in told:
        assert "'log' at" in first and third is None
        assert second is None or "'div' at" in second
    assert (told[0][1] is None) == around and told[1][1] is not None


def test_a_sampled_method_says_it_in_its_error(unit_norm):
    with pytest.raises(JaxcamError, match="not finite.*'div' at .*deep_shap_cam") as caught:
        jaxcam.explain(
            unit_norm, Image.fromarray(picture(16, 16)), methods=["shap_cam:num_permutations=4,chunk_size=7"]
        )
    assert "\n" not in str(caught.value)


def test_references_are_the_mean_of_those_that_are_finite():
    w = jnp.asarray(np.random.default_rng(3).normal(size=(5, 2)), jnp.float32)
    a, *others = jnp.asarray(np.random.default_rng(4).uniform(size=(4, 2, 2, 5)), jnp.float32)
    head = lambda p, a: (lambda e: jax.nn.relu(e / jnp.linalg.norm(e)) @ p)(a.mean((0, 1)))  # noqa: E731
    run = jax.jit(lambda refs: jaxcam.deep_shap_cam(w, a, head=head, target=0, references=refs))
    some, all_ = run(jnp.stack(others)), run(jnp.stack([others[0], jnp.zeros_like(a), others[1], others[2]]))
    np.testing.assert_allclose(all_.coefficients, some.coefficients, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(all_.diagnostics["logit_zero"], some.diagnostics["logit_zero"], rtol=1e-6)
    assert (some.diagnostics["references_left_out"], all_.diagnostics["references_left_out"]) == (0, 1)
    assert abs(all_.diagnostics["completeness_gap"]) < 1e-6
    assert np.isnan(run(jnp.zeros((2, *a.shape))).coefficients).all()
