"""Parameter randomisation: the order of the layers, what is made anew, and the curves that methods get."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import RESNET, VGG, network, picture

from jaxcam.errors import JaxcamError
from jaxcam.evaluate.randomisation import parameter_randomisation
from jaxcam.metrics.randomisation import histogram_entropy, layer_order, randomised
from jaxcam.models.trees import flatten


def test_layers_come_in_the_order_of_their_use():
    net = network(VGG, size=32)
    order = layer_order(net.whole, net.params, jnp.zeros((32, 32, 3)))
    convs = [name for name in net.layers if name.startswith("conv")]
    assert [o.rpartition(".")[2] or o for o in order][: len(convs)] == convs and len(order) == len(convs) + 3
    deep = network(RESNET, size=32)
    order = layer_order(deep.whole, deep.params, jnp.zeros((32, 32, 3)))
    assert len(order) == len({p.rpartition(".")[0] for p in flatten(deep.params)})
    assert order[0].startswith("conv1") and "fc" in order[-1]
    assert [o.split(".")[0] for o in order] == sorted((o.split(".")[0] for o in order), key=order_of)


def order_of(name):
    return ("conv1", "layer1", "layer2", "layer3", "layer4", "fc").index(name)


def test_layers_of_any_function():
    @jax.jit
    def inner(w, x):
        return jax.nn.relu(x @ w["kernel"].T + w["bias"])

    def whole(p, x):
        return jax.checkpoint(inner)(p["b"], inner(p["a"], x)) * p["scale"] + p["step"].sum()

    params = {
        "a": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(4)},
        "b": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(2)},
        "scale": jnp.ones(()), "step": jnp.ones(3, int), "unused": jnp.ones(5),
    }  # fmt: skip
    assert layer_order(whole, params, jnp.ones(3)) == ("a", "b", "scale")
    with pytest.raises(JaxcamError, match="uses none of its parameters"):
        layer_order(lambda p, x: x, params, jnp.ones(3))


def test_what_is_made_anew_has_the_size_of_before_training():
    params = {
        "a": {"kernel": jnp.linspace(-3.0, 1.0, 4000).reshape(40, 100), "bias": jnp.arange(1.0, 6.0)},
        "b": {"kernel": jnp.arange(6.0).reshape(2, 3)},
    }
    once, again, other = (randomised(params, ["a"], seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(once["b"]["kernel"], params["b"]["kernel"])
    drawn, size = np.asarray(once["a"]["kernel"]), np.sqrt(2 / 40)
    assert drawn.std() == pytest.approx(size, rel=0.05) and abs(drawn.mean()) < 0.1 * size and drawn.dtype == np.float32
    assert sorted(once["a"]["bias"].tolist()) == [1, 2, 3, 4, 5]  # which stay positive, as variances must
    for name in params["a"]:
        np.testing.assert_array_equal(once["a"][name], again["a"][name])
        assert (np.asarray(once["a"][name]) != np.asarray(other["a"][name])).any()
    # One more layer leaves those before it as they were.
    np.testing.assert_array_equal(randomised(params, ["a", "b"])["a"]["kernel"], once["a"]["kernel"])


def test_histogram_entropy():
    rng = np.random.default_rng(0)
    s = np.append(rng.uniform(size=63), 1.0).astype(np.float32).reshape(8, 8)
    counts = np.histogram(s.astype(np.float64), bins=100, range=(0, 1))[0] / s.size
    wanted = -sum(p * math.log(p) for p in counts if p)
    assert histogram_entropy(jnp.asarray(s)) == pytest.approx(wanted, abs=1e-5)
    assert histogram_entropy(jnp.zeros((3, 3))) == 0 and np.isnan(histogram_entropy(jnp.full((3, 3), jnp.nan)))


@functools.cache
def curves(**options):
    pictures = [picture(36, 40, seed=i) for i in range(4)]
    return parameter_randomisation(network(VGG, size=32), pictures, batch_size=4, **options)


def test_curves():
    done = []
    found = curves(
        methods=("grad_cam", "eigen_cam"), stages=3, similarity="spearman", progress=lambda *x: done.append(x)
    )
    assert found.methods == ("grad_cam", "eigen_cam") and done == [(i + 1, 4) for i in range(4)]
    assert len(found.layers) == 4 and found.layers[0] == "" and found.layers[1].split("+")[0].endswith("fc8")
    assert found.values.shape == (4, 2, 4) and np.abs(found.values).max() <= 1
    np.testing.assert_allclose(found.values[..., 0], 1, atol=1e-5)
    np.testing.assert_allclose(found.curve.mean, found.values.mean(0), rtol=1e-6)
    assert (found.curve.low <= found.curve.mean + 1e-9).all() and found.rise.mean.shape == (2,)
    # Eigen-CAM knows nothing of the class: while only the dense layers forget, its maps stay.
    alone = curves(methods=("eigen_cam", "grad_cam"), stages=11, similarity="ssim")
    dense = [i for i, name in enumerate(alone.layers) if "conv" not in name and name]
    np.testing.assert_allclose(alone.values[:, 0, dense], 1, atol=1e-4)
    assert alone.values[:, 1, dense].mean() < 0.999 and alone.values[..., -1].mean() < 0.9


def test_smooth_maps_and_targets():
    found = curves(methods=("grad_cam",), targets=("tench", 1, 2, 3), stages=1, samples=2, bottom_up=True)
    assert found.layers[1].split("+")[0].endswith("conv1_1") and np.isfinite(found.values).all()
    for options, message in (
        ({"similarity": "hog"}, "no similarity called 'hog'"), ({"samples": 0}, "at least one sample"),
    ):  # fmt: skip
        with pytest.raises(JaxcamError, match=message):
            curves(**options)
    with pytest.raises(JaxcamError, match="no pictures"):
        parameter_randomisation(network(VGG, size=32), [])
