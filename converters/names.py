"""Which network a file holds, told from the names in it; the tables of names are beside this, one for each family."""

from __future__ import annotations

import re
from collections.abc import Iterable

from jaxcam.converters import resnet, vgg
from jaxcam.converters.rules import Dialect
from jaxcam.converters.tensors import shown
from jaxcam.errors import JaxcamError
from jaxcam.models.layers import Config
from jaxcam.models.registry import FAMILIES, name_of

#: Every table there is; of equally good ones the first is taken.
DIALECTS = (*vgg.DIALECTS, *resnet.DIALECTS)
#: The part of the names that must agree before a file is taken for a network with faults.
_ALIKE = 0.75
#: Tensors that carry nothing the network computes with, and why.
IGNORED = {
    r"(^|\.)num_batches_tracked$": "counts training steps",
    r"(^|/)seed_generator(_state)?(/|$)": "Keras's random state for dropout",
}
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def canonical(names: list[str]) -> tuple[dict[str, str], bool]:
    """The names in a file -> the names in the tables, and whether the file is in TorchRay's two-part names.

    Prefixes that every name carries (DataParallel's `module.`, `torch.compile`'s `_orig_mod.`) are dropped.
    """
    short = {n: n for n in names}
    for _ in range(3):
        common = [p for p in _PREFIXES if short and all(s.startswith(p) for s in short.values())]
        if not common:
            break
        short = {n: s[len(common[0]) :] for n, s in short.items()}
    parted = {n: re.sub(r"(bn\d|downsample\.\d)\.[01]\.", r"\1.", s) for n, s in short.items()}
    return parted, parted != short


def ignorable(name: str) -> bool:
    """Whether a tensor is on the list of those that no network needs."""
    return any(re.search(p, name) for p in IGNORED)


def recognise(names: Iterable[str], *, parted: bool, wanted: Config | None = None) -> tuple[Dialect, Config]:
    """The table that fits the names best.

    Args:
      names: the tensors in the file, as the tables spell them.
      parted: whether they were in TorchRay's two-part spelling, which no other library has.
      wanted: consider this architecture only.

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
            needed = {s for rule in dialect.rules(config) for s in rule.sources}
            common = len(needed & there)
            score = common / len(needed | there)
            if best is None or score > best[0]:
                best = (score, common, len(needed), dialect, config)
    if best is None or (best[0] < _ALIKE and not (wanted and best[1])):
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
