"""Where rows, columns, channels and tokens lie is read from the program, and a layout that does not fit is told so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcam
from jaxcam.errors import JaxcamError

RNG = np.random.default_rng(0)
K = 8
PARAMS = {
    "conv": RNG.normal(size=(3, 3, 3, K)).astype("f4"), "next": RNG.normal(size=(3, 3, K, K)).astype("f4"),
    "out": RNG.normal(size=(K, 5)).astype("f4"), "mix": RNG.normal(size=(16, 16)).astype("f4"),
    "bias": np.ones(16, "f4"),
}  # fmt: skip


def conv(x, w, stride=(1, 1)):
    return jax.lax.conv_general_dilated(x, w, stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def ends(x, params):
    return x.mean((1, 2)) @ params["out"]


def channels_first(params, x):
    """As many channels as rows and columns."""
    x = jnp.moveaxis(conv(x, params["conv"], (2, 2)), -1, 1)
    return jaxcam.tag(jax.nn.relu(x), "map").mean((2, 3)) @ params["out"]


def columns_first(params, x):
    return ends(jaxcam.tag(jax.nn.relu(conv(jnp.swapaxes(x, 1, 2), params["conv"])), "map"), params)


def wrap(net, size=16, **options):
    rules = jaxcam.Preprocessing(size=size, resize="squash")
    return jaxcam.wrap(net, PARAMS, preprocessing=rules, classes=list("abcde"), **options)


IMAGE = jax.ShapeDtypeStruct((16, 16, 3), jnp.float32)


@pytest.mark.parametrize(
    ("net", "why", "layout"),
    [(channels_first, "channels, rows, columns.*layout='khw'", "khw"),
     (columns_first, r"columns, rows, channels.*layout=\(lambda v",
      (lambda v: (v.transpose(1, 0, 2), ()), lambda a, rest: a.transpose(1, 0, 2)))],
)  # fmt: skip
def test_a_map_with_its_axes_elsewhere_is_told_the_layout_that_fits(net, why, layout):
    with pytest.raises(JaxcamError, match=why):
        wrap(net)
    with pytest.raises(JaxcamError, match=why):
        jaxcam.split(net, PARAMS, at="map", example=IMAGE)
    network = wrap(net, layout=layout)
    image = jnp.asarray(RNG.normal(size=(16, 16, 3)), jnp.float32).at[:8].set(0)  # all that there is lies below
    assert network.default_layer == "map"
    seen = network.split()[0](network.params, image)
    assert jnp.abs(seen[: len(seen) // 4]).max() == 0 < jnp.abs(seen[-len(seen) // 4 :]).min(0).max()


def test_strides_that_differ_do_not_make_an_earlier_layer_the_default():
    def net(params, x):
        x = jaxcam.tag(jax.nn.relu(conv(x, params["conv"])), "first")
        return ends(jaxcam.tag(jax.nn.relu(conv(x, params["next"], (4, 1))), "last"), params)

    network = wrap(net)
    assert network.default_layer == "last" and network.layer_shape("last") == (4, 16, K)


def windows(x, side=4):
    b, h, w, k = x.shape
    x = x.reshape(b, h // side, side, w // side, side, k).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, -1, side * side, k)


def together(x, n=4, side=4):
    x = x.reshape(x.shape[0], n, n, side, side, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], n * side, n * side, -1)


@pytest.mark.parametrize("together_again", [False, True])
def test_windows_and_their_tokens_are_no_rows_and_columns(together_again):
    def net(params, x):
        x = jaxcam.tag(conv(x, params["conv"]), "map")
        seen = together(jaxcam.tag(jax.nn.relu(windows(x)), "windows"))  # 16 of 16 tokens, like the image
        return ends(jaxcam.tag(seen, "again") if together_again else seen, params)

    assert wrap(net).default_layer == ("again" if together_again else "map")


def patches(params, x, down=False):
    x = conv(x, params["conv"], (4, 4))
    return (jnp.swapaxes(x, 1, 2) if down else x).reshape(x.shape[0], -1, K)


def test_tokens_that_lie_otherwise_than_the_layout_says():
    wide = jax.ShapeDtypeStruct((16, 64, 3), jnp.float32)
    net = lambda params, x: jaxcam.tag(patches(params, x), "tokens").mean(1) @ params["out"]  # noqa: E731
    at = {"at": "tokens", "example": wide}
    with pytest.raises(JaxcamError, match=r"lie 4 x 16, not 8 x 8.*prefix=0, grid=\(4, 16\)"):
        jaxcam.split(net, PARAMS, layout=jaxcam.tokens(prefix=0), **at)
    assert jaxcam.split(net, PARAMS, layout=jaxcam.tokens(prefix=0, grid=(4, 16)), **at)
    down = lambda params, x: jaxcam.tag(patches(params, x, True), "tokens").mean(1) @ params["out"]  # noqa: E731
    with pytest.raises(JaxcamError, match="column by column"):
        jaxcam.split(down, PARAMS, layout=jaxcam.tokens(prefix=0), at="tokens", example=IMAGE)


def test_what_mixes_tokens_is_no_default():
    """As many features as tokens: exchanged, nothing would show it."""
    params = PARAMS | {"conv": RNG.normal(size=(3, 3, 3, 16)).astype("f4"), "out": np.ones((16, 5), "f4")}

    def net(params, x):
        x = jaxcam.tag(conv(x, params["conv"], (4, 4)).reshape(x.shape[0], 16, 16), "patches")
        mixed = jaxcam.tag(jnp.swapaxes(x, 1, 2) @ params["mix"] + params["bias"], "mixed")
        return jnp.swapaxes(mixed, 1, 2).mean(1) @ params["out"]

    rules = jaxcam.Preprocessing(size=16, resize="squash")
    layout = jaxcam.tokens(prefix=0)
    network = jaxcam.wrap(net, params, preprocessing=rules, classes=list("abcde"), layout=layout)
    assert network.default_layer == "patches"


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_a_map_that_was_resized_is_one(method):
    def net(params, x):
        x = jaxcam.tag(jax.nn.relu(conv(x, params["conv"], (2, 2))), "small")
        x = jax.image.resize(x, (x.shape[0], 16, 16, K), method)
        return ends(jaxcam.tag(jax.nn.relu(conv(x, params["next"])), "large"), params)

    assert wrap(net).default_layer == "large"


def spot(network, at, method="hires_lift_cam"):
    """Where the map peaks of a picture with one bright patch, in quarters of the map."""
    picture = np.full((16, 16, 3), 90, np.uint8)
    picture[4 * at[0] : 4 * at[0] + 4, 4 * at[1] : 4 * at[1] + 4] = 255
    signed = np.asarray(jaxcam.explain(network, picture, methods=[method], targets=[1])[0].results[0].signed_map)
    far = np.abs(signed - np.median(signed))
    quarters = far.reshape(4, len(far) // 4, 4, -1).sum((1, 3))
    return tuple(int(i) for i in np.unravel_index(quarters.argmax(), (4, 4)))


def body(params, x):
    return ends(jaxcam.tag(jax.nn.relu(conv(x, params["conv"])), "map"), params)


def test_of_a_picture_and_its_mirror_image_the_first_is_the_default():
    network = wrap(lambda params, x: (body(params, x) + body(params, x[:, :, ::-1])) / 2)
    assert network.default_layer == "map#1" and "map#2" not in network.layers
    assert spot(network, (1, 3)) == (1, 3)


@pytest.mark.parametrize(
    "turned",
    [lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: jnp.flip(x, (1, 2)), lambda x: jnp.rot90(x, 2, (1, 2))],
)
def test_a_map_of_a_mirrored_picture_is_refused_unless_it_is_turned_back(turned):
    with pytest.raises(JaxcamError, match="of 'map' are those of a picture that the network mirrors.*layout="):
        wrap(lambda params, x: body(params, turned(x)))
    back = wrap(lambda params, x: ends(jaxcam.tag(turned(jax.nn.relu(conv(turned(x), params["conv"]))), "map"), params))
    assert spot(back, (0, 3)) == (0, 3)
    flip = lambda v: turned(v[None])[0]  # noqa: E731
    given = wrap(lambda params, x: body(params, turned(x)), layout=(lambda v: (flip(v), ()), lambda a, rest: flip(a)))
    assert spot(given, (0, 3)) == (0, 3)


@pytest.mark.parametrize(
    "crop",
    [
        lambda x: x[:, 4:12, 4:12], lambda x: x[:, :, 8:],
        lambda x: jax.lax.dynamic_slice(x, (0, 2, 2, 0), (x.shape[0], 12, 12, 3)),
    ],
)  # fmt: skip
def test_a_map_of_a_crop_is_refused(crop):
    with pytest.raises(
        JaxcamError, match=r"'map' sees (8|12) of the 16 (rows|columns) alone.*stretched over the whole"
    ):
        wrap(lambda params, x: body(params, crop(x)))


@pytest.mark.parametrize(
    "same",
    [
        lambda x: jnp.roll(jnp.roll(x, 5, 1), -5, 1),
        lambda x: jnp.concatenate([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)[..., :3],
        lambda x: jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))[:, 2:-2, 2:-2],
    ],
)  # fmt: skip
def test_what_shifts_and_rearranges_a_picture_is_no_crop(same):
    assert spot(wrap(lambda params, x: body(params, same(x))), (1, 2)) == (1, 2)


def with_others(before, behind, drop=0):
    """Tokens with others before and behind them; the first ones are left out in the end."""

    def net(params, x):
        x = patches(params, x)
        others = [jnp.ones((x.shape[0], n, K)) for n in (before, behind)]
        x = jaxcam.tag(jax.nn.relu(jnp.concatenate([others[0], x, others[1]], 1)[:, drop:]), "tokens")
        return jax.nn.gelu(x.mean(1)) @ params["out"]

    return net


@pytest.mark.parametrize(("before", "drop"), [(0, 0), (1, 0), (2, 0), (2, 2), (3, 1)])
def test_class_tokens_before_the_patches_are_taken(before, drop):
    network = wrap(with_others(before, 0, drop), layout=jaxcam.tokens(prefix=before - drop))
    assert spot(network, (1, 3)) == (1, 3)


@pytest.mark.parametrize(("before", "behind"), [(0, 1), (1, 2), (2, 1)])
def test_class_tokens_behind_the_patches_are_told(before, behind):
    net, rows = with_others(before, behind), slice(before, before + 16)
    with pytest.raises(JaxcamError, match=rf"{before} come before the patches, {behind} behind them.*v\[{before}:"):
        wrap(net, layout=jaxcam.tokens(prefix=before + behind))
    proposed = (lambda v: (v[rows].reshape(4, 4, -1), v), lambda a, v: v.at[rows].set(a.reshape(16, -1)))
    assert spot(wrap(net, layout=proposed), (2, 0)) == (2, 0)


def test_a_padded_row_of_tokens_counts_as_a_class_token():
    def net(params, x):
        x = jnp.pad(patches(params, x), ((0, 0), (1, 0), (0, 0))) + params["out"][:, 0]
        return jax.nn.gelu(jaxcam.tag(jax.nn.relu(x), "tokens").mean(1)) @ params["out"]

    assert spot(wrap(net, layout=jaxcam.tokens(prefix=1)), (3, 1)) == (3, 1)


def test_tokens_are_cut_under_a_transfer_guard_and_inside_a_traced_function():
    layout, image = jaxcam.tokens(prefix=1), jnp.ones((16, 16, 3))

    def activations(params, x):
        return jaxcam.split(with_others(1, 0), PARAMS, at="tokens", example=IMAGE, layout=layout)[0](params, x)

    params = jax.device_put(PARAMS)
    with jax.transfer_guard("disallow"):
        jaxcam.split(with_others(1, 0), params, at="tokens", example=IMAGE, layout=layout)
    assert jax.jit(activations)(params, image).shape == (4, 4, K)
