"""Pictures of maps: overlays at the photo's size, boxes, scales and signs, figures in every format, notebooks."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from networks import CHEAP, CLASSES, VGG, network, of_each_kind, picture
from PIL import Image

import jaxcam
from jaxcam.explanation import result as result_module
from jaxcam.explanation.overlays import box_of, heatmap_picture
from jaxcam.methods.registry import METHODS, request

PHOTO = picture(40, 70, 1)
GREY = np.repeat(np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None], 3, -1)


@pytest.fixture(scope="module")
def explained():
    [found] = jaxcam.explain(network(VGG), PHOTO, methods=["lift_cam", "grad_cam"], targets=2)
    return found


def one(explained, method="lift_cam"):
    """The explanation of the first class by one method."""
    results = tuple(r for r in explained.results if r.method == method)[:1]
    return dataclasses.replace(explained, results=results)


def test_an_overlay_mixes_the_grey_photo_with_the_colours_of_the_map():
    heat = np.zeros((40, 70), np.float32)
    heat[10:20, 30:50] = 1
    shown = np.asarray(jaxcam.overlay(PHOTO, heat, cmap="viridis", alpha=0.5), np.float64)
    assert shown.shape == PHOTO.shape
    table = matplotlib.colormaps["viridis"]
    for inside, strength in ((heat > 0, 0.5), (heat == 0, 0.2)):
        want = (1 - strength) * GREY[inside] + strength * 255 * np.asarray(table(float(inside[15, 40]))[:3])
        np.testing.assert_allclose(shown[inside], want, atol=0.51)
    np.testing.assert_array_equal(jaxcam.overlay(PHOTO, heat, alpha=0), GREY)
    np.testing.assert_array_equal(jaxcam.overlay(PHOTO, None), GREY)


def test_a_small_map_is_stretched_over_the_photo_of_any_form(tmp_path):
    heat = np.array([[0.0, 1.0]], np.float32)
    made = jaxcam.overlay(PHOTO, heat)
    assert made.size == (70, 40) and made.mode == "RGB"
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    for given in (tmp_path / "photo.png", Image.fromarray(PHOTO), PHOTO.astype(np.float64) / 255):
        np.testing.assert_array_equal(jaxcam.overlay(given, jnp.asarray(heat)), made)
    row = np.asarray(jaxcam.overlay(np.zeros_like(PHOTO), heat, cmap="gray", alpha=1.0))[20, :, 0]
    assert (np.diff(row.astype(int)) >= 0).all() and row[0] == 0 and row[-1] == 255


def test_what_speaks_against_is_blue_and_nothing_is_the_photo():
    heat = np.zeros((40, 70), np.float32)
    heat[:, :10], heat[:, 60:] = -1, 1
    shown = np.asarray(jaxcam.overlay(np.full_like(PHOTO, 128), heat)).astype(int)
    assert (shown[:, :10, 2] > shown[:, :10, 0] + 40).all() and (shown[:, 60:, 0] > shown[:, 60:, 2] + 40).all()
    assert (shown[:, 10:60] == 128).all()


def test_a_signed_map_without_anything_against_is_red():
    heat = np.full((40, 70), 0.5, np.float32)
    shown = np.asarray(jaxcam.overlay(PHOTO, heat, signed=True)).astype(int)
    assert (shown[..., 0] > shown[..., 2]).all()
    red = np.asarray(heatmap_picture(heat, signed=True))
    np.testing.assert_allclose(red[0, 0], 255 * np.asarray(matplotlib.colormaps["RdBu_r"](0.75)[:3]), atol=0.51)


def test_the_figure_of_a_signed_map_is_red_where_it_speaks_for_the_class(explained):
    [result] = one(explained).results
    for_it = dataclasses.replace(result, map=np.eye(4), signed_map=np.eye(4), empty=None)
    axes = Figure().add_subplot()
    jaxcam.plot(dataclasses.replace(explained, results=(for_it,)), ax=axes, signed=True)
    shown = np.asarray(axes.get_images()[0].get_array()).astype(int)
    assert (shown[..., 0] >= shown[..., 2]).all() and (shown[..., 0] > shown[..., 2] + 60).any()


@pytest.mark.parametrize(
    ("heat", "options", "why"),
    [
        (np.ones((2, 2, 3)), {}, r"must be \(h, w\)"),
        (np.full((2, 2), np.nan), {}, "NaN"),
        (np.full((2, 2), 3.0), {}, "scale_map"),
        (object(), {}, r"array \(h, w\) or one result, explanation\[method\], and no object"),
        (np.eye(2), {"alpha": 1.5}, "opacity"),
        (np.eye(2), {"cmap": "infermo"}, "did you mean inferno"),
    ],
)
def test_mistakes_are_one_line(heat, options, why):
    with pytest.raises(jaxcam.JaxcamError, match=why) as caught:
        jaxcam.overlay(PHOTO, heat, **options)
    assert "\n" not in str(caught.value)


def test_the_box_is_around_the_largest_connected_part():
    heat = np.zeros((8, 10))
    heat[1:3, 1:3] = 1.0  # the hottest
    heat[4:7, 4:9] = 0.5  # the largest
    heat[7, 9] = 0.5  # touches it at a corner only
    assert box_of(heat) == (4, 4, 9, 7)
    assert box_of(heat, 0.6) == (1, 1, 3, 3)
    assert box_of(0 * heat) is None
    heat[0, 0] = 0.05
    assert box_of(heat, 0.04) == (4, 4, 9, 7)
    with pytest.raises(jaxcam.JaxcamError, match="share of the maximum"):
        box_of(heat, 0)


def test_a_box_is_in_pixels_of_the_photo(explained):
    result = explained["lift_cam", explained.results[0].target]
    x0, y0, x1, y1 = result.box(0.5)
    assert 0 <= x0 < x1 <= 70 and 0 <= y0 < y1 <= 40
    row, column = np.unravel_index(result.heatmap.argmax(), result.heatmap.shape)
    assert (x0, y0, x1, y1) == box_of(result.heatmap, 0.5)
    whole = result.box(1.0)
    assert whole[0] <= column < whole[2] and whole[1] <= row < whole[3]


def small(*, hidden: bool):
    """A convolution and a head, linear or not: what is asked of every method is compiled for every method."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 3, 6), "hidden": (6, 6), "out": (6, 4)}
    params = {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}

    def run(params, x):
        x = jax.lax.conv_general_dilated(x, params["conv"], (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jaxcam.tag(jax.nn.relu(x), "map").mean((1, 2))
        return (jax.nn.relu(x @ params["hidden"] + 0.1) if hidden else x) @ params["out"]

    rules = jaxcam.Preprocessing(size=16, resize="squash", resize_to=16)
    return jaxcam.wrap(run, params, preprocessing=rules, classes=CLASSES)


@pytest.mark.parametrize("hidden", [True, False], ids=["layers", "linear"])
def test_the_signed_map_is_the_map_before_its_relu(hidden):
    """Of each kind of method; `test_battery.py` asks it of all, without pictures."""
    asked = {c.partition(":")[0]: c for c in CHEAP}
    kinds = of_each_kind(m for m, info in METHODS.items() if not (hidden and (info.heads or info.steps)))
    net, methods = small(hidden=hidden), [asked.get(m, m) for m in kinds]
    [found] = jaxcam.explain(net, PHOTO, methods=methods, targets=1)
    assert [r.method for r in found.results] == [request(m).label for m in methods]
    features, _ = net.split()
    a = np.asarray(features(net.params, net.preprocess(PHOTO)), np.float64)
    for r in found.results:
        np.testing.assert_array_equal(np.maximum(r.signed_map, 0), r.map)
        info = METHODS[r.method.partition(":")[0]]
        if info.map_from == "channels":
            want = a @ r.coefficients.astype(np.float64)
            np.testing.assert_allclose(r.signed_map, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
        elif info.complete == "zero":
            assert r.signed_map.sum() == pytest.approx(r.coefficients.sum(), rel=1e-3)
        heat = r.signed_heatmap
        assert heat.shape == (40, 70) and heat.min() >= -1 and heat.max() <= 1


def test_one_scale_for_the_maps_of_a_method(explained):
    maps = [r.map for r in explained.results if r.method == "lift_cam"]
    most = float(max(m.max() for m in maps))
    for r in (r for r in explained.results if r.method == "lift_cam"):
        own, shared = r.heatmap, r.heatmap_at((40, 70), most=most)
        assert shared.max() == pytest.approx(r.map.max() / most, rel=0.2)  # resizing rounds peaks off
        assert own.max() == pytest.approx(1, abs=1e-6) or r.empty
    assert not np.allclose(*(r.heatmap_at((40, 70), most=most) for r in explained.results if r.method == "lift_cam"))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "svg", "pdf"])
def test_the_ending_is_the_format(explained, tmp_path, ending):
    jaxcam.plot(one(explained), tmp_path / f"figure.{ending}", scale="shared", signed=True, box=0.5)
    data = (tmp_path / f"figure.{ending}").read_bytes()
    begins = {"png": b"\x89PNG", "jpg": b"\xff\xd8", "webp": b"RIFF", "svg": b"<?xml", "pdf": b"%PDF"}
    assert data.startswith(begins[ending]) and [p.name for p in tmp_path.iterdir()] == [f"figure.{ending}"]


def test_figures_wrap_and_name_what_they_show(explained):
    many = dataclasses.replace(explained, source="/somewhere/my photo.jpg", results=one(explained).results * 9)
    figure = jaxcam.plot(many)
    pictures = [axes for axes in figure.axes if axes.get_images()]
    assert len(pictures) == 10  # the photo once
    assert len({round(axes.get_position().x0, 3) for axes in pictures}) == 4
    text = " ".join(t.get_text() for t in figure.texts)
    assert "my photo.jpg" in text and "/somewhere" not in text and "tiny" in text and explained.layer in text
    assert "least to its greatest" in figure.axes[-1].get_ylabel().replace("\n", " ")


def test_many_classes_are_drawn_in_part_and_that_is_said(explained):
    results = [dataclasses.replace(r, target=i, class_name=f"class {i}")
               for i in range(30) for r in one(explained).results]  # fmt: skip
    figure = jaxcam.plot(dataclasses.replace(explained, results=tuple(results)))
    assert "10 further classes" in " ".join(t.get_text() for t in figure.texts)


def test_the_reason_of_an_empty_map_stands_on_it_in_full(explained):
    why = "no evidence for the class: negative contributions outweigh positive ones at every position"
    [result] = one(explained).results
    empty = dataclasses.replace(result, map=0 * result.map, empty=why)
    figure = jaxcam.plot(dataclasses.replace(explained, results=(empty,)))
    told = [t.get_text().replace("\n", " ") for axes in figure.axes for t in axes.texts]
    assert told == [f"empty: {why}"]


def test_axes_of_ones_own(explained):
    axes = Figure().add_subplot()
    assert jaxcam.plot(one(explained), ax=axes) is axes
    assert len(axes.get_images()) == 1 and axes.get_title().startswith("LIFT-CAM: ")
    with pytest.raises(jaxcam.JaxcamError, match="one map"):
        jaxcam.plot(explained, ax=axes)
    with pytest.raises(jaxcam.JaxcamError, match=r"\.png, \.jpg"):
        jaxcam.plot(explained, "figure.gif")
    with pytest.raises(jaxcam.JaxcamError, match="no scale called 'all'"):
        jaxcam.plot(explained, scale="all")


def test_what_a_notebook_shows(explained, monkeypatch):
    class_name = explained.results[0].class_name
    assert len(repr(explained).splitlines()) == 5 and class_name in repr(explained)
    shown = explained._repr_html_()
    assert shown.count("<tr>") == 5
    (first, p), (second, q) = explained.top(2)
    assert p >= q and f"tiny sees {first} (" in shown and f"which sees {first} (" in repr(explained)
    assert [first, second] == [r.class_name for r in explained.results][::2]
    embedded = base64.b64decode(re.search('data:image/webp;base64,([^"]*)', shown)[1])
    with (
        Image.open(io.BytesIO(jaxcam.plot(explained)._repr_png_())) as figure,
        Image.open(io.BytesIO(embedded)) as page,
    ):
        assert figure.width > 600 and page.size == figure.size
    monkeypatch.setattr(result_module, "_SHOWN", 2)  # of twenty
    several = jaxcam.Explanations([explained] * 25)
    assert repr(several[:2]) == f"{explained!r}\n{explained!r}" and several[1] is explained
    assert several._repr_html_().count("<img") == 2 and several._repr_html_().endswith("and 23 more</p>")
    result = explained.results[0]
    key = (result.method, result.class_name)
    assert jaxcam.Explanations([explained])[key] is result
    with pytest.raises(KeyError, match="25 pictures"):
        several[key]
    assert jaxcam.overlay(PHOTO, result) == jaxcam.overlay(PHOTO, result.heatmap)
    assert len(repr(result).splitlines()) == 1 and "<img" in result._repr_html_()
    odd = dataclasses.replace(result, class_name="<script>x</script>\x1b[2J")
    assert "<script>" not in odd._repr_html_() and "\x1b" not in odd._repr_html_()
    tiny = network(VGG)
    assert len(repr(tiny).splitlines()) <= 6 and "4, golf ball" in repr(tiny) and "array" not in repr(tiny)
    assert "<table>" in tiny._repr_html_()


def test_a_cam_prints_in_a_few_lines_and_under_a_trace():
    a, w = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 4, 5)), jnp.float32), jnp.ones((5, 2))
    seen = []

    @jax.jit
    def run(a):
        cam = jaxcam.grad_cam(w, a, head=lambda p, a: a.mean((0, 1)) @ p, target=1)
        seen.append((repr(cam), cam._repr_html_()))
        return cam

    cam = run(a)
    assert len(repr(cam).splitlines()) == 5 and re.search(r"map=float32\[3, 4\] in \[\d", repr(cam))
    assert "in [" not in seen[0][0] and "<pre>" in seen[0][1]
    assert "<img" in cam._repr_html_() and "<table>" in cam._repr_html_()
    with Image.open(io.BytesIO(jaxcam.plot(one_map(cam))._repr_png_())) as figure:
        assert figure.width > 100


def one_map(cam):
    """An explanation around a CAM that was computed by hand."""
    result = jaxcam.Attribution("grad_cam", 1, "b", 0.5, 1.0, np.asarray(cam.coefficients), np.asarray(cam.map), 0.0,
                                0.0, None, (0, 0, 70, 40), (40, 70))  # fmt: skip
    return jaxcam.Explanation("photo", Image.fromarray(PHOTO), "mine", "layer", ("a", "b"), np.zeros(2), np.zeros(2),
                              (result,))  # fmt: skip


def test_the_method_alone_is_a_key_where_there_is_one_class(explained):
    single = dataclasses.replace(explained, results=explained.results[:2])
    assert single["lift_cam"] is single.results[0]
    with pytest.raises(KeyError, match="2 results"):
        explained["lift_cam"]
    with pytest.raises(KeyError, match="0 results"):
        single["ablation_cam"]


def test_a_map_alone_is_its_colours():
    heat = np.linspace(0, 1, 12).reshape(3, 4)
    shown = np.asarray(heatmap_picture(heat, cmap="viridis"))
    np.testing.assert_allclose(shown, 255 * matplotlib.colormaps["viridis"](heat)[..., :3], atol=0.51)


def test_a_name_of_a_class_is_told_what_to_do():
    with pytest.raises(jaxcam.JaxcamError, match="class_index"):
        jaxcam.grad_cam(jnp.ones((2, 2)), jnp.ones((2, 2, 2)), head=lambda p, a: a.mean((0, 1)) @ p, target="cat")
