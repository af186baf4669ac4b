"""The coalition game of a head, `v(masks)` for many masks at once, with its structure used.

The naive way multiplies the activations by every mask and runs the head on each product. Here the
head runs once on lazy values. As long as each element belongs to one channel (`Diagonal`: pooling,
reshapes, elementwise functions) or the channels add up (`Additive`: up to the first dense layer or
convolution, included), no work depends on the mask; only what follows runs per coalition, on
`base + masks @ delta`. Of that, the choice of a class is made as early as it can be (`class_pushdown`), and
what follows the last non-linear operation is one sum (`last_layer`). The numbers are those of the
masked evaluation up to rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.transforms.coalition.class_pushdown import pushed_down
from jaxcam.transforms.coalition.last_layer import with_affine_end
from jaxcam.transforms.coalition.lazy import Additive, Affine, Deferred, Diagonal, Lazy, Task, evaluate
from jaxcam.transforms.coalition.tables import as_one, fold, work
from jaxcam.transforms.custom_derivatives import name_of
from jaxcam.transforms.memory import working_bytes
from jaxcam.transforms.precision import HIGHEST, PRECISIONS, at_precision, resolved
from jaxcam.transforms.walker import location, trace, walk


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """`v: masks (n, K) -> (n,)` of one example; call it with masks of 0 and 1, or of bool.

    Attributes:
      num_players: K.
      output: the explained score as a lazy value.
      megaflops: arithmetic per coalition that is left after folding.
      elements: the largest number of values that one coalition needs at a time.
      structure: what was found, in words.
      products: JAX's name of the precision of the product of the masks and the table.
      precision: the name that was given; None for that of whoever evaluates it.
    """

    num_players: int
    output: Any
    megaflops: float
    elements: int
    structure: str
    products: str = HIGHEST
    precision: str | None = None

    def __call__(self, masks: jax.Array) -> jax.Array:
        """The scores `(n,)` of the coalitions `masks (n, K)`.

        Raises:
          JaxcamError: the masks are not of that shape.
        """
        if jnp.ndim(masks) != 2 or jnp.shape(masks)[1] != self.num_players:
            raise JaxcamError(
                f"masks must have shape (n, {self.num_players}), one column per channel, not {jnp.shape(masks)}"
            )
        if not isinstance(self.output, Lazy):  # the head ignores its input
            return jnp.broadcast_to(self.output, masks.shape[:1])
        if self.precision not in PRECISIONS:
            return evaluate(self.output, masks, self.products)
        return at_precision(lambda masks: evaluate(self.output, masks, self.products), self.precision)(masks)

    def chunked(self, masks: jax.Array, *, chunk_size: int | None = None) -> jax.Array:
        """The scores of many coalitions, `chunk_size` at a time; by default as many as fit into memory."""
        chunk_size = self.default_chunk(masks.shape[0]) if chunk_size is None else chunk_size
        chunks = -(-masks.shape[0] // chunk_size)
        if chunks <= 1:
            return self(masks)
        padded = jnp.pad(masks, ((0, chunks * chunk_size - masks.shape[0]), (0, 0)))
        values = jax.lax.map(self, padded.reshape(chunks, chunk_size, -1))
        return values.reshape(-1)[: masks.shape[0]]

    def default_chunk(self, wanted: int) -> int:
        """How many of `wanted` coalitions to evaluate at once: within memory, in chunks of equal size."""
        fits = max(1, min(wanted, chunk_elements() // max(1, self.elements)))
        chunks = -(-wanted // fits)
        return -(-wanted // chunks)

    @property
    def is_additive(self) -> bool:
        """Whether `v(m) = v(0) + sum_k m_k w_k`, so that the Shapley values are `marginals` exactly."""
        return isinstance(self.output, Additive | Diagonal)

    def marginals(self) -> tuple[jax.Array, jax.Array]:
        """`(v(0) (), w (K,))` of an additive game; no evaluation at all."""
        if not self.is_additive:
            raise JaxcamError("the game is not additive; its Shapley values must be estimated")
        table = self.output.additive() if isinstance(self.output, Diagonal) else self.output
        return table.base, table.delta


def chunk_elements() -> int:
    """Numbers that the coalitions of one chunk may need at a time."""
    return working_bytes() // 4


def coalition_game(score: Callable, activations: jax.Array, *, precision: str | None = None) -> Game:
    """The game `v(m) = score(activations * m)` over the channels of `activations (h, w, K)`.

    Args:
      score: a pure function of the activations with a scalar result; any head of any library.
      activations: one example; a batch is `jax.vmap`.
      precision: of what is left to do for each coalition, "highest", "tf32" or "bfloat16", see
        `transforms.at_precision`; what an outer one of these says, else the highest: marginals are small differences.

    Returns:
      A `Game`. Under `jax.jit`, build it outside the loop over chunks of masks: its tables are
      computed where it is built.
    """
    chosen = resolved(precision)
    closed, _ = trace(score, activations, precision=chosen.products)
    players = activations.shape[-1]
    owner = np.broadcast_to(np.arange(players, dtype=np.int32), activations.shape)
    start = Diagonal(activations, jnp.zeros_like(activations), owner, players)
    (output,) = walk(closed, [start], active=Lazy, rule=fold, as_one=as_one)
    output = with_affine_end(_chosen_early(output, players), players, chosen.products)
    megaflops, elements, first = _remaining(output, players)
    if not isinstance(output, Deferred | Affine):
        structure = "linear head: exact"
    elif first is None:
        structure = f"no structure: {megaflops:.3g} MFLOP per coalition"
    else:
        structure = f"additive up to {first}: {megaflops:.3g} MFLOP per coalition"
    return Game(players, output, megaflops, elements, structure, chosen.products, precision)


def masked_game(score: Callable, activations: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The same game by plain masked evaluation: the oracle, and the fallback where tables are too large."""
    return jax.vmap(lambda m: score(activations * m.astype(activations.dtype)))


def _chosen_early(output: Any, players: int) -> Any:
    """The output with the choice of a class moved forward, where that leaves less to do."""
    if not isinstance(output, Deferred):
        return output
    early = pushed_down(output)
    return early if _remaining(early, players)[0] < _remaining(output, players)[0] else output


def _remaining(output: Any, players: int) -> tuple[float, int, str | None]:
    """MFLOP and elements per coalition of the pending equations, and the place of the first table they read."""
    seen: set[int] = set()
    flops, elements = 0.0, players
    tables: list[Additive | Task] = []
    pending = [output]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Additive):
            flops += 2.0 * players * value.base.size
            elements = max(elements, value.base.size)
            tables.append(value)
        elif isinstance(value, Diagonal):
            flops += 2.0 * value.on.size
            elements = max(elements, value.on.size)
        elif isinstance(value, Affine):
            flops += 2.0 * sum(slope.size for slope in value.slopes)
            pending += list(value.parts)
        elif isinstance(value, Deferred) and id(value.task) not in seen:
            seen.add(id(value.task))
            flops += work(value.task.eqn)
            elements = max([elements, *(math.prod(v.aval.shape) for v in value.task.eqn.outvars)])
            pending += list(value.task.operands)
            if any(isinstance(v, Additive) for v in value.task.operands):
                tables.append(value.task)
    tasks = [t for t in tables if isinstance(t, Task)]
    place = None
    if tasks:
        where = location(tasks[-1].eqn)
        size = max(t.base.size for t in tables if isinstance(t, Additive))
        place = f"the {name_of(tasks[-1].eqn)!r}{' at ' + where if where else ''} (table {players} x {size})"
    return flops / 1e6, elements, place
