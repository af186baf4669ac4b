"""Runs: the same table however they are stopped, divided or repeated, and one line for what cannot be."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluations import SETTINGS, assert_same, pictures, tiny
from networks import CLASSES, picture
from PIL import Image

from jaxcam.cli import main
from jaxcam.cli.evaluate import _Watch
from jaxcam.data.evaluation import load_dataset
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate, read_run
from jaxcam.evaluate.driver import Progress
from jaxcam.evaluate.estimate import estimate
from jaxcam.evaluate.measures import _one_batch
from jaxcam.evaluate.run import units_of
from jaxcam.evaluate.store import Writer, arrays_file, encode, read_lines, records_file
from jaxcam.evaluate.work import Worker
from jaxcam.methods.registry import METHODS
from jaxcam.metrics import confidence, rise_blur
from jaxcam.zoo.store import save_network

ONE = jax.devices()[:1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def net():
    return tiny()


@pytest.fixture(scope="module")
def whole(data, net, tmp_path_factory):
    """The uninterrupted run."""
    return evaluate(net, data, out=tmp_path_factory.mktemp("runs") / "whole", devices=ONE, **SETTINGS)


class Stop(Exception):
    """Raised by a test in mid-run."""


def stop_after(units: int):
    left = [units + 1]  # it is called once before the first unit

    def progress(state):
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    return progress


def test_what_a_run_holds(whole, data):
    assert whole.complete and len(whole) == 19 * 3 and list(whole.broken) == ["parachute/1.png"]
    assert "broken" in whole.broken["parachute/1.png"]
    assert whole.metrics == (*SETTINGS["metrics"], "cosine") and whole.methods == SETTINGS["methods"]
    columns = whole.columns
    assert [columns["method"][i] for i in range(3)] == list(whole.methods)
    assert (np.diff(columns["index"]) >= 0).all() and set(columns["class"]) == set(CLASSES)
    assert all(columns["image"][i].startswith(columns["class"][i]) for i in range(len(whole)))
    assert (columns["label"] == 1).all() and whole.in_subset(0).all()
    lift = columns["method"] == "lift_cam"
    assert np.abs(columns["completeness_gap"][lift]).max() < 1e-5 and (columns["seconds"] > 0).all()
    np.testing.assert_array_equal(columns["gap"], columns["completeness_gap"])
    k = whole.manifest["layer_shape"][2]
    assert whole.arrays("coefficients").shape == (57, k) and whole.arrays("insertion_curve").shape == (57, 5)
    assert whole.arrays("deletion_curve") is None


def test_numbers_are_those_of_the_metrics(whole, data, net):
    """One row, step by step."""
    from jaxcam.methods.maps import resize_map, scale_map

    row = 3 * 7
    a, b = whole.arrays("coefficients", np.asarray([row])), whole.arrays("coefficients")[row]
    np.testing.assert_array_equal(a[0], b)
    x = net.preprocess(data / whole.columns["image"][row])
    features, _ = net.split()
    target = int(whole.columns["target"][row])

    @jax.jit
    def again(params, x, kept):
        heat = scale_map(resize_map(kept, (32, 32)))
        return features(params, x), confidence(params, x, heat, predict=net.predict, target=target)

    activations, found = again(net.params, x, whole.arrays("maps")[row])
    alpha = whole.arrays("coefficients")[row]
    map = np.maximum(np.einsum("hwk,k->hw", activations, alpha), 0)
    np.testing.assert_allclose(whole.arrays("maps")[row], map, rtol=1e-4, atol=1e-6)
    assert net.classes[target] == whole.columns["image"][row].split("/")[0]
    for name in ("ic", "ad", "add"):
        np.testing.assert_allclose(whole.columns[name][row], getattr(found, name), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(whole.columns["score"][row], found.original, rtol=1e-5)
    reference = whole.arrays("reference")[row]
    cosine = alpha @ reference / np.linalg.norm(alpha) / np.linalg.norm(reference)
    np.testing.assert_allclose(whole.columns["cosine"][row], cosine, rtol=1e-5)


def test_insertion_starts_from_rises_blur_where_it_is_asked_for(whole, data, net, tmp_path):
    options = {**SETTINGS, "methods": ("lift_cam",), "metrics": ("insertion",), "reference": None, "limit": 3}
    run = evaluate(net, data, out=tmp_path, devices=ONE, start="rise", **options)
    for row in range(len(run)):
        x = jnp.asarray(net.preprocess(data / run.columns["image"][row]))
        logits = net.predict(net.params, rise_blur(x)[None])[0]
        start = jax.nn.softmax(logits)[run.columns["target"][row]]
        np.testing.assert_allclose(run.arrays("insertion_curve")[row, 0], start, rtol=1e-4)
    with pytest.raises(JaxcamError, match='start was "rise" there and is not given now'):
        evaluate(net, data, out=tmp_path, devices=ONE, **options)
    assert "start" not in whole.manifest["settings"]
    with pytest.raises(JaxcamError, match="no blur to start from called 'mean'"):
        evaluate(net, data, out=tmp_path / "no", start="mean", **options)


def test_all_methods_are_those_that_are_defined(data, net, tmp_path, monkeypatch):
    for name in METHODS.keys() - {"grad_cam", "rise_cam", "attention_rollout", "random_cam"}:
        monkeypatch.delitem(METHODS, name)
    asked = {"methods": ["ALL", "rise:num_samples=2"], "metrics": "ic", "limit": 1, "devices": ONE}
    run = evaluate(net, data, out=tmp_path, **asked)
    assert run.methods == ("grad_cam", "random_cam", "rise_cam:num_samples=2")
    assert evaluate(net, data, out=tmp_path, **asked).complete


def test_stopped_after_each_unit_and_resumed(whole, data, net, tmp_path):
    for _ in range(4):
        with pytest.raises(Stop):
            evaluate(net, data, out=tmp_path, devices=ONE, progress=stop_after(1), **SETTINGS)
    assert len(read_run(tmp_path).units) == 4 and not read_run(tmp_path).complete
    assert_same(evaluate(net, data, out=tmp_path, devices=ONE, **SETTINGS), whole)
    assert_same(read_run(tmp_path), whole)


def test_a_finished_run_is_left_alone(whole, data, net):
    states = []
    before = {p: p.stat().st_mtime_ns for p in whole.folder.rglob("*.jsonl")}
    assert_same(evaluate(net, data, out=whole.folder, progress=states.append, **SETTINGS), whole)
    assert states == [] and before == {p: p.stat().st_mtime_ns for p in whole.folder.rglob("*.jsonl")}


def test_lost_records_and_arrays_are_made_again(whole, data, net, tmp_path):
    run = evaluate(net, data, out=tmp_path, devices=ONE, **SETTINGS)
    file = records_file(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:20] + b"?" + lines[3][21:]
    file.write_bytes(b"".join(lines)[:-40])
    arrays_file(tmp_path, 2).unlink()
    assert len(read_run(tmp_path).units) == 3
    with pytest.raises(JaxcamError, match="unit-000002.npz: is missing or damaged; remove it"):
        read_run(tmp_path).arrays("maps")
    done = []
    assert_same(evaluate(net, data, out=tmp_path, devices=ONE, progress=done.append, **SETTINGS), whole)
    assert len(done) == 1 + 3 and run.complete


def test_devices_change_nothing(whole, data, net, tmp_path):
    assert_same(evaluate(net, data, out=tmp_path / "2", devices=jax.devices()[:2], **SETTINGS), whole)


def test_a_run_that_several_processes_began_goes_on(whole, data, net, tmp_path):
    """As jaxcam wrote it before its release: a file for each of them, with every so-manieth unit."""
    with pytest.raises(Stop):
        evaluate(net, data, out=tmp_path, devices=ONE, progress=stop_after(2), **SETTINGS)
    first, second = (encode({k: v for k, v in u.summary.items() if k not in ("records", "sha256")}, u.records())
                     for u in read_lines(tmp_path)[0].values())  # fmt: skip
    records_file(tmp_path).unlink()
    (tmp_path / "records-0-of-2.jsonl").write_bytes(first)
    (tmp_path / "records-1-of-2.jsonl").write_bytes(second)
    states = []
    run = evaluate(net, data, out=tmp_path, devices=ONE, progress=states.append, **SETTINGS)
    assert states[0].done == 8 and len(states) == 4
    assert_same(run, whole)


@pytest.mark.parametrize("other", ["1", "99"])
def test_a_flipped_bit_of_a_commit_line_costs_that_unit_alone_and_is_told(whole, data, net, tmp_path, other):
    shutil.copytree(whole.folder, tmp_path / "run")
    (file,) = (tmp_path / "run").glob("records*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'{"unit":0,', f'{{"unit":{other},'.encode()))
    found = read_run(tmp_path / "run")
    assert not found.complete and found.spoilt == 1 and [u["unit"] for u in found.units] == [1, 2, 3, 4]
    states = []
    again = evaluate(net, data, out=tmp_path / "run", devices=ONE, progress=states.append, **SETTINGS)
    assert_same(again, whole)
    assert again.complete and states[-1].spoilt == 1 and sum(u["images"] for u in again.units) == 20


def test_units_that_are_not_the_runs_are_refused(whole, data, net, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    (file,) = (tmp_path / "run").glob("records*.jsonl")
    honest, units = file.read_bytes(), read_lines(tmp_path / "run")[0]

    def put(**change):
        summary = {k: v for k, v in units[0].summary.items() if k not in ("records", "sha256")}
        file.write_bytes(encode({**summary, **change}, units[0].records()))

    for change, why in (
        ({"unit": 1}, "holds pictures or methods that are not its own"), ({"unit": 9}, "is none of the 5"),
        ({"run": "0" * 16}, "made with other settings"),
    ):  # fmt: skip
        put(**change)
        for call in (read_run, lambda folder: evaluate(net, data, out=folder, devices=ONE, **SETTINGS)):
            with pytest.raises(JaxcamError, match=f"do not add up.*{why}.*another --out, or remove this folder"):
                call(tmp_path / "run")
    file.write_bytes(honest)
    manifest = tmp_path / "run" / "manifest.json"
    written = manifest.read_text()
    for old, new in (('"seed": 0', '"seed": 1'), ('"batch_size": 4', '"batch_size": 0'), ('"methods"', '"method3"')):
        assert old in written
        manifest.write_text(written.replace(old, new))
        with pytest.raises(JaxcamError, match="is damaged; the same jaxcam evaluate mends it"):
            read_run(tmp_path / "run")
        assert_same(evaluate(net, data, out=tmp_path / "run", devices=ONE, **SETTINGS), whole)
    unsealed = {k: v for k, v in json.loads(written).items() if k != "sha256"}  # as runs of before it was sealed
    unsealed["settings"]["seed"] = 1
    manifest.write_text(json.dumps(unsealed))
    with pytest.raises(JaxcamError, match="made with other settings than manifest.json says"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("change", [{"seed": 1}, {"methods": ("grad_cam",)}])
def test_two_that_begin_one_folder_at_the_same_moment(data, net, tmp_path, monkeypatch, change):
    """The first waits between its manifest and its records; the second is refused meanwhile, not later."""
    there, go, real = threading.Event(), threading.Event(), Writer.__init__

    def waiting(self, *args):
        if threading.current_thread() is not threading.main_thread():
            there.set()
            go.wait(60)
        real(self, *args)

    monkeypatch.setattr(Writer, "__init__", waiting)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(evaluate, net, data, out=tmp_path, devices=ONE, limit=2, **SETTINGS)
        assert there.wait(60)
        try:
            with pytest.raises(JaxcamError, match=f"holds a run with other settings: {next(iter(change))} was"):
                evaluate(net, data, out=tmp_path, devices=ONE, limit=2, **{**SETTINGS, **change})
        finally:
            go.set()
        assert first.result().complete


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"methods": ("lift_cam",)}, "methods was"), ({"batch_size": 2}, "batch_size was 4 there and is 2 now"),
        ({"limit": 5}, "data.images was 20 there and is 5"), ({"seed": 1}, "seed was 0"),
        ({"layer": "conv1_1"}, "layer was"),
        ({"reference": None}, "metrics was"), ({"keep": ()}, "keep was"), ({"targets": "predicted"}, "targets was"),
    ],
)  # fmt: skip
def test_another_run_in_the_same_folder_is_refused(whole, data, net, change, name):
    before = sorted(p.name for p in whole.folder.iterdir())
    with pytest.raises(JaxcamError, match="holds a run with other settings") as e:
        evaluate(net, data, out=whole.folder, **{**SETTINGS, **change})
    assert name in str(e.value) and "\n" not in str(e.value) and "name another folder" in str(e.value)
    assert before == sorted(p.name for p in whole.folder.iterdir())


def test_other_weights_and_other_data_are_refused(whole, data, net, tmp_path):
    other = dataclasses.replace(net, params=jax.tree.map(lambda x: x + 1, net.params))
    with pytest.raises(JaxcamError, match="model.sha256 was"):
        evaluate(other, data, out=whole.folder, **SETTINGS)
    with pytest.raises(JaxcamError, match="data.sha256 was"):
        evaluate(net, pictures(tmp_path / "set", broken=False), out=whole.folder, **SETTINGS)


def test_a_run_begun_with_a_mistake_can_be_begun_anew(data, net, tmp_path):
    with pytest.raises(JaxcamError, match="CAM is defined for"):
        evaluate(net, data, out=tmp_path, devices=ONE, **{**SETTINGS, "methods": ("cam",)})
    with Writer(tmp_path), pytest.raises(JaxcamError, match="other settings"):
        evaluate(net, data, out=tmp_path, devices=ONE, **SETTINGS)
    assert evaluate(net, data, out=tmp_path, devices=ONE, **{**SETTINGS, "limit": 2}).complete


def test_random_subsets(data, net, tmp_path):
    settings = {**SETTINGS, "methods": ("grad_cam",), "metrics": ("ic",), "reference": None, "keep": ()}
    run = evaluate(net, data, out=tmp_path, devices=ONE, limit=6, seeds=3, **settings)
    subsets = [set(run.manifest["subsets"][str(s)]) for s in range(3)]
    assert all(len(s) == 6 for s in subsets) and len(set(map(frozenset, subsets))) == 3
    union = set().union(*subsets)
    assert len(run.images) == len(union) < 18
    pairs = list(zip(run.columns["index"], run.columns["method"], strict=True))
    assert len(pairs) == len(set(pairs)) == len(union) - len(run.broken)
    data_items = load_dataset(data).items
    bad = {i for i in union if data_items[i].name in run.broken}
    for s, chosen in enumerate(subsets):
        assert set(run.columns["index"][run.in_subset(s)]) == chosen - bad
    with pytest.raises(JaxcamError, match="no seed called '3'"):
        run.in_subset(3)


def test_predicted_targets_of_foreign_data(data, net, tmp_path):
    other = dataclasses.replace(net, classes=("a", "b", "c", "d"))
    settings = {**SETTINGS, "methods": ("grad_cam",), "reference": None}
    with pytest.raises(JaxcamError):
        evaluate(other, data, out=tmp_path, **settings)
    run = evaluate(other, data, out=tmp_path, devices=ONE, targets="predicted", **settings)
    assert np.isnan(run.columns["label"]).all() and (run.columns["target"] == run.columns["predicted"]).all()


def test_every_present_class_and_its_boxes(net, tmp_path):
    """A multi-label set: VOC annotations with boxes."""
    root = tmp_path / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    marks = {"01": ("cat", "dog"), "02": ("dog",), "03": ("bird", "cat", "cow", "dog")}
    for i, (name, present) in enumerate(marks.items()):
        Image.fromarray(picture(32, 40, seed=i)).save(root / "JPEGImages" / f"{name}.jpg")
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>32</ymax></bndbox>"
        inside = "".join(f"<object><name>{n}</name><difficult>0</difficult>{box}</object>" for n in present)
        text = f"<annotation><size><width>40</width><height>32</height></size>{inside}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(marks) + "\n")
    many = dataclasses.replace(net, classes=("bird", "cat", "cow", "dog"), multi_label=True)
    run = evaluate(
        many, root, methods=("lift_cam",), metrics=("pointing", "ic"), out=tmp_path / "run", devices=ONE, batch_size=4
    )
    found = {}
    for image, name in zip(run.columns["image"], run.columns["class"], strict=True):
        found.setdefault(pathlib.PurePath(image).stem, []).append(name)
    assert found == {k: list(v) for k, v in marks.items()}
    np.testing.assert_allclose(run.columns["score"], 1 / (1 + np.exp(-run.columns["logit"])), rtol=1e-5)
    shown = run.columns["empty"] == ""
    assert ((run.columns["pointing"][shown] > 0) & (run.columns["pointing"][shown] < 1)).any()
    heat = run.arrays("maps")
    for i in np.flatnonzero(shown):
        from jaxcam.methods.maps import resize_map, scale_map

        s = np.asarray(scale_map(resize_map(heat[i], (32, 32))))
        np.testing.assert_allclose(run.columns["pointing"][i], s[:, :16].sum() / s.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ("pointing",)}, "has no boxes"), ({"metrics": ("cosine",), "reference": None}, "go together"),
        ({"metrics": ("inception",)}, "no metric called"), ({"methods": ("lift_cam", "lift-cam")}, "named twice"),
        ({"limit": 0}, "the limit must be at least 1"), ({"seeds": 0}, "number of seeds"),
        ({"methods": ()}, "no method"),
        ({"decoders": -1}, "must be at least 0, not -1"), ({"keep": ("videos",)}, "no array to keep"),
    ],
)  # fmt: skip
def test_mistakes(data, net, tmp_path, change, message):
    with pytest.raises(JaxcamError, match=message):
        evaluate(net, data, out=tmp_path, **{**SETTINGS, **change})
    assert not (tmp_path / "manifest.json").exists()


def test_no_run_to_read(tmp_path):
    with pytest.raises(JaxcamError, match="holds no run"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(JaxcamError, match="is not the manifest"):
        read_run(tmp_path)


def test_command_line(data, net, tmp_path, capsys, monkeypatch):
    save_network(tmp_path / "net", net)
    words = [
        "evaluate", str(data), "--model", str(tmp_path / "net"), "--out", str(tmp_path / "run"), "--methods",
        "grad-cam", "lift_cam", "--metrics", "ic", "ad", "--batch-size", "4",
    ]  # fmt: skip
    monkeypatch.setattr("jaxcam.cli.evaluate._FIRST", 0.0)
    two = jax.devices()[:2]  # each compiles its own programs
    monkeypatch.setattr(jax, "local_devices", lambda: two)
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "38 maps of 20 pictures" in out and re.search(r"\d+:\d\d spent; \d+:\d\d were predicted", out)
    assert "parachute/1.png" in err and "1 of 20 pictures could not be used" in err
    assert main(words) == 1 and "finished before" in capsys.readouterr().out
    assert main([*words, "--decoders", "-1"]) == 2
    assert "must be at least 0, not -1" in capsys.readouterr().err
    assert main([*words, "--steps", "7"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["about"]["command"].startswith("jaxcam evaluate")
    again = [*words[:5], str(tmp_path / "dry"), *words[6:], "--dry-run", "2"]
    assert main(again) == 0 and not (tmp_path / "dry").exists()
    assert "20 pictures in 5 batches; 16 of them tried" in (said := capsys.readouterr().out)
    assert "on 2 devices like this one" in said and "forward passes" in said and "MiB of disk" in said
    assert main([*again[:-1], "0"]) == 2 and "at least 1 device" in capsys.readouterr().err
    assert main([*words[:-2], "--methods", "gradcamm"]) == 2 and "did you mean" in capsys.readouterr().err


def test_the_time_is_predicted_from_a_minute_in_which_nothing_is_compiled(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("jaxcam.cli.evaluate.time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    watch = _Watch(lambda state: None)
    for at, done in ((0, 0), (500, 10), (530, 20), (590, 40), (1000, 100)):
        now[0] = at
        watch(Progress(done, 100, done / (at or 1), 0))
    assert watch.spent == "16:40 spent; 12:50 were predicted after the first minute"


def test_where_a_method_fails_on_a_changed_picture_the_others_keep_their_own_maps():
    """Though the forward pass of all of them is there already, made for another method."""
    images = jnp.arange(3.0)[:, None, None] + jnp.ones((3, 2, 2))

    class Engine:
        layer = "any"

        def forward(self, images, sources):
            assert len(images) == len(sources)
            return images

        def maps(self, request, forward, pairs, references):
            if any(float(forward[i][0, 0]) == 2 for i, _ in pairs):
                raise JaxcamError("not this one")
            return types.SimpleNamespace(maps=np.stack([forward[i] for i, _ in pairs]))

    worker = types.SimpleNamespace(
        engine=Engine(), network=types.SimpleNamespace(layer_shape=lambda at: (2, 2, 1)),
        _explained=lambda forward, pairs: pairs,
    )  # fmt: skip
    original = types.SimpleNamespace(sources=["a", "b", "c"])
    piece = types.SimpleNamespace(some=slice(0, 3))
    for passes in ({}, {"flipped": np.asarray(images)}):
        found = Worker._again(worker, None, original, [(0, 0), (1, 0), (2, 0)], passes, piece, images, "flipped")
        np.testing.assert_array_equal(found[:, 0, 0], [1, np.nan, 3])


def test_an_estimate_is_that_of_the_units(net, data, whole, monkeypatch):
    found = estimate(net, data, devices=ONE, **SETTINGS)
    assert found.pictures == len(whole.images) and found.units == len(units_of(whole.manifest))
    assert 0 < found.tried < found.pictures and found.per_picture > 0 and found.disk > 0
    two, one = found.seconds(2) - found.starting, found.seconds() - found.starting
    assert one == pytest.approx(found.pictures * found.per_picture)
    assert two == pytest.approx(one * -(-found.units // 2) / found.units)
    (broken := data.parent / "broken" / "cat").mkdir(parents=True)
    (broken / "0.png").write_bytes(b"none")
    with pytest.raises(JaxcamError, match="none of the first 1 pictures"):
        estimate(net, broken.parent, devices=ONE, targets="predicted", **SETTINGS)


@pytest.mark.parametrize("axes", [(None, 0), (0, 0), (0, None)])
def test_nested_batches_are_one(axes):
    def predict(params, image):
        return jnp.tanh(image.sum((0, 1)) @ params)

    w = jax.random.normal(jax.random.key(0), (4, 3, 5) if axes[0] == 0 else (3, 5))
    images = jax.random.normal(jax.random.key(1), (4, 2, 6, 6, 3) if axes[1] == 0 else (2, 6, 6, 3))

    def nested(one):
        return jax.vmap(jax.vmap(one, (None, 0)), axes)

    got, want = jax.jit(nested(_one_batch(predict)))(w, images), nested(predict)(w, images)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    program = str(jax.make_jaxpr(nested(_one_batch(predict)))(w, images))
    assert ("f32[8,6,6,3]" in program) == (axes == (None, 0))  # 4 times 2 images, where the weights are shared


def test_boxes_and_masks_that_were_left_out_are_told(net, tmp_path, capsys):
    save_network(tmp_path / "net", net)
    (tmp_path / "set" / CLASSES[0]).mkdir(parents=True)
    (tmp_path / "masks" / CLASSES[0]).mkdir(parents=True)
    for i in range(2):
        Image.fromarray(picture(20, 40, i)).save(tmp_path / "set" / CLASSES[0] / f"{i}.png")
        Image.fromarray(np.full((40, 20), 255, np.uint8)).save(tmp_path / "masks" / CLASSES[0] / f"{i}.png")
    boxes = [f"{CLASSES[0]}/0.png,{CLASSES[0]},100,100,120,120", f"{CLASSES[0]}/1.png,{CLASSES[0]},0,0,20,20"]
    (tmp_path / "set" / "boxes.csv").write_text("\n".join(["image,wnid,x0,y0,x1,y1", *boxes]) + "\n")
    words = ["evaluate", str(tmp_path / "set"), "--masks", str(tmp_path / "masks"), "--model", str(tmp_path / "net")]
    asked = ["--methods", "uniform_cam", "--metrics", "pointing", "weighting", "--out", str(tmp_path / "run")]
    assert main([*words, *asked]) == 0
    told = capsys.readouterr().err
    assert "left out: box outside the picture: 1: " in told and "left out: bad mask: 2: " in told and "turned" in told
    assert [p.kind for p in read_run(tmp_path / "run").problems] == ["box outside the picture", "bad mask", "bad mask"]
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "box outside the picture: 1: " in (tmp_path / "run" / "report.html").read_text()
