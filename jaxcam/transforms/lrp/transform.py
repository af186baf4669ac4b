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

from jaxcam.errors import JaxcamError, check_known
from jaxcam.transforms.control import ActiveValues, control
from jaxcam.transforms.lrp.elementwise import COMPLEX, NAME, elementwise, moved
from jaxcam.transforms.lrp.layer_rules import Epsilon, LayerRule, RuleChoice, WeightedLayer, chooser, stabilised
from jaxcam.transforms.lrp.values import Linear, Run, Value, absorbed, plain, propagate, run_of
from jaxcam.transforms.precision import resolved
from jaxcam.transforms.primitives import describe
from jaxcam.transforms.rules import Rules
from jaxcam.transforms.walker import UnsupportedPrimitive, bind, bound, equivalent, location, trace, walk

#: What a layer with weights is called, by its primitive.
_LAYERS = {"dot_general": "dense", "conv_general_dilated": "conv"}


#: What becomes of attention weights: held fixed, or given their half, which passes the softmax (AttnLRP).
ATTENTION = ("fixed", "attnlrp")


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
    precision: str | None = None,
    begin: Callable[[jax.Array], jax.Array] | None = None,
    attention: str = "fixed",
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
        (composites: see `layer_rules.named`); a rule of `layer_rules`; a sequence of rules, one for each
        layer with weights from input to output; or a function of a `layer_rules.WeightedLayer`.
      epsilon: the stabiliser, of named rules and of operations without weights.
      gamma: of the rules named after it.
      precision: of products that name none: "highest", "tf32" or "bfloat16", see `transforms.at_precision`; what an
        outer one of these says, else the highest.
      begin: of an fn whose result is an array of any shape, the relevance of its elements, of their values: a class's
        own logit against those of the others, for example. Relevance and what is absorbed add up to its sum.
      attention: "fixed" holds the weights of an attention fixed, and its values get everything; "attnlrp" gives weights
        and values half each, and the weights' passes the softmax as in Achtibat et al., `x (R - y sum R)`; the
        rest, which no x has, counts as a bias's. The norms of LayerNorm are constants in both.

    Returns:
      `propagate(x) -> Relevance`. Cost: one evaluation of fn and one backward pass under the epsilon rule; other rules
      run a layer with weights two (z+) to four times, forwards and backwards.

    Raises:
      UnsupportedPrimitive: when it is called, if relevance would have to pass an operation without a
        rule; the message names the primitive and its place in the source. `register` gives it one.
      JaxcamError: an unknown rule, a number of rules that is not that of layers, or a result that is not a scalar.

    References:
      Bach et al., PLoS ONE 10(7), 2015; Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019.
      Arras et al., WASSA 2017 (gates); Ali et al., ICML 2022 (attention weights and LayerNorm held fixed);
      Achtibat et al., ICML 2024 (products).
    """
    choose, looks = chooser(rule, epsilon, gamma)
    check_known("way with attention", attention, ATTENTION)

    def propagate(x):
        closed, _ = trace(fn, x, precision=resolved(precision).products)
        if len(closed.out_avals) != 1 or (begin is None and closed.out_avals[0].shape != ()):
            raise JaxcamError("lrp explains a function with one scalar result; pick a class, or sum")
        leaves, tree = jax.tree.flatten(x)
        leaves = [jnp.asarray(leaf) for leaf in leaves]

        def go(carriers, sinks, choose, count):
            run = Run(sinks, epsilon, choose, count, attention == "attnlrp")
            values = [Value(leaf, run, carrier) for leaf, carrier in zip(leaves, carriers, strict=True)]
            (out,) = _walk(closed, values)
            return (out.carrier, run.layers) if isinstance(out, Value) else (out, None)

        zero = jnp.zeros((), closed.out_avals[0].dtype)
        count = 0
        if looks:
            found: list[int] = []

            def probe(carriers, sinks):
                found.append(go(carriers, sinks, lambda layer: Epsilon(epsilon), 0)[1] or 0)

            jax.eval_shape(probe, leaves, (zero, zero))
            count = found[0]
        value, pull, layers = jax.vjp(lambda c, s: go(c, s, choose, count), leaves, (zero, zero), has_aux=True)
        first = value if begin is None else begin(value)
        relevance, (biases, stabiliser) = pull(first)
        if layers is None:  # nothing depends on x
            biases = jnp.sum(first)
        return Relevance(value, jax.tree.unflatten(tree, relevance), {"biases": biases, "stabiliser": stabiliser})

    return propagate


def register(names: str, rule: Callable[[Any, list], list]) -> None:
    """Gives primitives an LRP rule: `register("my_primitive", activation)`.

    It goes before what the vocabulary says, and holds inside `jit`, `scan`, `cond` and functions with their own
    derivative. A rule must conserve: what it passes on, and what it gives to the sinks, is what it got. `activation`,
    `elementwise`, `moves`, `sums` and `product` of this package are such rules, `equivalent_program` makes one of a
    program that computes the same, and `propagate` helps to write others.

    Args:
      names: of the primitives, in one string.
      rule: `(equation, operands) -> outputs`; operands and outputs are a `Value` where they depend on the input, else
        arrays.
    """
    RULES.register(names, rule)


def equivalent_program(program: Callable) -> Callable[[Any, list], list]:
    """The rule of a primitive that computes the same as `program(*operands, **params)`, made of known primitives."""
    return lambda eqn, ins: _walk(equivalent(eqn, program), ins)


def _walk(program: Any, values: list) -> list:
    return walk(program, values, active=Value, rule=lambda eqn, ins: RULES.find(eqn)(eqn, ins))


def _of_numbers(rule: Callable[[Any, list], list]) -> Callable[[Any, list], list]:
    """A rule for operands to which relevance has a way: a predicate or an index is a constant nearby."""

    def on_numbers(eqn, ins):
        ins = [v.plain if isinstance(v, Value) and not v.floating else v for v in ins]
        active = [v for v in ins if isinstance(v, Value)]
        if not active:
            return bind(eqn, ins)
        if describe(eqn).kind == "product" and len(active) == 2 and active[0].weighs != active[1].weighs:
            return [_weighted_by_value(eqn, ins)]
        refused = next((v for v in active if v.refusal is not None), None)
        return rule(eqn, ins) if refused is None else _refused(eqn, ins, refused)

    return on_numbers


@_of_numbers
def moves(eqn: Any, ins: list) -> list:
    """Each element of a result is an element of an operand; a linear layer stays open through one operand's moves."""
    first = next(v for v in ins if isinstance(v, Value))
    stays_open = len(ins) == len(eqn.outvars) == 1
    if stays_open and first.linear is not None:
        linear = first.linear.moved(eqn, first.plain.shape)
        return [Value(bind(eqn, plain(ins))[0], first.run, linear=linear, weighs=first.weighs)]
    outs = moved(eqn, ins)
    for out in outs:
        out.weighs = stays_open and first.weighs
        out.mark = first.mark if stays_open else None
    return outs


@_of_numbers
def maximum(eqn: Any, ins: list) -> list:
    """Winner takes all; ties as in the gradient."""
    outs = moved(eqn, ins)
    for out in outs:
        out.mark = ("maximum", ins[0])
    return outs


@_of_numbers
def order(eqn: Any, ins: list) -> list:
    """By size: relevance goes where each element came from."""
    return moved(eqn, ins)


def constant(eqn: Any, ins: list) -> list:
    """What says which case holds, or where an element is: as such a constant nearby."""
    return bind(eqn, plain(ins))


@_of_numbers
def sums(eqn: Any, ins: list) -> list:
    """Linear: shared by the epsilon rule, whatever rule the layers with weights have."""
    run = run_of(ins)
    at = [i for i, v in enumerate(ins) if isinstance(v, Value)]
    if set(at) & set(range(len(ins))[describe(eqn).indices]):
        raise UnsupportedPrimitive(NAME, eqn, describe(eqn).why)
    if len(at) > 1 or len(ins) > 1:  # values beside it, and where they go
        return _several(eqn, ins, at)
    return [_linear(ins[0], lambda x, _: bind(eqn, [x])[0], None, Epsilon(run.epsilon))]


@_of_numbers
def product(eqn: Any, ins: list) -> list:
    """A layer with weights, where one operand is constant: what layer rules are about. Else each operand gets half."""
    return [_both(eqn, ins) if all(isinstance(v, Value) for v in ins) else _layer(eqn, ins)]


def _linear(source: Value, fn: Callable, weights: Any, rule: LayerRule) -> Value:
    return Value(fn(source.plain, weights), source.run, linear=Linear(source, fn, weights, rule))


def _times(eqn: Any, source: Value, weights: Any, right: bool, rule: LayerRule) -> Value:
    """A product with weights that are held fixed; `right`: whether the value stands behind them."""
    return _linear(source, lambda x, w: bind(eqn, [w, x] if right else [x, w])[0], weights, rule)


def _several(eqn: Any, ins: list, at: list[int]) -> list:
    """A linear operation on several values: shared by the epsilon rule among all of them, constants as biases."""
    run, values = run_of(ins), plain(ins)
    (z,) = bind(eqn, values)
    where = range(len(ins))[describe(eqn).indices]
    constants = [i for i in range(len(ins)) if i not in at and i not in where]
    places, epsilon = at + constants, run.epsilon

    def backward(residual, relevance):
        *operands, z = residual
        s = relevance / stabilised(z, epsilon)
        moving = [operands[i] for i in places]
        (pulled,) = jax.vjp(bound(eqn, operands, places), moving)[1]([s])
        return [v * p for v, p in zip(moving, pulled, strict=True)], 0.0, jnp.sum(relevance - s * z)

    carriers = [ins[i].carrier for i in at] + [absorbed(values[i], run.sinks) for i in constants]
    return [Value(z, run, propagate(backward, carriers, run.sinks, [*map(jnp.asarray, values), z], z))]


def _layer(eqn: Any, ins: list) -> Value:
    """A convolution or a dense layer with constant weights: what rules are about."""
    right = isinstance(ins[1], Value)
    source, weights = ins[right], ins[not right]
    run, shape = source.run, eqn.outvars[0].aval.shape
    kind = _LAYERS.get(eqn.primitive.name, eqn.primitive.name)
    place = WeightedLayer(run.position(eqn), run.count, kind, shape, location(eqn))
    return _times(eqn, source, jnp.asarray(weights), right, run.choose(place))


def _weighted_by_value(eqn: Any, ins: list) -> Value:
    """A sum weighted by an attention: the weights are held fixed, the values share by the epsilon rule."""
    right = ins[0].weighs
    source = ins[right]
    return _times(eqn, source, ins[not right].plain, right, Epsilon(source.run.epsilon))


def _both(eqn: Any, ins: list) -> Value:
    """A product of two ordinary values: each gets half, shared by the epsilon rule."""
    run = run_of(ins)
    epsilon = run.epsilon
    (z,) = bind(eqn, plain(ins))

    def backward(residual, relevance):
        a, b, z = residual
        s = relevance / stabilised(z, epsilon) / 2
        to_a, to_b = jax.vjp(lambda u, v: bind(eqn, [u, v])[0], a, b)[1](s)
        return (a * to_a, b * to_b), 0.0, jnp.sum(relevance - 2 * s * z)

    carriers = tuple(v.carrier for v in ins)
    return Value(z, run, propagate(backward, carriers, run.sinks, (*plain(ins), z), z))


def _refused(eqn: Any, ins: list, refused: Value) -> list[Value]:
    """What follows from a value that relevance cannot reach: an error only if relevance comes this way."""
    mark, weighs = refused.mark, False
    if describe(eqn).kind == "moves":
        weighs = refused.weighs
    elif mark is not None:
        added = eqn.primitive.name == "reduce_sum" and mark[0] == "exponential"
        mark = ("sum", mark[1], tuple(eqn.params["axes"])) if added else None
    results = bind(eqn, plain(ins))
    return [Value(out, refused.run, refusal=refused.refusal, weighs=weighs, mark=mark) for out in results]


def _control(eqn: Any, ins: list) -> list:
    """Loops and branches: their bodies are walked more than once, their layers counted once.

    Which branch is taken is a constant nearby.
    """
    run = run_of(ins)
    ins = [v.plain if isinstance(v, Value) and not v.floating else v for v in ins]

    def pack(value):
        if not isinstance(value, Value):
            return (jnp.asarray(value), absorbed(value, run.sinks))
        return (value.plain, value.carrier if value.floating else value.plain)

    carried = ActiveValues(
        Value, pack, lambda packed: Value(packed[0], run, packed[1]), lambda e, v: RULES.find(e)(e, v), NAME
    )
    outer, run.inside = run.inside, {} if run.inside is None else run.inside
    try:
        return control(eqn, ins, carried)
    finally:
        run.inside = outer


#: The rule of each primitive, by its name.
RULES = Rules(
    NAME,
    {
        "moves": moves,
        "sums": sums,
        "product": product,
        "elementwise": elementwise,
        "maximum": maximum,
        "order": order,
        "choice": constant,
        "effect": constant,
        "composite": lambda eqn, ins: _walk(equivalent(eqn, describe(eqn).program), ins),
        "control": _control,
    },
    refused=dict.fromkeys(("fft", "complex", "conj", "real", "imag"), COMPLEX),
)
