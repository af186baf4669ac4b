"""The tables in every form, and the paper's figures beside them."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
import subprocess

import numpy as np
import pytest
from evaluation_runs import make_run
from rich.console import Console

from jaxcam.errors import JaxcamError
from jaxcam.evaluate import tables
from jaxcam.evaluate.paper_figures import TABLES_7_TO_10, PaperFigure, published
from jaxcam.evaluate.run import read_run
from jaxcam.evaluate.statistics import over_seeds, summarise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    methods = ("lift_cam", "grad_cam", "lime_cam:num_samples=6", "grad_cam_pp")
    return read_run(make_run(tmp_path_factory.mktemp("tables"), methods=methods, step=0.05, spread=0.6))


@pytest.fixture(scope="module")
def summary(run):
    return summarise(run)


def _manifest(network="vgg16", kind="folder", layer="conv5_3", reference="shap_cam", k=512):
    return {
        "settings": {"model": {"name": network}, "data": {"kind": kind}, "layer": layer, "reference": reference},
        "layer_shape": [14, 14, k],
    }


@pytest.mark.parametrize(
    "manifest, method, metric, figure",
    [
        (_manifest(), "lift_cam", "ic", (26.30, 7)),
        (_manifest(), "score_cam", "pointing", (52.15, 10)),
        (_manifest(), "lime_cam", "ad", (29.28, 5)),
        (_manifest(), "lime_cam:num_samples=5120", "ad", (28.10, 5)),
        (_manifest(kind="voc"), "lift_cam", "add", (20.09, 5)),
        (_manifest(kind="coco"), "kernel_shap_cam:num_samples=512,paired=false", "cosine", (0.536, 6)),
        (_manifest(), "kernel_shap_cam:num_samples=512,paired=false", "cosine", (0.708, 6)),
        (_manifest(), "kernel_shap_cam:paired=false", "cosine", (0.994, 6)),
        (_manifest(), "kernel_shap_cam:num_samples=512", "cosine", None),  # the paper's is unpaired
        (_manifest(), "kernel_shap_cam", "cosine", None),
        (_manifest(), "kernel_shap_cam:num_samples=512,paired=true", "cosine", None),
        (_manifest(), "lift_cam", "cosine", (0.980, 6)),
        (_manifest(layer="conv5_1"), "lift_cam", "cosine", (0.879, 2)),
        (_manifest(layer="conv5_1", kind="voc"), "lift_cam", "ic", (34.5, 3)),
        (_manifest("resnet50_slim", "coco", "layer4"), "xgrad_cam", "ad", (17.01, 4)),
        (_manifest("resnet50_slim", "coco", "layer4"), "xgrad_cam", "insertion", None),
        (_manifest("resnet18", layer="layer4"), "lift_cam", "ic", None),
        (_manifest(reference="lift_cam"), "lift_cam", "cosine", None),
        (_manifest(), "score_cam:score=probability", "ic", None),
        (_manifest(layer="conv4_3"), "lift_cam", "ic", None),
        (_manifest(), "shap_cam", "ic", None),
    ],
)
def test_published_figures(manifest, method, metric, figure):
    assert published(manifest, method, metric) == (figure and PaperFigure(*figure))


def test_the_averages_that_the_paper_prints_are_those_of_its_simulations():
    for metric, (_, rows) in TABLES_7_TO_10.items():
        for method, values in rows.items():
            assert len(values) == 11
            misprinted = (metric, method) == ("pointing", "ablation_cam")
            assert (abs(np.mean(values[:10]) - values[10]) < 0.0151) != misprinted, (metric, method)


def test_main_table(run, summary):
    table = tables.main_table(run, summary)
    heads = [h.text for h in table.columns]
    assert heads[0] == "Method" and heads[-1] == "Empty" and heads.count("paper") == 4
    lift = dict(zip(heads, table.rows[0], strict=True))
    j = run.metrics.index("ad")
    assert lift["AD"].text == f"{summary.score.mean[0, j]:.2f}"
    assert lift["AD"].interval == f"{summary.score.low[0, j]:.2f}, {summary.score.high[0, j]:.2f}"
    marks = [(r[heads.index("Ins")].best, r[heads.index("Ins")].tied) for r in table.rows]
    i = run.metrics.index("insertion")
    assert marks == list(zip(summary.best[:, i].tolist(), summary.tied[:, i].tolist(), strict=True))
    assert sum(b for b, _ in marks) == 1 and any(t for _, t in marks)
    assert table.rows[2][0].text == "LIME-CAM (num_samples=6)"
    assert table.rows[2][heads.index("paper")].text == "37.40"
    notes = " ".join(table.notes)
    assert (
        f"EPG is defined for {summary.score.defined[0, run.metrics.index('pointing')]} of {summary.pairs} maps" in notes
    )
    assert "tables 5" in notes
    assert f"{summary.images} pictures, {summary.pairs} pairs" in table.caption


def test_numbers():
    assert [tables.number(v) for v in (1.005, -2.5, float("nan"), 0.0, -0.0, 3e-7)] == [
        f"{1.005:.2f}", "−2.50", "–", "0.00", "0.00", "3.0e−07",
    ]  # fmt: skip
    assert tables.signed(2.0) == "+2.00" and tables.signed(-2.0) == "−2.00" and tables.signed(0.0) == "0.00"
    assert tables.signed(2.2e-15) == tables.signed(-2.2e-15) == "0.00"  # three differences that cancel


def test_markdown_has_as_many_cells_in_every_line_and_marks(run, summary):
    text = tables.markdown(tables.main_table(run, summary))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 6
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(tables.main_table(run, summary).columns) + 1}
    assert "**" in text and "†" in text and "num\\_samples" in text


def test_latex_escapes_and_balances(run, summary):
    text = tables.latex(tables.main_table(run, summary))
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    assert "num\\_samples" in text and "\\textbf{" in text and "$\\uparrow$" in text and "$^\\dagger$" in text
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    columns = text.split("\\begin{tabular}{@{}")[1].split("@")[0]
    for row in body:
        assert row.endswith(r"\\") and row.replace("\\&", "").count("&") == len(columns) - 1
    assert text.replace("\\{", "").replace("\\}", "").count("{") == text.replace("\\{", "").replace("\\}", "").count(
        "}"
    )
    assert text.isascii()
    assert tables.latex_text("50% & $x_1 #{~^\\}") == (
        r"50\% \& \$x\_1 \#\{\textasciitilde{}\textasciicircum{}\textbackslash{}\}"
    )


def test_latex_as_an_article_wants_it(run, summary):
    table = tables.main_table(run, summary, paper=False)
    assert "paper" not in tables.latex(table, caption="Ours.").split("\\caption")[1]
    stacked, beside, none = (tables.latex(table, intervals=where) for where in ("stacked", "beside", "none"))
    assert beside.count("\\scriptsize [") == stacked.count("{\\tiny [") > 0 == none.count("\\tiny [")
    assert all(text.count("{\\tiny num\\_samples=6}") == 1 for text in (stacked, beside, none))
    named = tables.latex(table, label="tab:mine", caption=r"Maps of $N$ pictures.")
    assert r"\label{tab:mine}" in named and r"\caption{Maps of $N$ pictures.}" in named


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here (Debian: texlive-latex-recommended)")
def test_a_real_latex_sets_every_table_and_the_stacked_one_in_a_column(run, summary, tmp_path):
    table = tables.main_table(run, summary, paper=False)
    wide = [tables.latex(table, intervals="beside"), tables.latex(tables.main_table(run, summary), label="tab:paper")]
    odd = dataclasses.replace(table.rows[0][0], text='50% & $x_1 #{~^\\} <|> "é')
    wide.append(tables.latex(tables.together([("runs/a_b", table), ("runs/c", table)])))
    wide.append(tables.latex(dataclasses.replace(table, rows=((odd, *table.rows[0][1:]), *table.rows[1:]))))
    # The method and four metrics, as many as the paper's tables have.
    few = dataclasses.replace(table, columns=table.columns[:5], rows=tuple(row[:5] for row in table.rows))
    fitting = [tables.latex(few, intervals=where) for where in ("stacked", "none")]

    def log_of(name: str, options: str, made: list[str]) -> str:
        document = rf"\documentclass[{options}]{{article}}\usepackage{{booktabs}}\begin{{document}}" + "\n".join(made)
        (tmp_path / f"{name}.tex").write_text(document + "\\end{document}\n", encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
        return done.stdout

    assert "Missing character" not in log_of("wide", "landscape", wide)
    log = log_of("column", "twocolumn", fitting)
    assert "Overfull" not in log and "Missing character" not in log


def test_several_runs_are_one_table(run, summary):
    table = tables.main_table(run, summary)
    both = tables.together([("runs/a_b", table), ("runs/c", table)])
    text = tables.latex(both)
    assert text.count("\\multicolumn") == 2 and r"\emph{runs/a\_b}" in text
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    assert len(body) == 2 * (1 + len(table.rows)) and all(row.endswith("\\\\") for row in body)
    lines = [line for line in tables.markdown(both).splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert both.caption.startswith("runs/a_b: Mean over") and "runs/c: Mean over" in both.caption
    other = dataclasses.replace(table, columns=table.columns[:-1])
    with pytest.raises(JaxcamError, match="other columns"):
        tables.together([("a", table), ("b", other)])


def test_csv_holds_every_digit(run, summary):
    rows = list(csv.DictReader(io.StringIO(tables.comma_separated(run, summary, "lift_cam"))))
    assert len(rows) == len(run.methods) * len(run.metrics)
    for row in rows:
        i, j = run.methods.index(row["method"]), run.metrics.index(row["metric"])
        assert float(row["mean"]) == summary.score.mean[i, j] and float(row["high"]) == summary.score.high[i, j]
        assert float(row["difference"]) == summary.difference.mean[i, 0, j]
        assert float(row["difference_p"]) == summary.p[i, 0, j]
        assert int(row["surely_better"]) == summary.sure[i, 0, j]
        assert int(row["n"]) == summary.score.defined[i, j]
        assert row["paper"] == "" or float(row["paper"]) == published(run.manifest, row["method"], row["metric"]).value


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_terminal_shows_every_column_whole_at_any_width(run, summary, width):
    out = io.StringIO()
    table = tables.main_table(run, summary)
    Console(file=out, width=width).print(tables.terminal(table, width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for row in table.rows:
        for cell in row[1:]:
            assert cell.text in text and cell.interval in text
    assert "LIFT-CAM" in text


def test_difference_and_seed_tables(run, summary):
    table = tables.difference_table(run, summary, "grad_cam")
    assert [r[0].text for r in table.rows] == ["LIFT-CAM", "LIME-CAM (num_samples=6)", "Grad-CAM++"]
    j = run.metrics.index("ad")
    assert table.rows[0][1 + j].text == tables.signed(summary.difference.mean[0, 1, j])
    seeds = over_seeds(run)
    table = tables.seeds_table(run, seeds, "ad")
    assert [h.text for h in table.columns] == ["Seed", "0", "1", "2", "mean", "s.d."]
    assert (
        table.rows[1][-2].text == f"{seeds.mean[1, j]:.2f}" and table.rows[1][-1].text == f"{seeds.deviation[1, j]:.2f}"
    )
    for column in range(1, 5):
        best = [r[column].best for r in table.rows]
        shown = [float(r[column].text) for r in table.rows]
        assert best.count(True) == 1 and shown[best.index(True)] == min(shown)
