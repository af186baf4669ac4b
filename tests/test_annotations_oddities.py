"""Annotations as tools write them: used right, or told; one bad instance never takes the others away."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from jaxcam.data.evaluation import load_dataset
from jaxcam.errors import JaxcamError

PICTURE = Image.fromarray(np.zeros((80, 100, 3), np.uint8))
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
BOX = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20]}
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}]
CAT = {"cat": [[10, 10, 30, 30]]}


def coco(root, images, annotations, file="instances.json"):
    (root / file).parent.mkdir(exist_ok=True)
    for i in images:
        PICTURE.save((root / file).parent / i["file_name"])
    (root / file).write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return load_dataset(root)


def boxes(data) -> dict:
    return {data.classes[k]: b.tolist() for item in data.items for k, b in item.boxes.items()}


@pytest.mark.parametrize("size", [(-1, -1), (0, 0), ("100", "80"), (100.0, 80.0), (None, None), ("?", [])])
def test_sizes_that_tools_do_not_know(tmp_path, size):
    data = coco(tmp_path, [IMAGE | dict(zip(("width", "height"), size, strict=True))], [BOX])
    assert boxes(data) == CAT and not data.problems


def test_two_rows_for_a_file_are_put_together(tmp_path):
    second = {"id": 2, "image_id": 2, "category_id": 90, "bbox": [50, 10, 20, 20]}
    data = coco(tmp_path, [IMAGE, IMAGE | {"id": 2}], [BOX, second])
    assert len(data) == 1 and boxes(data) == CAT | {"dog": [[50, 10, 70, 30]]}
    told = coco(tmp_path, [IMAGE, IMAGE | {"id": 2, "width": 50}], [BOX, second])
    assert [p.kind for p in told.problems] == ["picture with two sizes"]
    assert [p.kind for p in coco(tmp_path, [IMAGE, IMAGE], [BOX]).problems] == ["picture id given twice"]


@pytest.mark.parametrize(("value", "crowd"), [("0", False), ("false", False), ("1", True), (True, True), (0.0, False)])
def test_iscrowd_as_text(tmp_path, value, crowd):
    second = {"id": 2, "image_id": 1, "category_id": 90, "bbox": [50, 10, 20, 20]}
    data = coco(tmp_path, [IMAGE], [BOX | {"iscrowd": value}, second])
    assert ("cat" in boxes(data)) is not crowd and "dog" in boxes(data)


@pytest.mark.parametrize(
    ("lacking", "why"),
    [
        ({"segmentation": []}, "annotation without box"),
        ({"bbox": None}, "bad box"),
        ({"bbox": []}, "bad box"),
        ({"bbox": [1, 2]}, "bad box"),
        ({"category_id": 77, "bbox": [1, 2, 3, 4]}, "bad box"),
    ],
)
def test_one_instance_without_a_box_is_told_and_the_rest_is_used(tmp_path, lacking, why):
    data = coco(tmp_path, [IMAGE], [BOX, {"id": 2, "image_id": 1, "category_id": 90} | lacking, "no table"])
    assert boxes(data) == CAT
    assert [p.kind for p in data.problems] == [why, "annotation without box"]


def test_an_outline_gives_the_box(tmp_path):
    outline = {"id": 2, "image_id": 1, "category_id": 90, "segmentation": [[1, 1, 9, 1, 9, 9], [20, 30, 21, 31]]}
    assert boxes(coco(tmp_path, [IMAGE], [BOX, outline])) == CAT | {"dog": [[1, 1, 21, 31]]}


@pytest.mark.parametrize(
    "file", ["_annotations.coco.json", "valid/_annotations.coco.json", "train/_annotations.coco.json"]
)
def test_roboflow(tmp_path, file):
    data = coco(tmp_path, [IMAGE], [BOX], file=file)
    assert data.kind == "coco" and boxes(data) == CAT


def test_several_boxes_in_a_voc_object(tmp_path):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    PICTURE.save(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\n")
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>".format
    several = box(11, 11, 20, 20) + box(41, 41, 60, 60) + box(9, 9, 2, 2)
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation><object><name>car</name>{several}</object></annotation>")
    data = load_dataset(tmp_path)
    assert boxes(data) == {"car": [[10, 10, 20, 20], [40, 40, 60, 60]]}
    assert [p.kind for p in data.problems] == ["bad box"]


def test_shares_in_a_csv_are_told(tmp_path):
    (tmp_path / "cat").mkdir()
    PICTURE.save(tmp_path / "cat/a.jpg")
    file = tmp_path / "boxes.csv"
    file.write_text("image,wnid,x0,y0,x1,y1\na.jpg,cat,0.1,0.2,0.5,0.9\na.jpg,cat,0,0,9,9\n")
    data = load_dataset(tmp_path)
    assert boxes(data) == {"cat": [[0, 0, 9, 9]]}
    assert "shares of the picture" in data.problems[0].why
    file.write_text("image,wnid,x0,y0,x1,y1\na.jpg,cat,0.1,0.2,0.5,0.9\n")
    with pytest.raises(JaxcamError, match="shares of the picture"):
        load_dataset(tmp_path)
