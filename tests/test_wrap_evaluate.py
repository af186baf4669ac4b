"""Runs over a data set with networks that are not ours: metrics by hand, stopped runs, and what makes another run."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from evaluations import assert_same, pictures
from PIL import Image
from wrapped import RULES, by_hand, made, same, wrapped

from jaxcam import metrics
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.methods.maps import resize_map, scale_map

ONE = jax.devices()[:1]
SETTINGS = dict(
    methods=("lift_cam", "grad_cam", "shap_cam:num_permutations=2"), metrics=("ic", "ad", "add", "insertion", "gap"),
    batch_size=4, steps=4, devices=ONE, reference="lift_cam",
)  # fmt: skip


@pytest.fixture(scope="module")
def residual():
    """The Linen network with residuals, and the same wrapped with a default layer inside a block."""
    guest = made("linen_residual")
    return guest, wrapped(guest, layer="block1.Conv_1", name="mine")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four classes of two pictures, with a box each."""
    root = pictures(tmp_path_factory.mktemp("data") / "set", each=2, broken=False)
    rows = ["image,wnid,x0,y0,x1,y1"]
    for file in sorted(root.glob("*/*.png")):
        with Image.open(file) as opened:
            w, h = opened.size
        rows.append(f"{file.relative_to(root).as_posix()},{file.parent.name},0,0,{w / 2},{h}")
    (root / "boxes.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def whole(residual, data, tmp_path_factory):
    return evaluate(residual[1], data, out=tmp_path_factory.mktemp("runs") / "whole", **SETTINGS)


def test_a_run_holds_the_metrics_by_hand(residual, data, whole):
    guest, network = residual
    assert whole.complete and len(whole) == 8 * 3 and whole.manifest["settings"]["layer"] == "block1.Conv_1"
    row = 3 * 5 + 1
    target, pixels = int(whole.columns["target"][row]), data / whole.columns["image"][row]
    with Image.open(pixels) as opened:
        photo = opened.convert("RGB")
    logits, cams, at_zero = by_hand("linen_residual", network.layer, "grad_cam")(photo, target)
    cam = cams["grad_cam"]
    same(whole.arrays("coefficients")[row], cam.coefficients)
    gap = cam.coefficients.sum() - (logits - at_zero)[target]
    np.testing.assert_allclose(whole.columns["gap"][row], gap, atol=1e-4)
    heat, x = scale_map(resize_map(cam.map, (16, 16))), RULES(photo)
    found = metrics.confidence(guest.params, x, heat, predict=guest.logits, target=target)
    for name in ("ic", "ad", "add"):
        np.testing.assert_allclose(whole.columns[name][row], getattr(found, name), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(whole.columns["score"][row], found.original, rtol=1e-4)
    lift = whole.columns["method"] == "lift_cam"
    assert np.abs(whole.columns["gap"][lift]).max() < 1e-4
    np.testing.assert_allclose(whole.columns["cosine"][lift], 1, rtol=1e-5)


def test_a_run_that_is_stopped_goes_on(residual, data, whole, tmp_path):
    class Stop(Exception):
        pass

    calls = []

    def progress(state):
        calls.append(state)
        if len(calls) == 2:
            raise Stop

    with pytest.raises(Stop):
        evaluate(residual[1], data, out=tmp_path, progress=progress, **SETTINGS)
    again = wrapped(residual[0], layer="block1.Conv_1", name="mine")  # as another process would make it
    assert_same(evaluate(again, data, out=tmp_path, **SETTINGS), whole)


def test_other_weights_and_other_code_are_another_run(residual, data, whole):
    guest, network = residual
    doubled = network.with_params(jax.tree.map(lambda x: 2 * x, network.params))
    bent = wrapped(guest, layer=network.layer, name="mine", call=lambda module, x: 2 * module(x, train=False))
    for other in (doubled, bent):
        with pytest.raises(JaxcamError, match="model.sha256 was"):
            evaluate(other, data, out=whole.folder, **SETTINGS)
    assert wrapped(guest, layer=network.layer, name="mine").digest() == network.digest()


def test_boxes_are_followed_and_several_devices_share_a_run(residual, data, tmp_path):
    _, network = residual
    settings = {"methods": ("grad_cam",), "metrics": ("pointing",), "batch_size": 2, "reference": None}
    run = evaluate(network, data, out=tmp_path, **(SETTINGS | settings | {"devices": jax.devices()[:2]}))
    for i, map in enumerate(run.arrays("maps")):
        s = np.asarray(scale_map(resize_map(map, (16, 16))))
        if s.any():
            np.testing.assert_allclose(run.columns["pointing"][i], s[:, :8].sum() / s.sum(), rtol=1e-4)
