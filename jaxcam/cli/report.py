"""`jaxcam report`."""

from __future__ import annotations

import argparse
import io
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from jaxcam.cli.progress import note
from jaxcam.cli.table import new_console
from jaxcam.errors import JaxcamError, check_known, unknown, visible

if TYPE_CHECKING:
    from jaxcam.evaluate.run import Run
    from jaxcam.evaluate.statistics import Summary
    from jaxcam.evaluate.tables import Table

_ENDINGS = {".html": "html", ".htm": "html", ".md": "markdown", ".tex": "latex", ".csv": "csv"}
_FORMATS = ("html", "markdown", "latex", "csv", "terminal")


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "report", help="tables and a page of what a run of `jaxcam evaluate` found", allow_abbrev=False,
        description="The results of a run, finished or not: by default a table here, and a page, report.html, in "
        "the run's folder.",
    )  # fmt: skip
    p.add_argument(
        "folder", nargs="+", metavar="RUN", help="the folder that jaxcam evaluate wrote to; of several, one table as "
        "Markdown or LaTeX",
    )  # fmt: skip
    p.add_argument("--out", metavar="FILE|-", help="where to write; - for standard output")
    p.add_argument(
        "--format", choices=_FORMATS, help="what to write (default: by the ending of --out, else html); without --out "
        "all but html go to standard output",
    )  # fmt: skip
    p.add_argument("--data", metavar="DIR", help="the folder of the pictures, where it is not where it was")
    p.add_argument("--focus", metavar="M", help="the method that differences and best and worst cases are told of")
    p.add_argument("--level", type=float, default=95, metavar="PERCENT", help="of the intervals (default: 95)")
    p.add_argument("--no-paper", action="store_true", help="leave the paper's figures out of the table")
    article = p.add_argument_group("LaTeX")
    article.add_argument(
        "--intervals", choices=("stacked", "beside", "none"), default="stacked", help="where they stand (default: "
        "stacked, below the values, which fits a narrow column)",
    )  # fmt: skip
    article.add_argument("--label", metavar="L", help="of the table (default: tab:results)")
    article.add_argument(
        "--caption", metavar="TEXT", help="its caption, as LaTeX (default: what the table says of itself)"
    )
    p.add_argument("--samples", type=int, default=2000, metavar="N", help="bootstrap samples (default: 2000)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: 0)")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    kind = _format(options)
    if options.data and not pathlib.Path(options.data).is_dir():
        raise JaxcamError(f"{options.data}: there is no such folder")
    if options.seed < 0:
        raise JaxcamError(f"the seed must be at least 0, not {options.seed}")
    from jaxcam.evaluate import read_run, statistics, tables
    from jaxcam.evaluate.report import focus_method, report

    if len(options.folder) > 1:
        if kind not in ("markdown", "latex"):
            raise JaxcamError("of several runs there is one table, as Markdown or LaTeX: give --format or --out")
        runs = [_known(read_run(folder)) for folder in options.folder]
        parts = [(folder, _table(options, run, _summary(options, run)))
                 for folder, run in zip(options.folder, runs, strict=True)]  # fmt: skip
        write(_as_text(options, kind, tables.together(parts)), options.out)
        return 0
    [folder] = options.folder
    found = _known(read_run(folder))
    focus = options.focus or focus_method(found)
    check_known("method of this run", focus, found.methods)
    summary = _summary(options, found)
    table = _table(options, found, summary)
    if kind == "terminal":
        _print(table, options.out)
    elif kind == "csv":
        write(tables.comma_separated(found, summary, focus), options.out)
    elif kind in ("markdown", "latex"):
        shown = [table, tables.difference_table(found, summary, focus)] if len(found.methods) > 1 else [table]
        seeds = statistics.over_seeds(found)
        if len(seeds.seeds) > 1:
            shown += [tables.seeds_table(found, seeds, k) for k in found.metrics]
        first, *others = shown
        as_text = {"markdown": tables.markdown, "latex": tables.latex}[kind]
        write("\n".join([_as_text(options, kind, first), *map(as_text, others)]), options.out)
    else:
        page = report(found, summary, focus=focus, data=pathlib.Path(options.data) if options.data else None)
        out = options.out or str(pathlib.Path(folder) / "report.html")
        write(page, out)
        if out != "-":
            if not options.out:
                _print(table, None)
            print(visible(f"report of {tables.how_many(summary)} written to {out}"))
    if not found.complete:
        damaged = f" ({found.spoilt} damaged parts of its records are left out)" if found.spoilt else ""
        note(f"{folder} is not finished{damaged}; these are the pictures done so far")
    return 0


def _summary(options: argparse.Namespace, run: Run) -> Summary:
    """The means and intervals of a run."""
    from jaxcam.evaluate.statistics import summarise

    return summarise(run, level=options.level / 100, replicates=options.samples, seed=options.seed)


def _table(options: argparse.Namespace, run: Run, summary: Summary) -> Table:
    """The table of a run."""
    from jaxcam.evaluate.tables import main_table

    return main_table(run, summary, paper=not options.no_paper)


def _as_text(options: argparse.Namespace, kind: str, table: Table) -> str:
    """The main table as Markdown or LaTeX."""
    from jaxcam.evaluate import tables

    if kind == "markdown":
        return tables.markdown(table)
    return tables.latex(table, intervals=options.intervals, label=options.label, caption=options.caption)


def _known(run: Run) -> Run:
    """The run, if all that it measured is known here."""
    from jaxcam.metrics.registry import METRICS

    for name in run.metrics:
        if name not in METRICS:
            plugins = " ".join(f"--plugin {source}" for source in run.manifest["about"].get("plugins", ()))
            error = unknown("metric", name, METRICS)
            raise JaxcamError(f"{run.folder}: {error}; the run was made with {plugins}") if plugins else error
    return run


def _format(options: argparse.Namespace) -> str:
    if options.format:
        return options.format
    if not options.out or options.out == "-":
        return "html"
    ending = pathlib.Path(options.out).suffix.lower()
    if ending not in _ENDINGS:
        raise JaxcamError(
            f"{options.out}: the ending does not say what to write; end it in {', '.join(_ENDINGS)} or give --format"
        )
    return _ENDINGS[ending]


def _print(table: Table, out: str | None) -> None:
    from jaxcam.evaluate.tables import terminal

    text = None if out in (None, "-") else io.StringIO()
    console = new_console(stream=text)
    console.print(terminal(table, console.width))
    if text is not None:
        write(text.getvalue(), out)


def write(text: str, out: str | None) -> None:
    """Writes a text to a file, whole or not at all; to standard output for `-`, or nothing."""
    if out in (None, "-"):
        sys.stdout.write(text)
        return
    assert out is not None
    if pathlib.Path(out).is_dir():
        raise JaxcamError(f"{out}: is a folder; name a file")
    from jaxcam.files import whole_file

    with whole_file(out) as f:
        f.write(text.encode("utf-8", "backslashreplace"))
