"""Which network a file holds, told from the names in it; the tables of names are beside this, one for each family."""

from __future__ import annotations

import collections
import functools
import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

from jaxcam.converters import efficientnet, resnet, vgg
from jaxcam.converters.budget import MOST_DEPTH
from jaxcam.converters.rules import Dialect
from jaxcam.converters.tensors import shown
from jaxcam.errors import JaxcamError, unknown
from jaxcam.models.config import Config
from jaxcam.models.registry import FAMILIES, name_of

#: Every table there is; of equally good ones the first is taken.
DIALECTS = (*vgg.DIALECTS, *resnet.DIALECTS, *efficientnet.DIALECTS)
#: The part of the names that must agree before a file is taken for a network with faults.
_ALIKE = 0.75
#: Tensors that carry nothing the network computes with, and why.
IGNORED = {
    r"(^|\.)num_batches_tracked$": "counts training steps",
    r"(^|/)seed_generator(_state)?(/|$)": "Keras's random state for dropout",
}
#: Tensors that make a network: VGG11 has 16, and no part of one so many under another's names.
_FEWEST = 12
#: Words in the name of a table of averaged weights.
_AVERAGED = re.compile(
    r"(?i)(^|[^a-z])(ema|swa|ma|avg|averaged?|averaging|polyak|shadow|slow|teacher|momentum|target|old|key|k)($|[^a-z])"
)


class Table(NamedTuple):
    """One network's tensors among those of a file.

    Attributes:
      label: what stands before every name, without the dot: `module`, `ema`, `backbone`; "" for nothing.
      names: name in the file -> name in the tables.
      parted: whether they are in TorchRay's two-part names.
      others: labels of the tables that were left.
      outside: names of the tensors that stand in no table.
    """

    label: str
    names: dict[str, str]
    parted: bool
    others: tuple[str, ...]
    outside: tuple[str, ...]


def canonical(names: list[str], *, table: str | None = None) -> Table:
    """Finds the table of one network in a file, whatever stands before its names: the prefix that fits most of them.

    Args:
      table: the label of the table to take; that of the weights that are no average unless given.

    Raises:
      JaxcamError: there is no table of that label.
    """
    counts: collections.Counter[str] = collections.Counter()
    for name in names:
        starts = [0, *(m.end() for m in itertools.islice(re.finditer(r"[./]", name), MOST_DEPTH))]
        counts.update(name[:i] for i in starts if _whole(name[i:]) in _needed())
    most = max(counts.values(), default=0)
    prefixes = [p for p, n in counts.items() if n >= min(_ALIKE * most, _FEWEST)] or [""]
    labels = {p.rstrip("./"): p for p in prefixes}
    if table is not None and table not in labels:
        raise unknown("table of weights in the file", table, [label or "(without a prefix)" for label in labels])
    ranked = sorted(prefixes, key=lambda p: (bool(_AVERAGED.search(p)), -counts[p]))
    prefix = labels[table] if table is not None else ranked[0]
    short = {n: n.removeprefix(prefix) for n in names if n.startswith(prefix)}
    if not prefix:  # the others stand beside, not within
        short = {n: s for n, s in short.items() if not any(p and n.startswith(p) for p in prefixes)}
    parted = {n: _whole(s) for n, s in short.items()}
    outside = [n for n in names if n not in short and not any(p and n.startswith(p) for p in prefixes)]
    others = tuple(label for label, p in labels.items() if p != prefix)
    return Table(prefix.rstrip("./"), parted, parted != short, others, tuple(outside))


def apart(outside: Iterable[str], missing: Iterable[str] | None = None) -> dict[str, str]:
    """Of the names that stand in no table, those that a table misses, under a prefix of their own, as a head's may.

    Args:
      outside: names in the file.
      missing: names in the table of the network; None for those of every network.

    Returns:
      Name in the file -> name in the table; none of which there are two.
    """
    wanted, found = _needed() if missing is None else set(missing), collections.defaultdict(list)
    for name in outside:
        ends = [name[m.end() :] for m in itertools.islice(re.finditer(r"^|[./]", name), MOST_DEPTH)]
        if fits := [_whole(end) for end in ends if _whole(end) in wanted]:
            found[fits[0]].append(name)
    return {names[0]: short for short, names in found.items() if len(names) == 1}


def _whole(name: str) -> str:
    """A name without the number of the part of a batch norm, which TorchRay's have."""
    return re.sub(r"(bn\d|downsample\.\d)\.[01]\.", r"\1.", name)


@functools.cache
def _needed() -> frozenset[str]:
    """Every name in every table."""
    return frozenset().union(*(_sources(d, c) for d in DIALECTS for c in d.configs))


@functools.lru_cache(256)
def _sources(dialect: Dialect, config: Config) -> frozenset[str]:
    """Every name in one table."""
    return frozenset(s for rule in dialect.rules(config) for s in rule.sources)


def beside(names: Iterable[str], needed: Iterable[str]) -> set[str]:
    """Of the names in a table, those of no module of the network: a criterion's weight, the count of an average.

    Keras names layers, not modules, and keeps nothing else in its files: of its names, none is one.
    """
    modules = {n.split(".")[0] for n in needed}
    return {n for n in names if "/" not in n and n.split(".")[0] not in modules}


def ignorable(name: str) -> bool:
    """Whether a tensor is on the list of those that no network needs."""
    return any(re.search(p, name) for p in IGNORED)


def recognise(
    names: Iterable[str], *, parted: bool, wanted: Config | None = None, least: float = _ALIKE
) -> tuple[Dialect, Config]:
    """The table that fits the names best.

    Args:
      names: the tensors in the file, as the tables spell them.
      parted: whether they were in TorchRay's two-part spelling, which no other library has.
      wanted: consider this architecture only.
      least: how much of the table must be there, as a share.

    Returns:
      The dialect, and the architecture at full width.

    Raises:
      JaxcamError: none fits well enough to say what is missing.
    """
    there = {n for n in names if not ignorable(n)}
    best: tuple[float, int, int, Dialect, Config] | None = None
    for dialect in DIALECTS:
        if (wanted and wanted.family != dialect.family) or parted != dialect.parted:
            continue
        for config in [wanted.replace(**dict(dialect.options))] if wanted else dialect.configs:
            needed = _sources(dialect, config)
            common = len(needed & there)
            score = common / len(needed | (there - beside(there, needed)))
            if best is None or score > best[0]:
                best = (score, common, len(needed), dialect, config)
    if best is None or (best[0] < least and not (wanted and best[1])):
        example = ", ".join(shown(n) for n in sorted(there)[:3]) or "nothing"
        near = (
            f"; nearest is {name_of(best[4])}, of whose {best[2]} tensors it has {best[1]}" if best and best[1] else ""
        )
        members = [list(family.architectures) for family in FAMILIES.values()]
        known = ", ".join(f"{names[0]} to {names[-1]}" for names in members)
        raise JaxcamError(
            f"is not an architecture that jaxcam knows ({known}): it holds {len(there)} tensors such as {example}{near}"
        )
    return best[3], best[4]
