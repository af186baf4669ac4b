"""Every guest, cut at several of its layers: the halves are the network, and the methods hold on them."""

from __future__ import annotations

import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import squeezenet
from flax import linen as nn

from jaxcam import cutting
from jaxcam.errors import JaxcamError
from jaxcam.methods.contribution import lift_cam

NAMES = sorted(guests.GUESTS)


@pytest.fixture(scope="module")
def cuts():
    """`(guest, {layer: cut})` by name; traced only, and shared by the tests here."""
    made = {}

    def get(name):
        if name not in made:
            g = guests.GUESTS[name]()
            example = jax.ShapeDtypeStruct(guests.IMAGE, jnp.float32)
            at = {k: cutting.cut(g.model, g.params, at=k, example=example, **g.options) for k in g.layers}
            made[name] = g, at
        return made[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_the_halves_are_the_network_and_lift_cam_is_complete_on_them(name, cuts):
    g, at = cuts(name)

    @jax.jit
    def program(params, image):
        results = {}
        for layer, cut in at.items():
            activations, head_params = cut.features.with_head_params(params, image)
            one = lift_cam(head_params, activations, head=cut.head, target=1)
            results[layer] = activations, cut.head(head_params, activations), one.coefficients, one.diagnostics
        return g.logits(params, image), results

    for seed in (0, 1):
        logits, results = program(g.params, guests.image(seed))
        for layer, (activations, recomposed, alpha, told) in results.items():
            assert activations.shape == at[layer].layer.shape == g.layers[layer]
            np.testing.assert_allclose(recomposed, logits, rtol=1e-6, atol=1e-6, err_msg=layer)
            scale = np.abs(alpha).sum() + np.abs(logits).max()
            assert abs(told["completeness_gap"]) <= 1e-5 * scale, layer


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_around_the_cut_is_known(name, cuts):
    g, at = cuts(name)
    assert {k for k, cut in at.items() if cut.head.needs_bypass} == set(g.bypassed)
    for layer, cut in at.items():
        assert bool(cut.head.around) == (layer in g.bypassed)
        if layer in g.bypassed:
            with pytest.raises(JaxcamError, match="go around .*features.with_head_params"):
                cut.head(g.params, jnp.zeros(cut.layer.shape))


@pytest.mark.parametrize("name", NAMES)
def test_the_cut_network_costs_what_the_whole_one_does(name, cuts):
    g, at = cuts(name)
    image = guests.image()

    def flops(fn):
        return jax.jit(fn).lower(g.params, image).compile().cost_analysis()["flops"]

    assert flops(list(at.values())[-1].predict) == pytest.approx(flops(g.logits), rel=0.01)


@pytest.mark.parametrize("name", [n for n in NAMES if n in ("linen_residual", "nnx_blocks", "equinox_cnn")])
def test_gradients_through_params_and_image_under_vmap(name, cuts):
    g, at = cuts(name)
    cut = next(iter(at.values()))
    images = jnp.stack([guests.image(s) for s in range(3)])
    floating = {k: v for k, v in enumerate(jax.tree.leaves(g.params)) if jnp.issubdtype(v.dtype, jnp.floating)}
    treedef = jax.tree.structure(g.params)

    @jax.jit
    def both(floating, images):
        def loss(fn):
            def total(floating, images):
                leaves = [floating.get(i, leaf) for i, leaf in enumerate(jax.tree.leaves(g.params))]
                return jnp.sum(jnp.sin(jax.vmap(fn, (None, 0))(jax.tree.unflatten(treedef, leaves), images)))

            return jax.grad(total, (0, 1))(floating, images)

        batch = cut.predict(g.params, images)  # a leading axis is mapped over
        return loss(cut.predict), loss(g.logits), batch, jax.vmap(g.logits, (None, 0))(g.params, images)

    ours, theirs, batch, logits = both(floating, images)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch, logits, rtol=1e-5, atol=1e-5)


def test_the_bypass_is_held_fixed_in_a_densely_connected_network(cuts):
    """Value and derivative against the network's head written by hand, with the input of the layer as a constant."""
    g, at = cuts("linen_dense")
    p = g.params["params"]

    def by_hand(a, before):  # behind conv2
        x = jnp.concatenate([before, jax.nn.relu(a)], axis=-1)
        x = x * jax.nn.sigmoid(x.mean((0, 1)) @ p["gate"]["kernel"] + p["gate"]["bias"])
        return jax.nn.relu(x).mean((0, 1)) @ p["out"]["kernel"] + p["out"]["bias"]

    cut = at["conv2"]
    activations, head_params = cut.features.with_head_params(g.params, guests.image())
    (before,), _ = head_params.bypass
    a = activations + 0.1
    jacobians = [jax.jacobian(f)(a) for f in (lambda a: cut.head(head_params, a), lambda a: by_hand(a, before[0]))]
    np.testing.assert_allclose(cut.head(head_params, a), by_hand(a, before[0]), rtol=1e-5)
    np.testing.assert_allclose(*jacobians, rtol=1e-4, atol=1e-7)


def test_a_batch_of_bypasses_and_one_compilation(cuts):
    g, at = cuts("linen_residual")
    cut = at["block1.Conv_1"]
    traces = []

    @jax.jit
    def forward(params, images):
        return cut.features.with_bypass(params, images)

    @jax.jit
    def explain(params, activations, bypass, targets):
        traces.append(None)

        def one(a, b, target):
            return lift_cam(cutting.HeadParams(params, b), a, head=cut.head, target=target).diagnostics["logit"]

        return jax.vmap(one)(activations, bypass, targets)

    for seed in (0, 2):
        images = jnp.stack([guests.image(seed), guests.image(seed + 1)])
        activations, bypass = forward(g.params, images)
        logits = explain(g.params, activations, bypass, jnp.asarray([seed, 1]))
        whole = cut.head(cutting.HeadParams(g.params, bypass), activations)
        np.testing.assert_allclose(logits, whole[jnp.arange(2), jnp.asarray([seed, 1])], rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


def test_layers_come_in_order_with_shapes_and_kinds(cuts):
    g, _ = cuts("nnx_blocks")
    listed = cutting.layers(g.model, g.params, example=guests.image())
    assert [n.name for n in listed][:4] == ["blocks.0.conv", "blocks.0.norm", "blocks.0.dropout", "blocks.0"]
    assert listed[3] == cutting.Layer("blocks.0", (16, 16, 6), "NNXBlock")
    g, _ = cuts("vit_class_token")
    shapes = {n.name: n.shape for n in cutting.layers(g.model, g.params, example=guests.image())}
    assert shapes["patches"] == (4, 4, 8) and shapes["block0"] == (17, 8)


def test_a_shared_linen_layer_is_numbered_too():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3, name="shared")
            return layer(jnp.tanh(layer(x))).mean((1, 2))

    variables = guests.draw(jax.eval_shape(Twice().init, jax.random.key(0), jnp.zeros((1, *guests.IMAGE))))
    features, head = cutting.split(Twice(), variables, at="shared#1", example=guests.image())
    np.testing.assert_allclose(
        head(variables, features(variables, guests.image())),
        Twice().apply(variables, guests.image()[None])[0],
        rtol=1e-5,
    )


@pytest.fixture(scope="module")
def squeezenet_params(data_dir):
    path = data_dir / "squeezenet_v1.0_decoded.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the test data")
    return squeezenet.load(path)


def test_squeezenet_as_a_bare_function(squeezenet_params):
    example = jax.ShapeDtypeStruct((squeezenet.SIZE, squeezenet.SIZE, 3), jnp.float32)
    shapes = {n.name: n.shape for n in cutting.layers(squeezenet.squeezenet, squeezenet_params, example=example)}
    assert list(shapes) == ["conv1", *(f"fire{i}" for i in range(2, 10)), "conv10"]
    assert shapes["conv1"] == (111, 111, 96) and shapes["fire9"] == (13, 13, 512) and shapes["conv10"] == (15, 15, 1000)
    at = {k: cutting.cut(squeezenet.squeezenet, squeezenet_params, at=k, example=example) for k in ("fire9", "conv10")}
    rgb = np.random.default_rng(0).uniform(0, 255, (8, 8, 3)).repeat(29, 0).repeat(29, 1)[: squeezenet.SIZE, :227]
    image = squeezenet.preprocess(rgb)

    @jax.jit
    def program(params, image):
        logits = squeezenet.squeezenet(params, image)
        results = []
        for cut in at.values():
            activations = cut.features(params, image)
            told = lift_cam(params, activations, head=cut.head, target=jnp.argmax(logits)).diagnostics
            results.append((cut.head(params, activations), told))
        return logits, results

    logits, results = program(squeezenet_params, image)
    assert float(jnp.max(logits)) > 0
    for recomposed, told in results:
        np.testing.assert_allclose(recomposed, logits, rtol=1e-6, atol=1e-6)
        assert abs(told["completeness_gap"]) <= 1e-5 * abs(told["logit"])


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims):
    """A convolution along one axis or three, and a mean: contributions by hand, in the layout's places."""
    names = ("NHC", "HIO", "NHC") if dims == 1 else ("NDHWC", "DHWIO", "NDHWC")
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3,) * dims + (2, 6)), "out": rng.normal(size=(6, 4))}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    x = jnp.asarray(rng.normal(size=(8,) * dims + (2,)), jnp.float32)

    def layer(p, x):
        return jax.nn.relu(jax.lax.conv_general_dilated(x, p["w"], (2,) * dims, "SAME", dimension_numbers=names))

    def net(p, x):
        return cutting.tag(layer(p, x), "inside").mean(range(1, dims + 1)) @ p["out"]

    slices = cutting.Layout(lambda v: (v.reshape(-1, *v.shape[2:]), ()), lambda a, rest: a.reshape(4, -1, *a.shape[1:]))
    layout = cutting.tokens(prefix=0, grid=(1, 4)) if dims == 1 else slices
    [listed] = cutting.layers(net, params, example=x)
    assert listed.name == "inside" and listed.shape == (4,) * dims + (6,)
    made = cutting.cut(net, params, at="inside", example=x, layout=layout)
    value = layer(params, x[None])[0]
    cam = lift_cam(params, made.features(params, x), head=made.head, target=1)
    contributions = value.reshape(-1, 6).mean(0) * params["out"][:, 1]
    np.testing.assert_allclose(cam.coefficients, contributions, rtol=1e-4, atol=1e-6)
    expected = jax.nn.relu(value @ contributions)
    shown = cam.map[0] if dims == 1 else cam.map.reshape(4, 4, 4)
    np.testing.assert_allclose(shown, expected, rtol=1e-4, atol=1e-6)
    if dims == 3:
        with pytest.raises(JaxcamError, match=r"not a map of rank 3; .*layout=\(as_map, from_map\)"):
            cutting.cut(net, params, at="inside", example=x)
