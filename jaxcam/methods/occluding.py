"""Maps of what the head says behind chosen masks of the positions: occlusion, and Sobol and HSIC indices.

Unlike RISE's, whose masks are summed as they come, these need all that was said at once: how the masks were chosen is
what tells the positions apart.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.methods.maps import resize_map
from jaxcam.methods.result import CAM, HeadFn, Params, Target, cam_of_contributions, check_activations, pick
from jaxcam.methods.score import at_once, check_score, picked
from jaxcam.methods.stepping import Data, Repeated, divided, division, one_program, split_target
from jaxcam.shapley.permutations import key_impl
from jaxcam.shapley.result import check_count
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding
from jaxcam.transforms.arithmetic import quotient


class Said(NamedTuple):
    """The state of `Looks`.

    Attributes:
      values: `(samples,)` f_c behind each mask; 0 behind those to come.
      logit, score: `()` of the activations.
      taken: `()` steps.
    """

    values: jax.Array
    logit: jax.Array
    score: jax.Array
    taken: jax.Array


@dataclasses.dataclass(frozen=True)
class Looks(Repeated):
    """The head behind each of some masks, as `Steps` on `Data`, one for each chunk; a subclass has the masks.

    Attributes:
      head: `(params, activations) -> logits (C,)`.
      pick: the target, where it is a function.
      score: as in `score_cam`.
      samples: masks in all.
      size: masks in a chunk.
    """

    head: HeadFn
    pick: Callable | None
    score: str
    samples: int
    size: int

    states = (Said,)

    def masks(self, data: Data, state: Any, place: jax.Array) -> jax.Array:
        """The masks `(n, h, w)` of numbers `(n,)`."""
        raise NotImplementedError

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> Said:
        """Nothing yet. Cost: one evaluation of the head."""
        check_activations(data.activations)
        target, logits = data.explained(self.pick), self.head(data.params, data.activations)
        score = picked(self.score, logits, target)
        return Said(jnp.zeros(self.samples, score.dtype), pick(logits, target), score, jnp.zeros((), jnp.int32))

    def step(self, data: Data, state: Any) -> Any:
        """The next masks; the last chunk repeats its last one. Cost: `size` evaluations of the head."""
        target = data.explained(self.pick)
        place = jnp.minimum(state.taken * self.size + jnp.arange(self.size, dtype=state.taken.dtype), self.samples - 1)
        said = jax.vmap(
            lambda mask: picked(self.score, self.head(data.params, data.activations * mask[..., None]), target)
        )(self.masks(data, state, place))
        return state._replace(values=state.values.at[place].set(said))

    def shown(self, state: Any, found: jax.Array, activations: jax.Array) -> CAM:
        """The result of a map `(h, w)`, or of a coarser one, of which every channel has the same part."""
        map = resize_map(found, activations.shape[:2]).astype(activations.dtype)
        parts = jnp.broadcast_to(map[..., None] / activations.shape[-1], activations.shape)
        evaluations = jnp.asarray(self.samples + 1, jnp.float32)
        return cam_of_contributions(parts, logit=state.logit, score=state.score, evaluations=evaluations)


# --- occlusion -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Windows(Looks):
    """Windows that hide what they cover.

    Attributes:
      rows, columns: where windows begin.
      window: `(height, width)` of each.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    window: tuple[int, int]

    def masks(self, data: Data, state: Any, place: jax.Array) -> jax.Array:
        down, across = self.covered(data.activations)
        hidden = down[place // len(self.columns), :, None] & across[place % len(self.columns), None, :]
        return jnp.where(hidden, 0, 1).astype(data.activations.dtype)

    def covered(self, activations: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which rows `(n, h)`, and columns `(m, w)`, each window covers."""
        of_each = (
            np.asarray(starts)[:, None] <= np.arange(length)
            for starts, length in zip((self.rows, self.columns), activations.shape, strict=False)
        )
        before = (
            np.arange(length) < np.asarray(starts)[:, None] + side
            for starts, length, side in zip((self.rows, self.columns), activations.shape, self.window, strict=False)
        )
        down, across = (jnp.asarray(a & b) for a, b in zip(of_each, before, strict=True))
        return down, across

    def finish(self, state: Said, activations: jax.Array) -> CAM:
        """The mean over the windows that cover a position of what is lost behind them."""
        down, across = (x.astype(state.values.dtype) for x in self.covered(activations))
        lost = (state.score - state.values).reshape(len(self.rows), len(self.columns))
        total = jnp.einsum("nh,nm,mw->hw", down, lost, across, precision="highest")
        times = jnp.sum(down, 0)[:, None] * jnp.sum(across, 0)[None]
        return self.shown(state, quotient(total, times, times > 0), activations)


@one_program()
def occlusion(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    window: int | None = None,
    stride: int | None = None,
    score: str = "logit",
    chunk_size: int | None = None,
) -> CAM:
    """Occlusion: the map is `relu(mean over the windows that cover a position of f_c(A) - f_c(A without the window))`.

    A window slides over the positions and makes what it covers 0, in all channels: at the layer "input" a patch of the
    mean colour over the picture, as in the paper, at any other one over the activations, for the price of the head
    alone. Before the ReLU it is below 0 where the class gains by what is hidden. A position that no window covers, the
    stride being longer than the window, has 0. No channel is told from another: each has an equal part of the map.

    Args:
      params: whatever `head` takes first.
      activations: A `(h, w, K)`, one example; or the image, with the whole network as the head.
      head: `(params, activations) -> logits (C,)`.
      target: class index (array or int), or a function of what `score` makes of the logits, `(C,) -> ()`.
      window: its side, in positions; an eighth of each side, at least one, unless given.
      stride: how far it moves; half a window, at least one, unless given. The last ones end where the map does.
      score: f_c, "logit", "softmax" or "sigmoid" as in `score_cam`; the paper watches the probability.
      chunk_size: windows at once; chosen from the device's memory when None, 12 on a CPU.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit`, `score` (f_c of the activations) and `evaluations`. Cost: one
      evaluation of the head for each window, 225 at 224 pixels and 49 at 7 x 7 positions, and one more.

    Raises:
      JaxcamError: as in `rise_cam`.

    References:
      Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
    """
    check_activations(activations)
    check_score(score)
    lengths = activations.shape[:2]
    sides = [max(1, n // 8) if window is None else min(check_count("window", window), n) for n in lengths]
    strides = [max(1, side // 2) if stride is None else check_count("stride", stride) for side in sides]
    rows, columns = (
        tuple(min(i * step, n - side) for i in range(-(-(n - side) // step) + 1))
        for n, side, step in zip(lengths, sides, strides, strict=True)
    )
    samples = len(rows) * len(columns)
    size = min(samples, at_once(chunk_size))
    steps = Windows(
        -(-samples // size), head, split_target(target)[0], score, samples, size, rows, columns, (sides[0], sides[1])
    )
    return divided(steps)


stepped_occlusion = division(occlusion)


# --- a grid of cells -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cells(Looks):
    """Masks of a grid of cells, each as strong as a design says; a position in two cells has of both.

    Attributes:
      cells: along each side.
      designs: how many masks there were to begin with.
      impl: of the random key.
    """

    cells: int
    designs: int
    impl: str

    def key(self, data: Data) -> jax.Array:
        return jax.random.wrap_key_data(data.key, impl=self.impl)

    def strengths(self, data: Data, state: Any, place: jax.Array) -> jax.Array:
        """Of each cell in the masks of some numbers, `(n, cells^2)` in [0, 1]."""
        raise NotImplementedError

    def masks(self, data: Data, state: Any, place: jax.Array) -> jax.Array:
        grid = self.strengths(data, state, place).reshape(-1, self.cells, self.cells)
        rows, columns = (jnp.asarray(covered(n, self.cells), grid.dtype) for n in data.activations.shape[:2])
        return jnp.einsum("hi,nij,wj->nhw", rows, grid, columns, precision="highest").astype(data.activations.dtype)


def covered(positions: int, cells: int) -> np.ndarray:
    """The share of each position that lies in each cell, `(positions, cells)`: all cells are of one size.

    With whole positions a cell that has one more than others would count for more in all maps.
    """
    edges = np.arange(positions + 1) * cells / positions
    low, high = edges[:-1, None], edges[1:, None]
    at = np.arange(cells)
    return np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None) * positions / cells


@functools.lru_cache(maxsize=8)
def sobol_points(count: int, dimensions: int) -> np.ndarray:
    """The first points of a scrambled Sobol' sequence, `(count, dimensions)` in [0, 1)."""
    from scipy.stats import qmc

    whole = qmc.Sobol(dimensions, scramble=True, seed=0).random_base2(max(0, count - 1).bit_length())
    return whole[:count]


@dataclasses.dataclass(frozen=True)
class Replicated(Cells):
    """N masks, and for each cell the same with that cell as in N others."""

    def strengths(self, data: Data, state: Said, place: jax.Array) -> jax.Array:
        players = self.cells**2
        shift = jax.random.uniform(self.key(data), (2 * players,), jnp.float32)
        points = (jnp.asarray(sobol_points(self.designs, 2 * players), jnp.float32) + shift[None]) % 1
        first, second = points[:, :players], points[:, players:]
        row, changed = place % self.designs, place // self.designs - 1
        return jnp.where(jnp.arange(players, dtype=place.dtype)[None] == changed[:, None], second[row], first[row])

    def finish(self, state: Said, activations: jax.Array) -> CAM:
        """Jansen's estimate of the total order indices."""
        values = _in_their_own_unit(state.values).reshape(-1, self.designs)
        plain = values[0]
        varied = jnp.mean((plain[None] - values[1:]) ** 2, 1) / 2
        variance = jnp.sum((plain - jnp.mean(plain)) ** 2) / (self.designs - 1)
        found = quotient(varied, variance, variance > 0)
        return self.shown(state, found.reshape(self.cells, self.cells), activations)


def _in_their_own_unit(values: jax.Array) -> jax.Array:
    """Scores over the largest distance from their mean: the square of an improbable class's probability is 0."""
    apart = values - jnp.mean(values)
    most = jax.lax.stop_gradient(jnp.max(jnp.abs(apart)))  # what follows does not depend on the unit
    return apart / jnp.where(most > 0, most, 1)


@one_program()
def sobol_cam(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_designs: int = 32,
    cells: int = 8,
    score: str = "logit",
    chunk_size: int | None = None,
) -> CAM:
    """Sobol: the map is the total order Sobol' indices of the cells of a grid, `E Var(f_c | all but i) / Var f_c`.

    Each cell of a mask is as strong as a number in [0, 1], and `A * mask` is looked at. Of N masks a and N others b,
    Jansen's estimate for cell i is `sum_j (f_c(a_j) - f_c(a_j with cell i of b_j))^2 / (2 N Var f_c(a))`: how much of
    the score varies with the cell, alone and with others, whether for the class or against it. The masks are the points
    of a scrambled Sobol' sequence, moved by a random amount round the unit cube. 0 where the score is the same behind
    all masks (0/0). As in `rise_cam`, masks hide pixels at the layer "input", and no channel is told from another.

    Args:
      params, activations, key, head, target, score, chunk_size: as in `rise_cam`.
      num_designs: N, best a power of 2; the paper has 32.
      cells: along each side of the grid; no more than there are positions.

    Returns:
      A `CAM` by position, the grid resized bilinearly; `diagnostics` holds `logit`, `score` and `evaluations`. Cost:
      `num_designs (cells^2 + 1) + 1` evaluations of the head.

    Raises:
      JaxcamError: as in `rise_cam`, and for fewer than two designs.

    References:
      Fel et al., Look at the Variance! Efficient Black-box Explanations with Sobol-based Sensitivity Analysis, NeurIPS
      2021; Jansen, Computer Physics Communications 117, 1999.
    """
    check_activations(activations)
    check_score(score)
    designs, cells = check_count("num_designs", num_designs, 2), check_count("cells", cells)
    cells = min(cells, *activations.shape[:2])
    samples = designs * (cells**2 + 1)
    size = min(samples, at_once(chunk_size))
    steps = Replicated(
        -(-samples // size), head, split_target(target)[0], score, samples, size, cells, designs, key_impl(key)
    )
    return divided(steps)


stepped_sobol_cam = division(sobol_cam)


class Chosen(NamedTuple):
    """The state of `Halves`.

    Attributes:
      values, logit, score, taken: as in `Said`.
      there: `(samples, cells^2)` bool, which cells each mask leaves.
    """

    values: jax.Array
    logit: jax.Array
    score: jax.Array
    taken: jax.Array
    there: jax.Array


@dataclasses.dataclass(frozen=True)
class Halves(Cells):
    """Masks of cells that are there or not, each cell in half of them, by chance and apart from the others."""

    states = (Chosen,)  # type: ignore[assignment]

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> Chosen:  # type: ignore[override]
        """The masks. Cost: one evaluation of the head."""
        drawn = jax.random.uniform(self.key(data), (self.designs, self.cells**2), jnp.float32)
        return Chosen(*super().start(data, sharding), jnp.argsort(drawn, 0) < self.designs // 2)

    def strengths(self, data: Data, state: Chosen, place: jax.Array) -> jax.Array:
        return jnp.where(state.there[place], 1.0, 0.0)

    def finish(self, state: Chosen, activations: jax.Array) -> CAM:
        """The criterion of each cell."""
        y = _in_their_own_unit(state.values)
        variance = jnp.mean((y - jnp.mean(y)) ** 2)
        spread = jnp.where(variance > 0, variance, 1)
        alike = jnp.exp(-((y[:, None] - y[None]) ** 2) / (2 * spread))
        signs = jnp.where(state.there, 1.0, -1.0).astype(y.dtype)
        centred = signs - jnp.mean(signs, 0, keepdims=True)
        products = jnp.matmul(alike, centred, precision="highest")
        found = jnp.where(variance > 0, jnp.sum(centred * products, 0) / (2 * (self.designs - 1) ** 2), 0)
        return self.shown(state, found.reshape(self.cells, self.cells), activations)


@one_program()
def hsic_cam(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_samples: int = 500,
    cells: int = 7,
    score: str = "logit",
    chunk_size: int | None = None,
) -> CAM:
    """HSIC: the map is the Hilbert-Schmidt independence criterion between a cell being there and the score.

    Each of n masks leaves some cells of a grid, each cell being in half of them. For cell i it is
    `tr(K_i H L H) / (n - 1)^2`, K_i 1 where two masks agree about the cell and else 0, `L = exp(-(y - y')^2 / (2 s^2))`
    of their scores y, and H what takes a mean off. s is the standard deviation of the scores, where the authors' code
    takes their median, which logits may have below 0 or at it. Large where the score's distribution hangs on the cell,
    whether for the class or against it; 0 where all scores are the same (0/0). As in `rise_cam`, masks hide pixels at
    the layer "input", and no channel is told from another.

    Args:
      params, activations, key, head, target, score, chunk_size: as in `rise_cam`.
      num_samples: n.
      cells: along each side of the grid; no more than there are positions.

    Returns:
      A `CAM` by position, the grid resized bilinearly; `diagnostics` holds `logit`, `score` and `evaluations`. Cost:
      `num_samples + 1` evaluations of the head, and a matrix of `num_samples^2`.

    Raises:
      JaxcamError: as in `rise_cam`, and for fewer than two masks.

    References:
      Novello, Fel & Vigouroux, Making Sense of Dependence: Efficient Black-box Explanations Using Dependence Measure,
      NeurIPS 2022.
    """
    check_activations(activations)
    check_score(score)
    samples, cells = check_count("num_samples", num_samples, 2), check_count("cells", cells)
    cells, size = min(cells, *activations.shape[:2]), min(samples, at_once(chunk_size))
    steps = Halves(
        -(-samples // size), head, split_target(target)[0], score, samples, size, cells, samples, key_impl(key)
    )
    return divided(steps)


stepped_hsic_cam = division(hsic_cam)
