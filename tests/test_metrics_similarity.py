"""How alike two maps are, and whether maps stay: against float64 and SciPy, by hand, and in a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracle_faithfulness as oracle
import pytest
from evaluations import pictures, tiny

from jaxcam import metrics
from jaxcam.evaluate import evaluate
from jaxcam.explanation.engine import Engine
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.methods.registry import request
from jaxcam.metrics.stability import flipped_map

alike = {name: jax.jit(getattr(metrics, name)) for name in ("pearson", "spearman", "ssim")}
wanted = {"pearson": oracle.correlation, "spearman": oracle.rank_correlation, "ssim": oracle.structural_similarity}


@pytest.mark.parametrize("name", alike)
def test_similarity_is_that_of_the_definition(name):
    rng = np.random.default_rng(0)
    for mixed in (0.0, 0.5, 2.0):
        a, b = np.maximum(rng.normal(size=(2, 14, 17)), 0).astype(np.float32)  # half of them zeros, which are ties
        b = (b + np.float32(mixed) * a).astype(np.float32) / np.float32(1 + mixed)
        assert alike[name](a, b) == pytest.approx(wanted[name](a, b), abs=2e-5)
    assert alike[name](a, a) == pytest.approx(1, abs=1e-6)
    flat = np.full((14, 17), 0.1, np.float32)
    assert alike[name](a, flat) == pytest.approx(wanted[name](a, flat), abs=1e-5)
    assert alike[name](flat, flat) == (1 if name == "ssim" else 0)  # 0/0
    assert np.isnan(alike[name](a, np.where(a == a.max(), np.nan, b).astype(np.float32)))
    many = jnp.stack([a, b, flat])
    together = jax.jit(jax.vmap(getattr(metrics, name)))(many, many[::-1])
    np.testing.assert_allclose(together, [alike[name](x, y) for x, y in zip(many, many[::-1], strict=True)], atol=1e-6)


def test_stability_by_hand():
    s = jnp.asarray([[0.0, 3.0], [4.0, 0.0]])
    again = jnp.stack([s, s.at[0, 0].set(2.0), s * 1.1])
    assert metrics.max_sensitivity(s, again) == pytest.approx(2 / 5)
    assert metrics.max_sensitivity(0 * s, 0 * again) == 0 and metrics.max_sensitivity(0 * s, again[:1]) == 5
    assert metrics.consistency(s, jnp.stack([s, 2 * s, -s])) == pytest.approx(1 / 3, abs=1e-6)
    image, key = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 3)), jnp.float32), jax.random.key(0)
    near, noisy = (np.asarray(f(image, key) - image[None]) for f in (metrics.nearby_images, metrics.noisy_images))
    assert near.shape == (10, 8, 8, 3) and 0.019 < np.abs(near).max() <= 0.02001 and abs(near.mean()) < 2e-3
    assert noisy.shape == (4, 8, 8, 3) and noisy.std() == pytest.approx(0.1, rel=0.1)
    np.testing.assert_array_equal(metrics.flipped_image(image)[0][:, 0], image[:, -1])
    np.testing.assert_array_equal(flipped_map(metrics.flipped_image(s[..., None])[0, ..., 0]), s)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The network, and a run in which methods are called again: twice on flipped pictures, and on what maps show."""
    folder, net = tmp_path_factory.mktemp("again"), tiny()
    data = pictures(folder / "set", each=1, broken=False)
    measured = ["flip_consistency", "coherency", "adcc", "ad", "complexity", "infidelity"]
    found = evaluate(net, data, out=folder / "run", methods=["grad_cam", "random_cam"], metrics=measured, batch_size=3,
                     devices=jax.local_devices()[:1])  # fmt: skip
    return net, data, found


@pytest.mark.parametrize("method", ("grad_cam", "random_cam"))
def test_a_run_calls_the_methods_again(run, method):
    net, data, found = run
    assert len(found) == 8 and not found.broken
    mine = found.columns["method"] == method
    maps = [scale_map(resize_map(m, (32, 32))) for m in found.arrays("maps")[mine]]
    inputs = [net.preprocess(data / name) for name in found.columns["image"][mine]]
    engine = Engine(net, None, 3, 3)

    def again(images, i):
        forward = engine.forward(np.stack(images), [found.columns["image"][mine][i]])
        made = engine.maps(request(method), forward, [(0, int(found.columns["target"][mine][i]))], None).maps
        return scale_map(resize_map(made[0], (32, 32)))

    for i, (x, s) in enumerate(zip(inputs, maps, strict=True)):
        flipped = oracle.correlation(s, again([x[:, ::-1]], i)[:, ::-1])
        assert found.columns["flip_consistency"][mine][i] == pytest.approx(flipped, abs=1e-3)
        shown = oracle.correlation(s, again([x * s[..., None]], i))
        assert found.columns["coherency"][mine][i] == pytest.approx((1 + shown) / 2, abs=1e-3)
        parts = (
            found.columns["coherency"][mine][i], 1 - found.columns["complexity"][mine][i],
            1 - found.columns["ad"][mine][i] / 100,
        )  # fmt: skip
        mean = 3 / sum(1 / p for p in parts) if all(p > 0 for p in parts) else 0.0
        assert found.columns["adcc"][mine][i] == pytest.approx(mean, abs=1e-3)


def test_what_no_map_changes_is_asked_of_the_network_once(run, monkeypatch):
    """The squares that infidelity removes are the same for all methods: so are their passes, and the flipped ones."""
    from jaxcam.evaluate import measures

    _, _, found = run
    assert set(found.units[0]["seconds"]["metrics"]) >= {"infidelity", "flip_consistency"}
    squares, shown = (metrics.METRICS[name].perturbation.needs for name in ("infidelity", "adcc"))
    assert not measures._of_the_map(squares) and measures._of_the_map(shown) and measures._of_the_map(("ranks",))
    assert found.arrays("insertion_curve") is None
