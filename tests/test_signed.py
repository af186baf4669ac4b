"""Layers with negative activations: the map by position is right, the map from channels comes with a sentence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.methods.maps import SIGNED_FROM, signed_share
from jaxcam.methods.registry import METHODS

RULES = jaxcam.Preprocessing(size=16, resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
#: Two channels: the evidence lies, negative, in the left half, and, positive, nowhere; the head turns it round.
PARAMS = {"w": np.array([[-1.0, 0.1], [0.0, 0.1], [0.0, 0.1]], "f4"), "out": np.array([[-1.0, 1.0], [0.0, 0.0]], "f4")}


def signed(p, x):
    """A linear bottleneck: red makes the first channel negative, and the first class is its opposite."""
    return jaxcam.tag(x @ p["w"], "map").mean((0, 1)) @ p["out"]


@pytest.fixture(scope="module")
def picture():
    """Red on the left, the mean grey on the right."""
    pixels = np.full((16, 16, 3), 128, np.uint8)
    pixels[:, :8] = (255, 0, 0)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def network():
    return jaxcam.wrap(signed, PARAMS, preprocessing=RULES, classes=["red", "other"])


def test_the_map_by_position_shows_the_evidence_and_the_other_hides_it(network, picture):
    [e] = jaxcam.explain(network, picture, methods=["lift_cam", "hires_lift_cam", "grad_cam"], targets=["red"])
    by_position, by_channel = e["hires_lift_cam", "red"], e["lift_cam", "red"]
    assert by_position.map[:, :8].sum() > 100 * by_position.map[:, 8:].sum() and by_position.doubt is None
    assert (
        by_channel.map[:, :8].sum() < 1e-3 and "negative" in by_channel.doubt and "hires_lift_cam" in by_channel.doubt
    )
    assert e["grad_cam", "red"].doubt is None
    assert [r["doubt"] for r in e.to_dict()["results"]] == [by_channel.doubt, None, None]


def test_every_contribution_that_is_multiplied_again_is_doubted_and_no_other():
    a = np.random.default_rng(0).normal(size=(4, 4, 3))
    for name, method in METHODS.items():
        doubted = method.map_from == "channels" and method.contains_activation
        assert (method.doubt(a) is not None) == doubted, name
        assert method.doubt(np.abs(a)) is None and method.doubt(np.zeros((2, 2, 3))) is None
    assert METHODS["lift_cam"].doubt(a) and METHODS["shap_cam"].doubt(a) and not METHODS["grad_cam"].doubt(a)


@pytest.mark.parametrize(("activation", "is_signed"), [
    (jax.nn.relu, False), (jax.nn.relu6, False), (jax.nn.silu, False), (jax.nn.gelu, False), (jax.nn.softplus, False),
    (lambda x: x, True), (lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True), True), (jnp.tanh, True),
])  # fmt: skip
def test_smooth_activations_are_not_signed_layers(activation, is_signed):
    a = activation(jax.random.normal(jax.random.key(0), (14, 14, 64)) * 2)
    assert (signed_share(a) > SIGNED_FROM) == is_signed


def test_the_command_says_it_in_plain_words(picture, tmp_path, capsys):
    picture.save(tmp_path / "red.png")
    (tmp_path / "net.py").write_text(
        "import jaxcam, numpy as np\n"
        "net = lambda p, x: jaxcam.tag(x @ p['w'], 'map').mean((0, 1)) @ p['out']\n"
        "rules = jaxcam.Preprocessing(size=16, resize='squash', mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        f"params = {{'w': np.array({PARAMS['w'].tolist()}, 'f4'), 'out': np.array({PARAMS['out'].tolist()}, 'f4')}}\n"
        "network = jaxcam.wrap(net, params, preprocessing=rules, classes=['red', 'other'])\n"
    )
    words = ["explain", str(tmp_path / "red.png"), "--model", f"{tmp_path / 'net.py'}:network", "--method", "lift_cam",
             "grad_cam", "--target", "red", "--no-figure", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("% of the activations are negative here") == 1 and "take hires_lift_cam" in said
