"""Attention weights are found in any program, and rolled out, or asked for their slopes, as the papers do."""

from __future__ import annotations

import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import needs_attention

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.methods.registry import METHODS
from jaxcam.transforms.attention import attention_slopes, attention_weights

RNG = np.random.default_rng(0)
LAYERS, HEADS, WIDTH, GRID = 2, 2, 3, (2, 3)
P = {
    f"{kind}{i}": RNG.normal(size=(HEADS, 3, WIDTH) if kind != "o" else (HEADS, WIDTH, 3))
    for i in range(LAYERS) for kind in "qkvo"
}  # fmt: skip
P |= {"class": RNG.normal(size=3), "out": RNG.normal(size=(3, 4))}
IMAGE = RNG.normal(size=(*GRID, 3))
LAYER = jnp.ones((*GRID, WIDTH), jnp.float32)


def network(xp, softmax, p, image, with_class=True, seen=None):
    """A transformer of two layers without norms; its tokens are the pixels."""
    x = image.reshape(-1, 3)
    if with_class:
        x = xp.concatenate([p["class"][None], x])
    for i in range(LAYERS):
        q, k, v = (xp.einsum("nc,hcd->hnd", x, p[f"{kind}{i}"]) for kind in "qkv")
        weights = softmax(xp.einsum("hnd,hmd->hnm", q, k))
        if seen is not None:
            seen.append(weights)
        x = x + xp.einsum("hnm,hmd,hdc->nc", weights, v, p[f"o{i}"])
    return (x[0] if with_class else x.mean(0)) @ p["out"]


def slow_softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("with_class", [True, False])
def test_rollout_is_the_slow_one(with_class):
    seen: list[np.ndarray] = []
    network(np, slow_softmax, P, IMAGE, with_class, seen)
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), P)

    def predict(p, x):
        return network(jnp, jax.nn.softmax, p, x, with_class)

    image = jnp.asarray(IMAGE, jnp.float32)
    found = jax.jit(attention_weights(lambda x: predict(params, x)))(image)
    assert len(found) == LAYERS
    for got, want in zip(found, seen, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    flow = np.eye(len(seen[0][0]))
    for weights in seen:
        flow = (0.5 * weights.mean(0) + 0.5 * np.eye(len(flow))) @ flow
    want = (flow[0, 1:] if with_class else flow.mean(0)).reshape(GRID)
    got = jax.jit(lambda p, x: jaxcam.attention_rollout(p, LAYER, x, predict=predict, target=1))(params, image)
    np.testing.assert_allclose(got.map, want, atol=1e-6)
    assert float(got.map.sum()) == pytest.approx(1 - flow[0, 0] * with_class, abs=1e-5)
    np.testing.assert_allclose(got.coefficients, got.map.sum() / WIDTH, rtol=1e-6)
    np.testing.assert_allclose(got.diagnostics["logit"], predict(params, image)[1], rtol=1e-5)
    residual = jaxcam.attention_rollout(params, LAYER, image, predict=predict, target=1, residual=1.0)
    np.testing.assert_array_equal(residual.map, np.full(GRID, 0.0 if with_class else 1 / len(flow), np.float32))


@pytest.mark.parametrize("with_class", [True, False])
def test_legrad_is_the_slow_one(with_class):
    """Bousselham et al.: the positive slopes of the logit by every weight, here by central differences."""
    tokens, step, target = GRID[0] * GRID[1] + with_class, 1e-5, 2
    columns = np.zeros(tokens)

    def value(layer, moved):
        seen = iter(range(LAYERS))
        return network(np, lambda s: slow_softmax(s) + (next(seen) == layer) * moved, P, IMAGE, with_class)[target]

    for layer in range(LAYERS):
        for place in np.ndindex(HEADS, tokens, tokens):
            moved = np.zeros((HEADS, tokens, tokens))
            moved[place] = step
            columns[place[-1]] += max(value(layer, moved) - value(layer, -moved), 0) / (2 * step)
    want = columns[with_class:].reshape(GRID) / (LAYERS * HEADS * tokens)
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), P)

    @jax.jit
    def run(p, x, target):
        predict = lambda p, x: network(jnp, jax.nn.softmax, p, x, with_class)  # noqa: E731
        return jaxcam.legrad(p, LAYER, x, predict=predict, target=target).map

    image = jnp.asarray(IMAGE, jnp.float32)
    np.testing.assert_allclose(run(params, image, target), want, atol=1e-4 * want.max())
    assert np.isnan(run(params, image, 4)).all()


def test_slopes_of_attentions_keep_other_derivatives_of_their_own():
    @jax.custom_jvp
    def odd(x):
        return x

    odd.defjvp(lambda primals, tangents: (primals[0], 3 * tangents[0]))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)
    value, (slope,) = jax.jit(attention_slopes(lambda x: jnp.sum(odd(jax.nn.softmax(x @ x.T) @ x))))(x)
    np.testing.assert_allclose(slope, 3 * np.broadcast_to(np.asarray(x).sum(1), (3, 3)), rtol=1e-5)
    np.testing.assert_allclose(value, jnp.sum(jax.nn.softmax(x @ x.T) @ x), rtol=1e-5)


@pytest.mark.parametrize("name", ["vit_class_token", "vit_mean"])
def test_attentions_of_other_libraries_are_found(name):
    guest = guests.GUESTS[name]()
    image = guests.image()
    shapes = jax.eval_shape(attention_weights(lambda x: guest.logits(guest.params, x)), image)
    assert len(shapes) >= 2 and all(s.shape[-1] == s.shape[-2] for s in shapes)


def test_what_there_is_no_rollout_of():
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), P)
    image = jnp.asarray(IMAGE, jnp.float32)

    def looped(p, x):
        def step(c, _):
            return jax.nn.softmax(c @ c.T) @ c, None

        return jax.lax.scan(step, x.reshape(-1, 3), None, length=2)[0].mean(0)

    with pytest.raises(JaxcamError, match="no attention in the network, for 2 x 3 patches"):
        jaxcam.attention_rollout(params, LAYER, image, predict=lambda p, x: x.mean((0, 1)), target=1)
    with pytest.raises(JaxcamError, match="legrad is defined for networks with attention .*; use grad_cam"):
        jaxcam.legrad(params, LAYER, image, predict=lambda p, x: x.mean((0, 1)), target=1)
    with pytest.raises(JaxcamError, match="attentions in it do not come out"):
        jaxcam.attention_rollout(params, LAYER, image, predict=looped, target=1)
    with pytest.raises(JaxcamError, match="a share from 0 to 1, not 1.5"):
        jaxcam.attention_rollout(params, LAYER, image, predict=lambda p, x: x[0, 0], target=1, residual=1.5)


def test_explain_has_them_where_there_is_attention():
    """By the entries alone; where a network has none they are left out of "all", and refused where they are named."""
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), P)

    def predict(p, x):
        tokens = jaxcam.tag(x.reshape(2, 3, 3, 2, 3).mean((1, 3)), "patches")
        return network(jnp, jax.nn.softmax, p, tokens)

    rules = jaxcam.Preprocessing(size=6, resize="squash")
    names = ["a", "b", "c", "d"]
    net = jaxcam.wrap(predict, params, preprocessing=rules, classes=names, layer="patches")
    photo = np.asarray(RNG.integers(0, 256, (8, 12, 3)), np.uint8)
    few = [m for m in METHODS if not needs_attention(METHODS[m])]
    [found] = jaxcam.explain(net, photo, methods=["attention_rollout:residual=0.25", "legrad"], targets=["b"])
    x = net.preprocess(photo)
    for result, options in zip(found.results, ({"residual": 0.25}, {}), strict=True):
        function = METHODS[result.method.partition(":")[0]].function
        want = function(params, jnp.ones((*GRID, 3)), x, predict=predict, target=1, **options)
        np.testing.assert_allclose(result.map, want.map, rtol=1e-4)
    plain = jaxcam.wrap(
        lambda p, x: jaxcam.tag(x, "map").mean((0, 1)) @ p["out"], params, preprocessing=rules, classes=names
    )
    with pytest.raises(JaxcamError, match="legrad is defined for networks with attention"):
        jaxcam.explain(plain, photo, methods="legrad")
    assert set(METHODS) - set(few) == {"attention_rollout", "legrad"}
