"""Every method under jit, vmap and grad. A new method gets the whole battery by one line in METHODS."""

from __future__ import annotations

import functools

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import seeded

from jaxcam.errors import JaxcamError
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs

#: Options that make a method cheap here, or let it see more: several chunks, several orderings.
OPTIONS = {
    "shap_cam": {"num_permutations": 4, "estimator": "antithetic"},
    "kernel_shap_cam": {"num_samples": 20},
    "lime_cam": {"num_samples": 20},
    "score_cam": {"score": "logit", "chunk_size": 4},
    "ss_cam": {"score": "logit", "num_samples": 2, "sigma": 0.5},
    "is_cam": {"score": "logit", "num_samples": 2},
    "group_cam": {"score": "logit", "groups": 2},
    "opti_cam": {"steps": 2},
    "rise_cam": {"score": "logit", "num_samples": 4, "cells": 2},
    "integrated_gradients": {"steps": 2},
    "smooth_grad": {"num_samples": 2},
    "gradient_shap": {"num_samples": 2},
    "occlusion": {"window": 2, "stride": 2},
    "sobol_cam": {"num_designs": 2, "cells": 2},
    "hsic_cam": {"num_samples": 4, "cells": 2},
}
HEADS = ["linear_gap", "vgg", "gelu_tanh", "attention"]
#: Of the multipliers of `lift_cam`, and of the relevance of `lrp_cam`.
ALIKE = ("hires_lift_cam", "multiplier_cam", "deep_shap_cam", "hires_lrp_cam", "lrp_multiplier_cam")
#: The heads that a method is defined for, by the diagnostic that tells, or the program; any other has all of them.
DEFINED = {"not_gap_linear": ["linear_gap"], None: ["attention"]}


def heads_of(method: str) -> list[str]:
    """The heads that a method is tried on: all where it has rules for what they consist of, else two, or one.

    One too for what is made of the same multipliers, or relevance, as another's that is tried on all.
    On a linear head a gradient knows nothing of what is mapped over; values do.
    """
    info = METHODS[method]
    if info.heads is None and not {"rules", "gradient"} & set(info.needs):
        return ["gelu_tanh"]
    if method in ALIKE:
        return ["vgg"]
    if info.heads is not None:
        return DEFINED[info.heads.diagnostic]
    return HEADS if "rules" in info.needs else ["linear_gap", "gelu_tanh"]


def one_of(method: str, other: str) -> str:
    """A head for a method: `other`, where it is tried on that."""
    return other if other in heads_of(method) else heads_of(method)[-1]


def explain(method: str, params, activations, *, head, target):
    """A method of `METHODS` on `(params, activations)`, with all else that it needs."""
    # The activations are the image: masks multiply what the head sees.
    references = jnp.asarray(0.5 * seeded.activations(41, (2, *heads.SHAPE)) + 0.1, activations.dtype)
    key = jax.random.key(3)
    inputs = Inputs(params, activations, head, target, key, references, activations, head, params)
    return METHODS[method].call(inputs, **OPTIONS.get(method, {}))


#: What compiles a method's programs and what uses them again run on one worker.
TOGETHER = "method"
CASES = [(m, h) for m in METHODS for h in heads_of(m)]
DIFFERENTIABLE = [m for m, info in METHODS.items() if info.differentiable]

every_case = pytest.mark.parametrize(("method", "head"), CASES)
BATCH = jnp.asarray(seeded.activations(7, (3, *heads.SHAPE)), jnp.float32)
TARGETS = jnp.array([0, 2, 1])


@functools.cache
def float32_params(head: str):
    return heads.to_jax(heads.HEADS[head].params)


class Compiled:
    """One method on one head: compiled for one example and for a batch, counting how often the head is traced."""

    def __init__(self, method: str, head: str):
        self.traces = 0

        def counting(params, activations):
            self.traces += 1
            return heads.HEADS[head].fn(params, activations)

        def one(params, activations, target):
            return explain(method, params, activations, head=counting, target=target)

        self.one = jax.jit(one)
        self.batch = jax.jit(jax.vmap(one, (None, 0, 0)))


compiled = functools.cache(Compiled)


def assert_same_cam(got, want, tolerance=2e-6):
    assert got.diagnostics.keys() == want.diagnostics.keys()
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=0, atol=tolerance * max(1.0, float(jnp.abs(w).max())))


@every_case
def test_shapes_and_dtypes(method, head):
    got = compiled(method, head).one(float32_params(head), BATCH[0], TARGETS[0])
    assert got.coefficients.shape == (heads.CHANNELS,) and got.map.shape == heads.SHAPE[:2]
    assert "logit" in got.diagnostics
    floats = [leaf for leaf in jax.tree.leaves(got) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(leaf.dtype == jnp.float32 for leaf in floats) and got.coefficients.dtype == jnp.float32
    assert float(got.map.min()) >= 0
    if METHODS[method].map_from == "channels":
        map_ = np.maximum(np.asarray(BATCH[0], np.float64) @ np.asarray(got.coefficients, np.float64), 0)
        np.testing.assert_allclose(got.map, map_, rtol=1e-5, atol=1e-6)


@every_case
def test_vmap_is_a_loop(method, head):
    params, c = float32_params(head), compiled(method, head)
    batched = c.batch(params, BATCH, TARGETS)
    for i in range(len(BATCH)):
        assert_same_cam(jax.tree.map(lambda x, i=i: x[i], batched), c.one(params, BATCH[i], TARGETS[i]), 1e-5)


@every_case
def test_a_new_target_does_not_trace_again(method, head):
    params, c = float32_params(head), compiled(method, head)
    first = c.one(params, BATCH[0], TARGETS[0])
    traces = c.traces
    assert traces > 0
    second = c.one(params, BATCH[0], TARGETS[1])
    assert c.traces == traces
    assert (np.abs(first.coefficients - second.coefficients).max() > 1e-4) == METHODS[method].by_class


@pytest.mark.parametrize("method", METHODS)
def test_jit_is_eager(method):
    head = "vgg" if "vgg" in heads_of(method) else one_of(method, "linear_gap")
    params = float32_params(head)
    eager = explain(method, params, BATCH[0], head=heads.HEADS[head].fn, target=0)
    assert_same_cam(compiled(method, head).one(params, BATCH[0], TARGETS[0]), eager)


@pytest.mark.parametrize("method", [m for m, info in METHODS.items() if "key" in info.needs])
def test_draws_are_the_same_at_every_precision(method):
    """So that what a lower one loses can be told from what other draws would give."""
    head = one_of(method, "gelu_tanh")
    narrow = compiled(method, head).one(float32_params(head), BATCH[0], TARGETS[1])
    with jax.enable_x64(True):
        params = heads.to_jax(heads.HEADS[head].params, jnp.float64)
        a = jnp.asarray(np.asarray(BATCH[0]), jnp.float64)
        run = jax.jit(lambda params, a: explain(method, params, a, head=heads.HEADS[head].fn, target=2).coefficients)
        wide = np.asarray(run(params, a))
    np.testing.assert_allclose(narrow.coefficients, wide, rtol=0, atol=1e-4 * np.abs(wide).max())


@pytest.mark.parametrize("method", [m for m, info in METHODS.items() if info.batched])
def test_batch_size_changes_nothing(method):
    """Of those that anything batches; of the others a batch is a loop, above, whatever its size."""
    head = one_of(method, "linear_gap")  # what compiles fastest: the others' batches are loops, above
    params, c = float32_params(head), compiled(method, head)
    alone = c.batch(params, BATCH[:1], TARGETS[:1])
    together = c.batch(params, BATCH, TARGETS)
    assert_same_cam(alone, jax.tree.map(lambda x: x[:1], together), 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_target_may_be_a_function_of_the_logits(method):
    name = one_of(method, "gelu_tanh")
    head, params = heads.HEADS[name].fn, float32_params(name)

    @jax.jit
    def less(params, a, share):
        return explain(method, params, a, head=head, target=lambda logits: logits[2] - share * logits[0])

    by_index = compiled(method, name).one(params, BATCH[0], jnp.array(2))
    picked, difference = less(params, BATCH[0], 0.0), less(params, BATCH[0], 0.5)
    assert_same_cam(picked, by_index)
    logits = head(params, BATCH[0])
    np.testing.assert_allclose(difference.diagnostics["logit"], logits[2] - 0.5 * logits[0], rtol=1e-5, atol=1e-6)
    assert (np.abs(difference.coefficients - by_index.coefficients).max() > 1e-4) == METHODS[method].by_class


@pytest.mark.parametrize("method", METHODS)
def test_bad_targets_are_refused_in_one_line(method):
    run = functools.partial(explain, method, float32_params("linear_gap"), BATCH[0], head=heads.HEADS["linear_gap"].fn)
    for target in (heads.CLASSES, -1, lambda logits: logits[:2], jnp.array([0, 1])):
        with pytest.raises(JaxcamError) as caught:
            run(target=target)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_traced_class_that_does_not_exist_gives_nan_throughout(method):
    head = one_of(method, "vgg")
    run = functools.partial(compiled(method, head).one, float32_params(head), BATCH[0].at[..., 1].set(0.0))
    for target in (-1, heads.CLASSES, -heads.CLASSES):
        cam = run(jnp.asarray(target))
        assert np.isnan(cam.coefficients).all() and np.isnan(cam.map).all(), target
        assert np.isnan(cam.diagnostics["logit"])
    assert np.isfinite(run(jnp.asarray(0)).coefficients).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_vmap_is_refused(method):
    with pytest.raises(JaxcamError, match="vmap"):
        explain(method, float32_params("linear_gap"), BATCH, head=heads.HEADS["linear_gap"].fn, target=0)


# --- gradients through the coefficients ---------------------------------------------------------------------------


@functools.cache
def derivatives(method: str, head: str):
    """`(point, direction) -> (exact, by central differences, gradient at the point)`, compiled once, for float64.

    The derivative of a fixed combination of the coefficients along a direction in parameters and activations; of a
    method that tells no channels apart, of the map, whose sum may be 1 whatever happens.
    """

    def along(point):
        cam_ = explain(method, *point, head=heads.HEADS[head].fn, target=1)
        found = cam_.coefficients if METHODS[method].by_channel else cam_.map.ravel()
        return found @ np.random.RandomState(1).standard_normal(found.shape)

    @jax.jit
    def everything(point, direction):
        step = 1e-6
        points = jax.tree.map(lambda x, d: jnp.stack([x, x + step * d, x - step * d]), point, direction)
        (_, up, down), gradients = jax.lax.map(jax.value_and_grad(along), points)  # one program for all three
        gradient = jax.tree.map(lambda g: g[0], gradients)
        exact = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
        return exact, (up - down) / (2 * step), gradient

    return everything


#: Not through a linear head as well, where a method has another: the others hold all that it is made of.
CURVED = [(m, h) for m, h in CASES if m in DIFFERENTIABLE and (h != "linear_gap" or heads_of(m) == [h])]


@pytest.mark.parametrize(("method", "head"), CURVED)
def test_gradient_through_the_coefficients(method, head):
    rng = np.random.RandomState(0)
    # Nothing equal to anything else: a minimum or maximum has a kink there.
    a = seeded.activations(8, heads.SHAPE) + 0.1 * rng.uniform(0.5, 1.5, heads.SHAPE)
    with jax.enable_x64(True):
        point = (heads.to_jax(heads.HEADS[head].params, jnp.float64), jnp.asarray(a))
        direction = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), point)
        exact, numeric, gradient = jax.tree.map(np.asarray, derivatives(method, head)(point, direction))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert abs(numeric) > 1e-6
    np.testing.assert_allclose(exact, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", DIFFERENTIABLE)
def test_gradient_is_finite_where_activations_are_zero(method):
    head = one_of(method, "vgg")
    a = np.asarray(BATCH[0], np.float64)
    with jax.enable_x64(True):
        params = heads.to_jax(heads.HEADS[head].params, jnp.float64)
        for point in (a, np.where(np.arange(heads.CHANNELS) == 2, 0.0, a), 0 * a):
            given = (params, jnp.asarray(point))
            gradient = derivatives(method, head)(given, jax.tree.map(jnp.zeros_like, given))[-1]
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
