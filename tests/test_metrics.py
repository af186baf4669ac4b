"""IC, AD, ADD, insertion, deletion: against float64, by hand, and in the corners."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_metrics as oracle
import pytest
import scipy.ndimage
import scipy.signal

from jaxcam import metrics
from jaxcam.errors import JaxcamError

H, W, CLASSES = 7, 9, 5
RNG = np.random.default_rng(0)
WEIGHTS = {"v": RNG.normal(size=(H * W * 3, 16)) * 0.15, "w": RNG.normal(size=(16, CLASSES)), "b": RNG.normal(size=16)}
IMAGES = RNG.normal(size=(4, H, W, 3))
# Coarse values, so that there are ties; one map is empty, one covers everything.
MAPS = np.concatenate([np.round(RNG.uniform(0, 1, (2, H, W)) * 6) / 6, np.zeros((1, H, W)), np.ones((1, H, W))])
TARGETS = np.array([0, 3, 1, 4])


def predict(params, image):
    hidden = jnp.tanh(image.ravel() @ params["v"] + params["b"])
    return hidden @ params["w"]


def predict64(image):
    return np.tanh(image.ravel() @ WEIGHTS["v"] + WEIGHTS["b"]) @ WEIGHTS["w"]


PARAMS = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), WEIGHTS)


def batched(function, **options):
    """The function under jit and vmap, over the four images."""

    @jax.jit
    def call(images, maps, targets):
        one = lambda x, m, t: function(PARAMS, x, m, predict=predict, target=t, **options)  # noqa: E731
        return jax.vmap(one)(images, maps, targets)

    return jax.tree.map(np.asarray, call(*(jnp.asarray(x, d) for x, d in DATA)))


DATA = ((IMAGES, jnp.float32), (MAPS, jnp.float32), (TARGETS, jnp.int32))


@pytest.mark.parametrize("score", metrics.SCORES)
@pytest.mark.parametrize("base", [0.0, 0.7])
def test_confidence_is_what_the_paper_defines(score, base):
    got = batched(metrics.confidence, score=score, baseline=base)
    for i in range(4):
        want = oracle.confidence(predict64, IMAGES[i], MAPS[i], TARGETS[i], score, base)
        np.testing.assert_allclose([v[i] for v in got], want, rtol=2e-4, atol=2e-4)
    assert {float(v) for v in got.ic} <= {0.0, 1.0}
    # An empty map counts: O is the baseline's score, D the image's own; a full one is the other way round.
    np.testing.assert_allclose(got.removed[2], got.original[2], rtol=1e-5)
    np.testing.assert_allclose(got.kept[3], got.original[3], rtol=1e-5)
    assert abs(got.add[2]) < 1e-3 and abs(got.ad[3]) < 1e-3 and got.ic[3] == 0


def test_a_known_original_is_the_same():
    whole = batched(metrics.confidence)
    odds = jax.vmap(lambda x, t: metrics.log_odds(predict(PARAMS, x), t))(
        jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TARGETS)
    )
    one = functools.partial(metrics.confidence, predict=predict)
    for i in range(4):
        given = one(PARAMS, *(jnp.asarray(x[i], jnp.float32) for x in (IMAGES, MAPS)), target=int(TARGETS[i]),
                    original=odds[i])  # fmt: skip
        np.testing.assert_allclose(given, [v[i] for v in whole], rtol=1e-4, atol=1e-4)


def _by_logits(logits):
    """A network whose logits are chosen by how bright its image is: 1 the whole one, else what is left."""
    return lambda params, image: jnp.where(image.mean() > 0.5, *(jnp.asarray(x, jnp.float32) for x in logits))


@pytest.mark.parametrize(
    ("whole", "rest", "score", "ic", "ad", "original"),
    [
        # p = 3/4 and 1/2: a third is lost. p = 1/2 and 3/4: nothing is, and confidence rises.
        ([np.log(3), 0], [0, 0], "softmax", 0, 100 / 3, 0.75),
        ([0, 0], [np.log(3), 0], "softmax", 1, 0, 0.5),
        ([np.log(3), 5], [0, 5], "sigmoid", 0, 100 / 3, 0.75),
        # 1 - 1e-13 and 1 - 1e-17: both are 1 in 32 bits.
        ([30, 0], [40, 0], "softmax", 1, 0, 1),
        ([30, 0], [40, 0], "sigmoid", 1, 0, 1),
        # Below the smallest float: half of it is lost all the same.
        ([-200, 0], [-200 - np.log(2), 0], "softmax", 0, 50, 0),
        # Equal scores are no increase, one class has nothing to lose.
        ([1, 2], [1, 2], "softmax", 0, 0, 1 / (1 + np.e)),
        ([3.0], [5.0], "softmax", 0, 0, 1),
    ],
)
def test_confidence_by_hand(whole, rest, score, ic, ad, original):
    image, empty = jnp.ones((2, 2, 3)), jnp.zeros((2, 2))
    got = metrics.confidence(None, image, empty, predict=_by_logits((whole, rest)), target=0, score=score)
    np.testing.assert_allclose([got.ic, got.ad, got.original], [ic, ad, original], rtol=1e-4, atol=1e-7)
    # The same map the other way round: now the removed part is the rest.
    full = metrics.confidence(None, image, 1 - empty, predict=_by_logits((whole, rest)), target=0, score=score)
    np.testing.assert_allclose([full.ic, full.ad, full.add], [0, 0, ad], rtol=1e-4, atol=1e-7)


def test_nan_stays_nan():
    nan = metrics.confidence(
        None, jnp.ones((2, 2, 3)), jnp.zeros((2, 2)), predict=_by_logits(([1.0, 0.0], [np.nan, 0.0])), target=0
    )
    assert np.isnan([nan.ic, nan.ad, nan.kept]).all() and np.isfinite([nan.original, nan.add]).all()


def test_rises_blur_is_that_of_its_code():
    """A filtered delta of 11 x 11, by scipy as in RISE's code, and a convolution padded with zeros."""
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = scipy.ndimage.gaussian_filter(delta, 5)
    assert kernel[5, 5] / kernel[0, 0] == pytest.approx(1.14, abs=0.005)
    one = np.zeros((41, 41, 1), np.float32)
    one[20, 20] = 1
    np.testing.assert_allclose(metrics.rise_blur(jnp.asarray(one))[15:26, 15:26, 0], kernel, rtol=1e-6)
    x = np.random.default_rng(0).normal(size=(17, 23, 3)).astype(np.float32)
    padded = np.stack([scipy.signal.convolve2d(x[..., c], kernel, mode="same") for c in range(3)], axis=-1)
    np.testing.assert_allclose(metrics.rise_blur(jnp.asarray(x)), padded, atol=1e-6)
    np.testing.assert_array_equal(metrics.baseline("rise", jnp.asarray(x)), metrics.rise_blur(jnp.asarray(x)))


@pytest.mark.parametrize("score", metrics.SCORES)
@pytest.mark.parametrize(("steps", "chunk_size"), [(10, None), (H * W, None), (10, 4), (1, 1)])
def test_curves_are_rise(score, steps, chunk_size):
    insertion = batched(metrics.insertion_curve, score=score, steps=steps, chunk_size=chunk_size)
    deletion = batched(metrics.deletion_curve, score=score, steps=steps, chunk_size=chunk_size, baseline=0.3)
    for i in range(4):
        blurred = oracle.blur(IMAGES[i], 5.0, 5)
        scores, total = oracle.curve(predict64, MAPS[i], blurred, IMAGES[i], TARGETS[i], score, steps)
        np.testing.assert_allclose(insertion.scores[i], scores, atol=2e-5)
        np.testing.assert_allclose(insertion.auc[i], total, atol=2e-5)
        gone = np.full_like(IMAGES[i], 0.3)
        scores, total = oracle.curve(predict64, MAPS[i], IMAGES[i], gone, TARGETS[i], score, steps)
        np.testing.assert_allclose(deletion.scores[i], scores, atol=2e-5)
        np.testing.assert_allclose(deletion.auc[i], total, atol=2e-5)
    assert insertion.fractions[0, 0] == 0 and insertion.fractions[0, -1] == 1


def test_curve_by_hand():
    # The score is the share of bright pixels, of four; the map orders them right, and one tie goes by raster order.
    image = jnp.asarray([[1.0, 0.0], [1.0, 0.0]])[..., None] * jnp.ones(3)

    def share(params, x):
        return jnp.stack([jax.scipy.special.logit(0.25 + 0.25 * x[..., 0].sum()), jnp.zeros(())])

    options = dict(predict=share, target=0, score="sigmoid", steps=4)
    good = metrics.insertion_curve(None, image, jnp.asarray([[0.9, 0.1], [0.9, 0.0]]), start=0.0, **options)
    np.testing.assert_allclose(good.scores, [0.25, 0.5, 0.75, 0.75, 0.75], rtol=1e-5)
    np.testing.assert_allclose(good.auc, (0.375 + 0.625 + 0.75 + 0.75) / 4, rtol=1e-5)
    tied = metrics.insertion_curve(None, image, jnp.zeros((2, 2)), start=0.0, **options)
    np.testing.assert_allclose(tied.scores, [0.25, 0.5, 0.5, 0.75, 0.75], rtol=1e-5)
    gone = metrics.deletion_curve(None, image, jnp.asarray([[0.9, 0.1], [0.9, 0.0]]), **options)
    np.testing.assert_allclose(gone.scores, [0.75, 0.5, 0.25, 0.25, 0.25], rtol=1e-5)
    np.testing.assert_array_equal(metrics.pixel_ranks(jnp.asarray([[0.1, 0.9], [0.5, 0.9]])), [[3, 0], [2, 1]])


def test_only_the_order_of_a_map_counts_for_curves_and_a_stretch_is_a_part_of_the_whole():
    image, heatmap = jnp.asarray(IMAGES[0], jnp.float32), jnp.asarray(MAPS[0], jnp.float32)
    options = dict(predict=predict, target=2)
    a, b = (metrics.deletion_curve(PARAMS, image, m, steps=20, **options) for m in (heatmap, 3 * heatmap**3 + 1))
    np.testing.assert_array_equal(a.scores, b.scores)
    counts, ranks = metrics.step_counts((H, W), 20), metrics.pixel_ranks(heatmap)
    stretch = jax.jit(functools.partial(metrics.curve_scores, **options))
    parts = [stretch(PARAMS, ranks, counts[i : i + 7], image, jnp.zeros_like(image)) for i in (0, 7, 14)]
    np.testing.assert_allclose(jnp.concatenate(parts), a.scores, atol=1e-6)
    np.testing.assert_allclose(metrics.area(jnp.concatenate(parts), counts), a.auc, atol=1e-6)


def test_a_map_s_scale_is_taken_out_before_the_metrics():
    from jaxcam.methods.maps import scale_map

    def values(factor):
        maps = jax.vmap(scale_map)(factor * jnp.asarray(MAPS, jnp.float32))
        one = functools.partial(metrics.confidence, predict=predict)
        return jax.vmap(lambda x, m, t: one(PARAMS, x, m, target=t))(jnp.asarray(IMAGES, jnp.float32), maps, TARGETS)

    for a, b in zip(values(1.0), values(64.0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_size_of_the_batch_does_not_matter():
    together = batched(metrics.confidence)
    for i in range(4):
        alone = metrics.confidence(
            PARAMS, jnp.asarray(IMAGES[i], jnp.float32), jnp.asarray(MAPS[i], jnp.float32), predict=predict,
            target=int(TARGETS[i]),
        )  # fmt: skip
        np.testing.assert_allclose(alone, [v[i] for v in together], rtol=1e-4, atol=1e-4)


def test_baselines():
    image = jnp.asarray(RNG.uniform(-1, 1, (12, 17, 3)), jnp.float32)
    np.testing.assert_allclose(metrics.blur(image), oracle.blur(np.asarray(image, float), 5.0, 5), atol=1e-6)
    np.testing.assert_allclose(metrics.baseline("blur", image), metrics.blur(image), atol=0)
    np.testing.assert_allclose(metrics.blur(jnp.full((4, 4, 3), 2.5)), 2.5, rtol=1e-6)
    assert not metrics.baseline("mean", image).any()
    black = metrics.baseline("zero", image, normalize=lambda pixels: (pixels / 255 - 0.4) / 0.2)
    np.testing.assert_allclose(black, -2.0, rtol=1e-6)
    with pytest.raises(JaxcamError, match="give normalize"):
        metrics.baseline("zero", image)
    with pytest.raises(JaxcamError, match="no baseline called 'blurr'; did you mean blur"):
        metrics.baseline("blurr", image)


def test_mistakes():
    image, heatmap = jnp.ones((4, 4, 3)), jnp.ones((2, 2))
    for function in (metrics.confidence, metrics.insertion_curve, metrics.deletion_curve):
        with pytest.raises(JaxcamError, match="must have its image's size"):
            function(PARAMS, image, heatmap, predict=predict, target=0)
    with pytest.raises(JaxcamError, match="no score called 'logit'"):
        metrics.log_odds(jnp.zeros(3), 0, score="logit")
    with pytest.raises(JaxcamError, match="for one image"):
        metrics.log_odds(jnp.zeros((1, 3)), 0)
    for steps in (0, 17):
        with pytest.raises(JaxcamError, match="between 1 and the image's 16 pixels"):
            metrics.step_counts((4, 4), steps)
    assert np.isnan(jax.jit(metrics.log_odds)(jnp.zeros(3), 7))
