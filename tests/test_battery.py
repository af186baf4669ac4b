"""Every method on every network: complete, conserved, equal to its closed form, or refused with a reason."""

from __future__ import annotations

import battery
import jax
import numpy as np
import oracles
import pytest

from jaxcam.errors import JaxcamError
from jaxcam.methods.gradient import cam
from jaxcam.methods.registry import METHODS

#: What only one method satisfies; what several promise, `METHODS` declares, and `test_cell` checks.
FORMULAS = {}


@pytest.fixture(scope="module")
def explained(request):
    """The rows, each explained once."""
    made = {}

    def get(row):
        if row not in made:
            data = request.getfixturevalue("data_dir") if row.network == "squeezenet" else None
            s = battery.subject(row, data)
            made[row] = None if s is None else battery.explain(row, s)
        if made[row] is None:
            pytest.skip(f"{row.network} is not to be had here")
        return made[row]

    return get


def formula(*methods):
    """Registers the formula of some methods."""

    def register(function):
        FORMULAS.update(dict.fromkeys(methods, function))
        return function

    return register


def close(got, want, scale, tolerance=2e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


def size(e, alpha):
    """Rounding is measured beside the terms of the sum."""
    return np.abs(alpha).sum() + abs(e.logit) + abs(e.logit_zero)


def keeps_its_promises(e, one, info):
    """What the entry of a method declares."""
    alpha = one.coefficients.astype(np.float64)
    baselines = {"references": battery.references}.get(info.complete, lambda a: np.zeros_like(a)[None])(e.activations)
    logits = {"references": e.logit_references}.get(info.complete, np.asarray([e.logit_zero]))
    scale = size(e, alpha) + np.abs(logits).max()
    if info.complete:
        close(alpha.sum(), e.logit - logits.mean(), scale)
    if info.exact_on_linear and e.weights is not None:
        close(alpha, ((e.activations - np.mean(baselines, 0)) * e.gradient).sum((0, 1)), scale)
    if info.null_channels:
        close(alpha[~e.activations.any((0, 1))], 0, np.abs(alpha).max())
    low, high = info.range
    assert (alpha >= low).all() and (alpha <= high).all()
    assert (one.map >= 0).all()
    signed = one.diagnostics["signed_map"]
    close(one.map, np.maximum(signed, 0), np.abs(signed).max())
    if info.map_from == "channels":
        close(signed, e.activations @ alpha, np.abs(e.activations * alpha).sum(-1).max() + 1e-30)
    else:  # a ReLU only adds
        if info.complete == "zero" or "rules" in info.needs:
            close(signed.sum(dtype=np.float64), alpha.sum(), scale + np.abs(signed).sum())
        assert one.map.sum(dtype=np.float64) >= alpha.sum() - 2e-5 * scale


@formula("multiplier_cam")
def is_the_mean_of_the_multipliers(e, one, name):
    close(one.coefficients, e.multipliers.mean((0, 1)), np.abs(e.multipliers).mean((0, 1)).max())
    if e.weights is not None:
        close(one.coefficients, e.gradient.mean((0, 1)), np.abs(e.gradient).mean((0, 1)).max())


@formula("lrp_cam", "hires_lrp_cam")
def is_conserved(e, one, name):
    told = one.diagnostics
    parts = [told["absorbed_by_biases"], told["absorbed_by_stabiliser"]]
    scale = size(e, one.coefficients) + np.abs(parts).sum()
    close(one.coefficients.sum(dtype=np.float64) + np.sum(parts), e.logit, scale)


@formula("lrp_multiplier_cam")
def is_the_mean_slope_where_there_is_something(e, one, name):
    parts = [one.diagnostics[k] for k in ("relevance_sum", "absorbed_by_biases", "absorbed_by_stabiliser")]
    close(np.sum(parts, dtype=np.float64), e.logit, size(e, np.asarray(parts)))
    if e.weights is not None:
        want = (e.gradient * (e.activations != 0)).mean((0, 1))
        close(one.coefficients, want, np.abs(want).max())


@formula("grad_cam", "grad_cam_pp", "xgrad_cam", "smooth_grad_cam_pp")
def is_the_formula_by_hand(e, one, name):
    name = name.removeprefix("smooth_")  # of which there is no noise here
    want = getattr(oracles, name)(e.activations, e.gradient)
    # Near a pole of the weight the formula itself has no more digits in float32.
    close(one.coefficients, want, np.abs(want).max(), 1e-3 if name == "grad_cam_pp" else 2e-5)


@formula("shapley_cam")
def is_grad_cam_where_the_head_is_linear(e, one, name):
    if e.weights is not None:
        want = e.gradient.mean((0, 1))
        close(one.coefficients, want, np.abs(want).max())


@formula("hires_cam")
def is_gradient_times_activation_at_each_position(e, one, name):
    products = e.activations * e.gradient
    close(one.map, np.maximum(products.sum(-1), 0), np.abs(products).sum(-1).max())
    close(one.coefficients, products.sum((0, 1)), np.abs(products).sum((0, 1)).max())


@formula("layer_cam", "grad_cam_elementwise")
def is_the_map_by_hand(e, one, name):
    products = np.abs(e.activations * e.gradient)
    positive = np.maximum(e.gradient, 0) * e.activations
    if name == "grad_cam_elementwise":
        positive = np.maximum(e.gradient * e.activations, 0)
    close(one.map, np.maximum(positive.sum(-1), 0), products.sum(-1).max())
    close(one.coefficients, positive.sum((0, 1)), products.sum((0, 1)).max())


@formula("eigen_cam", "eigen_grad_cam")
def is_the_first_principal_component(e, one, name):
    x = e.activations if name == "eigen_cam" else e.activations * e.gradient
    v, determined = oracles.first_component(x)
    tolerance = 2e-5 / determined
    close(one.map, np.maximum(x @ v, 0), np.abs(x * v).sum(-1).max(), tolerance)
    want = v if name == "eigen_cam" else x.sum((0, 1)) * v
    close(one.coefficients, want, np.abs(want).max(), tolerance)


@formula("random_cam")
def is_drawn_of_the_key_alone(e, one, name):
    draw = jax.random.uniform(jax.random.key(0), one.coefficients.shape, minval=-1, maxval=1)
    np.testing.assert_allclose(one.coefficients, draw, atol=1e-6)


@formula("cam")
def is_the_classifiers_weights(e, one, name):
    close(one.coefficients, e.weights[:, battery.TARGET], np.abs(e.weights).max())


@formula("ablation_cam")
def is_the_drop_without_a_channel(e, one, name):
    some = battery.ablated(len(one.coefficients))
    close(one.coefficients[some], e.logit - e.logit_without, abs(e.logit) + np.abs(e.logit_without).max())


@formula("lime_cam")
def is_the_minimum_of_its_objective(e, one, name):
    """No coefficient can move without raising (1/N) sum w r^2 + beta |alpha|: the subgradient holds 0."""
    masks = np.asarray(battery.limed(len(one.coefficients)), np.float64)
    energy = np.square(e.activations).sum((0, 1))
    w = np.exp(-4 * (1 - masks) @ energy / energy.sum())
    alpha, y = one.coefficients.astype(np.float64), e.logit_limed.astype(np.float64)
    rest = y - masks @ alpha
    rest -= (w * rest).sum() / w.sum()
    slope, beta = 2 * (w * rest) @ masks / len(y), battery.BETA * abs(e.logit)
    tolerance = 2e-5 * size(e, 0) * w.max()
    assert (np.abs(slope) <= beta + tolerance).all()
    np.testing.assert_allclose(slope[alpha != 0], beta * np.sign(alpha[alpha != 0]), rtol=0, atol=tolerance)


@formula("score_cam", "ss_cam", "is_cam")  # of which there is no noise here, and one strength
def is_the_softmax_of_the_masked_scores(e, one, name):
    ranges = np.ptp(e.activations, axis=(0, 1))
    widest = np.argsort(-ranges, kind="stable")[: battery.SCORED]
    shares = np.exp(e.logit_masked - e.logit_masked.max())
    close(one.coefficients[widest], shares / shares.sum(), 1, 1e-4)
    assert np.count_nonzero(one.coefficients) <= battery.SCORED
    assert one.diagnostics["left_out"] == (ranges > 0).sum() - battery.SCORED


@formula("group_cam")
def is_grad_cam_times_what_it_adds(e, one, name):
    """Of one group without a threshold."""
    want = np.maximum(e.activations @ e.gradient.mean((0, 1)), 0)
    close(one.map * want.max(), want * one.map.max(), want.max() * one.map.max() + 1e-30)
    assert (one.diagnostics["signed_map"] >= 0).all() or not one.map.any()


@formula("opti_cam")
def is_a_step_from_equal_coefficients(e, one, name):
    close(one.coefficients.sum(), 1, 1)
    u = np.log(one.coefficients.astype(np.float64))
    assert np.ptp(u) <= 0.2 + 1e-4 and np.abs(one.coefficients * len(u) - 1).max() > 0.05


@formula("rise_cam", "kpca_cam", "uniform_cam", "occlusion", "sobol_cam", "hsic_cam")
def tells_no_channel_from_another(e, one, name):
    close(one.coefficients, one.coefficients.mean(), np.abs(one.coefficients).max())
    assert (one.map == 1).all() == (name == "uniform_cam")


@formula("smooth_grad")
def is_the_size_of_the_gradient(e, one, name):
    """Without noise."""
    slopes = np.abs(e.gradient)
    close(one.map, slopes.sum(-1), slopes.sum(-1).max())
    close(one.coefficients, slopes.sum((0, 1)), slopes.sum((0, 1)).max())


@formula("integrated_gradients", "guided_backprop", "deconvolution")
def is_a_gradient_of_another_place_or_rule(e, one, name):
    """On a linear head the plain one; there is none that it depends on."""
    if e.weights is not None:
        want = e.gradient * (e.activations if name == "integrated_gradients" else 1)
        close(one.map, np.maximum(want.sum(-1), 0), np.abs(want).sum(-1).max())
    if name == "integrated_gradients":
        close(one.diagnostics["completeness_gap"], one.coefficients.sum() - (e.logit - e.logit_zero), size(e, 0))


@formula("gradient_shap")
def is_the_way_from_a_reference_times_a_gradient(e, one, name):
    """Of one draw; on a linear head it does not matter where the gradient is taken."""
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    which = int(2 * jax.random.uniform(key, (2,))[0])
    if e.weights is not None:
        want = (e.activations - np.asarray(battery.references(e.activations))[which]) * e.gradient
        close(one.coefficients, want.sum((0, 1)), np.abs(want).sum((0, 1)).max())
        close(one.coefficients.sum(), e.logit - e.logit_references[which], size(e, one.coefficients))


@formula("fem_cam")
def is_the_mean_where_a_channel_is_unusual(e, one, name):
    mean, deviation = e.activations.mean((0, 1)), e.activations.std((0, 1))
    above = (e.activations - mean) / np.where(deviation > 0, deviation, 1) - 1
    sure = (np.abs(above) > 1e-4).all(-1)  # rounding decides the others
    want = ((above > 0) * mean).sum(-1)
    close(one.map[sure], np.maximum(want, 0)[sure], np.abs(mean).sum() + 1e-30)


@formula("attention_rollout", "legrad")
def is_made_of_attentions(e, one, name):
    """What test_rollout.py computes slowly: here that it is right wherever it came from, a library's own program."""
    assert one.map.min() >= 0 and one.map.max() > one.map.min()
    close(one.coefficients, one.map.sum() / len(one.coefficients), one.map.sum())
    if name == "attention_rollout":  # with a class token the rest of 1 is its own
        assert one.map.sum() <= 1 + 1e-5 and (e.weights is None or one.map.sum() >= 1 - 1e-5)


@formula("full_grad")
def is_all_of_the_logit(e, one, name):
    told = one.diagnostics
    scale = size(e, e.activations * e.gradient) + abs(told["bias_part"])
    close(told["input_part"] + told["bias_part"], e.logit, 10 * scale)
    close(told["input_part"], (e.activations * e.gradient).sum(), scale)


@formula("relevance_cam")
def is_relevance_that_begins_with_nothing(e, one, name):
    told = one.diagnostics
    parts = [told["absorbed_by_biases"], told["absorbed_by_stabiliser"]]
    close(one.coefficients.sum(dtype=np.float64) + np.sum(parts), 0, size(e, one.coefficients) + np.abs(parts).sum())


CELLS = [pytest.param(row, m, id=f"{row}-{m}") for row in battery.ROWS for m in METHODS if row.has(m)]


@pytest.mark.parametrize("row, name", CELLS)
def test_cell(row, name, explained):
    e, info = explained(row), METHODS[name]
    assert set(e.refused) == set(dict(row.refuses)), e.refused
    if name in e.refused:
        assert dict(row.refuses)[name] in str(e.refused[name])
        return
    one = e.cams[name]
    close(one.diagnostics["logit"], e.logit_whole, size(e, 0))
    assert np.isfinite(one.coefficients).all()
    # What the engine, and the eager call, refuse.
    defined = info.heads is None or not info.heads.why_not(one.diagnostics)
    assert defined == (info.heads is None or row.attention or e.weights is not None)
    if defined:
        assert np.abs(one.coefficients).max() > 0
    keeps_its_promises(e, one, info)
    if defined and name in FORMULAS:
        FORMULAS[name](e, one, name)


def test_every_method_promises_something_or_has_its_formula_here():
    assert set(FORMULAS) <= set(METHODS)
    assert {name for name, info in METHODS.items() if not info.complete} <= set(FORMULAS)
    for name in METHODS:  # and is tried on several heads, one of them linear if it takes less than the network
        rows = [row for row in battery.ROWS if row.has(name)]
        assert len(rows) > 1 and (name in battery.WHOLE or any(row.weights for row in rows))


def test_cam_refuses_a_head_of_dense_layers_in_one_line():
    row = next(r for r in battery.ROWS if r.network == "vgg16_slim")
    s = battery.subject(row, None)
    activations, head_params = jax.jit(s.with_head_params)(s.params, s.image)
    with pytest.raises(JaxcamError, match="global average pool") as caught:
        cam(head_params, activations, head=jax.jit(s.head), target=battery.TARGET)
    assert "\n" not in str(caught.value)
