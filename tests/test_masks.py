"""Segmentation masks of VOC, of COCO and of a folder: read, laid over the network's input, and measured by."""

from __future__ import annotations

import json

import numpy as np
import oracle_form as oracle
import pytest
from evaluations import tiny
from networks import CLASSES, picture
from PIL import Image

from jaxcam.data.evaluation import load_dataset
from jaxcam.data.loader import load
from jaxcam.data.masks import Outlined, Painted, mask_to_input, together
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.errors import JaxcamError
from jaxcam.evaluate import evaluate
from jaxcam.methods.maps import resize_map, scale_map


def save(array: np.ndarray, file, palette=False) -> None:
    """A PNG; with a palette as VOC has them, whose colours are not the values."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array.astype(np.uint8), mode="P" if palette else None)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 255, 768).astype(np.uint8).tobytes())
    image.save(file)


def encoded(mask: np.ndarray) -> str:
    """COCO's text of a mask: run lengths down the columns, as differences, in groups of five bits."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr((bits | 0x20 * more) + 48)
    return text


def test_painted(tmp_path):
    values = np.zeros((6, 9), int)
    values[1:3, 2:7], values[4], values[5] = 1, 2, 255
    save(values, tmp_path / "p.png", palette=True)
    for value in (1, 2):
        np.testing.assert_array_equal(Painted(tmp_path / "p.png", value).read(), 255 * (values == value))
    colours = np.zeros((6, 9, 3), int)
    colours[values == 1] = (0, 0, 9)
    save(colours, tmp_path / "c.png")
    np.testing.assert_array_equal(Painted(tmp_path / "c.png").read(), 255 * (values == 1))
    seen = np.concatenate([np.full((6, 9, 3), 80), 255 * (values == 1)[..., None]], -1)
    save(seen, tmp_path / "a.png")
    np.testing.assert_array_equal(Painted(tmp_path / "a.png").read(), 255 * (values == 1))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(JaxcamError, match="b.png: is no PNG of a mask"):
        Painted(tmp_path / "b.png").read()


def test_outlined_by_polygons():
    rng = np.random.default_rng(0)
    for _ in range(3):
        corners = rng.uniform(0, [30, 20], (3, 2))
        fine = np.stack(np.meshgrid((np.arange(30 * 8) + 0.5) / 8, (np.arange(20 * 8) + 0.5) / 8), -1)
        a, b = corners, np.roll(corners, -1, 0)
        sides = [(b[i, 0] - a[i, 0]) * (fine[..., 1] - a[i, 1]) - (b[i, 1] - a[i, 1]) * (fine[..., 0] - a[i, 0])
                 for i in range(3)]  # fmt: skip
        inside = (np.min(sides, 0) >= 0) | (np.max(sides, 0) <= 0)
        wanted = inside.reshape(20, 8, 30, 8).mean((1, 3))
        found = Outlined((30, 20), [corners.ravel().tolist(), [1, 1, 2, 2]]).read() / 255
        around = np.hypot(*(a - b).T).sum()  # outlines are a quarter of a pixel thick
        assert np.abs(found - wanted).max() < 0.7 and np.abs(found - wanted).sum() < 0.25 * around + 1


def test_outlined_by_run_lengths():
    mask = np.random.default_rng(1).uniform(size=(13, 40)) > np.linspace(0, 1, 40)
    mask[:, 30:] = False
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    for counts in (runs, encoded(mask), encoded(mask).encode()):
        found = Outlined((40, 13), {"size": [13, 40], "counts": counts}).read()
        np.testing.assert_array_equal(found, 255 * mask)
    for shape in ({"size": [13, 40], "counts": [3]}, {"counts": [1]}, "text", [["a", "b"]], [[float("nan")] * 6]):
        with pytest.raises(JaxcamError, match="neither polygons nor run lengths"):
            Outlined((40, 13), shape).read()


def test_laid_over_what_the_network_sees():
    mask = np.zeros((40, 80), np.uint8)
    mask[10:30, 30:50] = 255
    whole = mask_to_input(mask, Preprocessing(size=8, resize="squash"))
    np.testing.assert_allclose(whole[2:6, 3:5], 1, atol=0.01)
    assert whole.sum() == pytest.approx(8, abs=0.1) and whole.dtype == np.float32
    centre = mask_to_input(mask, Preprocessing(size=8, resize_to=8))  # the middle 40 x 40
    assert centre[2:6, 2:6].min() == 1 and centre.sum() == 16
    with pytest.raises(JaxcamError, match="of the sizes"):
        together([Outlined((4, 4), []), Outlined((5, 4), [])])


@pytest.fixture
def voc(tmp_path):
    """A picture with a cat, a difficult dog and a dog, and one without masks."""
    root = tmp_path / "VOC2007"
    lines = ""
    for name, hard in (("cat", 0), ("dog", 1), ("dog", 0)):
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>32</ymax></bndbox>"
        lines += f"<object><name>{name}</name><difficult>{hard}</difficult>{box}</object>"
    for name in ("01", "02"):
        save(picture(32, 40), root / "JPEGImages" / f"{name}.png")
        (root / "Annotations").mkdir(exist_ok=True)
        text = f"<annotation><size><width>40</width><height>32</height></size>{lines}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "test.txt").write_text("01\n02\n")
    return root


def test_voc(voc):
    values = np.zeros((32, 40), int)
    values[:8, :8], values[:8, 20:30], values[20:, :] = 1, 2, 3
    save(values, voc / "SegmentationObject" / "01.png", palette=True)
    rules = Preprocessing(size=16, resize="squash")
    first, second = load_dataset(voc).items
    found = load(0, first, rules, masks=True).masks
    np.testing.assert_allclose(found[0], mask_to_input((255 * (values == 1)).astype(np.uint8), rules))
    np.testing.assert_allclose(found[1], mask_to_input((255 * (values == 3)).astype(np.uint8), rules))
    assert not second.masks and not load(0, first, rules).masks
    hard = load_dataset(voc, include_hard=True).items[0]
    assert load(0, hard, rules, masks=True).masks[1].sum() > found[1].sum() + 1
    (voc / "SegmentationObject" / "01.png").rename(voc / "SegmentationObject" / "02.png")
    save(np.where(values == 3, 12, 8 * (values == 1)), voc / "SegmentationClass" / "01.png", palette=True)  # dog, cat
    data = load_dataset(voc)
    assert data.has_masks and all(item.masks for item in data.items)
    again = load(0, data.items[0], rules, masks=True).masks
    np.testing.assert_allclose(again[0], found[0])
    np.testing.assert_allclose(again[1], found[1])
    save(values.T, voc / "SegmentationClass" / "01.png", palette=True)
    turned = load(0, data.items[0], rules, masks=True)
    assert not turned.masks and {p.kind for p in turned.problems} == {"bad mask"} and "turned" in turned.problems[0].why
    assert turned.error is None


def test_coco(tmp_path):
    save(picture(32, 40), tmp_path / "1.png")
    square = [0, 0, 20, 0, 20, 16, 0, 16]
    marks = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 16], "segmentation": [square]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [30, 0, 5, 5], "segmentation": []},
        {"id": 3, "image_id": 1, "category_id": 2, "bbox": [30, 0, 5, 5]},
    ]
    content = {"images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 32}], "annotations": marks,
               "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = load_dataset(tmp_path)
    loaded = load(0, data.items[0], Preprocessing(size=16, resize="squash"), masks=True)
    assert set(loaded.masks) == {0} and set(loaded.boxes) == {0, 1}
    assert loaded.masks[0].sum() == pytest.approx(64, abs=2) and loaded.masks[0][:7, :7].min() == 1
    before = data.masks_digest
    marks[0]["segmentation"] = [[0, 0, 10, 0, 10, 16, 0, 16]]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert load_dataset(tmp_path).masks_digest != before and load_dataset(tmp_path).digest == data.digest


def test_a_folder_of_masks_and_what_is_measured_by_them(tmp_path):
    net, rules = tiny(), tiny().preprocessing
    for i, name in enumerate(CLASSES[:2]):
        save(picture(40, 36, seed=i), tmp_path / "set" / name / f"{i}.png")
    mask = np.zeros((40, 36), int)
    mask[5:30, 9:27] = 200
    save(mask, tmp_path / "masks" / CLASSES[0] / "0.png")
    with pytest.raises(JaxcamError, match="has no masks, which the metric weighting needs.*--masks"):
        evaluate(net, tmp_path / "set", out=tmp_path / "no", metrics=["weighting"])
    data = load_dataset(tmp_path / "set", masks=tmp_path / "masks")
    assert data.problems[-1] == ("picture without mask", f"{CLASSES[1]}/1.png", "") and data.has_masks
    run = evaluate(net, data, out=tmp_path / "run", methods=["grad_cam"], metrics=["ad", "weighting", "mask_iou"])
    inside = mask_to_input((255 * (mask > 0)).astype(np.uint8), rules)
    heat = np.asarray(scale_map(resize_map(run.arrays("maps")[0], (32, 32))), np.float64)
    assert run.columns["weighting"][0] == pytest.approx(oracle.energy(heat, inside), rel=1e-4)
    assert run.columns["mask_iou"][0] == pytest.approx(oracle.iou(heat, inside, 0.5), abs=0.01)
    assert np.isnan(run.columns["weighting"][1]) and np.isfinite(run.columns["ad"]).all()
    assert run.manifest["settings"]["data"]["masks"] == data.for_classes(net.classes).masks_digest
    (tmp_path / "masks" / CLASSES[0] / "0.png").unlink()
    with pytest.raises(JaxcamError, match="holds no mask; that of"):
        load_dataset(tmp_path / "set", masks=tmp_path / "masks")
    with pytest.raises(JaxcamError, match="no such folder of masks"):
        load_dataset(tmp_path / "set", masks=tmp_path / "other")
