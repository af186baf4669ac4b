"""LRP against the slow version of oracle_lrp, rule by rule and layer by layer, in float64; and what it conserves."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import lrp_networks
import numpy as np
import oracle_lrp
import pytest

from jaxcam.errors import JaxcamError
from jaxcam.methods.contribution import hires_lrp_cam, lrp_multiplier_cam
from jaxcam.transforms.lrp import lrp
from jaxcam.transforms.lrp.layer_rules import AlphaBeta, Composite, Epsilon, Gamma, WeightedLayer
from jaxcam.transforms.walker import UnsupportedPrimitive

RULES = {
    "epsilon": ("epsilon", ("epsilon", 1e-9)),
    "large_epsilon": (Epsilon(0.2), ("epsilon", 0.2)),
    "z_plus": ("z_plus", ("alpha_beta", 1.0, 0.0, 1e-9)),
    "alpha2_beta1": ("alpha2_beta1", ("alpha_beta", 2.0, 1.0, 1e-9)),
    "alpha3": (AlphaBeta(3.0, 2.0, 0.1), ("alpha_beta", 3.0, 2.0, 0.1)),
    "gamma": ("gamma", ("gamma", 0.25, 1e-9)),
    "large_gamma": (Gamma(2.0, 1e-3), ("gamma", 2.0, 1e-3)),
}
MIXED = [("gamma", 0.25, 1e-9), ("alpha_beta", 1.0, 0.0, 1e-9), ("epsilon", 0.1), ("alpha_beta", 2.0, 1.0, 1e-9)]
MIXED_RULES = [Gamma(), AlphaBeta(), Epsilon(0.1), AlphaBeta(2.0, 1.0)]
SIGNED = {"plain": False, "signed": True}


def by_index(layer: WeightedLayer):
    return MIXED_RULES[layer.index % 4]


@functools.cache
def compiled(name: str):
    """`(arrays of the network, x, target) -> {rule: Relevance}`: one program for all inputs and biases."""
    leaves, tree = jax.tree.flatten(lrp_networks.networks()[name])
    fixed = [None if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
    rules = {key: rule for key, (rule, _) in RULES.items()}
    rules["by_index"] = by_index
    rules["sequence"] = [MIXED_RULES[i % 4] for i in range(lrp_networks.weighted(lrp_networks.networks()[name]))]

    def run(arrays, x, target):
        arrays = iter(arrays)
        net = jax.tree.unflatten(tree, [next(arrays) if leaf is None else leaf for leaf in fixed])
        return {key: lrp(lambda x: lrp_networks.run(net, x)[target], rule)(x) for key, rule in rules.items()}

    return jax.jit(run)


@functools.cache
def results(name: str, signed: bool, biased: bool = True) -> dict:
    """`{rule: Relevance}` of the largest logit of one network, in float64."""
    net, x = lrp_networks.networks(biased)[name], lrp_networks.activations(signed)
    arrays = [leaf for leaf in jax.tree.leaves(net) if isinstance(leaf, np.ndarray)]
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, compiled(name)(arrays, x, int(oracle_lrp.forward(net, x).argmax())))


def check(got, net, x, rules):
    logits = oracle_lrp.forward(net, x)
    start = np.where(np.arange(len(logits)) == logits.argmax(), logits, 0.0)
    want, absorbed = oracle_lrp.lrp(net, x, start, rules)
    assert np.abs(want).max() > 1e-3
    # Where contributions nearly cancel, relevance grows far beyond the logit: relative to the largest, then.
    assert np.abs(got.relevance - want).max() < 1e-9 * np.abs(want).max()
    assert abs(got.absorbed["biases"] - absorbed) < 1e-8 * max(np.abs(want).sum(), abs(absorbed))
    assert abs(got.value - logits.max()) < 1e-12 * max(1, abs(logits.max()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("signed", SIGNED)
@pytest.mark.parametrize("name", lrp_networks.networks())
def test_every_rule_on_every_layer_is_that_of_the_papers(name, signed, rule):
    net, x = lrp_networks.networks()[name], lrp_networks.activations(SIGNED[signed])
    check(results(name, SIGNED[signed])[rule], net, x, itertools.repeat(RULES[rule][1]))


@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_the_map_by_position_is_the_relevance_summed_over_the_channels_and_slopes_are_what_a_unit_has(rule):
    net, x = lrp_networks.networks()["max_pool"], lrp_networks.activations()
    logits = oracle_lrp.forward(net, x)
    start = np.where(np.arange(len(logits)) == logits.argmax(), logits, 0.0)
    want, _ = oracle_lrp.lrp(net, x, start, itertools.repeat(RULES[rule][1]))
    with jax.enable_x64(True):
        head = lambda _, x: lrp_networks.run(net, x)  # noqa: E731
        both = hires_lrp_cam, lrp_multiplier_cam
        run = jax.jit(lambda x, t: [cam(None, x, head=head, target=t, rule=rule) for cam in both])
        got, slopes = run(x, int(logits.argmax()))
    np.testing.assert_allclose(got.map, np.maximum(want.sum(-1), 0), rtol=0, atol=1e-9 * np.abs(want).max())
    np.testing.assert_allclose(got.coefficients, want.sum((0, 1)), rtol=0, atol=1e-9 * np.abs(want).max())
    per_unit = np.divide(want, x, out=np.zeros_like(want), where=x != 0)
    assert (x == 0).any()
    np.testing.assert_allclose(slopes.coefficients, per_unit.mean((0, 1)), rtol=0, atol=1e-9 * np.abs(per_unit).max())


@pytest.mark.parametrize("how", ["by_index", "sequence"])
@pytest.mark.parametrize("name", lrp_networks.networks())
def test_a_rule_for_each_position(name, how):
    net, x = lrp_networks.networks()[name], lrp_networks.activations()
    rules = reversed([MIXED[i % 4] for i in range(lrp_networks.weighted(net))])
    check(results(name, False)[how], net, x, rules)


@pytest.mark.parametrize("rule", [*RULES, "by_index"])
@pytest.mark.parametrize("name", lrp_networks.networks())
def test_input_biases_and_stabiliser_add_up_to_the_value(name, rule):
    for signed in (False, True):
        got = results(name, signed)[rule]
        total = got.relevance.sum() + got.absorbed["biases"] + got.absorbed["stabiliser"]
        assert abs(total - got.value) < 1e-10 * max(got.value, np.abs(got.relevance).sum())


@pytest.mark.parametrize("rule", ["epsilon", "z_plus", "gamma"])
@pytest.mark.parametrize("name", lrp_networks.networks())
def test_without_biases_the_input_gets_all(name, rule):
    # Residual sums and a rule that sees one sign only may still meet a unit with nothing to share out to.
    got = results(name, False, biased=False)[rule]
    assert got.absorbed["biases"] == 0
    lost = got.absorbed["stabiliser"]
    assert abs(got.relevance.sum() + lost - got.value) < 1e-10 * max(got.value, np.abs(got.relevance).sum())
    if rule != "z_plus":
        assert abs(lost) < 1e-6 * np.abs(got.relevance).sum()


def test_alpha_beta_says_what_a_layer_without_contributions_of_one_sign_could_not_pass_on():
    w = np.array([[-1.0], [-2.0]])

    def score(x):
        return (x @ w)[0]

    got = lrp(score, "z_plus")(jnp.array([1.0, 3.0]))
    assert float(got.value) == -7 and not got.relevance.any() and float(got.absorbed["stabiliser"]) == -7
    got = lrp(score, "alpha2_beta1")(jnp.array([1.0, 3.0]))  # -beta R_j (z_ij- / z_j-)
    np.testing.assert_allclose(got.relevance, [1.0, 6.0], rtol=1e-6)
    assert float(got.absorbed["stabiliser"]) == pytest.approx(-14)


def test_a_composite_tells_kinds_and_positions_apart():
    seen = []

    def note(layer):
        seen.append(layer)
        return Epsilon()

    net = lrp_networks.networks()["batch_norm"]
    x = jnp.asarray(lrp_networks.activations(), jnp.float32)
    jax.eval_shape(lrp(lambda x: lrp_networks.run(net, x)[0], note), x)
    assert [(s.index, s.count, s.kind, s.shape) for s in seen] == [
        (0, 3, "conv", (1, 6, 6, 5)), (1, 3, "dense", (12,)), (2, 3, "dense", (3,)),
    ]  # fmt: skip
    assert all("lrp_networks.py" in s.place for s in seen)
    rules = Composite(conv=Gamma(), dense=Epsilon(), first=AlphaBeta(), last=Epsilon(1.0))
    assert [rules(s) for s in seen] == [AlphaBeta(), Epsilon(), Epsilon(1.0)]
    assert Composite(conv=Gamma(), dense=Epsilon())(seen[0]) == Gamma()


def test_mistakes_are_named():
    x = jnp.ones(3)
    with pytest.raises(JaxcamError, match="no LRP rule called 'epsilom'; did you mean epsilon"):
        lrp(jnp.sum, "epsilom")
    with pytest.raises(JaxcamError, match="2 LRP rules were given, but the function has 1 layers"):
        lrp(lambda x: x @ jnp.ones(3), [Epsilon(), Epsilon()])(x)
    with pytest.raises(JaxcamError, match="alpha - beta = 1"):
        AlphaBeta(2.0, 2.0)
    with pytest.raises(JaxcamError, match="gamma must be at least 0"):
        Gamma(-0.1)
    with pytest.raises(JaxcamError, match="one scalar result"):
        lrp(lambda x: x)(x)


@pytest.mark.parametrize(
    "fn, name",
    [
        (lambda x: jnp.linalg.norm(x + 1), "sqrt"),
        (lambda x: jnp.sum(jnp.round(x)), "round"),
        (lambda x: jnp.sum(jax.lax.cumlogsumexp(x)), "exp"),
    ],
)
def test_a_refusal_has_a_place_inside_functions_that_jax_keeps(fn, name):
    with pytest.raises(UnsupportedPrimitive, match=f"'{name}' at .*test_lrp.py"):
        lrp(fn)(jnp.arange(3.0))
