"""Files that are none, have no end or are damaged, wherever one is named: one line soon, and what is whole is used."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile

import evaluation_runs
import foreign_files as ff
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_sets import class_folders, save
from hostile_files import STATE
from PIL import Image, ImageCms

import jaxcam
from jaxcam.cli import main
from jaxcam.converters import convert
from jaxcam.data.annotations import read_boxes_csv, read_coco, read_xml
from jaxcam.data.datasets import read_class_names
from jaxcam.data.evaluation import load_dataset
from jaxcam.data.images import open_image, to_picture
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate, read_run
from jaxcam.evaluate.manifest import numbered
from jaxcam.evaluate.store import arrays_file
from jaxcam.explanation.resume import read_explanation, saved_digest
from jaxcam.zoo.store import read_manifest

READERS = {
    "picture": open_image, "xml": read_xml, "csv": read_boxes_csv, "coco": read_coco, "names": read_class_names,
    "weights": convert, "network": lambda path: read_manifest(path.parent),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["pipe", "sparse", "folder", "deep"])
@pytest.mark.parametrize("reader", READERS)
def test_whatever_is_named_ends_in_a_line(tmp_path, reader, kind):
    path = tmp_path / "network.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with open(path, "wb") as f:
            f.truncate(20 << 30)
    else:
        path.write_text("[" * 200_000)
    with pytest.raises(JaxcamError) as e:
        READERS[reader](path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_a_message_is_no_longer_than_a_screen():
    with pytest.raises(JaxcamError) as e:
        raise JaxcamError("name " + "x" * 10**6)
    assert len(str(e.value)) < 2100


def network(fails=lambda picture: False):
    """Six channels and three classes; the preprocessing fails where it is told to."""

    def prepare(picture):
        if fails(picture):
            raise ValueError("no such picture")
        return np.asarray(picture.convert("RGB").resize((8, 8)), np.float32) / 255

    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 6)).astype("f4"), "out": rng.normal(size=(6, 3)).astype("f4")}

    def forward(p, x):
        seen = jnp.where(x.mean() < 0.02, jnp.nan, 1.0)  # nothing finite comes of a black picture
        return jaxcam.tag(jax.nn.relu(x @ p["w"]) * seen, "map").mean((0, 1)) @ p["out"]

    return jaxcam.wrap(forward, params, preprocessing=prepare, classes=["cat", "dog", "car"])


def test_a_picture_that_the_network_cannot_take_is_a_row(tmp_path, monkeypatch, capsys):
    """One that its preprocessing refuses, and one of which it makes NaN: the others are explained."""
    monkeypatch.chdir(tmp_path)
    for name, size, colour in (("a", 9, 200), ("odd", 7, 200), ("black", 9, 0), ("b", 9, 90)):
        Image.new("RGB", (size, size), (colour,) * 3).save(f"{name}.png")
    monkeypatch.setattr("jaxcam.cli.networks.load", lambda options: network(lambda p: p.width == 7))
    names = [f"{n}.png" for n in ("a", "odd", "black", "b")]
    assert main(["explain", *names, "--method", "grad_cam", "--no-figure", "--json", "j.json"]) == 1
    document = json.loads((tmp_path / "j.json").read_text())
    assert [r["image"] for r in document["images"]] == ["a.png", "b.png"]
    failed = {f["image"]: f["error"] for f in document["failed"]}
    assert "no such picture" in failed["odd.png"] and "NaN" in failed["black.png"]
    assert all(error.startswith(name) for name, error in failed.items())
    assert len(capsys.readouterr().err.splitlines()) == 2
    with pytest.raises(JaxcamError, match="odd.png: the preprocessing"):
        jaxcam.explain(network(lambda p: p.width == 7), names, methods="grad_cam")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"images": io.BytesIO()}, "BytesIO is no picture"), ({"images": None}, "NoneType is no picture"),
        ({"methods": []}, "no method named"), ({"references": [], "methods": "deep_shap_cam"}, "holds no picture"),
        ({"targets": 1.5}, "no class called '1.5'"), ({"targets": [float("inf")]}, "no class called"),
        ({"seed": 2**64, "methods": "lime_cam"}, "at most 63 bits"),
        ({"methods": "shap_cam:num_permutations=" + "-" * 10**5 + "1"}, "must be a int"),
        ({"methods": "lime_cam:num_samples=1000000000000"}, "at most"),
        ({"targets": [lambda z: z.argmax()]}, "real number"),
    ],
)  # fmt: skip
def test_impossible_arguments(given, why):
    with pytest.raises(JaxcamError, match=why):
        jaxcam.explain(network(), **{"images": np.full((9, 9, 3), 99, np.uint8)} | given)


def test_pictures_of_other_colours_and_of_infinite_values(tmp_path):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    lab = ImageCms.profileToProfile(
        colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif")
    assert np.abs(np.asarray(open_image(tmp_path / "lab.tif"), int) - np.asarray(colours, int)).mean() < 4
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0, 0], values[0, 1] = np.inf, np.nan
    shown = np.asarray(to_picture(Image.fromarray(values)))[..., 0]
    assert shown[-1, -1] == shown[0, 0] == 255 and 120 < shown[4, 0] < 135


def test_names_that_are_no_text_are_evaluated(tmp_path):
    data = class_folders(tmp_path / "data", 1)
    save(data / "n01440764" / "a\nb.png")
    shutil.copy(data / "n01440764" / "a\nb.png", os.fsencode(data) + b"/n01440764/\xff\xfe.png")
    os.mkfifo(data / "n03028079" / "pipe.png")
    found = load_dataset(data)
    assert len(found) == 5 and found.digest


def test_names_that_lead_out_of_a_data_set_or_are_impossible(tmp_path):
    save(tmp_path / "sub" / "a.jpg")
    names = ["sub\\a.jpg", "/etc/hostname", "../../etc/hostname", "x" * 300, "a\0.jpg"]
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    marks = [{"image_id": str(i), "category_id": "1", "bbox": [1, 1, 5, 5]} for i in range(5)]
    bad = [{"name": "no id"}, None, {"id": [1], "name": "x"}, {"id": 2, "name": ""}]
    content = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "cat"}, *bad]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = load_dataset(tmp_path)
    assert [i.name for i in data.items] == ["sub/a.jpg"] and data.classes == ("cat",)
    kinds = [p.kind for p in data.problems]
    assert kinds.count("picture outside of the data set") == 2 and kinds.count("annotation without picture") == 2
    assert kinds.count("category without id or name") == 4


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_shares_of_the_picture_are_told_in_every_format(tmp_path, kind):
    file = tmp_path / "a"
    if kind == "voc":
        box = "<xmin>0.1</xmin><ymin>0.1</ymin><xmax>0.5</xmax><ymax>0.5</ymax>"
        file.write_text(f"<a><object><name>cat</name><bndbox>{box}</bndbox></object></a>")
        faults = read_xml(file, first_pixel=1).faults
    else:
        mark = {"image_id": 1, "category_id": 1, "bbox": [0.1, 0.1, 0.4, 0.4]}
        names = {"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1, "name": "cat"}]}
        file.write_text(json.dumps(names | {"annotations": [mark]}))
        faults = [p.why for p in read_coco(file).problems]
    assert len(faults) == 1 and "shares of the picture" in faults[0]


def test_other_separators_and_odd_objects(tmp_path):
    (tmp_path / "b.csv").write_text("Image;Class;x0;y0;x1;y1\na.jpg;cat;1;2;3;4\n")
    [(name, mark)], problems = read_boxes_csv(tmp_path / "b.csv")
    assert (name, mark.label, mark.box, problems) == ("a.jpg", "cat", (1, 2, 3, 4), [])
    outline = "<robndbox><cx>5</cx></robndbox>"
    objects = f"<object><name>cat</name>{outline}</object><object><name> </name></object>"
    odd = "<object><name>dog</name><difficult>true</difficult></object>"
    (tmp_path / "a.xml").write_text(f"<a>{objects}{odd}</a>")
    found = read_xml(tmp_path / "a.xml")
    assert [(o.label, o.hard) for o in found.objects] == [("cat", False), ("dog", True)]
    assert [f.split(": ")[-1] for f in found.faults] == ["has an outline and no bndbox", "an object has no name"]


def test_results_that_are_damaged_are_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxcam.cli.networks.load", lambda options: network())
    Image.new("RGB", (9, 9), (90, 99, 200)).save("a.png")
    command = ["explain", "a.png", "--method", "grad_cam", "--no-figure", "--resume", "--out", "out"]
    assert main(command) == 0
    file = tmp_path / "out" / "a.npz"
    whole = file.read_bytes()
    [explanation] = jaxcam.explain(network(), "a.png", methods="grad_cam")
    for damaged in (whole[:200], b"", whole[:400] + bytes([whole[400] ^ 1]) + whole[401:]):
        file.write_bytes(damaged)
        assert main(command) == 0
        assert read_explanation(file, explanation.image, network()) is not None
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            if name != "maps.npy":
                new.writestr(name, old.read(name))
    assert saved_digest(file) and read_explanation(file, explanation.image, network()) is None
    assert main([*command[:2], "--json", "a.png", *command[2:]]) == 2
    assert "would take the place of the picture" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path):
    return evaluation_runs.make_run(tmp_path, images=16)


@pytest.mark.parametrize(
    "change", [lambda m: [], lambda m: m | {"images": []}, lambda m: m | {"settings": m["settings"] | {"methods": []}}]
)
def test_a_manifest_that_is_none(run, change):
    file = run / "manifest.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(JaxcamError, match="is not the manifest of a run"):
        read_run(run)


def test_arrays_of_fewer_rows_or_without_a_kind(run):
    file = arrays_file(run, 0)
    with np.load(file) as f:
        kept = dict(f)
    for left in ({k: v[:3] for k, v in kept.items()}, {k: v for k, v in kept.items() if k != "maps"}, {"maps": 1}):
        np.savez(file, **left)
        with pytest.raises(JaxcamError, match="unit-000000.npz: is missing or damaged"):
            read_run(run).arrays("maps")


def test_a_run_whose_manifest_or_arrays_were_changed(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(40, 255, (9, 9, 3), np.uint8) for _ in range(4)]
    made = network()

    def again(**options):
        return evaluate(
            made, (pictures, [0, 1, 2, 0]), out=tmp_path / "run", methods="grad_cam", metrics="ic", batch_size=2,
            **options,
        )  # fmt: skip

    first = again()
    manifest = tmp_path / "run" / "manifest.json"
    for old, new in ((b'"grad_cam"', b'"grad_cbm"'), (b'"title": "Grad-CAM"', b'"title": "Grad-CAN"'), (b"{", b"")):
        manifest.write_bytes(manifest.read_bytes().replace(old, new, 1))
        with pytest.raises(JaxcamError, match="is not the manifest of a run"):
            read_run(tmp_path / "run")
        with pytest.raises(JaxcamError, match="is not the manifest of a run"):
            again(seed=3)  # another run does not take its place
        np.testing.assert_array_equal(again().columns["ic"], first.columns["ic"])
        assert read_run(tmp_path / "run").complete
    one, two = (arrays_file(tmp_path / "run", n) for n in (0, 1))
    one.rename(tmp_path / "kept"), two.rename(one), (tmp_path / "kept").rename(two)
    with pytest.raises(JaxcamError, match="unit-000000.npz: is missing or damaged"):
        read_run(tmp_path / "run").arrays("maps")
    with pytest.raises(JaxcamError, match="between 1 and 10,000"):
        numbered(10**9)
    with pytest.raises(JaxcamError, match="at least 0"):
        numbered([-1])


def test_a_huge_batch_takes_no_more_memory_than_the_pictures(tmp_path):
    pictures = [np.full((9, 9, 3), 50 + i, np.uint8) for i in range(3)]
    found = evaluate(network(), (pictures, [0, 1, 2]), out=tmp_path, methods="grad_cam", metrics="ic", batch_size=10**8)
    assert found.complete and len(found) == 3
    first = evaluate(network(), (pictures, [0, 1, 2]), out=tmp_path / "chosen", methods="grad_cam", metrics="ic")
    (tmp_path / "chosen" / "manifest.json").write_text("{")  # it told the size of the batches, and what "all" meant
    again = evaluate(network(), (pictures, [0, 1, 2]), out=tmp_path / "chosen", methods="grad_cam", metrics="ic")
    assert again.complete and again.manifest["settings"] == first.manifest["settings"]


@pytest.mark.parametrize("field", [{"size": 0}, {"size": 10**9}, {"resize": "crop"}, {"interpolation": "x"},
                                   {"std": (0, 1, 1)}, {"mean": (float("nan"),) * 3}, {"scale": 0},
                                   {"std": (-1, 1, 1)}, {"scale": -255}, {"scale": 1},
                                   {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}])  # fmt: skip
def test_preprocessing_that_makes_no_input(field):
    with pytest.raises(JaxcamError):
        jaxcam.Preprocessing(**field)


@pytest.mark.parametrize(("mean", "std", "scale"), [
    ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), 1), ((103.939, 116.779, 123.68), 1, 1), (0, 1, 1), (0, 1, 255),
    (0.5, 0.5, 255), (127, 128, 1), (1, 1, 127.5), (0, 255, 1), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255),
])  # fmt: skip
def test_the_preprocessings_that_people_use(mean, std, scale):
    made = jaxcam.Preprocessing(mean=mean, std=std, scale=scale)
    pixels = np.full((1, 1, 3), 255, np.uint8)
    expected = (255 / scale - np.asarray(mean)) / np.asarray(std)
    np.testing.assert_allclose(made.normalize(pixels)[0, 0], np.broadcast_to(expected, 3), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_and_pickles_with_two_meanings(tmp_path):
    path = ff.write_zip(tmp_path / "w.pth", STATE)
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("archive/data/0", bytes(12))
    with pytest.raises(JaxcamError, match="two of its members have one name"):
        convert(path)
    path = ff.write_zip(tmp_path / "w.pth", STATE)
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("other/data.pkl", ff.wrapped(ff.table(STATE), None))
    with pytest.raises(JaxcamError, match="holds two descriptions"):
        convert(path)
    pickled = b"\x80\x04}(" + ff.text("sizes") + b"(K\x01K\x02\x91" + ff.text("model") + ff.table(STATE) + b"u."
    assert convert(ff.write_zip(tmp_path / "w.pth", STATE, pickled=pickled)).params
    with pytest.raises(JaxcamError, match="instruction b'F' of pickle"):
        convert(ff.write_zip(tmp_path / "w.pth", STATE, pickled=b"\x80\x02F1.5\n."))


def test_nothing_for_a_name(tmp_path, monkeypatch, capsys):
    """What an empty variable in a script makes of a command is no folder, least of all the current one."""
    monkeypatch.chdir(tmp_path)
    for command in (["explain", "", "--out", "x"], ["explain", "a.png", "--out", ""], ["report", ""]):
        assert main(command) == 2
        assert "is given as nothing" in capsys.readouterr().err
    assert main(["explain", "--example", "--model", "a" * 400]) == 2
    assert "no model called" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
