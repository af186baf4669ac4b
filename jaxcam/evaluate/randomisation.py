"""The test by parameter randomisation on one network: curves with intervals, plain, smooth and efficient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcam.data.images import Picture
from jaxcam.errors import JaxcamError, check_known
from jaxcam.evaluate.intervals import Interval, bootstrap
from jaxcam.evaluate.measures import heatmaps
from jaxcam.explanation.engine import Engine, filled
from jaxcam.methods import DEFAULT_METHOD
from jaxcam.methods.registry import Request, request
from jaxcam.metrics.randomisation import histogram_entropy, layer_order, randomised
from jaxcam.metrics.similarity import pearson, spearman, ssim
from jaxcam.models.classifier import Classifier
from jaxcam.models.trees import on_purpose

#: How maps can be compared.
SIMILARITIES: dict[str, Callable] = {"ssim": ssim, "spearman": spearman, "pearson": pearson}
#: Of smooth MPRT: the standard deviation of the noise in the normalised input.
NOISE = 0.1


class Randomisation(NamedTuple):
    """What is left of maps while the network forgets.

    Attributes:
      methods: M labels.
      layers: S + 1 names: "", nothing randomised; then each layer that is randomised besides those before it.
      values: `(N, M, S + 1)`, the similarity of each picture's map with its map of the trained network.
      curve: `Interval` of `(M, S + 1)` means over the pictures.
      rise: `Interval` of `(M,)`: efficient MPRT, the relative rise of the entropy of the map's histogram from the
        trained to the wholly randomised network; higher is better. Pictures whose map is constant (0/0) do not count.
    """

    methods: tuple[str, ...]
    layers: tuple[str, ...]
    values: np.ndarray
    curve: Interval
    rise: Interval


@on_purpose
def parameter_randomisation(
    network: Classifier,
    pictures: Sequence[Picture],
    *,
    methods: Sequence[str | Request] = (DEFAULT_METHOD,),
    targets: Sequence[int | str] | None = None,
    layer: str | None = None,
    similarity: str = "ssim",
    bottom_up: bool = False,
    stages: int | None = None,
    samples: int = 1,
    noise: float = NOISE,
    batch_size: int = 12,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Randomisation:
    """MPRT, the model parameter randomisation test (Adebayo et al., NeurIPS 2018), with cascading randomisation.

    Layer after layer, from the logits down, loses what it has learnt (`jaxcam.metrics.randomised`), and the maps are
    made again and compared with those of the trained network. A method whose maps stay alike does not tell what the
    network knows. Random-CAM stays alike as long as the layers below the map do: read its curve beside the others'.

    With `samples` above 1 it is smooth MPRT, whose maps are means over noisy pictures; `rise` is efficient MPRT, which
    needs no stages but the last, the wholly randomised network: `stages=1`. (Both: Hedstroem et al., NeurIPS workshop
    XAI in Action, 2023.)

    Costs `(S + 1) samples` forward passes, and as many maps of each method, for each picture; S is the number of layers
    that have parameters, or `stages`.

    Args:
      network: the network.
      pictures: N of them.
      methods: names, with options where wanted.
      targets: the class of each picture, by index or name; the trained network's first guess unless given. It stays
        the same while the network forgets.
      layer: where the maps are made; the network's default unless given.
      similarity: of `SIMILARITIES`: "ssim", "spearman" or "pearson", of the heatmaps at the input's size.
      bottom_up: begin with the first layer in place of the last.
      stages: how many steps to take; layers are then taken several at a time.
      samples: noisy copies of each picture that a map is the mean of; 1 for the picture itself.
      noise: their standard deviation, in the normalised input.
      batch_size: pictures and maps at a time.
      seed: of what is drawn, of the noise and of random methods.
      progress: called with how many of the S + 1 stages are done.

    Returns:
      A `Randomisation`.

    Raises:
      JaxcamError: no pictures, another similarity, or a method that is not defined for the network.
    """
    check_known("similarity", similarity, SIMILARITIES)
    if not len(pictures):
        raise JaxcamError("no pictures to randomise a network with")
    if samples < 1 or stages is not None and stages < 1:
        raise JaxcamError(f"at least one sample and one stage are needed, not {samples} and {stages}")
    asked = [request(m) for m in methods]
    inputs = np.stack([np.asarray(network.preprocess(p)) for p in pictures])
    order = layer_order(network.whole, network.params, inputs[0])
    parts = np.array_split(np.asarray(order if bottom_up else order[::-1]), min(stages or len(order), len(order)))
    # With the first one, the classes of the trained network.
    chosen: list[int] = [] if targets is None else [network.class_index(t) for t in targets]
    made: list[np.ndarray] = []
    gone: list[str] = []
    for i, part in enumerate([np.asarray([], str), *parts]):
        gone += part.tolist()
        forgetful = network.with_params(randomised(network.params, gone, seed=seed)) if gone else network
        engine = Engine(forgetful, layer, batch_size, batch_size, seed=seed)
        if not chosen:
            chosen += _first_guesses(engine, inputs, batch_size)
        made.append(_heatmaps(engine, asked, inputs, chosen, samples, noise, batch_size, seed))
        progress(i + 1, len(parts) + 1)
    alike, entropy = _programs(similarity)
    values = np.stack([np.asarray(alike(maps, made[0])) for maps in made], -1)
    before, after = (np.asarray(entropy(maps)) for maps in (made[0], made[-1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = np.where(before > 0, (after - before) / before, np.nan)
    clusters = np.arange(len(inputs))
    curve = bootstrap(values.reshape(len(inputs), -1), clusters, seed=seed)
    shaped = Interval(*(np.asarray(x).reshape(values.shape[1:]) for x in curve))
    layers = ("", *("+".join(part) for part in parts))
    return Randomisation(tuple(m.label for m in asked), layers, values, shaped, bootstrap(rise, clusters, seed=seed))


def _first_guesses(engine: Engine, inputs: np.ndarray, batch_size: int) -> list[int]:
    found: list[int] = []
    for start in range(0, len(inputs), batch_size):
        some = inputs[start : start + batch_size]
        found += engine.forward(some, _names(start, len(some))).logits.argmax(-1).tolist()
    return found


def _names(start: int, count: int) -> list[str]:
    return [f"picture {start + i}" for i in range(count)]


def _heatmaps(
    engine: Engine, methods: Sequence[Request], inputs: np.ndarray, targets: Sequence[int], samples: int, noise: float,
    batch_size: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """`(N, M, H, W)`; means over noisy pictures where there are several samples."""
    size = inputs.shape[1:3]
    total = np.zeros((len(inputs), len(methods), *size), np.float32)
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        noisy = inputs if samples == 1 else inputs + rng.normal(0, noise, inputs.shape).astype(np.float32)
        for start in range(0, len(inputs), batch_size):
            some = noisy[start : start + batch_size]
            forward = engine.forward(some, _names(start, len(some)))
            pairs = [(i, targets[start + i]) for i in range(len(some))]
            for j, method in enumerate(methods):
                made = engine.maps(method, forward, pairs, None)
                shown = heatmaps(size, made.from_zero)(filled(made.maps, batch_size))
                total[start : start + len(some), j] += np.asarray(shown)[: len(some)]
    return total / samples


@functools.lru_cache(maxsize=8)
def _programs(similarity: str) -> tuple[Any, Any]:
    """Similarities `(N, M)` of two stacks of heatmaps `(N, M, H, W)`, and their entropies."""
    return tuple(jax.jit(jax.vmap(jax.vmap(f))) for f in (SIMILARITIES[similarity], histogram_entropy))  # type: ignore[return-value]
