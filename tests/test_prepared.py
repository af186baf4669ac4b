"""Data sets that other libraries wrote: the pictures, classes and boxes of the folder that they were made of."""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import sys

import numpy as np
import pytest
from evaluations import pictures, tiny
from networks import CLASSES

import jaxcam
from jaxcam.cli import main
from jaxcam.data.evaluation import SOURCES, load_dataset, recognised
from jaxcam.data.examples import parse_example
from jaxcam.data.images import to_picture
from jaxcam.data.loader import stream
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate, read_run
from jaxcam.evaluate.gallery import Gallery
from jaxcam.evaluate.statistics import cube

RULES = jaxcam.Preprocessing(size=32)
#: `(x0, y0, x1, y1)` of the object in every picture, which is 40 x 36 pixels or more.
BOX = (4.0, 6.0, 20.0, 30.0)
FIXTURES = {"hf": "hf", "tfds": "tfds", "array-record": "array_records"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Four classes of two pictures, one of which is broken."""
    return pictures(tmp_path_factory.mktemp("data") / "set", 2)


@pytest.fixture(scope="module")
def files(folder) -> list[pathlib.Path]:
    return sorted(folder.rglob("*.png"), key=lambda file: (CLASSES.index(file.parent.name), file.name))


def size_of(file: pathlib.Path) -> tuple[int, int]:
    """From the PNG's header, which the broken one has, too."""
    data = file.read_bytes()
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.fixture(scope="module")
def hf(files, tmp_path_factory) -> pathlib.Path:
    """Two splits by Hugging Face's library; of the first one picture."""
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'jaxcam-xai[hf]'")
    names = datasets.ClassLabel(names=list(CLASSES))
    objects = {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), 4)), "category": [names]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": names, "objects": objects, "note": datasets.Value("string")}
    )
    x0, y0, x1, y1 = BOX
    rows = [
        {
            "image": {"bytes": file.read_bytes(), "path": None}, "label": CLASSES.index(file.parent.name),
            "objects": {"bbox": [[x0, y0, x1 - x0, y1 - y0]], "category": [CLASSES.index(file.parent.name)]},
            "note": file.name,
        }
        for file in files
    ]  # fmt: skip
    whole = datasets.Dataset.from_list(rows, features=features)
    out = tmp_path_factory.mktemp("hf") / "pictures"
    datasets.DatasetDict({"train": whole.select([0]), "validation": whole}).save_to_disk(out)
    return out


def write_tfds(out: pathlib.Path, called: str, features, splits: dict[str, list[dict]]) -> pathlib.Path:
    """A data set as TFDS prepares it."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs TFDS: pip install 'jaxcam-xai[tfds]'")
    pytest.importorskip("array_record", reason="needs array-record: pip install 'jaxcam-xai[tfds]'")

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = called
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features(tfds.features))

        def _split_generators(self, manager):
            return {name: self._generate_examples(rows) for name, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    builder = Pictures(data_dir=str(out), file_format="array_record")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


@pytest.fixture(scope="module")
def tfds(files, tmp_path_factory) -> pathlib.Path:
    def features(kinds):
        names = kinds.ClassLabel(names=list(CLASSES))
        marked = kinds.Sequence({"bbox": kinds.BBoxFeature(), "label": names, "is_crowd": np.bool_})
        return kinds.FeaturesDict({"image": kinds.Image(encoding_format="png"), "label": names, "objects": marked})

    module = pytest.importorskip("tensorflow_datasets", reason="needs TFDS: pip install 'jaxcam-xai[tfds]'")
    rows = []
    for file in files:
        w, h = size_of(file)
        box = module.features.BBox(ymin=BOX[1] / h, xmin=BOX[0] / w, ymax=BOX[3] / h, xmax=BOX[2] / w)
        label = CLASSES.index(file.parent.name)
        whole = module.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)
        objects = [{"bbox": box, "label": label, "is_crowd": False}, {"bbox": whole, "label": label, "is_crowd": True}]
        rows.append({"image": str(file), "label": label, "objects": objects})
    return write_tfds(tmp_path_factory.mktemp("tfds"), "pictures", features, {"train": rows[:1], "validation": rows})


def example(**features: bytes | int | list) -> bytes:
    """A `tf.train.Example`, written byte by byte."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    def varint(value: int) -> bytes:
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

    entries = b""
    for name, value in features.items():
        listed = value if isinstance(value, list) else [value]
        if isinstance(listed[0], int):
            feature = field(3, field(1, b"".join(map(varint, listed))))
        else:
            feature = field(1, b"".join(field(1, one) for one in listed))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_array_records(file: pathlib.Path, records: list[bytes]) -> pathlib.Path:
    module = pytest.importorskip(
        "array_record.python.array_record_module", reason="needs array-record: pip install 'jaxcam-xai[array-record]'"
    )
    writer = module.ArrayRecordWriter(str(file), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return file


@pytest.fixture(scope="module")
def array_records(files, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("records")
    records = [example(image=file.read_bytes(), label=file.parent.name.encode()) for file in files]
    write_array_records(out / "val.array_record-00000-of-00002", records[:3])
    write_array_records(out / "val.array_record-00001-of-00002", records[3:])
    return out


def assert_same_pictures(data, files, boxed: bool) -> None:
    """Pixels, classes and boxes; one of the pictures is broken, the order any."""
    seen = {one.error is None and one.pixels.tobytes(): one for one in stream(data.for_classes(CLASSES).items, RULES)}
    assert len(seen) == len(files)
    for one in stream(load_dataset(files[0].parent.parent).for_classes(CLASSES).items, RULES):
        same = seen[one.error is None and one.pixels.tobytes()]
        assert same.item.labels == one.item.labels and same.item.picture.size == one.item.path.stat().st_size
        if boxed and one.error is None:
            boxes = same.boxes[one.item.labels[0]]
            w, h = one.picture_size
            left, top, right, bottom = RULES.region(w, h)
            scale = 32 / (right - left)
            wanted = np.clip((np.asarray(BOX) - (left, top, left, top)) * scale, 0, 32)
            np.testing.assert_allclose(boxes, [wanted], atol=1e-4)


@pytest.mark.parametrize("kind", FIXTURES)
def test_the_pictures_are_those_of_the_folder(request, kind, files):
    place = request.getfixturevalue(FIXTURES[kind])
    assert recognised(str(place)) == kind
    data = load_dataset(place)
    assert data.kind == kind and data.place == str(place.resolve()) and not data.multi_label
    assert_same_pictures(data, files, boxed=kind != "array-record")
    again = load_dataset(place, kind=kind)
    assert again.digest == data.digest
    sent = pickle.loads(pickle.dumps(data.items))  # to a process that decodes, or to a worker of a cluster
    assert [x.error is None for x in stream(sent, RULES)] == [x.error is None for x in stream(data.items, RULES)]


@pytest.mark.parametrize("kind", ["hf", "tfds"])
def test_splits(request, kind):
    place = request.getfixturevalue(kind)
    assert load_dataset(place).split == "validation"
    train = load_dataset(place, split="train")
    assert len(train) == 1 and train.split == "train" and train.digest != load_dataset(place).digest
    with pytest.raises(JaxcamError, match="no split called 'trian'; did you mean train"):
        load_dataset(place, split="trian")
    with pytest.raises(JaxcamError, match="the boxes of its own records"):
        load_dataset(place, boxes="boxes.csv")


def test_crowds_count_where_they_are_asked_for(tfds):
    [label] = load_dataset(tfds).items[0].labels
    assert len(load_dataset(tfds).items[0].boxes[label]) == 1
    assert len(load_dataset(tfds, include_hard=True).items[0].boxes[label]) == 2


@pytest.mark.parametrize("kind", FIXTURES)
def test_an_evaluation_and_its_page(request, kind, folder, tmp_path):
    """The table of the folder; and pictures for a report, of the split that was evaluated."""
    place = request.getfixturevalue(FIXTURES[kind])
    how = {"methods": "grad_cam", "metrics": "ic", "batch_size": 4}
    data = load_dataset(place, split=None if kind == "array-record" else "validation")
    run = evaluate(tiny(), data, out=tmp_path / "run", **how)
    here = evaluate(tiny(), folder, out=tmp_path / "here", **how)
    assert run.complete and len(run.broken) == 1
    np.testing.assert_array_equal(np.sort(run.columns["score"]), np.sort(here.columns["score"]))
    gallery = Gallery(read_run(tmp_path / "run"), cube(run))
    assert gallery.missing is None and gallery.cases(np.arange(2), 1)


@pytest.mark.parametrize("kind", FIXTURES)
def test_the_command_line(request, kind, tmp_path, capsys, monkeypatch):
    place = request.getfixturevalue(FIXTURES[kind])
    split = [] if kind == "array-record" else ["--split", "validation"]
    words = ["evaluate", str(place), *split, "--kind", kind, "--out", str(tmp_path / "run"), "--methods", "grad_cam"]
    asked = []  # nobody names a network: a small one stands in for the default, which takes long to compile
    monkeypatch.setattr("jaxcam.zoo.load.load", lambda name, weights=None: asked.append((name, weights)) or tiny())
    assert main([*words, "--metrics", "ic", "--batch-size", "4", "--keep", "none"]) == 1  # a picture is broken
    told = capsys.readouterr()
    assert asked == [(None, None)]
    boxes = "0 boxes" if kind == "array-record" else "8 boxes"
    assert f"{place}: 8 pictures ({kind}), 8 labels of 4 classes, {boxes}" in told.out
    assert "7 maps of 8 pictures" in told.out and "1 of 8 pictures could not be used" in told.err
    if split:
        assert main([*words, "--split", "none"]) == 2
        assert "no split called 'none'" in capsys.readouterr().err


def test_one_split_of_hugging_faces_and_a_name(hf, files, folder, monkeypatch):
    data = load_dataset(hf / "validation")
    assert data.split is None
    assert_same_pictures(data, files, boxed=True)
    with pytest.raises(JaxcamError, match="has no splits"):
        load_dataset(hf / "validation", split="train")
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *given: asked.append(given) or datasets.load_from_disk(hf))
    named = load_dataset("hf://owner/pictures:small", split="train")
    assert asked == [("owner/pictures", "small")] and named.url == "hf://owner/pictures:small"
    assert named.root.name == "pictures" and named.split == "train"
    assert recognised("hf://datasets/owner/pictures/val") == "url"


def save(tmp_path, rows, features=None) -> pathlib.Path:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'jaxcam-xai[hf]'")
    made = datasets.Dataset.from_list(rows, features=features and datasets.Features(features(datasets)))
    made.save_to_disk(tmp_path / "set")
    return tmp_path / "set"


def png() -> bytes:
    buffer = io.BytesIO()
    to_picture(np.zeros((8, 6, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_classes_by_name_by_number_and_by_objects(tmp_path):
    picture = {"bytes": png(), "path": None}
    data = load_dataset(save(tmp_path / "a", [{"image": picture, "label": c} for c in ("cat", "ant", None, "cat")]))
    assert data.classes == ("ant", "cat") and [i.labels for i in data.items] == [(1,), (0,), (1,)]
    assert [(p.kind, p.name) for p in data.problems] == [("picture without class", "000002")]
    data = load_dataset(save(tmp_path / "b", [{"image": picture, "labels": c} for c in ([2, 0], [1], [])]))
    assert data.multi_label and [i.labels for i in data.items] == [(0, 2), (1,)]
    assert data.for_classes(CLASSES).classes == CLASSES
    rows = [
        {
            "image": picture,
            "objects": [{"bbox": [0, 0, 2, 3], "category": "cat"}, {"bbox": [1, 1, 0, 3], "category": "ant"}],
        },
        {"image": picture, "objects": []},
    ]
    data = load_dataset(save(tmp_path / "c", rows))
    assert data.multi_label and data.items[0].labels == (0, 1) and data.items[0].boxes[1].tolist() == [[0, 0, 2, 3]]
    assert [p.kind for p in data.problems] == ["bad box", "picture without class"]
    data = load_dataset(save(tmp_path / "d", [{"image": picture, "label": "cat", "bbox": [1, 2, 3, 4]}]))
    assert data.items[0].boxes[0].tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"picture": "x", "label": 1}, r"has no column of the picture \(image\); its columns are picture, label"),
        ({"image": "x", "kind": 1}, r"has no column of the class \(label, or .*\); its columns are image, kind"),
        ({"image": "x", "label": None}, "holds no picture with a class; picture without class: 1: 000000"),
    ],
)
def test_columns_that_are_not_there(tmp_path, row, why):
    with pytest.raises(JaxcamError, match=why) as e:
        load_dataset(save(tmp_path, [row]))
    assert "\n" not in str(e.value)


def test_pictures_that_cannot_be_fetched_are_named(tmp_path):
    rows = [
        {"image": {"bytes": b, "path": p}, "label": 0}
        for b, p in ((None, None), (b"x", None), (None, "none.png"), (png(), None))
    ]
    data = load_dataset(save(tmp_path, rows))
    errors = [one.error for one in stream(data.items, RULES)]
    assert [e is None for e in errors] == [False, False, False, True] and "holds no picture" in errors[0]


def test_tfds_that_is_not_random_access(tfds, tmp_path):
    for file in tfds.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info = tmp_path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(JaxcamError, match="stored as tfrecord.* prepare it with file_format='array_record'"):
        load_dataset(tmp_path)
    info.write_text(json.dumps([]))
    with pytest.raises(JaxcamError, match="cannot be read") as e:
        load_dataset(tmp_path)
    assert "\n" not in str(e.value)


def test_tfds_with_numbers_for_classes(tmp_path):
    def features(kinds):
        return kinds.FeaturesDict(
            {"image": kinds.Image(encoding_format="png"), "label": kinds.ClassLabel(num_classes=3)}
        )

    made = write_tfds(tmp_path, "numbered", features, {"test": [{"image": io.BytesIO(png()), "label": 2}]})
    assert load_dataset(made).for_classes(CLASSES).items[0].labels == (2,)


def test_array_records_of_numbers_and_of_something_else(tmp_path):
    file = write_array_records(
        tmp_path / "a.array_record", [example(image=png(), label=[3, 200]), example(image=png())]
    )
    data = load_dataset(file)
    assert data.items[0].labels == (3, 200) and len(data.classes) == 201
    assert [p.kind for p in data.problems] == ["picture without class"]
    named = write_array_records(
        tmp_path / "b.array_record", [example(**{"image/encoded": png(), "image/class/synset": b"n01440764"})]
    )
    assert load_dataset(str(named.parent / "b.array_r*")).classes == ("tench",)
    other = write_array_records(tmp_path / "c.array_record", [b"\xff\xff"])
    with pytest.raises(JaxcamError, match=r"a record is no tf\.train\.Example"):
        load_dataset(other)
    lacking = write_array_records(tmp_path / "d.array_record", [example(image=png(), x=1)])
    with pytest.raises(JaxcamError, match=r"no column of the class \(label\); its columns are image, x"):
        load_dataset(lacking)
    with pytest.raises(JaxcamError, match="not by a split"):
        load_dataset(file, split="val")
    with pytest.raises(JaxcamError, match="there is no ArrayRecord file"):
        load_dataset(tmp_path / "none", kind="array-record")
    assert parse_example(b"") == {}


@pytest.mark.parametrize("kind", FIXTURES)
def test_what_to_install_is_said(kind, monkeypatch):
    for name in ("datasets", "tensorflow_datasets", "array_record.python.array_record_data_source"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(JaxcamError, match=rf"nowhere: needs \w+: pip install 'jaxcam-xai\[{kind}\]'$"):
        load_dataset("nowhere", kind=kind)
    assert not SOURCES[kind].local
