"""A traced program that says in one line what does not fit: parameters of another structure, shapes, dtypes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from jaxcam.errors import JaxcamError
from jaxcam.transforms.precision import with_precision


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """A program `(*params, *rest) -> outputs`.

    Attributes:
      closed: the program.
      params: the shapes of the parameters that it was traced with.
      precision: of its products that name none, where `jax.default_matmul_precision` says nothing; None for the
        device's own.
    """

    closed: jex.ClosedJaxpr
    params: Any
    precision: str | None

    def run(self, params: Any, *rest: jax.Array) -> list:
        """The outputs, for parameters as a pytree.

        Raises:
          JaxcamError: they are not of the structure, the shapes or the dtypes of those at tracing.
        """
        given, expected = jax.tree.leaves(params), jax.tree.leaves(self.params)
        if not same_structure(params, self.params):
            raise JaxcamError(
                f"the params are not of the structure that the network was cut with: {_difference(params, self.params)}"
            )
        leaves = [like(leaf, shape, "params") for leaf, shape in zip(given, expected, strict=True)]
        # Settled here, as it would be where the network's own code ran.
        said: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined, unused-ignore]
        return jex.jaxpr_as_fun(self._at(said or self.precision))(*leaves, *rest)

    def _at(self, precision: str | None) -> jex.ClosedJaxpr:
        """The program with that precision: the same object each time, as is what it calls."""
        made = self.__dict__.setdefault("_made", {})
        if precision not in made:
            made[precision] = with_precision(self.closed, precision)
        return made[precision]


def like(value: Any, expected: jax.ShapeDtypeStruct, what: str) -> jax.Array:
    """`value` as an array of the expected shape and dtype.

    Raises:
      JaxcamError: it is another shape, or a dtype that is not merely another precision.
    """
    value = value if isinstance(value, jax.Array) else jnp.asarray(value)
    if value.shape != expected.shape:
        raise JaxcamError(f"{what}: shape {value.shape}, but the network was cut for {expected.shape}; split it anew")
    if value.dtype == expected.dtype:
        return value
    if jnp.issubdtype(value.dtype, jnp.floating) and jnp.issubdtype(expected.dtype, jnp.floating):
        return value.astype(expected.dtype)
    raise JaxcamError(f"{what}: dtype {value.dtype}, but the network was cut for {expected.dtype}; split it anew")


def same_structure(one: Any, other: Any) -> bool:
    """Whether two pytrees are of one structure."""
    first: Any = jax.tree.structure(one)
    return first == jax.tree.structure(other)


def _difference(given: Any, expected: Any) -> str:
    ours, theirs = (
        {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(t)[0]} for t in (given, expected)
    )
    lacking, extra = sorted(theirs - ours), sorted(ours - theirs)
    parts = [f"{what} {some(names)}" for what, names in (("lacks", lacking), ("has besides", extra)) if names]
    return " and ".join(parts) or "other containers hold the same values"


def some(names: Iterable[str]) -> str:
    """The first three of some names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
