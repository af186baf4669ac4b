"""Which places a network can be cut at, and tracing it to find them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.cutting import program, tags
from jaxcam.cutting.activations import name_activations
from jaxcam.cutting.adapters import Adapter, Call, abstract, adapt
from jaxcam.cutting.axes import Axes, axes_of_places
from jaxcam.cutting.libraries import imported
from jaxcam.errors import JaxcamError, raised


class Layer(NamedTuple):
    """A place to cut at.

    Attributes:
      name: what `at` takes.
      shape: of what the layer returns for one image: `(h, w, K)`; `(n, d)` for the tokens of a
        transformer, which need `layout=jaxcam.tokens(...)`. Of signals `(t, K)`, of volumes `(d, h, w, K)`.
      kind: the class of the layer, or `tag`.
    """

    name: str
    shape: tuple[int, ...]
    kind: str


class _Several(JaxcamError):
    """What a network returns is no array, but the part of it at `entry`, as Python writes it, looks like logits."""

    def __init__(self, message: str, entry: str):
        super().__init__(message)
        self.entry = entry


class Traced(NamedTuple):
    """A network, traced.

    Attributes:
      closed: the program `(*params, image) -> logits (C,)`.
      layout: `hwk` or `khw`.
      batched: whether the network itself takes a batch (of one, here).
      params, image: shapes and dtypes.
      precision: as in `Checked`.
    """

    closed: Any
    layout: str
    batched: bool
    params: Any
    image: jax.ShapeDtypeStruct
    precision: str | None = None


def trace(model: Any, params: Any, example: Any, call: Call, batched: bool | None) -> Traced:
    """Runs a network on shapes alone, once for each way it may take an image, until one gives logits.

    Raises:
      JaxcamError: none does.
    """
    adapter = adapt(model, params, call)
    shapes, image = abstract(params, "params"), abstract(example, "example")
    one = isinstance(image, jax.ShapeDtypeStruct) and image.ndim in (2, 3, 4)
    if not one or image.ndim == 4 and image.shape[0] == 1:
        raise JaxcamError(
            "example must be one image of rank 3 (H, W, C), without a batch axis (or a signal (T, C), or a volume "
            f"(D, H, W, C)), or its jax.ShapeDtypeStruct, not {image}"
        )
    if batched is not None:
        return _attempt(adapter, shapes, image, batched)
    reasons: list[str] = []
    first: Exception | None = None
    for guess in (adapter.batched_first, not adapter.batched_first):
        given = f"given {'a batch of one' if guess else 'a single image'}"
        try:
            return _attempt(adapter, shapes, image, guess)
        except _Several as error:  # it ran: nothing else is wrong with it
            raise JaxcamError(
                f"the network does not give logits for an image {image.shape}; {given}, {error}; "
                f"pick them by {adapter.picked}{error.entry}"
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises says why
            first = first or error
            reasons.append(f"{given}: {raised(error, 300).removeprefix('JaxcamError: ')}")
    raise JaxcamError(
        f"the network does not give logits for an image {image.shape}; {'; '.join(reasons)}. Its arguments can be "
        f"given as call={{'train': False}}, what it returns can be picked by {adapter.picked}[0], and "
        "batched=True or False shows the whole error"
    ) from first


def _attempt(adapter: Adapter, params: Any, image: jax.ShapeDtypeStruct, batched: bool) -> Traced:
    def run(params, x):
        if adapter.layout == "khw":
            x = jnp.moveaxis(x, -1, 0)
        out = adapter.run(params, x[None] if batched else x)
        leading = (1,) if batched else ()
        if not isinstance(out, jax.Array):
            keys = f" with {', '.join(map(repr, out))}" if isinstance(out, dict) else ""
            said = f"it returns a {type(out).__name__}{keys}, not an array of logits"
            raise _Several(said, entry) if (entry := _logits_in(out, leading)) else JaxcamError(said)
        if out.ndim != len(leading) + 1 or out.shape[: len(leading)] != leading:
            raise JaxcamError(f"it returns shape {out.shape}, not logits {'(1, C)' if batched else '(C,)'}")
        if not jnp.issubdtype(out.dtype, jnp.floating):
            raise JaxcamError(f"it returns {out.dtype}, not real logits")
        return jnp.squeeze(out, 0) if batched else out

    named = None
    while named != (there := tuple(library.name for library, _ in imported())):  # a function may import one itself
        named = there
        with tags.naming(named):
            closed = jax.make_jaxpr(run)(params, image)
    closed = name_activations(tags.with_plain_labels(closed), len(jax.tree.leaves(params)))
    return Traced(closed, adapter.layout, batched, params, image)


def _logits_in(out: Any, leading: tuple[int, ...]) -> str | None:
    """The index of the part that looks like logits; of several the one that is called so, or else the first."""
    if dataclasses.is_dataclass(out):
        found = {f".{name}": part for name, part in vars(out).items()}
    else:
        parts, _ = jax.tree_util.tree_flatten_with_path(out)
        found = {jax.tree_util.keystr(path): part for path, part in parts}
    rank = len(leading) + 1
    like = [
        name
        for name, part in found.items()
        if isinstance(part, jax.Array)
        and part.ndim == rank
        and part.shape[:-1] == leading
        and jnp.issubdtype(part.dtype, jnp.floating)
    ]
    return min(like, key=lambda name: "logit" not in name.lower(), default=None)


def numbered(traced: Traced) -> dict[str, tuple[program.Place, int]]:
    """The places by name, a repeated name as `name#1`, `name#2`; each with its occurrence from 0."""
    found = list(program.places(traced.closed))
    total = Counter(p.name for p in found)
    seen: Counter[str] = Counter()
    names = {}
    for place in found:
        seen[place.name] += 1
        number = f"#{seen[place.name]}" if total[place.name] > 1 else ""
        names[place.name + number] = (place, seen[place.name] - 1)
    return names


def batch_axis(place: program.Place, batched: bool) -> int | None:
    """Which axis of a named value is the network's batch of one; None for none.

    Raises:
      JaxcamError: it cannot be told.
    """
    if not batched:
        return None
    if place.shape[:1] == (1,):
        return 0
    single = [i for i, n in enumerate(place.shape) if n == 1]
    if len(place.shape) == 4 and len(single) == 1:
        return single[0]
    raise JaxcamError(
        f"{place.name!r} gives shape {place.shape} for a batch of one image, without a batch axis; cut elsewhere, or, "
        "where frames or crops lie in it, hand over the network for one example: "
        "call=lambda m, x: m(x[None])[0], batched=False"
    )


def unbatched(traced: Traced) -> Iterator[tuple[str, program.Place, tuple[int, ...]]]:
    """The places outside of loops, each with its name and its shape without the network's batch axis."""
    for name, (place, _) in numbered(traced).items():
        if place.inside:
            continue
        try:
            axis = batch_axis(place, traced.batched)
        except JaxcamError:
            continue
        yield name, place, tuple(n for i, n in enumerate(place.shape) if i != axis)


def axes(traced: Traced) -> dict[str, Axes]:
    """What is known of the axes of each place, but for the network's batch axis; of no place of a signal or volume."""
    if traced.image.ndim != 3:
        return {}
    found = {}
    for (name, (place, _)), of_place in zip(numbered(traced).items(), axes_of_places(traced.closed), strict=True):
        with contextlib.suppress(JaxcamError):
            axis = batch_axis(place, traced.batched)
            found[name] = tuple(a for i, a in enumerate(of_place) if i != axis)
    return found


def layers(
    model: Any, params: Any = None, *, example: Any, call: Call = None, layout: str | None = None,
    batched: bool | None = None,
) -> tuple[Layer, ...]:  # fmt: skip
    """The places that a network can be cut at, in the order of execution.

    Nothing is computed: the network is traced on shapes.

    Args:
      model, params, example, call, batched: as in `split`.
      layout: `hwk` or `khw`, as in `split`.

    Returns:
      A `Layer(name, shape, kind)` for each: outputs that are maps or tokens. Layers inside loops
      (`scan`, `while`) are not listed, since the program cannot be cut there.

    Raises:
      JaxcamError: the network cannot be traced.
    """
    traced = trace(model, params, example, call, batched)
    listed = []
    for name, place, shape in unbatched(traced):
        if not jnp.issubdtype(place.dtype, jnp.floating):
            continue
        if len(shape) == traced.image.ndim and (layout or traced.layout) == "khw":
            shape = (*shape[1:], shape[0])
        if len(shape) in (2, 3, traced.image.ndim):
            listed.append(Layer(name, shape, place.kind))
    return tuple(listed)
