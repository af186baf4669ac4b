"""The coalition game of real heads: folded values are those of the masked evaluation, and the first layer is found."""

from __future__ import annotations

import functools
import os

import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import squeezenet

import jaxcam.cutting as cutting
from jaxcam.methods.result import scalar_score
from jaxcam.methods.sampling import ESTIMATORS, shap_cam
from jaxcam.models.network import Network
from jaxcam.models.vgg import VGGConfig
from jaxcam.transforms.coalition import coalition_game, masked_game
from jaxcam.transforms.coalition.first_layer import first_layer
from jaxcam.zoo.load import load

TARGET = 2
slow = pytest.mark.skipif(not os.environ.get("JAXCAM_SLOW_TESTS"), reason="slow: set JAXCAM_SLOW_TESTS=1")


def masks(players: int, count: int, seed: int = 0) -> jax.Array:
    """Random coalitions of all sizes, the empty and the full one among them."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((count, players)) < rng.random((count, 1))
    drawn[:2] = [[False], [True]]
    return jnp.asarray(drawn, jnp.float32)


def image(size: int, seed: int = 3) -> jax.Array:
    """A smooth random input."""
    coarse = np.random.default_rng(seed).normal(size=(8, 8, 3))
    return jax.image.resize(jnp.asarray(coarse, jnp.float32), (size, size, 3), "linear")


def check(head, params, a, *, linear=False, layer=None, count=6) -> None:
    """Compares the folded game with the masked one, and its first layer with the game.

    `layer` is the size of the table that must be found; None where there is none to find.
    """
    found = []

    @jax.jit
    def run(params, a, masks):
        score = scalar_score(head, params, TARGET)
        game = coalition_game(score, a)
        out = {"folded": game(masks), "masked": masked_game(score, a)(masks)}
        first = first_layer(game)
        found[:] = [game, first]
        if first is not None:
            # The chain rule through the layer gives the derivative of the masked evaluation in the masks.
            inner = lambda m: first.activation(first.base + jnp.matmul(m, first.table, precision="highest"))  # noqa: E731
            out["chained"] = jax.vjp(inner, masks)[1](first.gradient(masks))[0]
            out["slope"] = jax.grad(lambda m: masked_game(score, a)(m).sum())(masks)
        return out

    m = masks(a.shape[-1], count)
    out = run(params, a, m)
    scale = float(jnp.abs(out["masked"]).max())
    assert scale > 0 and float(jnp.ptp(out["masked"])) > 1e-3 * scale  # the head does look at its input
    np.testing.assert_allclose(out["folded"], out["masked"], rtol=0, atol=1e-5 * scale)
    game, first = found
    assert game.is_additive == linear
    assert game.structure.startswith("linear head: exact" if linear else "additive up to" if layer else "")
    assert (None if first is None else first.table.shape[1]) == layer
    if first is not None:
        present = np.asarray(m) > 0  # the others, all zero, lie on the kinks of a max pool
        slope, chained = np.asarray(out["slope"])[present], np.asarray(out["chained"])[present]
        # Among 100,000 units some lie within rounding of a kink; there the derivative jumps.
        off = np.linalg.norm(chained - slope) / np.linalg.norm(slope)
        assert off < (1e-4 if layer < 10_000 else 1e-2), off


@functools.cache
def bundled(name: str) -> Network:
    return load(name)


@pytest.mark.parametrize(
    "name, at, linear, layer",
    [
        ("vgg16_slim", "conv5_3", False, 512),
        ("vgg16_slim", "conv5_1", False, 8 * 8 * 128),
        ("resnet50_slim", "layer4", True, None),
        ("resnet50_slim", "layer3", False, None),
    ],
)
def test_folded_values_of_the_bundled_networks(name, at, linear, layer):
    network = bundled(name)
    features, head = network.split(at=at)
    a = jax.jit(features)(network.params, image(network.preprocessing.size))
    check(head, network.params, a, linear=linear, layer=layer)


def test_a_linear_network_is_solved_exactly_without_sampling():
    network = bundled("resnet50_slim")
    features, head = network.split(at="layer4")
    a = jax.jit(features)(network.params, image(network.preprocessing.size))
    run = jax.jit(
        lambda a, key, estimator: shap_cam(
            network.params, a, key, head=head, target=TARGET, num_permutations=1, estimator=estimator
        ),
        static_argnums=2,
    )
    exact = np.asarray(a, np.float64).mean((0, 1)) * np.asarray(network.params["fc"]["kernel"], np.float64)[:, TARGET]
    for estimator in ESTIMATORS:
        cam = run(a, jax.random.key(len(estimator)), estimator)
        np.testing.assert_allclose(cam.coefficients, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
        assert int(cam.diagnostics["evaluations"]) == 0
        assert not np.asarray(cam.diagnostics["standard_error"]).any()


@pytest.mark.parametrize("at", ["block1", "block2"])
def test_folded_values_of_a_linen_network(at):
    guest = guests.GUESTS["linen_residual"]()
    example = jax.ShapeDtypeStruct(guests.IMAGE, jnp.float32)
    cut = cutting.cut(guest.model, guest.params, at=at, example=example, **guest.options)
    check(cut.head, guest.params, cut.features(guest.params, guests.image(1)), layer={"block2": 16}.get(at))


@pytest.mark.parametrize("at, layer", [("fire9", 15 * 15), ("fire8", 13 * 13 * 64)])  # fire9: of one class
def test_folded_values_of_squeezenet(at, layer, data_dir):
    path = data_dir / "squeezenet_v1.0_decoded.npz"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    params = squeezenet.load(path)
    size = squeezenet.SIZE
    example = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    cut = cutting.cut(squeezenet.squeezenet, params, at=at, example=example)
    picture = 60 * np.asarray(image(size)) + 120
    a = jax.jit(cut.features)(params, squeezenet.preprocess(np.clip(picture, 0, 255)))
    check(cut.head, params, a, layer=layer, count=4)


@slow
@pytest.mark.slow
@pytest.mark.parametrize("at, layer", [("conv5_3", 4096), ("conv5_1", 14 * 14 * 512)])
def test_folded_values_of_the_full_vgg16(at, layer):
    network = Network.create(VGGConfig(16))
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, v: v if path[-1].key == "kernel" else jnp.asarray(0.05 * rng.normal(size=v.shape), v.dtype),
        network.params,
    )
    features, head = network.split(at=at)
    check(head, params, jax.jit(features)(params, image(224)), layer=layer)
