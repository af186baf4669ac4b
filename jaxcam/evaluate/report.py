"""The report of a run: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

from jaxcam import __version__
from jaxcam.evaluate import html, plots, tables
from jaxcam.evaluate.gallery import Gallery, ranked, sample
from jaxcam.evaluate.run import Run
from jaxcam.evaluate.statistics import Cube, Summary, cube, over_seeds
from jaxcam.evaluate.tables import count, number
from jaxcam.metrics.registry import METRICS

_EXAMPLES = 6
_CASES = 2
_LISTED = 200  # broken pictures named on the page


def focus_method(run: Run) -> str:
    """The method that differences and best and worst cases are told of: LIFT-CAM where it is there, else the first."""
    return "lift_cam" if "lift_cam" in run.methods else run.methods[0]


def report(run: Run, summary: Summary, *, focus: str | None = None, data: pathlib.Path | None = None) -> str:
    """The page, as text. The same run gives the same page, whenever it is made.

    Args:
      run: finished or not; the page says which.
      summary: of the run.
      focus: the method that differences, and best and worst cases, are told of; `focus_method` unless given.
      data: the folder of the pictures, where it is not where it was.
    """
    focus = focus or focus_method(run)
    values = cube(run)
    name = f"{run.manifest['settings']['model']['name']} on {run.manifest['settings']['data']['name']}"
    sections = [
        _results(run, summary, focus), _curves(run, values), _agreement(run, values), _cost(run, summary),
        _seeds(run), _pictures(run, values, Gallery(run, values, data), focus), _making(run, summary),
    ]  # fmt: skip
    shown = [s for s in sections if s]
    links = "".join(f'<a href="#{key}">{html.escape(title)}</a>' for key, title, _ in shown)
    body = [
        f"<header>{_opening(run, summary, name)}<nav aria-label='Sections'>{links}</nav></header><main>",
        *(html.section(key, title, content) for key, title, content in shown),
        f"</main><footer>Made by jaxcam {html.escape(__version__)} from {html.escape(run.folder.name)}.</footer>",
    ]
    return html.page(f"Explanations of {name}", body)


_Section = tuple[str, str, str] | None


def _opening(run: Run, summary: Summary, name: str) -> str:
    settings = run.manifest["settings"]
    methods, metrics = count(len(run.methods), "method"), count(len(run.metrics), "metric")
    lead = f"{methods}, {metrics}, {tables.how_many(summary)}; maps at {settings['layer']}."
    text = f'<p class="kicker">Class activation maps, evaluated</p><h1>{html.escape(name)}</h1>'
    text += html.paragraph(lead, "lead")
    if not run.complete:
        done, total = summary.images + len(run.broken), len(run.images)
        text += html.paragraph(
            f"This run is not finished: {done:,} of {total:,} pictures. The figures below are of these only.", "warning"
        )
    if run.broken:
        text += html.paragraph(f"{count(len(run.broken), 'picture')} could not be used; named at the end.")
    return text


def _results(run: Run, summary: Summary, focus: str) -> _Section:
    charts = [(plots.axis_title(k), plots.interval_plot(run, summary, k)) for k in plots.defined(run.metrics, summary)]
    caption = (
        f"Mean of each method and its interval: {tables.how(summary)}, n = {tables.how_many(summary)}. Filled: the "
        "best mean; blue outline: not distinguishable from it by the paired difference. Intervals of two methods may "
        "overlap and their paired difference still be clear, since pictures that are hard are hard for both."
    )
    content = html.table(tables.main_table(run, summary), label="Results") + html.figures(charts, caption)
    if len(run.methods) > 1:
        differences = tables.difference_table(run, summary, focus)
        content += f"<h3 class='group'>Paired differences to {html.escape(tables.titles(run)[focus])}</h3>"
        content += html.table(differences, label="Paired differences")
    return "results", "Results", content


def _curves(run: Run, values: Cube) -> _Section:
    charts = plots.curve_plots(run, values)
    if not charts:
        return None
    found = list(plots.perturbations(run))
    caption = (
        f"Mean over {count(len(values.pairs), 'map')} of the score of the explained class (a probability) as pixels "
        f"are {', or '.join(p.says for p in found)}, in the order of the map."
    )
    return (
        "curves",
        " and ".join(p.name for p in found).capitalize(),
        html.figures(charts, caption, after=plots.legend(run, lines=True)),
    )


def _agreement(run: Run, values: Cube) -> _Section:
    if len(run.methods) < 2:
        return None
    cosines = plots.agreement(run, values)
    if cosines is None:
        return None
    caption = (
        f"Mean cosine similarity between the coefficient vectors of two methods for the same map, over "
        f"{count(len(values.pairs), 'map')}. 1 means the same map up to scale."
    )
    return "agreement", "Agreement of the coefficients", html.boxed(plots.heat_map(run, cosines), caption)


def _cost(run: Run, summary: Summary) -> _Section:
    charts = plots.cost_plots(run, summary)
    caption = (
        f"Each mark is a method: mean and interval ({100 * summary.level:g} %) of a metric over "
        f"{tables.how_many(summary)}, against the mean time of a map."
    )
    content = html.figures(charts, caption, after=plots.legend(run, lines=False)) if charts else ""
    return "cost", "Cost and faithfulness", content + html.table(tables.cost_table(run, summary), label="Cost")


def _seeds(run: Run) -> _Section:
    seeds = over_seeds(run)
    if len(seeds.seeds) < 2:
        return None
    content = "".join(
        html.details(
            METRICS[k].title, html.table(tables.seeds_table(run, seeds, k), label=METRICS[k].title), shown=not i
        )
        for i, k in enumerate(run.metrics)
    )
    note = html.paragraph("As the paper's tables 7 to 10. Subsets may share pictures: the deviation is then too small.")
    return "subsets", "Random subsets", note + content


def _pictures(run: Run, values: Cube, gallery: Gallery, focus: str) -> _Section:
    titles = tables.titles(run)
    if gallery.missing:
        return "pictures", "Pictures", html.paragraph(f"Left out: {gallery.missing}.", "warning")
    content = html.paragraph(
        "The part of the picture that the network saw, and the map of every method over it; each map is scaled to its "
        "own maximum, from blue (0) to red. A grey picture is an empty map."
    )
    examples = gallery.cases(sample(run, values), _EXAMPLES)
    content += "".join(_case(run, values, case, None) for case in examples)
    method = run.methods.index(focus)
    for k in run.metrics:
        order = ranked(values, run.metrics, k, method)
        if len(order) < 2 * _CASES:
            continue
        for word, pairs in (("Best", order), ("Worst", order[::-1])):
            cases = gallery.cases(pairs, _CASES)
            heading = f"{word} for {titles[focus]} by {METRICS[k].title}"
            content += f"<h3 class='group'>{html.escape(heading)}</h3>"
            content += "".join(_case(run, values, case, k) for case in cases)
    for why in list(gallery.failed.values())[:5]:
        content += html.paragraph(f"Not shown: {why}.", "warning")
    return "pictures", "Pictures", content


def _case(run: Run, values: Cube, case, metric: str | None) -> str:
    rows, columns = values.rows[case.pair], run.columns
    row = rows[0]
    image, name, score = str(columns["image"][row]), str(columns["class"][row]), float(columns["score"][row])
    heading = f"{name}, {100 * score:.1f} % — {image}"
    overlays = []
    for i, (uri, title) in enumerate(zip(case.overlays, plots.short_titles(run), strict=True)):
        empty = bool(columns["empty"][rows[i]])
        value = ""
        if metric:
            m = METRICS[metric]
            value = (
                f"{m.short} {number(values.values[case.pair, i, run.metrics.index(metric)], METRICS[metric].digits)}"
            )
            value += f" {m.unit}" if m.unit else ""
        overlays.append(
            (uri, f"Map of {title} for {name}{', empty' if empty else ''}", title, "empty map" if empty else value)
        )
    return html.strip(heading, (case.photo, f"{image}, explained for {name}", "picture"), overlays)


def _making(run: Run, summary: Summary) -> _Section:
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
        ("Explained", {"label": "every class that is in the picture", "predicted": "the most probable class"}.get(
            settings["targets"], settings["targets"])),
        ("Removed pixels", settings.get("baseline")), ("Curve steps", settings.get("steps")),
        ("Reference", settings.get("reference")), ("Seed", settings.get("seed")),
        ("Batch size", settings.get("batch_size")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in settings.get("versions", {}).items())),
        ("Python, NumPy", f"{about.get('python', '?')}, {about.get('numpy', '?')}"),
        ("Device", f"{settings.get('platform', '?')}: {about.get('device', '?')}"),
        ("Work", f"{seconds:,.0f} s in {len(run.units):,} batch{'es' * (len(run.units) != 1)}"),
        ("Intervals", tables.how(summary) + "; all methods and metrics share the samples"),
        ("Broken pictures", f"{len(run.broken):,}"),
    ]  # fmt: skip
    content = html.facts((k, str(v)) for k, v in items if v not in (None, ""))
    methods = ", ".join(run.methods)
    content += html.paragraph(f"Methods as asked for: {methods}.")
    if run.broken:
        content += html.details("Pictures that could not be used", _listing(run.broken))
    provenance = about.get("provenance")
    if provenance:
        content += html.details(
            "What is known of the weights", html.facts((str(k), _short(v)) for k, v in provenance.items())
        )
    return "making", "How it was made", content


def _listing(broken: dict[str, str]) -> str:
    def lines() -> Iterator[str]:
        for name, why in list(broken.items())[:_LISTED]:
            yield f"<li>{html.escape(name)}: {html.escape(why)}</li>"
        if len(broken) > _LISTED:
            yield f"<li>and {len(broken) - _LISTED:,} more</li>"

    return f"<ul>{''.join(lines())}</ul>"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 400 else text[:399] + "…"
