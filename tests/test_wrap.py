"""Networks that are not ours, wrapped: the numbers of `jaxcam.cut`, batches, and what is compiled and refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import zlib

import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import squeezenet
from networks import CLASSES, of_each_kind
from PIL import Image
from wrapped import EXAMPLE_INPUT, NAMES, PICTURES, RULES, by_hand, made, same, wrapped

import jaxcam
from jaxcam import cutting
from jaxcam.cli.explain import EXAMPLE
from jaxcam.errors import JaxcamError
from jaxcam.explanation.explain import explain_each
from jaxcam.methods.registry import METHODS, Method, request
from jaxcam.methods.result import Inputs

#: A guest, its default layer, and whether values go around that.
WRAPPED = [
    ("linen_residual", "block2", False),
    ("nnx_blocks", "blocks.2", False),
    ("function_tagged", "second.tanh", False),
]
WRAPPED += [
    ("linen_dense", "conv2.relu.concatenate", False),
    ("vit_mean", "norm", False),
    ("equinox_cnn", "dropout", False),
]


@pytest.fixture(scope="module")
def residual():
    """The Linen network with residuals, and the same wrapped with a default layer inside a block."""
    guest = made("linen_residual")
    return guest, wrapped(guest, layer="block1.Conv_1", name="mine")


@pytest.mark.parametrize(("name", "layer", "around"), WRAPPED)
def test_the_default_layer_gives_what_cutting_by_hand_gives(name, layer, around):
    guest = made(name)
    network = wrapped(guest)
    assert network.default_layer == layer == network.resolve_layer() and layer in network.layers
    features, head = network.split()
    assert head.needs_bypass == around and network.layer_shape(layer) == head.activations.shape
    x = RULES(PICTURES[0])
    program = str(jax.make_jaxpr(network.whole)(network.params, x))  # whatever the accelerator's own choice is
    assert "Precision.HIGHEST" in program and "precision=None" not in program
    same(jax.jit(network.predict)(network.params, x), jax.jit(guest.logits)(guest.params, x))
    for explanation, pixels in zip(
        jaxcam.explain(network, PICTURES, methods=["lift_cam", "grad_cam"], batch_size=2), PICTURES, strict=True
    ):
        assert explanation.layer == layer and explanation.classes == NAMES
        for result in explanation.results:
            logits, cams, at_zero = by_hand(name, layer, "lift_cam", "grad_cam")(pixels, result.target)
            cam = cams[result.method]
            same(explanation.logits, logits)
            same(result.coefficients, cam.coefficients)
            same(result.map, cam.map)
            gap = cam.coefficients.sum() - (logits - at_zero)[result.target]
            np.testing.assert_allclose(result.completeness_gap, gap, atol=1e-4)


@pytest.mark.slow
def test_methods_of_each_kind_inside_a_residual_block(residual):
    """The first picture's, by hand; `cam` is not defined for this head, and left out.

    Of those of many steps one that asks the network again; another comes below.
    """
    guest, network = residual
    asked = [*of_each_kind(m for m, info in METHODS.items() if info.heads is None and info.steps is None), "score_cam"]
    few = {"kernel_shap_cam": {"num_samples": 60}, "lime_cam": {"num_samples": 60}}
    text = [m + (":" + ",".join(f"{k}={v}" for k, v in few[m].items()) if m in few else "") for m in asked]
    (explanation,) = jaxcam.explain(network, PICTURES[0], methods=text, targets=[1], references=PICTURES[1:])
    cut = cutting.cut(guest.model, guest.params, at=network.layer, example=EXAMPLE_INPUT, **guest.options)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), np.uint32(zlib.crc32(b"image 0"))), 1)
    x, references = RULES(PICTURES[0]), jnp.stack([RULES(p) for p in PICTURES[1:]])

    @jax.jit
    def run(params, x, key, references):
        a, head_params = cut.features.with_head_params(params, x)
        others = cut.features(params, references)
        given = Inputs(head_params, a, cut.head, 1, key, others, x, cut.predict, params)
        by_method = {method: METHODS[method].call(given, **few.get(method, {})) for method in asked}
        return by_method, cut.head(head_params, jnp.zeros_like(a))

    by_method, at_zero = run(guest.params, x, key, references)
    for method, result in zip(asked, explanation.results, strict=True):
        info, expected = METHODS[method], by_method[method]
        np.testing.assert_allclose(result.coefficients, expected.coefficients, rtol=1e-3, atol=1e-5, err_msg=method)
        np.testing.assert_allclose(result.map, expected.map, rtol=1e-3, atol=1e-4, err_msg=method)
        if info.complete != "references":
            drop = result.logit - float(at_zero[1])
            assert result.completeness_gap == pytest.approx(result.coefficients.sum() - drop, abs=1e-4)
    with pytest.raises(JaxcamError, match="CAM is defined for a global average pool"):
        jaxcam.explain(network, PICTURES[0], methods=["cam"])


def test_a_map_of_many_steps_inside_a_residual_block(residual):
    guest, network = residual
    asked = "shap_cam:chunk_size=16,num_permutations=60"
    (explanation,) = jaxcam.explain(network, PICTURES[0], methods=[asked], targets=[2])
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), np.uint32(zlib.crc32(b"image 0"))), 2)
    cut = cutting.cut(guest.model, guest.params, at=network.layer, example=EXAMPLE_INPUT, **guest.options)
    a, head_params = jax.jit(cut.features.with_head_params)(guest.params, RULES(PICTURES[0]))
    assert request(asked).stepped(Inputs(head_params, a, cut.head, 2, key)).steps.count > 1
    expected = jax.jit(
        lambda head_params, a, key: jaxcam.shap_cam(head_params, a, key, head=cut.head, target=2, num_permutations=60)
    )(head_params, a, key)
    np.testing.assert_allclose(explanation.results[0].coefficients, expected.coefficients, rtol=1e-3, atol=1e-5)


def test_a_batch_is_one_by_one(residual):
    _, network = residual
    asked = ["lift_cam", "xgrad_cam", "ablation_cam", "shap_cam:num_permutations=2", "score_cam"]
    listed = list(zip("abc", PICTURES, strict=True))  # random keys are by name
    together = list(explain_each(network, listed, methods=asked, targets=2, batch_size=3))
    for batched, one in zip(together, listed, strict=True):
        (alone,) = explain_each(network, [one], methods=asked, targets=2, batch_size=1)
        for a, b in zip(alone.results, batched.results, strict=True):
            assert (a.method, a.target, a.empty) == (b.method, b.target, b.empty)
            same(a.coefficients, b.coefficients)
            np.testing.assert_allclose(a.completeness_gap, b.completeness_gap, atol=1e-4)


def test_neither_the_network_nor_a_method_is_traced_again(monkeypatch):
    runs, traces = [], []

    def forward(params, x):
        runs.append(x)
        return guests.tagged(params, x)

    def counted(params, activations, *, head, target):
        traces.append(target)
        return METHODS["grad_cam"].function(params, activations, head=head, target=target)

    network = jaxcam.wrap(forward, made("function_tagged").params, preprocessing=RULES, classes=NAMES)
    before = len(runs)
    monkeypatch.setitem(METHODS, "counted", Method(counted, "Counted"))
    for pixels, targets in [
        (PICTURES, 1),
        (PICTURES, ["tench"]),
        (PICTURES[:2] + PICTURES, [0]),
        (PICTURES[::-1], [[3], [1], [2]]),
    ]:
        jaxcam.explain(network, pixels, methods=["counted"], targets=targets, batch_size=3)
    other = network.with_params(jax.tree.map(lambda x: 2 * x, network.params))
    jaxcam.explain(other, PICTURES, methods=["counted"], batch_size=3)
    assert len(runs) == before and len(traces) == 1
    assert other.split()[1] is network.split()[1] and other.digest() != network.digest()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"classes": CLASSES}, "LinenNet: 4 class names for 5 logits"),
        ({"classes": "imagenets"}, "no list of classes called 'imagenets'; did you mean imagenet"),
        ({"classes": 5}, "classes are names, as in ['cat', 'dog'], one for each logit, not 5"),
        ({"classes": {"cat": 0, "dog": 1}}, "must have the indices 0 to 1 as their keys, not 'cat', 'dog'"),
        ({"layer": "block3"}, "no layer called 'block3'; did you mean block"),
        ({"call": {}}, "does not give logits for an image"),
        ({"preprocessing": 224}, "preprocessing must be a jaxcam.Preprocessing or a function"),
        ({"layout": "kwh"}, "layout must be"),
    ],
)
def test_mistakes_are_told_in_one_line(options, why):
    with pytest.raises(JaxcamError) as e:
        wrapped(made("linen_residual"), **options)
    assert why in str(e.value) and "\n" not in str(e.value)


def test_classes_by_their_index_are_in_its_order():
    for key in (int, str):  # text as config.json has it
        network = wrapped(made("function_tagged"), classes={key(i): NAMES[i] for i in (3, 0, 1, 4, 2)})
        assert network.classes == tuple(NAMES)


def test_a_wrapped_network_cannot_be_saved(residual, tmp_path):
    with pytest.raises(JaxcamError, match="mine: only networks of jaxcam's own families can be saved"):
        jaxcam.save_network(tmp_path / "net", residual[1])
    assert not (tmp_path / "net").exists()


def test_a_network_without_places():
    def bare(params, x):
        return x.mean((0, 1)) @ params

    def tokens(params, x):
        return cutting.tag(x.reshape(16, 48), "tokens").mean(0) @ params

    with pytest.raises(JaxcamError, match="no named layer gives a map .* `x = jaxcam.tag"):
        jaxcam.wrap(bare, jnp.ones((3, 5)), preprocessing=RULES, classes=NAMES)
    with pytest.raises(JaxcamError, match="where layers give tokens, say how they lie"):
        jaxcam.wrap(tokens, jnp.ones((48, 5)), preprocessing=RULES, classes=NAMES)


def test_a_loop_of_unknown_length_has_no_gradient_and_says_so():
    def halving(w, x):
        a = jaxcam.tag(x @ w, "map")
        return jax.lax.while_loop(lambda a: a.sum() > 1, lambda a: a / 2, a).mean((0, 1))

    pixels = jaxcam.Preprocessing(size=8, resize="squash", resize_to=8)
    network = jaxcam.wrap(halving, jnp.ones((3, 2)), preprocessing=pixels, classes=("a", "b"))
    picture = np.full((8, 8, 3), 200, np.uint8)
    with pytest.raises(JaxcamError, match="no gradient through a loop whose number of steps is found while it runs"):
        jaxcam.explain(network, picture, methods="grad_cam", targets="a")
    assert jaxcam.explain(network, picture, methods="ablation_cam", targets="a")["ablation_cam"].map.shape == (8, 8)


def test_a_modules_own_parameters_are_taken():
    guest = made("nnx_blocks")
    network = jaxcam.wrap(guest.model, preprocessing=RULES, classes=NAMES)
    x, predict = RULES(PICTURES[0]), jax.jit(network.predict)
    same(predict(network.params, x), jax.jit(guest.logits)(guest.params, x))
    doubled = network.with_params(jax.tree.map(lambda x: 2 * x, network.params))
    assert not np.allclose(jax.jit(doubled.predict)(doubled.params, x), predict(network.params, x))
    same_again = dataclasses.replace(network, multi_label=True)
    (explanation,) = jaxcam.explain(same_again, PICTURES[0], methods=["grad_cam"])
    np.testing.assert_allclose(explanation.probabilities, 1 / (1 + np.exp(-explanation.logits)), rtol=1e-5)


@pytest.mark.slow
def test_squeezenet_with_its_real_weights(data_dir):
    file = data_dir / "squeezenet_v1.0_decoded.npz"
    if not file.is_file():
        pytest.skip("no SqueezeNet in the test data")
    params = squeezenet.load(file)
    rules = jaxcam.Preprocessing(
        size=squeezenet.SIZE, resize="squash", resize_to=squeezenet.SIZE, scale=1.0, channels="BGR",
        mean=squeezenet.MEAN_BGR, std=(1.0, 1.0, 1.0),
    )  # fmt: skip

    def own(picture: Image.Image):
        return squeezenet.preprocess(np.asarray(picture.resize((squeezenet.SIZE,) * 2, Image.Resampling.BILINEAR)))

    explanations = []
    for preprocessing in (rules, own):
        network = jaxcam.wrap(
            squeezenet.squeezenet, params, preprocessing=preprocessing, classes="imagenet", layer="fire9"
        )
        assert network.layers[0] == "conv1" and network.name == "squeezenet"
        explanations += jaxcam.explain(network, EXAMPLE, methods=["lift_cam"], targets=["golf ball", "parachute"])
    mine, other = explanations
    assert mine.classes[mine.logits.argmax()] in ("golf ball", "parachute")
    features, head = cutting.split(
        squeezenet.squeezenet, params, at="fire9", example=jax.ShapeDtypeStruct((227, 227, 3), jnp.float32)
    )
    with Image.open(EXAMPLE) as photo:
        activations = jax.jit(features)(params, own(photo.convert("RGB")))
    lift_cam = jax.jit(lambda p, a, t: jaxcam.lift_cam(p, a, head=head, target=t))
    for result, again in zip(mine.results, other.results, strict=True):
        cam = lift_cam(params, activations, result.target)
        scale = float(np.abs(cam.coefficients).max())
        same(result.coefficients, cam.coefficients, scale)
        same(again.coefficients, result.coefficients, scale)
        assert abs(result.completeness_gap) < 1e-4 * abs(result.logit)


#: An own network imports the library of its layers when it is called; what another process has imported is none of its.
LATE = """
import sys
import jax, jax.numpy as jnp
import jaxcam

base = jaxcam.load("vgg16_slim")
stem, _ = base.split(at="conv1_2")
params = {"stem": base.params, "w": jnp.ones((16, 3))}
rules = dict(preprocessing=base.preprocessing, classes=["a", "b", "c"], batched=True)

def whole(params, x):
    a = stem(params["stem"], x[0])
    return jnp.tanh(a.reshape(1, -1, a.shape[-1]) @ params["w"]).mean(1)

assert "flax.nnx" not in sys.modules, "a network that is loaded has imported it: this test shows nothing"
first = jaxcam.wrap(whole, params, **rules)
jax.eval_shape(jax.jit(lambda p, x: stem(p, x)), base.params, jnp.zeros(base.preprocessing.shape))
again = jaxcam.wrap(whole, params, **rules)
assert first.layers == ("Conv#1", "Conv.relu#1", "Conv#2", "Conv.relu#2") == again.layers
assert first.digest() == again.digest()
"""


def test_layers_and_digest_do_not_depend_on_what_the_process_has_imported_or_traced():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
