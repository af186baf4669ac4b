"""A file of foreign weights -> a network, exactly: every parameter filled once, every tensor accounted for."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxcam.converters.names import apart, beside, canonical, ignorable, recognise
from jaxcam.converters.reading import open_checkpoint
from jaxcam.converters.rules import IN_ROWS, Dialect, Rule, place, source_shape, spellings, target_shape, to_target
from jaxcam.converters.tensors import FLOATS, Tensor, aligned, check_total, floats, shown
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.models.config import Config
from jaxcam.models.network import Network
from jaxcam.models.registry import name_of
from jaxcam.models.trees import flatten, unflatten

_MOST_SHOWN = 8
_MOST_BESIDE = 20
#: Of an architecture's tensors the share that a file without its last layers may have.
_PART = 0.5


def convert(
    path: str | os.PathLike,
    *,
    architecture: Config | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    multi_label: bool | None = None,
    name: str | None = None,
    table: str | None = None,
    partial: bool = False,
) -> Network:
    """Reads the weights of a VGG or ResNet that another library saved.

    Nothing in the file is executed, and nothing is read before names, shapes and types have been found to fit. The
    weights are held once, beside a few megabytes of the file.

    Args:
      path: a file of PyTorch (torchvision, timm, TorchRay), Keras (`keras.applications`), or Caffe's names in a `.npz`.
      architecture: told from the file where None; its width and number of classes always are.
      classes: names of the classes; numbered where None.
      preprocessing: the one of the library's published weights where None.
      multi_label: as the library's published weights where None.
      name: of the network; the architecture's where None.
      table: which of several tables of weights to take, by what stands before its names: `ema`, `teacher`, or a
        key of PyTorch's dictionary. The one that is no average where None. What is left is told in the provenance.
      partial: layers of which the file has nothing, such as the dense ones, are missing in `params`, too, and named in
        the provenance: a network to begin training from, that cannot be run.

    Raises:
      JaxcamError: the file cannot be read, or does not fit; one line that names what is wrong.
    """
    path = pathlib.Path(path)
    with open_checkpoint(path) as (kind, stored):
        found = canonical(list(stored), table=table)
        tensors = {short: stored[n] for n, short in found.names.items()}
        check_total(path, tensors)
        problems = [f"{shown(n)} stands for the same parameter as another" for n in _doubles(found.names)]
        there = tensors.keys() | apart(found.outside).values()
        dialect, config = recognise(
            there, parted=found.parted, wanted=architecture, **({"least": _PART} if partial else {})
        )
        rules = dialect.rules(config)
        needed = [s for r in rules for s in r.sources]
        elsewhere = apart(found.outside, set(needed) - set(tensors))
        tensors |= {short: stored[n] for n, short in elsewhere.items()}
        check_total(path, tensors)
        strays = {n: tensors.pop(n) for n in beside(list(tensors), needed) if not ignorable(n)}
        left = sorted([*strays, *(n for n in found.outside if not ignorable(n) and n not in elsewhere)])
        stored_as = ((r, tensors[r.sources[0]]) for r in rules if r.sources[0] in tensors)
        config = config.fitted({r.target: target_shape(r.kind, t.shape) for r, t in stored_as})
        from jaxcam.models.graph import graph

        expected = {k: tuple(v.shape) for k, v in flatten(graph(config)[2]).items()}
        if {r.target for r in rules} != set(expected):
            raise JaxcamError(f"no table of names for {name_of(config)} as it is configured")
        pool = config.flat_side
        absent = _absent(rules, tensors) if partial else set()
        rules = [r for r in rules if r.layer not in absent]
        problems += _problems(rules, tensors, expected, pool)
        if problems:  # it may well be that these are what is missing, misspelt
            problems += [f"{shown(n)} {t.shape} belongs to no layer" for n, t in sorted(strays.items())]
        ignored = sorted(n for n in tensors if ignorable(n))
        _refuse(problems, dialect, config)
        params = dict(_filled(rules, tensors, expected, pool, problems))
        _refuse(problems, dialect, config)
    rules_of_input = preprocessing or dialect.preprocessing
    if preprocessing is None and config.input_size != rules_of_input.size:
        side = config.input_size
        rules_of_input = dataclasses.replace(rules_of_input, size=side, resize_to=side * 9 // 8)
    return Network(
        name=name or name_of(config),
        config=config,
        params=unflatten(params),
        classes=tuple(classes) if classes is not None else tuple(str(i) for i in range(config.num_classes)),
        preprocessing=rules_of_input,
        multi_label=dialect.multi_label if multi_label is None else multi_label,
        provenance={
            "source": path.name,
            "sha256": _sha256(path),
            "format": kind,
            "names": dialect.name,
            "tensors": len(tensors) - len(ignored),
            "ignored": len(ignored),
        }
        | ({"beside": [shown(n) for n in left[:_MOST_BESIDE]], "left": len(left)} if left else {})
        | ({"table": shown(found.label)} if found.label else {})
        | ({"apart": [shown(n) for n in sorted(elsewhere)]} if elsewhere else {})
        | ({"absent": sorted(absent)} if absent else {})
        | ({"other_tables": [shown(x or "(without a prefix)") for x in found.others]} if found.others else {}),
    )


def _doubles(table: dict[str, str]) -> list[str]:
    seen: set[str] = set()
    doubles = []
    for name, short in table.items():
        if short in seen and not ignorable(short):
            doubles.append(name)
        seen.add(short)
    return doubles


def _absent(rules: list[Rule], tensors: dict[str, Tensor]) -> set[str]:
    """Layers of which there is not one tensor."""
    return {r.layer for r in rules} - {r.layer for r in rules if any(s in tensors for s in r.sources)}


def _problems(
    rules: list[Rule], tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], pool: int
) -> list[str]:
    """Everything about names, shapes and types that keeps a file from fitting."""
    problems, used = [], set()
    for rule in rules:
        target = expected[rule.target]
        used |= set(rule.sources)
        shape = source_shape(rule.kind, target)
        for i, source in enumerate(rule.sources):
            if source not in tensors:
                problems.append(f"{shown(source)} {shape} is missing")
            elif tensors[source].shape not in spellings(rule.kind, target, pool)[: 2 if i == 0 else 1]:
                problems.append(f"{shown(source)} has shape {tensors[source].shape}, not {shape}")
            elif tensors[source].why:
                problems.append(f"{shown(source)} {tensors[source].why}")
            elif tensors[source].dtype not in FLOATS:
                problems.append(f"{shown(source)} holds {tensors[source].dtype}, not floating-point numbers")
    problems += [
        f"{shown(n)} {t.shape} belongs to no layer" for n, t in tensors.items() if n not in used and not ignorable(n)
    ]
    return problems


def _filled(
    rules: list[Rule], tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], pool: int, problems: list[str]
) -> Iterator[tuple[str, jax.Array]]:
    """Reads and converts one parameter after the other; the large ones a few rows at a time into their place."""
    for rule in rules:
        if rule.kind in IN_ROWS:
            made = _in_rows(rule, tensors[rule.sources[0]], expected[rule.target], pool, problems)
        else:
            values = [floats(tensors[source]) for source in rule.sources]
            problems += [p for s, x in zip(rule.sources, values, strict=True) if (p := _wrong(rule, s, x))]
            made = None if problems else to_target(rule.kind, values, pool)
        if made is not None:
            yield rule.target, jax.block_until_ready(jax.device_put(made))  # on a CPU the very array, if aligned


def _in_rows(rule: Rule, tensor: Tensor, shape: tuple[int, ...], pool: int, problems: list[str]) -> np.ndarray | None:
    out = None
    for start, rows in tensor.stretches():
        if problem := _wrong(rule, rule.sources[0], rows):
            problems.append(problem)
            return None
        if problems:  # the rest is looked at only, to tell all that is wrong
            continue
        if rule.kind == "same" and rows.shape == shape:  # whole, and in place already
            return rows
        out = aligned(shape) if out is None else out
        place(rule.kind, out, start, rows, pool)
    return out


def _wrong(rule: Rule, source: str, x: np.ndarray) -> str:
    """What is wrong with values; empty where nothing is."""
    low, high = x.min(initial=0), x.max(initial=0)
    if not np.isfinite([low, high]).all():
        return f"{source} holds NaN or values that float32 cannot hold"
    return f"{source} holds negative variances" if rule.target.endswith(".var") and low < 0 else ""


def _refuse(problems: list[str], dialect: Dialect, config: Config) -> None:
    if problems:
        more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
        raise JaxcamError(
            f"the weights do not fit {name_of(config)} in {dialect.name}'s names: "
            + "; ".join(problems[:_MOST_SHOWN]) + more
        )  # fmt: skip


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
