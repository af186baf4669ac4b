"""Boxes and outlines that other tools write: shares that look like pixels, a pixel, outlines without boxes, bombs."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from jaxcam.data.annotations import read_boxes_csv, read_coco, read_xml
from jaxcam.data.masks import Outlined
from jaxcam.errors import JaxcamError

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
MARK = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20]}


def coco(folder, *marks, image=IMAGE):
    content = {"images": [image], "annotations": list(marks), "categories": [{"id": 3, "name": "cat"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return read_coco(folder / "instances.json")


SHARES = (0.1, 0.2, 0.5, 0.9)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (-0.01, 0.2, 0.5, 0.9), (0.1, 0.1, 0.5, 1.02), (0.0, 0.25, 1.0, 1.0)])
def test_shares_of_the_whole_picture_or_a_little_beyond_it_are_no_pixels(tmp_path, box):
    rows = "".join(f"a.jpg,cat,{','.join(map(str, row))}\n" for row in (box, SHARES, (1, 2, 30, 40)))
    (tmp_path / "b.csv").write_text("image,wnid,x0,y0,x1,y1\n" + rows)
    good, problems = read_boxes_csv(tmp_path / "b.csv")
    assert [mark.box for _, mark in good] == [(1, 2, 30, 40)]
    assert ["shares of the picture" in p.why for p in problems] == [True, True]
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>cat</name><bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(corners, row, strict=True))
        + "</bndbox></object>"
        for row in (box, SHARES)
    )
    (tmp_path / "a.xml").write_text(f"<a>{objects}</a>")
    for first in (0, 1):
        found = read_xml(tmp_path / "a.xml", first_pixel=first)
        assert [o.box for o in found.objects] == [None, None] and len(found.faults) == 2
    bounds = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in (box, SHARES)]
    found = coco(tmp_path, *(MARK | {"bbox": b} for b in bounds))
    assert [o.box for o in found.pictures["a.jpg"].objects] == [None, None]
    assert ["shares of the picture" in p.why for p in found.problems] == [True, True]


def test_the_first_pixel_in_a_file_of_pixels_is_one(tmp_path):
    (tmp_path / "b.csv").write_text("image,wnid,x0,y0,x1,y1\na.jpg,cat,0,0,1,1\na.jpg,cat,1,2,30,40\n")
    assert len(read_boxes_csv(tmp_path / "b.csv")[0]) == 2


def test_the_first_and_last_pixel_of_voc_may_be_one(tmp_path):
    bounds = "<xmin>50</xmin><ymin>60</ymin><xmax>50</xmax><ymax>60</ymax>"
    (tmp_path / "a.xml").write_text(f"<a><object><name>cat</name><bndbox>{bounds}</bndbox></object></a>")
    assert read_xml(tmp_path / "a.xml", first_pixel=1).objects[0].box == (49, 59, 50, 60)
    assert "empty" in read_xml(tmp_path / "a.xml").faults[0]


def test_ids_are_one_however_they_are_written(tmp_path):
    for one, other in ((1, "1.0"), ("-1", -1), ("007", 7.0), ("a-1", "a-1")):
        found = coco(tmp_path, MARK | {"image_id": other}, image=IMAGE | {"id": one})
        assert len(found.pictures["a.jpg"].objects) == 1 and not found.problems


def test_outlines_give_the_boxes_that_are_not_there(tmp_path):
    bare = {k: v for k, v in MARK.items() if k != "bbox"}
    runs = {"size": [80, 100], "counts": [10 * 80 + 5, 20, 60, 20, 8000 - 905]}
    [mark] = coco(tmp_path, bare | {"segmentation": runs}).pictures["a.jpg"].objects
    assert mark.box == (10, 5, 12, 25)
    [mark] = coco(tmp_path, bare | {"segmentation": [10, 10, 30, 10, 30, 30, 10, 30]}).pictures["a.jpg"].objects
    assert mark.box == (10, 10, 30, 30) and mark.mask.read().astype(bool).sum() > 380


def test_an_outline_whose_picture_has_no_size_is_told(tmp_path):
    unknown = IMAGE | {"width": -1, "height": -1}
    found = coco(tmp_path, MARK | {"segmentation": [[10, 10, 30, 10, 30, 30]]}, image=unknown)
    assert [p.kind for p in found.problems] == ["outline left out"] and found.pictures["a.jpg"].objects[0].box
    runs = {"size": [80, 100], "counts": [800, 400, 6800]}
    [mark] = coco(tmp_path, MARK | {"segmentation": runs}, image=unknown).pictures["a.jpg"].objects
    assert mark.mask.read().astype(bool).sum() == 400


@pytest.mark.parametrize(
    "runs",
    [
        {"size": [800_000, 100_000], "counts": [80_000_000_000]}, {"size": [80, 100], "counts": "o" * 3_000_000},
        {"size": [80, 100], "counts": [2**62] * 4 + [8000]}, {"size": [80, 100], "counts": [2**70]},
        {"size": [100, 80], "counts": [8000]}, {"size": [1 << 40, 1 << 40], "counts": []},
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(100, 80), None])
def test_runs_of_no_picture_take_neither_memory_nor_time(runs, size):
    if size is None and runs["counts"] == [8000]:
        return  # which could be
    began = time.perf_counter()
    with pytest.raises(JaxcamError, match="neither polygons nor run lengths"):
        Outlined(size, runs).read()
    assert time.perf_counter() - began < 2


def test_rows_that_are_no_tables_are_told_in_words(tmp_path):
    found = coco(tmp_path, MARK, None, 5, "x", [])
    assert [p.why.rpartition(": ")[2] for p in found.problems] == ["is no table"] * 4
    assert np.isfinite(found.pictures["a.jpg"].objects[0].box).all()
