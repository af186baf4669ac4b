"""`jaxcam models`, `methods`, `metrics` and `targets`: what there is."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from typing import TYPE_CHECKING, Any

from jaxcam.cli.table import known, new_console
from jaxcam.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from jaxcam.models.classifier import Classifier
    from jaxcam.zoo.catalogue import Published


def add_commands(commands: Any) -> None:
    """Adds the commands to the parser."""
    models = commands.add_parser(
        "models", help="list the networks, or show one in detail", allow_abbrev=False,
        description="Lists the networks that come with jaxcam, the default one first, and published ones that it can "
        "download; or shows one in detail.",
    )  # fmt: skip
    models.add_argument(
        "name", nargs="?", metavar="NAME|FOLDER|FILE.py:NAME", help="the network to show; FILE.py:NAME, one of your "
        "own from jaxcam.wrap, runs that Python file",
    )  # fmt: skip
    models.set_defaults(run=_models)
    methods = commands.add_parser(
        "methods", help="list the methods, or show one in detail", allow_abbrev=False,
        description="Lists the methods with what they cost, what they promise and where they come from; or shows one "
        "with its options.",
    )  # fmt: skip
    methods.add_argument("name", nargs="?", metavar="NAME", help="the method to show")
    methods.set_defaults(run=_methods)
    metrics = commands.add_parser(
        "metrics", help="list the metrics, or show one in detail", allow_abbrev=False,
        description="Lists what `jaxcam evaluate` can measure of a map; or shows one with what it computes.",
    )  # fmt: skip
    metrics.add_argument("name", nargs="?", metavar="NAME", help="the metric to show, by its name or abbreviation")
    metrics.set_defaults(run=_metrics)
    targets = commands.add_parser(
        "targets", help="list the kinds of targets", allow_abbrev=False,
        description="Lists what can be explained besides one class, by `jaxcam explain --target` and `jaxcam "
        "evaluate --targets`.",
    )  # fmt: skip
    targets.set_defaults(run=_targets)


def _targets(options: argparse.Namespace) -> int:
    del options
    from jaxcam.explanation.targets import LABEL, PREDICTED, RIVAL
    from jaxcam.methods.targets import TARGETS

    table = _table("kind", "as in", "what it explains", "numbers", "paper")
    for name, form in TARGETS.items():
        classes = ["cat", "dog", "owl"][: form.classes + 2 * form.more]
        _add(table, name, f"{name}:{','.join(classes)}", form.about, _pairs(form.numbers), form.paper)
    console = new_console()
    console.print(table)
    for line in (
        "'cat - dog' is difference:cat,dog; numbers come last, as in finer:cat,dog,strength=0.5",
        f"for a class may stand {PREDICTED}, the most probable one, and {RIVAL}, the most probable not named before",
        f"jaxcam evaluate takes those that begin with {PREDICTED} or {LABEL}, each class that is in a picture",
        "a function of the logits: jaxcam explain --target FILE.py:NAME",
    ):
        console.print(line, markup=False)
    return 0


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table()
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=not place)  # a name is never broken
    return table


def _add(table: Table, *cells: object) -> None:
    from rich.text import Text

    table.add_row(*(Text(visible(cell)) for cell in cells))


def score(provenance: dict) -> str:
    """How good a network is, as its provenance says: `91.2 % top-1 accuracy on 3791 pictures`."""
    if "accuracy" not in provenance:
        return "not measured"
    text = f"{100 * provenance['accuracy']:.1f} % {provenance.get('metric', 'top-1 accuracy')}"
    pictures = provenance.get("validation_pictures")
    return f"{text} on {pictures} pictures" if pictures else text


def _models(options: argparse.Namespace) -> int:
    from jaxcam.cli.networks import named
    from jaxcam.zoo.catalogue import CATALOGUE
    from jaxcam.zoo.load import bundled, load

    console = new_console()
    if options.name is None:
        table = _table("name", "architecture", "classes", "input", "validation", "layers")
        for name in bundled():
            shown = load(name)
            size = f"{shown.preprocessing.size} x {shown.preprocessing.size}"
            layers = f"{len(shown.layers)}, maps at {shown.default_layer}"
            _add(table, name, _kind(shown), known(shown.classes), size, score(shown.provenance), layers)
        console.print(table)
        _catalogue(console)
        return 0
    if options.name in CATALOGUE and options.name not in bundled():
        _published(console, CATALOGUE[options.name])
        return 0
    network: Classifier = named(options.name)
    console.print(visible(f"{network.name}: {_kind(network)}, {score(network.provenance)}"), markup=False)
    console.print(visible(f"classes ({len(network.classes)}): {', '.join(network.classes)}"), markup=False)
    console.print(visible("preprocessing: " + _pairs(network.preprocessing.fields())), markup=False)
    for key, value in network.provenance.items():
        console.print(visible(f"{key}: {value if isinstance(value, str) else json.dumps(value)}"), markup=False)
    _layers(console, network)
    return 0


def _layers(console: Console, network: Classifier) -> None:
    table = _table("layer", "height x width x channels", "")
    default = network.resolve_layer(network.default_layer)
    for layer in network.layers:
        shape = " x ".join(map(str, network.layer_shape(layer)))
        _add(table, layer, shape, "default" if layer == default else "")
    console.print(table)


def _catalogue(console: Console) -> None:
    """Lists the weights that others published."""
    from jaxcam.zoo.catalogue import CATALOGUE
    from jaxcam.zoo.download import cache_folder

    table = _table("name, downloaded on first use", "source", "classes", "input", "top-1", "MB", "licence", "")
    for name, entry in CATALOGUE.items():
        size = f"{entry.preprocessing.size} x {entry.preprocessing.size}"
        top1 = f"{100 * entry.top1:.1f} %" if entry.top1 is not None else ""
        here = "in the cache" if (cache_folder() / entry.cached_as).is_file() else ""
        megabytes = round(4 * entry.parameters / 1e6)
        _add(table, name, entry.source, entry.config.num_classes, size, top1, megabytes, entry.licence, here)
    console.print(table)


def _published(console: Console, entry: Published) -> None:
    """Shows published weights in detail; nothing is downloaded."""
    from jaxcam.models.network import Network
    from jaxcam.zoo.download import cache_folder

    told = score(entry.provenance)
    classes = ", ".join(entry.class_names[:5])
    file = cache_folder() / entry.cached_as
    for line in (
        f"{entry.name}: {entry.parameters:,} learnt numbers, {told}",
        f"classes ({entry.config.num_classes}): {classes} ..." + (", each by itself" if entry.multi_label else ""),
        "preprocessing: " + _pairs(vars(entry.preprocessing)),
        *(f"{key}: {entry.provenance[key]}" for key in ("source", "url", "digest", "licence")),
        f"cache: {file}, " + ("there" if file.is_file() else "not there yet"),
        "architecture: " + _pairs(vars(entry.config)),
    ):
        console.print(line, markup=False, soft_wrap=True)
    _layers(console, Network(entry.name, entry.config, {}, entry.class_names, entry.preprocessing))


def _kind(network: Any) -> str:
    import jax

    from jaxcam.models.registry import FAMILIES, name_of

    parameters = sum(x.size for x in jax.tree.leaves(network.params))
    config = getattr(network, "config", None)
    if config is None:
        return f"a network of your own, {parameters:,} numbers"
    member = name_of(config).removeprefix(config.family).replace("_", "-").upper()
    width = "" if config.width == 1 else f", width {config.width:g}"
    return f"{FAMILIES[config.family].title}{member}{width}, {parameters:,} numbers"


def _pairs(values: dict) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())


def _methods(options: argparse.Namespace) -> int:
    from jaxcam.methods.registry import METHODS, request

    if options.name is not None:
        _method(request(options.name).name)
        return 0
    table = _table("method", "", "cost of one map", "what its coefficients promise", "needs", "map from", "paper")
    for name, info in METHODS.items():
        _add(table, name, info.title, info.cost, info.promise, ", ".join(info.needs), info.map_from, info.paper)
    console = new_console(220)
    console.print(table)
    console.print("jaxcam methods NAME shows one with its options", markup=False)
    return 0


def _method(name: str) -> None:
    """Shows a method, its options and their defaults."""
    from jaxcam.methods.registry import METHODS

    info, console = METHODS[name], new_console(100)
    text = inspect.getdoc(info.outline) or ""
    said = {
        "cost of one map": info.cost, "its coefficients": info.promise, "paper": info.paper,
        "needs": ", ".join(info.needs), "map from": info.map_from,
        "runs under jax.grad": "yes" if info.differentiable else "no",
        "defined for": info.heads.kind if info.heads else "",
    }  # fmt: skip
    first = text.split("\n\n")[0].removeprefix(f"{info.title}: ")
    console.print(visible(f"{name}: {info.title}: {first}"), markup=False)
    for what, told in said.items():
        if told:
            console.print(visible(f"  {what}: {told}"), markup=False)
    if not info.options:
        console.print("  no options", markup=False)
        return
    pairs = [(option, p.default) for option, p in info.options.items()]
    table = _table("option", "default", "")
    for option, default in pairs:
        _add(table, option, "" if default is inspect.Parameter.empty else default, _argument(text, option))
    console.print(table)
    option, default = pairs[0]
    console.print(f"as in --method {name}:{option}={default}", markup=False)


def _argument(text: str, name: str) -> str:
    """What a docstring says of an argument, whichever names it shares its line with."""
    found = re.search(
        rf"^  (?:\w+, )*{re.escape(name)}(?:, \w+)*: (.*?)(?=^  \S|^\S|\Z)", text, re.MULTILINE | re.DOTALL
    )
    return " ".join(found[1].split()) if found else ""


def _metrics(options: argparse.Namespace) -> int:
    from jaxcam.metrics.registry import KINDS, METRICS, metric_name

    if options.name is not None:
        _metric(metric_name(options.name))
        return 0
    table = _table("metric", "", "", "kind", "unit", "", "")
    for name, m in METRICS.items():
        said = (
            ("measured by default", m.default),
            ("needs boxes", m.needs_boxes),
            ("needs masks", m.needs_masks),
            ("calls the methods again", m.variation is not None),
            ("needs --reference", m.needs_reference),
        )
        notes = [text for text, true in said if true]
        _add(table, name, m.short, m.title, m.kind, m.unit, m.direction, ", ".join(notes))
    console = new_console()
    console.print(table)
    for kind, asks in KINDS.items():
        console.print(f"{kind}: {asks}", markup=False)
    console.print("jaxcam metrics NAME shows one with what it computes", markup=False)
    return 0


def _metric(name: str) -> None:
    """Shows a metric, what its function says, and what it takes."""
    from jaxcam.metrics.registry import KINDS, METRICS, QUANTITIES

    m, console = METRICS[name], new_console(100)
    text = (inspect.getdoc(m.outline) or "").partition("\nArgs:")[0].strip()
    console.print(visible(f"{name}: {m.title_and_unit}, {m.short}: {m.direction}"), markup=False)
    if m.kind:
        console.print(visible(f"  {m.kind}: {KINDS[m.kind]}"), markup=False)
    for paragraph in filter(None, text.split("\n\n")):
        console.print(visible("  " + " ".join(paragraph.split())), markup=False)
    table = _table("it takes", "")
    for need in m.requires:
        _add(table, need, QUANTITIES[need].replace("`", ""))
    console.print(table)
    console.print(f"as in jaxcam evaluate pictures/ --metrics {name}", markup=False)
