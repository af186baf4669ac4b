"""Every method on every network: complete, conserved, equal to its closed form, or refused with a reason."""

from __future__ import annotations

import battery
import jax
import numpy as np
import oracles
import pytest

from jaxcam.errors import JaxcamError
from jaxcam.methods.gradient import cam

CHECKS = {}


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


def check(*methods):
    """Registers the check of some methods."""

    def register(function):
        CHECKS.update(dict.fromkeys(methods, function))
        return function

    return register


def close(got, want, scale, tolerance=2e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


def size(e, alpha):
    """Rounding is measured beside the terms of the sum."""
    return np.abs(alpha).sum() + abs(e.logit) + abs(e.logit_zero)


@check("lift_cam", "shap_cam", "kernel_shap_cam")
def sums_to_the_difference_to_nothing(e, one, name):
    close(one.coefficients.sum(dtype=np.float64), e.logit - e.logit_zero, size(e, one.coefficients))


@check("deep_shap_cam")
def sums_to_the_difference_to_the_references(e, one, name):
    scale = size(e, one.coefficients) + np.abs(e.logit_references).max()
    close(one.coefficients.sum(dtype=np.float64), e.logit - e.logit_references.mean(), scale)


@check("lrp_cam")
def is_conserved(e, one, name):
    told = one.diagnostics
    parts = [told["absorbed_by_biases"], told["absorbed_by_stabiliser"]]
    scale = size(e, one.coefficients) + np.abs(parts).sum()
    close(one.coefficients.sum(dtype=np.float64) + np.sum(parts), e.logit, scale)


@check("grad_cam", "grad_cam_pp", "xgrad_cam")
def is_the_formula_by_hand(e, one, name):
    want = getattr(oracles, name)(e.activations, e.gradient)
    # Near a pole of the weight the formula itself has no more digits in float32.
    close(one.coefficients, want, np.abs(want).max(), 1e-3 if name == "grad_cam_pp" else 2e-5)


@check("cam")
def is_the_classifiers_weights(e, one, name):
    if e.weights is None:
        assert one.diagnostics["not_gap_linear"] > 1e-4  # what the engine, and the eager call, refuse
    else:
        assert one.diagnostics["not_gap_linear"] <= 1e-4
        close(one.coefficients, e.weights[:, battery.TARGET], np.abs(e.weights).max())


@check("ablation_cam")
def is_the_drop_without_a_channel(e, one, name):
    some = battery.ablated(len(one.coefficients))
    close(one.coefficients[some], e.logit - e.logit_without, abs(e.logit) + np.abs(e.logit_without).max())


@check("lime_cam")
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


@check("score_cam")
def is_the_softmax_of_the_masked_scores(e, one, name):
    ranges = np.ptp(e.activations, axis=(0, 1))
    widest = np.argsort(-ranges, kind="stable")[: battery.SCORED]
    shares = np.exp(e.logit_masked - e.logit_masked.max())
    close(one.coefficients[widest], shares / shares.sum(), 1, 1e-4)
    assert np.count_nonzero(one.coefficients) <= battery.SCORED
    assert one.diagnostics["left_out"] == (ranges > 0).sum() - battery.SCORED


@pytest.mark.parametrize("name", battery.COLUMNS)
@pytest.mark.parametrize("row", battery.ROWS, ids=str)
def test_cell(row, name, explained):
    e = explained(row)
    assert set(e.refused) == set(dict(row.refuses)), e.refused
    if name in e.refused:
        assert dict(row.refuses)[name] in str(e.refused[name])
        return
    one = e.cams[name]
    close(one.diagnostics["logit"], e.logit_whole, size(e, 0))
    assert np.isfinite(one.coefficients).all()
    if name != "cam" or e.weights is not None:
        assert np.abs(one.coefficients).max() > 0
    want = np.maximum(e.activations @ one.coefficients.astype(np.float64), 0)
    close(one.map, want, np.abs(e.activations * one.coefficients).sum(-1).max() + 1e-30)
    CHECKS[name](e, one, name)


def test_every_method_of_the_table_has_a_check():
    assert set(CHECKS) == set(battery.COLUMNS)


def test_cam_refuses_a_head_of_dense_layers_in_one_line():
    row = next(r for r in battery.ROWS if r.network == "vgg16_slim")
    s = battery.subject(row, None)
    activations, held = jax.jit(s.hold)(s.params, s.image)
    with pytest.raises(JaxcamError, match="global average pool") as caught:
        cam(held, activations, head=jax.jit(s.head), target=battery.TARGET)
    assert "\n" not in str(caught.value)
