"""Names for activations and sums that are plain functions, the default place, mapped layers, keys and statistics."""

from __future__ import annotations

import contextlib
import warnings

import flax.linen as nn
import flax.struct
import guests
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcam
from jaxcam.errors import JaxcamError

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(16, 16, 3)), jnp.float32)
RULES = jaxcam.Preprocessing(size=16, resize="squash")
CLASSES = list("abcde")


def drawn(module: nn.Module):
    """Its variables; Flax would compile every initialiser."""
    return guests.draw(jax.eval_shape(lambda: module.init(jax.random.key(0), IMAGE[None])))


class Plain(nnx.Module):
    """An activation and a residual sum as functions, a dropout, a batch norm."""

    def __init__(self, rngs, activation=nnx.relu):
        self.activation = activation
        self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.mix, self.drop = nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = self.activation(self.norm(self.conv(x)))
        x = x + self.mix(x)
        return self.out(self.drop(x.mean((1, 2))))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(8, (3, 3), name="conv")(x)))
        return nn.Dense(5)(nn.relu(y + nn.Conv(8, (3, 3), name="mix")(y)).mean((1, 2)))


ACTIVATIONS = {
    "relu": nnx.relu, "silu": nnx.silu, "gelu": nnx.gelu, "relu6": nnx.relu6, "hard_silu": nnx.hard_silu,
    "tanh": jnp.tanh, "leaky_relu": nnx.leaky_relu, "elu": nnx.elu, "selu": nnx.selu,
}  # fmt: skip


def names(model, params, **options):
    return [layer.name for layer in jaxcam.layers(model, params, example=IMAGE, **options)]


def halves_agree(model, params, at, whole, **options):
    features, head = jaxcam.split(model, params, at=at, example=IMAGE, **options)
    activations, first = features.with_head_params(params, IMAGE)
    np.testing.assert_allclose(head(first, activations), whole, rtol=1e-5, atol=1e-5)
    return activations


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_of_a_named_value_has_a_name_in_nnx(activation):
    model = Plain(nnx.Rngs(0), ACTIVATIONS[activation])
    params = nnx.to_pure_dict(nnx.state(model))
    found = names(model, params)
    [name] = [n for n in found if n.startswith("norm.") and n.count(".") == 1]
    assert name == f"norm.{'activation' if activation == 'gelu' else activation}" and found[-1] == "mix.add"
    model.eval()
    expected = ACTIVATIONS[activation](model.norm(model.conv(IMAGE[None])))[0]
    np.testing.assert_allclose(halves_agree(model, params, name, model(IMAGE[None])[0]), expected, rtol=1e-5, atol=1e-5)


def test_activations_and_residual_sums_have_names_in_linen():
    variables = drawn(Linen())
    found = names(Linen(), variables)
    assert found == ["conv", "norm", "norm.relu", "mix", "mix.add", "mix.add.relu"]
    halves_agree(Linen(), variables, "mix.add.relu", Linen().apply(variables, IMAGE[None])[0])


def test_activations_have_names_in_equinox_and_in_functions():
    eqx = pytest.importorskip("equinox")
    conv, out = eqx.nn.Conv2d(3, 8, 3, key=jax.random.key(0)), eqx.nn.Linear(8, 5, key=jax.random.key(1))

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        out: eqx.nn.Linear

        def __call__(self, x):
            return self.out(jax.nn.relu(self.conv(x)).mean((1, 2)))

    net = Net(conv, out)
    assert names(net, eqx.filter(net, eqx.is_array)) == ["conv", "conv.relu"]

    def function(p, x):
        h = jaxcam.tag(x @ p["w"], "first")
        return jnp.where(h > 0, h, 0.1 * h).mean((0, 1)) @ p["v"]

    params = {"w": jnp.ones((3, 4)), "v": jnp.ones((4, 5))}
    assert "first" in (found := names(function, params)) and any(n.startswith("first.") for n in found)


@pytest.mark.parametrize("first", [True, False], ids=["channels_last", "channels_first"])
def test_branches_side_by_side_are_a_layer_and_the_default(first):
    """An Inception block, or a densely connected one, written inline; its branches alone would be half the network."""
    axis, order = (0, ("NCHW", "OIHW", "NCHW")) if first else (-1, ("NHWC", "HWIO", "NHWC"))

    def conv(w, x):
        return jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=order)[0]

    def function(p, x):
        x = x.transpose(2, 0, 1) if first else x
        one, two = (jaxcam.tag(conv(p[k], x), k) for k in ("one", "two"))
        return jnp.concatenate([jax.nn.relu(one), jax.nn.relu(two)], axis).mean((1, 2) if first else (0, 1)) @ p["out"]

    rng, flip = np.random.default_rng(0), (3, 2, 0, 1) if first else (0, 1, 2, 3)
    params = {
        k: jnp.asarray(rng.normal(size=(n, n, 3, 4)).transpose(flip), jnp.float32) for k, n in (("one", 1), ("two", 3))
    }
    params["out"] = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)
    layout = {"layout": "khw"} if first else {}
    found = jaxcam.layers(function, params, example=IMAGE, **layout)
    assert [layer.name for layer in found] == ["one", "two", "one.relu", "two.relu", "two.relu.concatenate"]
    activations = halves_agree(function, params, found[-1].name, function(params, IMAGE), **layout)
    assert activations.shape == (*IMAGE.shape[:2], 8)
    rules = jaxcam.Preprocessing(size=IMAGE.shape[0], resize="squash")
    network = jaxcam.wrap(function, params, preprocessing=rules, classes=list("abcde"), **layout)
    assert network.layer == found[-1].name


def test_a_class_token_before_patches_is_no_concatenation_of_channels():
    def function(p, x):
        patches = jaxcam.tag(x.reshape(1, -1, 3) @ p["w"], "patches")
        tokens = jnp.concatenate([patches.mean(1, keepdims=True), patches], 1)
        return (jax.nn.softmax(tokens @ tokens.swapaxes(1, 2)) @ tokens)[0, 0]

    assert names(function, {"w": jnp.ones((3, 4))}) == ["patches"]


def test_what_a_layer_does_inside_gets_no_name():
    """A norm's squares and a softmax's exponentials are nobody's layer."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.LayerNorm()(nn.Conv(8, (3, 3))(x))
            return nn.Dense(5)(x.mean((1, 2)))

    variables = drawn(Net())
    assert names(Net(), variables) == ["Conv_0", "LayerNorm_0"]


def test_an_activation_before_a_norm_has_its_name():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.last, self.out = nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.Linear(8, 5, rngs=rngs)

        def __call__(self, x):
            x = self.norm(nnx.relu(self.conv(x)))
            return self.out(2 * jax.nn.hard_silu(self.last(x)).mean((1, 2)))

    net = Net(nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(net))
    assert names(net, params) == ["conv", "conv.relu", "norm", "last", "last.hard_silu"]
    made = jaxcam.cut(net, params, at="conv.relu", example=IMAGE)
    np.testing.assert_allclose(made.features(params, IMAGE), nnx.relu(net.conv(IMAGE[None]))[0], rtol=1e-5, atol=1e-6)


def test_the_default_place_is_behind_the_activation():
    network = jaxcam.wrap(Plain(nnx.Rngs(0)), preprocessing=RULES, classes=CLASSES)
    assert network.default_layer == "mix.add" and "norm.relu" in network.layers


class ViT(nn.Module):
    pool: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (4, 4), strides=4, name="patches")(x).reshape(x.shape[0], -1, 16)
        if not self.pool:
            first = self.param("cls", nn.initializers.normal(), (1, 1, 16))
            x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, 16)), x], axis=1)
        for i in range(2):
            x = x + nn.MultiHeadDotProductAttention(2, name=f"attention{i}")(nn.LayerNorm(name=f"norm{i}")(x))
        x = nn.LayerNorm(name="last")(x)
        return nn.Dense(5)(x.mean(1) if self.pool else x[:, 0])


@pytest.mark.parametrize(("pool", "default"), [(False, "norm1"), (True, "last")])
def test_a_transformer_asks_for_its_layout_and_its_default_place_counts(pool, default):
    model = ViT(pool)
    variables = drawn(model)
    with pytest.raises(JaxcamError, match=r"goes on with tokens .*layout=jaxcam.tokens.* or name layer='patches'"):
        jaxcam.wrap(model, variables, preprocessing=RULES, classes=CLASSES)
    layout = jaxcam.tokens(prefix=0 if pool else 1)
    network = jaxcam.wrap(model, variables, preprocessing=RULES, classes=CLASSES, layout=layout)
    assert network.default_layer == default
    features, head = network.split()
    activations, first = features.with_head_params(network.params, IMAGE)
    slopes = jax.grad(lambda a: head(first, a)[0])(activations)
    assert (jnp.abs(slopes).sum(-1) > 0).all()


def test_keys_and_values_of_the_last_attention_are_no_default():
    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(16, (4, 4), strides=4, name="patches")(x).reshape(x.shape[0], -1, 16)
            first = self.param("cls", nn.initializers.normal(), (1, 1, 16))
            x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, 16)), x], axis=1)
            y = nn.LayerNorm(name="norm")(x)
            q, k, v = (nn.Dense(16, name=name)(y) for name in ("query", "key", "value"))
            x = x + nn.softmax(q @ k.mT) @ v
            return nn.Dense(5)(nn.LayerNorm()(x)[:, 0])

    variables = drawn(Classifier())
    layout = jaxcam.tokens(prefix=1)
    network = jaxcam.wrap(Classifier(), variables, preprocessing=RULES, classes=CLASSES, layout=layout)
    assert {"key", "value"} < set(network.layers) and network.default_layer == "norm"


def test_heads_and_tokens_are_not_taken_for_rows_and_columns():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(16, (4, 4), strides=4, name="patches")(x).reshape(x.shape[0], -1, 16)
            q = nn.DenseGeneral((2, 8), name="query")(x)
            return nn.Dense(5)(q.sum((1, 2)))

    variables = drawn(Attention())
    network = jaxcam.wrap(Attention(), variables, preprocessing=RULES, classes=CLASSES)
    assert network.default_layer == "patches"


@pytest.mark.parametrize("tokens_first", [True, False])
def test_a_layer_mapped_over_tokens_gives_tokens(tokens_first):
    """Sixteen tokens of sixteen features: JAX leaves the mapped axis of a product where it fell."""
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        embed: eqx.nn.Conv2d
        linear: eqx.nn.Linear
        out: eqx.nn.Linear

        def tokens(self, x):
            t = self.embed(x).reshape(8, -1)
            return jax.nn.relu(jax.vmap(self.linear)(t.T) if tokens_first else jax.vmap(self.linear, in_axes=1)(t))

        def __call__(self, x):
            return self.out(self.tokens(x).mean(0))

    a, b, c = jax.random.split(jax.random.key(0), 3)
    net = Net(eqx.nn.Conv2d(3, 8, 4, stride=4, key=a), eqx.nn.Linear(8, 16, key=b), eqx.nn.Linear(16, 3, key=c))
    params = eqx.filter(net, eqx.is_array)
    features, head = jaxcam.split(net, params, at="linear.relu", example=IMAGE, layout=jaxcam.tokens(prefix=0))
    expected = net.tokens(jnp.transpose(IMAGE, (2, 0, 1)))
    np.testing.assert_allclose(features(params, IMAGE).reshape(16, 16), expected, rtol=1e-5, atol=1e-5)
    cam = jaxcam.lift_cam(params, features(params, IMAGE), head=head, target=1)
    assert abs(cam.diagnostics["completeness_gap"]) < 1e-5
    assert jnp.isfinite(jax.grad(lambda x: head(params, features(params, x))[0])(IMAGE)).all()


@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"])
def test_a_tag_in_a_mapped_function_is_on_the_tokens(around):
    """As for layers; and the network may take a gradient of itself."""
    rng = np.random.default_rng(0)
    params = {
        name: rng.normal(size=s).astype("f4") for name, s in {"in": (48, 8), "w": (16, 8), "out": (5, 16)}.items()
    }

    def tokens(params, x):
        patches = x.reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(16, 48) @ params["in"]
        return jax.vmap(around(lambda t: jaxcam.tag(jax.nn.relu(params["w"] @ t), "seen")))(patches)

    net = lambda params, x: params["out"] @ tokens(params, x).mean(0)  # noqa: E731
    features, head = jaxcam.split(net, params, at="seen", example=IMAGE, layout=jaxcam.tokens(prefix=0))
    found = features(params, IMAGE)
    np.testing.assert_allclose(found.reshape(16, 16), tokens(params, IMAGE), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(head(params, found), net(params, IMAGE), rtol=1e-4, atol=1e-4)
    steeper = lambda params, x: net(params, x + jax.grad(lambda x: net(params, x)[0])(x))  # noqa: E731
    assert names(steeper, params) == ["seen#1", "seen#2"]


def test_random_keys_among_the_parameters_do_no_harm():
    model = Plain(nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model))  # with the keys of the dropout
    model.eval()
    halves_agree(model, params, "norm.relu", model(IMAGE[None])[0])


def test_running_statistics_that_are_left_out_are_told():
    model = Plain(nnx.Rngs(0))
    with pytest.warns(UserWarning, match=r"no running statistics \(norm.mean, norm.var\).*nnx.Not\(nnx.RngState\)"):
        jaxcam.split(model, nnx.state(model, nnx.Param), at="conv", example=IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxcam.split(model, nnx.state(model, nnx.Not(nnx.RngState)), at="conv", example=IMAGE)
        jaxcam.split(model, at="conv", example=IMAGE)


class Trains(Plain):
    """Trains unless told otherwise, whatever mode it is in."""

    def __call__(self, x, train=True):
        x = nnx.relu(self.norm(self.conv(x), use_running_average=not train))
        return self.out(self.drop(x.mean((1, 2)), deterministic=not train))


def test_a_model_whose_call_overrides_eval_mode_is_told():
    model = Trains(nnx.Rngs(0))
    with pytest.warns(UserWarning, match=r"changed drop.*norm.mean.*call={'train': False}"):
        names(model, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(model, None, call={"train": False}) == names(Trains(nnx.Rngs(0)), None, call={"train": False})


def test_what_is_proposed_for_several_outputs_is_taken():
    net = lambda params, x: (jaxcam.tag(nn.relu(x @ params), "map").mean((-3, -2)), x)  # noqa: E731
    with pytest.raises(JaxcamError, match=r"pick them by a function of your.*lambda params, x: f\(params, x\)\[0\]"):
        names(net, np.ones((3, 5), "f4"))
    assert names(lambda params, x: net(params, x)[0], np.ones((3, 5), "f4")) == ["map"]


@flax.struct.dataclass
class Several:
    """As models of Hugging Face return them."""

    hidden: jax.Array
    logits: jax.Array


class Detector(Plain):
    """Returns more than logits."""

    def __init__(self, rngs, several):
        super().__init__(rngs)
        self.several = several

    def __call__(self, x):
        logits = super().__call__(x)
        return self.several(x, logits)


@pytest.mark.parametrize(
    ("several", "index"),
    [
        (lambda x, z: {"boxes": z, "logits": z, "map": x}, "['logits']"),
        (lambda x, z: (x, z), "[1]"),
        (lambda x, z: [x, {"aux": z}], "[1]['aux']"),
        (Several, ".logits"),
    ],
)
def test_logits_among_several_outputs_are_named(several, index):
    model = Detector(nnx.Rngs(0), several)
    with pytest.raises(JaxcamError) as e:
        names(model, None)
    told = str(e.value)
    assert told.endswith(f"; pick them by call=lambda module, x: module(x){index}") and "single image" not in told
    picked = eval(told.split("call=")[1])  # noqa: S307 - what a reader would copy
    assert names(model, None, call=picked) == names(Plain(nnx.Rngs(0)), None)


@pytest.mark.parametrize("several", [lambda x, z: (x, x), lambda x, z: None, lambda x, z: {"classes": z.argmax(-1)}])
def test_a_network_without_logits(several):
    with pytest.raises(JaxcamError, match="given a batch of one: it returns a .*not an array of logits; given"):
        names(Detector(nnx.Rngs(0), several), None)


def test_a_wrapped_network_takes_the_weights_of_later():
    model = Plain(nnx.Rngs(0))
    network = jaxcam.wrap(model, preprocessing=RULES, classes=CLASSES)
    model.norm.var.set_value(jnp.full(8, 9.0))
    model.out.bias.set_value(jnp.arange(5.0))
    model.eval()
    for given in (nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))), nnx.state(model), model):
        later = network.with_params(given)
        np.testing.assert_allclose(later.predict(later.params, IMAGE), model(IMAGE[None])[0], rtol=1e-5, atol=1e-5)
        assert later.split()[1] is network.split()[1]  # nothing is traced or compiled again
    features, head = jaxcam.split(model, at="conv", example=IMAGE)
    assert repr(features) == "Features(params, image (16, 16, 3) -> 'conv')"
    assert repr(head) == "Head(params, 'conv' (16, 16, 8) -> logits)"


def test_one_logit_is_a_sigmoid():
    net = lambda p, x: jaxcam.tag(jax.nn.relu(x @ p["w"]), "map").mean((0, 1)) @ p["out"]  # noqa: E731
    params = {"w": np.ones((3, 6), "f4"), "out": np.ones((6, 1), "f4")}
    with pytest.raises(JaxcamError, match="'pneumonia'.*multi_label=True.*-logits"):
        jaxcam.wrap(net, params, preprocessing=RULES, classes=["pneumonia"])
    network = jaxcam.wrap(net, params, preprocessing=RULES, classes=["pneumonia"], multi_label=True)
    assert float(network.probabilities(jnp.zeros(1))[0]) == 0.5


def manual(z):
    e = jnp.exp(z)
    return e / e.sum(-1, keepdims=True)


PROBABILITIES = {
    "softmax": jax.nn.softmax, "in jit": jax.jit(jax.nn.softmax), "by hand": manual, "sigmoid": jax.nn.sigmoid,
    "sigmoid by hand": lambda z: 1 / (1 + jnp.exp(-z)), "hard": jax.nn.hard_sigmoid,
    "clipped": lambda z: jnp.clip(jax.nn.softmax(z), 1e-7, 1 - 1e-7),
    "bfloat16": lambda z: jax.nn.softmax(z.astype(jnp.bfloat16)),
    "ensemble": lambda z: jnp.stack([jax.nn.softmax(z), manual(2 * z)]).mean(0),
    "exp of log_softmax": lambda z: jnp.exp(jax.nn.log_softmax(z)),
    "exp of log_sigmoid": lambda z: jnp.exp(nn.log_sigmoid(z)),
    "less logsumexp": lambda z: jnp.exp(z - jax.nn.logsumexp(z, -1, keepdims=True)),
    "of two": lambda z: jnp.stack([1 - (p := jax.nn.sigmoid(z[..., 0])), *[p] * 4], -1),
}  # fmt: skip
LOGARITHMS = {"log_softmax": jax.nn.log_softmax, "log_sigmoid": nn.log_sigmoid, "log": lambda z: jnp.log(manual(z)),
              "by hand": lambda z: z - jnp.log(jnp.exp(z).sum(-1, keepdims=True))}  # fmt: skip
LOGITS = {"log_softmax": jax.nn.log_softmax, "log": lambda z: jnp.log(manual(z)), "relu": nn.relu, "tanh": jnp.tanh,
          "less another's": lambda z: z - jax.nn.logsumexp(z[..., :2], -1, keepdims=True),
          "shares of another": lambda z: jnp.exp(z) / jnp.exp(z[..., :2]).sum(-1, keepdims=True)}  # fmt: skip


@pytest.mark.parametrize("end", [*PROBABILITIES, *LOGITS])
def test_probabilities_are_not_taken_for_logits(end):
    """Their softmax would be shown: 0.29 for 0.61."""
    params = {"w": np.ones((3, 6), "f4"), "out": np.ones((6, 5), "f4")}
    last = (PROBABILITIES | LOGITS)[end]
    net = lambda p, x: last(jaxcam.tag(nn.relu(x @ p["w"]), "map").mean((-3, -2)) @ p["out"])  # noqa: E731
    with pytest.raises(JaxcamError, match="probabilities") if end in PROBABILITIES else contextlib.nullcontext():
        jaxcam.wrap(net, params, preprocessing=RULES, classes=CLASSES)


@pytest.mark.parametrize("end", [*LOGARITHMS, "less another's", "relu"])
def test_logarithms_of_probabilities_have_no_sigmoid(end):
    params = {"w": np.ones((3, 6), "f4"), "out": np.ones((6, 5), "f4")}
    last = (LOGITS | LOGARITHMS)[end]
    net = lambda p, x: last(jaxcam.tag(nn.relu(x @ p["w"]), "map").mean((-3, -2)) @ p["out"])  # noqa: E731
    with pytest.raises(JaxcamError, match="logarithms") if end in LOGARITHMS else contextlib.nullcontext():
        jaxcam.wrap(net, params, preprocessing=RULES, classes=CLASSES, multi_label=True)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_logits_are_real_numbers(dtype):
    net = lambda p, x: jaxcam.tag(x * p["w"], "map").mean((-3, -2)).astype(dtype)  # noqa: E731
    with pytest.raises(JaxcamError, match=f"returns {dtype}"):
        jaxcam.wrap(net, {"w": np.ones(3, "f4")}, preprocessing=RULES, classes=["a", "b", "c"])


def test_an_unknown_layer_is_answered_with_those_that_can_be_cut_at():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.Conv(8, (3, 3), name="conv")(x)), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3), name="stem")(x)
            blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            x, _ = blocks(name="blocks")(x, None)
            return nn.Dense(5)(x.mean((1, 2)))

    variables = drawn(Net())
    with pytest.raises(JaxcamError, match="no layer called") as error:
        jaxcam.split(Net(), variables, at="nothing like it", example=IMAGE)
    assert "blocks[0]" not in str(error.value) and "blocks.conv" not in str(error.value)
    assert "stem" in str(error.value)


def test_frames_in_the_batch_are_cut_at_where_the_network_is_handed_over_for_one_example():
    class Video(nn.Module):
        @nn.compact
        def __call__(self, x):  # (b, t, h, w, 3)
            b, t = x.shape[:2]
            y = nn.relu(nn.Conv(6, (3, 3), 2, name="conv")(x.reshape(-1, *x.shape[2:])))
            return nn.Dense(3)(y.mean((1, 2)).reshape(b, t, -1).max(1))

    clip = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    model, given = Video(), {"at": "conv.relu", "example": clip}
    params = model.init(jax.random.key(1), clip[None])
    layout = jaxcam.Layout(lambda v: (v.reshape(-1, *v.shape[2:]), ()), lambda a, rest: a.reshape(4, -1, *a.shape[1:]))
    with pytest.raises(JaxcamError, match=r"call=lambda m, x: m\(x\[None\]\)\[0\], batched=False"):
        jaxcam.split(model, params, **given, layout=layout)
    features, head = jaxcam.split(model, params, **given, layout=layout, call=lambda m, x: m(x[None])[0], batched=False)
    activations = features(params, clip)
    assert activations.shape == (32, 8, 6)
    np.testing.assert_allclose(head(params, activations), model.apply(params, clip[None])[0], rtol=1e-5, atol=1e-6)
