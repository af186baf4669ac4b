"""SHAP-CAM step by step: the same as at once, compiled once, resumable, on any number of devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcam.errors import JaxcamError
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs
from jaxcam.methods.sampling import shap_cam
from jaxcam.shapley.adjusted import AdjustedState, Pilot
from jaxcam.shapley.permutations import PermutationState
from jaxcam.shapley.sharded import AXIS

KEY = jax.random.key(3)
CHANNELS, HIDDEN, CLASSES = 11, 24, 5  # too many channels for their coalitions to be enumerated
TRACES = [0]


def params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (4 * CHANNELS, HIDDEN), "b": (HIDDEN, HIDDEN), "c": (HIDDEN, CLASSES)}
    return {k: jnp.asarray(rng.normal(size=s) * 0.4, jnp.float32) for k, s in shapes.items()}


def head(p, a):
    TRACES[0] += 1
    hidden = jax.nn.relu(a.reshape(-1) @ p["a"] - 0.1)
    return jnp.tanh(hidden @ p["b"]) @ p["c"]


def pixels(seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (2, 2, CHANNELS)), jnp.float32)


def options(estimator, **more):
    return {"head": head, "target": 2, "num_permutations": 120, "estimator": estimator, "chunk_size": 80} | more


def division(p, a, key, *, head, target, devices=1, **options):
    """SHAP-CAM divided into steps, and what these take."""
    inputs = Inputs(p, a, head, target, key)
    return METHODS["shap_cam"].stepped(inputs, devices=devices, **options), inputs


def shap_cam_steps(*arguments, mesh=None, state=None, **options):
    stepped, inputs = division(*arguments, devices=1 if mesh is None else mesh.size, **options)
    return stepped.states(inputs, mesh=mesh, state=state)


def shap_cam_result(state, activations):
    return division(params(), activations, KEY, **options("plain"))[0].result(state, activations)


def last(*arguments, **more):
    *_, state = shap_cam_steps(*arguments, **more)
    return shap_cam_result(state, arguments[1])


def mesh(devices):
    if jax.device_count() < devices:
        pytest.skip(f"{devices} devices are needed")
    return jax.sharding.Mesh(np.asarray(jax.devices()[:devices]), (AXIS,))


@pytest.mark.parametrize("estimator", ["adjusted", "antithetic", "plain"])
def test_the_result_is_that_of_one_call(estimator):
    whole = jax.jit(lambda p, a, k: shap_cam(p, a, k, **options(estimator)))(params(), pixels(), KEY)
    stepped = last(params(), pixels(), KEY, **options(estimator))
    np.testing.assert_allclose(stepped.coefficients, whole.coefficients, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stepped.map, whole.map, rtol=1e-5, atol=1e-6)
    assert set(stepped.diagnostics) == set(whole.diagnostics)
    for name, value in whole.diagnostics.items():
        np.testing.assert_allclose(stepped.diagnostics[name], value, rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("estimator", ["adjusted", "antithetic"])
def test_nothing_is_traced_again_for_another_picture_class_or_key(estimator):
    last(params(), pixels(), KEY, **options(estimator))
    before = TRACES[0]
    other = last(params(1), pixels(1), jax.random.key(8), **options(estimator, target=2))
    assert TRACES[0] == before
    assert np.isfinite(other.coefficients).all()
    last(params(1), pixels(1), jax.random.key(8), **options(estimator, target=3))
    assert TRACES[0] == before + 1  # to see that there is such a class; without compilation


@pytest.mark.parametrize("estimator", ["adjusted", "plain"])
def test_resuming_from_any_state_gives_the_same_bits(estimator):
    states = list(shap_cam_steps(params(), pixels(), KEY, **options(estimator)))
    kinds = [type(s) for s in states]
    assert len(states) >= 4 and kinds[-1] is (AdjustedState if estimator == "adjusted" else PermutationState)
    assert (Pilot in kinds) == (estimator == "adjusted")
    for i, state in enumerate(states):
        *_, final = shap_cam_steps(params(), pixels(), KEY, **options(estimator), state=state)
        jax.tree.map(np.testing.assert_array_equal, final, states[-1])
        assert len(list(shap_cam_steps(params(), pixels(), KEY, **options(estimator), state=state))) == len(states) - i


def test_the_share_rises_to_one():
    stepped, _ = division(params(), pixels(), KEY, **options("adjusted"))
    shares = [stepped.steps.share(s) for s in shap_cam_steps(params(), pixels(), KEY, **options("adjusted"))]
    assert shares == sorted(shares) and shares[-1] == 1 and len(set(shares)) == len(shares)


@pytest.mark.parametrize(("devices", "estimator"), [(2, "plain"), (8, "antithetic"), (8, "adjusted")])
def test_the_number_of_devices_changes_nothing(devices, estimator):
    alone = last(params(), pixels(), KEY, **options(estimator))
    shared = last(params(), pixels(), KEY, **options(estimator, mesh=mesh(devices)))
    np.testing.assert_allclose(shared.coefficients, alone.coefficients, rtol=1e-6, atol=1e-6)
    for name, value in alone.diagnostics.items():
        np.testing.assert_allclose(shared.diagnostics[name], value, rtol=1e-4, atol=2e-6, err_msg=name)


def test_a_linear_head_needs_one_step_and_a_tolerance_stops_early():
    linear = lambda p, a: a.reshape(-1) @ p["a"][:, :CLASSES]  # noqa: E731
    states = list(shap_cam_steps(params(), pixels(), KEY, **options("auto", head=linear)))
    expected = np.einsum("hwk,hwk->k", pixels(), params()["a"].reshape(2, 2, CHANNELS, -1)[..., 2])
    result = shap_cam_result(states[-1], pixels())
    assert len(states) == 1 and not result.diagnostics["standard_error"].any()
    np.testing.assert_allclose(result.coefficients, expected, rtol=1e-5, atol=1e-6)
    loose = options("plain", tolerance=0.5, num_permutations=200)
    stopped = last(params(), pixels(), KEY, **loose)
    assert stopped.diagnostics["evaluations"] < 200 * (CHANNELS - 1)
    span = abs(stopped.diagnostics["logit"] - stopped.diagnostics["logit_zero"])
    assert 0 < stopped.diagnostics["standard_error"].max() <= 0.5 * span


def test_few_channels_are_enumerated_in_steps_that_can_be_taken_up():
    few = options("antithetic", num_permutations=250, chunk_size=300)  # 2,502 evaluations, where there are 2,048 of all
    whole = jax.jit(lambda p, a, k: shap_cam(p, a, k, **few))(params(), pixels(), KEY)
    stepped, _ = division(params(), pixels(), KEY, **few)
    states = list(shap_cam_steps(params(), pixels(), KEY, **few))
    assert [stepped.steps.share(s) for s in states][::6] == [300 / 2048, 1.0] and len(
        states
    ) == stepped.steps.count == 7
    found = stepped.result(states[-1], pixels())
    assert int(found.diagnostics["evaluations"]) == 2**CHANNELS and not found.diagnostics["standard_error"].any()
    np.testing.assert_allclose(found.coefficients, whole.coefficients, rtol=1e-5, atol=1e-6)
    assert np.isnan(stepped.result(states[2], pixels()).coefficients).all()  # nothing is known yet
    *_, again = shap_cam_steps(params(), pixels(), KEY, **few, state=states[2])
    jax.tree.map(np.testing.assert_array_equal, again, states[-1])
    with pytest.raises(JaxcamError, match="10 players, this game has 11"):
        next(shap_cam_steps(params(), pixels(), KEY, **few, state=states[2]._replace(values=states[2].values[:1024])))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"num_permutations": 0}, "num_permutations must be a whole number of at least 1, not 0"),
        ({"num_permutations": 2.5}, "at least 1, not 2.5"),
        ({"chunk_size": 0}, "chunk_size must be"),
        ({"estimator": "adjustd"}, "did you mean adjusted"),
        ({"tolerance": -1.0}, "tolerance must be a positive number"),
        ({"tolerance": float("nan")}, "tolerance must be a positive number"),
        ({"target": 9}, "there is no class 9 among 5 logits"),
        ({"head": lambda p, a: head(p, a)[None]}, "take its batch axis away"),
    ],
)
def test_odd_settings(changed, why):
    with pytest.raises(JaxcamError, match=why):
        next(shap_cam_steps(params(), pixels(), KEY, **options("plain") | changed))


def test_nan_from_the_head():
    with pytest.raises(JaxcamError, match="not finite: nan for all channels"):
        next(shap_cam_steps(params(), pixels().at[0, 0, 0].set(jnp.nan), KEY, **options("adjusted")))
    # Finite for all and for none, NaN in between.
    between = lambda p, a: head(p, a) + jnp.where(jnp.abs((a > 0).sum() - 2 * CHANNELS) < 3, jnp.nan, 0.0)  # noqa: E731
    with pytest.raises(JaxcamError, match="look for NaN"):
        list(shap_cam_steps(params(), pixels(), KEY, **options("plain", head=between)))


def test_states_of_another_run():
    state = next(shap_cam_steps(params(), pixels(), KEY, **options("plain")))
    with pytest.raises(JaxcamError, match="another random key"):
        next(shap_cam_steps(params(), pixels(), jax.random.key(4), **options("plain"), state=state))
    with pytest.raises(JaxcamError, match="another estimator"):
        next(shap_cam_steps(params(), pixels(), KEY, **options("adjusted"), state=state))
    with pytest.raises(JaxcamError, match="6 players, this game has 11"):
        fewer = state._replace(samples=state.samples._replace(mean=state.samples.mean[:6]))
        next(shap_cam_steps(params(), pixels(), KEY, **options("plain"), state=fewer))
