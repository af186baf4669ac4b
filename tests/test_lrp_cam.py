"""LRP-CAM: on bundled networks, against captum's stored values, as Shapley values, and under jit, vmap and grad."""

from __future__ import annotations

import functools
import pathlib

import heads
import heads_programs
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from reference import seeded

from jaxcam.errors import JaxcamError
from jaxcam.methods.contribution import lrp_cam
from jaxcam.models.config import fold_batch_norm
from jaxcam.models.network import Part
from jaxcam.models.vgg import VGGConfig
from jaxcam.transforms.lrp import lrp
from jaxcam.transforms.lrp.layer_rules import AlphaBeta, Composite, Epsilon, Gamma
from jaxcam.transforms.walker import UnsupportedPrimitive
from jaxcam.zoo import load as zoo

REFERENCE = pathlib.Path(__file__).parent / "reference"
A = jnp.asarray(seeded.activations(5, heads.SHAPE), jnp.float32)
EVERY = {**heads.HEADS, **heads_programs.PROGRAMS}
#: Where an element is, and which branch is taken, are constants nearby to relevance.
REFUSED = {"division": "div", "exp_log": "exp", **{n: n for n in heads_programs.UNSUPPORTED if n == "while"}}
#: Heads on which every function is ReLU-like, a maximum or linear: there LRP-epsilon is activation x gradient.
RELU_LIKE = (
    "linear_gap vgg conv_relu_conv conv_relu_pool depthwise_conv batch_norm average_pool max_positions residual "
    "relu_twice shared_dense leaky_relu relu6 maxout scan remat nested_jit inner_vmap"
).split()


def close(got, want, tolerance):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert np.abs(got - want).max() < tolerance * np.abs(want).max()


def activation_times_gradient(head, params, a, target):
    return np.asarray(jnp.sum(a * jax.jit(jax.grad(lambda a: head(params, a)[target]))(a), axis=(0, 1)))


#: Heads whose layers with weights the other rules are tried on, too.
LAYERED = "vgg conv_relu_conv batch_norm residual sigmoid_gate squeeze_excite attention layer_norm scan".split()


@functools.cache
def of_head(name: str) -> dict:
    head = EVERY[name]
    rules = ["epsilon", "gamma"] if name in LAYERED else ["epsilon"]
    run = jax.jit(lambda p, a: {r: lrp_cam(p, a, head=head.fn, target=1, rule=r) for r in rules})
    return jax.tree.map(np.asarray, run(heads.to_jax(head.params), A.at[..., 2].set(0.0)))


@pytest.mark.parametrize("name", [n for n in EVERY if n not in REFUSED])
def test_relevance_is_conserved_on_every_head_and_a_dead_channel_gets_none(name):
    logit = jax.jit(EVERY[name].fn)(heads.to_jax(EVERY[name].params), A.at[..., 2].set(0.0))[1]
    for cam in of_head(name).values():
        d = {key: float(value) for key, value in cam.diagnostics.items() if not np.ndim(value)}
        assert d["logit"] == pytest.approx(float(logit), abs=1e-4)
        total = d["relevance_sum"] + d["absorbed_by_biases"] + d["absorbed_by_stabiliser"]
        size = max(1.0, *(abs(v) for v in d.values()))
        assert abs(total - d["logit"]) < 1e-5 * size and abs(d["conservation_gap"]) < 1e-5 * size
        assert float(cam.coefficients[2]) == 0


@pytest.mark.parametrize("name", RELU_LIKE)
def test_epsilon_is_activation_times_gradient_on_relu_like_heads(name):
    a = A.at[..., 2].set(0.0)
    want = activation_times_gradient(EVERY[name].fn, heads.to_jax(EVERY[name].params), a, 1)
    close(of_head(name)["epsilon"].coefficients, want, 2e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_an_operation_without_a_rule_is_an_error_that_names_it_and_its_place(name):
    head = {**EVERY, **heads_programs.UNSUPPORTED}[name]
    with pytest.raises(UnsupportedPrimitive) as error:
        lrp_cam(heads.to_jax(head.params), A, head=head.fn, target=1)
    assert error.value.primitive == REFUSED[name] and "heads" in error.value.place
    assert head.fn.__name__ in error.value.place and f"lrp has no rule for {REFUSED[name]!r}" in str(error.value)


def test_a_linear_head_has_its_shapley_values():
    head = heads.HEADS["linear_gap"]
    cam = lrp_cam(heads.to_jax(head.params), A, head=head.fn, target=2)
    close(cam.coefficients, np.asarray(A).mean((0, 1)) * head.params["w"][:, 2], 1e-6)
    assert float(cam.diagnostics["absorbed_by_biases"]) == pytest.approx(head.params["b"][2], rel=1e-5)


# --- other people's numbers -----------------------------------------------------------------------------------------


def test_rules_on_a_convolutional_head_are_captums():
    stored = np.load(REFERENCE / "captum_lrp.npz")
    seed, *shape, target = (int(v) for v in stored["case"])
    p, a = seeded.conv_head(seed, shape[2]), seeded.activations(seed + 1000, tuple(shape))
    assert seeded.digest({**p, "activations": a}) == str(stored["digest"]), "NumPy's random stream has changed"

    def score(a, p):
        layout = ("NHWC", "HWIO", "NHWC")
        for k, b, stride in (("k1", "b1", 2), ("k2", "b2", 1)):
            a = jax.lax.conv_general_dilated(a[None], p[k], (stride,) * 2, [(1, 1)] * 2, dimension_numbers=layout)[0]
            a = jax.nn.relu(a + p[b])
        a = jax.lax.reduce_window(a, 0.0, jax.lax.add, (2, 2, 1), (2, 2, 1), "VALID") / 4
        return (jax.nn.relu(a.reshape(-1) @ p["w3"] + p["b3"]) @ p["w4"] + p["b4"])[target]

    zero = {name: value * (name[0] != "b") for name, value in p.items()}
    cases = {
        "epsilon": (Epsilon(), p),
        "epsilon_large": (Epsilon(0.1), p),
        "gamma": (Composite(Gamma(), Gamma(), last=Epsilon()), zero),
        "alpha1_beta0": (Composite(AlphaBeta(), AlphaBeta(), last=Epsilon()), zero),
    }
    with jax.enable_x64(True):
        for name, (rule, weights) in cases.items():
            got = jax.jit(lrp(functools.partial(score, p=weights), rule))(jnp.asarray(a))
            # captum adds epsilon at ReLUs too, and divides where an activation vanished.
            close(got.relevance, stored[name], 1e-6)


def test_epsilon_on_a_vgg_head_is_captums():
    stored = np.load(REFERENCE / "captum_vgg.npz")
    for i in (0, 1):
        seed, h, w, k, hidden, classes, target = (int(v) for v in stored[f"case_{i}"])
        p, a = seeded.vgg_head(seed, (h, w, k), hidden, classes), seeded.activations(seed + 1000, (h, w, k))
        method = functools.partial(lrp_cam, head=heads.HEADS["vgg"].fn, target=target)
        with jax.enable_x64(True):
            cam = jax.jit(method)(heads.to_jax(p, jnp.float64), jnp.asarray(a))
        close(cam.coefficients, stored[f"lrp_epsilon_{i}"], 1e-5)


# --- networks of ours -----------------------------------------------------------------------------------------------


def test_epsilon_on_vgg16_is_activation_times_gradient():
    drawn = networks.network(VGGConfig(16, num_classes=4, width=0.1, hidden=16, pool_size=2), size=64)
    for network, shape in ((zoo.load("vgg16_slim"), None), (drawn, (4, 4, 51))):
        _, head = network.split(at="conv5_3")
        a = jnp.asarray(seeded.activations(3, shape or network.layer_shape("conv5_3")), jnp.float32)
        cam = jax.jit(functools.partial(lrp_cam, head=head, target=2))(network.params, a)
        close(cam.coefficients, activation_times_gradient(head, network.params, a, 2), 1e-5)
        assert abs(float(cam.diagnostics["absorbed_by_biases"])) > 1e-3  # else this could not tell it from DeepLIFT


def folded(tree):
    """Parameters with each bnX multiplied into its convX, as `fold_batch_norm` does, but in float64."""
    out = {}
    for name, value in tree.items():
        norm = tree.get("bn" + name[4:]) if name.startswith("conv") else None
        if norm is not None:
            gain = norm["scale"] / np.sqrt(norm["var"] + 1e-5)
            out[name] = {"kernel": value["kernel"] * gain, "bias": norm["bias"] - norm["mean"] * gain}
        elif not name.startswith("bn"):
            out[name] = folded(value) if isinstance(value, dict) else value
    return out


@pytest.mark.parametrize(("rule", "layer"), [("z_plus", "layer3"), ("gamma", "layer4.1"), ("epsilon_plus", "layer4.1")])
def test_rules_see_batch_norm_as_part_of_the_convolution(rule, layer):
    """Behind `layer3` there is a shortcut with a convolution and a norm of its own as well."""
    network = zoo.load("resnet50_slim")
    _, head = network.split(at=layer)
    config, same = fold_batch_norm(network.config, network.params)
    plain_head = Part(config, head.after, None)
    assert head.config.batch_norm and not config.batch_norm
    method = functools.partial(lrp_cam, target=1, rule=rule)
    params = jax.tree.map(lambda v: np.asarray(v, np.float64), network.params)
    a = seeded.activations(4, network.layer_shape(layer))
    assert jax.tree.all(jax.tree.map(lambda u, v: np.allclose(u, v, atol=1e-6), folded(params), same))
    with jax.enable_x64(True):
        got = jax.jit(functools.partial(method, head=head))(params, a)
        want = jax.jit(functools.partial(method, head=plain_head))(folded(params), a)
    close(got.coefficients, want.coefficients, 1e-7)
    for name in ("absorbed_by_biases", "relevance_sum"):
        assert float(got.diagnostics[name]) == pytest.approx(float(want.diagnostics[name]), rel=1e-7)


# --- as a function of JAX -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg", "residual", "attention", "scan"])
def test_batches_and_derivatives(name):
    head = EVERY[name].fn
    with jax.enable_x64(True):
        params, a = heads.to_jax(EVERY[name].params, jnp.float64), jnp.asarray(A, jnp.float64)
        batch, targets = jnp.stack([a, 0.5 * a[::-1], a[:, ::-1] + 0.1]), jnp.array([0, 2, 1])

        def alpha(a, target):
            return lrp_cam(params, a, head=head, target=target, rule="gamma").coefficients

        direction, weights = seeded.activations(9, heads.SHAPE), np.arange(1.0, heads.CHANNELS + 1)

        @jax.jit
        def everything(batch, targets, t):
            def along(t):
                return alpha(a + 0.05 + t * direction, 1) @ weights

            one = jax.lax.map(lambda given: alpha(*given), (batch, targets))
            return one, jax.vmap(alpha)(batch, targets), jax.lax.map(jax.value_and_grad(along), t)

        one, many, ((_, up, down), slopes) = everything(batch, targets, jnp.array([0.0, 1e-6, -1e-6]))
        for i in range(3):
            close(many[i], one[i], 1e-9)
        assert float(slopes[0]) == pytest.approx(float(up - down) / 2e-6, rel=1e-4)


def test_eager_and_compiled_agree_and_a_new_class_does_not_compile_again():
    head, params = EVERY["vgg"].fn, heads.to_jax(EVERY["vgg"].params)
    compiled = jax.jit(lambda p, a, t: lrp_cam(p, a, head=head, target=t, rule="epsilon_gamma"))
    for target in range(3):
        want = lrp_cam(params, A, head=head, target=target, rule=Composite(Gamma(), Epsilon()))
        close(compiled(params, A, jnp.array(target)).coefficients, want.coefficients, 1e-5)
    assert compiled._cache_size() == 1


def test_a_softmax_cannot_be_explained_but_a_difference_of_logits_can():
    head, params = EVERY["vgg"].fn, heads.to_jax(EVERY["vgg"].params)
    with pytest.raises(UnsupportedPrimitive, match="softmax, other than as weights"):
        lrp_cam(params, A, head=head, target=lambda z: jax.nn.softmax(z)[0])
    asked = [lambda z: z[0] - z[1], 0, 1]
    run = jax.jit(lambda p, a: [lrp_cam(p, a, head=head, target=t).coefficients for t in asked])
    difference, *each = run(params, A)
    close(difference, each[0] - each[1], 1e-5)


def test_a_head_that_ignores_its_input_gives_zero_and_says_where_the_logit_went():
    cam = lrp_cam({"b": jnp.array([1.0, 2.0])}, A, head=lambda p, a: p["b"], target=1)
    assert not cam.coefficients.any() and float(cam.diagnostics["absorbed_by_biases"]) == 2
    with pytest.raises(JaxcamError, match="must have shape"):
        lrp_cam({}, A[0], head=lambda p, a: a, target=0)
