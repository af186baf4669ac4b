"""A primitive that nobody here has heard of: declared, or given a rule, in one line, and right everywhere then."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive as NewPrimitive
from jax.interpreters import ad, batching, mlir

from jaxcam.transforms import coalition, deeplift, lrp, primitives
from jaxcam.transforms.primitives import Primitive
from jaxcam.transforms.walker import UnsupportedPrimitive

cube_p = NewPrimitive("cube")
cube_p.def_impl(lambda x: x * x * x)
cube_p.def_abstract_eval(lambda x: x)
ad.defjvp(cube_p, lambda g, x: 3 * x * x * g)
batching.primitive_batchers[cube_p] = lambda args, dims: (cube_p.bind(*args), *dims)
mlir.register_lowering(cube_p, mlir.lower_fun(lambda x: x * x * x, multiple_results=False))


def cube(x):
    return cube_p.bind(x)


@jax.custom_jvp
def own(x):
    return cube(x) + x


own.defjvp(lambda p, t: (own(p[0]), (3 * p[0] ** 2 + 1) * t[0]))

WHERE = {
    "bare": cube,
    "jit": jax.jit(cube),
    "scan": lambda x: jax.lax.scan(lambda c, w: (c + cube(w * x), None), x, jnp.arange(1.0, 3.0))[0],
    "cond": lambda x: jax.lax.cond(jnp.sum(jnp.ones(3)) > 0, cube, jnp.sin, x),
    "custom_jvp": own,
    "remat": jax.checkpoint(cube),
}
K = 3
X = jnp.asarray(np.random.default_rng(3).normal(size=(2, 2, K)), jnp.float32)
R = jnp.asarray(np.random.default_rng(4).normal(size=(2, 2, K)), jnp.float32)
MASKS = jnp.asarray([[(i >> k) & 1 for k in range(K)] for i in range(2**K)], jnp.float32)


def score(fn):
    return lambda x: jnp.sum(jnp.tanh(fn(x).reshape(-1) @ jnp.sin(jnp.arange(24.0)).reshape(12, 2)))


@pytest.fixture
def unregistered(monkeypatch):
    """What a test registers is forgotten after it."""
    for transformation in (deeplift, lrp, coalition):
        monkeypatch.setattr(transformation.RULES, "_by_name", dict(transformation.RULES._by_name))
    monkeypatch.setattr(primitives, "VOCABULARY", primitives.VOCABULARY)
    before = dict(primitives.VOCABULARY)
    yield
    primitives.VOCABULARY.clear()
    primitives.VOCABULARY.update(before)


def gap(fn):
    value, pull, base = jax.vjp(lambda x: deeplift.deeplift(fn, with_reference=True)(x, R), X, has_aux=True)
    (m,) = pull(jnp.ones_like(value))
    return float(jnp.sum(m * (X - R)) - (value - base)) / float(jnp.sum(jnp.abs(m * (X - R))))


def leak(fn):
    found = lrp.lrp(fn)(X)
    return float(found.relevance.sum() + sum(found.absorbed.values()) - found.value)


def test_without_a_word_it_is_refused_or_paid_for(unregistered):
    for call in (gap, leak):
        with pytest.raises(UnsupportedPrimitive, match="'cube'.*test_rules.py.*not known to be linear"):
            call(score(cube))
    game = coalition.coalition_game(score(cube), X)
    np.testing.assert_allclose(game(MASKS), coalition.masked_game(score(cube), X)(MASKS), rtol=1e-5, atol=1e-5)
    assert "no structure" in game.structure


@pytest.mark.parametrize("where", WHERE)
def test_declared_once_all_three_know_it(unregistered, where):
    primitives.declare("cube", Primitive("elementwise", passes=True))
    assert all("cube" in t.RULES for t in (deeplift, lrp, coalition))
    fn = score(WHERE[where])
    assert abs(gap(fn)) < 1e-5 and abs(leak(fn)) < 1e-5
    game = coalition.coalition_game(fn, X)
    np.testing.assert_allclose(game(MASKS), coalition.masked_game(fn, X)(MASKS), rtol=1e-5, atol=1e-5)
    if where not in ("scan", "cond"):
        assert "additive up to" in game.structure


@pytest.mark.parametrize("where", WHERE)
def test_a_rule_of_ones_own_goes_first(unregistered, where):
    deeplift.register("cube", deeplift.equivalent_program(lambda x: x * x * x))
    lrp.register("cube", lrp.activation)
    coalition.register("cube", coalition.elementwise)
    fn = score(WHERE[where])
    assert abs(gap(fn)) < 1e-5 and abs(leak(fn)) < 1e-5
    game = coalition.coalition_game(fn, X)
    np.testing.assert_allclose(game(MASKS), coalition.masked_game(fn, X)(MASKS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", WHERE)
def test_a_rule_holds_inside_other_programs_and_goes_before_the_vocabulary(unregistered, where):
    """With a rule that passes nothing back, nothing comes back, wherever the primitive stands."""
    primitives.declare("cube", Primitive("elementwise", passes=True))

    def stopped(eqn, ins):
        values = [jax.lax.stop_gradient(v.x) if isinstance(v, deeplift.Pair) else v for v in ins]
        return [eqn.primitive.bind(*values, **eqn.params)]

    deeplift.register("cube", stopped)
    (m,) = jax.vjp(lambda x: deeplift.deeplift(lambda v: jnp.sum(WHERE[where](v)))(x, R), X)[1](jnp.ones(()))
    expected = 1.0 if where in ("scan", "custom_jvp") else 0.0  # what goes past the cube
    np.testing.assert_allclose(m, jnp.full_like(X, expected), atol=1e-6)


def test_a_maximum_knows_its_sign(unregistered):
    """What `reduce_window_min` was before it was in the vocabulary: one line, and its multipliers are shares."""
    del primitives.VOCABULARY["reduce_window_min"]
    fn = lambda x: jax.lax.reduce_window(x, jnp.inf, jax.lax.min, (2, 2, 1), (1, 1, 1), "SAME")  # noqa: E731
    with pytest.raises(UnsupportedPrimitive, match="reduce_window_min"):
        gap(lambda x: jnp.sum(fn(x)))
    primitives.declare("reduce_window_min", Primitive("maximum", sign=-1))
    assert abs(gap(lambda x: jnp.sum(fn(x)))) < 1e-5 and abs(leak(lambda x: jnp.sum(fn(x)))) < 1e-5
    (m,) = jax.vjp(lambda x: deeplift.deeplift(fn)(x, R), X)[1](jnp.zeros((2, 2, K)).at[0, 0].set(1.0))
    assert m.min() >= 0 and m.max() <= 1


def test_a_kind_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="moves.*not 'pointwise'"):
        Primitive("pointwise")
