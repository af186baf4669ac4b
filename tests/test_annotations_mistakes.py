"""Broken data sets: one clear line where there is no going on, a named problem where there is."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from evaluation_sets import WNIDS, class_folders, coco, coco_content, save, voc, xml

from jaxcam.data.evaluation import load_dataset
from jaxcam.data.images import open_image
from jaxcam.data.loader import stream
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError

RULES = Preprocessing(size=16, resize="squash")


def kinds(data):
    return sorted((p.kind, p.name) for p in data.problems)


def test_folders_that_hold_no_data_set(tmp_path):
    def refuses(why, path=tmp_path, **options):
        with pytest.raises(JaxcamError, match=why) as e:
            load_dataset(path, **options)
        assert "\n" not in str(e.value)

    refuses("there is no such folder", tmp_path / "gone")
    refuses("is empty")
    (tmp_path / "text.txt").write_text("")
    refuses("holds no pictures")
    refuses("is a file; give the data set's folder", tmp_path / "text.txt")
    refuses("no kind of data set called 'vok'; did you mean voc", kind="vok")
    refuses("is no VOC devkit", kind="voc")
    refuses("instances.json: there is no such file", kind="coco")
    save(tmp_path / "a.jpg")
    refuses("pictures without class folders, and no Annotations or boxes.csv")
    refuses("has no folder 'val2'", split="val2")
    (tmp_path / "Annotations").mkdir()
    refuses("Annotations: holds no XML annotation")
    xml(tmp_path / "Annotations" / "a.xml", [])
    refuses("none of its 1 pictures has a class in")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("image,wnid,x0,y0,x1\na,b,1,2,3\n", "lacks the column y1; boxes are image,wnid,x0,y0,x1,y1"),
        ("a,b,1,2,3,4\n", "lacks the column image and wnid"),
        ("", "lacks the column image"),
        ("image,wnid,x0,y0,x1,y1\n", "holds no box"),
        ("image,wnid,x0,y0,x1,y1\na,b,1,2,x,4\n", r"holds no box; boxes.csv, line 2: the box \(1, 2, x, 4\) is"),
        (b"image,wnid,x0\xff", "cannot be read"),
    ],
)  # fmt: skip
def test_csv_files_that_are_none(tmp_path, content, why):
    class_folders(tmp_path, count=1)
    (tmp_path / "boxes.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(JaxcamError, match=why):
        load_dataset(tmp_path)


def test_rows_that_are_no_boxes_are_named(tmp_path):
    class_folders(tmp_path, count=1)
    name = f"{WNIDS[0]}/{WNIDS[0]}_0.JPEG"
    rows = ["1,2,9,8", "1,x,9,8", "1,2,nan,8", "9,2,1,8", "1,2,9", "100,100,120,130", "30,20,300,200"]
    lines = "".join(f"{name},{WNIDS[0]},{row}\n" for row in rows)
    (tmp_path / "boxes.csv").write_text("image,wnid,x0,y0,x1,y1\n" + lines)
    data = load_dataset(tmp_path)
    why = [p.why for p in data.problems if p.kind == "bad box"]
    assert [w.split(": ")[0] for w in why] == [f"boxes.csv, line {n}" for n in (3, 4, 5, 6)]
    assert [w.split(") ")[1] for w in why] == [
        "is not four numbers", "holds NaN or infinite values", "is inverted or empty", "is not four numbers",
    ]  # fmt: skip
    # How large the picture is shows only when it is read: one box is clipped, one lies wholly outside.
    one = next(stream(data.items, RULES))
    np.testing.assert_allclose(one.boxes[0], [[0.4, 16 / 15, 3.6, 64 / 15], [12, 32 / 3, 16, 16]], rtol=1e-5)
    assert [(p.kind, p.why) for p in one.problems] == [
        ("box outside the picture", "(100, 100, 120, 130) in 40 x 30 pixels")
    ]


def test_broken_voc(tmp_path):
    root = voc(tmp_path)
    (root / "Annotations" / "1.xml").write_text("<annotation><object>")
    (root / "Annotations" / "4.xml").unlink()
    (root / "JPEGImages" / "3.jpg").unlink()
    xml(root / "Annotations" / "2.xml", [("dog", ("nan", 1, 5, 5), 0), ("dog", (9, 1, 5, 5), 0), ("cow", None, 0),
                                         ("dog", (50, 50, 60, 60), 0), ("dog", (1, 1, 90, 90), 0)])  # fmt: skip
    data = load_dataset(root)
    assert kinds(data) == [
        ("annotation without picture", "3.xml"), ("bad box", "JPEGImages/2.jpg"), ("bad box", "JPEGImages/2.jpg"),
        ("box outside the picture", "JPEGImages/2.jpg"), ("broken annotation", "1.xml"),
        ("picture without annotation", "4.jpg"), ("unknown class", "JPEGImages/2.jpg"),
    ]  # fmt: skip
    assert [i.labels for i in data.items] == [(1,)] and data.items[0].boxes[1].tolist() == [[0, 0, 40, 30]]
    lines = data.summary()
    assert "1 picture (voc), 1 labels of 1 classes, 1 box" in lines[0] and len(lines) == 7
    assert any(line.startswith("bad box: 2: JPEGImages/2.jpg (dog: the box") for line in lines)
    (root / "Annotations" / "2.xml").write_text("no xml")
    with pytest.raises(JaxcamError, match="holds no picture with a label; broken annotation: 2: 1.xml .is not an XML"):
        load_dataset(root)


def test_broken_ilsvrc_annotation_leaves_the_picture(tmp_path):
    class_folders(tmp_path, count=1)
    (tmp_path / "empty").mkdir()
    for w in WNIDS:
        xml(tmp_path / "Annotations" / f"{w}_0.xml", [(w, (1, 1, 9, 9), 0)])
    (tmp_path / "Annotations" / f"{WNIDS[0]}_0.xml").write_text("")
    xml(tmp_path / "Annotations" / "stray.xml", [])
    data = load_dataset(tmp_path)
    assert [(i.labels, sorted(i.boxes)) for i in data.items] == [((0,), []), ((1,), [1])]
    assert kinds(data) == [
        ("annotation without picture", "stray.xml".removesuffix(".xml")), ("broken annotation", f"{WNIDS[0]}_0.xml"),
        ("class folder without pictures", "empty"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON, or is cut off"),
        ("[]", "is a list, such as a results file"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"caption": "x"}]}', "holds captions, no objects"),
        ('{"images": [{"id": 1}], "annotations": []}', "has no categories"),
        ('{"info": {}}', "has no images and no annotations and no categories"),
        ('{"images": [], "annotations": [], "categories": []}', "has no images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "picture 0: lacks 'file_name'"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "category_id": 1}], '
            '"categories": [{"id": 1, "name": "x"}]}',
            "annotation 0 lacks 'bbox'",
        ),
        ("gone", "none of its 3 pictures lies in"),
    ],
)
def test_coco_files_of_the_wrong_kind(tmp_path, content, why):
    (tmp_path / "instances.json").write_text(json.dumps(coco_content()) if content == "gone" else content)
    with pytest.raises(JaxcamError, match=why) as e:
        load_dataset(tmp_path)
    assert "\n" not in str(e.value)


def test_broken_coco(tmp_path):
    content = coco_content()
    extra = [
        {"image_id": 3, "category_id": 1, "bbox": [1, 2, "x", 4]},
        {"image_id": 3, "category_id": 1, "bbox": [1, 2, 0, 4]},
        {"image_id": 3, "category_id": 1, "bbox": [1, 2, float("nan"), 4]},
        {"image_id": 3, "category_id": 99, "bbox": [1, 2, 3, 4]},
        {"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"image_id": 3, "category_id": 1, "bbox": [50, 50, 5, 5]},
        {"image_id": 11, "category_id": 1, "bbox": [1, 1, 5, 5]},
    ]  # fmt: skip
    content["annotations"] += [{"id": 100 + i} | e for i, e in enumerate(extra)]
    content["images"].append({"id": 11, "file_name": "011.jpg"})
    coco(tmp_path, content)
    save(tmp_path / "val2017" / "stray.jpg")
    data = load_dataset(tmp_path)
    assert kinds(data) == [
        ("annotation without picture", "011.jpg"), ("annotation without picture", "99"), *[("bad box", "003.jpg")] * 4,
        ("box outside the picture", "003.jpg"), ("picture without annotation", "stray.jpg"),
        ("picture without label", "009.jpg"),
    ]  # fmt: skip
    assert data.items[0].boxes[0].tolist() == [[2, 3, 12, 8.5]]


def test_pictures_that_are_not_as_they_were_annotated(tmp_path):
    for name, size in (("1", (80, 60)), ("2", (30, 40)), ("3", (40, 30))):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", size)
        xml(tmp_path / "Annotations" / f"{name}.xml", [("cat", (11, 1, 20, 30), 0)])
    bigger, turned, same = stream(load_dataset(tmp_path).items, RULES)
    assert np.allclose(bigger.boxes[0], same.boxes[0]) and np.allclose(same.boxes[0], [[4, 0, 8, 16]])
    assert not turned.boxes and turned.problems[0].kind == "boxes of a turned picture" and turned.error is None


def test_a_truncated_picture_among_many(tmp_path):
    data = load_dataset(class_folders(tmp_path, count=20))
    broken = data.items[7].path
    broken.write_bytes(broken.read_bytes()[:-300])
    data.items[30].path.unlink()
    seen = list(stream(data.items, RULES, threads=3, ahead=5))
    assert [one.index for one in seen] == list(range(40)) and [one.item for one in seen] == list(data.items)
    bad = {one.index: one.error for one in seen if one.error}
    assert sorted(bad) == [7, 30] and "broken or cut off" in bad[7] and "no such file" in bad[30]
    assert all((one.pixels is None) == (one.index in bad) for one in seen)
    np.testing.assert_array_equal(seen[3].pixels, RULES.pixels(np.asarray(open_image(data.items[3].path))))
    with pytest.raises(JaxcamError, match="at least one thread"):
        stream(data.items, RULES, threads=0)


def test_decoding_is_bounded_and_stops_when_it_is_closed(tmp_path):
    data = load_dataset(class_folders(tmp_path, count=20))
    taken = []

    def items():
        for item in data.items:
            taken.append(item)
            yield item

    running = stream(items(), RULES, threads=2, ahead=4)
    for _ in range(3):
        next(running)
    assert len(taken) <= 3 + 4
    running.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("jaxcam-decode")]
