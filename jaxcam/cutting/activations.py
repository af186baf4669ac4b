"""Names for what follows a layer element by element: `relu(norm(x))` is `norm.relu`, `x + block(x)` is `block.add`.

Most networks apply activation functions, sum residuals and put branches side by side by plain functions, which no
library can name. They are found in the traced program: a value that is an elementwise, non-linear function of a named
one, and the sum, or the channels one behind the other, of values of which at least one has a name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from jaxcam.cutting import tags
from jaxcam.transforms.custom_derivatives import name_of
from jaxcam.transforms.primitives import describe, is_affine, is_elementwise
from jaxcam.transforms.walker import called, opened, variables

#: Calls whose programs are looked into; in others, what happens is the call's own business.
_ENTERED = frozenset({"jit", "pjit", "remat2", "checkpoint"})
#: What activation functions are made of; a norm's square, for one, is not.
_PARTS = frozenset("max min clamp tanh logistic erf erfc expm1 select_n".split())
_SUMS = frozenset({"add", "add_any"})


@dataclasses.dataclass(frozen=True)
class _Value:
    """A value that depends on the image.

    Attributes:
      root: the variable of which it is a function element by element; itself, if of no other.
      layer: the name of the root; "" for none.
      order: when the root got it.
      made_of: the names of the non-linear operations on the way from the root.
      worth: whether these make an activation.
    """

    root: Any
    layer: str = ""
    order: int = 0
    made_of: tuple[str, ...] = ()
    worth: bool = False

    @property
    def name(self) -> str:
        """What it is to be called."""
        if not self.made_of:
            return self.layer
        alone = len(self.made_of) == 1 and self.made_of[0].isidentifier()
        return f"{self.layer}.{self.made_of[0] if alone else 'activation'}"


def name_activations(closed: jex.ClosedJaxpr, num_params: int) -> jex.ClosedJaxpr:
    """The program `(*params, image) -> outputs` with a label on every activation and every sum of two branches."""
    from_image = [i >= num_params for i in range(len(closed.jaxpr.invars))]
    return jex.ClosedJaxpr(_labelled(closed.jaxpr, from_image), closed.consts)


def _labelled(jaxpr: jex.Jaxpr, from_image: list[bool]) -> jex.Jaxpr:
    values = _values(jaxpr, from_image)
    uses: dict[Any, list[jex.JaxprEqn]] = {}
    for eqn in jaxpr.eqns:
        for v in variables(eqn.invars):
            uses.setdefault(v, []).append(eqn)
    renamed: dict[Any, Any] = {}
    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _ENTERED and not _acts_on_elements(eqn):
            eqn = _inside(eqn, _active(eqn, values))
        eqns.append(eqn.replace(invars=[v if isinstance(v, jex.Literal) else renamed.get(v, v) for v in eqn.invars]))
        out = eqn.outvars[0] if eqn.outvars else None
        if out in values and _deserves(out, values, uses, eqn):
            last = values[out].made_of[-1] if values[out].made_of else values[out].name.rpartition(".")[2]
            eqns.append(_label(out, values[out].name, last))
            renamed[out] = eqns[-1].outvars[0]
    outvars = [v if isinstance(v, jex.Literal) else renamed.get(v, v) for v in jaxpr.outvars]
    return jaxpr.replace(eqns=eqns, outvars=outvars)


def _values(jaxpr: jex.Jaxpr, from_image: list[bool]) -> dict[Any, _Value]:
    """What is known of every value that depends on the image."""
    values = {v: _Value(v) for v, yes in zip(jaxpr.invars, from_image, strict=True) if yes}
    for order, eqn in enumerate(jaxpr.eqns, 1):
        active = _active(eqn, values)
        operands = [values[v] for v in variables(eqn.invars) if v in values]
        if not operands:
            continue
        label = tags.read(eqn)
        for out in eqn.outvars:
            values[out] = _Value(out, label[1] if label else "", order)
        if label is None and len(eqn.outvars) == 1 and _acts_on_elements(eqn):
            (out,) = eqn.outvars
            values[out] = _of_elements(eqn, operands, active, out, order)
        elif label is None and _joins_channels(eqn) and all(active) and (named := [v for v in operands if v.layer]):
            values[eqn.outvars[0]] = _Value(eqn.outvars[0], f"{_latest(named)}.concatenate", order)
    return values


def _latest(named: list[_Value]) -> str:
    return max(named, key=lambda v: v.order).name


def _joins_channels(eqn: jex.JaxprEqn) -> bool:
    """Whether maps, or tokens, are put one behind the other along their channels, which are last, or before both rows
    and columns; along another axis it is a class token before patches, or a batch."""
    if eqn.primitive.name != "concatenate":
        return False
    joined: Any = eqn.outvars[0].aval
    dims = len(joined.shape)
    return dims >= 3 and eqn.params["dimension"] in (dims - 1, dims - 3) and len(eqn.invars) > 1


def _of_elements(eqn: Any, operands: list[_Value], active: list[bool], out: Any, order: int) -> _Value:
    shape = out.aval.shape
    if len({id(v.root) for v in operands}) == 1:
        first = operands[0]
        if first.root.aval.shape != shape:
            return _Value(out)
        made_of = tuple(dict.fromkeys(part for v in operands for part in v.made_of))
        worth = any(v.worth for v in operands)
        if not is_affine(eqn, active) and not describe(eqn).predicate:
            made_of, worth = (*made_of, _operation(eqn)), worth or _is_activation(eqn)
        return dataclasses.replace(first, made_of=made_of, worth=worth)
    branches = eqn.primitive.name in _SUMS and all(v.aval.shape == shape for v in eqn.invars)
    named = [v for v in operands if v.layer]
    if not branches or not named:
        return _Value(out)
    return _Value(out, f"{_latest(named)}.add", order)


def _deserves(out: Any, values: dict[Any, _Value], uses: dict[Any, list[jex.JaxprEqn]], made_by: jex.JaxprEqn) -> bool:
    """Whether a value gets a label: an activation that is done, or what joins branches, that has no other."""
    value = values[out]
    if len(made_by.outvars) != 1 or not value.layer or tags.read(made_by) is not None:
        return False
    if len(out.aval.shape) < 2 or not jnp.issubdtype(out.aval.dtype, jnp.floating):
        return False
    if any(tags.read(eqn) is not None for eqn in uses.get(out, [])):
        return False
    if value.root is out:
        return not value.made_of  # a sum, or a concatenation
    if not value.worth or is_affine(made_by, _active(made_by, values)):
        return False
    return not _is_part(out, values, uses)


def _is_part(out: Any, values: dict[Any, _Value], uses: dict[Any, list[jex.JaxprEqn]]) -> bool:
    """Whether a value only goes on into non-linear functions of its own root; a norm's mean and scale are none."""
    left, seen = [out], {out}
    while left:
        following = uses.get(left.pop(), [])
        if not following:
            return False
        for eqn in following:
            arguments = [v for v in variables(eqn.invars) if v in values]
            if not _acts_on_elements(eqn) or any(values[v].root is not values[out].root for v in arguments):
                return False
            if is_affine(eqn, _active(eqn, values)) and eqn.outvars[0] not in seen:
                seen.add(eqn.outvars[0])
                left.append(eqn.outvars[0])
    return True


def _inside(eqn: jex.JaxprEqn, active: list[bool]) -> jex.JaxprEqn:
    """A call, its program labelled."""
    body = describe(eqn).body
    program = _labelled(opened(eqn.params[body])[0], active)
    held = eqn.params[body]
    new = jex.ClosedJaxpr(program, held.consts) if isinstance(held, jex.ClosedJaxpr) else program
    return eqn.replace(params=eqn.params | {body: new})


def _active(eqn: jex.JaxprEqn, values: dict[Any, _Value]) -> list[bool]:
    """Which operands depend on the image."""
    return [not isinstance(v, jex.Literal) and v in values for v in eqn.invars]


def _is_activation(eqn: jex.JaxprEqn) -> bool:
    """Whether a non-linear function of one value is worth a name: itself an activation, or a value times its gate."""
    inner = called(eqn)
    if inner is not None:
        return any(_is_activation(e) for e in opened(inner)[0].eqns)
    gated = eqn.primitive.name == "mul" and eqn.invars[0] is not eqn.invars[1]
    return gated or eqn.primitive.name in _PARTS


def _operation(eqn: jex.JaxprEqn) -> str:
    """What an operation is called: the function of a call (relu), or the primitive; "" where that says nothing."""
    name = str(eqn.params.get("name", "")) if called(eqn) is not None else ""
    name = (name or name_of(eqn)).strip("_")
    return "" if name in ("mul", "select_n", "where") else name


def _acts_on_elements(eqn: jex.JaxprEqn) -> bool:
    inner = called(eqn)
    if inner is None:
        first: Any = eqn.invars[0] if eqn.invars else None
        number = eqn.primitive.name == "broadcast_in_dim" and not first.aval.shape  # 0 of where(x > 0, x, 0)
        return number or is_elementwise(eqn) or describe(eqn).kind == "identity" and tags.read(eqn) is None
    return len(eqn.outvars) == 1 and all(_acts_on_elements(e) for e in opened(inner)[0].eqns)


def _label(value: Any, name: str, kind: str) -> jex.JaxprEqn:
    shape = jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype)
    [eqn] = jax.make_jaxpr(lambda x: tags.mark(x, name, kind or "activation"))(shape).jaxpr.eqns
    return eqn.replace(invars=[value], outvars=[jex.Var(value.aval)])
