"""The full gradient is all of the value, on any head; biases are where the program adds them; FullGrad by hand."""

from __future__ import annotations

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import seeded

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.methods.full_grad import full_grad
from jaxcam.transforms.full_gradient import full_gradient

A = jnp.asarray(seeded.activations(7, heads.SHAPE), jnp.float32)
NAMES = [
    "linear_gap", "vgg", "conv_relu_conv", "batch_norm", "max_positions", "residual", "relu_twice", "gelu_tanh",
    "squeeze_excite", "attention", "layer_norm", "l2_normalise", "exp_log",
]  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    """All heads in one program."""

    def of(name, params, a):
        return full_gradient(lambda a: heads.HEADS[name].fn(params, a)[1])(a)

    @jax.jit
    def run(a):
        params = {name: heads.to_jax(heads.HEADS[name].params) for name in NAMES}
        slopes = {n: jax.grad(lambda a, n=n: heads.HEADS[n].fn(params[n], a)[1])(a) for n in NAMES}
        return {name: of(name, params[name], a) for name in NAMES}, slopes

    return jax.tree.map(np.asarray, run(A))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_biases_are_all_of_the_value(parts, name):
    part, slope = parts[0][name], parts[1][name]
    summands = [part.inputs, *part.biases]
    scale = sum(np.abs(s).sum(dtype=np.float64) for s in summands)
    assert abs(sum(s.sum(dtype=np.float64) for s in summands) - part.value) < 2e-6 * scale
    np.testing.assert_allclose(part.inputs, A * slope, rtol=1e-4, atol=1e-6)


def test_a_convolutions_bias_and_its_batch_norm_are_one():
    p = {k: v.astype(np.float64) for k, v in heads.HEADS["batch_norm"].params.items()}
    with jax.enable_x64(True):
        params = heads.to_jax(p, jnp.float64)
        part = jax.jit(full_gradient(lambda a: heads.HEADS["batch_norm"].fn(params, a)[1]))(A.astype(jnp.float64))
        part = jax.tree.map(np.asarray, part)
    gain = p["scale"] / np.sqrt(p["var"] + 1e-5)
    offset = (p["b1"] - p["mean"]) * gain + p["bias"]
    z = np.asarray(A, np.float64) @ p["w1"] * gain + offset
    effect = (z > 0) * p["w2"][:, 1] / heads.POSITIONS
    first, last = part.biases
    np.testing.assert_allclose(first, offset * effect, rtol=1e-9)
    np.testing.assert_allclose(last.sum(), p["b2"][1], rtol=1e-9)


def slow(p, a, target):
    """Srinivas & Fleuret 2019, eq. 8, on `conv_relu_conv`: |g a| and |b dF/db| of the hidden map, each scaled to [0, 1]
    over the layer, summed over channels. The hidden map has the size of the layer."""

    def psi(x):
        x = np.abs(x)
        return (x - x.min()) / (x.max() - x.min())

    def conv(x, k):
        x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        return np.stack([[np.einsum("ijc,ijco->o", x[i : i + 3, j : j + 3], k) for j in range(4)] for i in range(4)])

    def logit(a, bias):
        return (conv(np.maximum(conv(a, p["k1"]) + bias, 0), p["k2"]).mean((0, 1)) + p["b2"])[target]

    bias = np.broadcast_to(p["b1"], (4, 4, heads.D)).copy()

    def slopes(x, f):
        out, step = np.zeros_like(x), 1e-6
        for i in np.ndindex(x.shape):
            up, down = x.copy(), x.copy()
            up[i] += step
            down[i] -= step
            out[i] = (f(up) - f(down)) / (2 * step)
        return out

    g, b = slopes(a, lambda a: logit(a, bias)), slopes(bias, lambda bias: logit(a, bias))
    return psi(g * a).sum(-1) + psi(b * bias).sum(-1), (g * a).sum(), (b * bias).sum()


@functools.cache
def compiled(name):
    return jax.jit(lambda p, a, t: full_grad(p, a, head=heads.HEADS[name].fn, target=t))


def test_full_grad_is_the_slow_one():
    p = heads.HEADS["conv_relu_conv"].params
    got = compiled("conv_relu_conv")(heads.to_jax(p), A, 1)
    map, inputs, placed = slow(p, np.asarray(A, np.float64), 1)
    np.testing.assert_allclose(got.map, map, rtol=1e-4, atol=1e-5)
    told = got.diagnostics
    np.testing.assert_allclose([told["input_part"], told["placed_part"]], [inputs, placed], rtol=1e-4)
    np.testing.assert_allclose(told["bias_part"], placed + p["b2"][1], rtol=1e-4)
    assert abs(told["full_gradient_gap"]) < 1e-5


def test_biases_of_dense_layers_have_no_place():
    got = compiled("vgg")(heads.to_jax(heads.HEADS["vgg"].params), A, 1)
    assert got.diagnostics["placed_part"] == 0 and abs(got.diagnostics["bias_part"]) > 0.1
    own = np.abs(A * jax.grad(lambda a: heads.HEADS["vgg"].fn(heads.to_jax(heads.HEADS["vgg"].params), a)[1])(A))
    np.testing.assert_allclose(got.map, ((own - own.min()) / np.ptp(own)).sum(-1), rtol=1e-5, atol=1e-6)


def test_a_whole_network_from_its_pixels():
    """The paper's: on vgg16_slim, ReLUs and maxima between, the input's part and all biases are the logit."""
    network = jaxcam.load("vgg16_slim")
    image = jnp.asarray(np.random.default_rng(0).normal(size=(32, 32, 3)), jnp.float32)
    got = jax.jit(lambda p, x: full_grad(p, x, head=network.predict, target=3))(network.params, image)
    told = got.diagnostics
    scale = abs(told["input_part"]) + abs(told["bias_part"]) + abs(told["logit"])
    assert abs(told["full_gradient_gap"]) < 1e-5 * scale
    assert abs(told["bias_part"]) > 0.05 * scale and told["placed_part"] != told["bias_part"]
    assert got.map.shape == (32, 32) and (got.map > 0).all()


TRIANGLE = jnp.tril(jnp.ones((16, 16), bool))


@pytest.mark.parametrize(
    "head",
    [
        lambda t: jax.nn.softmax(jnp.where(TRIANGLE, t @ t.T, -jnp.inf), -1) @ t,
        lambda t: jax.nn.softmax((t @ t.T + jnp.where(TRIANGLE, 0, -jnp.inf)) * 0.3, -1) @ t,
        lambda t: jax.nn.softmax(t @ t.T, -1, where=TRIANGLE) @ t,
        lambda t: jax.nn.logsumexp(jnp.where(TRIANGLE, t @ t.T, -jnp.inf), -1),
        lambda t: jnp.tanh(jnp.where(TRIANGLE, t @ t.T, jnp.inf)),
        lambda t: jax.lax.cummax(jnp.pad(t - 0.2, ((1, 1), (0, 0)), constant_values=-jnp.inf))[1:],
    ],
    ids=["where", "added", "softmax's own", "logsumexp", "tanh of infinity", "padding of a maximum"],
)
def test_a_mask_of_infinity_is_no_bias(head):
    fn = lambda x: head(x).sum()  # noqa: E731
    x = jax.random.normal(jax.random.key(4), (16, 3))
    part = jax.jit(full_gradient(fn))(x)
    sums = [float(v.sum()) for v in (part.inputs, *part.biases)]
    assert abs(sum(sums) - fn(x)) < 1e-5 * sum(map(abs, sums))


def test_loops_branches_own_derivatives_and_what_goes_wrong():
    @jax.custom_vjp
    def backwards_only(x):
        return jnp.sin(x)

    backwards_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, t: (jnp.cos(x) * t,))

    def odd(x):
        x, _ = jax.lax.scan(lambda c, w: (jax.nn.relu(c * w + 0.1), None), x, jnp.asarray([0.5, -2.0, 1.5]))
        x = jax.lax.cond(True, lambda v: v + 1, lambda v: v * 2, x) + backwards_only(x)
        return jnp.sum(x * jnp.where(x > 0.5, 2.0, 3.0)) + x[jnp.argmax(x)]

    x = jnp.asarray([0.3, -1.0, 2.0, 0.7])
    part = jax.jit(full_gradient(odd))(x)
    np.testing.assert_allclose(part.value, odd(x), rtol=1e-6)
    total = part.inputs.sum() + sum(b.sum() for b in part.biases)
    np.testing.assert_allclose(total, part.value, rtol=1e-5)
    for steps in (
        lambda x: jnp.float32(2.0),
        lambda x: jnp.sum(x > 0).astype(x.dtype),
    ):  # no slope: all of it is a bias
        value, inputs, (bias,) = full_gradient(steps)(x)
        assert value == bias.sum() == steps(x) and not inputs.any()
    with pytest.raises(JaxcamError, match="one scalar result"):
        full_gradient(lambda x: x)(x)


def test_what_prints_goes_on_printing(capfd):
    def fn(x):
        jax.debug.print("seen {}", x.sum())
        return jnp.tanh(x).sum()

    x = jnp.asarray([0.25, 0.5])
    part = jax.jit(full_gradient(fn))(x)
    np.testing.assert_allclose(part.inputs.sum() + sum(b.sum() for b in part.biases), fn(x), rtol=1e-6)
    jax.effects_barrier()
    assert capfd.readouterr().out == "seen 0.75\n" * 2


def test_where_there_is_no_derivative_there_is_no_map():
    """The norm of a dead channel has none; its parts were NaN, and the map zeros in their place."""
    head = lambda p, x: (x * jnp.sqrt(jnp.sum(x**2, (0, 1)))).mean((0, 1)) @ p  # noqa: E731
    got = full_grad(jnp.ones((A.shape[-1], 2)), A.at[..., 1].set(0), head=head, target=0)
    assert jnp.isnan(got.map).all() and jnp.isnan(got.diagnostics["full_gradient_gap"])
