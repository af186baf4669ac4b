"""Pictures elsewhere: the data set of a folder, whether its pictures lie in shards, in a bucket or in a source."""

from __future__ import annotations

import io
import os
import pathlib
import tarfile

import fsspec
import numpy as np
import pytest
from evaluations import pictures, tiny
from networks import CLASSES

import jaxcam
from jaxcam.data.evaluation import load_dataset
from jaxcam.data.images import to_picture
from jaxcam.data.loader import in_order, stream
from jaxcam.data.remote import from_source, read_shards
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate, read_run
from jaxcam.evaluate.gallery import Gallery
from jaxcam.evaluate.statistics import cube

RULES = jaxcam.Preprocessing(size=32)
BROKEN = f"{CLASSES[1]}/1.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Four classes of two pictures, one of which is broken."""
    return pictures(tmp_path_factory.mktemp("data") / "set", 2)


def write_tar(file, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> pathlib.Path:
    """The same in two shards."""
    out = tmp_path_factory.mktemp("shards")
    found = sorted(folder.rglob("*.png"))
    for i in range(2):
        write_tar(out / f"s-{i:02}.tar", {p.relative_to(folder).as_posix(): p.read_bytes() for p in found[i::2]})
    return out


def assert_same_pictures(data, folder) -> None:
    expected = load_dataset(folder)
    assert [i.name for i in data.items] == [i.name for i in expected.items]
    assert [i.labels for i in data.items] == [i.labels for i in expected.items] and data.classes == expected.classes
    for one, other in zip(stream(data.items, RULES), stream(expected.items, RULES), strict=True):
        assert bool(one.error) == bool(other.error) == (one.item.name == BROKEN)
        np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("name", ["", "s-00.tar", "s-*.tar", "s-{00..01}.tar", "file"])
def test_shards_are_the_folder_that_was_packed(folder, shards, name):
    place = f"file://{shards}" if name == "file" else str(shards / name)
    data = load_dataset(place)
    assert data.kind == "tar" and data.place == place
    if name == "s-00.tar":
        assert len(data) == 4
    else:
        assert_same_pictures(data, folder)


def test_classes_of_shards_by_number_by_name_and_by_folder(tmp_path):
    buffer = io.BytesIO()
    to_picture(np.zeros((4, 4, 3), np.uint8)).save(buffer, "PNG")
    png = buffer.getvalue()
    write_tar(tmp_path / "a.tar", {"x/0.png": png, "x/0.cls": b"3\n", "1.seg.png": png, "1.cls": b"0", "2.png": png})
    data = load_dataset(tmp_path / "a.tar")
    assert [(i.name, i.labels) for i in data.items] == [("1.seg.png", (0,)), ("x/0.png", (3,))]
    assert [(p.kind, p.name) for p in data.problems] == [("picture without class", "2.png")]
    assert data.for_classes(CLASSES).items[1].labels == (3,) and data.for_classes(CLASSES).classes == CLASSES
    with pytest.raises(JaxcamError, match="3"):
        data.for_classes(CLASSES[:3])
    write_tar(tmp_path / "b.tar", {"0.png": png, "0.cls": CLASSES[2].encode(), "2.png": png, "2.cls": b"cat"})
    both = load_dataset(tmp_path / "{a,b}.tar".replace("{a,b}", "*"))
    assert [i.name for i in both.items] == ["0.png", "1.seg.png", "b.tar/2.png", "x/0.png"]
    assert load_dataset(tmp_path / "b.tar").classes == ("cat", CLASSES[2]) or CLASSES[2] < "cat"


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("x.tar", b"none" * 400, "is not a tar file, is compressed, or is cut off"),
        ("x.tar", b"", "is not a tar file|holds no picture"),
        ("none-{00..01}.tar", None, "none-00.tar: there is no such file"),
        ("none-*.tar", None, "there is no such file"),
        ("none-{0..99999999}.tar", None, "names more than 1,000,000 files"),
    ],
)
def test_shards_that_are_none(tmp_path, name, data, why):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(JaxcamError, match=why) as e:
        load_dataset(tmp_path / name)
    assert "\n" not in str(e.value)


def test_mistakes(shards, folder):
    with pytest.raises(JaxcamError, match="not by a split"):
        read_shards(str(shards), split="val")
    with pytest.raises(JaxcamError, match="is read without boxes"):
        load_dataset(shards, boxes=folder)
    with pytest.raises(JaxcamError, match="nowhere://bucket: .*nowhere"):
        load_dataset("nowhere://bucket")
    with pytest.raises(JaxcamError, match="no kind of data set called 'tarr'; did you mean tar"):
        load_dataset(shards, kind="tarr")


def test_a_folder_behind_a_url_and_its_parts(folder):
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*.png"):
        memory.pipe(f"/bucket/val/{path.relative_to(folder).as_posix()}", path.read_bytes())
    memory.pipe("/bucket/train/cat/0.png", b"")
    data = load_dataset("memory://bucket")
    assert data.url == "memory://bucket/val"
    assert_same_pictures(data, folder)
    assert data.digest != load_dataset("memory://bucket", split="train").digest
    with pytest.raises(JaxcamError, match="has no folder 'tset'"):
        load_dataset("memory://bucket", split="tset")
    [lost] = [i for i in data.items if i.name == f"{CLASSES[0]}/0.png"]
    memory.rm(lost.picture.path)
    [loaded] = stream([lost], RULES)
    assert "cannot be read" in loaded.error and "\n" not in loaded.error
    [empty] = stream(load_dataset("memory://bucket", split="train").items, RULES)
    assert "is empty" in empty.error


@pytest.fixture
def bucket(folder, shards, monkeypatch):
    """An object store on this machine, with the pictures and their shards."""
    server = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install 'jaxcam-xai[s3]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    url = "http://{}:{}".format(*running.get_host_and_port())
    for name, value in {
        "ENDPOINT_URL": url,
        "ACCESS_KEY_ID": "k",
        "SECRET_ACCESS_KEY": "s",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setitem(os.environ, "no_proxy", "127.0.0.1")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("pictures")
    fs.put(str(folder), "pictures/val", recursive=True)
    for file in shards.iterdir():
        fs.put_file(str(file), f"pictures/shards/{file.name}")
    yield fs
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket(bucket, folder, tmp_path):
    """Folder, shards, and an evaluation of both: the same table as of the folder on this machine."""
    assert_same_pictures(load_dataset("s3://pictures/val"), folder)
    assert_same_pictures(load_dataset("s3://pictures/shards/s-{00..01}.tar"), folder)
    assert_same_pictures(load_dataset("s3://pictures/shards"), folder)
    with pytest.raises(JaxcamError, match="s3://nowhere"):
        load_dataset("s3://nowhere/val")
    net, how = tiny(), {"methods": "grad_cam", "metrics": "ic", "batch_size": 4}
    here = evaluate(net, folder, out=tmp_path / "here", **how)
    there = evaluate(net, "s3://pictures/shards", out=tmp_path / "there", **how)
    for name in ("image", "ic", "score"):
        np.testing.assert_array_equal(there.columns[name], here.columns[name])
    assert list(there.broken) == list(here.broken) == [BROKEN]
    gallery = Gallery(read_run(tmp_path / "there"), cube(there))
    assert gallery.missing is None and gallery.cases(np.arange(2), 1)


class Records:
    """A random-access source."""

    def __init__(self, folder):
        self.files = sorted(folder.rglob("*.png"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return {
            "image": self.files[index].read_bytes(),
            "label": np.asarray(CLASSES.index(self.files[index].parent.name)),
        }


def test_a_random_access_source(folder):
    source = Records(folder)
    data = from_source(source, classes=CLASSES)
    assert len(data) == 8 and data.items[7].labels == (CLASSES.index(source.files[7].parent.name),)
    errors = [x.error for x in stream(data.items, RULES)]
    assert sum(e is not None for e in errors) == 1
    same = from_source(
        source, classes=CLASSES, picture=lambda r: r["image"], labels=[source[i]["label"] for i in range(8)]
    )
    assert [i.labels for i in same.items] == [i.labels for i in data.items] and same.digest == data.digest
    with pytest.raises(JaxcamError, match="cannot be read .*clas"):
        from_source(source, classes=CLASSES, label="clas")


def test_array_records_by_grain(folder, tmp_path):
    sources = pytest.importorskip("grain.sources", reason="needs Grain: pip install grain array-record")
    record = pytest.importorskip("array_record.python.array_record_module", reason="needs array-record")
    writer = record.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    own = Records(folder)
    for i in range(len(own)):
        writer.write(bytes([int(own[i]["label"])]) + own[i]["image"])
    writer.close()
    source = sources.ArrayRecordDataSource([str(tmp_path / "x.array_record")])
    data = from_source(source, classes=CLASSES, picture=lambda r: r[1:], label=lambda r: r[0])
    for one, other in zip(stream(data.items, RULES), stream(load_dataset(folder).items, RULES), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def _ended(item):
    os._exit(1)


def test_decoding_in_processes_is_decoding_in_threads(shards):
    data = load_dataset(shards)
    inside = list(stream(data.items, RULES, processes=2))
    for one, other in zip(inside, stream(data.items, RULES), strict=True):
        assert (one.index, one.item.name, one.error) == (other.index, other.item.name, other.error)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    with pytest.raises(JaxcamError, match="a process that decodes pictures was ended"):
        list(in_order(_ended, range(2), processes=1))
    with pytest.raises(JaxcamError, match="cannot be given to a process"):
        list(in_order(lambda i: i, range(2), processes=1))
