"""Names on values of a program: what people write into their code, and what the adapters add to a model's layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core as jex

from jaxcam.errors import JaxcamError
from jaxcam.transforms.walker import opened

T = TypeVar("T")

_PREFIX = "jaxcam/"

#: Not None while a network is traced to be cut: the libraries whose layers name themselves. What JAX has traced before
#: is traced again under it.
naming = jax.make_user_context(default_value=None)


def tag(x: T, name: str) -> T:
    """Names a value of your own network, so that it can be cut there: `x = jaxcam.tag(x, "conv5")`.

    The identity, under every transformation (jit, vmap, grad, remat), and nothing at all in the compiled program.

    Args:
      x: an array `(h, w, K)`, with or without a batch axis; or a pytree, whose leaves get
        names such as `conv5[0]`.
      name: what `jaxcam.split(..., at=name)` calls it. A name used twice is told apart as `name#1`, `name#2`.

    Raises:
      JaxcamError: the name is empty, or holds the `#` that numbers repeated names.
    """
    if not name or "#" in name:
        raise JaxcamError(f"a tag's name must not be empty or hold '#', as {name!r} does")
    return (mark if naming.value is None else mark_in_order)(x, name, "tag")


def mark(x: T, name: str, kind: str) -> T:
    """Every array in `x` labelled with a layer's name and kind (the class of the layer)."""

    def label(path, leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        return checkpoint_name(leaf, f"{_PREFIX}{kind}/{name}{jax.tree_util.keystr(path)}")

    return jax.tree_util.tree_map_with_path(label, x)


def mark_in_order(x: T, name: str, kind: str) -> T:
    """`mark`, for values that `jax.vmap` maps over inside a model: the mapped axis comes first in what it labels.

    Left to itself, JAX keeps that axis where a product happens to put it, and tokens and features change places.
    `with_plain_labels` makes ordinary labels of these once the program is traced.
    """

    def labelled(path, leaf):
        own = name + jax.tree_util.keystr(path)

        @jax.custom_batching.custom_vmap
        def in_order(value):
            return mark(value, own, kind)

        @in_order.def_vmap
        def _(axis_size, in_batched, value):
            return mark_in_order(value, own, kind), in_batched[0]

        label = jax.custom_jvp(lambda value: in_order(value))  # as the other has no reverse derivative
        label.defjvp(lambda values, tangents: (label(*values), *tangents))
        return label(leaf) if isinstance(leaf, jax.Array) else leaf

    return jax.tree_util.tree_map_with_path(labelled, x)


def with_plain_labels(program: Any) -> Any:
    """A program whose labels by `mark_in_order` are those by `mark`, inside of other programs too."""
    if isinstance(program, tuple | list) and not hasattr(program, "_fields"):
        return type(program)(map(with_plain_labels, program))
    if isinstance(program, jex.Jaxpr):  # first, as newer versions of JAX have but one kind
        return program.replace(eqns=[plain for eqn in program.eqns for plain in _plain(eqn)])
    if isinstance(program, jex.ClosedJaxpr):
        return jex.ClosedJaxpr(with_plain_labels(program.jaxpr), program.consts)
    return program


def _plain(eqn: jex.JaxprEqn) -> Iterator[jex.JaxprEqn]:
    if eqn.primitive.name == "custom_vmap_call" and read(eqn) is not None:
        yield eqn.params["call"].jaxpr.eqns[0].replace(invars=eqn.invars, outvars=eqn.outvars)
    elif (body := _label_with_derivative(eqn)) is not None:
        names: dict[Any, Any] = dict(zip(body.invars, eqn.invars, strict=True))
        for inner in (plain for held in body.eqns for plain in _plain(held)):
            last = inner.outvars[0] is body.outvars[0]
            names[inner.outvars[0]] = eqn.outvars[0] if last else jex.Var(inner.outvars[0].aval)
            yield inner.replace(invars=[names[v] for v in inner.invars], outvars=[names[inner.outvars[0]]])
    elif any(True for _ in jex.jaxprs_in_params(eqn.params)):
        yield eqn.replace(params={k: with_plain_labels(v) for k, v in eqn.params.items()})
    else:
        yield eqn


def _label_with_derivative(eqn: jex.JaxprEqn) -> jex.Jaxpr | None:
    """The body of a call by `mark_in_order`, in which mapped axes may be moved besides; None for any other equation."""
    if eqn.primitive.name != "custom_jvp_call" or len(eqn.invars) != 1:
        return None
    body = opened(eqn.params["call_jaxpr"])[0]
    labels = [e for e in body.eqns if read(e) is not None or _label_with_derivative(e) is not None]
    moved = all(e.primitive.name == "transpose" for e in body.eqns if e not in labels)
    return body if len(labels) == 1 and moved else None


def read(eqn: jex.JaxprEqn) -> tuple[str, str] | None:
    """`(kind, name)` of the label that an equation puts on its value; None for any other equation."""
    if eqn.primitive.name == "custom_vmap_call":  # of `mark_in_order`
        inner = eqn.params["call"].jaxpr.eqns
        return read(inner[0]) if len(inner) == 1 else None
    label: Any = eqn.params.get("name")
    if eqn.primitive.name != "name" or not str(label).startswith(_PREFIX):
        return None
    kind, name = label[len(_PREFIX) :].split("/", 1)
    return kind, name
