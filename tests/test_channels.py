"""Inputs of any number of channels; pictures of any mode, as arrays, files and bytes: through explain and evaluate."""

from __future__ import annotations

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxcam
from jaxcam import metrics
from jaxcam.data.images import as_it_is, to_picture
from jaxcam.data.preprocessing import own_preprocessing
from jaxcam.data.samples import Dataset
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.methods.maps import resize_map, scale_map

SIDE = 12
CLASSES = ["a", "b", "c"]
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (20, 30), np.uint8)
COLOUR = RNG.integers(0, 255, (20, 30, 3), np.uint8)
ALPHA = RNG.integers(0, 255, (20, 30), np.uint8)


@functools.cache
def network(channels: int, preprocessing=None):
    """A convolution, a ReLU, a pool and two dense layers, for inputs of so many channels."""
    rng = np.random.default_rng(channels)
    params = {"w": rng.normal(size=(3, 3, channels, 6)), "v": rng.normal(size=(6, 8)), "out": rng.normal(size=(8, 3))}

    def net(p, x):
        y = jax.lax.conv_general_dilated(x[None], p["w"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
        return jax.nn.relu(jaxcam.tag(jax.nn.relu(y), "map").mean((0, 1)) @ p["v"]) @ p["out"]

    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return jaxcam.wrap(net, params, preprocessing=preprocessing or as_mode(channels), classes=CLASSES)


@functools.cache
def as_mode(channels: int):
    """A function that decides the channels itself."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]

    def ready(picture):
        small = np.asarray(picture.convert(mode).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
        return small.reshape(SIDE, SIDE, channels) / 255 - 0.5

    return ready


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_function_decides_the_channels_and_every_form_of_a_picture_gives_the_same(channels, tmp_path):
    net = network(channels)
    assert net.preprocessing.shape == (SIDE, SIDE, channels)
    pixels = {1: GREY, 2: np.stack([GREY, ALPHA], -1), 3: COLOUR, 4: np.concatenate([COLOUR, ALPHA[..., None]], -1)}
    image = Image.fromarray(pixels[channels])
    (tmp_path / "p.png").write_bytes(encoded(image))
    forms = [image, encoded(image), bytearray(encoded(image)), tmp_path / "p.png"]
    forms += [pixels[channels]] if channels != 2 else []
    expected = as_mode(channels)(image)
    explained = [jaxcam.explain(net, form, methods=["grad_cam", "score_cam"], targets=["b"])[0] for form in forms]
    for form, explanation in zip(forms, explained, strict=True):
        np.testing.assert_array_equal(net.preprocess(form), expected)
        np.testing.assert_array_equal(explanation.results[0].map, explained[0].results[0].map)
        assert explanation.image.mode == "RGB" and explanation.image.size == (30, 20)
    features, head = net.split()

    @jax.jit
    def by_hand(params, x):
        a = features(params, x)
        scored = jaxcam.score_cam(params, a, x, predict=net.predict, target=1)
        return jaxcam.grad_cam(params, a, head=head, target=1).map, scored.map

    for result, expected_map in zip(explained[0].results, by_hand(net.params, expected), strict=True):
        np.testing.assert_allclose(result.map, expected_map, rtol=1e-4, atol=1e-6)
    figure = jaxcam.plot(explained[0], tmp_path / "figure.png")
    assert len(figure.axes) == 4 and (tmp_path / "figure.png").stat().st_size > 1000


MODES = {
    "1": Image.fromarray(GREY).convert("1"), "L": Image.fromarray(GREY), "P": Image.fromarray(COLOUR).quantize(16),
    "LA": Image.merge("LA", [Image.fromarray(x) for x in (GREY, ALPHA)]), "RGB": Image.fromarray(COLOUR),
    "RGBA": Image.fromarray(np.concatenate([COLOUR, ALPHA[..., None]], -1)),
    "CMYK": Image.fromarray(COLOUR).convert("CMYK"),
    "I;16": Image.fromarray(GREY.astype(np.uint16) * 257), "I": Image.fromarray(GREY.astype(np.int32) * 257),
    "F": Image.fromarray(GREY.astype(np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_taken_by_networks_for_grey_and_for_colour(mode):
    image = MODES[mode]
    assert image.mode == mode
    for channels in (1, 3):
        x = np.asarray(network(channels).preprocess(image))
        assert x.shape == (SIDE, SIDE, channels) and np.isfinite(x).all() and np.ptp(x) > 0
    seen = []

    def looks(picture):
        seen.append(picture.mode)
        return as_mode(1)(picture)

    own_preprocessing(looks).pixels(to_picture(image))
    assert seen[-1] == {"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    own = np.asarray(as_it_is(to_picture(image)))
    if mode in ("L", "LA", "RGB", "RGBA", "I;16", "I", "F"):
        np.testing.assert_array_equal(own, np.asarray(image))
    if mode == "1":
        np.testing.assert_array_equal(own, 255 * np.asarray(image))


def test_a_function_that_takes_one_kind_of_picture_gets_that():
    def colours_only(picture):
        return np.asarray(picture.resize((SIDE, SIDE)), np.float32).reshape(SIDE, SIDE, 3)

    def grey_only(picture):
        assert picture.mode == "L"
        return np.asarray(picture.resize((SIDE, SIDE)), np.float32)[..., None]

    colours, grey = own_preprocessing(colours_only), own_preprocessing(grey_only)
    assert (colours.mode, grey.mode) == ("RGB", "L")
    for image in MODES.values():
        shown = to_picture(image)
        np.testing.assert_array_equal(colours.pixels(shown), colours_only(shown))  # alpha is on white
        assert grey.pixels(shown).shape == (SIDE, SIDE, 1)
    np.testing.assert_array_equal(grey.pixels(to_picture(COLOUR)), grey_only(Image.fromarray(COLOUR).convert("L")))
    with pytest.raises(JaxcamError, match="raises ZeroDivisionError"):
        own_preprocessing(lambda picture: 1 / 0)


def test_arrays_of_other_channels_than_a_picture_has():
    spectral = RNG.uniform(size=(SIDE, 2 * SIDE, 5)).astype(np.float32)

    def nearest(array):
        rows, columns = (np.arange(SIDE) * n // SIDE for n in array.shape[:2])
        values = array[rows][:, columns]
        return values if values.dtype == np.float32 else values / np.float32(255)

    nearest.channels = 5
    net = network(5, nearest)
    (explanation,) = jaxcam.explain(net, [spectral], methods=["grad_cam"], targets=[0])
    np.testing.assert_array_equal(net.preprocess(spectral), spectral[:, ::2])
    np.testing.assert_array_equal(explanation.logits, net.predict(net.params, jnp.asarray(spectral[:, ::2])))
    grey = np.round(np.round(spectral * 255).mean(-1))
    assert np.abs(np.asarray(explanation.image.convert("L"), float) - grey).max() <= 1  # shown as their mean
    with pytest.raises(JaxcamError, match="5 channels is no picture for Preprocessing"):
        jaxcam.Preprocessing(size=SIDE)(to_picture(spectral))
    with pytest.raises(JaxcamError, match="AttributeError"):
        own_preprocessing(lambda array: nearest(array))  # which does not say that it is for arrays
    with pytest.raises(JaxcamError, match=r"must be \(h, w\) or \(h, w, channels\), not"):
        jaxcam.explain(net, np.zeros((2, 3, 4, 5, 6), np.uint8))


def test_declared_channels():
    grey = jaxcam.Preprocessing(size=SIDE, resize="squash", channels=1, mean=0.4, std=0.2)
    assert grey.channels == "L" and grey.shape == (SIDE, SIDE, 1) and grey.mean == (0.4,)
    for image in (Image.fromarray(GREY), Image.fromarray(COLOUR)):
        expected = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)[..., None]
        np.testing.assert_allclose(grey(to_picture(image)), (expected / 255 - 0.4) / 0.2, rtol=1e-5, atol=1e-6)
    alpha = jaxcam.Preprocessing(size=SIDE, resize="squash", channels="RGBA", mean=(0,) * 4, std=(1,) * 4)
    rgba = MODES["RGBA"].resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(alpha.pixels(to_picture(MODES["RGBA"])), np.asarray(rgba))
    assert (alpha.pixels(to_picture(COLOUR))[..., 3] == 255).all()
    on_white = jaxcam.Preprocessing(size=SIDE, resize="squash").pixels(to_picture(MODES["RGBA"]))
    plain = np.asarray(to_picture(MODES["RGBA"]).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(on_white, plain)
    with pytest.raises(JaxcamError, match="mean holds 3 numbers for inputs of 1 channel "):
        jaxcam.Preprocessing(channels="L")
    with pytest.raises(JaxcamError, match="no kind of channels called 'HSV'"):
        jaxcam.Preprocessing(channels="HSV")
    with pytest.raises(JaxcamError, match=r"size is one whole number of pixels, the side of a square, not \(24, 32\)"):
        jaxcam.Preprocessing(size=(24, 32))


@pytest.mark.parametrize("rules", ["function", "declared"])
def test_evaluate_takes_grey_files_arrays_and_bytes(rules, tmp_path):
    declared = jaxcam.Preprocessing(size=SIDE, resize="squash", channels="L", mean=0.5, std=1.0)
    net = network(1, declared) if rules == "declared" else network(1)
    pictures = [RNG.integers(0, 255, (20, 30), np.uint8) for _ in range(3)]
    for i, pixels in enumerate(pictures):
        (tmp_path / "set" / CLASSES[i]).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / CLASSES[i] / f"{i}.png")
    settings = {"methods": ["grad_cam", "score_cam"], "metrics": ["ic", "ad", "insertion"], "steps": 3, "batch_size": 3}
    settings |= {"devices": jax.local_devices()[:1]}
    from_files = evaluate(net, tmp_path / "set", out=tmp_path / "files", **settings)
    mixed = [pictures[0], encoded(Image.fromarray(pictures[1])), Image.fromarray(pictures[2])]
    in_memory = evaluate(net, (mixed, ["a", 1, [2]]), out=tmp_path / "memory", **settings)
    assert in_memory.complete and len(in_memory) == 6
    for name in ("ic", "ad", "insertion", "score", "target"):
        np.testing.assert_allclose(in_memory.columns[name], from_files.columns[name], rtol=1e-5, err_msg=name)
    x = net.preprocess(pictures[0])
    features, head = net.split()
    cam = jaxcam.grad_cam(net.params, features(net.params, x), head=head, target=0)
    heat = scale_map(resize_map(cam.map, (SIDE, SIDE)))
    found = metrics.confidence(net.params, x, heat, predict=net.predict, target=0)
    np.testing.assert_allclose(in_memory.columns["ad"][0], found.ad, rtol=1e-3, atol=1e-3)
    again = evaluate(net, (mixed, ["a", 1, [2]]), out=tmp_path / "memory", **settings)  # the same run
    np.testing.assert_array_equal(again.columns["ad"], in_memory.columns["ad"])
    with pytest.raises(JaxcamError, match="data.sha256 was"):
        evaluate(net, ([255 - pictures[0], *mixed[1:]], ["a", 1, [2]]), out=tmp_path / "memory", **settings)


def test_pictures_in_memory_that_do_not_fit():
    with pytest.raises(JaxcamError, match="2 pictures, 1 labels"):
        Dataset.of([GREY, GREY], [0], classes=CLASSES)
    with pytest.raises(JaxcamError, match="no class called 'd'"):
        Dataset.of([GREY], ["d"], classes=CLASSES)
    with pytest.raises(JaxcamError, match="there is no class 3"):
        Dataset.of([GREY], [3], classes=CLASSES)
    data = Dataset.of([GREY], ["b"], classes=CLASSES, boxes=[{"b": [[1, 2, 3, 4]]}])
    assert data.has_boxes and data.items[0].labels == (1,) and data.items[0].boxes[1].shape == (1, 4)
