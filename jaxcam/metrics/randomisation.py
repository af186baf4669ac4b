"""Sanity: whether a map depends on what it has to, the parameters and the class, and not on what changes nothing.

Of parameter randomisation, the parts that know no network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcam.errors import JaxcamError
from jaxcam.metrics.similarity import pearson, ssim
from jaxcam.shapley.result import check_key
from jaxcam.transforms.arithmetic import quotient
from jaxcam.transforms.walker import bind, trace, walk

#: Bars of the histogram whose entropy efficient MPRT takes.
BARS = 100


def layer_order(function: Callable, params: Any, *args: Any) -> tuple[str, ...]:
    """The layers of a network in the order in which it first uses their parameters: input first, logits last.

    A layer is what the paths of parameters have before their last part, as `conv1_1` of `conv1_1.kernel`; parameters
    that lie in no dict are layers of their own. Those that are no floating-point numbers, or not used, are left out.

    Args:
      function: `(params, *args) -> logits`.
      params: a pytree of arrays.
    """
    paths = [_path(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    program, _ = trace(function, params, *args)
    used: dict[int, None] = {}

    def rule(eqn: Any, operands: Sequence[Any]) -> list:
        own = [o.number for o in operands if isinstance(o, _Parameter)]
        outputs = bind(eqn, [o.value if isinstance(o, _Parameter) else o for o in operands])
        if len(operands) == 1 and eqn.primitive.name in _MOVES:  # it is the parameter still
            return [_Parameter(own[0], out) for out in outputs]
        used.update(dict.fromkeys(own))
        return outputs

    def run(leaves: list, others: list) -> None:
        walk(program, [*(_Parameter(i, v) for i, v in enumerate(leaves)), *others], active=_Parameter, rule=rule)

    leaves = jax.tree.leaves(params)
    jax.eval_shape(run, leaves, jax.tree.leaves(args))  # nothing is computed
    floating = (i for i in used if jnp.issubdtype(jnp.result_type(leaves[i]), jnp.floating))
    layers = tuple(dict.fromkeys(_layer(paths[i]) for i in floating))
    if not layers:
        raise JaxcamError("the network uses none of its parameters, so that none can be randomised")
    return layers


_MOVES = {"convert_element_type", "reshape", "transpose", "broadcast_in_dim", "copy", "squeeze", "expand_dims"}


class _Parameter(NamedTuple):
    """A leaf of the parameters on its way through the program."""

    number: int
    value: Any


def _path(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def _layer(path: str) -> str:
    return path.rpartition(".")[0] or path


def randomised(params: Any, layers: Collection[str], *, seed: int = 0) -> Any:
    """The parameters with those of some layers made anew.

    Arrays of two and more axes, the weights, are drawn as before training: normal around 0, with the variance
    `2 / fan_in` (He et al. 2015; the last axis is that of the outputs, as in Flax, Keras and Haiku). Others, as biases
    and the statistics of norms, which may have to be positive, have their numbers shuffled. (Weights that are shuffled,
    or drawn of their own size, leave a network that hardly sees its input: measured on `vgg16_slim`, whose norms are
    folded into large biases.) On the host; the draws hang on the seed and the array's name alone.

    Args:
      params: a pytree of arrays.
      layers: of `layer_order`.
      seed: of the draws.
    """

    def one(path: Any, leaf: Any) -> Any:
        name = _path(path)
        if _layer(name) not in layers:
            return leaf
        values = np.asarray(leaf)
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        if values.ndim < 2:
            return jnp.asarray(rng.permutation(values.ravel()).reshape(values.shape))
        size = np.sqrt(2 * values.shape[-1] / values.size)
        return jnp.asarray(rng.normal(0, size, values.shape).astype(values.dtype))

    return jax.tree_util.tree_map_with_path(one, params)


def histogram_entropy(heatmap: jax.Array, *, bars: int = BARS) -> jax.Array:
    """The entropy of the histogram of a map's values, in nats (the complexity of efficient MPRT).

    Args:
      heatmap: `(H, W)`, s(M), in [0, 1].
      bars: of equal width from 0 to 1.

    Returns:
      `()` in [0, ln(bars)]; 0 for a constant map.
    """
    place = jnp.clip((heatmap.ravel() * bars).astype(jnp.int32), 0, bars - 1)
    counts = jnp.zeros(bars, heatmap.dtype).at[place].add(1.0)
    found = jnp.sum(jax.scipy.special.entr(counts / heatmap.size))
    return jnp.where(jnp.any(jnp.isnan(heatmap)), jnp.nan, found)


def another_class(key: jax.Array, target: jax.Array, classes: int) -> jax.Array:
    """A class `()` drawn evenly from all but the target; the target itself where there is no other."""
    check_key(key)
    step = jax.random.randint(key, (), 1, max(2, classes), jnp.int32)
    return (target.astype(jnp.int32) + step) % classes


def same_image(image: jax.Array, key: jax.Array) -> jax.Array:
    """The image itself, `(1, H, W, C)`: of `random_logit` only the class is another, drawn with the key."""
    del key
    return image[None]


def random_logit(heatmap: jax.Array, again: jax.Array) -> jax.Array:
    """Random logit (Sixt, Granz & Landgraf, ICML 2020): how like the map is to that of a class drawn at random.

    `ssim` of the heatmaps of both classes. Lower is better: a map that is alike for any class does not say why this
    one. A method that looks at no class has 1. Costs one forward pass for all methods, and one map.

    Args:
      heatmap: `(H, W)`, s(M), in [0, 1].
      again: `(1, H, W)`, that of `another_class`.

    Returns:
      `()` in [-1, 1]; of two constant maps 1.
    """
    return ssim(heatmap, again[0])


def input_invariance(
    explain: Callable[[Callable, jax.Array], jax.Array], predict: Callable, image: jax.Array, shift: float | jax.Array
) -> jax.Array:
    """Input invariance (Kindermans et al. 2017): how much the map changes with the zero point of the numbers.

    `|M' - M| / |M|`, M' the map of `x + shift` for the network that takes the shift off again, which so says the same
    of every picture. Lower is better. It is for maps of pixels, of methods that multiply by them or have a reference
    among them: activations of a layer are the same in both, and so are all maps of them, so that it is no metric of an
    evaluation.

    Args:
      explain: `(predict, image) -> map (h, w)`.
      predict: `image -> logits`.
      image: `(H, W, C)`.
      shift: a number, or what broadcasts to the image.

    Returns:
      `()`, not negative; of a map of zeros the change is divided by 1 (0/0 is 0). Cost: two maps.
    """
    map, moved = explain(predict, image), explain(lambda x: predict(x - shift), image + shift)
    size = jnp.sqrt(jnp.sum(map * map))
    return jnp.sqrt(jnp.sum((moved - map) ** 2)) / jnp.where(size > 0, size, 1)


def sufficiency(heatmaps: jax.Array, predicted: jax.Array, *, alike: float = 0.6) -> jax.Array:
    """Sufficiency (Dasgupta, Frost & Moshkovitz, ICML 2022): of pictures with maps like this one, who has its class.

    The share of the other pictures whose predicted class is the same, among those whose map has a correlation of at
    least `alike` with this one's. (The paper leaves open what is alike.) Higher is better. It is of the pictures of a
    set together, so that it is no metric of an evaluation, which knows one picture at a time.

    Args:
      heatmaps: `(n, H, W)`, of all pictures.
      predicted: `(n,)`, the most probable class of each.
      alike: least correlation.

    Returns:
      `(n,)` in [0, 1]; NaN where no other map is alike (0/0).
    """
    others = ~jnp.eye(len(heatmaps), dtype=bool)
    close = jax.vmap(lambda a: jax.vmap(lambda b: pearson(a, b))(heatmaps))(heatmaps) >= alike
    same = jnp.sum(others & close & (predicted[:, None] == predicted[None]), 1)
    count = jnp.sum(others & close, 1)
    return quotient(same, count, otherwise=jnp.nan)
