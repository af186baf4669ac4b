"""A function in place of `Preprocessing`: what is accepted, where the map comes to lie, and what is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from evaluations import pictures
from networks import CLASSES, picture
from PIL import Image, ImageOps
from wrapped import NAMES, RULES, made, same, wrapped

import jaxcam
from jaxcam.data.preprocessing import own_preprocessing
from jaxcam.data.samples import boxes_to_input
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.evaluate.gallery import _preprocessing


def normal(photo: Image.Image) -> np.ndarray:
    return np.asarray(RULES.normalize(np.asarray(photo)))


def squashed(photo):
    return normal(photo.resize((16, 16), Image.Resampling.BILINEAR))


def nearest(photo):
    return np.asarray(photo.resize((50, 30), Image.Resampling.NEAREST)) / 127.5 - 1


def standardised(photo):
    x = jnp.asarray(photo.resize((24, 24), Image.Resampling.BICUBIC), jnp.float32)
    return (x - x.mean()) / x.std()


def cropped(photo):
    return normal(ImageOps.fit(photo, (16, 16), Image.Resampling.BILINEAR))


def letterboxed(photo):
    return normal(ImageOps.pad(photo, (16, 16), Image.Resampling.BILINEAR))


def mirrored(photo):
    return normal(ImageOps.mirror(photo).resize((16, 16)))


class Middle:
    """Keeps the middle half of a picture in both directions."""

    def __call__(self, photo):
        return normal(photo.resize((16, 16), Image.Resampling.BILINEAR, box=self.region(*photo.size)))

    def region(self, w, h):
        return w / 4, h / 4, 3 * w / 4, 3 * h / 4


@pytest.mark.parametrize("function", [squashed, nearest, standardised])
def test_a_function_that_uses_the_whole_picture_is_taken(function):
    own = own_preprocessing(function)
    assert own.region(70, 40) == (0, 0, 70, 40) and not own.places_boxes
    x = own(picture(40, 70))
    assert x.shape == own.shape and x.dtype == np.float32
    np.testing.assert_array_equal(x, np.asarray(function(Image.fromarray(picture(40, 70))), np.float32))
    assert own.fields() == own_preprocessing(function).fields()
    assert own.fields()["function"].endswith(function.__name__) and own.fields()["whole_picture"]
    seen = _preprocessing(own.fields()).pixels(picture(40, 70))
    assert seen.shape == (max(own.shape[:2]),) * 2 + (3,)


@pytest.mark.parametrize("function", [cropped, letterboxed, mirrored])
def test_a_function_that_moves_the_picture_must_say_where(function):
    with pytest.raises(JaxcamError, match=f"{function.__name__} crops or moves the picture and does not say where"):
        wrapped(made("function_tagged"), preprocessing=function)


def test_a_function_with_a_region_says_where_map_and_boxes_lie():
    network = wrapped(made("function_tagged"), preprocessing=Middle())
    (explanation,) = jaxcam.explain(network, picture(40, 80), methods=["grad_cam"], targets=5)
    shown = [r for r in explanation.results if r.empty is None]
    assert shown and all(r.region == (20, 10, 60, 30) for r in shown)
    for r in shown:
        assert not r.heatmap[:, :20].any() and not r.heatmap[30:].any() and r.heatmap.max() == 1
    own = network.preprocessing
    assert own.places_boxes and _preprocessing(own.fields()) is None
    np.testing.assert_allclose(boxes_to_input(np.asarray([[30.0, 10, 60, 20]]), (80, 40), own), [[4, 0, 16, 8]])


def test_a_function_and_the_rules_it_is_equal_to_explain_alike():
    guest = made("function_tagged")
    ours, theirs = (
        jaxcam.explain(wrapped(guest, preprocessing=p), picture(40, 70), methods=["lift_cam"], targets=2)[0]
        for p in (squashed, RULES)
    )
    for a, b in zip(ours.results, theirs.results, strict=True):
        same(a.coefficients, b.coefficients)
        np.testing.assert_array_equal(a.heatmap, b.heatmap)


def _raises(photo):
    raise KeyError("mean")


def _chooses(photo):
    return squashed(photo)[: 16 if photo.width < 1000 else 8]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda photo: normal(photo.resize((16, 16))).transpose(2, 0, 1), "gives shape (3, 16, 16), not (H, W, C)"),
        (lambda photo: normal(photo.resize((16, 16)))[None], "gives shape (1, 16, 16, 3), not (H, W, C)"),
        (lambda photo: "pixels", "not numbers"),
        (_raises, "_raises raises KeyError: 'mean'"),
    ],
)
def test_mistakes(function, why):
    with pytest.raises(JaxcamError) as e:
        own_preprocessing(function)
    assert why in str(e.value) and "\n" not in str(e.value)


def test_another_shape_for_another_picture():
    own = own_preprocessing(_chooses)
    with pytest.raises(JaxcamError, match=r"shape \(8, 16, 3\) for a picture of 1200 x 20 pixels and \(16, 16, 3\)"):
        own(picture(20, 1200))
    squashed_region = lambda photo: squashed(photo)  # noqa: E731
    squashed_region.region = lambda w, h: (0, 0)
    with pytest.raises(JaxcamError, match="gives no .x0, y0, x1, y1.: ValueError"):
        own_preprocessing(squashed_region).region(4, 4)


def test_a_run_without_boxes_and_what_it_cannot_have(tmp_path, monkeypatch):
    data = pictures(tmp_path / "set", each=1, broken=False)
    rows = [f"{c}/0.png,{c},0,0,20,20" for c in CLASSES]
    (data / "boxes.csv").write_text("\n".join(["image,wnid,x0,y0,x1,y1", *rows]) + "\n")
    network = wrapped(made("function_tagged"), preprocessing=squashed, name="mine")
    options = {"methods": ["grad_cam"], "batch_size": 4, "steps": 2}
    for change, why in [
        ({"metrics": ["pointing"]}, "pointing needs boxes in the network's input"),
        ({"metrics": ["ic"], "baseline": "zero"}, "the baseline zero is made before normalisation"),
    ]:
        with pytest.raises(JaxcamError, match=why) as e:
            evaluate(network, data, out=tmp_path / "run", **options, **change)
        assert "mine" in str(e.value) and "\n" not in str(e.value)
    some = ["ic", "insertion", "road", "gini", "gap"]
    for name in set(jaxcam.METRICS) - {*some, "pointing"}:
        monkeypatch.delitem(jaxcam.METRICS, name)
    run = evaluate(network, data, metrics="all", out=tmp_path / "run", **options)
    assert run.complete and set(run.metrics) == set(some)
    assert run.manifest["settings"]["model"]["preprocessing"]["function"].endswith("squashed")
    expected = evaluate(
        wrapped(made("function_tagged"), name="mine"), data, metrics=some, out=tmp_path / "other", **options
    )
    for name in some:
        np.testing.assert_allclose(run.columns[name], expected.columns[name], rtol=1e-5, atol=1e-5)
    other = wrapped(made("function_tagged"), preprocessing=lambda photo: 2 * squashed(photo), name="mine")
    with pytest.raises(JaxcamError, match="model.preprocessing"):
        evaluate(other, data, metrics="all", out=tmp_path / "run", **options)
    assert tuple(run.manifest["settings"]["model"]["classes"]) == NAMES
