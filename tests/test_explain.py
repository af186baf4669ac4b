"""`explain`: batches, targets, where the maps lie, what is compiled, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import CLASSES, RESNET, VGG, network, picture
from PIL import Image

import jaxcam
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.methods.maps import place_map, resize_map, scale_map
from jaxcam.methods.registry import METHODS, Method

PICTURES = [picture(40, 70, 1), picture(90, 50, 2), picture(64, 64, 3)]
COMPLETE = [m for m, info in METHODS.items() if info.complete]


@pytest.fixture(scope="module")
def vgg():
    return network(VGG)


@pytest.fixture(scope="module")
def explained(vgg):
    return jaxcam.explain(vgg, PICTURES, methods=["lift_cam", "grad_cam"], targets=2, batch_size=2)


def test_one_explanation_per_picture_and_one_result_per_class_and_method(explained):
    assert [e.source for e in explained] == ["image 0", "image 1", "image 2"]
    for explanation, pixels in zip(explained, PICTURES, strict=True):
        np.testing.assert_array_equal(np.asarray(explanation.image), pixels)
        top = np.argsort(-explanation.logits)[:2].tolist()
        assert [(r.target, r.method) for r in explanation.results] == [
            (t, m) for t in top for m in ("lift_cam", "grad_cam")
        ]
        for r in explanation.results:
            assert r.class_name == CLASSES[r.target]
            assert r.seconds > 0


def test_results_are_those_of_the_functions(vgg, explained):
    features, head = (jax.jit(part) for part in vgg.split())
    for explanation, pixels in zip(explained, PICTURES, strict=True):
        activations = features(vgg.params, vgg.preprocess(pixels))
        logits = head(vgg.params, activations)
        np.testing.assert_allclose(explanation.logits, logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(explanation.probabilities, jax.nn.softmax(logits), rtol=1e-4)
        for r in explanation.results:
            assert r.logit == explanation.logits[r.target]
            assert r.probability == explanation.probabilities[r.target]
    lift_cam = jax.jit(lambda p, a: jaxcam.lift_cam(p, a, head=head, target=r.target))
    reference = lift_cam(vgg.params, activations)
    result = explanation["lift_cam", r.target]
    np.testing.assert_allclose(result.coefficients, reference.coefficients, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.map, reference.map, rtol=1e-3, atol=1e-5)


def test_a_batch_of_mixed_sizes_equals_one_by_one(vgg, explained):
    for pixels, batched in zip(PICTURES, explained, strict=True):
        (alone,) = jaxcam.explain(vgg, pixels, methods=["lift_cam", "grad_cam"], targets=2)
        for a, b in zip(alone.results, batched.results, strict=True):
            assert (a.target, a.method, a.size, a.region) == (b.target, b.method, b.size, b.region)
            np.testing.assert_allclose(a.coefficients, b.coefficients, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(a.heatmap, b.heatmap, atol=1e-3)


def test_completeness_gap_is_sum_of_coefficients_minus_the_drop(vgg):
    methods = ["lift_cam", "deep_shap_cam", "grad_cam"]
    (explanation,) = jaxcam.explain(vgg, PICTURES[0], methods=methods, targets=["church"])
    _, head = vgg.split()
    at_zero = np.asarray(jax.jit(head)(vgg.params, jnp.zeros(vgg.layer_shape(explanation.layer))))
    for r in explanation.results:
        drop = r.logit - at_zero[r.target]
        if r.method in COMPLETE:
            assert abs(r.completeness_gap) <= 1e-4 * max(1, abs(drop))
        if METHODS[r.method].complete != "references":
            assert r.completeness_gap == pytest.approx(r.coefficients.sum() - drop, abs=1e-5)
    assert abs(explanation["grad_cam", "church"].completeness_gap) > 1e-2


def test_deep_shap_takes_pictures_as_references(vgg):
    mine, default = (
        jaxcam.explain(vgg, PICTURES[0], methods=["deep_shap_cam"], references=references)[0].results[0]
        for references in (PICTURES[1:], None)
    )
    features, head = vgg.split()

    @jax.jit
    def deep_shap_cam(params, x, others):
        a, references = features(params, x), features(params, others)
        return jaxcam.deep_shap_cam(params, a, head=head, target=mine.target, references=references)

    x, *others = (vgg.preprocess(p) for p in PICTURES)
    expected = deep_shap_cam(vgg.params, x, np.stack(others))
    np.testing.assert_allclose(mine.coefficients, expected.coefficients, rtol=1e-3, atol=1e-5)
    assert not np.allclose(mine.coefficients, default.coefficients, rtol=1e-2)


def test_heatmap_covers_a_squashed_picture_at_its_own_size(explained):
    for explanation in explained:
        size = (explanation.image.height, explanation.image.width)
        for r in explanation.results:
            expected = scale_map(resize_map(jnp.asarray(r.map), size))
            assert r.heatmap.shape == size and r.heatmap.dtype == np.float32
            np.testing.assert_allclose(r.heatmap, expected, atol=1e-5)
            if r.empty is None:
                assert (r.heatmap.min(), r.heatmap.max()) == (0, 1)


def test_heatmap_lies_where_the_crop_was(vgg):
    cropping = dataclasses.replace(vgg, preprocessing=Preprocessing(size=64, resize="shorter", resize_to=64))
    (explanation,) = jaxcam.explain(cropping, picture(50, 100), methods=["lift_cam", "grad_cam"], targets=2)
    shown = [r for r in explanation.results if r.empty is None]
    assert shown
    for r in shown:
        assert r.region == (25, 0, 75, 50)
        assert not r.heatmap[:, :25].any() and not r.heatmap[:, 75:].any()
        expected = scale_map(resize_map(jnp.asarray(r.map), (50, 50)))
        np.testing.assert_allclose(r.heatmap[:, 25:75], expected, atol=1e-5)


def test_place_map_where_nothing_can_be_shown():
    assert not place_map(np.ones((2, 2)), (0, 0, 5, 4), (4, 5)).any()
    assert not place_map(np.eye(2), (0.6, 0.6, 1.4, 1.4), (2, 2)).any()  # between the centres of the pixels


def test_neither_another_class_nor_another_picture_compiles_again(vgg, monkeypatch):
    traces = []

    def counted(params, activations, *, head, target):
        traces.append(target)
        return METHODS["grad_cam"].function(params, activations, head=head, target=target)

    monkeypatch.setitem(METHODS, "counted", Method(counted, "Counted"))
    for pictures, targets in [
        (PICTURES, 1), (PICTURES, ["tench"]), (PICTURES[:2] + PICTURES, [0]), (PICTURES[::-1], [[3], [1], [2]]),
    ]:  # fmt: skip
        jaxcam.explain(vgg, pictures, methods=["counted"], targets=targets, batch_size=3)
    assert len(traces) == 1


def test_targets(vgg):
    def found(targets, images=PICTURES[:2]):
        explanations = jaxcam.explain(vgg, images, methods=["grad_cam"], targets=targets, batch_size=2)
        return [[r.target for r in e.results] for e in explanations]

    assert found(["Tench", 0, "2"]) == [[2, 0], [2, 0]]
    assert found([["church", 1], [2]]) == [[3, 1], [2]]
    assert found("church") == [[3], [3]]
    assert [sorted(t) for t in found(99)] == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"targets": ["golfball"]}, "no class called 'golfball'; did you mean golf ball"),
        ({"targets": ["golf"]}, "no class called 'golf'; did you mean golf ball?"),
        ({"targets": 0}, "at least 1"),
        ({"targets": []}, "no target"),
        ({"targets": [[0], []]}, "picture 1 has no target"),
        ({"targets": [[0]]}, "1 lists of targets"),
        ({"methods": ["lift_cat"]}, "no method called 'lift_cat'; did you mean lift_cam"),
        ({"layer": "conv5_9"}, "no layer called 'conv5_9'; did you mean conv5"),
        ({"layer": 0}, "no layer called '0'"),
        ({"layer": ["conv5_3", 3]}, "no layer called '3'"),
        ({"targets": [True]}, "no class called 'True'"),
        ({"targets": b"tench"}, "no class called"),
        ({"batch_size": 0}, "batch size"),
        ({"methods": ["cam"]}, "CAM is defined for a global average pool"),
    ],
)
def test_mistakes_are_told_in_one_line(vgg, options, why):
    options = {"methods": ["grad_cam"], "batch_size": 2} | options
    with pytest.raises(jaxcam.JaxcamError) as e:
        jaxcam.explain(vgg, PICTURES[:2], **options)
    assert why in str(e.value) and "\n" not in str(e.value)


def test_all_methods_leave_out_those_that_are_not_defined_for_the_head(vgg, monkeypatch):
    """All of them together, on a head that they are defined for, run in test_overlays.py."""
    few = ("lift_cam", "eigen_cam", "cam", "smooth_grad")
    for name in set(METHODS) - set(few):
        monkeypatch.delitem(METHODS, name)
    (explanation,) = jaxcam.explain(vgg, PICTURES[0], methods=["all", "smooth_grad:num_samples=2"])
    # What other tests took out and put back is last in the registry.
    assert sorted(r.method for r in explanation.results) == ["eigen_cam", "lift_cam", "smooth_grad:num_samples=2"]


def test_cam_on_a_pooled_linear_head_is_grad_cam_up_to_scale():
    (explanation,) = jaxcam.explain(network(RESNET), PICTURES[0], methods=["cam", "grad_cam"])
    cam, grad_cam = explanation.results
    np.testing.assert_allclose(cam.coefficients, 4 * grad_cam.coefficients, rtol=1e-4)  # 2 x 2 positions
    np.testing.assert_allclose(cam.heatmap, grad_cam.heatmap, atol=1e-4)


def test_another_layer(vgg):
    (explanation,) = jaxcam.explain(vgg, PICTURES[0], methods=["grad_cam"], layer="pool3")
    assert explanation.layer == "pool3"
    assert explanation.results[0].map.shape == vgg.layer_shape("pool3")[:2] == (8, 8)


def test_multi_label_probabilities_are_sigmoids(vgg):
    several = dataclasses.replace(vgg, multi_label=True)
    (explanation,) = jaxcam.explain(several, PICTURES[0], methods=["grad_cam"])
    np.testing.assert_allclose(explanation.probabilities, 1 / (1 + np.exp(-explanation.logits)), rtol=1e-5)


def test_nan_is_an_error_that_names_its_source(vgg):
    params = jax.tree.map(lambda x: x, vgg.params)
    params["fc7"] = params["fc7"] | {"bias": params["fc7"]["bias"].at[0].set(jnp.nan)}
    broken = dataclasses.replace(vgg, params=params)
    with pytest.raises(jaxcam.JaxcamError, match="tiny: the weights fc7.bias hold NaN"):
        jaxcam.explain(broken, PICTURES[0])
    params["fc7"] = params["fc7"] | {"bias": jnp.full(8, 3e38), "kernel": jnp.full((8, 8), 1e38)}
    with pytest.raises(jaxcam.JaxcamError, match="image 0: tiny gives NaN or infinite values"):
        jaxcam.explain(dataclasses.replace(vgg, params=params), PICTURES[0])


def test_an_empty_map_says_why(vgg):
    params = jax.tree.map(lambda x: x, vgg.params)
    params["conv5_2"] = jax.tree.map(lambda x: -jnp.abs(x), params["conv5_2"])  # after a ReLU: nothing but zeros
    (explanation,) = jaxcam.explain(dataclasses.replace(vgg, params=params), PICTURES[0])
    (result,) = explanation.results
    assert result.empty == "dead layer: every activation is zero"
    assert not result.heatmap.any()


def test_saved_arrays_are_those_of_the_explanation(tmp_path, explained):
    explained[0].save(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as saved:
        results = explained[0].results
        np.testing.assert_array_equal(saved["coefficients"], [r.coefficients for r in results])
        np.testing.assert_array_equal(saved["maps"], [r.map for r in results])
        np.testing.assert_allclose(saved["heatmaps"], [r.heatmap for r in results], atol=1e-3)
        assert saved["methods"].tolist() == [r.method for r in results]
        assert saved["targets"].tolist() == [r.target for r in results]
        assert saved["class_names"].tolist() == [r.class_name for r in results]
        assert saved["region"].tolist() == [0, 0, 70, 40]
        assert saved["classes"].tolist() == list(CLASSES)
        np.testing.assert_array_equal(saved["all_logits"], explained[0].logits)
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]


def test_to_dict_is_plain_json(explained):
    text = json.dumps(explained[0].to_dict(), allow_nan=False)
    back = json.loads(text)
    assert (back["width"], back["height"], back["map_size"]) == (70, 40, [4, 4])
    for stored, r in zip(back["results"], explained[0].results, strict=True):
        assert stored["coefficients"] == pytest.approx(r.coefficients.tolist())
        assert (stored["class_name"], stored["method"]) == (r.class_name, r.method)


def test_figure_has_a_row_per_class_and_a_column_per_method(tmp_path, explained):
    figure = jaxcam.plot(explained[0], tmp_path / "e.png")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(figure.axes) == 2 * 3 + 1  # and the colour bar
    first = explained[0].results[0]
    assert titles[0] == f"{first.class_name}, {100 * first.probability:.1f} %"
    assert titles[1].startswith("LIFT-CAM") and titles[2].startswith("Grad-CAM")
    with Image.open(tmp_path / "e.png") as image:
        assert image.width > image.height > 300


def test_a_class_name_is_not_taken_for_mathematics(tmp_path, vgg):
    odd = dataclasses.replace(vgg, classes=(r"$\frac{", "b" * 300, "[red]", "d"))
    (explanation,) = jaxcam.explain(odd, PICTURES[0], methods=["grad_cam"], targets=4)
    jaxcam.plot(explanation, tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 1000


def test_a_bfloat16_network_is_saved_as_float32(tmp_path):
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.normal(size=s), jnp.bfloat16) for k, s in {"w": (3, 6), "out": (6, 3)}.items()}

    def net(p, x):
        return jaxcam.tag(jax.nn.relu(x.astype(jnp.bfloat16) @ p["w"]), "map").mean((0, 1)) @ p["out"]

    rules = jaxcam.Preprocessing(size=16, resize="squash")
    network = jaxcam.wrap(net, params, preprocessing=rules, classes=list("abc"))
    [found] = jaxcam.explain(network, rng.integers(0, 255, (16, 16, 3), np.uint8), methods=["grad_cam"])
    found.save(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as stored:
        for name in ("all_logits", "coefficients", "maps"):
            assert stored[name].dtype == np.float32 and np.isfinite(stored[name]).all()
        np.testing.assert_array_equal(stored["all_logits"], np.asarray(found.logits, np.float32))


def test_methods_are_asked_for_by_name(vgg):
    with pytest.raises(jaxcam.JaxcamError, match="asked for by its name, as in 'grad_cam', not by 'lift_cam'"):
        jaxcam.explain(vgg, PICTURES[0], methods=[jaxcam.lift_cam])


def test_a_name_of_several_classes_is_asked_for_by_number(vgg):
    twice = dataclasses.replace(vgg, classes=("crane", "tench", "crane", "Crane"))
    numbered = dataclasses.replace(twice, classes=("2", "1", "-1", "3"))
    assert [numbered.class_index(c) for c in ("2", "1", "-1", "3")] == [0, 1, 2, 3]
    assert [numbered.class_index(kind(c)) for c in range(4) for kind in (int, np.int64, np.array)] == [
        c for c in range(4) for _ in range(3)
    ]
    for wrong in (True, np.False_, 1.0, b"2", None, -1, 4):
        with pytest.raises(jaxcam.JaxcamError, match="^no class called|^there is no class"):
            numbered.class_index(wrong)
    assert twice.class_index("Crane") == 3 and twice.class_index(2) == 2 and twice.class_index("TENCH") == 1
    with pytest.raises(jaxcam.JaxcamError, match="2 classes called 'crane'; say which by number: 0 and 2"):
        twice.class_index("crane")
