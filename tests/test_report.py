"""`jaxcam report`: what the page says, that nothing in a run can attack it, and how it stands in a real browser."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from evaluation_runs import CLASSES, EVIL, MEASURED, make_run
from PIL import Image

from jaxcam.cli import main
from jaxcam.evaluate import charts
from jaxcam.evaluate.gallery import SIDE, Gallery, boxed, ranked, sample
from jaxcam.evaluate.report import report
from jaxcam.evaluate.run import read_run
from jaxcam.evaluate.statistics import agreement, cube, summarise
from jaxcam.metrics import METRICS

_VOID = {"meta", "link", "img", "br", "wbr"}


class Page(html.parser.HTMLParser):
    """Collects elements and text, and checks that every element that opens closes in its place."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [a for t, a in self.elements if t == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(folder):
    assert main(["report", str(folder)]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


def test_the_page_holds_all_sections_tables_and_pictures(parsed, folder):
    assert [a["id"] for a in parsed.all("section")] == [
        "results", "curves", "agreement", "cost", "subsets", "pictures", "making",
    ]  # fmt: skip
    run = read_run(folder)
    assert len(parsed.all("table")) == 2 + 1 + 1 + len(run.metrics)
    # Six examples, and two best and two worst by ad, add, insertion, deletion, pointing (cosine: equal for all).
    assert len(parsed.all("img")) == (6 + 4 * 5) * (1 + len(run.methods))
    assert all(a["alt"] and a["src"].startswith("data:image/jpeg;base64,") for a in parsed.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in parsed.all("svg"))
    assert all(a.get("scope") for a in parsed.all("th"))
    words = " ".join(parsed.texts)
    for said in ("0" * 64, "1" * 64, "jaxcam evaluate <data>", "is cut off", "conv5_3, 4 × 4 × 6"):
        assert said in words


def test_the_page_says_what_was_predicted_and_what_the_abbreviations_mean(parsed):
    words = " ".join(parsed.texts)
    assert "(the prediction)" in words and f"(predicted: {CLASSES[0]})" in words
    for name in MEASURED:
        assert f"{METRICS[name].title}; {METRICS[name].direction}" in words
    assert "Outlined in white" in words


def test_boxes_are_drawn_where_they_were_measured_against(folder, tmp_path):
    run = read_run(folder)
    gallery = Gallery(run, cube(run))
    row = int(np.flatnonzero(run.columns["boxes"] != "")[0])
    boxes = gallery._boxes(row, (64, 64, 3))
    np.testing.assert_allclose(boxes, np.array([[8, 8, 40, 56], [30, 4, 60.5, 20]]) * SIDE / 64)
    drawn = np.asarray(boxed(Image.new("RGB", (SIDE, SIDE), "blue"), boxes[:1]))
    x0, y0, x1, y1 = (round(v) for v in boxes[0])
    for x, y in ((x0 + 2, SIDE // 2), (x1 - 2, SIDE // 2), (SIDE // 3, y0 + 2), (SIDE // 3, y1 - 2)):
        assert drawn[y, x].tolist() == [255, 255, 255], (x, y)
    assert drawn[SIDE // 2, SIDE // 3].tolist() == [0, 0, 255]  # the inside is left as it is
    bare = read_run(make_run(tmp_path, metrics=("ic", "ad"), images=8, keep=("maps",)))
    assert len(Gallery(bare, cube(bare))._boxes(row, (64, 64, 3))) == 0


def test_lines_and_marks_are_told_apart_without_colour():
    looks = [(charts._line(i)["ls"], charts._line(i)["marker"]) for i in range(32)]
    assert len(set(looks)) == len(looks) and all(
        charts._line(i)["marker"] == charts._mark(i)["marker"] for i in range(32)
    )


def test_names_cannot_attack_the_page(text, parsed):
    assert {t for t, _ in parsed.elements}.isdisjoint({"script", "iframe", "object", "form", "input", "base"})
    assert not [a for _, a in parsed.elements if any(k.startswith("on") for k in a)]
    words = " ".join(parsed.texts)
    assert EVIL in words and CLASSES[1] in words  # they are told, as text
    assert "default-src 'none'" in parsed.all("meta")[1]["content"]


def test_the_page_asks_for_nothing_outside(text, parsed):
    for _, attributes in parsed.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#")[:5] in ("data:",) or attributes.get(name, "#").startswith("#")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_links_lead_somewhere_and_ids_are_unique(parsed):
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in parsed.all("a")} <= set(ids)


def test_the_same_run_gives_the_same_page(folder, text):
    run = read_run(folder)
    assert report(run, summarise(run)) == text


def test_agreement_is_the_mean_cosine(folder):
    run = read_run(folder)
    values = cube(run)
    coefficients = run.arrays("coefficients").astype(np.float64)
    result = agreement(run, values)
    for i, j in ((0, 2), (3, 1)):
        cosines = [
            a @ b / np.sqrt((a @ a) * (b @ b))
            for a, b in ((coefficients[r[i]], coefficients[r[j]]) for r in values.rows)
        ]  # fmt: skip
        np.testing.assert_allclose(result[i, j], np.mean(cosines))
    np.testing.assert_allclose(np.diag(result), 1)


def test_best_and_worst_cases(folder):
    run = read_run(folder)
    values = cube(run)
    for metric, sign in (("ad", 1), ("insertion", -1), ("pointing", -1)):
        order = ranked(values.metric(metric)[:, 1], METRICS[metric])
        column = sign * values.values[order, 1, run.metrics.index(metric)]
        assert (np.diff(column) >= 0).all()
        assert len(order) == np.isfinite(values.values[:, 1, run.metrics.index(metric)]).sum()
    assert len(ranked(values.metric("ic")[:, 1], METRICS["ic"])) == 0


def test_the_examples_show_every_class_once_before_any_twice(folder):
    values = cube(read_run(folder))
    order = sample(values)
    assert sorted(order.tolist()) == list(range(len(values.pairs)))
    first = values.pairs[order[:6]]
    assert len(set(first[:, 0].tolist())) == 6 and set(first[:3, 1].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("format, ending, start", [
    ("markdown", "md", "Mean over"), ("latex", "tex", "% \\usepackage{booktabs}"), ("csv", "csv", "method,metric,unit"),
    ("html", "html", "<!DOCTYPE html>"),
])  # fmt: skip
def test_formats_by_name_and_by_ending(folder, tmp_path, capsys, format, ending, start):
    file = tmp_path / f"t.{ending}"
    assert main(["report", str(folder), "--out", str(file), "--samples", "20"]) == 0
    capsys.readouterr()
    assert main(["report", str(folder), "--format", format, "--out", "-", "--samples", "20"]) == 0
    assert capsys.readouterr().out == file.read_text(encoding="utf-8")
    assert file.read_text(encoding="utf-8").startswith(start)
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_is_not_finished_and_keeps_nothing(tmp_path, capsys):
    folder = make_run(tmp_path, units=1, keep=(), seeds=(0,), metrics=("ad",), methods=("grad_cam",))
    assert main(["report", str(folder)]) == 0
    assert "is not finished" in capsys.readouterr().err
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert [a["id"] for a in page.all("section")] == ["results", "cost", "pictures", "making"]
    words = " ".join(page.texts)
    assert "This run is not finished: 8 of 24 pictures" in words and "maps were not kept" in words


def test_pictures_that_are_gone(tmp_path, capsys):
    folder = make_run(tmp_path, images=8)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    assert main(["report", str(folder)]) == 0
    assert "there is no folder" in (folder / "report.html").read_text(encoding="utf-8")
    (tmp_path / "elsewhere" / "001.png").write_bytes(b"no picture")
    assert main(["report", str(folder), "--data", str(tmp_path / "elsewhere")]) == 0
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.all("img")
    assert "001.png: is not a picture" in " ".join(page.texts)


@pytest.mark.parametrize("arguments, message", [
    (["--focus", "score_cam"], "no method of this run called 'score_cam'"),
    (["--level", "100"], "between 0 and 1"),
    (["--samples", "0"], "at least 1"),
    (["--out", "page.pdf"], "the ending does not say"),
    (["--data", "nowhere"], "no such folder"),
    (["--seed", "-1"], "at least 0"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(folder, capsys, arguments, message):
    assert main(["report", str(folder), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_folder_without_a_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_charts_take_the_colours_of_the_page(text):
    drawn = re.findall(r"<svg.*?</svg>", text)
    assert len(drawn) > 20  # eight metrics, three costs, two curves, and the legends' keys
    for chart in drawn:
        assert " id=" not in chart and "url(" not in chart and "href" not in chart
        assert not re.search(r"(fill|stroke): (?!none|var\(--)", chart)


def test_neither_names_nor_the_users_style_change_how_charts_are_drawn(tmp_path):
    """As mathematics, `$_%` would be an error."""
    evil = "<b>$_%^\u5b57$\x01"
    folder = make_run(tmp_path, methods=("lift_cam", "grad_cam:a=<b>$_%"), pictures=False)
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace('"Grad-CAM"', json.dumps(evil)))
    run = read_run(folder)
    summary = summarise(run, replicates=20)
    plain = charts.interval_chart(run, summary, "ad").svg
    assert "&lt;b&gt;$_%^" in plain and "<b>" not in plain and "\x01" not in plain and "\u5b57" in plain
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "text.usetex": True, "svg.fonttype": "path"}):
        assert charts.interval_chart(run, summary, "ad").svg == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_charts_leave_pyplot_alone(folder):
    """A window system, and the figures that a caller has open, are none of a report's business."""
    program = (
        "import sys; from jaxcam.evaluate import charts, read_run, statistics\n"
        f"run = read_run({str(folder)!r}); summary = statistics.summarise(run, replicates=5)\n"
        "assert charts.interval_chart(run, summary, 'ad').svg and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_axes_of_time_have_round_ticks_however_long_they_are(folder):
    run = read_run(folder)
    summary = summarise(run, replicates=5)
    for seconds, told in (([2e-3, 3e-3, 2.5e-3, 4e-3], "2 4"), ([1e-3, 1e-2, 5e-3, 2e-2], "1 2 5 10 20"),
                          ([1e-3, 40, 2, 3], "1 10 100 1,000 10,000")):  # fmt: skip
        chart = charts.cost_charts(run, dataclasses.replace(summary, seconds=np.asarray(seconds)))[0].svg
        shown = re.findall(r"text-anchor: middle[^>]*>([^<]*)</text>", chart)
        assert set(told.split()) <= set(shown) and len(shown) < 9, shown


_SMALL = """[...document.querySelectorAll('p, td, th, figcaption, figcaption span, dd, li, h4')]
    .filter(e => e.offsetWidth && parseFloat(getComputedStyle(e).fontSize) < 11).length"""
_CUT = """[...document.querySelectorAll('svg[role=img]')].flatMap(s => [...s.querySelectorAll('text')].filter(t => {
    const a = t.getBoundingClientRect(), b = s.getBoundingClientRect();
    return a.width && (a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1 || a.height < 9); }))
    .map(t => t.textContent)"""


def _luminance(colour):
    """Of `rgb(255, 255, 255)`, or of `color(srgb 1 1 1)`."""
    numbers = [float(c) / (1 if colour.startswith("color(") else 255) for c in re.findall(r"\d[\d.e-]*", colour)]
    linear = [c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in numbers[:3]]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def _ratio(colour, paper):
    a, b = sorted((_luminance(colour), _luminance(paper)))
    return (b + 0.05) / (a + 0.05)


def _contrast(chromium, selector, ink="color", *, of="body"):
    """The least contrast between what a selector finds and the paper of `of`; of each itself where that is ""."""
    script = f"""[...document.querySelectorAll('{selector}')].map(e => [getComputedStyle(e).{ink},
        getComputedStyle({f"document.querySelector('{of}')" if of else "e"}).backgroundColor])"""
    return min(_ratio(*pair) for pair in chromium.value(script))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_in_a_real_browser(chromium, folder, text, width, dark):
    page = (folder / "report.html").as_uri()
    chromium.open(page, width=width, dark=dark)
    assert chromium.errors == []
    assert [url for url in chromium.requests if not url.startswith("data:")] == [page]
    assert chromium.value("document.documentElement.scrollWidth") <= width  # the page never scrolls sideways
    assert chromium.value("document.images.length") > 50
    assert chromium.value("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    assert chromium.value("document.scripts.length") == 0
    assert chromium.value(_SMALL) == 0 and chromium.value(_CUT) == []
    assert (
        _contrast(chromium, "body") > 12 and _contrast(chromium, "figcaption") > 4.5 and _contrast(chromium, "a") > 4.5
    )
    fonts = "[...document.querySelectorAll('body, .chart svg text')].map(e => getComputedStyle(e).fontFamily)"
    assert len(set(chromium.value(fonts))) == 1
    assert _contrast(chromium, ".chart svg text", "fill", of=".chart") > 4.5
    assert chromium.barriers() == []
    small, large = chromium.value("""(() => { const f = document.querySelectorAll('.strip figure')[1];
        const width = () => f.querySelector('img').getBoundingClientRect().width;
        const before = width(); f.focus(); const after = width(); f.blur(); return [before, after] })()""")
    assert large > 2 * small and large <= width  # a picture that has the focus is enlarged
    assert _contrast(chromium, ".legend svg path[style*=stroke-width]", "stroke") > 3
    assert _contrast(chromium, ".heat td.plus, .heat td.minus", of="") > 3.9
    ink = _luminance(chromium.value("getComputedStyle(document.body).color"))
    assert (ink > 0.5) == dark
