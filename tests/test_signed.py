"""Layers with negative activations: the map by position is right, the map from channels comes with a sentence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.evaluate import evaluate
from jaxcam.evaluate.statistics import summarise
from jaxcam.evaluate.tables import main_table
from jaxcam.explanation.figures import plot
from jaxcam.methods import DEFAULT_METHOD, SIGNED_METHOD
from jaxcam.methods.registry import METHODS
from jaxcam.methods.signs import SIGNED_FROM, signed_share

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
    told = e.to_dict()["results"]
    assert [r["doubt"] for r in told] == [by_channel.doubt, None, None]
    # Half of what is not grey is positive in the second channel, a tenth as large; and nothing speaks against "red".
    assert by_channel.negative == by_position.negative == told[2]["negative"] > 0.8
    assert by_channel.cancellation == pytest.approx(1, abs=1e-5) and told[2]["cancellation"] is None


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


def test_where_no_method_is_named_the_layer_chooses(network, picture, tmp_path):
    [e] = jaxcam.explain(network, picture, targets=["red"])
    assert [r.method for r in e.results] == [SIGNED_METHOD] and e.results[0].doubt is None
    rectified = jaxcam.wrap(
        lambda p, x: jaxcam.tag(jax.nn.relu(x @ p["w"]), "map").mean((0, 1)) @ p["out"], PARAMS, preprocessing=RULES,
        classes=["red", "other"],
    )  # fmt: skip
    [e] = jaxcam.explain(rectified, picture, targets=["red"])
    assert [r.method for r in e.results] == [DEFAULT_METHOD]


def test_figure_table_and_saved_arrays_say_it(network, picture, tmp_path):
    [doubtful] = jaxcam.explain(network, picture, methods=["lift_cam", "lrp_cam"], targets=["red"])
    [fine] = jaxcam.explain(network, picture, methods=["hires_lift_cam"], targets=["red"])
    heading, words = (t.get_text().replace("\n", " ") for t in plot(doubtful).texts)
    assert "signed" in heading
    assert words == f"LIFT-CAM, LRP-CAM: {doubtful.results[0].doubt}."
    assert len(plot(fine).texts) == 1
    doubtful.save(tmp_path / "red.npz")
    with np.load(tmp_path / "red.npz") as f:
        assert f["negative"].tolist() == [r.negative for r in doubtful.results] and f["doubt"][0]
    picture.save(tmp_path / "red.png")
    folder = tmp_path / "data" / "red"
    folder.mkdir(parents=True)
    picture.save(folder / "a.png")
    run = evaluate(network, tmp_path / "data", methods=["lift_cam", "hires_lift_cam"], metrics=["gap"],
                   out=tmp_path / "run", batch_size=1)  # fmt: skip
    assert run.columns["negative"].tolist() == pytest.approx([doubtful.results[0].negative] * 2)
    notes = [n for n in main_table(run, summarise(run)).notes if "negative" in n]
    assert len(notes) == 1 and notes[0].startswith("LIFT-CAM: ") and "take hires_lift_cam" in notes[0]


def test_a_map_that_a_norm_leaves_nothing_of_is_told(picture, tmp_path):
    """A token through LayerNorm does not change with its size: its channels times their gradients add up to 0."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 8)).astype("f4"), "out": rng.normal(size=(8, 2)).astype("f4")}

    def read(p, x):
        a = jaxcam.tag(x @ p["w"], "map")
        centred = a - a.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return jaxcam.tag(normed, "normed").mean((0, 1)) @ p["out"]

    network = jaxcam.wrap(read, params, preprocessing=RULES, classes=["a", "b"], layer="map")
    [e] = jaxcam.explain(network, picture, methods=["hires_cam", "hires_lift_cam", "grad_cam"], targets=["a"])
    nothing, by_position, gradient = e.results
    assert "cancel at every position" in nothing.doubt and "take hires_lift_cam" in nothing.doubt
    assert by_position.doubt is None and gradient.doubt is None
    assert np.abs(by_position.signed_map).sum() > 0.01 * np.abs(by_position.coefficients).sum()
    for more in ({"views": "flips"}, {"layer": ["map", "normed"]}):
        [e] = jaxcam.explain(network, picture, methods=["hires_cam", "hires_lift_cam"], targets=["a"], **more)
        assert "cancel at every position" in e.results[0].doubt and e.results[1].doubt is None
    [e] = jaxcam.explain(network, picture, methods="hires_cam", targets=["a"], layer="normed")
    assert e.results[0].doubt is None
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        picture.save(tmp_path / "data" / name / "0.png")
    asked = {"methods": ["hires_cam", "hires_lift_cam"], "metrics": ["ic"], "controls": False}
    run = evaluate(network, tmp_path / "data", out=tmp_path / "run", **asked)
    notes = [n for n in main_table(run, summarise(run)).notes if "rounding leaves" in n]
    assert len(notes) == 1 and notes[0].startswith("HiResCAM: ")
    assert (run.columns["left_over"] < 1e-6).tolist() == [True, False] * 2


def test_contributions_that_nearly_cancel_are_told(picture):
    """Two channels, for and against, whose difference is a hundredth of their size: F(A) - F(0) is that."""
    params = {"w": np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], "f4"), "bias": np.array([0.0, 1.0], "f4")}

    def against(p, x, last):
        a = jaxcam.tag(jax.nn.relu(jnp.abs(x @ p["w"]) + p["bias"]), "map").mean((0, 1))
        return jnp.stack([a[0] - last * a[1], a[0]])

    def of(last):
        network = jaxcam.wrap(lambda p, x: against(p, x, last), params, preprocessing=RULES, classes=["red", "other"])
        [e] = jaxcam.explain(network, picture, methods=["hires_lift_cam", "grad_cam"], targets=["red"])
        return e["hires_lift_cam", "red"], e["grad_cam", "red"]

    mean = float(of(0.0)[0].coefficients[0])
    doubtful, gradient = of(0.98 * mean)
    assert doubtful.cancellation == pytest.approx(1.98 / 0.02, rel=1e-3)
    assert "99 times as large as F(A) - F(0)" in doubtful.doubt
    assert gradient.doubt is None and np.isnan(gradient.cancellation)
    assert of(0.9 * mean)[0].doubt is None  # 19 times
