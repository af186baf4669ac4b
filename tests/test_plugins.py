"""Plug-ins: what a file or an installed package adds to the registries is known to every command by its entry alone."""

from __future__ import annotations

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest
from evaluations import pictures, tiny

import jaxcam
from jaxcam.cli import main, plugins
from jaxcam.evaluate import read_run
from jaxcam.methods.registry import METHODS
from jaxcam.methods.targets import TARGETS
from jaxcam.metrics.registry import METRICS
from jaxcam.zoo.store import save_network

CODE = '''
import jax
import jax.numpy as jnp
import jaxcam
from jaxcam.methods.registry import METHODS, Method
from jaxcam.methods.result import cam_of_contributions, check_activations, scalar_score
from jaxcam.methods.targets import TARGETS, TargetForm
from jaxcam.metrics import METRICS, Metric


def toy_cam(params, activations, *, head, target):
    """`relu(sum_k g_k * A_k)` by position."""
    check_activations(activations)
    logit, g = jax.value_and_grad(scalar_score(head, params, target))(activations)
    return cam_of_contributions(g * activations, logit=logit)


METHODS["toy_cam"] = Method(
    toy_cam, "Toy-CAM", cost="1 forward + 1 backward", map_from="positions", needs=("gradient",)
)
METRICS["shown"] = Metric(
    "shown", "Share of the picture that is shown", "share", "lower", lambda heatmap: jnp.mean(heatmap > 0.5),
    ("heatmap",), scale=100.0, unit="%",
)


def margin(logits, a, *, of=1.0):
    return logits[a] - of * jnp.max(jnp.where(jnp.arange(len(logits)) == a, -jnp.inf, logits))


TARGETS["margin"] = TargetForm(margin, "{} against its strongest rival", "a class against the strongest other")


def twice(logits):
    return 2 * logits[1]
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a plug-in, a network and pictures; the current one. The registries are as before at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test, in another folder
    (tmp_path / "mine.py").write_text(CODE)
    kept = [(registry, dict(registry)) for registry in (METHODS, METRICS, TARGETS)]
    yield tmp_path
    for registry, before in kept:
        registry.clear()
        registry.update(before)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network in a folder, and pictures of its classes."""
    folder = tmp_path_factory.mktemp("network")
    save_network(folder / "net", tiny())
    return folder / "net", pictures(folder / "set", each=2, broken=False)


def test_explain_takes_methods_and_targets_of_a_file(place, network, capsys):
    net, data = network
    photo = next(data.glob("*/*.png"))
    words = ["explain", str(photo), "--model", str(net), "--plugin", "mine.py", "--no-figure", "--json", "out.json"]
    asked = ["margin:0", "margin:1,of=0.5", "mine.py:twice", "predicted"]
    assert main([*words, "--method", "toy-cam", "lift_cam", "--target", *asked]) == 0
    capsys.readouterr()
    [record] = json.loads(pathlib.Path("out.json").read_text())["images"]
    names = tiny().classes
    found = {(r["method"], r["class_name"]): r for r in record["results"]}
    rival = f"{names[0]} against its strongest rival"
    assert len(found) == 8 and ("toy_cam", rival) in found and ("toy_cam", "twice") in found
    [plain] = jaxcam.explain(tiny(), photo, methods=["lift_cam"], targets=list(range(len(names))))
    z = plain.logits.astype(np.float64)
    np.testing.assert_allclose(found["lift_cam", rival]["logit"], z[0] - np.delete(z, 0).max(), rtol=1e-4)
    np.testing.assert_allclose(found["lift_cam", "twice"]["logit"], 2 * z[1], rtol=1e-4)
    assert abs(found["lift_cam", rival]["completeness_gap"]) < 1e-4
    assert ("lift_cam", names[int(z.argmax())]) in found


def test_lists_show_what_a_plugin_adds(place, capsys):
    names = {"methods": "toy_cam", "metrics": "Share of the picture that is shown", "targets": "margin"}
    for command, name in names.items():
        assert main([command]) == 0
        assert name not in capsys.readouterr().out
    for command, name in names.items():
        assert main([command, "--plugin", "mine.py"]) == 0
        assert name in capsys.readouterr().out
    assert main(["methods", "toy_cam", "--plugin", "mine.py"]) == 0
    assert "Toy-CAM" in capsys.readouterr().out


def test_a_run_with_a_plugin_goes_on_with_the_same_one_alone(place, network, capsys, fails):
    net, data = network
    words = ["evaluate", str(data), "--model", str(net), "--out", "run", "--methods", "toy_cam", "lift_cam",
             "--metrics", "shown", "ic", "--targets", "margin:label", "--batch-size", "4"]  # fmt: skip
    assert main([*words, "--plugin", "mine.py"]) == 0
    out = capsys.readouterr().out
    assert "Toy-CAM" in out and "share (%)" in out
    run = read_run(place / "run")
    settings = run.manifest["settings"]
    assert sorted(settings["code"]) == ["margin:label", "shown", "toy_cam"] and settings["targets"] == "margin:label"
    assert run.manifest["about"]["plugins"] == [str(place / "mine.py")]
    assert main([*words, "--plugin", "mine.py"]) == 0  # finished before
    (place / "mine.py").write_text(CODE + "\n# changed\n")
    capsys.readouterr()
    assert "code.toy_cam was" in fails(*words, "--plugin", "mine.py")
    for registry in (METHODS, METRICS, TARGETS):
        for name in ("toy_cam", "shown", "margin"):
            registry.pop(name, None)
    told = fails("report", "run", "--format", "csv")
    assert "no metric called 'shown'" in told and f"--plugin {place / 'mine.py'}" in told
    (place / "mine.py").write_text(CODE + "\n# run again, as another process would\n")
    assert main(["report", "run", "--format", "csv", "--plugin", "mine.py"]) == 0


def test_the_file_of_a_network_may_add_a_method(place, network, capsys):
    net, data = network
    (place / "net.py").write_text(f"from mine import *\nnetwork = jaxcam.load({str(net)!r})\n")
    photo = next(data.glob("*/*.png"))
    words = ["explain", str(photo), "--model", "net.py:network", "--method", "toy_cam", "--no-figure", "--quiet"]
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("nothing.py", "nothing.py: there is no such file"),
        ("not a module", "name a Python file, FILE.py, or a module"),
        ("no.such.module", "there is no module no.such.module"),
        ("bad.py", "bad.py raises ZeroDivisionError: division by zero"),
    ],
)
def test_mistakes_are_one_line(place, fails, named, why):
    (place / "bad.py").write_text("x = 1 / 0\n")
    assert why in fails("methods", "--plugin", named)


def _install(folder, name, code):
    """What pip leaves of a package with an entry point."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {name}\n")


def test_installed_plugins_are_found(place, monkeypatch, capsys, fails):
    site = place / "site"
    site.mkdir()
    _install(site, "cams_of_mine", CODE)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    assert main(["methods", "toy_cam"]) == 0
    assert "Toy-CAM" in capsys.readouterr().out
    _install(site, "broken_cams", "import there_is_none\n")
    told = fails("methods")
    assert "the plug-in broken_cams of broken_cams raises ModuleNotFoundError" in told and "uninstall" in told
    for name in ("cams_of_mine", "broken_cams"):
        sys.modules.pop(name, None)


def test_a_rule_of_a_plugin_is_not_taken_from_programs_that_were_kept(place, network):
    """A program that was kept before a plug-in gave an operation another rule would explain by the old one."""
    from jaxcam.cli import networks

    class Options:
        model = None

    seen = []
    original = networks.keep_programs
    try:
        networks.keep_programs = lambda ours: seen.append(ours)
        networks.keep(Options)
        plugins.load(["mine.py"])
        networks.keep(Options)
    finally:
        networks.keep_programs = original
    assert seen == [True, False]
