"""How exactly matrix products and convolutions are computed: a choice out of three, for any program.

Explanations are differences of close numbers (a logit with and without a channel, contributions that add up), so the
highest is the default wherever one is made. What lower ones cost is measured by the command that is asked for one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from jaxcam.errors import unknown
from jaxcam.transforms.rewriting import calling, rewritten


@dataclasses.dataclass(frozen=True)
class Precision:
    """A way to compute products.

    Attributes:
      products: what `jax.default_matmul_precision` calls it.
      says: what is multiplied, in words.
      platforms: where there is such a thing; None for everywhere. Other platforms compute in float32 as ever.
      rounded: whether the operands are rounded to bfloat16 by the program itself, which adds up in float32.
    """

    products: str
    says: str = ""
    platforms: tuple[str, ...] | None = None
    rounded: bool = False

    def differs_on(self, platform: str) -> bool:
        """Whether it is another than float32 on `jax.devices()[0].platform`."""
        return self.products != HIGHEST and (self.platforms is None or platform in self.platforms)


HIGHEST = "highest"
#: Of forward passes from which no small difference is taken: features, and the scores of masked pictures.
PASSES = "tf32"
PRECISIONS = {
    HIGHEST: Precision(HIGHEST, "float32"),
    "tf32": Precision(
        "tensorfloat32", "float32 rounded to 11 bits, or bfloat16 in three parts", ("gpu", "cuda", "rocm", "tpu")
    ),
    # What JAX calls so multiplies TF32 on a GPU and float32 on a CPU: here it marks the products that are rounded.
    "bfloat16": Precision("bfloat16", "bfloat16, 8 bits, added up in float32", rounded=True),
}

_chosen = jax.make_user_context(None)


def check_precision(name: str | None) -> str | None:
    """`name`, which may be None.

    Raises:
      JaxcamError: it is no name of `PRECISIONS`.
    """
    if name is not None and name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return name


def resolved(name: str | None) -> Precision:
    """The precision of that name, or of one of JAX's own; unless named, what `choosing` says, else the highest."""
    name = name or _chosen.value or HIGHEST
    return PRECISIONS.get(name) or Precision(name)


@contextlib.contextmanager
def choosing(name: str | None) -> Iterator[None]:
    """What is traced inside, and names no precision of its own, has this one; `None` changes nothing.

    Products are rounded only inside of `at_precision`.
    """
    if check_precision(name) is None:
        yield
        return
    with _chosen(name), jax.default_matmul_precision(PRECISIONS[name].products):  # type: ignore[index]
        yield


def at_precision(function: Callable, precision: str | None = None) -> Callable:
    """The same function, whose matrix products and convolutions are computed at a precision.

    Those that name a precision in the code keep it, as do those of the library that solve equations or make tables. To
    be applied last, around gradients and vmaps, as `for_cpu` is, and inside of it: derivatives of rounded products
    are products, which are rounded in turn only where they are made inside.

        explain = jax.jit(for_cpu(at_precision(jax.vmap(one), "bfloat16")))

    Args:
      function: of pytrees of arrays; any of the methods, or a program around them.
      precision: "highest"; "tf32", on GPUs TensorFloat-32, on TPUs three passes of bfloat16, on CPUs float32; or
        "bfloat16", of rounded operands and with sums in float32, everywhere. None: what an outer one says.

    Returns:
      A function of the same signature, and of the same types.

    Raises:
      JaxcamError: there is no such precision.
    """
    check_precision(precision)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with choosing(precision):
            if not resolved(None).rounded:
                return function(*args, **kwargs)
            closed, shape = jax.make_jaxpr(function, return_shape=True)(*args, **kwargs)
            outputs = jex.jaxpr_as_fun(rewritten(closed, _rounded))(*jax.tree.leaves((args, kwargs)))
            return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return run


def with_precision(closed: jex.ClosedJaxpr, products: str | None) -> jex.ClosedJaxpr:
    """A program whose products have the precision that JAX calls so, where they name none."""
    if products is None:
        return closed
    given = _parameter(products)

    def instead(eqn: jex.JaxprEqn) -> jex.JaxprEqn:
        if eqn.primitive.name not in _PRODUCTS or eqn.params["precision"] is not None:
            return eqn
        return eqn.replace(params=eqn.params | {"precision": given})

    return rewritten(closed, instead)


#: The primitives with a parameter `precision`, of two operands that are rounded.
_PRODUCTS = ("dot_general", "conv_general_dilated")


@functools.lru_cache(maxsize=16)
def _parameter(products: str) -> Any:
    """How JAX writes a precision into an equation."""
    x = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    with jax.default_matmul_precision(products):
        [eqn] = jax.make_jaxpr(lax.dot)(x, x).eqns
    return eqn.params["precision"]


def _rounded(eqn: jex.JaxprEqn) -> jex.JaxprEqn:
    """An equation that calls the product of rounded operands, or the equation itself."""
    marked = _parameter(PRECISIONS["bfloat16"].products)
    if eqn.primitive.name not in _PRODUCTS or eqn.params["precision"] != marked:
        return eqn
    return calling(eqn, _call)


@functools.lru_cache(maxsize=512)
def _call(primitive: Any, params: tuple, x: tuple, w: tuple, out: tuple) -> jex.JaxprEqn | None:
    """The call in place of a product."""
    if not all(jnp.issubdtype(dtype, jnp.floating) for _, dtype in (x, w, out)):
        return None
    more = {"precision": None, "preferred_element_type": jnp.dtype(jnp.float32)}

    def bfloat16_product(x: jax.Array, w: jax.Array) -> jax.Array:
        # A mere conversion there and back may be left out by the compiler: what a CPU cannot multiply is widened again.
        x, w = (lax.reduce_precision(v, 8, 7).astype(jnp.bfloat16) for v in (x, w))
        return primitive.bind(x, w, **dict(params) | more).astype(out[1])

    shapes = (jax.ShapeDtypeStruct(*v) for v in (x, w))
    [call] = jax.make_jaxpr(jax.jit(bfloat16_product))(*shapes).eqns
    return call
