"""AttnLRP: relevance through the softmax of an attention, against a slow version; without it all is as it was."""

from __future__ import annotations

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import seeded

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.transforms.lrp import lrp

A = seeded.activations(7, heads.SHAPE)
HEAD = heads.HEADS["attention"]


def slow(p, a, target):
    """Achtibat et al. 2024 on one attention, with the epsilon rule of epsilon 0 for all that is linear: half of a
    product to each factor (eq. 15), and the softmax by eq. 13. Relevance of the activations, and of the weights."""
    t = a.reshape(heads.POSITIONS, heads.CHANNELS)
    q, k, v = (t @ p[n] + p["b" + n] for n in "qkv")
    scores = q @ k.T / np.sqrt(heads.D)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    h = weights @ v
    to_h = h * p["w2"][:, target] / heads.POSITIONS
    s = to_h / h / 2
    to_weights, to_v = weights * (s @ v.T), v * (weights.T @ s)
    to_scores = scores * (to_weights - weights * to_weights.sum(1, keepdims=True))
    s = to_scores / (q @ k.T) / 2
    to_q, to_k = q * (s @ k), k * (s.T @ q)
    back = sum(t * ((r / x) @ p[n].T) for r, x, n in ((to_q, q, "q"), (to_k, k, "k"), (to_v, v, "v")))
    return back.reshape(a.shape), to_v


def test_relevance_through_a_softmax_is_the_slow_one_and_conserved():
    with jax.enable_x64(True):
        params = heads.to_jax(HEAD.params, jnp.float64)
        made = jax.jit(lrp(lambda a: HEAD.fn(params, a)[1], epsilon=0.0, attention="attnlrp"))
        explained = jax.tree.map(np.asarray, made(jnp.asarray(A)))
        plain = jax.jit(lrp(lambda a: HEAD.fn(params, a)[1], epsilon=0.0))
        fixed = jax.tree.map(np.asarray, plain(jnp.asarray(A)))
    want, _ = slow(HEAD.params, A, 1)
    np.testing.assert_allclose(explained.relevance, want, rtol=0, atol=1e-8 * np.abs(want).max())
    parts = [explained.relevance.sum(), *explained.absorbed.values()]
    np.testing.assert_allclose(np.sum(parts), explained.value, rtol=1e-8)
    assert np.abs(explained.relevance - fixed.relevance).max() > 0.1 * np.abs(fixed.relevance).max()


def test_with_and_without_a_maximum_taken_off_it_is_one_softmax():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)

    def mixed(softmax):
        return lambda a: jnp.sum((softmax((a @ w[:, :2]) @ (a @ w[:, :2]).T) @ (a @ w[:, 2:])) * jnp.arange(1.0, 3.0))

    tokens = jnp.asarray(A.reshape(heads.POSITIONS, -1)[:5], jnp.float32)
    plain = lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True)  # noqa: E731

    def once(x):
        e = jnp.exp(x)
        return e / jnp.sum(e, -1, keepdims=True)

    one, other = (jax.jit(lrp(mixed(f), attention="attnlrp"))(tokens).relevance for f in (jax.nn.softmax, once))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(jnp.abs(one).max()))
    np.testing.assert_allclose(mixed(plain)(tokens), mixed(once)(tokens), rtol=1e-5)


@pytest.mark.parametrize("name", ["layer_norm", "vgg", "squeeze_excite"])
def test_where_there_is_no_attention_nothing_changes(name):
    head = heads.HEADS[name]
    params, a = heads.to_jax(head.params), jnp.asarray(A, jnp.float32)

    @jax.jit
    def both(a):
        return [lrp(lambda a: head.fn(params, a)[1], attention=way)(a).relevance for way in ("fixed", "attnlrp")]

    np.testing.assert_array_equal(*both(a))


def test_as_an_option_of_the_methods():
    params, a = heads.to_jax(HEAD.params), jnp.asarray(A, jnp.float32)

    @jax.jit
    def run(a):
        explain = lambda m, **o: m(params, a, head=HEAD.fn, target=1, **o)  # noqa: E731
        return [explain(m, attention="attnlrp") for m in (jaxcam.lrp_cam, jaxcam.hires_lrp_cam)]

    one, other = run(a)
    want, _ = slow(HEAD.params, A, 1)
    np.testing.assert_allclose(one.coefficients, want.sum((0, 1)), rtol=0, atol=1e-4 * np.abs(want).sum((0, 1)).max())
    np.testing.assert_allclose(other.map, np.maximum(want.sum(-1), 0), rtol=0, atol=1e-4 * np.abs(want).sum(-1).max())
    assert abs(one.diagnostics["conservation_gap"]) < 1e-4
    with pytest.raises(JaxcamError, match="no way with attention called 'atnlrp'; did you mean attnlrp"):
        jaxcam.lrp_cam(params, a, head=HEAD.fn, target=1, attention="atnlrp")
