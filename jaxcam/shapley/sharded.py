"""Orderings divided among devices, inside `jax.shard_map`: every device gathers all rows, in order."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcam.errors import JaxcamError

#: The name of the mesh axis along which orderings are divided.
AXIS = "orderings"


@dataclasses.dataclass(frozen=True)
class RowSharding:
    """How the rows of a piece of work are divided; `ONE_DEVICE` does not divide them.

    What is added up afterwards is added up on every device alike, from all rows in their order, so that the
    number of devices changes nothing but rounding inside a row.

    Attributes:
      devices: how many there are.
      axis: the mesh axis to divide along; None outside `jax.shard_map`.
    """

    devices: int = 1
    axis: str | None = None

    def __call__(self, function: Callable[[jax.Array], jax.Array], rows: jax.Array) -> jax.Array:
        """`function(rows (n, ...)) -> (n, ...)`, each device its share of the rows, gathered on all of them."""
        if self.axis is None:
            return function(rows)
        count = rows.shape[0]
        each = -(-count // self.devices)
        # The last device repeats the last row where the rows do not divide evenly.
        mine = jnp.minimum(jax.lax.axis_index(self.axis) * each + jnp.arange(each), count - 1)
        return jax.lax.all_gather(function(rows[mine]), self.axis, tiled=True)[:count]


ONE_DEVICE = RowSharding()


def orderings_mesh() -> Mesh | None:
    """A mesh over all devices of all processes; None where there is only one device."""
    devices = jax.devices()
    return Mesh(np.asarray(devices), (AXIS,)) if len(devices) > 1 else None


def over_devices(function: Callable[[RowSharding], Callable], mesh: Mesh | None) -> Callable:
    """`function(rows)` as a function of arrays that are the same on all devices, run on the devices of `mesh`.

    Raises:
      JaxcamError: the mesh has not the one axis "orderings".
    """
    if mesh is None:
        return function(ONE_DEVICE)
    if mesh.axis_names != (AXIS,):
        raise JaxcamError(f"the mesh must have one axis, {AXIS!r}, not {mesh.axis_names}")
    everywhere = PartitionSpec()
    # Outputs come from gathered rows, which is more than JAX's check of replication can see.
    return jax.shard_map(
        function(RowSharding(mesh.size, AXIS)), mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of a pytree, put on every device of a mesh; those that are there already are left alone.

    With several processes each must hold the same values.
    """
    if mesh is None:
        return tree
    return jax.tree.map(functools.partial(_put, sharding=NamedSharding(mesh, PartitionSpec())), tree)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
