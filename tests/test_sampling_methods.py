"""SHAP-CAM, KSHAP-CAM and LIME-CAM as methods: axioms, oracles in NumPy, error bars, transformations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sampling_heads import NULL, SHAPE, TARGET, TWINS, WIDE, A, K, P, activations, head, linear, logit, truth

from jaxcam import shapley
from jaxcam.methods import sampling
from jaxcam.methods.result import scalar_score
from jaxcam.methods.sampling import ESTIMATORS, kernel_shap_cam, lime_cam, shap_cam
from jaxcam.transforms.coalition import coalition_game

METHODS = {f"shap_cam, {e}": functools.partial(shap_cam, estimator=e, num_permutations=40) for e in ESTIMATORS}
METHODS |= {
    "kernel_shap_cam": functools.partial(kernel_shap_cam, num_samples=400),
    "kernel_shap_cam, unpaired": functools.partial(kernel_shap_cam, num_samples=400, paired=False),
    "lime_cam": functools.partial(lime_cam, num_samples=400),
}
SHAPLEY = [name for name in METHODS if name != "lime_cam"]


@functools.cache
def compiled(name: str, which=head):
    """`(activations, key, target) -> CAM`, one program for all tests."""
    return jax.jit(lambda a, key, target: METHODS[name](P, a, key, head=which, target=target))


@pytest.mark.parametrize("name", SHAPLEY)
def test_axioms(name):
    run = compiled(name)
    cam = run(A, jax.random.key(0), TARGET)
    alpha, d = np.asarray(cam.coefficients), cam.diagnostics
    scale = np.abs(truth()).max()
    full, empty = logit(np.array([np.ones(K), np.zeros(K)]))
    np.testing.assert_allclose([d["logit"], d["logit_zero"]], [full, empty], atol=1e-5 * max(abs(full), 1))
    np.testing.assert_allclose(alpha.sum(), full - empty, atol=1e-5 * K * scale)
    assert abs(float(d["completeness_gap"])) < 1e-5 * K * scale
    if name.startswith("shap_cam"):
        assert abs(alpha[NULL]) < 1e-5 * scale
        assert int(d["evaluations"]) >= 40 * (K - 1) + 2
    error = np.asarray(d["standard_error"])
    assert (np.abs(alpha - truth()) <= 5 * error + 1e-5 * scale).all()
    twins = list(TWINS)
    assert abs(np.diff(alpha[twins])[0]) <= 5 * np.hypot(*error[twins])
    np.testing.assert_allclose(cam.map, np.maximum(activations() @ alpha, 0), rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", SHAPLEY)
def test_a_linear_head_is_exact_whatever_the_key_and_without_sampling(name):
    exact = activations().mean((0, 1)) * WIDE["l"][:, TARGET]
    for seed in range(2):
        cam = compiled(name, linear)(A, jax.random.key(seed), TARGET)
        np.testing.assert_allclose(cam.coefficients, exact, atol=1e-6 * np.abs(exact).max())
        assert int(cam.diagnostics["evaluations"]) == 0


def test_a_single_channel_gets_all():
    one = jnp.ones((2, 2, 1))
    for method in (shap_cam, kernel_shap_cam):
        run = functools.partial(method, None, head=lambda p, a: jnp.tanh(a.sum((0, 1)) + 0.5), target=0)
        cam = jax.jit(run)(one, jax.random.key(0))
        np.testing.assert_allclose(cam.coefficients, [np.tanh(4.5) - np.tanh(0.5)], rtol=1e-6)


@pytest.fixture(scope="module")
def many_keys():
    """Coefficients and standard errors `(keys, K)` of 400 runs of each estimator."""
    keys = jax.random.split(jax.random.key(11), 400)

    @functools.cache
    def get(estimator):
        run = compiled(f"shap_cam, {estimator}")  # the program of the axioms, called so often
        cams = [run(A, key, TARGET) for key in keys]
        found = [(cam.coefficients, cam.diagnostics["standard_error"]) for cam in cams]
        return tuple(np.asarray(x, np.float64) for x in zip(*jax.device_get(found), strict=True))

    return get


@pytest.mark.parametrize("estimator", ["plain", "antithetic", "adjusted"])
def test_unbiased_and_covered_by_the_standard_error(estimator, many_keys):
    found, error = many_keys(estimator)
    some = np.arange(K) != NULL
    z = (found.mean(0) - truth())[some] / (found.std(0, ddof=1)[some] / np.sqrt(len(found)))
    assert np.abs(z).max() < 3.5
    samples = 40 if estimator == "plain" else 20
    reach = scipy.stats.t.ppf(0.975, samples - 1) * error[:, some]
    covered = (np.abs(found - truth())[:, some] <= reach).mean()
    assert 0.90 <= covered <= 0.99
    # The stated variance is the actual one, not only large enough.
    assert 0.7 < ((error[:, some] ** 2).mean(0) / found[:, some].var(0, ddof=1)).mean() < 1.4


def test_adjusting_pays(many_keys):
    assert sampling.sampled_layer(coalition_game(scalar_score(head, P, TARGET), A)) is not None
    spread = {e: float(many_keys(e)[0].var(0).sum()) for e in ("plain", "antithetic", "adjusted")}
    assert spread["adjusted"] < spread["plain"]
    assert spread["antithetic"] < spread["plain"]


def test_pairs_round_an_odd_number_up():
    run = functools.partial(shap_cam, head=head, target=0, estimator="antithetic")
    odd, even = (jax.jit(functools.partial(run, num_permutations=n))(P, A, jax.random.key(5)) for n in (11, 12))
    np.testing.assert_allclose(odd.coefficients, even.coefficients, rtol=1e-5, atol=1e-6)
    assert int(odd.diagnostics["evaluations"]) == int(even.diagnostics["evaluations"])


@pytest.mark.parametrize("name", list(METHODS))
def test_the_chunk_size_changes_nothing(name):
    key = jax.random.key(2)
    whole = compiled(name)(A, key, TARGET).coefficients
    chunked = jax.jit(lambda a: METHODS[name](P, a, key, head=head, target=TARGET, chunk_size=7))(A).coefficients
    np.testing.assert_allclose(chunked, whole, atol=2e-5 * float(jnp.abs(whole).max()))


@pytest.mark.parametrize("name", ["shap_cam, adjusted", "shap_cam, plain", "kernel_shap_cam", "lime_cam"])
def test_jit_is_eager_and_vmap_is_the_loop(name):
    keys, maps = jax.random.split(jax.random.key(4), 2), jnp.stack([A, A[::-1]])
    targets = jnp.asarray([0, 2])
    loop = jnp.stack([compiled(name)(a, k, t).coefficients for a, k, t in zip(maps, keys, targets, strict=True)])
    scale = float(jnp.abs(loop).max())
    batch = jax.jit(jax.vmap(lambda a, k, t: METHODS[name](P, a, k, head=head, target=t)))(maps, keys, targets)
    np.testing.assert_allclose(batch.coefficients, loop, atol=2e-5 * scale)
    if name != "shap_cam, adjusted":  # op by op, its many small programs take a minute
        eager = METHODS[name](P, A, keys[0], head=head, target=0)
        np.testing.assert_allclose(eager.coefficients, loop[0], atol=2e-5 * scale)


def test_another_target_traces_nothing_again():
    traced = []

    def counted(p, a):
        traced.append(1)
        return head(p, a)

    run = jax.jit(lambda key, t: shap_cam(P, A, key, head=counted, target=t, num_permutations=20).coefficients)
    first = run(jax.random.key(0), 0)
    before = len(traced)
    assert not np.allclose(run(jax.random.key(0), 2), first)
    assert len(traced) == before


def test_a_tolerance_stops_early():
    run = functools.partial(shap_cam, head=head, target=TARGET, estimator="plain")
    cam = jax.jit(functools.partial(run, num_permutations=100, tolerance=0.4, chunk_size=100))(P, A, jax.random.key(0))
    assert 10 * (K - 1) < int(cam.diagnostics["evaluations"]) < 100 * (K - 1)
    span = abs(float(cam.diagnostics["logit"] - cam.diagnostics["logit_zero"]))
    assert 0 < float(cam.diagnostics["standard_error"].max()) <= 0.4 * span


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_few_channels_are_enumerated_where_that_costs_no_more(estimator):
    run = functools.partial(shap_cam, P, A, head=head, target=TARGET, estimator=estimator)
    silent = A.at[..., 0].set(0.0)
    enough = 2 * -(-(2**K - 2) // (2 * (K - 1)))  # in pairs
    fewer = enough - 2
    exact = jax.jit(lambda key: run(key, num_permutations=enough))(jax.random.key(0))
    assert int(exact.diagnostics["evaluations"]) == 2**K and not exact.diagnostics["standard_error"].any()
    np.testing.assert_allclose(exact.coefficients, truth(), atol=2e-6 * np.abs(truth()).max())
    if estimator == "auto":
        dead = jax.jit(lambda a: shap_cam(P, a, jax.random.key(1), head=head, target=TARGET, num_permutations=enough))
        assert dead(silent).coefficients[0] == 0
        sampled = jax.jit(lambda key: run(key, num_permutations=fewer))(jax.random.key(0))
        assert int(sampled.diagnostics["evaluations"]) < 2**K and sampled.diagnostics["standard_error"].any()


@pytest.mark.parametrize("estimator", ["plain", "antithetic", "adjusted"])
def test_a_dead_channel_gets_exactly_nothing(estimator):
    silent = A.at[..., jnp.asarray([0, 7])].set(0.0)
    found = compiled(f"shap_cam, {estimator}")(silent, jax.random.key(3), TARGET)
    for values in (found.coefficients, found.diagnostics["standard_error"]):
        assert not values[jnp.asarray([0, 7])].any() and values[1] != 0
    assert abs(float(found.diagnostics["completeness_gap"])) < 1e-5 * float(jnp.abs(found.coefficients).max())


@pytest.mark.parametrize("paired", [True, False])
def test_kernel_shap_cam_is_the_constrained_least_squares(paired):
    key = jax.random.key(9)
    run = jax.jit(functools.partial(kernel_shap_cam, P, A, head=head, target=TARGET, num_samples=60, paired=paired))
    masks = np.asarray(shapley.sample_coalitions(key, num_players=K, num_samples=60, paired=paired), np.float64)
    v, (full, empty) = logit(masks), logit(np.array([np.ones(K), np.zeros(K)]))
    # The constraint eliminated another way: the last coefficient is what the others leave.
    design = masks[:, :-1] - masks[:, -1:]
    rest = np.linalg.lstsq(design, v - empty - masks[:, -1] * (full - empty), rcond=None)[0]
    want = np.append(rest, full - empty - rest.sum())
    np.testing.assert_allclose(run(key).coefficients, want, atol=2e-6 * np.abs(want).max())


def test_kernel_shap_cam_converges_to_the_shapley_values():
    game = coalition_game(scalar_score(head, P, TARGET), A)
    sampled = jax.jit(lambda key: shapley.kernel_shapley(game, key, num_players=K, num_samples=20_000).values)
    np.testing.assert_allclose(sampled(jax.random.key(1)), truth(), atol=0.02 * np.abs(truth()).max())
    # Where all coalitions cost no more, the method takes each of them once.
    run = jax.jit(functools.partial(kernel_shap_cam, P, A, head=head, target=TARGET, num_samples=20_000))
    cam = run(jax.random.key(1))
    np.testing.assert_allclose(cam.coefficients, truth(), atol=2e-6 * np.abs(truth()).max())
    assert int(cam.diagnostics["evaluations"]) == 2**K and not cam.diagnostics["standard_error"].any()


def lasso(x, y, w, beta, sweeps=3000):
    """`argmin (1/N) sum w (y - b - x alpha)^2 + beta |alpha|_1`, by coordinate descent on the residuals."""
    count, alpha, b = len(y), np.zeros(x.shape[1]), 0.0
    for _ in range(sweeps):
        b = (w * (y - x @ alpha)).sum() / w.sum()
        for k in range(x.shape[1]):
            r = y - b - x @ alpha + x[:, k] * alpha[k]
            c, q = (w * x[:, k] * r).sum() / count, (w * x[:, k] ** 2).sum() / count
            alpha[k] = np.sign(c) * max(abs(c) - beta / 2, 0) / q if q else 0.0
    return alpha, b


@pytest.mark.parametrize("beta, gamma", [(0.01, 0.5), (0.2, 1.0), (0.5, 2.0)])
def test_lime_cam_is_the_weighted_lasso(beta, gamma):
    key, count = jax.random.key(6), 50
    cam = jax.jit(lambda key: lime_cam(P, A, key, head=head, target=TARGET, num_samples=count, beta=beta, gamma=gamma))(
        key
    )
    masks = np.asarray(jax.random.bernoulli(key, 0.5, (count, K)), np.float64)
    a = activations()
    distance = ((a[None] * (1 - masks[:, None, None, :])) ** 2).sum((1, 2, 3)) / (a**2).sum()
    w, y = np.exp(-distance / gamma**2), logit(masks)
    alpha, b = lasso(masks, y, w, beta)
    np.testing.assert_allclose(cam.coefficients, alpha, atol=1e-4 * max(1.0, np.abs(alpha).max()))
    # And the optimality conditions, for which no solver need be trusted.
    found = np.asarray(cam.coefficients, np.float64)
    residual = y - masks @ found
    residual = residual - (w * residual).sum() / w.sum()
    slope = 2 * (w * residual) @ masks / count
    active = np.abs(found) > 0
    np.testing.assert_allclose(slope[active], beta * np.sign(found[active]), atol=1e-4)
    assert (np.abs(slope[~active]) <= beta + 1e-4).all()
    assert "standard_error" not in cam.diagnostics and int(cam.diagnostics["evaluations"]) == count + 2


@pytest.mark.parametrize("method", [shap_cam, kernel_shap_cam, lime_cam])
def test_a_map_that_is_zero_everywhere_gets_zeros(method):
    cam = jax.jit(functools.partial(method, head=head, target=TARGET))(P, jnp.zeros(SHAPE), jax.random.key(0))
    np.testing.assert_allclose(cam.coefficients, 0, atol=1e-6)
