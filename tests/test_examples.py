"""The examples: the explanation's term takes the shortcut away, and every cell of the notebooks runs."""

import importlib.util
import json
import pathlib

import jax
import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "explanation_loss.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("explanation_loss", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)  # hundreds of steps: running takes longer than compiling
    yield module
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.examples
def test_the_term_makes_the_network_look_at_the_bar(example):
    alone, guided = (example.train(weight, steps=200) for weight in (0.0, 1.0))
    assert alone["training"] > 0.98 and guided["training"] > 0.9
    assert guided["test"] > alone["test"] + 0.1
    assert guided["corner"] < 0.2 * alone["corner"]


def test_half_of_the_test_patches_lie(example):
    import numpy as np

    images, labels = example.pictures(np.random.default_rng(0), 400, telling=False)
    red = np.asarray(images[:, 0, -1, 0] > images[:, 0, -1, 2])
    assert 0.4 < (red == np.asarray(labels)).mean() < 0.6
    images, labels = example.pictures(np.random.default_rng(0), 400, telling=True)
    # The patch is drawn over the noise: its colour is exact.
    assert ((np.asarray(images[:, 0, -1, 0]) == 1.5) == np.asarray(labels)).all()


NOTEBOOKS = sorted(SCRIPT.parent.glob("*.ipynb"))


def cells(notebook: pathlib.Path) -> dict[int, str]:
    """The code of a notebook, by cell; the site makes what comes out of it."""
    read = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = {number: cell for number, cell in enumerate(read) if cell["cell_type"] == "code"}
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code.values())
    return {number: "".join(cell["source"]) for number, cell in code.items()}


def test_there_are_notebooks_whose_code_is_python():
    assert len(NOTEBOOKS) >= 3
    for notebook in NOTEBOOKS:
        for number, code in cells(notebook).items():
            compile(code, f"{notebook.name}, cell {number}", "exec")


@pytest.mark.examples
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook, tmp_path, monkeypatch):
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    space: dict = {"__name__": notebook.stem}
    for number, code in cells(notebook).items():
        exec(compile(code, f"{notebook.name}, cell {number}", "exec"), space)
    plt.close("all")
