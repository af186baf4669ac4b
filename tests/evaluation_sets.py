"""Tiny data sets in every layout that is read for evaluations."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n03028079")


def save(path: pathlib.Path, size=(40, 30), seed: int = 0) -> None:
    """A noisy picture of that width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def xml(path: pathlib.Path, objects, size=(40, 30)) -> None:
    """An annotation; objects are (name, box or None, difficult)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = ""
    for name, box, difficult in objects:
        edges = "" if box is None else "<bndbox>{}</bndbox>".format(
            "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        )  # fmt: skip
        inside += f"<object><name>{name}</name><difficult>{difficult}</difficult>{edges}</object>"
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    path.write_text(f"<annotation>{told}{inside}</annotation>")


def class_folders(root: pathlib.Path, count: int = 3) -> pathlib.Path:
    """Two wnids with `count` pictures each."""
    for w in WNIDS:
        for i in range(count):
            save(root / w / f"{w}_{i}.JPEG", seed=i)
    return root


def voc(root: pathlib.Path) -> pathlib.Path:
    """A devkit: 1 a cat and a difficult dog, 2 two dogs, 3 only a difficult cat, 4 nothing."""
    objects = {
        "1": [("cat", (1, 1, 20, 10), 0), ("dog", (5, 5, 9, 9), 1)],
        "2": [("dog", (11, 6, 40, 30), 0), ("dog", (1, 2, 3, 4), 0)],
        "3": [("cat", (5, 5, 9, 9), 1)],
        "4": [],
    }
    for name, some in objects.items():
        save(root / "JPEGImages" / f"{name}.jpg", seed=int(name))
        xml(root / "Annotations" / f"{name}.xml", some)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for c in ("cat", "dog"):
        (lists / f"{c}_test.txt").write_text("".join(f"{n}  1\n" for n in objects))
    return root


def coco_content() -> dict:
    """1 a person and a crowd of dogs, 2 two dogs, 3 nothing; ids with gaps."""

    def mark(i, picture, category, bbox, crowd=0):
        return {"id": i, "image_id": picture, "category_id": category, "bbox": bbox, "iscrowd": crowd}

    return {
        "images": [{"id": i, "file_name": f"{i:03}.jpg", "width": 40, "height": 30} for i in (7, 3, 9)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            mark(1, 3, 1, [2, 3, 10, 5.5]), mark(2, 3, 18, [0, 0, 40, 30], 1),
            mark(3, 7, 18, [5, 5, 4, 4]), mark(4, 7, 18, [30, 20, 20, 20]),
        ],
    }  # fmt: skip


def coco(root: pathlib.Path, content: dict | None = None) -> pathlib.Path:
    """The pictures beside an instances file in their own folders, as COCO has them."""
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content or coco_content()))
    for i in (3, 7, 9):
        save(root / "val2017" / f"{i:03}.jpg", seed=i)
    return root
