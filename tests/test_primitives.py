"""Every primitive of the vocabulary, under every transformation: the right numbers, or a refusal that is on a list."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from primitive_examples import EXAMPLES, SHAPE, WITHOUT_EXAMPLE, K, emitted

from jaxcam.transforms import coalition, deeplift, lrp
from jaxcam.transforms.coalition.game import Game
from jaxcam.transforms.primitives import VOCABULARY
from jaxcam.transforms.walker import UnsupportedPrimitive

RNG = np.random.default_rng(7)
X = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
REFERENCES = {"zero": None, "other": jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)}
MASKS = jnp.asarray([[(i >> k) & 1 for k in range(K)] for i in range(2**K)], jnp.float32)

_ORDER = "the order of its elements depends on the input"
_PLACE = "its result is the place of an element, a step function of the input"
_PREDICATE = "its result is a predicate, a step function of the input"
_MEET = "several elements may meet at one place, and which do not add up"
_INDEX = "an index that depends on the input"
_COMPLEX = "relevance of complex numbers is not defined"
_NOT_ZERO = "it is not 0 at 0, so that relevance in proportion to its value has nowhere to go"
_STEP = "a step function of the input"
_NORM = "relevance has no published rule for it, other than as a norm that weighs a product"
_UNPUBLISHED = "relevance has no published rule for it"
_OPAQUE = {
    "while": "how often the loop runs is found while it runs; "
    "scan, and fori_loop between Python's numbers, say it before",
    "argmax": _PLACE, "argmin": _PLACE, "reduce_xor": _PREDICATE,
    "approx_top_k": _ORDER,
    "scatter-mul": _MEET, "scatter-min": _MEET, "scatter-max": _MEET,
    "cholesky": "a decomposition of a matrix is neither linear nor elementwise, and no rule for it is published",
    "pure_callback": "it calls Python, where nothing can be followed",
}  # fmt: skip
#: What each transformation refuses, and the reason that it gives.
REFUSED = {
    "deeplift": _OPAQUE | {"call_hi_primitive": _INDEX},
    "lrp": {name: why for name, why in _OPAQUE.items() if VOCABULARY[name].kind != "choice"}
    | dict.fromkeys(("fft", "conj", "complex", "real", "imag"), _COMPLEX)
    | dict.fromkeys(("exp", "exp2", "log", "log2", "erfc", "cos", "acos", "cosh", "lgamma", "digamma"), _NOT_ZERO)
    | {"cumlogsumexp": _NOT_ZERO, "acosh": _NOT_ZERO}
    | dict.fromkeys(("sign", "floor", "ceil", "round", "nextafter"), _STEP)
    | dict.fromkeys(("sqrt", "rsqrt", "cbrt", "pow"), _NORM)
    | dict.fromkeys(
        ("atan2", "rem", "igamma", "igammac", "polygamma", "zeta", "regularized_incomplete_beta", "bessel_i0e",
         "bessel_i1e"), _UNPUBLISHED,
    ),
}  # fmt: skip
#: What runs for every coalition, and why.
PER_COALITION = {
    "scan": "loops are not taken apart", "while": "loops are not taken apart", "cond": "branches are not taken apart",
    "call_hi_primitive": "its program is known where it runs alone",
    "top_k": "mixes the channels", "approx_top_k": "mixes the channels",
    "scatter-mul": "its own rule is not written", "scatter-min": "its own rule is not written",
    "scatter-max": "its own rule is not written",
    "cholesky": "mixes the channels",
    "pure_callback": "leaves the program",
}  # fmt: skip

#: Half a step of the numbers that these round to, relative.
ROUNDING = {"convert_element_type": 2.0**-11, "reduce_precision": 2.0**-11}

#: Made of terms much larger than itself, which two programs round apart.
CANCELS = {"lgamma": 4e-6, "polygamma": 4e-6}

CASES = [pytest.param(name, id=name) for name in EXAMPLES]


def example(name: str):
    if not emitted(name):
        pytest.skip(f"this JAX writes {name} otherwise")
    return EXAMPLES[name]


def score(fn):
    """A number made of all elements, each with a weight of its own."""

    def of(x):
        out = fn(x)
        return jnp.sum(out * jnp.cos(1.0 + jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    return of


class Found(NamedTuple):
    """What the transformations make of an example, and what it is; those that refuse it are left out."""

    deeplift: dict[str, Any]
    lrp: Any
    game: Game
    coalitions: np.ndarray
    values: dict[str, np.ndarray]
    masked: np.ndarray


@functools.cache
def found(name: str) -> Found:
    """An example's, in two programs: that of the transformations, and the plain one."""
    fn, games = score(EXAMPLES[name]), []

    @jax.jit
    def transformed(x, other):
        by_reference, relevance = {}, None
        if name not in REFUSED["deeplift"]:
            paired = deeplift.deeplift(fn, with_reference=True)
            for key, r in (REFERENCES | {"other": other}).items():
                value, pull, base = jax.vjp(lambda x, r=r: paired(x, r), x, has_aux=True)
                by_reference[key] = value, *pull(jnp.ones_like(value)), base
        if name not in REFUSED["lrp"]:
            relevance = lrp.lrp(fn)(x)
        games.append(coalition.coalition_game(fn, x))
        return by_reference, relevance, games[0](MASKS)

    @jax.jit
    def plain(x, other):
        values = {"input": fn(x), "zero": fn(jnp.zeros_like(x)), "other": fn(other)}
        return values, coalition.masked_game(fn, x)(MASKS)

    *parts, coalitions = jax.tree.map(np.asarray, transformed(X, REFERENCES["other"]))
    return Found(*parts, games[0], coalitions, *jax.tree.map(np.asarray, plain(X, REFERENCES["other"])))


def refused(transformation: str, name: str, call):
    why = REFUSED[transformation].get(name)
    if why is None:
        return False
    with pytest.raises(UnsupportedPrimitive) as error:
        call()
    assert str(error.value).endswith(f": {why}") and transformation in str(error.value)
    return True


def test_the_vocabulary_has_an_example_or_a_reason():
    assert set(EXAMPLES) | set(WITHOUT_EXAMPLE) == set(VOCABULARY)
    assert not set(EXAMPLES) & set(WITHOUT_EXAMPLE)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", CASES)
def test_deeplift_is_complete(name, reference):
    fn, r = score(example(name)), REFERENCES[reference]
    if refused("deeplift", name, lambda: deeplift.deeplift(fn, with_reference=True)(X, r)):
        return
    value, multipliers, base = found(name).deeplift[reference]
    delta, values = np.asarray(X if r is None else X - r), found(name).values
    np.testing.assert_allclose(value, values["input"], rtol=1e-6, atol=CANCELS.get(name, 1e-6))
    np.testing.assert_allclose(base, values[reference], rtol=1e-5, atol=1e-5)
    scale = np.sum(np.abs(multipliers * delta)) + 1e-3
    assert abs(np.sum(multipliers * delta) - (value - base)) <= (2e-5 + ROUNDING.get(name, 0)) * scale


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", [n for n, p in VOCABULARY.items() if p.kind == "maximum"])
def test_the_multipliers_of_a_maximum_are_shares(name, reference):
    fn, r = example(name), REFERENCES[reference]

    @jax.jit
    def multipliers(x):
        out, pull = jax.vjp(lambda x: deeplift.deeplift(fn)(x, r), x)
        return jax.vmap(pull)(jnp.eye(out.size).reshape(out.size, *out.shape))

    (m,) = multipliers(X)
    assert m.min() >= 0 and m.max() <= 1 + 1e-6


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", [n for n, p in VOCABULARY.items() if p.kind == "order"])
def test_the_multipliers_of_the_greatest_together_are_shares(name, reference):
    """Of the sum of the first, the first two ...: a maximum over sets of so many elements."""
    fn, r, sign = example(name), REFERENCES[reference], VOCABULARY[name].sign

    @jax.jit
    def multipliers(x):
        def sums(x):
            greatest = sign * deeplift.deeplift(fn)(sign * x, r)
            return jnp.cumsum(greatest.reshape(greatest.shape[0], -1), 0)

        out, pull = jax.vjp(sums, x)
        return jax.vmap(pull)(jnp.eye(out.size).reshape(out.size, *out.shape))

    (m,) = multipliers(X)
    assert m.min() >= -1e-5 and m.max() <= 1 + 1e-5


@pytest.mark.parametrize("name", CASES)
def test_lrp_conserves(name):
    fn = score(example(name))
    if refused("lrp", name, lambda: lrp.lrp(fn)(X)):
        return
    value, relevance, absorbed = (getattr(found(name).lrp, part) for part in ("value", "relevance", "absorbed"))
    total = relevance.sum() + absorbed["biases"] + absorbed["stabiliser"]
    np.testing.assert_allclose(value, found(name).values["input"], rtol=1e-6, atol=1e-6)
    scale = np.abs(relevance).sum() + np.abs(value) + 1e-3
    assert np.isfinite(relevance).all() and abs(total - value) <= (1e-5 + ROUNDING.get(name, 0)) * scale


@pytest.mark.parametrize("name", CASES)
def test_a_coalition_has_the_value_of_the_masked_evaluation_and_costs_no_more_than_it_must(name):
    example(name)
    game, expected = found(name).game, found(name).masked
    np.testing.assert_allclose(found(name).coalitions, expected, rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()))
    # Behind it there is but one sum, so a primitive that was folded leaves nothing to do per coalition.
    assert game.is_additive == (name not in PER_COALITION), game.structure


#: Examples whose constants have the shape of the input, for any number of classes.
_BESIDE = {
    "add": lambda z: z + jnp.sin(jnp.arange(z.size * 1.0)),
    "sub": lambda z: jnp.sin(jnp.arange(z.size * 1.0)) - z,
    "mul": lambda z: z * jnp.sin(jnp.arange(z.size * 1.0)),
    "select_n": lambda z: jnp.where(jnp.arange(z.size) > 0, z, jnp.sin(jnp.arange(z.size * 1.0))),
    "add_any": lambda z: jax.jvp(lambda v: v * v + v, (jnp.ones_like(z),), (z,))[1],
}


@pytest.mark.parametrize("name", [n for n in EXAMPLES if VOCABULARY[n].kind == "elementwise"])
def test_one_class_is_all_that_a_coalition_pays_for(name):
    """Behind a layer of 90 classes and an elementwise function, the choice of one class goes first."""
    fn = _BESIDE.get(name, example(name))

    games = []

    @jax.jit
    def values(x):
        both = []
        for classes in (3, 90):
            table = jnp.sin(jnp.arange(K * classes * 1.0)).reshape(K, classes) / 3
            head = lambda x, table=table: fn(x.mean((0, 1)) @ table)[1]  # noqa: E731
            games.append(coalition.coalition_game(head, x))
            both.append((games[-1](MASKS), coalition.masked_game(head, x)(MASKS)))
        return both

    for got, expected in values(X):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 + ROUNDING.get(name, 0))
    few, many = games
    assert many.megaflops <= few.megaflops + 1e-9, (few.structure, many.structure)
