"""Maxima of what is made of a product and a sum: XLA computes that twice, and not alike; no derivative may be lost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcam
from jaxcam.transforms import fast_convolutions, for_cpu
from jaxcam.transforms.deeplift import deeplift
from jaxcam.transforms.full_gradient import full_gradient
from jaxcam.transforms.lrp import lrp

pytestmark = pytest.mark.usefixtures("optimised")

SHAPE = (4, 4, 5)
PLACES = jnp.cos(jnp.arange(20.0))
FUNCTIONS = {
    "max": lambda x, s, b: jnp.ravel(jnp.max(x * s + b, 1)) @ PLACES,
    "min": lambda x, s, b: jnp.ravel(jnp.min(x * s + b, 0)) @ PLACES,
    "map": lambda x, s, b: jnp.max(x * 1.3 + 0.1, (0, 1)) @ PLACES[:5],
    "swish": lambda x, s, b: jnp.max(jax.nn.silu(x * s + b), (0, 1)) @ PLACES[:5],
    "winner": lambda x, s, b: jnp.sum(x * (x * s + b == jnp.max(x * s + b, 0)), (0, 1)) @ PLACES[:5],
}


def draw(seed):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (SHAPE, SHAPE[-1:], SHAPE[-1:], SHAPE)]


@pytest.mark.parametrize("rewriting", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_where_networks_run_are_those_of_operations_one_by_one(name, rewriting):
    valued = jax.value_and_grad(FUNCTIONS[name])
    with fast_convolutions(rewriting):
        run = jax.jit(for_cpu(valued))
        for seed in range(8):
            x, scale, bias, _ = draw(seed)
            with jax.disable_jit():
                expected = valued(x, scale, bias)
            for found, right in zip(run(x, scale, bias), expected, strict=True):
                np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "winner"])  # which is another function when compiled
def test_explanations_add_up_in_a_program_of_the_users(name):
    @jax.jit
    def run(x, scale, bias, reference):
        fn = lambda x: FUNCTIONS[name](x, scale, bias)  # noqa: E731
        full, relevance = full_gradient(fn)(x), lrp(fn)(x)
        multipliers = [jax.grad(lambda x, r=r: deeplift(fn)(x, r))(x) for r in (reference, jnp.zeros_like(x))]
        drops = [fn(x) - fn(r) for r in (reference, jnp.zeros_like(x))]
        alone = jax.grad(lambda x: deeplift(fn)(x))(x)
        return (
            (jnp.sum(multipliers[0] * (x - reference)), drops[0]),
            (jnp.sum(multipliers[1] * x), drops[1]),
            (jnp.sum(alone * x), drops[1]),
            (full.inputs.sum() + sum(b.sum() for b in full.biases), fn(x)),
            (relevance.relevance.sum() + sum(relevance.absorbed.values()), fn(x)),
        )

    for seed in range(8):
        for found, right in run(*draw(seed)):
            np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)


def test_a_map_behind_a_norm_and_a_maximum():
    """As of a network that ends in a batch norm and the maximum of each map."""
    rng = np.random.default_rng(3)
    scale, bias, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((8,), (8,), (8, 3)))

    def network(params, x):
        a = jaxcam.tag(jax.nn.relu(x @ params["in"]), "map")
        return jnp.max(a * params["scale"] + params["bias"], (0, 1)) @ params["out"]

    params = {"in": jnp.asarray(rng.normal(size=(3, 8)), jnp.float32), "scale": scale, "bias": bias, "out": w}
    plain = jaxcam.Preprocessing(size=8, resize="squash", resize_to=8)
    wrapped = jaxcam.wrap(network, params, preprocessing=plain, classes=("a", "b", "c"))
    picture = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    found = jaxcam.explain(wrapped, picture, methods=["grad_cam", "lift_cam"], targets="b")
    features, head = wrapped.split()
    with jax.disable_jit():
        a = features(params, wrapped.preprocess(picture))
        slopes = jax.grad(lambda a: head(params, a)[1])(a).mean((0, 1))
        drop = head(params, a)[1] - head(params, 0 * a)[1]
    np.testing.assert_allclose(found["grad_cam"].coefficients, slopes, rtol=1e-4, atol=1e-5)
    assert abs(found["lift_cam"].coefficients.sum() - drop) < 1e-4 * max(1, abs(drop))
    alone = jax.jit(lambda a: jaxcam.lift_cam(params, a, head=head, target=1).coefficients)(a)
    np.testing.assert_allclose(alone, found["lift_cam"].coefficients, rtol=1e-4, atol=1e-5)
