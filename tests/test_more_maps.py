"""KPCA-CAM against scikit-learn, Relevance-CAM against two propagations, and the uniform map as a control."""

from __future__ import annotations

import functools

import heads
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from evaluations import pictures
from reference import seeded
from wrapped import made, wrapped

import jaxcam
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.methods.maps import scale_map
from jaxcam.transforms.lrp import lrp

A = jnp.asarray(seeded.activations(7, heads.SHAPE), jnp.float32)
LINEAR = heads.HEADS["linear_gap"]
PARAMS = heads.to_jax(LINEAR.params)


@functools.cache
def kpca(**options):
    return jax.jit(lambda a: jaxcam.kpca_cam(PARAMS, a, head=LINEAR.fn, target=1, **options))


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear"])
def test_kpca_cam_is_scikit_learns_with_a_sign(kernel):
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = np.asarray(A, np.float64).reshape(-1, heads.CHANNELS)
    rows = rows - rows.mean(0)
    peer = decomposition.KernelPCA(n_components=1, kernel=kernel, gamma=0.3).fit_transform(rows)[:, 0]
    peer *= np.sign(peer @ rows.sum(1))
    got = kpca(kernel=kernel, gamma=0.3)(A)
    np.testing.assert_allclose(got.diagnostics["signed_map"].ravel(), peer, atol=1e-4 * np.abs(peer).max())
    np.testing.assert_allclose(got.map.ravel(), np.maximum(peer, 0), atol=1e-4 * np.abs(peer).max())
    assert np.ptp(got.coefficients) == 0


def test_kpca_cam_of_the_linear_kernel_is_the_component_of_centred_activations():
    rows = np.asarray(A, np.float64).reshape(-1, heads.CHANNELS)
    rows = rows - rows.mean(0)
    u, s, _ = np.linalg.svd(rows)
    want = u[:, 0] * s[0] * np.sign(u[:, 0] @ rows.sum(1))
    np.testing.assert_allclose(kpca(kernel="linear")(A).diagnostics["signed_map"].ravel(), want, atol=1e-4 * s[0])


def test_kpca_cam_where_there_is_no_component():
    for a in (0 * A, jnp.ones_like(A), A - A.mean(-1, keepdims=True)):  # dead, constant, and without a sign
        got = kpca()(a)
        assert np.isfinite(got.map).all()
    assert not kpca()(0 * A).map.any() and not kpca()(jnp.ones_like(A)).map.any()
    slope = jax.grad(lambda a: kpca()(a).coefficients.sum())(0 * A)
    assert np.isfinite(slope).all()
    with pytest.raises(JaxcamError, match="no kernel called 'rbg'; did you mean rbf"):
        jaxcam.kpca_cam(PARAMS, A, head=LINEAR.fn, target=1, kernel="rbg")
    with pytest.raises(JaxcamError, match="4096 positions or fewer, not 70 x 60"):
        jaxcam.kpca_cam(PARAMS, jnp.ones((70, 60, heads.CHANNELS)), head=LINEAR.fn, target=1)


@pytest.mark.parametrize("name", ["vgg", "conv_relu_conv"])
def test_relevance_cam_is_the_class_less_all_others(name):
    """Lee et al. 2021: relevance is linear in what it begins with, so it is the class's own, less that of every other
    class begun with z_c / (C - 1)."""
    head, params, target = heads.HEADS[name].fn, heads.to_jax(heads.HEADS[name].params), 1

    @jax.jit
    def both(params, a):
        got = jaxcam.relevance_cam(params, a, head=head, target=target)
        z = head(params, a)
        each = jnp.stack([lrp(lambda a, c=c: head(params, a)[c], "z_plus")(a).relevance for c in range(heads.CLASSES)])
        weight = jnp.full(heads.CLASSES, -1 / (heads.CLASSES - 1)).at[target].set(1) * z[target] / z
        return got, jnp.einsum("c,chwk->k", weight, each)

    got, want = jax.tree.map(np.asarray, both(params, A))
    np.testing.assert_allclose(got.coefficients, want, atol=1e-5 * np.abs(want).max())
    told = got.diagnostics
    assert abs(told["conservation_gap"]) < 1e-5 * np.abs(got.coefficients).sum()
    np.testing.assert_allclose(
        told["relevance_sum"] + told["absorbed_by_biases"] + told["absorbed_by_stabiliser"], 0,
        atol=1e-5 * np.abs(got.coefficients).sum(),
    )  # fmt: skip


def test_relevance_cam_of_functions():
    head, params = heads.HEADS["vgg"].fn, heads.to_jax(heads.HEADS["vgg"].params)

    @jax.jit
    def run(a):
        explain = functools.partial(jaxcam.relevance_cam, params, a, head=head)
        return [explain(target=t).coefficients for t in (1, lambda z: z[1], lambda z: 2 * z[1], lambda z: z.sum())]

    by_index, picked, twice, everything = run(A)
    np.testing.assert_allclose(picked, by_index, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(twice, 2 * by_index, rtol=1e-4, atol=1e-6)
    assert np.isfinite(everything).all() and everything.any()
    with pytest.raises(JaxcamError, match="one scalar result"):
        lrp(lambda a: head(params, a))(A)


def test_the_uniform_map_is_no_empty_map_and_keeps_all_of_a_picture(tmp_path):
    network = networks.network(networks.VGG, size=32)
    (explanation,) = jaxcam.explain(network, networks.picture(40, 50, 1), methods=["uniform_cam", "random_cam"])
    uniform, random = explanation.results
    assert uniform.empty is None and (uniform.map == 1).all() and (uniform.heatmap == 1).all()
    assert random.heatmap.min() == 0
    data = pictures(tmp_path / "data", each=1, broken=False)
    run = evaluate(network, data, methods=["uniform", "grad_cam"], metrics=["ad"], out=tmp_path / "run", batch_size=4)
    uniform = run.columns["ad"][run.columns["method"] == "uniform_cam"]
    assert len(uniform) == len(run.columns["ad"]) / 2
    np.testing.assert_allclose(uniform, 0, atol=1e-3)


@pytest.mark.parametrize("kind", ["own", "wrapped"])
def test_the_layer_in_front_of_all_others_is_the_picture(kind):
    network = networks.network(networks.VGG, size=32) if kind == "own" else wrapped(made("function_tagged"))
    features, head = network.split(at="input")
    again, _ = network.split(at="input")
    assert again == features and hash(again) == hash(features) and head == network.whole
    assert network.resolve_layer("input") == "input" and "input" not in network.layers
    assert network.layer_shape("input") == network.preprocessing.shape
    picture = networks.picture(40, 50, 1)
    (explanation,) = jaxcam.explain(network, picture, methods=["hires_cam", "hires_lift_cam"], layer="input")
    gradient, lift = explanation.results
    x = network.preprocess(picture)
    slope = jax.jit(jax.grad(lambda x, p: network.predict(p, x)[gradient.target]))(x, network.params)
    want = np.asarray(slope * x, np.float64)
    assert explanation.layer == "input" and gradient.map.shape == x.shape[:2] and gradient.heatmap.shape == (40, 50)
    np.testing.assert_allclose(gradient.map, np.maximum(want.sum(-1), 0), atol=1e-5 * np.abs(want).max())
    assert abs(lift.completeness_gap) < 1e-3


def test_scaled_from_zero():
    map = jnp.asarray([[2.0, 4.0], [-1.0, 3.0]])
    np.testing.assert_allclose(scale_map(map, from_zero=True), [[0.5, 1.0], [0.0, 0.75]])
    np.testing.assert_array_equal(scale_map(jnp.full((2, 2), 7.0), from_zero=True), np.ones((2, 2)))
    np.testing.assert_array_equal(scale_map(jnp.zeros((2, 2)), from_zero=True), np.zeros((2, 2)))
    assert jaxcam.why_empty(np.full((2, 2), 7.0), np.ones(3), np.ones((2, 2, 3)), from_zero=True) is None
    assert "every coefficient" in jaxcam.why_empty(np.zeros((2, 2)), np.zeros(3), np.ones((2, 2, 3)), from_zero=True)
