"""`--model FILE.py:NAME`: a network out of the user's own Python on the command line, and one line for each mistake."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from evaluations import pictures
from networks import CLASSES, picture
from PIL import Image

import jaxcam
from jaxcam.cli import main, networks

CODE = """
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
import jaxcam
from beside import CLASSES  # what lies beside the file can be imported


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), strides=4, name="stem")(x))
        x = nn.relu(x + nn.Conv(6, (3, 3), name="inner")(x))
        return nn.Dense(4, name="out")(jaxcam.tag(x, "joined").mean((1, 2)))


rng = np.random.default_rng(0)
shapes = {"stem": (3, 3, 3, 6), "inner": (3, 3, 6, 6), "out": (6, 4)}
params = {k: {"kernel": rng.normal(size=s), "bias": 0.1 * rng.normal(size=s[-1])} for k, s in shapes.items()}
params = {k: {n: jnp.asarray(a, jnp.float32) for n, a in v.items()} for k, v in params.items()}
rules = jaxcam.Preprocessing(size=32, resize="squash")
network = jaxcam.wrap(Net(), {"params": params}, preprocessing=rules, classes=CLASSES, name="mine")
model = Net()


def made():
    return network


def failing():
    raise OSError("no weights\\nhere")


def other():
    return {"a": 1}


def needy(folder):
    return network


def unwrappable():
    return jaxcam.wrap(Net(), {"params": params}, preprocessing=rules, classes=["one"])
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a file of Python, a package with the same in it, and two photos; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [n for n in sys.modules if n.split(".")[0] in ("beside", "mypackage") or n.startswith("jaxcam_model_")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "beside.py").write_text(f"CLASSES = {CLASSES!r}\n")
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text("")
    (tmp_path / "mypackage" / "nets.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import json\nthere = {\n")
    (tmp_path / "raising.py").write_text("import json\n\njson.loads('{')\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('usage: leaving')\n")
    (tmp_path / "lacking.py").write_text("import no_such_package\n")
    for i, name in enumerate(("a.png", "b.png")):
        Image.fromarray(picture(40, 50, i)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("model", ["net.py:network", "net.py:made", "mypackage.nets:network", "./net.py:made"])
def test_explain_writes_what_the_python_api_gives(place, model, capsys):
    assert main(["explain", "a.png", "b.png", "--model", model, "--out", "out", "--json", "n.json", "--top", "2"]) == 0
    expected = jaxcam.explain(networks.from_python(model), ["a.png", "b.png"], targets=2)
    document = json.loads((place / "n.json").read_text())
    assert document["model"] == "mine" and [i["layer"] for i in document["images"]] == ["joined"] * 2
    for name, explanation in zip("ab", expected, strict=True):
        with np.load(place / "out" / f"{name}.npz") as arrays:
            np.testing.assert_allclose(arrays["coefficients"], [r.coefficients for r in explanation.results], rtol=1e-5)
        assert (place / "out" / f"{name}.png").is_file()
    assert "mine" in capsys.readouterr().out


def test_resuming_after_an_edit_of_the_file_begins_anew(place, capsys):
    words = ["explain", "a.png", "--model", "net.py:network", "--layer", "inner", "--out", "out", "--resume"]
    assert main(words) == 0
    with np.load("out/a.npz") as arrays:
        before = arrays["coefficients"]
    assert main(words) == 0 and "1 of 1 pictures were finished by an earlier run" in capsys.readouterr().out
    (place / "net.py").write_text(CODE.replace("x + nn.Conv(6", "2 * x + nn.Conv(6"))
    assert main(words) == 0 and "made with other settings" in capsys.readouterr().out
    with np.load("out/a.npz") as arrays:
        assert not np.allclose(arrays["coefficients"], before)


def test_evaluate_stops_goes_on_and_is_reported(place, capsys):
    pictures(place / "set", each=1, broken=False)
    words = ["evaluate", "set", "--model", "net.py:network", "--out", "run", "--metrics", "ic", "insertion", "form"]
    words += ["--batch-size", "2", "--steps", "3"]
    assert main(words) == 0 and "4 maps of 4 pictures" in capsys.readouterr().out
    assert main(words) == 0 and "finished before" in capsys.readouterr().out
    assert main(["report", "run"]) == 0 and pathlib.Path("run/report.html").stat().st_size > 10_000
    (place / "net.py").write_text(CODE.replace("nn.relu(x +", "nn.gelu(x +"))
    assert main(words) == 2 and "model.sha256 was" in capsys.readouterr().err


def test_models_lists_the_layers(place, capsys):
    assert main(["models", "net.py:network"]) == 0
    shown = capsys.readouterr().out
    assert "mine: a network of your own" in shown
    for layer in ("stem", "inner", "joined"):
        assert layer in shown
    assert "8 x 8 x 6" in shown and "default" in shown


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("nets.py:network", "nets.py: there is no such file"),
        ("net.py", "say what in the file the network is, as in --model net.py:network"),
        ("net.py:netwrok", "no network in net.py called 'netwrok'; did you mean network"),
        ("net.py:a.b", "what follows the colon must be a name in net.py"),
        ("net.py:rules", "net.py:rules is a Preprocessing, not what jaxcam.wrap returns"),
        ("net.py:model", "net.py:model is a Net, not what jaxcam.wrap returns"),
        ("net.py:Net", "net.py:Net returns a Net, not what jaxcam.wrap returns"),
        ("net.py:other", "net.py:other returns a dict, not what jaxcam.wrap returns"),
        ("net.py:needy", "net.py:needy is a function, not what jaxcam.wrap returns"),
        ("net.py:failing", "net.py:failing raises OSError: no weights here ("),
        ("net.py:unwrappable", "Net: 1 class names for 4 logits"),
        ("broken.py:network", "broken.py raises SyntaxError: '{' was never closed (broken.py, line 2)"),
        ("raising.py:network", "raising.py, line 3)"),
        ("leaving.py:network", "leaving.py raises SystemExit: usage: leaving ("),
        ("lacking.py:network", "lacking.py raises ModuleNotFoundError: No module named 'no_such_package'"),
        ("mypackage.net:network", "there is no module mypackage.net in the current folder"),
        ("yourpackage.nets:network", "there is no module yourpackage.nets in the current folder"),
        ("mypackage.nets:nothing", "no network in mypackage.nets called 'nothing'"),
    ],
)
def test_mistakes_are_told_in_one_line(place, capsys, model, why):
    for command in (["explain", "a.png"], ["evaluate", "set"]):
        if command[0] == "evaluate":
            pictures(place / "set", each=1, broken=False)
        assert main([*command, "--model", model, "--out", "out"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("jaxcam: error: ") and why in lines[0], lines
    assert not (place / "out").exists()


def test_weights_do_not_go_with_a_network_of_ones_own(place, capsys):
    assert main(["explain", "a.png", "--model", "net.py:network", "--weights", "w.pth"]) == 2
    assert "--weights is for networks of `jaxcam models`" in capsys.readouterr().err


def test_help_says_that_the_file_is_run(capsys):
    for command in ("explain", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "which runs that Python file" in " ".join(capsys.readouterr().out.split())


def test_another_process_goes_on_with_what_this_one_made(place):
    """Python does not look in the current folder there, as for an installed command, and its hashes are others."""
    words = ["explain", "a.png", "--model", "mypackage.nets:made", "--no-figure", "--resume"]
    assert main(words) == 0
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jaxcam", *words], capture_output=True, text=True, timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "7"}, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout and "1 of 1 pictures were finished by an earlier run" in done.stdout
