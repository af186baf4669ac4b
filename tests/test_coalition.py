"""The coalition game: folded values are those of the masked evaluation, and Ablation-CAM is the plain drop."""

from __future__ import annotations

import heads
import heads_programs
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from reference import seeded

from jaxcam.methods.coalition import ablation_cam
from jaxcam.methods.result import scalar_score
from jaxcam.models.network import Network
from jaxcam.models.vgg import VGGConfig
from jaxcam.transforms.coalition import coalition_game, masked_game
from jaxcam.transforms.coalition.lazy import Affine

HEADS = {**heads.HEADS, **heads_programs.PROGRAMS}
NAMES = [
    n for n in ("linear_gap", "vgg", "attention", "layer_norm", "conv_relu_conv", "residual", "scan") if n in HEADS
]
NAMES += [n for n in list(HEADS)[:3] if n not in NAMES]
A = jnp.asarray(seeded.activations(5, heads.SHAPE), jnp.float32)
MASKS = jnp.asarray(np.random.default_rng(0).integers(0, 2, (12, heads.SHAPE[-1])), jnp.float32)


@pytest.mark.parametrize("name", NAMES)
def test_folded_values_are_the_masked_ones(name):
    params, head = heads.to_jax(HEADS[name].params), HEADS[name].fn
    structures = []

    @jax.jit
    def both(a):
        game = coalition_game(scalar_score(head, params, 1), a)
        structures.append((game.structure, game.is_additive))
        return game(MASKS), game.chunked(MASKS, chunk_size=5), masked_game(scalar_score(head, params, 1), a)(MASKS)

    folded, chunked, masked = both(A)
    scale = float(jnp.abs(masked).max())
    np.testing.assert_allclose(folded, masked, rtol=0, atol=1e-5 * max(scale, 0.1))
    np.testing.assert_allclose(chunked, masked, rtol=0, atol=1e-5 * max(scale, 0.1))
    assert structures[0][0]


def test_a_linear_head_is_recognised_and_solved_without_evaluations():
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(heads.SHAPE[-1], 4)), jnp.float32)
    bias = jnp.arange(4.0)

    def score(a):
        return (a.mean((0, 1)) @ weights + bias)[2]

    game = coalition_game(score, A)
    base, values = game.marginals()
    assert game.structure == "linear head: exact"
    np.testing.assert_allclose(base, 2.0, rtol=1e-6)
    np.testing.assert_allclose(values, np.asarray(A).mean((0, 1)) * np.asarray(weights)[:, 2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES[:4])
def test_ablation_is_the_drop_of_each_channel(name):
    params, head = heads.to_jax(HEADS[name].params), HEADS[name].fn
    result = jax.jit(lambda a: ablation_cam(params, a, head=head, target=1))(A)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), HEADS[name].params)
        run = jax.jit(lambda a: head(exact, a)[1])
        drops = oracles.channel_drops(lambda a: float(run(jnp.asarray(a, jnp.float64))), np.asarray(A, np.float64))
    np.testing.assert_allclose(result.coefficients, drops, rtol=0, atol=1e-5 * max(1.0, np.abs(drops).max()))


W = jnp.asarray(np.random.default_rng(4).normal(size=(heads.SHAPE[-1], 4)), jnp.float32)


def _quantised(a):
    """As networks of eight bits compute; more than 127 together."""
    steps, weights = jnp.round(a.sum((0, 1)) * 6).astype(jnp.int8), jnp.round(W * 20).astype(jnp.int8)
    return jax.lax.dot(steps, weights, preferred_element_type=jnp.int32).astype(jnp.float32)


def _wider(a):
    """A layer of bfloat16 that adds up in float32: of many terms, no operation of bfloat16 would."""
    many = jnp.repeat(a.reshape(-1, a.shape[-1]), 20, 0).astype(jnp.bfloat16)
    wide = jnp.tile(W, (many.shape[0], 1)).astype(jnp.bfloat16)
    return jax.lax.dot(many.reshape(-1), wide, preferred_element_type=jnp.float32)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(lambda a: jnp.where((a > 2).any(), 0.5, 1.0) * (a.mean((0, 1)) @ W), id="any"),
        pytest.param(lambda a: (a >= 0).all() + a.mean((0, 1)) @ W, id="all"),
        pytest.param(lambda a: a.reshape(-1, a.shape[-1])[jnp.argmax(a.sum(-1))] @ W, id="argmax"),
        pytest.param(_quantised, id="integers"),
        pytest.param(_wider, id="bfloat16"),
    ],
)
def test_values_that_channels_share_and_that_are_no_numbers_of_float32(head):
    """A predicate has no differences, those of integers exceed their type, and sums are wider than their terms."""
    score = lambda a: head(a)[2]  # noqa: E731
    folded, masked = jax.jit(lambda a: (coalition_game(score, a)(MASKS), masked_game(score, a)(MASKS)))(A)
    np.testing.assert_allclose(folded, masked, rtol=0, atol=1e-5 * float(jnp.abs(masked).max()))
    drops = [score(A) - score(A.at[..., k].set(0)) for k in range(A.shape[-1])]
    found = ablation_cam({}, A, head=lambda _, a: head(a), target=2).coefficients
    np.testing.assert_allclose(found, drops, rtol=0, atol=1e-4 * float(jnp.abs(masked).max()))


@pytest.mark.parametrize("layer", ["conv5_3", "conv5_1"])
def test_the_first_layer_of_a_vgg_head_is_shared(layer):
    network = Network.create(VGGConfig(11, width=0.08, num_classes=5, hidden=12, pool_size=1))
    layer = {"conv5_3": "conv5_2"}.get(layer, layer)
    _, head = network.split(at=layer)
    a = jnp.asarray(np.abs(np.random.default_rng(2).normal(size=(4, 4, 41))), jnp.float32)
    masks = jnp.asarray(np.random.default_rng(3).integers(0, 2, (6, 41)), jnp.float32)
    score = scalar_score(head, network.params, 3)
    found = []

    @jax.jit
    def both(a):
        found.append(coalition_game(score, a))
        return found[0](masks), masked_game(score, a)(masks)

    folded, masked = both(a)
    np.testing.assert_allclose(folded, masked, rtol=0, atol=1e-5 * float(jnp.abs(masked).max()))
    assert found[0].structure.startswith("additive up to")


def _two_layers(p, a):
    return jax.nn.relu(a.reshape(-1) @ p["w"] + p["b"]) @ p["v"] + p["c"]


def _past_the_hidden_layer(p, a):
    """The pooled channels also go to the logits directly, and so does each activation."""
    return _two_layers(p, a) + a.mean((0, 1)) @ p["u"] + (a.reshape(-1) * p["w"][:, 0]).sum()


def _averaged_convolution(p, a):
    y = jax.lax.conv_general_dilated(a[None], p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(y[0]).mean((0, 1)) @ p["v"] + p["c"]


def _of_two_branches(p, a):
    hidden = jax.nn.tanh(a.reshape(-1) @ p["w"])
    return jnp.concatenate([jnp.where(p["b"] > 0, hidden, 2.0), hidden**2]) @ jnp.concatenate([p["v"], p["v"]])


def _drawn(**shapes):
    rng = np.random.default_rng(4)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("head", [_two_layers, _past_the_hidden_layer, _averaged_convolution, _of_two_branches])
@pytest.mark.parametrize(
    "target", [2, lambda logits: logits[0] - 2 * logits[3], lambda logits: jnp.log(1 + logits[1] ** 2)]
)
def test_what_follows_the_last_nonlinear_layer_is_one_sum(head, target):
    h, w, k = heads.SHAPE
    p = _drawn(w=(h * w * k, 9), b=(9,), v=(9, 4), c=(4,), u=(k, 4), k=(3, 3, k, 9))
    score = scalar_score(head, p, target)
    found = []

    @jax.jit
    def both(a):
        found.append(coalition_game(score, a))
        return found[0](MASKS), masked_game(score, a)(MASKS)

    folded, masked = both(A)
    np.testing.assert_allclose(folded, masked, rtol=0, atol=1e-5 * float(jnp.abs(masked).max()))
    linear_in_the_logits = not callable(target) or target(jnp.ones(4)) == -1
    assert isinstance(found[0].output, Affine) == linear_in_the_logits
    if linear_in_the_logits and head is _two_layers:  # masks @ table, the ReLU and its bias, and one sum
        assert found[0].megaflops == pytest.approx((2 * k * 9 + 2 * 9 + 9) * 1e-6, abs=10e-6)
    if linear_in_the_logits and head is _past_the_hidden_layer:
        assert found[0].output.weights.shape == (k,)


def test_a_traced_class_that_does_not_exist_is_nan_and_the_end_has_a_gradient():
    h, w, k = heads.SHAPE
    p = _drawn(w=(h * w * k, 9), b=(9,), v=(9, 4), c=(4,))

    def value(p, a, target):
        return coalition_game(scalar_score(_two_layers, p, target), a)(MASKS).sum()

    assert jnp.isnan(jax.jit(value)(p, A, 4)) and jnp.isfinite(jax.jit(value)(p, A, 3))
    plain = lambda p, a: masked_game(scalar_score(_two_layers, p, 3), a)(MASKS).sum()  # noqa: E731
    for got, want in zip(
        jax.tree.leaves(jax.jit(jax.grad(value, (0, 1)))(p, A, 3)),
        jax.tree.leaves(jax.grad(plain, (0, 1))(p, A)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * float(jnp.abs(want).max()))


def test_a_padding_of_infinity_stays_what_it_is():
    def score(x):
        padded = jnp.pad(x, ((0, 0), (0, 0), (1, 0)), constant_values=-jnp.inf)
        return jnp.maximum(padded[..., :-1], x).sum()

    a = jnp.arange(12.0).reshape(2, 2, 3)
    masks = jnp.asarray([[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(coalition_game(score, a)(masks), masked_game(score, a)(masks), rtol=1e-6)
