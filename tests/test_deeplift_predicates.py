"""Predicates and counts that depend on the input: step functions, complete, and what guards them takes nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcam.transforms.deeplift import deeplift
from jaxcam.transforms.guided import guided
from jaxcam.transforms.lrp import lrp
from jaxcam.transforms.walker import UnsupportedPrimitive

RNG = np.random.default_rng(3)
X = RNG.normal(size=6)
REFERENCES = {"zero": np.zeros(6), "other": RNG.normal(size=6)}
W = RNG.normal(size=6)

#: `fn(x (6,)) -> (6,)`, whose predicates come from other values than what they choose.
CHOOSING = {
    "above the mean": lambda x: jnp.where(x > x.mean(), x, 0.0),
    "near the largest": lambda x: jnp.where(jnp.abs(x) > 0.3 * jnp.abs(x).max(), x, 0.1 * x),
    "the two largest": lambda x: jnp.where(x >= jax.lax.top_k(x, 2)[0][-1], x, 0.0),
    "the largest itself": lambda x: jnp.where(x == x.max(), 2 * x, x),
    "by another": lambda x: jnp.where(x > 0, x[::-1] + 1, -x[::-1]),
    "any": lambda x: jnp.where(jnp.any(x > 1), x, x + 1),
    "all": lambda x: jnp.where(jnp.all(x > -3), jnp.sin(x), x),
    "and, or, not, xor": lambda x: jnp.where(~((x > 0) & (x[::-1] < 1) | (x.sum() > 0)) ^ (x > 0.3), x, 3 * x + 1),
    "count": lambda x: x / (1 + jnp.sum((x > 0) | (x[::-1] > 0.1))),
    "compared counts": lambda x: jnp.where((x > 0).sum() > (x > 0.5).sum() + 1, x, 1 - x),
    "half of a count, rounded": lambda x: x * ((x > 0).sum() // 2) + jnp.sum(x > 0.3) % 3,
    "average of some": lambda x: jnp.sum(x * (x > 0.2)) / jnp.maximum(jnp.sum(x > 0.2), 1) * jnp.cos(x),
    "sum of a guard": lambda x: jnp.where(x.sum() != 0, x / jnp.where(x.sum() == 0, 1.0, x.sum()), 0.0),
    "logaddexp": lambda x: jnp.logaddexp(x, x[::-1]),
    "a choice of predicates": lambda x: jnp.where(jnp.where(x.sum() > 0, x > 0, x[::-1] > 0), x, -x),
    "moved predicates": lambda x: jnp.where(jnp.roll(x > x.mean(), 1)[None].repeat(2, 0)[1], x, 0.5 * x),
    "two branches": lambda x: jax.lax.cond(x.sum() > 0, lambda v: jax.nn.relu(v) + 1, lambda v: v * v, x),
    "one of three branches": lambda x: jax.lax.switch(
        jnp.clip((x.mean() * 3).astype(int), 0, 2), [lambda v: v, lambda v: jnp.tanh(v) + 1, lambda v: v * v], x
    ),
    "one of four branches, by a count, or the last": lambda x: jax.lax.switch(
        (x > 0).sum(), [lambda v: v, lambda v: 2 * v, jnp.sin, lambda v: v * v + 1], x
    ),
    "two branches of constants": lambda x: x * jax.lax.cond(x[0] > x[1], lambda: 1.0, lambda: 2.0),
    "branches under vmap": lambda x: jax.vmap(lambda v: jax.lax.cond(v > x.mean(), lambda: v, lambda: 0 * v + 1))(x),
}  # fmt: skip


def weighted(fn):
    return lambda x: jnp.sum(fn(x) * W.astype(np.float32))


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", CHOOSING)
def test_complete(name, reference):
    """Of both signs of the input, so that predicates change either way."""
    fn = weighted(CHOOSING[name])
    r = jnp.asarray(REFERENCES[reference], jnp.float32)

    @jax.jit
    def parts(x):
        multipliers = jax.grad(lambda v: deeplift(fn)(v, None if reference == "zero" else r))(x)
        return jnp.sum(multipliers * (x - r)), fn(x) - fn(r), deeplift(fn, with_reference=True)(x, r), (fn(x), fn(r))

    for sign in (1, -1):
        total, difference, pair, plain = parts(sign * jnp.asarray(X, jnp.float32))
        np.testing.assert_allclose(total, difference, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(pair, plain, rtol=1e-6, atol=1e-6)


def slow_choice(x, r, predicate, cause, on, off):
    """Multipliers of `sum(w where(predicate(cause(x)), on x, off x))` for linear `cause`, element by element."""
    found = np.zeros_like(x)
    for i in range(len(x)):
        now, then = predicate(cause[i] @ x), predicate(cause[i] @ r)
        found[i] += W[i] * (on if now else off)
        jump = (on - off) * r[i]  # from one case to the other, at the reference
        rose = float(now) - float(then)
        if rose:
            found += W[i] * jump * rose / (cause[i] @ (x - r)) * cause[i]
    return found


@pytest.mark.parametrize("reference", REFERENCES)
def test_against_a_slow_version(reference):
    r = REFERENCES[reference]
    cause = RNG.normal(size=(6, 6))
    matrix = jnp.asarray(cause, jnp.float32)
    fn = weighted(lambda x: jnp.where(matrix @ x > 0.4, 2 * x, -x))
    m = jax.grad(deeplift(fn))(jnp.asarray(X, jnp.float32), jnp.asarray(r, jnp.float32))
    np.testing.assert_allclose(m, slow_choice(X, r, lambda v: v > 0.4, cause, 2.0, -1.0), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "guarded",
    [
        lambda x: jnp.where(x.sum() > 0, x, 0),
        lambda x: jnp.where(jnp.any(x > 0), x, 0),
        lambda x: jax.lax.cond((x > 0).sum() > 2, lambda v: v, jnp.zeros_like, x),
        lambda x: jnp.where(jnp.isfinite(x).all() & (x.max() > 0), x, 0),
    ],
)
def test_a_guard_takes_nothing(guarded):
    """What it lets through keeps all that it brings: the multipliers are those without it."""
    x = jnp.abs(jnp.asarray(X, jnp.float32))
    m = jax.grad(deeplift(weighted(guarded)))(x)
    np.testing.assert_allclose(m, W, rtol=1e-6)


def test_second_derivatives_and_batches():
    fn = weighted(CHOOSING["above the mean"])
    batch = jnp.asarray(RNG.normal(size=(3, 6)), jnp.float32)
    one_by_one = [jax.grad(deeplift(fn))(x) for x in batch]
    np.testing.assert_allclose(jax.vmap(jax.grad(deeplift(fn)))(batch), one_by_one, rtol=1e-6, atol=1e-6)
    assert jnp.isfinite(jax.grad(lambda v: jnp.sum(jax.grad(deeplift(fn))(v) ** 2))(batch[0])).all()


def test_branches_for_those_that_look_at_one_point():
    """To relevance and guided gradients the branch that is taken is a constant nearby."""
    x = jnp.abs(jnp.asarray(X, jnp.float32))

    def fn(v):
        return jnp.sum(jax.lax.cond(v.sum() > 0, lambda u: 2 * u, lambda u: -u, v))

    np.testing.assert_allclose(lrp(fn)(x).relevance, 2 * x, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(guided(fn))(x), 2.0)


@pytest.mark.parametrize(
    "fn, why",
    [
        (lambda x: x[jnp.argmax(x)], "a step function of the input"),
        (lambda x: jax.scipy.linalg.solve_triangular(jnp.eye(6) + jnp.diag(x), jnp.ones(6)).sum(), "right side only"),
    ],
)
def test_what_is_still_refused(fn, why):
    with pytest.raises(UnsupportedPrimitive, match=why):
        jax.grad(deeplift(fn))(jnp.asarray(X, jnp.float32))


# --- what went wrong once ---------------------------------------------------------------------------------------------


def scores(x):
    return jnp.outer(x[:3], x[3:]) + jnp.outer(x[3:], x[:3])


def masked_attention(mask):
    """The mean of `x` by a softmax of scores, some of which a mask hides."""
    return lambda x: (jax.nn.softmax(mask(scores(x)), -1) @ x[:3].reshape(3, 1)).repeat(2, 0).ravel()


MASKED = {
    f"{fill}, {name}": masked_attention(lambda s, fill=fill, keep=keep: jnp.where(keep(s), s, fill))
    for fill in (-1e9, -1e30, float(np.finfo(np.float32).min), -np.inf)
    for name, keep in {
        "the two largest": lambda s: s >= jax.lax.top_k(s, 2)[0][:, -1:],
        "those above the mean": lambda s: s >= s.mean(-1, keepdims=True),
    }.items()
}  # fmt: skip
#: Values that are not finite where they are not chosen, of both sides of the difference.
GUARDED = {
    "over the norm": lambda x: jnp.where((n := jnp.sqrt(jnp.sum(x * x))) > 0, x / n, 0),
    "over the norm, cond": lambda x: jax.lax.cond((n := jnp.sqrt(jnp.sum(x * x))) > 0, lambda: x / n, lambda: x),
    "masked mean": lambda x: jnp.where(jnp.any(x > 0.2), jnp.sum(x * (x > 0.2)) / jnp.sum(x > 0.2), 0) * jnp.cos(x),
    "a branch that is never taken": lambda x: jax.lax.cond(x.sum() > 99, lambda: jnp.log(x - 9), lambda: x * x),
    "infinite among the greatest": lambda x: jnp.where(
        jnp.isfinite(t := jax.lax.top_k(jnp.where(jnp.arange(6) < 2, x, -jnp.inf), 3)[0]), t, 0).repeat(2),
    "nan_to_num": lambda x: jnp.nan_to_num(x / jnp.abs(x).sum()),
    "isfinite": lambda x: jnp.where(jnp.isfinite(y := x / jnp.sqrt(jnp.sum(x * x))), y, 0),
    "hypot": lambda x: jnp.hypot(jax.nn.relu(x), jax.nn.relu(x[::-1])),
}  # fmt: skip
#: What met a smaller operand, or several counts.
SMALLER = {
    "max": lambda x: jnp.maximum(x, x.mean()),
    "clip": lambda x: jnp.clip(x, 0, 0.7 * x.max()),
    "min": lambda x: jnp.minimum(x, x.max(0, keepdims=True) / 2),
    "clamp": lambda x: jax.lax.clamp(x.min() / 2, x, x.mean()),
    "logaddexp": lambda x: jnp.logaddexp(x, x.mean()),
    "counts, multiplied": lambda x: x * ((x > x.mean()).sum() * (x < 0).sum()),
    "counts, the larger": lambda x: x * jnp.maximum((x > x.mean()).sum(), (x < 0).sum()),
    "counts by a matrix": lambda x: x * ((x > x.mean()).astype(int) @ jnp.arange(36).reshape(6, 6)),
    "select": lambda x: jnp.select([x < 0, x < x.mean()], [0.1 * x, x], 1.0),
    "select of several": lambda x: jnp.select([x[::-1] < 0, x.sum() > 0, x < 3], [x - 1, x[::-1], x * x]),
    "select of predicates": lambda x: x * jnp.select([x < 0, x[::-1] < 0], [x > -1, x < 1], x > x.mean()),
    "min and max": lambda x: (x - x.min()) / (x.max() - x.min() + 1e-8),
}  # fmt: skip


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", [*MASKED, *GUARDED, *SMALLER])
def test_complete_where_numbers_are_large_missing_or_few(name, reference):
    fn = weighted((MASKED | GUARDED | SMALLER)[name])
    r = jnp.asarray(REFERENCES[reference], jnp.float32)
    for x in (jnp.asarray(X, jnp.float32), -jnp.asarray(X, jnp.float32)):
        m = jax.jit(jax.grad(lambda v: deeplift(fn)(v, None if reference == "zero" else r)))(x)
        np.testing.assert_allclose(jnp.sum(m * (x - r)), fn(x) - fn(r), rtol=2e-4, atol=2e-4)
        assert name in SMALLER or jnp.abs(m * (x - r)).sum() < 60  # a map, not what cancels
        np.testing.assert_allclose(
            jax.jit(deeplift(fn, with_reference=True))(x, r), (fn(x), fn(r)), rtol=1e-4, atol=1e-5
        )


def test_a_mask_that_hides_everything_is_not_explained_away():
    """There F(0) is -inf: the values are the program's, whatever the multipliers were made of."""

    def fn(x):
        return jnp.max(jnp.where(x > x.mean(), x, -jnp.inf))

    value, base = deeplift(fn, with_reference=True)(jnp.asarray(X, jnp.float32), jnp.zeros(6))
    assert value == jnp.float32(X.max()) and base == -jnp.inf


def test_what_does_not_change_has_the_smaller_multiplier():
    """Of `0 / norm` the norm at the reference, 1e8 times as much, says nothing."""

    def fn(x):
        return jnp.sum(x / (jnp.sqrt(jnp.sum(x * x)) + 1e-8) * W.astype(np.float32))

    x = jnp.asarray([0, 0, *X[2:]], jnp.float32)
    m = jax.grad(deeplift(fn))(x)
    np.testing.assert_allclose(m[:2], W[:2] / np.linalg.norm(x), rtol=1e-3)


def test_counts_in_half_precision_are_counted_in_single():
    x = jnp.asarray(np.random.default_rng(0).normal(size=3001) + 0.3, jnp.bfloat16)
    fn = lambda v: jnp.sum(v > 0.1 * v.max()).astype(jnp.float32)  # noqa: E731
    assert deeplift(fn, with_reference=True)(x, -x) == (fn(x), fn(-x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize(
    "name", ["gate", "softmax", "norm", "above the mean", "and, or, not, xor", "count", "two branches"]
)
def test_products_and_predicates_in_other_precisions(name, dtype):
    """A NumPy number among float16 or, with x64, float32 makes another type of them."""
    gates = {
        "gate": lambda x: x * jax.nn.sigmoid(x[::-1]), "softmax": lambda x: jax.nn.softmax(x) * x,
        "norm": lambda x: x / jnp.sqrt(jnp.mean(x * x) + 1e-3),
    }  # fmt: skip
    with jax.enable_x64(dtype == "float64"):
        for kind in (dtype, "float32"):
            x = jnp.asarray(X, kind)
            fn = lambda v, kind=kind: jnp.sum((gates | CHOOSING)[name](v) * jnp.asarray(W, kind))  # noqa: E731
            m = jax.jit(jax.grad(lambda v, fn=fn: deeplift(fn)(v).astype(jnp.float32)))(x)
            tolerance = 0.1 if kind == dtype != "float64" else 1e-4
            total = np.sum(np.asarray(m, np.float64) * np.asarray(x, np.float64))
            np.testing.assert_allclose(total, np.float64(fn(x)) - np.float64(fn(0 * x)), rtol=tolerance, atol=tolerance)


def test_what_predicates_are_made_of_is_made_once():
    """Each of a row asks twice for the one before: twice as many cost twice as much, not thousands of times."""

    def row(count):
        def fn(x):
            holds = x > x.mean()
            for i in range(count):
                holds = (holds & (x[::-1] > i / 20)) | (x > jnp.roll(x, i)) ^ holds
            return jnp.sum(jnp.where(holds, x, -x))

        return fn

    x, fn = jnp.asarray(X, jnp.float32), row(8)
    few, many = (len(jax.make_jaxpr(jax.grad(deeplift(row(n))))(x).eqns) for n in (4, 8))
    assert many < 2.2 * few
    np.testing.assert_allclose(jnp.sum(jax.grad(deeplift(fn))(x) * x), fn(x) - fn(0 * x), rtol=1e-4, atol=1e-4)
