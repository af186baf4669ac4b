"""The public names: each is there, none is imported before its use, and type checkers see their signatures."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

import jaxcam

ROOT = pathlib.Path(__file__).parents[1]
#: What a user writes. `assert_type` fails on `Any` too; the lines with a mark hold one mistake each.
USER = """
from typing import assert_type

import jax
import jax.numpy as jnp

import jaxcam


def head(params: jax.Array, activations: jax.Array) -> jax.Array:
    return activations.mean((0, 1)) @ params


weights, activations = jnp.ones((3, 2)), jnp.ones((4, 4, 3))
result = jaxcam.lift_cam(weights, activations, head=head, target=1)
assert_type(result, jaxcam.CAM)
assert_type(result.map, jax.Array)
network = jaxcam.load("vgg16_slim")
assert_type(network, jaxcam.Network)
assert_type(jaxcam.explain(network, "photo.jpg", targets=2), jaxcam.Explanations)
assert_type(jaxcam.shap_cam(weights, activations, jax.random.key(0), head=head, target=jnp.argmax), jaxcam.CAM)
jaxcam.lift_cam(weights, activations, head=head, target=1, klass=1)  # wrong
jaxcam.load(3)  # wrong
"""


def run(*command: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, env=environment)


def by_mypy(file: pathlib.Path) -> list[tuple[int, str, str]]:
    """Line, severity and message of whatever is said about the file; the cache is that of `make lint`."""
    done = run("mypy", "--no-pretty", "--follow-imports=normal", str(file))
    said = re.findall(rf"^(?:.*/)?{file.name}:(\d+): (\w+): (.*)$", done.stdout, flags=re.MULTILINE)
    assert said, done.stdout + done.stderr
    return [(int(line), severity, message) for line, severity, message in said]


def by_pyright(file: pathlib.Path) -> list[tuple[int, str, str]]:
    settings = {"include": [file.name], "extraPaths": [str(ROOT)]}
    (file.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(file.parent))
    said = json.loads(done.stdout[done.stdout.index("{") :])["generalDiagnostics"]
    assert said, done.stdout + done.stderr
    return [(d["range"]["start"]["line"] + 1, d["severity"], d["message"]) for d in said]


def test_the_stub_has_the_public_names_and_each_is_there():
    assert {"load", "explain", "lift_cam", "CAM"} < set(jaxcam.__all__) == set(dir(jaxcam))
    for name in jaxcam.__all__:
        value = getattr(jaxcam, name)
        own = getattr(value, "__name__", name)
        # A function or class under its own name, or the module of a home.
        assert own == name or isinstance(value, types.ModuleType) and own.endswith(f".{name}")
    assert jaxcam.lift_cam is jaxcam.lift_cam
    with pytest.raises(AttributeError, match="module 'jaxcam' has no attribute 'lift_kam'"):
        _ = jaxcam.lift_kam


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, jaxcam; dir(jaxcam); jaxcam.JaxcamError; print({'jax', 'numpy', 'flax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("checker", [by_mypy, by_pyright], ids=["mypy", "pyright"])
def test_a_type_checker_sees_the_signatures(checker, tmp_path):
    pytest.importorskip(checker.__name__.removeprefix("by_"))
    public = [name for name in jaxcam.__all__ if name != "__version__"]
    text = USER + "".join(f"reveal_type(jaxcam.{name})\n" for name in public)
    file = tmp_path / "user_of_jaxcam.py"
    file.write_text(text)
    lines = text.splitlines()
    said = checker(file)
    wrong = [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]
    assert sorted({line for line, severity, _ in said if severity == "error"}) == wrong, said
    found = [message for line, _, message in said if line in wrong]
    assert any("klass" in m for m in found) and any("PathLike" in m for m in found), found
    revealed = {lines[line - 1]: message for line, _, message in said if lines[line - 1].startswith("reveal_type")}
    assert len(revealed) == len(public)
    assert not [m for m in revealed.values() if re.search(r'"(Any|Unknown)"', m)], revealed
