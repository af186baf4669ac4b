"""LRP as a program transformation: `lrp(fn)` gives the relevance of every input of fn.

The program runs once on plain values; beside them run carriers whose cotangents are relevances, so that one `jax.vjp`
is the whole backward pass. Linear operations are kept open until a non-linear one comes, so that a convolution, its
bias and the batch norm behind it are one layer, as rules other than epsilon require (they are not
implementation-invariant). Two layers with weights in a row stay two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.errors import JaxcamError
from jaxcam.transforms import control
from jaxcam.transforms.lrp.elementwise import ELEMENTWISE, NAME, elementwise, moved, refuse
from jaxcam.transforms.lrp.layer_rules import Epsilon, Layer, Rule, RuleChoice, chooser, stabilised
from jaxcam.transforms.lrp.values import Linear, Sinks, Value, kind, plain, shell
from jaxcam.transforms.walker import bind, location, trace, walk

# Each element of the result is one element of one operand.
_MOVES = frozenset(
    "reshape squeeze expand_dims transpose broadcast_in_dim slice rev concatenate stack split pad dynamic_slice "
    "dynamic_update_slice gather reduce_precision optimization_barrier sharding_constraint reshard".split()
)
#: Of these, the ones that a layer may stay open through.
_OPEN = frozenset("reshape squeeze expand_dims transpose broadcast_in_dim slice rev reduce_precision".split())
#: Winner takes all; ties as in the gradient.
_MAXIMA = frozenset("reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin".split())
_SUMS = frozenset("reduce_sum reduce_window_sum cumsum".split())
_LAYERS = {"dot_general": "dense", "conv_general_dilated": "conv"}


class Relevance(NamedTuple):
    """What relevance propagation found.

    Attributes:
      value: `fn(x)`.
      relevance: of every element of x, in its structure; in the units of the value.
      absorbed: `{"biases": (), "stabiliser": ()}`: what did not reach x. `relevance.sum()` and these two add up to the
        value. "biases" are all summands that do not depend on x; "stabiliser" is what epsilon took,
        and, for alpha-beta, what a layer without contributions of one sign could not pass on.
    """

    value: jax.Array
    relevance: Any
    absorbed: dict[str, jax.Array]


def lrp(
    fn: Callable,
    rule: RuleChoice = "epsilon",
    *,
    epsilon: float = 1e-9,
    gamma: float = 0.25,
    precision: str | None = "highest",
) -> Callable[[Any], Relevance]:
    """The function `x -> Relevance` that shares out the scalar `fn(x)` over the elements of x.

    It can be jitted, vmapped and differentiated. A rule speaks of layers with weights (a convolution or a product with
    a constant matrix). All else is treated alike under every rule: sums, averages, residual additions
    and lone affine maps by the epsilon rule; maxima go to the winner (ties as in the gradient); activation
    functions pass relevance whole, an expression such as `x * sigmoid(x)` counting as one function. Gates,
    attention weights and the norms of LayerNorm are constants; two other factors get half each.
    0/0 is 0: what a sum of zero cannot share out is counted as the stabiliser's.

    Args:
      fn: a pure function of one pytree of floating-point arrays, with a scalar result.
      rule: "epsilon", "z_plus" (also "alpha1_beta0"), "alpha2_beta1", "gamma", "epsilon_plus", "epsilon_gamma"
        (composites: see `lrp_rules.named`); a rule of `lrp_rules`; a sequence of rules, one for each
        layer with weights from input to output; or a function of a `lrp_rules.Layer`.
      epsilon: the stabiliser, of named rules and of operations without weights.
      gamma: of the rules named after it.
      precision: matmul precision of operations that name none.

    Returns:
      `propagate(x) -> Relevance`. Cost: one evaluation of fn and one backward pass under the epsilon rule; other rules
      run a layer with weights two (z+) to four times, forwards and backwards.

    Raises:
      UnsupportedPrimitive: when it is called, if relevance would have to pass an operation without a
        rule; the message names the primitive and its place in the source.
      JaxcamError: an unknown rule, a number of rules that is not that of layers, or a result that is not a scalar.

    References:
      Bach et al., PLoS ONE 10(7), 2015; Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019.
      Arras et al., WASSA 2017 (gates); Ali et al., ICML 2022 (attention weights and LayerNorm held fixed);
      Achtibat et al., ICML 2024 (products).
    """
    choose, looks = chooser(rule, epsilon, gamma)

    def propagate(x):
        closed, _ = trace(fn, x, precision=precision)
        if [v.aval.shape for v in closed.jaxpr.outvars] != [()]:
            raise JaxcamError("lrp explains a function with one scalar result; pick a class, or sum")
        leaves, tree = jax.tree.flatten(x)
        leaves = [jnp.asarray(leaf) for leaf in leaves]

        def run(carriers, sinks, choose, count):
            values = [Value(leaf, sinks, carrier) for leaf, carrier in zip(leaves, carriers, strict=True)]
            walker = _Propagation(choose, count, sinks, epsilon)
            (out,) = walk(closed, values, active=Value, rule=walker.rule)
            return (out.carrier, walker.layers) if isinstance(out, Value) else (out, None)

        zero = jnp.zeros((), closed.out_avals[0].dtype)
        count = 0
        if looks:
            found: list[int] = []

            def probe(carriers, sinks):
                found.append(run(carriers, sinks, lambda layer: Epsilon(epsilon), 0)[1] or 0)

            jax.eval_shape(probe, leaves, (zero, zero))
            count = found[0]
        value, pull, layers = jax.vjp(lambda c, s: run(c, s, choose, count), leaves, (zero, zero), has_aux=True)
        relevance, (biases, stabiliser) = pull(value)
        if layers is None:  # nothing depends on x
            biases = value
        return Relevance(value, jax.tree.unflatten(tree, relevance), {"biases": biases, "stabiliser": stabiliser})

    return propagate


class _Propagation:
    """One walk over the program: the rules by primitive, and the count of layers met so far."""

    def __init__(self, choose: Callable[[Layer], Rule], count: int, sinks: Sinks, epsilon: float):
        self.choose, self.count, self.sinks, self.epsilon = choose, count, sinks, epsilon
        self.layers = 0
        self.inside: dict[int, int] | None = None  # layers of the loop or branch being walked, by equation

    def rule(self, eqn: Any, ins: list) -> list:
        name = eqn.primitive.name
        if name in ("stop_gradient", "copy", "copy_p"):  # only differentiation stops there; relevance does not
            return [ins[0]]
        if name in control.RULES:
            return self._control(eqn, ins)
        if name in ELEMENTWISE:
            return [elementwise(eqn, ins, self.sinks, self.epsilon)]
        # A predicate or an index is a constant nearby.
        ins = [v.plain if isinstance(v, Value) and not v.floating else v for v in ins]
        active = [v for v in ins if isinstance(v, Value)]
        known = name in _MOVES or name in _MAXIMA or name in _SUMS or name in _LAYERS
        if not known:
            raise refuse(eqn, "the operation is not known to be linear, elementwise or a maximum")
        if not active:
            return bind(eqn, ins)
        if name in _LAYERS and len(active) == 2 and active[0].steady != active[1].steady:
            return [self._weighted_by_value(eqn, ins)]
        refused = next((v for v in active if v.refusal is not None), None)
        if refused is not None:
            return self._refused(eqn, ins, refused)
        if name in _LAYERS:
            return [self._both(eqn, ins) if len(active) == 2 else self._layer(eqn, ins)]
        if name in _SUMS:
            return [self._linear(eqn, active[0], lambda x, _: bind(eqn, [x])[0], None, Epsilon(self.epsilon))]
        if name in _OPEN and active[0].linear is not None:
            linear = active[0].linear.moved(eqn, active[0].plain.shape)
            return [Value(bind(eqn, plain(ins))[0], self.sinks, linear=linear, steady=active[0].steady)]
        outs = moved(eqn, ins, self.sinks)
        for out in outs:
            out.steady = name in _OPEN and active[0].steady
        return outs

    def _linear(self, eqn: Any, source: Value, fn: Callable, weights: Any, rule: Rule) -> Value:
        return Value(fn(source.plain, weights), self.sinks, linear=Linear(source, fn, weights, rule))

    def _layer(self, eqn: Any, ins: list) -> Value:
        """A convolution or a dense layer with constant weights: what rules are about."""
        right = isinstance(ins[1], Value)
        source, weights = (ins[1], ins[0]) if right else (ins[0], ins[1])

        def fn(x, w):
            return bind(eqn, [w, x] if right else [x, w])[0]

        index = self._position(eqn)
        shape = eqn.outvars[0].aval.shape
        place = Layer(index, self.count, _LAYERS[eqn.primitive.name], shape, location(eqn))
        return self._linear(eqn, source, fn, jnp.asarray(weights), self.choose(place))

    def _weighted_by_value(self, eqn: Any, ins: list) -> Value:
        """A sum weighted by an attention: the weights are held fixed, the values share by the epsilon rule."""
        right = ins[0].steady
        source, weights = (ins[1], ins[0].plain) if right else (ins[0], ins[1].plain)

        def fn(x, w):
            return bind(eqn, [w, x] if right else [x, w])[0]

        return self._linear(eqn, source, fn, weights, Epsilon(self.epsilon))

    def _both(self, eqn: Any, ins: list) -> Value:
        """A product of two ordinary values: each gets half, shared by the epsilon rule."""
        (z,) = bind(eqn, plain(ins))

        def backward(residual, relevance):
            a, b, z = residual
            s = relevance / stabilised(z, self.epsilon) / 2
            to_a, to_b = jax.vjp(lambda u, v: bind(eqn, [u, v])[0], a, b)[1](s)
            return (a * to_a, b * to_b), 0.0, jnp.sum(relevance - 2 * s * z)

        carriers = tuple(v.carrier for v in ins)
        return Value(z, self.sinks, shell(backward, carriers, self.sinks, (*plain(ins), z), z))

    def _refused(self, eqn: Any, ins: list, refused: Value) -> list[Value]:
        """What follows from a value that relevance cannot reach: an error only if relevance comes this way."""
        name, mark, steady = eqn.primitive.name, refused.mark, False
        if name in _MOVES:
            steady = refused.steady
        elif mark is not None:
            mark = ("sum", mark[1]) if name == "reduce_sum" and mark[0] == "exponential" else None
        return [Value(out, refusal=refused.refusal, steady=steady, mark=mark) for out in bind(eqn, plain(ins))]

    def _control(self, eqn: Any, ins: list) -> list:
        """Loops and branches: their bodies are walked more than once, their layers counted once."""
        outer, self.inside = self.inside, {} if self.inside is None else self.inside
        try:
            return control.RULES[eqn.primitive.name](eqn, ins, self.rule, NAME, kind(self.sinks))
        finally:
            self.inside = outer

    def _position(self, eqn: Any) -> int:
        index = self.layers if self.inside is None else self.inside.setdefault(id(eqn), self.layers)
        self.layers += index == self.layers
        return index
