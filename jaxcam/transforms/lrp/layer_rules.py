"""The rules of relevance propagation as data, how a layer's position picks one, and the one formula behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError, check_known

#: `(weight, u, v)`: this share of the relevance goes in proportion to u z+ + v z-, for contributions z = z+ + z-.
Branch = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Epsilon:
    """`R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j`, with `z_ij = x_i w_ij` and `z_j` the output, bias included.

    As epsilon goes to 0, a network of these rules, ReLUs, maxima and sums gives gradient x activation.

    References:
      Bach et al., PLoS ONE 10(7), 2015, eq. 58.
    """

    epsilon: float = 1e-9

    @property
    def branches(self) -> tuple[Branch, ...]:
        return ((1.0, 1.0, 1.0),)


@dataclasses.dataclass(frozen=True)
class AlphaBeta:
    """`R_i = sum_j (alpha z_ij+ / z_j+ - beta z_ij- / z_j-) R_j`; alpha 1 and beta 0 (the default) is the z+ rule.

    `z_ij+ = max(0, x_i w_ij)`, so inputs of either sign are handled; biases join the sum of their sign.

    Raises:
      JaxcamError: alpha - beta is not 1 (relevance would not be conserved), or beta is negative.

    References:
      Bach et al. 2015, eq. 60; Montavon et al., Pattern Recognition 65, 2017 (z+).
    """

    alpha: float = 1.0
    beta: float = 0.0
    epsilon: float = 1e-9

    def __post_init__(self):
        if self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-6:
            raise JaxcamError(
                f"the alpha-beta rule needs alpha - beta = 1 and beta >= 0, not {self.alpha}, {self.beta}"
            )

    @property
    def branches(self) -> tuple[Branch, ...]:
        positive: Branch = (self.alpha, 1.0, 0.0)
        return (positive, (-self.beta, 0.0, 1.0)) if self.beta else (positive,)


@dataclasses.dataclass(frozen=True)
class Gamma:
    """`R_i = sum_j (z_ij + gamma z_ij+) / sum_i (z_ij + gamma z_ij+) R_j`: positive contributions count for more.

    For inputs >= 0 this is the rule of the paper, `x_i (w_ij + gamma w_ij+)`; biases are treated as weights are.
    Gamma 0 is the epsilon rule; infinite gamma, the z+ rule.

    Raises:
      JaxcamError: gamma is negative.

    References:
      Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019, section 10.2.3.
    """

    gamma: float = 0.25
    epsilon: float = 1e-9

    def __post_init__(self):
        if self.gamma < 0:
            raise JaxcamError(f"gamma must be at least 0, not {self.gamma}")

    @property
    def branches(self) -> tuple[Branch, ...]:
        return ((1.0, 1.0 + self.gamma, 1.0),)


LayerRule = Epsilon | AlphaBeta | Gamma


@dataclasses.dataclass(frozen=True)
class WeightedLayer:
    """Where a layer with weights stands in the program, for a rule that depends on the position.

    Attributes:
      index: from 0, in the order in which the program runs them.
      count: how many there are; index `count - 1` is nearest to the output.
      kind: "conv" or "dense".
      shape: of its output.
      place: `file:line (function)` in the source, where known.
    """

    index: int
    count: int
    kind: str
    shape: tuple[int, ...]
    place: str | None


@dataclasses.dataclass(frozen=True)
class Composite:
    """A rule for convolutions and one for dense layers, with exceptions for the first and the last layer."""

    conv: LayerRule
    dense: LayerRule
    first: LayerRule | None = None
    last: LayerRule | None = None

    def __call__(self, layer: WeightedLayer) -> LayerRule:
        if layer.index == layer.count - 1 and self.last is not None:
            return self.last
        if layer.index == 0 and self.first is not None:
            return self.first
        return self.conv if layer.kind == "conv" else self.dense


#: What `lrp(fn, rule=...)` takes: a name, one rule, one per layer from input to output, or a function of the position.
RuleChoice = str | LayerRule | Sequence[LayerRule] | Callable[[WeightedLayer], LayerRule]


def named(name: str, epsilon: float, gamma: float) -> LayerRule | Composite:
    """The rule or composite called `name`.

    `epsilon_plus` and `epsilon_gamma` are composites: the epsilon rule on dense layers, and z+
    (Kohlbrenner et al., 2020) or gamma (Montavon et al., 2019) on convolutions.
    """
    plain = Epsilon(epsilon)
    table: dict[str, LayerRule | Composite] = {
        "epsilon": plain,
        "z_plus": AlphaBeta(1.0, 0.0, epsilon),
        "alpha1_beta0": AlphaBeta(1.0, 0.0, epsilon),
        "alpha2_beta1": AlphaBeta(2.0, 1.0, epsilon),
        "gamma": Gamma(gamma, epsilon),
        "epsilon_plus": Composite(AlphaBeta(1.0, 0.0, epsilon), plain),
        "epsilon_gamma": Composite(Gamma(gamma, epsilon), plain),
    }
    check_known("LRP rule", name, table)
    return table[name]


def chooser(rule: RuleChoice, epsilon: float, gamma: float) -> tuple[Callable[[WeightedLayer], LayerRule], bool]:
    """A function of the position, and whether it looks at the position at all."""
    if isinstance(rule, str):
        return chooser(named(rule, epsilon, gamma), epsilon, gamma)
    if isinstance(rule, Epsilon | AlphaBeta | Gamma):
        return lambda layer: rule, False
    if callable(rule):
        return rule, True
    rules = tuple(rule)

    def by_position(layer: WeightedLayer) -> LayerRule:
        if len(rules) != layer.count:
            raise JaxcamError(f"{len(rules)} LRP rules were given, but the function has {layer.count} layers")
        return rules[layer.index]

    return by_position, True


def stabilised(z: jax.Array, epsilon: float) -> jax.Array:
    """`z + epsilon sign z`, with sign 0 = 1; 1 where that is 0 still, as nothing is shared out there."""
    out = z + jnp.where(z >= 0, epsilon, -epsilon).astype(z.dtype)
    return jnp.where(out == 0, jnp.ones_like(out), out)


def share(
    rule: LayerRule, fn: Callable, x: Any, weights: Any, gain: Any, offset: Any, z: jax.Array, relevance: jax.Array
):
    """The relevance of the input of one linear layer `z = gain * fn(x, weights) + offset`.

    Args:
      rule: how.
      fn: linear in `x`, and in the array `weights` unless that is None.
      gain, offset: arrays that broadcast to `z`, or None for 1 and 0.
      z: the layer's output.
      relevance: of that output.

    Returns:
      `(relevance of x, relevance absorbed by the offset, relevance lost to the stabiliser)`. The three
      add up to the relevance of z. Where a sum of contributions is 0, nothing is passed on and the stabiliser has it.
    """
    b = jnp.zeros((), z.dtype) if offset is None else jnp.asarray(offset, z.dtype)
    g = jnp.ones((), z.dtype) if gain is None else jnp.asarray(gain, z.dtype)
    if all(u == v for _, u, v in rule.branches):  # epsilon: no contribution needs to be looked at by itself
        s = relevance / stabilised(z, rule.epsilon)
        (pulled,) = jax.vjp(lambda v: fn(v, weights), x)[1](s * g)
        return x * pulled, jnp.sum(s * b), jnp.sum(relevance - s * z)

    high_x, low_x = jnp.maximum(x, 0), jnp.minimum(x, 0)
    high_w, low_w = jnp.maximum(weights, 0), jnp.minimum(weights, 0)
    # A negative gain (batch norm) turns the positive contributions into the negative ones.
    with_negative = gain is not None or any(v for _, _, v in rule.branches)

    def positive(high, low):
        return fn(high, high_w) + fn(low, low_w)

    def negative(high, low):
        return fn(high, low_w) + fn(low, high_w)

    plus, pull_plus = jax.vjp(positive, high_x, low_x)
    minus, pull_minus = jax.vjp(negative, high_x, low_x) if with_negative else (jnp.zeros_like(plus), None)
    up = g > 0
    z_plus, z_minus = g * jnp.where(up, plus, minus), g * jnp.where(up, minus, plus)
    b_plus, b_minus = jnp.maximum(b, 0), jnp.minimum(b, 0)
    to_plus, to_minus = jnp.zeros_like(z), jnp.zeros_like(z)
    by_offset, passed = jnp.zeros((), z.dtype), jnp.zeros_like(z)
    for weight, u, v in rule.branches:
        total = u * (z_plus + b_plus) + v * (z_minus + b_minus)
        s = weight * relevance / stabilised(total, rule.epsilon)
        to_plus += s * g * jnp.where(up, u, v)
        to_minus += s * g * jnp.where(up, v, u)
        by_offset += jnp.sum(s * (u * b_plus + v * b_minus))
        passed += s * total
    pulls = [pull_plus(to_plus)] + ([pull_minus(to_minus)] if pull_minus else [])
    high, low = (sum(parts) for parts in zip(*pulls, strict=True))
    return high_x * high + low_x * low, by_offset, jnp.sum(relevance - passed)
