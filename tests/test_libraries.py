"""Networks of other libraries handed over as they are: names of layers, values by the library's own means, errors."""

from __future__ import annotations

import importlib
import os
import sys
import types

import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcam
from jaxcam import cutting
from jaxcam.cutting.libraries import LIBRARIES
from jaxcam.errors import JaxcamError

os.environ.setdefault("KERAS_BACKEND", "jax")
X = guests.image()
RULES = jaxcam.Preprocessing(size=16, resize="squash")
NAMES = [f"class {i}" for i in range(5)]
EXAMPLE = jax.ShapeDtypeStruct(guests.IMAGE, jnp.float32)


def library(name):
    """An optional library; skips where it is not installed, or not for this JAX."""
    try:
        return importlib.import_module(name)
    except Exception as e:
        pytest.skip(f"{name} cannot be imported: {e}")


def names(*args, **options):
    return [layer.name for layer in jaxcam.layers(*args, example=EXAMPLE, **options)]


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def keras():
    return library("keras")


def randomised(model):
    """A Keras model whose weights are all far from trivial."""
    rng = np.random.default_rng(0)
    for v in model.variables:
        if v.name != "seed_generator_state":
            positive = "variance" in v.name or v.name == "gamma"
            v.assign(rng.uniform(0.5, 1.5, v.shape) if positive else 0.3 * rng.normal(size=v.shape))
    return model


@pytest.fixture(scope="module")
def functional(keras):
    k = keras.layers
    image = k.Input(guests.IMAGE)
    x = k.ReLU(name="first")(k.BatchNormalization(name="norm")(k.Conv2D(6, 3, strides=2, name="conv")(image)))
    inner = keras.Sequential([k.Conv2D(6, 3, padding="same", activation="relu", name="deep")], name="block")
    x = keras.ops.relu(k.Add(name="sum")([x, inner(x)]))
    x = k.Dropout(0.5)(k.GlobalAveragePooling2D(name="pool")(x))
    return randomised(keras.Model(image, k.Dense(5, name="out")(x), name="mine"))


def test_a_functional_keras_model(keras, functional):
    assert names(functional) == ["conv", "norm", "first", "block.deep", "block", "sum", "sum.relu"]
    network = jaxcam.wrap(functional, preprocessing=RULES, classes=NAMES)
    assert network.name == "mine" and network.default_layer == "sum.relu"
    assert set(network.params) == {v.path for v in functional.variables if v.name != "seed_generator_state"}
    batch = np.asarray(X)[None]
    close(network.predict(network.params, X), functional(batch, training=False)[0])
    for at in ("norm", "block.deep", "sum"):
        inner = functional.get_layer("block").get_layer("deep") if at == "block.deep" else functional.get_layer(at)
        if at != "block.deep":
            expected = keras.Model(functional.input, inner.output)(batch)[0]
        else:
            expected = inner(keras.Model(functional.input, functional.get_layer("first").output)(batch))[0]
        features, head = network.split(at=at)
        activations, first = features.with_head_params(network.params, X)
        close(activations, expected)
        close(head(first, activations), functional(batch, training=False)[0])
    cam = jax.jit(
        lambda p, x: jaxcam.lift_cam(p, network.split()[0](p, x), head=network.split()[1], target=2)
    )(network.params, X)  # fmt: skip
    assert abs(cam.diagnostics["completeness_gap"]) < 1e-5 and np.any(cam.map)
    before = [np.asarray(v.value) for v in functional.variables]
    (found,) = jaxcam.explain(network, np.zeros((16, 16, 3), np.uint8), methods=["lift_cam", "grad_cam"], targets=[1])
    assert len(found.results) == 2
    for v, value in zip(functional.variables, before, strict=True):
        np.testing.assert_array_equal(v.value, value)
    assert keras.Layer.__call__.__qualname__ == "Layer.__call__"  # nothing is left on the classes


def test_the_parameters_of_a_keras_model(functional):
    x, doubled = np.asarray(X)[None], {"out": 2}
    own = {v.path: v.value for v in functional.variables}
    in_order = [v.value for v in functional.variables]
    pair = ([v.value for v in functional.trainable_variables], [v.value for v in functional.non_trainable_variables])
    expected = functional(x, training=False)[0]
    for params in (own, in_order, pair, None, {"out/bias": own["out/bias"]}):
        made = cutting.cut(functional, params, at="sum", example=EXAMPLE)
        close(made.predict(params, X), expected)
    made = cutting.cut(functional, own, at="sum", example=EXAMPLE)
    other = {k: doubled.get(k.split("/")[0], 1) * v for k, v in own.items()}
    close(made.predict(other, X), 2 * expected)
    moved = {k: v + 1 if "moving_mean" in k else v for k, v in own.items()}  # running averages are parameters too
    assert not np.allclose(made.predict(moved, X), expected)
    with pytest.raises(JaxcamError, match="the params of a Keras model are its variables' values"):
        names(functional, in_order[:-1])
    with pytest.raises(JaxcamError, match="has no variable 'other'"):
        names(functional, {"other": jnp.ones(3)})


def test_sequential_and_subclassed_keras_models(keras):
    k = keras.layers
    sequential = keras.Sequential([k.Input(guests.IMAGE), k.Conv2D(8, 3, name="conv"), k.Flatten(), k.Dense(5)])
    assert names(sequential, [v.value for v in sequential.variables]) == ["conv"]

    class Sub(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv, self.out = k.Conv2D(8, 3, name="conv"), k.Dense(5, name="out")

        def call(self, x, training=None, twice=False):
            x = keras.ops.relu(self.conv(x))
            x = self.out(keras.ops.mean(x, (1, 2)))
            return {"logits": 2 * x if twice else x}

    sub = Sub()
    with pytest.raises(JaxcamError, match=r"is not built: call it once"):
        names(sub)
    sub(np.zeros((1, 16, 16, 3), np.float32))
    with pytest.raises(JaxcamError, match="returns a dict with 'logits'"):
        names(sub)
    pick = lambda model, x: model(x, twice=True)["logits"]  # noqa: E731
    assert names(sub, call=pick) == ["conv", "conv.relu"]
    around = lambda p, x: sub.stateless_call(*p, x)[0]["logits"]  # noqa: E731
    params = ([v.value for v in sub.trainable_variables], [])
    assert names(around, params) == ["conv", "conv.relu"]
    made = cutting.cut(around, params, at="conv.relu", example=EXAMPLE)
    close(made.predict(params, X), sub(np.asarray(X)[None])["logits"][0])
    close(
        cutting.cut(sub, params, at="conv", example=EXAMPLE, call=pick).predict(params, X), 2 * made.predict(params, X)
    )


@pytest.mark.parametrize("with_state", [False, True])
def test_haiku_with_and_without_state(with_state):
    hk = library("haiku")

    class Block(hk.Module):
        def __call__(self, x, is_training):
            x = hk.Conv2D(6, 3, stride=2, name="conv")(x)
            return jax.nn.relu(hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training) if with_state else x)

    def forward(x, is_training=False):
        seen = Block(name="block")(x, is_training)
        return hk.Linear(5, name="out")(hk.dropout(hk.next_rng_key(), 0.5, seen) if is_training else seen.mean((1, 2)))

    made = hk.transform_with_state(forward) if with_state else hk.transform(forward)
    params = made.init(jax.random.key(0), X[None], True)  # which makes the averages
    if with_state:
        params = (params[0], jax.tree.map(lambda v: v + 0.3, params[1]))
        expected = made.apply(*params, None, X[None])[0][0]
    else:
        expected = made.apply(params, None, X[None])[0]
    listed = names(made, params, call={"is_training": False})
    assert listed == ["block.conv", *(["block.norm"] if with_state else []), "block"]
    features, head = jaxcam.split(made, params, at="block", example=EXAMPLE)
    activations = features(params, X)
    w, b = (params[0] if with_state else params)["out"].values()
    w, b = (w, b) if w.ndim == 2 else (b, w)
    close(head(params, activations), activations.mean((0, 1)) @ w + b)
    close(head(params, activations), expected)
    network = jaxcam.wrap(made, params, preprocessing=RULES, classes=NAMES)
    assert network.default_layer == "block"
    other = hk.without_apply_rng(made)
    assert names(other, params) == names(other.apply, params) if not with_state else names(other, params)
    if with_state:
        with pytest.raises(JaxcamError, match=r"the pair \(params, state\): what init returned"):
            names(made, params[0])
    with pytest.raises(JaxcamError, match="give those that its init returned"):
        names(made)
    with pytest.raises(JaxcamError, match=r"lambda params, x: f.apply\(params, None, x\)"):
        names(made, params, call=lambda m, x: m(x))
    several = hk.multi_transform(lambda: (forward, (forward, forward)))
    with pytest.raises(JaxcamError, match="has several functions: give the one that classifies"):
        names(several, params)


class Small(nnx.Module):
    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(3, 6, (3, 3), rngs=rngs), nnx.Conv(6, 6, (3, 3), rngs=rngs)])
        self.out = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x):
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.out(x.mean((1, 2)))


@pytest.mark.parametrize("how", ["merge", "jit", "closed", "two"])
def test_functions_around_nnx(how):
    model = Small(nnx.Rngs(0))
    graph, state = nnx.split(model)
    params = None if how == "closed" else state
    functions = {
        "merge": lambda p, x: nnx.merge(graph, p)(x), "jit": jax.jit(lambda p, x: nnx.merge(graph, p)(x)),
        "closed": lambda p, x: model(x), "two": lambda p, x: 2 * nnx.merge(graph, p)(x) + model(x),
    }  # fmt: skip
    expected = ["convs.0", "convs.0.relu", "convs.1", "convs.1.relu"]
    if how == "two":
        assert names(functions[how], params)[:2] == ["convs.0#1", "convs.0.relu#1"]
    else:
        assert names(functions[how], params) == expected
        made = cutting.cut(functions[how], params, at="convs.1", example=EXAMPLE)
        close(made.features(params, X), model.convs[1](nnx.relu(model.convs[0](X[None])))[0])
        close(made.predict(params, X), model(X[None])[0])
    assert nnx.Conv.__call__.__qualname__ == "Conv.__call__"


def test_a_layer_that_returns_several_values_is_several_places():
    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)

        def __call__(self, x):
            x = self.conv(x)
            return x, {"rectified": nnx.relu(x)}

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.pair, self.out = Pair(rngs), nnx.Linear(6, 5, rngs=rngs)

        def __call__(self, x):
            plain, rest = self.pair(x)
            return self.out((plain + rest["rectified"]).mean((1, 2)))

    model = Net(nnx.Rngs(0))
    assert names(model) == ["pair.conv", "pair[0]", "pair[1]['rectified']", "pair[1]['rectified'].add"]
    made = cutting.cut(model, nnx.to_pure_dict(nnx.state(model)), at="pair[0]", example=EXAMPLE)
    close(made.features(nnx.to_pure_dict(nnx.state(model)), X), model.pair.conv(X[None])[0])


def test_functions_around_equinox():
    eqx = library("equinox")
    model = guests.EquinoxNet(jax.random.key(0))
    params, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)
    channels_first = lambda x: jnp.transpose(x, (2, 0, 1))  # noqa: E731
    for f in (
        lambda p, x: eqx.combine(p, static)(channels_first(x)),
        lambda p, x: jax.vmap(eqx.combine(p, static))(jax.vmap(channels_first)(x)),
    ):
        listed = names(f, params, layout="khw")
        assert listed == names(model, params) and "convs.1" in listed
        a = cutting.cut(f, params, at="convs.1", example=EXAMPLE, layout="khw")
        b = cutting.cut(model, params, at="convs.1", example=EXAMPLE)
        close(a.features(params, X), b.features(params, X))
        close(a.predict(params, X), b.predict(params, X))
    assert eqx.nn.Conv2d.__call__.__qualname__.endswith("Conv.__call__")


def test_equinox_with_state():
    eqx = library("equinox")

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        out: eqx.nn.Linear

        def __init__(self, key):
            self.conv, self.out = eqx.nn.Conv2d(3, 6, 3, key=key), eqx.nn.Linear(6, 5, key=key)
            self.norm = eqx.nn.BatchNorm(6, "batch", mode="ema")

        def __call__(self, x, state):
            x, state = self.norm(self.conv(x), state)
            return self.out(jax.nn.relu(x).mean((1, 2))), state

    model, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    call = lambda module, x: module(x, state)[0]  # noqa: E731
    params = eqx.filter(model, eqx.is_array)
    assert names(model, params, call=call) == ["conv", "norm[0]", "norm[0].relu"]
    made = cutting.cut(model, params, at="conv", example=EXAMPLE, call=call)
    plain = eqx.nn.inference_mode(model)(jnp.transpose(X, (2, 0, 1)), state)[0]
    close(made.predict(params, X), plain)


def test_a_library_of_ones_own(monkeypatch):
    """As its author, or anybody, would add it: one entry, and no import of jaxcam's by the library."""

    class Stack:
        def __init__(self, weights):
            self.weights = weights

        def run(self, weights, x, see=lambda x, name: x):
            for i, w in enumerate(weights):
                x = see(jax.nn.relu(x @ w), f"layer{i}")
            return x.mean((0, 1))

    module = types.ModuleType("stacks")
    module.Stack = Stack
    stack = Stack([jnp.ones((3, 6)), jnp.eye(6, 5)])
    with pytest.raises(JaxcamError, match="a Stack cannot be cut: give a function .* a Linen module"):
        names(stack)
    entry = cutting.Library(
        "Stacks", "stacks", lambda stacks, x: isinstance(x, stacks.Stack),
        lambda stacks, model, params, call: cutting.Adapter(
            lambda params, x: model.run(params, x, jaxcam.tag), batched_first=False
        ),
        own_params=lambda stacks, model, params: model.weights if params is None else params, give="a Stack",
    )  # fmt: skip
    monkeypatch.setattr("jaxcam.cutting.libraries.LIBRARIES", LIBRARIES)
    try:
        cutting.register(entry)
        with pytest.raises(JaxcamError, match="a Stack cannot be cut"):
            names(stack)  # nobody has imported it
        monkeypatch.setitem(sys.modules, "stacks", module)
        network = jaxcam.wrap(stack, preprocessing=RULES, classes=NAMES)
        assert network.layers == ("layer0", "layer1") and len(network.params) == 2
        close(network.predict(network.params, X), stack.run(stack.weights, X))
    finally:
        LIBRARIES.pop("Stacks", None)


def test_what_is_no_network_of_a_known_library():
    with pytest.raises(JaxcamError, match=r"Small is a class: give a model of it, as in Small\(...\)"):
        names(Small)
    foreign = type("Net", (type("Module", (), {"__module__": "torch.nn", "__call__": lambda self, x: x}),), {})
    with pytest.raises(JaxcamError, match="a Net cannot be cut: it runs on PyTorch, not on JAX. Give a function"):
        names(foreign())
    with pytest.raises(JaxcamError) as e:
        names(3)
    assert all(library.give in str(e.value) for library in LIBRARIES.values()) and "\n" not in str(e.value)


def test_no_library_is_imported_for_another():
    import subprocess

    code = (
        "import sys, jax.numpy as jnp, jaxcam; jaxcam.layers(lambda p, x: jaxcam.tag(x, 'a').mean((0, 1)), None, "
        "example=jnp.ones((4, 4, 3))); print([m for m in ('equinox', 'haiku', 'keras') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
