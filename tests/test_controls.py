"""Rows of what knows nothing of the class: added by an option, never bold, and told of."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from evaluation_runs import make_run
from evaluations import pictures, tiny

from jaxcam.cli import main
from jaxcam.evaluate import evaluate, read_run
from jaxcam.evaluate.statistics import controls, summarise
from jaxcam.evaluate.tables import main_table
from jaxcam.methods.registry import METHODS


def test_a_run_with_controls(tmp_path, capsys):
    data = pictures(tmp_path / "set", each=3, broken=False)
    run = evaluate(tiny(), data, out=tmp_path / "run", methods=["grad_cam"], metrics=["ad", "complexity", "road"],
                   controls=True, batch_size=4, devices=jax.local_devices()[:1])  # fmt: skip
    assert run.methods[0] == "grad_cam" and set(run.methods[1:]) == {n for n, m in METHODS.items() if m.control}
    uniform = run.columns["method"] == "uniform_cam"
    np.testing.assert_allclose(run.columns["complexity"][uniform], 1)
    np.testing.assert_allclose(run.columns["ad"][uniform], 0, atol=1e-3)  # it hides nothing, and is no best method
    assert not (run.columns["empty"][uniform] != "").any()
    summary = summarise(run, replicates=50)
    assert summary.best.tolist() == [[True] * 3, [False] * 3, [False] * 3] and summary.comparisons == 9
    assert controls(run) == run.methods[1:]
    again = evaluate(tiny(), data, out=tmp_path / "run", methods=["grad_cam", "random_cam", "uniform_cam"],
                     metrics=["ad", "complexity", "road"], batch_size=4)  # fmt: skip
    assert len(again) == len(run)
    assert main(["report", str(run.folder), "--samples", "50"]) == 0
    assert "Controls, never bold: Random-CAM and Uniform map. They know nothing" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_best_is_none_of_them_and_ties_with_them_are_told(tmp_path):
    """The control is first by far, then as good as the best method, then worse."""
    run = read_run(make_run(tmp_path, methods=("random_cam", "lift_cam", "grad_cam"), metrics=("ad", "insertion"),
                            step=2.0, spread=0.01))  # fmt: skip
    summary = summarise(run, replicates=50)
    assert summary.best.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert summary.sure[0, 1].tolist() == [1, 1] and not summary.tied.any()
    assert "Controls, never bold: Random-CAM." in " ".join(main_table(run, summary).notes)


@pytest.mark.parametrize("methods", [("lift_cam", "grad_cam"), ("random_cam",)])
def test_where_there_are_none_or_nothing_else(tmp_path, methods):
    run = read_run(make_run(tmp_path, methods=methods, metrics=("ad",), images=12))
    summary = summarise(run, replicates=50)
    assert summary.best.any() and "Controls" not in " ".join(main_table(run, summary).notes)
