"""Several layers in one map and several views of a picture: as functions, in `explain`, and on the command line."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.errors import JaxcamError
from jaxcam.methods.fusion import VIEWS, View, fuse, over_views, views_of
from jaxcam.zoo.store import save_network

RNG = np.random.default_rng(0)
COARSE, FINE = RNG.uniform(size=(2, 3)), RNG.uniform(size=(4, 6))


def enlarged(map):
    """Twice as large, bilinear with half-pixel centres, by hand."""
    rows, columns = (np.clip((np.arange(2 * n) + 0.5) / 2 - 0.5, 0, n - 1) for n in map.shape)
    lines = [np.interp(columns, np.arange(map.shape[1]), line) for line in map]
    return np.stack([np.interp(rows, np.arange(map.shape[0]), column) for column in np.transpose(lines)], 1)


def test_fused_maps_by_hand():
    both = [enlarged(COARSE), FINE]
    largest = np.maximum(*(np.tanh(2 * m / m.max()) for m in both))
    mean = np.mean([(m - m.min()) / np.ptp(m) for m in both], 0)
    given = [jnp.asarray(COARSE, jnp.float32), jnp.asarray(FINE, jnp.float32)]
    fused = jax.jit(fuse, static_argnames=("how", "size"))
    np.testing.assert_allclose(fused(given), largest, atol=1e-6)
    np.testing.assert_allclose(fused(given, how="mean"), mean, atol=1e-6)
    assert fused(given, size=(8, 5)).shape == (8, 5)
    nothing = [jnp.zeros((2, 3)), jnp.zeros((4, 6))]
    assert not fused(nothing).any() and not fused(nothing, how="mean").any()
    np.testing.assert_allclose(fused([nothing[0], given[1]]), np.tanh(2 * FINE / FINE.max()), atol=1e-6)
    with pytest.raises(JaxcamError, match="no fusion called 'maxx'; did you mean max"):
        fuse(given, "maxx")
    with pytest.raises(JaxcamError, match="no map to fuse"):
        fuse([])


def test_a_view_and_back():
    image = RNG.uniform(size=(16, 20, 3)).astype(np.float32)
    mirrored = View("mirrored", mirrored=True)
    np.testing.assert_array_equal(mirrored.of(image), image[:, ::-1])
    np.testing.assert_array_equal(mirrored.back(mirrored.of(image)[..., 0]), image[..., 0])
    near, far = VIEWS["scales"][1:]
    bump = np.exp(-((np.arange(32) - 12.0) ** 2)[:, None] / 18 - ((np.arange(32) - 18.0) ** 2)[None] / 18)
    for view in (near, far):
        seen = np.asarray(jax.jit(view.of)(bump[..., None]))[..., 0]
        # Away from the middle, or towards it.
        row, column = np.unravel_index(seen.argmax(), seen.shape)
        assert abs(row - 15.5 - view.zoom * (12 - 15.5)) <= 1 and abs(column - 15.5 - view.zoom * (18 - 15.5)) <= 1
        np.testing.assert_allclose(jax.jit(view.back)(seen), bump, atol=0.1)
    assert views_of(["flips", "scales"]) == (View("plain"), mirrored, near, far)
    with pytest.raises(JaxcamError, match="no set of views called 'flip'; did you mean flips"):
        views_of(["flip"])


@pytest.fixture(scope="module")
def network():
    return networks.network(networks.VGG, size=32)


PICTURES = [networks.picture(40, 50, 1), networks.picture(30, 40, 2)]
LAYERS = ["conv4_1", "conv5_1"]


#: Batches of one size, so that the programs of a layer are compiled once.
ASKED = {"methods": ["layer_cam", "lift_cam"], "targets": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def apart(network):
    """What there is of each layer."""
    return [jaxcam.explain(network, PICTURES, layer=at, **ASKED) for at in LAYERS]


@pytest.mark.parametrize("how", ["max", "mean"])
def test_explain_fuses_what_it_makes_of_each_layer(network, apart, how):
    together = jaxcam.explain(network, PICTURES, layer=LAYERS, fuse=how, **ASKED)
    for one, *parts in zip(together, *apart, strict=True):
        assert one.layer == "conv4_1 + conv5_1"
        for result, *of in zip(one.results, *(p.results for p in parts), strict=True):
            assert (result.method, result.target) == (of[0].method, of[0].target)
            want = fuse([jnp.asarray(r.map) for r in of], how)
            np.testing.assert_allclose(result.map, want, atol=2e-5)
            np.testing.assert_allclose(result.coefficients, np.concatenate([r.coefficients for r in of]), atol=1e-5)
            assert np.isnan(result.completeness_gap) and result.empty is None
    json.dumps(together[0].to_dict(), allow_nan=False)


def test_explain_averages_over_views(network):
    mirrored = [p[:, ::-1] for p in PICTURES]
    targets = ["tench", "church"]
    plain, other, both = (
        jaxcam.explain(network, pictures, methods=["grad_cam"], targets=targets, views=views)
        for pictures, views in ((PICTURES, None), (mirrored, None), (PICTURES, "flips"))
    )
    for a, b, mean in zip(plain, other, both, strict=True):
        assert mean.layer == a.layer
        np.testing.assert_array_equal(mean.logits, a.logits)
        for one, two, result in zip(a.results, b.results, mean.results, strict=True):
            signed = (one.signed_map + two.signed_map[:, ::-1]) / 2
            scale = np.abs(signed).max()
            np.testing.assert_allclose(result.signed_map, signed, atol=2e-2 * scale)  # the mirror image is resized
            np.testing.assert_array_equal(result.map, np.maximum(result.signed_map, 0))
            np.testing.assert_allclose(result.coefficients, (one.coefficients + two.coefficients) / 2, rtol=5e-2)


def test_the_function_over_views_is_what_explain_does(network):
    features, head = network.split()
    x = network.preprocess(PICTURES[0])

    @jax.jit
    def averaged(params, x):
        def explain(x):
            return jaxcam.lift_cam(params, features(params, x), head=head, target=2)

        return over_views(explain, x, views_of(["flips", "scales"]))

    cam = averaged(network.params, x)
    (found,) = jaxcam.explain(network, PICTURES[0], methods=["lift_cam"], targets=[2], views=["flips", "scales"])
    result = found.results[0]
    np.testing.assert_allclose(result.signed_map, cam.diagnostics["signed_map"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.map, cam.map, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.coefficients, cam.coefficients, rtol=1e-3, atol=1e-5)


def test_mistakes(network):
    with pytest.raises(JaxcamError, match="no layer named"):
        jaxcam.explain(network, PICTURES[0], layer=[])
    with pytest.raises(JaxcamError, match="no fusion called 'sum'"):
        jaxcam.explain(network, PICTURES[0], layer=LAYERS, fuse="sum")
    with pytest.raises(JaxcamError, match="no set of views"):
        jaxcam.explain(network, PICTURES[0], views="mirrors")


def test_on_the_command_line(network, tmp_path, capsys):
    save_network(tmp_path / "net", network)
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    out = tmp_path / "out"
    command = [
        "explain", "--model", str(tmp_path / "net"), "--out", str(out), "--method", "layer_cam", "--layers",
        ",".join(LAYERS), "--fuse", "mean", "--views", "flips", str(tmp_path / "a.png"), "--json", str(out / "n.json"),
    ]  # fmt: skip
    out.mkdir()
    assert main([*command, "--resume"]) == 0
    assert "conv4_1 + conv5_1" in capsys.readouterr().out and (out / "a.png").is_file()
    told = json.loads((out / "n.json").read_text())["images"][0]
    assert told["layer"] == "conv4_1 + conv5_1" and told["results"][0]["completeness_gap"] is None
    assert main([*command, "--resume"]) == 0
    assert "1 of 1 pictures were finished by an earlier run" in capsys.readouterr().out
    assert main([*command[:-2], "--resume", "--fuse", "max"]) == 0
    assert "were made with other settings" in capsys.readouterr().out
    assert main([*command, "--views", "mirrors"]) == 2
    assert main([*command, "--layers", "conv9"]) == 2
