"""`explain`: pictures in, class activation maps out, with the numbers that say how far to trust them."""

from __future__ import annotations

import functools
import itertools
import os
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcam.data.images import Picture, to_picture
from jaxcam.errors import JaxcamError, unknown, visible
from jaxcam.explanation.combined import Combined, Seen, views_named
from jaxcam.explanation.engine import BadPicture, Engine, Forward
from jaxcam.explanation.result import Attribution, Explanation, Explanations
from jaxcam.explanation.stepped import States
from jaxcam.explanation.targets import FunctionTarget, Targets, as_list, chooser, is_one
from jaxcam.methods.registry import METHODS, Request, default_method, request
from jaxcam.models.classifier import Classifier
from jaxcam.models.trees import on_purpose
from jaxcam.shapley.sharded import orderings_mesh
from jaxcam.transforms.memory import room_for

#: Pictures, and maps, at a time on a processor.
BATCH = 8


def explain(
    network: Classifier,
    images: Picture | Sequence[Picture],
    *,
    methods: str | Sequence[str] | None = None,
    targets: str | Targets = 1,
    layer: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    references: Sequence[Picture] | None = None,
    seed: int = 0,
    precision: str | None = None,
    fuse: str = "max",
    views: str | Sequence[str] | None = None,
) -> Explanations:
    """Explains why a network scores pictures as it does.

    Args:
      network: from `jaxcam.load`, or your own from `jaxcam.wrap`.
      images: paths, bytes of files, `PIL.Image`s or arrays (see `to_picture`), or one of them.
      methods: names from `METHODS`, with options as in `shap_cam:num_permutations=1000,estimator=plain`; or
        "all": every one that is defined for this network and layer (named beside "all", one keeps its options).
        Unless given, the one that measured best at such a layer: LIFT-CAM, and HiRes-LIFT-CAM where more than a
        quarter of the activations of the first pictures is negative.
      targets: `n` for the n most probable classes of each picture; or for all pictures class names, indices, and
        functions of the logits `(C,) -> ()`, each called by its `__name__`; or one list of these per picture. Those of
        `jaxcam.targets` may name classes, and "cat - dog" is the difference of two. A function is compiled for anew
        unless it is the same object, or an equal one of `jaxcam.targets`.
      layer: where to make the maps; the network's default layer, the last convolutional one, unless given. "input" is
        the picture itself. Of several in a list, one map is made: see `fuse`.
      batch_size: pictures, and maps, computed at a time; chosen from the device's memory unless given, 8 on a CPU. It
        changes speed and memory, not results.
      references: pictures whose activations are the references of `deep_shap_cam` and `gradient_shap`. Unless given
        there are four: zero activations, and the activations of the picture blurred to 8 x 8 patches, of its mean
        colour (a zero input), and of normal noise.
      seed: of the methods that sample; their draws also depend on the picture's file name and on the class.
      precision: of matrix products: "highest"; "tf32", which GPUs and TPUs multiply faster, and CPUs do not have; or
        "bfloat16". Unless given what `jaxcam.wrap` was told, else the highest: explanations are differences of close
        numbers. `jaxcam.explanation.lower_precision.costs` measures what a lower one does to them.
      fuse: of the maps of several layers, at the size of the largest: "max", the largest of `tanh(2 M / max M)`, as in
        LayerCAM's paper; or "mean", that of maps scaled to [0, 1].
      views: "flips", to average maps over each picture and its mirror image; "scales", over it a quarter nearer and
        farther as well; or both in a list. Each view costs what the plain picture does.

    Returns:
      One `Explanation` per picture, in order, in a list that a notebook shows.

    Raises:
      JaxcamError: a picture cannot be read; a name is unknown; `cam` was asked for by name on a head
        that is not a global average pool and a linear layer; the network gives NaN.
    """
    single = isinstance(images, typing.get_args(Picture)) or hasattr(images, "shape")
    if not single and (hasattr(images, "read") or not hasattr(images, "__iter__")):
        raise JaxcamError(f"a {type(images).__name__} is no picture; give a path, bytes, a PIL.Image or an array")
    listed: Sequence[Any] = [images] if single else list(images)  # type: ignore[arg-type]
    batch_size = room_for(BATCH) if batch_size is None else batch_size
    named = [(os.fspath(p) if isinstance(p, str | os.PathLike) else f"image {i}", p) for i, p in enumerate(listed)]
    return Explanations(
        explain_each(
            network, named, methods=methods, targets=targets, layer=layer, references=references,
            batch_size=min(batch_size, max(1, len(named))), maps_at_once=batch_size, seed=seed, precision=precision,
            fuse=fuse, views=views,
        )
    )  # fmt: skip


def explain_each(
    network: Classifier,
    images: Iterable[tuple[str, Picture]],
    *,
    methods: str | Sequence[str] | None = None,
    targets: str | Targets = 1,
    layer: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    maps_at_once: int | None = None,
    references: Sequence[Picture] | None = None,
    seed: int = 0,
    precision: str | None = None,
    fuse: str = "max",
    views: str | Sequence[str] | None = None,
    skipped: Callable[[str, str], None] = lambda name, why: None,
    failed: Callable[[str, str], None] | None = None,
    done: Callable[[str, str, float], None] = lambda source, method, maps: None,
    states: States | None = None,
) -> Iterator[Explanation]:
    """`explain`, lazily: takes `batch_size` pictures at a time from an iterable of any length.

    Args:
      images: pairs of what to call a picture and the picture.
      maps_at_once: maps computed at a time, `batch_size` unless given.
      skipped: called with a method and the reason when `methods="all"` leaves one out.
      failed: called with what a picture is called and the reason where it cannot be explained, and the others are; an
        error unless given.
      done: called with a batch's first picture, a method and how many of its maps are new, for progress; a
        map of many steps counts by parts.
      states: where the states of such maps are kept, and taken up from; not those of several layers or views.
    """
    batch_size = room_for(BATCH) if batch_size is None else batch_size
    if batch_size < 1 or (maps_at_once is not None and maps_at_once < 1):
        raise JaxcamError(f"the batch size must be at least 1, not {min(batch_size, maps_at_once or 1)}")
    everything, requests = requested(methods)
    choose, most = chooser(network, targets)
    layers: list[Any] = [layer] if layer is None or is_one(layer) else list(dict.fromkeys(layer))
    if wrong := [at for at in layers if at is not None and not isinstance(at, str)]:
        raise unknown("layer", wrong[0], network.layers, listed="network.layers")
    if not layers:
        raise JaxcamError("no layer named; name one, several, or leave it to the network (None)")
    seen, at_once, mesh = views_named(views), min(maps_at_once or batch_size, batch_size * most), orderings_mesh()
    alone = len(layers) == len(seen) == 1
    engines = [
        Engine(network, at, batch_size, at_once, seed, mesh=mesh, states=states if alone else None, precision=precision)
        for at in layers
    ]
    engine: Engine | Combined = engines[0] if alone else Combined(engines, fuse, seen)
    if references is not None and not len(references):
        raise JaxcamError("references holds no picture; give some, or None for the usual ones")
    backgrounds = None if references is None else jnp.stack([network.preprocess(p) for p in references])
    position, source = 0, iter(images)
    while chunk := list(itertools.islice(source, batch_size)):
        good, inputs = _forward(engine, _prepared(network, chunk, failed), failed)
        if inputs is None:
            position += len(chunk)
            continue
        labels = [one.name for one in good]
        wanted = [choose(logits, position + one.place) for one, logits in zip(good, inputs.logits, strict=True)]
        pairs = [(row, target) for row, chosen in enumerate(wanted) for target in chosen]
        if methods is None and not requests:
            requests = requested(default_method(float(inputs.negative.mean())))[1]
        found: dict[str, Any] = {}
        for name, wish in list(requests.items()):
            try:
                found[name] = engine.maps(wish, inputs, pairs, backgrounds, functools.partial(done, labels[0], name))
            except (JaxcamError, NotImplementedError) as e:
                if not everything:
                    raise
                del requests[name]
                skipped(name, str(e))
        if not found:
            raise JaxcamError(f"{network.name}: no method can explain the layer {engine.layer}")
        for row, one in enumerate(good):
            yield _gather(network, engine, (one.name, one.picture), inputs, row, pairs, found)
        position += len(chunk)


class _Prepared(NamedTuple):
    """A picture that could be read: its place in its batch, what it is called, as it is seen, and the input."""

    place: int
    name: str
    picture: Image.Image
    input: Any


def _prepared(
    network: Classifier, chunk: Sequence[tuple[str, Picture]], failed: Callable[[str, str], None] | None
) -> list[_Prepared]:
    """The pictures of a batch that can be read."""
    good = []
    for place, (name, given) in enumerate(chunk):
        try:
            picture = to_picture(given, name=name)
            good.append(_Prepared(place, name, picture, network.preprocessing(picture)))
        except (JaxcamError, MemoryError) as e:
            why = str(e) if isinstance(e, JaxcamError) else "there is not enough memory to decode it"
            if failed is not None:
                failed(name, why)
            elif isinstance(e, MemoryError) or name in why or visible(name) in why:
                raise
            else:
                raise JaxcamError(f"{name}: {why}") from e
    return good


def _forward(
    engine: Engine | Combined, good: list[_Prepared], failed: Callable[[str, str], None] | None
) -> tuple[list[_Prepared], Any]:
    """The forward pass of those for which the network gives finite numbers; None where there are none."""
    fine = good
    while fine:
        try:
            return fine, engine.forward(np.stack([one.input for one in fine]), [one.name for one in fine])
        except BadPicture as e:
            if failed is None:
                raise
            failed(e.source, str(e))
            fine = [one for one in fine if one.name != e.source]
    return [], None


def requested(methods: str | Sequence[str] | None) -> tuple[bool, dict[str, Request]]:
    """Whether all methods were asked for, and the requests by label; those beside "all" replace the plain ones.

    None where the layer is to choose.
    """
    if methods is None:
        return False, {}
    asked = [m.lower() if isinstance(m, str) and m.lower() == "all" else m for m in as_list(methods)]
    if not asked:
        raise JaxcamError('no method named; name one, "all", or leave it to the layer (None)')
    named = [request(m) for m in asked if m != "all"]
    if "all" in asked:
        named = [*(request(m) for m in METHODS if m not in {r.name for r in named}), *named]
    return "all" in asked, {r.label: r for r in named}


@on_purpose
def _gather(
    network: Classifier,
    engine: Engine | Combined,
    named: tuple[str, Image.Image],
    inputs: Forward | Seen,
    row: int,
    pairs: list,
    found: dict,
) -> Explanation:
    """The explanation of one row of a batch, whose `found` maps are those of `pairs` of row and class."""
    picture, logits = named[1], inputs.logits[row]
    probabilities = network.probabilities(logits)
    negative = float(inputs.negative[row])
    infos = {name: request(name).info for name in found}
    doubts = {name: info.doubt_at(negative) for name, info in infos.items()}
    results = [
        Attribution(
            method=name, **_told(network, target, logits, probabilities),
            coefficients=maps.coefficients[i], map=maps.maps[i], signed_map=maps.signed[i],
            completeness_gap=float(maps.gaps[i]), seconds=inputs.seconds + maps.seconds,
            empty=maps.why_empty(i, inputs.activations[row]),
            region=network.preprocessing.region(*picture.size), size=(picture.height, picture.width),
            doubt="; ".join(filter(None, (
                doubts[name], infos[name].doubt_left(maps.left_over(i, infos[name])),
                infos[name].doubt_of(maps.coefficients[i]), maps.notes[i],
            ))) or None,
            negative=negative,
        )
        for i, (of, target) in enumerate(pairs) if of == row for name, maps in found.items()
    ]  # fmt: skip
    return Explanation(
        source=named[0], image=picture, model=network.name, layer=engine.layer, classes=network.classes, logits=logits,
        probabilities=probabilities, results=tuple(results),
    )  # fmt: skip


def _told(network: Classifier, target: int | FunctionTarget, logits: np.ndarray, probabilities: np.ndarray) -> dict:
    """What a target is, and its value."""
    if isinstance(target, FunctionTarget):
        value = target.of(logits)
        return {"target": None, "class_name": target.name, "probability": float("nan"), "logit": value}
    return {
        "target": target, "class_name": network.classes[target], "probability": float(probabilities[target]),
        "logit": float(logits[target]),
    }  # fmt: skip
