"""The report of a run: one HTML page that needs nothing beside itself. Its words are in `templates/report.html`."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from jaxcam import __version__
from jaxcam.data.samples import tally
from jaxcam.evaluate import charts, tables
from jaxcam.evaluate.gallery import Case, Gallery, ranked, sample
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import MOST_KEPT, Cube, Summary, agreement, cube, over_seeds
from jaxcam.evaluate.tables import DAGGER, count, number, titles
from jaxcam.explanation.targets import LABEL, PREDICTED
from jaxcam.methods import DEFAULT_METHOD
from jaxcam.metrics.registry import DIRECTIONS, METRICS

_EXAMPLES = 6
_CASES = 2
_LISTED = 200  # broken pictures named on the page


def focus_method(run: Run) -> str:
    """The method that differences and best and worst cases are told of: LIFT-CAM where it is there, else the first."""
    return DEFAULT_METHOD if DEFAULT_METHOD in run.methods else run.methods[0]


def report(run: Run, summary: Summary, *, focus: str | None = None, data: pathlib.Path | None = None) -> str:
    """The page, as text. The same run gives the same page, whenever it is made.

    Args:
      run: finished or not; the page says which.
      summary: of the run.
      focus: the method that differences, and best and worst cases, are told of; `focus_method` unless given.
      data: the folder of the pictures, where it is not where it was.
    """
    focus = focus or focus_method(run)
    settings, values, several = run.manifest["settings"], cube(run), len(run.methods) > 1
    curves = charts.curve_charts(run, values)
    cosines = agreement(run, values) if several else None
    seeds = over_seeds(run)
    sections = {
        "results": "Results", "curves": " and ".join(c.name for c in curves).capitalize(),
        "agreement": "Agreement of the coefficients" if cosines is not None else "", "cost": "Cost and faithfulness",
        "subsets": "Random subsets" if len(seeds.seeds) > 1 else "", "pictures": "Pictures",
        "making": "How it was made",
    }  # fmt: skip
    metrics, how_many = count(len(run.metrics), "metric"), tables.how_many(summary)
    return _environment().get_template("report.html").render(
        version=__version__, folder=run.folder.name, directions=DIRECTIONS, dagger=DAGGER, listed=_LISTED,
        name=f"{settings['model']['name']} on {settings['data']['name']}",
        lead=f"{count(len(run.methods), 'method')}, {metrics}, {how_many}; maps at {settings['layer']}.",
        unfinished="" if run.complete else f"{summary.images + len(run.broken):,} of {len(run.images):,}",
        broken=list(run.broken.items()), left_out=tally(run.problems),
        words=[(METRICS[k].short, METRICS[k].title, METRICS[k].direction) for k in run.metrics],
        sections=sections,
        how=tables.how(summary), how_many=how_many, level=f"{100 * summary.level:g}",
        pairs=_averaged(len(values.pairs)), focus=titles(run)[focus],
        results=tables.main_table(run, summary),
        intervals=[charts.interval_chart(run, summary, k) for k in run.metrics if _defined(summary, k)],
        differences=tables.difference_table(run, summary, focus) if several else None,
        curves=[c.chart for c in curves], perturbed=", or ".join(c.says for c in curves),
        lines=charts.legend(run, lines=True) if curves else [], marks=charts.legend(run, lines=False),
        agreement=[] if cosines is None else [[_agreement_cell(float(v)) for v in row] for row in cosines],
        cost=tables.cost_table(run, summary), costs=charts.cost_charts(run, summary),
        subsets=[(METRICS[k].title, tables.seeds_table(run, seeds, k)) for k in run.metrics],
        **_pictures(run, values, Gallery(run, values, data), focus),
        methods=run.methods, making=_making(run, summary),
        provenance=[(k, _short(v)) for k, v in (run.manifest.get("about", {}).get("provenance") or {}).items()],
    )  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxcam.evaluate"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        finalize=lambda x: _printable(x) if type(x) is str else x,
    )  # fmt: skip
    environment.filters |= {"breakable": _breakable, "counted": count}
    return environment


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in " \n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _breakable(text: str) -> Markup:
    """A method's title; its options on a line of their own, broken behind an underscore or a sign where need be."""
    broken = str(escape(_printable(text))).replace("_", "_<wbr>").replace("=", "=<wbr>").replace(" (", "<br>(")
    return Markup(broken)


def _averaged(pairs: int) -> str:
    """Over how many maps curves and coefficients are averaged."""
    some = -(-pairs // -(-pairs // MOST_KEPT))
    return count(pairs, "map") if some == pairs else f"{some:,} of {count(pairs, 'map')}"


def _defined(summary: Summary, metric: str) -> bool:
    """Whether some method has a value of it."""
    return bool(np.isfinite(summary.score.mean[:, summary.metrics.index(metric)]).any())


def _agreement_cell(cosine: float) -> dict[str, Any]:
    strength = round(100 * cosine**2) if np.isfinite(cosine) else 0  # most agreements are high: squared, they spread
    side = "" if not np.isfinite(cosine) else "minus" if cosine < 0 else "plus"
    depth = " deep" if strength > 88 else " middle" if strength > 63 else ""  # which letters are read best
    return {"text": number(cosine), "kind": side + depth, "strength": strength}


def _pictures(run: Run, values: Cube, gallery: Gallery, focus: str) -> dict[str, Any]:
    """Examples, and the best and the worst cases by each metric."""
    found: dict[str, Any] = {
        "missing": gallery.missing, "boxed": gallery.boxed, "examples": [], "ranked": [], "failed": [],
    }  # fmt: skip
    if gallery.missing:
        return found
    found["examples"] = [_case(run, values, c) for c in gallery.cases(sample(values), _EXAMPLES)]
    for k in run.metrics:
        shown = values.metric(k)
        order = ranked(shown[:, run.methods.index(focus)], METRICS[k])
        if len(order) < 2 * _CASES:
            continue
        for word, pairs in (("Best", order), ("Worst", order[::-1])):
            cases = [_case(run, values, c, k, shown) for c in gallery.cases(pairs, _CASES)]
            found["ranked"].append((f"{word} for {titles(run)[focus]} by {METRICS[k].title}", cases))
    found["failed"] = list(gallery.failed.values())[:5]
    return found


def _case(
    run: Run, values: Cube, case: Case, metric: str | None = None, shown: np.ndarray | None = None
) -> dict[str, Any]:
    """A case as the page shows it, with the value of each method by a metric, of which `shown (P, M)` are all."""
    rows = values.rows[case.pair]
    image, name, predicted, target, score = (
        run.value(k, rows[0]) for k in ("image", "class", "predicted", "target", "score")
    )
    overlays = []
    for i, (uri, title) in enumerate(zip(case.overlays, charts.short_titles(run), strict=True)):
        empty, says = bool(run.value("empty", rows[i])), ""
        if metric and shown is not None:
            m, value = METRICS[metric], shown[case.pair, i]
            says = f"{m.short} {number(value, m.digits)} {m.unit}".rstrip()
        description = f"Map of {title} for {name}" + ", empty" * empty
        says = "empty map" if empty else says
        overlays.append({"uri": uri, "description": description, "name": title, "says": says})
    classes = run.manifest["settings"]["model"]["classes"]
    said = "the prediction" if predicted == target else f"predicted: {classes[predicted]}"
    heading = f"{name}, {100 * score:.1f} % ({said}) — {image}"
    description = f"{image}, explained for {name}"
    return {"heading": heading, "photo": case.photo, "description": description, "overlays": overlays}


def _making(run: Run, summary: Summary) -> list[tuple[str, str]]:
    """What is known of how the run was made."""
    settings, about = run.manifest["settings"], run.manifest.get("about", {})
    model, data = settings["model"], settings["data"]
    seconds = sum(u.get("seconds", {}).get("total", 0.0) for u in run.units)
    items = [
        ("Command", about.get("command")), ("Made", about.get("created")),
        ("Network", f"{model['name']}, {len(model['classes'])} classes, "
                    f"{'sigmoid' if model['multi_label'] else 'softmax'} scores"),
        ("Weights", f"sha256 {model['sha256']}"),
        ("Layer", f"{settings['layer']}, {' × '.join(map(str, run.manifest['layer_shape']))}"),
        ("Data", f"{data['name']} ({data['kind']}): {data['images']:,} of {data['total']:,} pictures"),
        ("Data digest", f"sha256 {data['sha256']}"),
        ("Random subsets", f"limit {settings.get('limit') or 'none'}, seeds {', '.join(map(str, run.seeds))}"),
        ("Explained", {LABEL: "every class that is in the picture", PREDICTED: "the most probable class"}.get(
            settings["targets"], settings["targets"])),
        ("Removed pixels", settings.get("baseline")), ("Curve steps", settings.get("steps")),
        ("Insertion starts from", settings.get("start")),
        ("Reference", settings.get("reference")), ("Seed", settings.get("seed")),
        ("Batch size", settings.get("batch_size")), ("Precision", settings.get("precision")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in settings.get("versions", {}).items())),
        ("Python, NumPy", f"{about.get('python', '?')}, {about.get('numpy', '?')}"),
        ("Device", f"{settings.get('platform', '?')}: {about.get('device', '?')}"),
        ("Work", f"{seconds:,.0f} s in {len(run.units):,} batch{'es' * (len(run.units) != 1)}"),
        ("Intervals", tables.how(summary) + "; all methods and metrics share the samples"),
        ("Broken pictures", f"{len(run.broken):,}"),
    ]  # fmt: skip
    return [(k, str(v)) for k, v in items if v not in (None, "")]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 400 else text[:399] + "…"
