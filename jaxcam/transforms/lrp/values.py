"""The values that `lrp` runs a program on: a plain value beside a carrier whose cotangent is its relevance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcam.transforms.lrp.layer_rules import LayerRule, WeightedLayer, share
from jaxcam.transforms.walker import UnsupportedPrimitive, bind

#: What receives the relevance that no input gets: scalars `(biases, stabiliser)` whose cotangents are the amounts.
Sinks = tuple[jax.Array, jax.Array]


class Run:
    """One propagation: what its rules share.

    Attributes:
      sinks: what receives the relevance that no input gets.
      epsilon: the stabiliser of operations without weights.
      choose: the rule of a layer with weights, by its place.
      count: how many such layers there are, where `choose` looks.
      layers: how many were met so far.
      inside: layers of the loop or branch being walked, by equation, as its body is walked more than once.
      through_softmax: whether relevance passes the softmax of an attention; else its weights are held fixed.
    """

    def __init__(
        self,
        sinks: Sinks,
        epsilon: float,
        choose: Callable[[WeightedLayer], LayerRule],
        count: int,
        through_softmax: bool = False,
    ):
        self.sinks, self.epsilon, self.choose, self.count = sinks, epsilon, choose, count
        self.through_softmax = through_softmax
        self.layers = 0
        self.inside: dict[int, int] | None = None

    def position(self, eqn: Any) -> int:
        """The number of a layer with weights, from 0 in the order in which they run."""
        index = self.layers if self.inside is None else self.inside.setdefault(id(eqn), self.layers)
        self.layers += index == self.layers
        return index


def propagate(backward: Callable, carriers: Any, sinks: Sinks, residual: Any, out: Any) -> Any:
    """The value `out`, through which relevance passes by `backward`.

    Everything is computed once, on plain values; `jax.vjp` only sees these, and adds up what
    reaches a value by several ways. Differentiating again gives true derivatives, as the plain
    values are ordinary functions of the input.

    Args:
      backward: `(residual, relevance of out) -> (relevance of carriers, to biases, to the stabiliser)`.
      carriers: pytree of the carriers of the operands.
      residual: arrays that `backward` needs.
      out: pytree of arrays.
    """

    dtype = sinks[0].dtype

    @jax.custom_vjp
    def value(carriers, sinks, residual, out):
        return out

    def forward(carriers, sinks, residual, out):
        return out, residual

    def pull(residual, relevance):
        to_carriers, to_biases, to_stabiliser = backward(residual, relevance)
        return to_carriers, (jnp.asarray(to_biases, dtype), jnp.asarray(to_stabiliser, dtype)), None, None

    value.defvjp(forward, pull)
    return value(carriers, sinks, residual, out)


def unbroadcast(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The sum of `x` over the axes along which an operand of `shape` was repeated."""
    if x.shape == shape:
        return x
    extra = x.ndim - len(shape)
    axes = [*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and x.shape[i + extra] != 1)]
    return jnp.sum(x, axis=tuple(axes), keepdims=False).reshape(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer that waits for the affine operations behind it: `gain * fn(source, weights) + offset`.

    Batch norm, a bias, an average's division become part of the layer, as rules other than epsilon require.
    """

    source: Value
    fn: Callable[[Any, Any], jax.Array]
    weights: Any
    rule: LayerRule
    gain: Any = None
    offset: Any = None

    def scaled(self, factor: Any) -> Linear:
        """The layer times a constant."""
        return dataclasses.replace(
            self,
            gain=factor if self.gain is None else self.gain * factor,
            offset=None if self.offset is None else self.offset * factor,
        )

    def shifted(self, by: Any) -> Linear:
        """The layer plus a constant."""
        return dataclasses.replace(self, offset=by if self.offset is None else self.offset + by)

    def moved(self, eqn: Any, shape: tuple[int, ...]) -> Linear:
        """The layer, of output `shape`, followed by an equation that only moves elements."""

        def move(array):
            if array is None:
                return None
            return bind(eqn, [jnp.broadcast_to(jnp.asarray(array), shape)])[0]

        inner = self.fn
        return dataclasses.replace(
            self, fn=lambda x, w: bind(eqn, [inner(x, w)])[0], gain=move(self.gain), offset=move(self.offset)
        )

    def carrier(self, z: jax.Array, sinks: Sinks) -> jax.Array:
        """The carrier of the layer's output `z`."""
        rule, fn = self.rule, self.fn  # which hold no traced value, and `self` does: it would be taken for a leak

        def backward(residual, relevance):
            x, weights, gain, offset, z = residual
            return share(rule, fn, x, weights, gain, offset, z, relevance)

        residual = (self.source.plain, self.weights, self.gain, self.offset, z)
        return propagate(backward, self.source.carrier, sinks, residual, z)


class Value:
    """An active value.

    Attributes:
      plain: what the program computes.
      run: the propagation that it is part of.
      lineage: the values, nearest first, of which this one is a function position by position.
      weighs: whether it only weighs other values in a product: a gate, attention weights, a norm.
      refusal: the error to raise if relevance should come this way, or None.
      mark: of maxima, of values less theirs, of exponentials and of their sums, to know a softmax by.
      linear: the linear layer that it is the output of, as long as nothing but affine operations came after.
    """

    __slots__ = ("_carrier", "linear", "lineage", "mark", "plain", "refusal", "run", "weighs")

    def __init__(
        self,
        plain: Any,
        run: Run,
        carrier: Any = None,
        *,
        linear: Linear | None = None,
        lineage: Sequence[Value] = (),
        weighs: bool = False,
        refusal: UnsupportedPrimitive | None = None,
        mark: Any = None,
    ):
        self.plain, self.run, self._carrier, self.linear = plain, run, carrier, linear
        self.lineage, self.weighs, self.refusal, self.mark = tuple(lineage), weighs, refusal, mark

    @property
    def floating(self) -> bool:
        """Whether it is a number; predicates and indices are constants to relevance."""
        return jnp.issubdtype(self.plain.dtype, jnp.floating)

    @property
    def chain(self) -> tuple[Value, ...]:
        """The value itself and its lineage."""
        return (self, *self.lineage)

    @property
    def carrier(self) -> Any:
        """Equal to `plain`; its cotangent is the relevance. Made on first use.

        Raises:
          UnsupportedPrimitive: relevance has no rule to come back through here.
        """
        if self.refusal is not None:
            raise self.refusal
        if self._carrier is None and self.linear is not None:
            self._carrier = self.linear.carrier(self.plain, self.run.sinks)
        return self._carrier


def plain(ins: Sequence[Any]) -> list:
    """The operands as the program sees them."""
    return [v.plain if isinstance(v, Value) else v for v in ins]


def common(values: Sequence[Value], shape: tuple[int, ...]) -> Value | None:
    """The nearest value of which all of `values` are elementwise functions, if it has the given shape."""
    first, *others = (v.chain for v in values)
    for v in first:
        shared = all(any(v is u for u in chain) for chain in others)
        if shared and v.floating and v.refusal is None and v.plain.shape == shape:
            return v
    return None


def absorbed(constant: Any, sinks: Sinks) -> Any:
    """A constant whose relevance counts as absorbed by a bias."""
    constant = jnp.asarray(constant)
    if not jnp.issubdtype(constant.dtype, jnp.floating):
        return constant
    return propagate(lambda _, relevance: ((), jnp.sum(relevance), 0.0), (), sinks, (), constant)


def run_of(ins: Sequence[Any]) -> Run:
    """The propagation that the operands belong to."""
    return next(v.run for v in ins if isinstance(v, Value))
