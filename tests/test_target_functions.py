"""Functions of the logits as targets of `explain`: every method, their names, and where these go."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluations import pictures
from wrapped import NAMES, PICTURES, RULES, made, same, wrapped

import jaxcam
from jaxcam.cli.table import rows_of
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.explanation import compiled
from jaxcam.explanation.resume import read_explanation
from jaxcam.explanation.targets import known
from jaxcam.methods.registry import METHODS, Method, request
from jaxcam.methods.targets import TARGETS, TargetForm


def difference(logits):
    return logits[0] - logits[1]


@pytest.fixture(scope="module")
def network():
    return wrapped(made("function_tagged"), name="mine")


#: Cheap options of the methods that sample.
FEW = {"shap_cam": ":num_permutations=4", "rise_cam": ":num_samples=20"}


def test_methods_of_each_kind_take_a_function(network):
    """A linear function of the logits is a class of a network whose last layer has its weights."""
    others = {str(m.of_logits): n for n, m in METHODS.items() if m.heads is None and m.of_logits}.values()
    # With other options there, with references, a key, steps, the image; test_transforms.py has all.
    asked = [n + FEW.get(n, "") for n in dict.fromkeys(("lift_cam", "deep_shap_cam", "shap_cam", "score_cam", *others))]
    (found,) = jaxcam.explain(network, PICTURES[0], methods=asked, targets=[difference, 2], seed=3)
    assert [r.class_name for r in found.results[:: len(asked)]] == ["difference", NAMES[2]]
    w3 = network.params["w3"]
    turned = network.with_params({**network.params, "w3": w3.at[:, 0].set(w3[:, 0] - w3[:, 1])})
    plain = [m for m in asked if "key" not in METHODS[m.partition(":")[0]].needs]
    options = [request(m).with_defaults(request(m).info.of_logits or ()).label for m in plain]
    (by_class,) = jaxcam.explain(turned, PICTURES[0], methods=options, targets=[0])
    for method, other in zip(plain, by_class.results, strict=True):
        result = found[method, "difference"]
        assert result.target is None and np.isnan(result.probability) and result.method == method
        np.testing.assert_allclose(result.logit, found.logits[0] - found.logits[1], rtol=1e-5)
        same(result.coefficients, other.coefficients)
        same(result.map, other.map)
        np.testing.assert_allclose(result.completeness_gap, other.completeness_gap, atol=1e-4)
    for method in asked:
        info, result = METHODS[method.partition(":")[0]], found[method, "difference"]
        assert np.isfinite(result.map).all() and np.abs(result.coefficients).sum() > 0
        if info.complete == "zero":
            assert abs(result.completeness_gap) < 1e-3
    (alone,) = jaxcam.explain(network, PICTURES[0], methods=asked, targets=[2], seed=3)
    for method in asked:  # classes beside functions are what they are alone
        same(found[method, 2].map, alone[method, 2].map)


def test_names_in_json_figures_files_and_tables(network, tmp_path):
    targets = [lambda z: z[0], lambda z: z[1], difference, NAMES[3], _named(NAMES[3])]
    both = jaxcam.explain(network, PICTURES[:2], methods=["grad_cam"], targets=targets)
    names = [r.class_name for r in both[0].results]
    assert names == ["lambda#1", "lambda#2", "difference", NAMES[3], f"{NAMES[3]}()"]
    (plain,) = jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=[0])
    same(both[0]["grad_cam", "lambda#1"].map, plain.results[0].map)
    told = json.loads(json.dumps(both[0].to_dict(), allow_nan=False))["results"]
    assert [t["class_name"] for t in told] == names and told[2]["target"] is None and told[2]["probability"] is None
    assert told[3]["target"] == 3
    figure = jaxcam.plot(both[0], tmp_path / "figure.png")
    titles = [axes.get_title() for axes in figure.axes]
    assert f"difference, {both[0].results[2].logit:.4g}" in titles and len(titles) == 11
    both[0].save(tmp_path / "e.npz")
    again = read_explanation(tmp_path / "e.npz", both[0].image, network)
    assert [(r.target, r.class_name) for r in again.results] == [(r.target, r.class_name) for r in both[0].results]
    rows = rows_of(both[0])
    assert rows[2][1:3] == ("difference", "") and rows[3][2].endswith("%")


def _named(name):
    def function(logits):
        return logits.sum()

    function.__name__ = name
    return function


def test_one_function_and_lists_by_picture(network):
    one = jaxcam.explain(network, PICTURES[:2], methods=["lift_cam"], targets=difference)
    assert [r.class_name for e in one for r in e.results] == ["difference"] * 2
    own = jaxcam.explain(network, PICTURES[:2], methods=["lift_cam"], targets=[[0], [difference, 1]])
    assert [[r.class_name for r in e.results] for e in own] == [[NAMES[0]], ["difference", NAMES[1]]]
    same(own[1].results[0].map, one[1].results[0].map)


def test_a_function_is_traced_once_to_check_it_and_once_for_good(network):
    traces = []

    def counted(logits):
        traces.append(isinstance(logits, jax.core.Tracer))
        return logits[2]

    for _ in range(2):
        jaxcam.explain(network, PICTURES[:2], methods=["grad_cam"], targets=[counted], batch_size=2)
    assert sum(traces) == 2


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda z, y: z[0], "raises TypeError: .* missing 1 required positional argument"),
        (lambda z: z[0] if z[0] > z[1] else z[1], "raises TracerBoolConversionError: .*jnp.where in the place of `if`"),
        (lambda z: float(z[0]), "raises ConcretizationTypeError"),
        (lambda z: z["logits"], "raises "),
        (lambda z: nothing, "raises NameError: name 'nothing' is not defined"),  # noqa: F821
        (lambda z: z[40], "asks for a class that is none: IndexError: index 40 is out of bounds"),
        (lambda z: z[-40], "asks for a class that is none"),
    ],
)
def test_a_function_that_is_wrong_is_named(network, wrong, why):
    with pytest.raises(JaxcamError, match=f"^the target lambda {why}"):
        jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=[wrong])


def test_a_function_that_numpy_cannot_run_is_right(network):
    own = lambda z: z.at[0].set(0.0)[1]  # noqa: E731
    (explanation,) = jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=[own, 1])
    first, second = explanation.results
    np.testing.assert_array_equal(first.map, second.map)


def test_what_cannot_be_a_target(network, monkeypatch):
    by_class = Method(METHODS["grad_cam"].function, "By class", of_logits=None)
    monkeypatch.setitem(METHODS, "by_class", by_class)
    with pytest.raises(JaxcamError, match="^By class explains classes, and 'difference' is a function of the logits$"):
        jaxcam.explain(network, PICTURES[0], methods=["by_class"], targets=[difference])
    assert len(jaxcam.explain(network, PICTURES[0], methods=["by_class"], targets=[0])) == 1
    with pytest.raises(JaxcamError, match="a target function must return a scalar, not shape"):
        jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=[lambda z: z])


def test_cam_of_a_function_on_the_head_that_it_is_for():
    def net(params, x):
        return jaxcam.tag(jax.nn.relu(x @ params["w"]), "map").mean((0, 1)) @ params["out"]

    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 6)).astype("f4"), "out": rng.normal(size=(6, 3)).astype("f4")}
    network = jaxcam.wrap(net, params, preprocessing=RULES, classes=list("abc"))
    (found,) = jaxcam.explain(network, PICTURES[0], methods=["cam"], targets=[difference])
    same(found.results[0].coefficients, (params["out"][:, 0] - params["out"][:, 1]))
    with pytest.raises(JaxcamError, match="CAM is defined for"):
        jaxcam.explain(network, PICTURES[0], methods=["cam"], targets=[lambda z: jax.nn.softmax(z)[0]])


# --- those with a name of the library ------------------------------------------------------------------------------

Z = np.random.default_rng(0).normal(size=5)
#: A target of indices, how it is written, and its value.
MADE = {
    "2 - 4": (jaxcam.targets.difference(2, 4), Z[2] - Z[4]),
    "0 + 3 + 1": (jaxcam.targets.total([0, 3, 1]), Z[0] + Z[3] + Z[1]),
    "1": (jaxcam.targets.total([1]), Z[1]),
    "2 against the rest": (jaxcam.targets.against_rest(2), np.log(np.exp(Z[2]) / (np.exp(Z).sum() - np.exp(Z[2])))),
    "not 3": (jaxcam.targets.not_class(3), -Z[3]),
    "0 - 0.5 x mean of 1, 4": (jaxcam.targets.finer(0, [1, 4], 0.5), Z[0] - 0.5 * (Z[1] + Z[4]) / 2),
}


@pytest.mark.parametrize("written", MADE)
def test_values_of_the_named_targets(written):
    target, value = MADE[written]
    assert str(target) == written
    np.testing.assert_allclose(target(jax.numpy.asarray(Z)), value, rtol=1e-5)


def test_equal_targets_are_compiled_once_and_take_names_in_explain(network):
    a, b = NAMES[0], NAMES[3]
    asked = [jaxcam.targets.difference(a, b), jaxcam.targets.difference(0, 3), f"{a} - {b}", lambda z: z[0] - z[3]]
    (found,) = jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=asked)
    assert [r.class_name for r in found.results] == [f"{a} - {b}", "lambda"]  # three are one
    same(found.results[0].map, found.results[1].map)
    np.testing.assert_allclose(found.results[0].logit, found.logits[0] - found.logits[3], rtol=1e-5)
    before = compiled.maps.cache_info().misses
    (again,) = jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=jaxcam.targets.difference(a, b))
    assert compiled.maps.cache_info().misses == before
    same(again.results[0].map, found.results[0].map)
    others = [jaxcam.targets.total([a, b]), jaxcam.targets.against_rest(a), jaxcam.targets.not_class(b),
              jaxcam.targets.finer(a, [b, 1])]  # fmt: skip
    (found,) = jaxcam.explain(network, PICTURES[0], methods=["grad_cam", "lift_cam"], targets=others)
    assert [r.class_name for r in found.results[::2]] == [
        f"{a} + {b}", f"{a} against the rest", f"not {b}", f"{a} - 0.6 x mean of {b}, {NAMES[1]}"
    ]  # fmt: skip
    assert all(abs(r.completeness_gap) < 1e-4 for r in found.results[1::2])


class Named:
    """As much of a network as the names of classes."""

    def __init__(self, *classes):
        self.classes, self.name = classes, "named"

    class_index = jaxcam.Network.class_index


def test_text_is_a_difference_where_it_is_no_class():
    network = Named("black - white", "black", "white", "black-footed ferret")
    assert known(network, "black - white") == 0 and known(network, "Black-footed Ferret") == 3
    assert known(network, "black-footed ferret - white").classes == (3, 2)
    assert known(network, "3 - 0").classes == (3, 0)
    assert str(known(network, "black - white - black")) == "black - white - black"
    assert known(network, "black - white - black").classes == (0, 1)
    assert known(network, jaxcam.targets.not_class("white")).classes == (2,)
    for text, why in (("black-white footed", "black-white footed"), ("blck - white", "did you mean black"),
                      ("white - 7", "no class 7"), ("a - b - c", "a - b - c")):  # fmt: skip
        with pytest.raises(JaxcamError, match=why):
            known(network, text)
    with pytest.raises(JaxcamError, match="in 2 ways; use indices"):
        known(Named("a", "b - c", "a - b", "c"), "a - b - c")


def test_text_names_every_kind_of_target():
    """A kind with its classes, which may hold commas and stand in several pieces, and its numbers, in any place."""
    network = Named("tench, fish", "cat", "golf ball", "fish", "tench")
    for text, form, classes, numbers in (
        ("difference:cat,golf ball", "difference", (1, 2), {}),
        ("Against-Rest:cat", "against_rest", (1,), {}),
        ("not_class: golf-ball", "not_class", (2,), {}),
        ("total:cat,2,fish", "total", (1, 2, 3), {}),
        ("finer:cat,strength=0.5,golf ball,fish", "finer", (1, 2, 3), {"strength": 0.5}),
        ("not_class:tench, fish", "not_class", (0,), {}),  # of one class there is but one way
        ("finer:predicted,rival,rival", "finer", ("predicted", "rival", "rival"), {"strength": 0.6}),
        ("predicted - rival", "difference", ("predicted", "rival"), {}),
    ):
        target = known(network, text)
        assert target.form is TARGETS[form] and target.classes == classes and dict(target.numbers) == numbers, text
    assert known(network, "predicted") == "predicted"
    assert known(Named("predicted", "b"), "predicted") == 0  # a class of that name goes before
    for text, why in (
        ("difference:cat", "takes 2 classes, not 1"), ("difference:cat,fish,2", "takes 2 classes, not 3"),
        ("total:", "takes 1 class or more, not 0"), ("finer:cat", "takes 2 classes or more, not 1"),
        ("total:tench, fish", "in 2 ways; use indices"), ("against_rest:dog", "no class called 'dog'"),
        ("finer:cat,2,strength=much", "strength must be a number, not 'much'"),
        ("finer:cat,2,strength=nan", "strength must be finite"), ("agianst_rest:cat", "did you mean against_rest?"),
        ("label - cat", "no class called 'label'"),
    ):  # fmt: skip
        with pytest.raises(JaxcamError, match=re.escape(why)) as caught:
            known(network, text)
        assert "\n" not in str(caught.value), text


def test_words_are_the_classes_of_each_picture(network):
    both = jaxcam.explain(
        network,
        PICTURES[:2],
        methods=["grad_cam"],
        targets=["predicted - rival", "rival", "finer:predicted,rival,rival"],
    )
    for found in both:
        order = [NAMES[i] for i in np.argsort(-found.logits)]
        z = np.sort(found.logits.astype(np.float64))[::-1]
        assert [r.class_name for r in found.results] == [
            f"{order[0]} - {order[1]}", order[1], f"{order[0]} - 0.6 x mean of {order[1]}, {order[2]}"
        ]  # fmt: skip
        wanted = [z[0] - z[1], z[1], z[0] - 0.3 * (z[1] + z[2])]
        np.testing.assert_allclose([r.logit for r in found.results], wanted, rtol=1e-4)


@pytest.mark.parametrize("form", TARGETS)
def test_one_program_serves_all_classes(network, form):
    """The classes of a target are data: traced, they give what they give as numbers, and nothing is compiled anew."""
    one = TARGETS[form]
    count = one.classes + 2 * one.more
    asked = [one.of(*range(start, start + count)) for start in (0, len(NAMES) - count)]
    (found,) = jaxcam.explain(network, PICTURES[0], methods=["lift_cam"], targets=asked[:1])
    before = compiled._compile.cache_info().misses
    (other,) = jaxcam.explain(network, PICTURES[0], methods=["lift_cam"], targets=asked[1:])
    assert compiled._compile.cache_info().misses == before
    plain = [lambda z, t=t: t(z) for t in asked]
    (by_hand,) = jaxcam.explain(network, PICTURES[0], methods=["lift_cam"], targets=plain)
    for ours, theirs in zip((*found.results, *other.results), by_hand.results, strict=True):
        same(ours.map, theirs.map)
        np.testing.assert_allclose(ours.logit, theirs.logit, rtol=1e-5)
        assert abs(ours.completeness_gap) < 1e-4 and np.abs(ours.signed_map).max() > 0


def test_a_kind_that_asks_for_the_value_of_a_class_is_told_what_to_write(network, monkeypatch):
    monkeypatch.setitem(TARGETS, "rest", TargetForm(lambda z, a: z[a] - jnp.delete(z, a).max(), "{} and the rest"))
    target = TARGETS["rest"].of(0)
    assert np.isfinite(target(jnp.asarray(Z)))  # alone it may
    with pytest.raises(JaxcamError, match="'{} and the rest' asks for the value of a class's index, which is traced"):
        jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=[target])


@pytest.mark.parametrize("text", ["label - rival", "against_rest:label", "finer:predicted,rival,rival"])
def test_evaluate_explains_a_target_of_every_picture(network, text, tmp_path):
    """Its maps are those of `explain` for the same target, and its metrics those of the target's first class."""
    data = pictures(tmp_path / "set", each=2, broken=False)
    methods = ["lift_cam", "shap_cam:num_permutations=4"]
    run, plain = (
        evaluate(network, data, out=tmp_path / name, methods=methods, metrics=["ic", "gap"], targets=targets,
                 batch_size=3, seed=1)
        for name, targets in (("run", text), ("plain", text.partition(":")[2].partition(",")[0] or "label"))
    )  # fmt: skip
    for name in ("image", "target", "score", "logit"):
        assert run.columns[name].tolist() == plain.columns[name].tolist()
    maps = run.arrays("coefficients")
    assert np.abs(maps - plain.arrays("coefficients")).max() > 1e-3
    for row in (0, len(run) - 2):
        first = int(run.columns["target"][row])
        photo = data / run.columns["image"][row]
        (logits,) = (e.logits for e in jaxcam.explain(network, photo, methods=["grad_cam"], targets=[0]))
        others = [int(c) for c in np.argsort(-logits, kind="stable") if c != first]
        named = {"label - rival": f"difference:{first},{others[0]}", "against_rest:label": f"against_rest:{first}"}
        target = named.get(text, f"finer:{first},{others[0]},{others[1]}")
        (alone,) = jaxcam.explain(network, photo, methods=["lift_cam"], targets=[target])
        same(maps[row], alone.results[0].coefficients)
    assert np.abs(run.columns["gap"][0::2]).max() < 1e-4
    for wrong, why in (("rival - label", "does not begin with the class that is measured"), ("cat", "no class called"),
                       (NAMES[0], "does not begin"), ("predicted - label", "does not begin")):  # fmt: skip
        with pytest.raises(JaxcamError, match=why):
            evaluate(network, data, out=tmp_path / "wrong", methods=methods, metrics=["ic"], targets=wrong)


def test_what_the_named_targets_refuse():
    z = jax.numpy.asarray(Z)
    for make, why in (
        (lambda: jaxcam.targets.total("cat"), "total takes a list"),
        (lambda: jaxcam.targets.finer(0, []), "finer takes a list"),
        (lambda: jaxcam.targets.difference("cat", 1)(z), "cat - 1 names the class 'cat', and a method takes indices"),
        (lambda: jaxcam.targets.difference(0, 5)(z), "there is no class 5 among 5 logits"),
        (lambda: jaxcam.targets.not_class(-1)(z), "there is no class -1"),
        (lambda: jaxcam.targets.against_rest(0)(z[:1]), "no other class"),
    ):
        with pytest.raises(JaxcamError, match=why) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_the_most_similar_classes():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 5))
    kernel[:, 4] = 3 * kernel[:, 1] + 0.1 * rng.normal(size=6)  # a long one of the same direction
    kernel[:, 2] = 0
    cosines = [kernel[:, 1] @ k / np.linalg.norm(k) / np.linalg.norm(kernel[:, 1]) if k.any() else 0 for k in kernel.T]
    cosines[1] = -2
    assert jaxcam.targets.similar(kernel.astype(np.float32), 1, 2) == np.argsort(cosines)[::-1][:2].tolist()
    assert jaxcam.targets.similar(kernel, 1)[0] == 4 and len(jaxcam.targets.similar(kernel, 1, 10)) == 4
    z = rng.normal(size=5).astype(np.float32)
    finer = jaxcam.targets.finer(1, jaxcam.targets.similar(kernel, 1, 2))
    np.testing.assert_allclose(
        finer(z), z[1] - 0.6 * np.mean(z[np.asarray(jaxcam.targets.similar(kernel, 1, 2))]), rtol=1e-5
    )
    with pytest.raises(JaxcamError, match="not .5,. and 1"):
        jaxcam.targets.similar(kernel[0], 1)


def test_similarity_segments_and_boxes():
    rng = np.random.default_rng(0)
    a, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 4, 5), (5, 6)))
    e, mask = rng.normal(size=6), np.arange(12).reshape(3, 4) % 3 == 0
    boxes = jnp.asarray([[0, 0, 2, 2], [1, 1, 4, 5], [1, 1, 4, 4]], jnp.float32)
    heads = {  # an embedding, logits at every pixel, and boxes with scores
        jaxcam.targets.similarity(e): lambda p, a: a.mean((0, 1)) @ p,
        jaxcam.targets.segment(mask, 2): lambda p, a: a @ p,
        jaxcam.targets.box_score([1, 1, 4, 4.5], 3): lambda p, a: (boxes, a[0, :3] @ p),
    }
    found = jax.jit(lambda w, a: [jaxcam.hires_cam(w, a, head=h, target=t) for t, h in heads.items()])(w, a)
    z, x, w64 = (np.asarray(v, np.float64) for v in (a.mean((0, 1)) @ w, a, w))
    size = np.linalg.norm(z) * np.linalg.norm(e)
    slope = w64 @ (e / size - z * (z @ e) / size / (z @ z))
    positions = np.zeros((3, 4))
    positions[0, 1] = 1  # the second box overlaps most: 10.5 / 12, and the last 9 / 10.5
    wanted = [
        (z @ e / size, x @ slope / 12), (x[mask].mean(0) @ w64[:, 2], (x @ w64[:, 2]) * mask / mask.sum()),
        (x[0, 1] @ w64[:, 3], (x @ w64[:, 3]) * positions),
    ]  # fmt: skip
    for cam, (value, map) in zip(found, wanted, strict=True):
        np.testing.assert_allclose(cam.diagnostics["logit"], value, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(cam.diagnostics["signed_map"], map, rtol=1e-4, atol=1e-5)
    far, nothing = jaxcam.targets.box_score([9, 9, 11, 11], 3), jaxcam.targets.segment(0 * mask, 2)
    assert far((boxes, jnp.ones((3, 6)))) == 0 and nothing(jnp.ones((3, 4, 6))) == 0
    assert jaxcam.targets.similarity(e)(jnp.zeros(6)) == 0
    for target, output in ((jaxcam.targets.similarity(e), jnp.ones(5)), (nothing, jnp.ones((4, 4, 6))),
                           (far, (boxes, jnp.ones((3, 2))))):  # fmt: skip
        with pytest.raises(JaxcamError, match="takes"):
            target(output)


def test_a_likeness_is_explained_by_its_name(network):
    target = jaxcam.targets.similarity(np.eye(len(NAMES))[1])
    (found,) = jaxcam.explain(network, PICTURES[0], methods=["grad_cam"], targets=[target])
    (result,) = found.results
    assert result.class_name == "similarity"
    np.testing.assert_allclose(result.logit, found.logits[1] / np.linalg.norm(found.logits), rtol=1e-5)
