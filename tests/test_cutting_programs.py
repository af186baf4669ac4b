"""The marker, awkward programs, what cannot be cut and what is said about it, and the model left as it was."""

from __future__ import annotations

import concurrent.futures
import copy

import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxcam import cutting
from jaxcam.cutting import cut, split, tag
from jaxcam.errors import JaxcamError
from jaxcam.methods.contribution import lift_cam
from jaxcam.transforms.walker import UnsupportedPrimitive

IMAGE = jax.ShapeDtypeStruct((6, 6, 3), jnp.float32)
W = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def image(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=IMAGE.shape), jnp.float32)


def pooled(w, x):
    """The smallest network with a marked place; one example."""
    return tag(jax.nn.relu(x @ w), "map").mean((0, 1))


def test_a_tag_is_the_identity_under_every_transformation():
    x = jnp.arange(12.0).reshape(2, 2, 3)

    def f(x):
        return jnp.sum(jnp.sin(tag(x * x, "here")))

    def g(x):
        return jnp.sum(jnp.sin(x * x))

    for transform in (jax.jit, jax.grad, jax.vmap, lambda h: jax.grad(jax.checkpoint(h)), jax.hessian):
        np.testing.assert_array_equal(transform(f)(x), transform(g)(x))
    compiled = [jax.jit(h).lower(x).compile() for h in (f, g)]
    assert compiled[0].cost_analysis()["flops"] == compiled[1].cost_analysis()["flops"]
    both = tag({"a": x, "n": 3}, "pair")
    assert both["n"] == 3 and both["a"].shape == x.shape
    for name in ("", "conv#2"):
        with pytest.raises(JaxcamError, match="tag's name"):
            tag(x, name)


def test_tags_do_not_disturb_the_methods_that_run_a_tagged_head():
    a = jnp.abs(image())

    def head(w, a):
        return tag(jax.nn.relu(a @ w - 0.5), "later").mean((0, 1))

    def plain(w, a):
        return jax.nn.relu(a @ w - 0.5).mean((0, 1))

    ours, theirs = (lift_cam(W, a, head=h, target=1).coefficients for h in (head, plain))
    np.testing.assert_array_equal(ours, theirs)


def test_a_layer_called_several_times_is_numbered():
    def shared(w, x):
        for _ in range(3):
            x = tag(jnp.tanh(x @ w[:, :3]), "again")
        return x.mean((0, 1))

    names = [n.name for n in cutting.layers(shared, W, example=IMAGE)]
    assert names == ["again#1", "again#2", "again#3"]
    with pytest.raises(JaxcamError, match=r"'again' is called 3 times; choose one of again#1, again#2, again#3"):
        split(shared, W, at="again", example=IMAGE)
    x = image()
    for i in range(3):
        features, head = split(shared, W, at=f"again#{i + 1}", example=IMAGE)
        by_hand = x
        for _ in range(i + 1):
            by_hand = jnp.tanh(by_hand @ W[:, :3])
        np.testing.assert_allclose(features(W, x), by_hand, rtol=1e-5)
        np.testing.assert_allclose(head(W, by_hand), shared(W, x), rtol=1e-5)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))])
def test_calls_are_entered_even_those_that_jax_has_traced_before(wrap):
    wrapped = wrap(pooled)
    expected = wrapped(W, image())
    features, head = split(lambda w, x: 2 * wrapped(w, x), W, at="map", example=IMAGE)
    np.testing.assert_allclose(head(W, features(W, image())), 2 * expected, rtol=1e-6)


def test_custom_derivatives_stay_on_either_side():
    """relu'(0) = 0 in JAX, which the program inside of its call does not know."""
    _, head = split(lambda w, x: jax.nn.relu(tag(x @ w, "map")).sum((0, 1)), W, at="map", example=IMAGE)
    np.testing.assert_array_equal(jax.jacobian(head, 1)(W, jnp.zeros((6, 6, 4))), 0)


def test_loops_and_branches_are_refused_by_name():
    def looped(w, x):
        def step(x, _):
            return tag(jnp.tanh(x @ w[:, :3]), "inner"), None

        return tag(jax.lax.scan(step, x, None, length=2)[0], "outer").mean((0, 1))

    assert [n.name for n in cutting.layers(looped, W, example=IMAGE)] == ["outer"]
    with pytest.raises(JaxcamError, match=r"'inner' is inside scan at .*test_cutting_programs.py.*cannot be cut"):
        split(looped, W, at="inner", example=IMAGE)
    features, head = split(looped, W, at="outer", example=IMAGE)
    np.testing.assert_allclose(head(W, features(W, image())), looped(W, image()), rtol=1e-6)


def test_errors_say_what_is_wrong_and_what_to_do():
    def dictionary(w, x):
        return {"logits": pooled(w, x)}

    def unused(w, x):
        tag(x, "side")
        return x.mean((0, 1))

    def constant(w, x):
        return tag(w[None], "weights").sum((0, 1)) + x.mean()

    cases = [
        (pooled, {"at": "mapp"}, "no layer called 'mapp'; did you mean map"),
        (lambda w, x: x.mean((0, 1)), {"at": "map"}, "names no layers.*jaxcam.tag"),
        (dictionary, {"at": "map"}, r"returns a dict with 'logits'.*pick them by .*f\(params, x\)\['logits'\]"),
        (unused, {"at": "side"}, "logits do not depend on what 'side' returns"),
        (constant, {"at": "weights"}, "'weights' does not depend on the image"),
        (lambda w, x: tag(pooled(w, x), "flat"), {"at": "flat"}, r"shape \(4,\), not a map"),
        (lambda w, x: tag((x @ w).reshape(36, 4), "t").mean(0), {"at": "t"}, "layout=jaxcam.tokens"),
        (pooled, {"at": "map", "layout": "nchw"}, "layout must be"),
        (pooled, {"at": "map", "example": jnp.zeros((1, 6, 6, 3))}, "one image of rank 3"),
        (3, {"at": "map"}, "a int cannot be cut"),
        (pooled, {"at": "map", "call": lambda m, x: m(x)}, "is for modules"),
        (pooled, {"at": "map", "call": 3}, "keyword arguments"),
    ]
    for model, options, message in cases:
        with pytest.raises(JaxcamError, match=message):
            split(model, W, **{"example": IMAGE} | options)
    features, head = split(pooled, W, at="map", example=IMAGE)
    with pytest.raises(JaxcamError, match=r"the image: shape \(5, 6, 3\).*cut for \(6, 6, 3\)"):
        features(W, jnp.zeros((5, 6, 3)))
    with pytest.raises(JaxcamError, match="the image: dtype uint8"):
        features(W, np.zeros((6, 6, 3), np.uint8))
    with pytest.raises(JaxcamError, match="structure"):
        head({"w": W}, jnp.zeros((6, 6, 4)))
    with pytest.raises(JaxcamError, match="the bypass is not"):
        head(cutting.HeadParams(W, 3), jnp.zeros((6, 6, 4)))


def test_what_modules_need_is_said():
    g = guests.linen_residual()
    with pytest.raises(JaxcamError, match="variables, {'params'"):
        split(g.model, g.params["params"], at="stem", example=guests.image(), call={"train": False})
    with pytest.raises(JaxcamError, match="call={'train': False}"):
        split(g.model, g.params, at="stem", example=guests.image())
    g = guests.nnx_blocks()
    with pytest.raises(JaxcamError, match="no parameter 'block'"):
        split(g.model, {"block": {}}, at="blocks.0", example=guests.image())


def test_a_primitive_without_a_rule_is_found_in_the_users_code():
    def picking(w, x):
        means = tag(x @ w, "map").mean((0, 1))
        return means * jnp.argmax(means)

    features, head = split(picking, W, at="map", example=IMAGE)
    with pytest.raises(UnsupportedPrimitive, match=r"test_cutting_programs\.py.*picking"):
        lift_cam(W, features(W, image()), head=head, target=0)


def test_batches_layouts_and_calls():
    def batch_first(w, x):  # (b, 3, h, w) inside
        x = tag(jnp.einsum("bhwc,ck->bkhw", x, w), "map")
        return jax.nn.relu(x).mean((2, 3))

    made = cut(batch_first, W, at="map", example=IMAGE, layout="khw")
    assert made.layer.shape == (6, 6, 4)
    np.testing.assert_allclose(made.features(W, image()), image() @ W, rtol=1e-5)
    np.testing.assert_allclose(made.predict(W, image()), batch_first(W, image()[None])[0], rtol=1e-6)
    own = cutting.Layout(lambda v: (v[1:], v[:1]), lambda a, rest: jnp.concatenate([rest, a]))
    made = cut(pooled, W, at="map", example=IMAGE, layout=own)
    assert made.layer.shape == (5, 6, 4) and made.head.needs_bypass
    np.testing.assert_allclose(made.predict(W, image()), pooled(W, image()), rtol=1e-6)

    class Outputs(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)

        def __call__(self, x, scale):
            y = self.conv(x)
            return {"logits": scale * y.mean((1, 2)), "map": y}

    model = Outputs(nnx.Rngs(0))
    made = cut(model, at="conv", example=IMAGE, call=lambda m, x: m(x, 2.0)["logits"])
    np.testing.assert_allclose(made.predict(None, image()), model(image()[None], 2.0)["logits"][0], rtol=1e-5)


class Nested(nnx.Module):
    """Layers inside rematerialised and jitted calls."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.block = nnx.Sequential(nnx.Conv(4, 4, (1, 1), rngs=rngs), jax.nn.relu)

    def __call__(self, x):
        x = nnx.remat(lambda m, x: m(x))(self.conv, x)
        return nnx.jit(lambda m, x: m(x))(self.block, x).mean((1, 2))


def test_nnx_layers_inside_nnx_transformations():
    model = Nested(nnx.Rngs(0))
    params = nnx.state(model)  # an nnx.State will do as well
    for at in ("conv", "block.layers.0", "block"):
        made = cut(model, params, at=at, example=IMAGE)
        np.testing.assert_allclose(made.predict(params, image()), model(image()[None])[0], rtol=1e-5, atol=1e-6)


# Not linen_residual: under nn.remat, Flax leaves tracers in a cache of JAX's, however it is traced.
@pytest.mark.parametrize("name", [n for n in ("convnext", "nnx_blocks", "equinox_cnn") if n in guests.GUESTS])
def test_the_model_is_left_as_it_was_and_no_tracer_leaks(name):
    g = guests.GUESTS[name]()
    before = _snapshot(g.model)
    own, untouched = g.params, copy.copy(jax.tree.leaves(g.params))
    layer = next(iter(g.layers))
    with jax.checking_leaks():
        cutting.layers(g.model, g.params, example=guests.image(), call=g.options.get("call"))
        made = cut(g.model, g.params, at=layer, example=guests.image(), **g.options)
        activations, _ = jax.jit(made.features.with_bypass)(g.params, guests.image())
    after = _snapshot(g.model)
    assert before[0] == after[0]
    assert all(a is b for a, b in zip(before[1], after[1], strict=True))
    assert all(a is b for a, b in zip(untouched, jax.tree.leaves(own), strict=True))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # several cuts of one model at once
        at = [*g.layers] * 2
        jobs = [pool.submit(cut, g.model, g.params, at=k, example=guests.image(), **g.options) for k in at]
        assert [j.result().layer.shape for j in jobs] == [g.layers[k] for k in at]
    assert activations.shape == g.layers[layer]


def _snapshot(model):
    """What the model is made of: structure, classes and attributes; and its arrays, by identity."""
    if isinstance(model, nnx.Module):
        nodes = [(p, type(n), sorted(vars(n))) for p, n in nnx.iter_graph(model) if hasattr(n, "__dict__")]
        graphdef, state = nnx.split(model)
        return (nodes, graphdef, model.blocks[0].dropout.deterministic), jax.tree.leaves(state)
    if isinstance(model, nn.Module):
        return (repr(model), dict(vars(model))), []
    leaves, tree = jax.tree.flatten(model)
    return (tree, type(model.stem), type(model.convs[0]), model.dropout.inference), leaves


def test_parameters_that_are_not_given_are_the_modules_own():
    g = guests.nnx_blocks()
    partial = {k: v for k, v in g.params.items() if k in ("hidden", "out")}
    for params in (None, partial):
        made = cut(g.model, params, at="blocks.2", example=guests.image())
        np.testing.assert_allclose(
            jax.jit(made.predict)(params, guests.image()),
            jax.jit(g.logits)(g.params, guests.image()),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.skipif("equinox_cnn" not in guests.GUESTS, reason="equinox is not installed")
def test_equinox_layers_inside_its_own_transformations():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        block: eqx.nn.Sequential

        def __call__(self, x):
            x = eqx.filter_checkpoint(self.conv)(x)
            return eqx.filter_jit(lambda m, x: m(x))(self.block, x).mean((1, 2))

    keys = jax.random.split(jax.random.key(0))
    block = eqx.nn.Sequential([eqx.nn.Conv2d(4, 4, 1, key=keys[0]), eqx.nn.Lambda(jax.nn.relu)])
    model = Net(eqx.nn.Conv2d(3, 4, 3, key=keys[1]), block)
    for at in ("conv", "block.layers.0", "block"):
        made = cut(model, at=at, example=IMAGE)  # its own parameters
        np.testing.assert_allclose(made.predict(None, image()), model(image().transpose(2, 0, 1)), rtol=1e-5, atol=1e-6)
    with pytest.raises(JaxcamError, match="eqx.filter"):
        cut(eqx.tree_at(lambda m: m.block, model, block), model, at="conv", example=IMAGE)
