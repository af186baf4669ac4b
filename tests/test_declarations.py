"""What `METHODS` declares is what the methods do, what the guide says, and all that the library asks for."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pathlib
import re
from typing import Any, NamedTuple

import heads
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from evaluations import pictures
from PIL import Image
from reference import seeded

import jaxcam
from jaxcam.cli import main
from jaxcam.deferred import outline
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.explanation.explain import explain_each
from jaxcam.explanation.resume import Digests, MapsInFlight
from jaxcam.methods import DEFAULT_METHOD
from jaxcam.methods.heads import DefinedFor
from jaxcam.methods.registry import METHODS, Method, request
from jaxcam.methods.result import CAM, Inputs, cam_of_coefficients, cam_of_contributions
from jaxcam.methods.stepping import Data, Stepped
from jaxcam.methods.targets import TARGETS
from jaxcam.shapley.stepping import run
from jaxcam.zoo.store import save_network

ROOT = pathlib.Path(jaxcam.__file__).parent
A = jnp.asarray(seeded.activations(7, heads.SHAPE), jnp.float32)
FEW = {
    "shap_cam": {"num_permutations": 100, "estimator": "adjusted"},
    "kernel_shap_cam": {"num_samples": 20},
    "lime_cam": {"num_samples": 20},
}


def test_every_method_is_public_by_its_name_and_the_default_is_one():
    assert DEFAULT_METHOD in METHODS
    for name, info in METHODS.items():
        assert getattr(jaxcam, name) is info.function and info.function.__name__ == name
        assert info.cost and info.promise and info.paper
        assert info.function.__doc__.startswith(f"{info.title}: ")


def test_what_is_read_of_a_function_without_importing_it_is_what_it_says():
    for info in METHODS.values():
        read = outline("jaxcam", f"{info.function.__module__.removeprefix('jaxcam.')}.{info.function.__name__}")
        assert read is not info.function and read.__doc__ == info.function.__doc__
        assert inspect.signature(read) == inspect.signature(info.function)


@jax.custom_jvp
def opaque(x):
    """Has no derivative."""
    return x * jnp.sin(x).sum()


@opaque.defjvp
def _(primals, tangents):
    raise ZeroDivisionError("a derivative was asked for")


@pytest.mark.parametrize("name", METHODS)
def test_who_needs_a_gradient_is_who_takes_one(name):
    info = METHODS[name]

    def head(params, a):
        return opaque(jnp.tanh(a.reshape(-1) @ params["w1"] + params["b1"])) @ params["w2"]

    if networks.needs_attention(info):

        def head(params, a):  # noqa: F811
            tokens = a.reshape(-1, a.shape[-1])
            return opaque(jax.nn.softmax(tokens @ tokens.T) @ tokens).mean(0)[:2]

    params = {k: jnp.asarray(v, jnp.float32) for k, v in heads.HEADS["gelu_tanh"].params.items()}
    references = jnp.stack([A, 0.5 * A])
    inputs = Inputs(params, A, head, 1, jax.random.key(0), references, A, head, params)

    def call(arrays):
        return info.call(arrays._replace(head=head, network=head, target=1), **FEW.get(name, {}))

    arrays = inputs._replace(head=None, network=None, target=None)
    if "gradient" in info.needs:
        with pytest.raises(ZeroDivisionError):
            jax.eval_shape(call, arrays)
    elif "rules" not in info.needs:  # those may ask for the derivative where nothing changes
        assert isinstance(jax.eval_shape(call, arrays), CAM)


def test_what_a_method_needs_must_be_there():
    bare = Inputs(None, A, lambda p, a: a.mean((0, 1)), 0)
    for name, info in METHODS.items():
        if set(info.needs) - {"gradient", "rules"}:
            with pytest.raises(JaxcamError, match=f"{re.escape(info.title)} needs"):
                info.call(bare)
        else:
            found = jax.eval_shape(lambda a, info=info: info.call(bare._replace(activations=a)), A)
            assert found.coefficients.shape == A.shape[-1:], name
    with pytest.raises(JaxcamError, match="no need of a method called 'keys'; did you mean key"):
        Method(lambda: None, "Odd", needs=("keys",))


def test_the_guides_table_says_what_is_declared():
    text = (ROOT.parent / "docs" / "choosing-a-method.md").read_text()
    rows = {
        m[1]: [c.strip() for c in m[2].split("|")] for m in re.finditer(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    }
    assert set(rows) == set(METHODS)
    for name, (_, where, total, _, alike, linear) in rows.items():
        info = METHODS[name]
        assert where == info.map_from, name
        assert (total == "**always**") == (info.complete == "zero"), name
        assert total.startswith("to F(A) - mean") == (info.complete == "references"), name
        assert (alike in ("yes", "as written")) == info.symmetric, name
        assert (linear.strip("*").startswith(("yes", "with the zero"))) == info.exact_on_linear, name


def test_the_guide_to_targets_has_every_kind():
    text = (ROOT.parent / "docs" / "targets.md").read_text()
    rows = {m[1]: m[2].split("|") for m in re.finditer(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)}
    assert set(rows) == set(TARGETS)
    for name, (_, python, command) in rows.items():
        assert f"jaxcam.targets.{name}(" in python and f"`{name}:" in command


def test_nothing_outside_the_methods_asks_for_one_by_name():
    """Data may name methods: where they live, and the paper's published figures."""
    data = {ROOT / "__init__.py", ROOT / "evaluate" / "paper_figures.py"}
    name = re.compile("[\"'](" + "|".join(METHODS) + ")[\"']")
    for file in sorted(ROOT.rglob("*.py")):
        if file not in data and file.parent != ROOT / "methods":
            assert not name.search(file.read_text()), file


@pytest.fixture
def added(monkeypatch):
    """A method that is only an entry: by position, random, with an option, and for some heads only."""

    def noisy_cam(params, activations, key, *, head, target, strength: float = 0.5):
        logit, g = jax.value_and_grad(lambda a: head(params, a)[target])(activations)
        noise = 1 + strength * jax.random.uniform(key, activations.shape)
        return cam_of_contributions(g * activations * noise, logit=logit, bent=jnp.zeros(()))

    entry = Method(
        noisy_cam, "Noisy-CAM", "1 forward", "nothing at all", "nobody, 2026", map_from="positions",
        needs=("gradient", "key"), heads=DefinedFor("heads of ours", "bent", 0.5, "another"), batched=False,
    )  # fmt: skip
    monkeypatch.setitem(METHODS, "noisy_cam", entry)
    return entry


def test_an_entry_is_all_that_a_method_needs(added, tmp_path, capsys, monkeypatch):
    network = networks.network(networks.VGG, size=32)
    save_network(tmp_path / "net", network)
    Image.fromarray(networks.picture(40, 50, 1)).save(tmp_path / "a.png")
    assert request("noisy:strength=1").label == "noisy_cam:strength=1.0"
    # explain
    plain, other = (jaxcam.explain(network, tmp_path / "a.png", methods=m)[0] for m in ("noisy", "noisy:strength=0.25"))
    assert [r.method for r in plain.results] == ["noisy_cam"] and plain.results[0].map.shape == (2, 2)
    assert (plain.results[0].coefficients != other.results[0].coefficients).any()
    with monkeypatch.context() as few:  # of which "all" is made here
        for name in METHODS.keys() - {"noisy_cam", "grad_cam"}:
            few.delitem(METHODS, name)
        (everything,) = jaxcam.explain(network, tmp_path / "a.png", methods="all")
    assert {r.method for r in everything.results} == {"noisy_cam", "grad_cam"}
    # the command line
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in (" noisy_cam ", added.title, added.paper, added.promise))
    common = ["--model", str(tmp_path / "net"), "--out"]
    out = tmp_path / "out"
    command = [
        "explain",
        str(tmp_path / "a.png"),
        *common,
        str(out),
        "--method",
        "noisy",
        "--json",
        str(out / "n.json"),
    ]
    out.mkdir()
    assert main(command) == 0
    assert "noisy_cam" in capsys.readouterr().out and (out / "a.png").is_file()
    (told,) = json.loads((out / "n.json").read_text())["images"][0]["results"]
    np.testing.assert_allclose(told["coefficients"], plain.results[0].coefficients, rtol=1e-5)
    # evaluation
    data = pictures(tmp_path / "data", each=1, broken=False)
    run = evaluate(network, data, methods="noisy", metrics=["ad"], out=tmp_path / "run", batch_size=4)
    assert run.methods == ("noisy_cam",) and np.isfinite(run.columns["ad"]).all()
    asked = ["--methods", "noisy", "--metrics", "ad", "--batch-size", "4"]
    assert main(["evaluate", str(data), *common, str(tmp_path / "cli"), *asked]) == 0
    about = json.loads((tmp_path / "cli" / "manifest.json").read_text())["method_info"]["noisy_cam"]
    assert (about["title"], about["paper"]) == (added.title, added.paper)


def test_a_head_that_the_entry_refuses_is_refused(added, monkeypatch, tmp_path):
    strict = Method(**{**vars(added), "heads": added.heads._replace(at_most=-1.0)})
    monkeypatch.setitem(METHODS, "noisy_cam", strict)
    network = networks.network(networks.VGG, size=32)
    with pytest.raises(JaxcamError, match="Noisy-CAM is defined for heads of ours, .*; use another"):
        jaxcam.explain(network, networks.picture(40, 50, 1), methods="noisy")


# --- a method of many steps --------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part of a state."""

    sums: Any
    squares: Any


class Walked(NamedTuple):
    """The state of `Walk`."""

    part: Part
    steps: Any


@dataclasses.dataclass(frozen=True)
class Walk:
    """Adds up the activations in so many steps."""

    count: int
    states = (Walked,)

    def start(self, problem, sharding=None):
        nothing = jnp.zeros(problem.players)
        return Walked(Part(nothing, nothing), jnp.zeros((), jnp.int32))

    def advance(self, problem, state, sharding=None):
        row = problem.activations.mean((0, 1)) / (1 + state.steps)
        return Walked(Part(state.part.sums + row, state.part.squares + row**2), state.steps + 1)

    def done(self, state):
        return state.steps >= self.count

    def share(self, state):
        return float(state.steps) / self.count

    def check(self, data, state, resumed):
        assert np.isfinite(state.part.sums).all()


def walked_cam(params, activations, *, head, target, steps: int = 5):
    """The sum in one go."""
    alpha = sum(activations.mean((0, 1)) / (1 + i) for i in range(steps))
    return cam_of_coefficients(alpha, activations, logit=head(params, activations)[target])


def stepped_walked_cam(params, activations, *, head, target, steps: int = 5, devices=1):
    return Stepped(Walk(steps), _itself, _finish)


def _itself(data):
    return data


def _finish(steps, state, activations):
    return cam_of_coefficients(state.part.sums, activations, logit=jnp.zeros(()))


class Kept:
    """States in memory; an interruption after so many."""

    def __init__(self, most):
        self.states, self.most, self.loaded = {}, most, []

    def load(self, source, label, target, kinds):
        assert kinds == (Walked,)
        self.loaded.append(self.states.get((source, label, target)))
        return self.loaded[-1]

    def save(self, source, label, target, state, last):
        self.states[source, label, target] = state
        self.most -= 1
        if not self.most:
            raise KeyboardInterrupt


def test_a_declared_division_into_steps_brings_progress_states_and_resumption(monkeypatch, tmp_path):
    entry = Method(walked_cam, "Walked-CAM", by_class=False, batched=False, steps=stepped_walked_cam)
    monkeypatch.setitem(METHODS, "walked_cam", entry)
    network = networks.network(networks.VGG, size=32)
    image, parts = [("a.png", networks.picture(40, 50, 1))], []

    def explain(**more):
        made = explain_each(network, image, methods="walked:steps=6", targets=2, **more)
        return [r for e in made for r in e.results]

    whole = explain(done=lambda source, method, maps: parts.append(maps))
    assert len(parts) == 2 * 7 and sum(parts) == pytest.approx(2) and max(parts) < 0.2
    features, head = network.split()
    a = jax.jit(features)(network.params, network.preprocess(image[0][1]))
    np.testing.assert_allclose(
        whole[0].coefficients, walked_cam(network.params, a, head=head, target=0, steps=6)[0], 1e-4
    )
    kept = Kept(10)  # in the middle of the second map
    with pytest.raises(KeyboardInterrupt):
        explain(states=kept)
    assert sorted(int(s.steps) for s in kept.states.values()) == [2, 6]
    for one, again in zip(whole, explain(states=kept), strict=True):
        np.testing.assert_array_equal(one.coefficients, again.coefficients)
    assert [None if s is None else int(s.steps) for s in kept.loaded] == [None, None, 6, 2]
    # In a file a state of any kind survives, and one of another kind is none.
    state = next(iter(kept.states.values()))
    unfinished = MapsInFlight(tmp_path, Digests("settings"), ["a.png"])
    unfinished.save("a.png", "walked_cam", 1, state, last=True)
    back = unfinished.load("a.png", "walked_cam", 1, (Walked,))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    assert unfinished.load("a.png", "walked_cam", 1, (Part,)) is None
    unfinished.close(remove=True)


def test_what_is_driven_from_the_host_is_what_runs_in_a_program():
    steps, data = Walk(4), Inputs(None, A, None, 0)
    *_, last = Stepped(steps, _itself, _finish).states(data)
    inside = jax.jit(lambda a: run(steps, Data(None, None, a, None, None, None)))(A)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), last, inside)


# --- why a map is empty ----------------------------------------------------------------------------------------------


def test_why_a_map_is_empty_is_told_of_the_map_that_was_made():
    # By position there is evidence although every channel's sum is negative: no coefficient says so.
    c = np.stack([np.asarray([[5.0, -2.0], [-2.0, -2.0]]), np.full((2, 2), -0.5)], -1)
    cam = cam_of_contributions(jnp.asarray(c), logit=jnp.zeros(()))
    assert (cam.coefficients < 0).all() and cam.map[0, 0] == 4.5
    assert jaxcam.why_empty(cam.map, cam.coefficients, np.ones((2, 2, 2))) is None
    # And none although some channel's sum is positive.
    c = np.zeros((2, 2, 2))
    c[..., 0], c[..., 1] = 1.0, -2.0
    cam = cam_of_contributions(jnp.asarray(c), logit=jnp.zeros(()))
    assert "outweigh positive ones at every position" in jaxcam.why_empty(cam.map, cam.coefficients, np.ones((2, 2, 2)))


def test_every_cause_for_both_kinds_of_maps():
    a, zeros = np.ones((2, 2, 3)), np.zeros((2, 2))
    why = jaxcam.why_empty
    tiny = np.full((2, 2, 2), 1e-25, np.float32)
    assert "below what float32 can hold" in why(np.zeros((2, 2)), np.asarray([1e-25, 0], np.float32), tiny)
    assert why(np.eye(2), np.ones(3), a) is None
    assert "dead layer" in why(zeros, np.ones(3), 0 * a)
    assert "every coefficient is zero" in why(zeros, np.zeros(3), a)
    assert "non-positive coefficient" in why(zeros, -np.ones(3), a)
    assert "outweigh" in why(zeros, np.array([1, -2, 0]), a)
    assert "constant map" in why(np.full((2, 2), 7.0, np.float32) * np.float32(1 + 1e-7), np.ones(3), a)
    assert "map holds NaN" in why(np.full((2, 2), np.nan), np.ones(3), a)
    assert "coefficients hold NaN" in why(zeros, np.array([1, np.inf, 0]), a)
    assert "activations hold NaN" in why(zeros, np.ones(3), a * np.nan)
    # Coefficients that cancel within each channel say nothing of a map by position.
    assert why(np.eye(2), np.zeros(3), a) is None
