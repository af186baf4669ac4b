"""A metric is one entry: measured, kept, tabled and reported by what the entry says; and what holds of every one."""

from __future__ import annotations

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluations import pictures, tiny

from jaxcam import METRICS
from jaxcam.cli import main
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import read_run
from jaxcam.evaluate.measures import Measures
from jaxcam.explanation.engine import Engine, Maps
from jaxcam.methods.maps import resize_map, scale_map
from jaxcam.metrics import Metric, Perturbation, Probes, Variation
from jaxcam.zoo.store import save_network

STEPS = 4
TOYS = (
    Metric("shown", "Share of the picture that is shown", "share", "lower", lambda heatmap: jnp.mean(heatmap > 0.5),
           ("heatmap",), scale=100.0, unit="%"),
    # Of the network's own passes, and of a perturbation that no other metric has.
    Metric("early", "Score of the first half", "early", "higher",
           lambda scores, counts, original: scores[2] - jax.nn.sigmoid(original), ("scores", "counts", "original"),
           perturbation=Perturbation("reveal", "baseline", "image", "revealed on the plain picture")),
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The network, and a run of both toys made by the command line."""
    folder, net = tmp_path_factory.mktemp("open"), tiny()
    save_network(folder / "net", net)
    data = pictures(folder / "set", each=2, broken=False)
    with pytest.MonkeyPatch.context() as patch:
        for toy in TOYS:
            patch.setitem(METRICS, toy.name, toy)
        words = ["evaluate", str(data), "--model", str(folder / "net"), "--out", str(folder / "run"), "--methods",
                 "lift_cam", "grad_cam", "--metrics", "shown", "ic", "early", "--steps", str(STEPS),
                 "--batch-size", "3"]  # fmt: skip
        assert main(words) == 0
        yield net, data, read_run(folder / "run")


def test_its_values_are_those_of_its_function(found):
    net, data, run = found
    assert run.metrics == ("shown", "ic", "early") and len(run) == 8 * 2
    maps, curves = run.arrays("maps"), run.arrays("reveal_curve")
    predict = jax.jit(net.predict)
    assert curves.shape == (16, STEPS + 1)
    for row in (0, 5, 15):
        heat = np.asarray(scale_map(resize_map(maps[row], (32, 32))))
        assert run.columns["shown"][row] == pytest.approx((heat > 0.5).mean(), abs=2 / 32**2)
        x, target = net.preprocess(data / run.columns["image"][row]), int(run.columns["target"][row])
        ranks = np.argsort(np.argsort(-heat.ravel(), kind="stable")).reshape(32, 32)
        scores = [net.probabilities(predict(net.params, jnp.where((ranks < n)[..., None], x, 0)))[target]
                  for n in (0, 512, 1024)]  # fmt: skip
        np.testing.assert_allclose(curves[row, [0, 2, 4]], scores, atol=2e-3)
        np.testing.assert_allclose(run.columns["early"][row], scores[1] - scores[2], atol=2e-3)


def test_it_stands_in_every_table_and_on_the_page(found, capsys):
    _, _, run = found
    assert main(["report", str(run.folder), "--samples", "50"]) == 0
    shown = capsys.readouterr().out
    assert "share (%) ↓" in shown and "early ↑" in shown
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for said in (TOYS[0].title, TOYS[1].title, "Best for LIFT-CAM by Share of the picture that is shown", "Reveal:",
                 "revealed on the plain picture"):  # fmt: skip
        assert said in page
    assert main(["report", str(run.folder), "--format", "csv", "--samples", "50"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    of = {(r["method"], r["metric"]): float(r["mean"]) for r in rows}
    lift = run.columns["method"] == "lift_cam"
    np.testing.assert_allclose(of["lift_cam", "shown"], 100 * run.columns["shown"][lift].mean())
    np.testing.assert_allclose(of["lift_cam", "early"], run.columns["early"][lift].mean())
    assert main(["metrics"]) == 0
    assert TOYS[0].title in capsys.readouterr().out


def test_without_its_entry_a_run_is_read_and_its_report_says_what_is_missing(found, capsys, monkeypatch):
    _, _, run = found
    monkeypatch.delitem(METRICS, "shown")
    assert len(read_run(run.folder)) == len(run)
    assert main(["report", str(run.folder)]) == 2
    assert "no metric called 'shown'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def measured():
    """Every metric of four maps of two pictures, of which the second map is empty and the last pair is not marked."""
    net = tiny()
    engine = Engine(net, None, 2, 2)
    rng = np.random.default_rng(0)
    forward = engine.forward(rng.normal(size=(2, 32, 32, 3)).astype(np.float32), ["a", "b"])
    pairs, box = [(0, 1), (0, 2), (1, 0), (1, 3)], np.asarray([[2, 3, 20, 30]], np.float32)
    maps, others, alpha = (rng.uniform(size=(4, *shape)).astype(np.float32) for shape in ((2, 2), (2, 2), (7,)))
    covered = np.zeros((32, 32), np.float32)
    covered[4:20, 8:28] = 1
    maps[1] = 0

    def values(some, scale=1):
        measures = Measures(net, engine.params, tuple(METRICS), batch_size=2, baseline="mean", steps=STEPS)
        boxes, masks = [box[: int(i < 3)] for i in some], [covered if i < 3 else None for i in some]
        shared = measures.shared(forward, [pairs[i] for i in some], boxes, masks)
        of = Maps(scale * alpha[some], scale * maps[some], scale * maps[some], alpha[some, 0], np.ones(len(some)), 0.0)

        def again(piece, images, name, classes):
            assert images.shape == (2, 32, 32, 3) and np.isfinite(images).all()
            return others[some][piece.some]

        return measures.of_maps(of, shared, alpha[::-1][some], {}, lambda: None, again)[0]

    return values([0, 1, 2, 3]), values([2]), values([0, 1, 2, 3], scale=np.float32(8))


@pytest.mark.parametrize("name", METRICS)
def test_of_every_metric(measured, name):
    together, alone, larger = (found[name] for found in measured)
    assert together.shape == (4,) and alone.shape == (1,)
    marked = METRICS[name].needs_boxes or METRICS[name].needs_masks
    assert np.isfinite(together).tolist() == [True, True, True, not marked]
    least, most = METRICS[name].bounds
    assert (together[:3] >= least).all() and (together[:3] <= most * (1 + 1e-6)).all()
    np.testing.assert_allclose(alone[0], together[2], rtol=1e-4)
    if "map" not in METRICS[name].needs:  # maps are scaled before they are shown
        np.testing.assert_allclose(larger, together, rtol=1e-4)
    assert METRICS[name].name == name and METRICS[name].direction and METRICS[name].title_and_unit


@pytest.mark.parametrize("change, message", [
    ({"better": "larger"}, "no direction of a metric called 'larger'"),
    ({"needs": ("heatmaps",)}, "no quantity for a metric to need called 'heatmaps'.*heatmap"),
    ({"needs": ("scores",)}, "needs a perturbation"),
    ({"perturbation": Perturbation("back", "image", "nothing", "taken")}, "called 'nothing'"),
    ({"function": None, "needs": ("map", "heatmap")}, "the one quantity completeness_gap"),
    ({"kind": "beauty"}, "no kind of metric called 'beauty'"),
    ({"needs": ("heatmap", "again")}, "needs a variation"),
    ({"variation": Variation("same", lambda image: image[None], ("image",), 1)}, "or has one in vain"),
    ({"needs": ("odds",), "perturbation": Probes("p", jnp.add, ("pictures",), (0,))}, "called 'pictures'"),
])  # fmt: skip
def test_an_entry_that_makes_no_sense_is_refused_when_it_is_made(change, message):
    fields = {"better": "higher", "function": jnp.mean, "needs": ("heatmap",)}
    with pytest.raises(JaxcamError, match=message):
        Metric("toy", "Toy", "toy", **{**fields, **change})


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda heatmap: heatmap.nothing(), "error: the metric function <lambda> raises AttributeError: "),
        (lambda heatmap: float(heatmap[0, 0]), "error: the metric function <lambda> raises ConcretizationTypeError"),
        (lambda heatmap: heatmap, "error: the metric toy gives float32 of shape (32, 32) for a map, not one number"),
    ],
)
def test_a_function_that_is_wrong_is_one_line(found, tmp_path, capsys, monkeypatch, function, why):
    _, data, run = found
    monkeypatch.setitem(METRICS, "toy", Metric("toy", "Toy", "toy", "lower", function, ("heatmap",)))
    words = ["evaluate", str(data), "--model", str(run.folder.parent / "net"), "--out", str(tmp_path / "run")]
    assert main([*words, "--methods", "grad_cam", "--metrics", "toy", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert why in line
