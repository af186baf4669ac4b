"""Evaluation data sets in every layout: what is read, in which order, and how it is mapped to a network."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
from evaluation_sets import WNIDS, class_folders, coco, coco_content, save, voc, xml

from jaxcam.data.evaluation import load_dataset
from jaxcam.data.preprocessing import Preprocessing
from jaxcam.data.samples import boxes_to_input, pad_boxes
from jaxcam.errors import JaxcamError
from jaxcam.zoo.catalogue import class_names


def boxes(item):
    return {k: v.tolist() for k, v in item.boxes.items()}


def kinds(data):
    return sorted((p.kind, p.name) for p in data.problems)


def test_class_folders_without_boxes(tmp_path):
    data = load_dataset(class_folders(tmp_path))
    assert (data.kind, data.multi_label, data.ids, len(data)) == ("folder", False, WNIDS, 6)
    assert data.classes == ("tench", "church") and not data.has_boxes and not data.problems
    assert [i.name for i in data.items] == sorted(i.name for i in data.items)
    assert [i.labels for i in data.items] == [(0,)] * 3 + [(1,)] * 3
    assert load_dataset(tmp_path, names={WNIDS[0]: "a fish"}).classes == ("a fish", "church")


def test_class_folders_with_a_csv(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "boxes.csv").write_text(
        "wnid,image,x0,y0,x1,y1,note\n"
        f"{WNIDS[0]},{WNIDS[0]}/{WNIDS[0]}_0.JPEG,1.5,2,30,20,\n"
        f"{WNIDS[0]},{WNIDS[0]}/{WNIDS[0]}_0.JPEG,0,0,5,5,\n"
        f"{WNIDS[1]},{WNIDS[1]}_2.JPEG,3,3,9,9,\n"
        f"{WNIDS[0]},{WNIDS[1]}_1.JPEG,3,3,9,9,\n"
        f"{WNIDS[0]},gone.JPEG,3,3,9,9,\n"
    )
    data = load_dataset(tmp_path)
    assert boxes(data.items[0]) == {0: [[1.5, 2, 30, 20], [0, 0, 5, 5]]}
    assert boxes(data.items[5]) == {1: [[3, 3, 9, 9]]} and not data.items[4].boxes
    found = dict.fromkeys(k for k, _ in kinds(data))
    assert list(found) == ["annotation without picture", "boxes of another class", "picture without annotation"]
    assert ("annotation without picture", "gone.JPEG") in kinds(data)


def test_ilsvrc_layouts(tmp_path):
    # The kit: pictures in no class folder, their classes only in the annotations.
    for i, w in enumerate((*WNIDS, WNIDS[0])):
        save(tmp_path / f"kit/Data/CLS-LOC/val/ILSVRC2012_val_{i}.JPEG")
        xml(tmp_path / f"kit/Annotations/CLS-LOC/val/ILSVRC2012_val_{i}.xml", [(w, (0, 5, 30, 25), 0)])
    kit = load_dataset(tmp_path / "kit")
    assert [i.labels for i in kit.items] == [(0,), (1,), (0,)] and kit.classes == ("tench", "church")
    assert boxes(kit.items[1]) == {1: [[0, 5, 30, 25]]} and kit.items[0].size == (40, 30) and not kit.problems
    # The same pictures sorted into class folders, with the annotations beside them.
    for i, w in enumerate((*WNIDS, WNIDS[0])):
        save(tmp_path / f"own/val/{w}/ILSVRC2012_val_{i}.JPEG")
        xml(tmp_path / f"own/Annotations/val/ILSVRC2012_val_{i}.xml", [(w, (0, 5, 30, 25), 0)])
    (tmp_path / "own/train").mkdir()
    own = load_dataset(tmp_path / "own")
    assert len(own) == 3 and all(boxes(i) == {i.labels[0]: [[0, 5, 30, 25]]} for i in own.items)
    again = load_dataset(tmp_path / "own/val", boxes=tmp_path / "own/Annotations")
    assert [boxes(i) for i in again.items] == [boxes(i) for i in own.items]


def test_voc(tmp_path):
    voc(tmp_path / "VOCdevkit" / "VOC2007")
    data = load_dataset(tmp_path)
    assert (data.kind, data.multi_label, data.classes) == ("voc", True, ("cat", "dog"))
    assert [i.labels for i in data.items] == [(0,), (1,)]  # difficult ones are neither labels nor boxes
    # VOC counts pixels from 1 and means the first and the last: 1 to 20 are the edges 0 and 20.
    assert boxes(data.items[0]) == {0: [[0, 0, 20, 10]]}
    assert boxes(data.items[1]) == {1: [[10, 5, 40, 30], [0, 1, 3, 4]]}
    assert kinds(data) == [("picture without label", f"JPEGImages/{n}.jpg") for n in "34"]
    hard = load_dataset(tmp_path, include_hard=True)
    assert [i.labels for i in hard.items] == [(0, 1), (1,), (0,)]
    assert boxes(hard.items[0])[1] == [[4, 4, 9, 9]]
    lists = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main"
    (lists / "val.txt").write_text("2\n")
    assert len(load_dataset(tmp_path, split="val")) == 1
    with pytest.raises(JaxcamError, match="called 'vall'; did you mean val"):
        load_dataset(tmp_path, split="vall")


def test_coco(tmp_path):
    data = load_dataset(coco(tmp_path))
    assert (data.kind, data.multi_label, data.classes) == ("coco", True, ("person", "dog"))
    assert [i.name for i in data.items] == ["003.jpg", "007.jpg"]
    assert [i.labels for i in data.items] == [(0,), (1,)]  # a crowd counts neither as a label nor as a box
    assert boxes(data.items[0]) == {0: [[2, 3, 12, 8.5]]}
    assert boxes(data.items[1]) == {1: [[5, 5, 9, 9], [30, 20, 40, 30]]}  # clipped
    assert kinds(data) == [("picture without label", "009.jpg")]
    hard = load_dataset(tmp_path, include_hard=True)
    assert hard.items[0].labels == (0, 1) and boxes(hard.items[0])[1] == [[0, 0, 40, 30]]
    file = tmp_path / "annotations" / "instances_val2017.json"
    assert load_dataset(file).digest == data.digest
    flat = tmp_path / "flat"
    (flat / "images").mkdir(parents=True)
    (flat / "instances.json").write_text(json.dumps(coco_content()))
    for i in (3, 7, 9, 10):
        save(flat / "images" / f"{i:03}.jpg", seed=i)
    other = load_dataset(flat)
    assert [i.name for i in other.items] == [i.name for i in data.items]
    assert ("picture without annotation", "010.jpg") in kinds(other)


def test_labels_become_a_network_s(tmp_path):
    data = load_dataset(class_folders(tmp_path / "a"))
    there = data.for_classes(["Church", "golf ball", "tench"])
    assert [i.labels for i in there.items] == [(2,)] * 3 + [(0,)] * 3 and there.classes[0] == "Church"
    assert data.for_classes(class_names("imagenet")).items[5].labels == (497,)
    assert data.for_classes([str(i) for i in range(1000)]).items[5].labels == (497,)  # by wnid
    assert data.for_classes(["x", *WNIDS]).items[0].labels == (1,)
    with pytest.raises(JaxcamError, match="no class called 'church'; did you mean churches"):
        data.for_classes(["tench", "churches"])
    with pytest.raises(JaxcamError, match="none of its 2 classes .n01440764, n03028079. is one of the network's 2"):
        data.for_classes(["dog", "cat"])
    with pytest.raises(JaxcamError, match="none of its 2 classes"):
        data.for_classes(["dog", "cat"], missing="drop")
    some = data.for_classes(["dog", "church"], missing="drop")
    assert len(some) == 3 and len(some.problems) == 3 and some.problems[0].why == "tench"
    pets = load_dataset(voc(tmp_path / "b"), include_hard=True)
    dogs = pets.for_classes(["dog"], missing="drop")
    assert [(i.labels, list(i.boxes)) for i in dogs.items] == [((0,), [0]), ((0,), [0])]


def test_vocs_and_cocos_names_for_one_thing():
    from jaxcam.data.class_names import class_indices

    names = class_names("voc")
    found = class_indices(names, names, class_names("coco"))
    assert None not in found and len(set(found)) == 20
    assert class_names("coco")[found[names.index("tvmonitor")]] == "tv"
    wnids = class_names("imagenet_wnids")
    assert len(set(wnids)) == 1000 and list(wnids) == sorted(wnids)
    known = {"n02102040": 217, "n02979186": 482, "n03000684": 491, "n03417042": 569, "n03888257": 701}
    assert {w: wnids.index(w) for w in known} == known


def test_subsets_and_digest(tmp_path):
    data = load_dataset(class_folders(tmp_path, count=20))
    a, b, c = (data.subset(15, seed) for seed in (0, 0, 1))
    names = [[i.name for i in d.items] for d in (a, b, c)]
    assert names[0] == names[1] != names[2] and all(n == sorted(n) and len(set(n)) == 15 for n in names)
    assert data.subset(100, 0).digest == data.digest == load_dataset(tmp_path).digest
    assert len({d.digest for d in (data, a, c)}) == 3 and a.digest == b.digest
    with pytest.raises(JaxcamError, match="at least one picture"):
        data.subset(0, 0)
    first = data.items[0].path
    first.write_bytes(first.read_bytes() + b"\0")
    assert load_dataset(tmp_path).digest != data.digest
    assert data.take([3, 1]).items == (data.items[3], data.items[1])
    (tmp_path / "boxes.csv").write_text(f"image,wnid,x0,y0,x1,y1\n{data.items[1].name},{WNIDS[0]},0,0,9,9\n")
    before = load_dataset(tmp_path).digest
    (tmp_path / "boxes.csv").write_text(f"image,wnid,x0,y0,x1,y1\n{data.items[1].name},{WNIDS[0]},0,0,9,8\n")
    assert load_dataset(tmp_path).digest != before


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (90, 700), (224, 224)])
def test_boxes_follow_the_crop(size):
    w, h = size
    whole = np.array([[0, 0, w, h]])
    for rules in (Preprocessing(), Preprocessing(resize="squash", size=128), Preprocessing(size=96, resize_to=96)):
        np.testing.assert_allclose(boxes_to_input(whole, size, rules), [[0, 0, rules.size, rules.size]], atol=1e-4)
        # Against the pixels: a white box on black, where its edges come to lie.
        box = (0.4 * w // 1, 0.45 * h // 1, 0.7 * w // 1, 0.6 * h // 1)
        picture = np.zeros((h, w, 3), np.uint8)
        picture[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 255
        seen = rules.pixels(picture)[..., 0] / 255.0
        got = boxes_to_input(np.array([box]), size, rules)[0]
        np.testing.assert_allclose(seen.sum(0).max(), got[3] - got[1], atol=0.6)
        np.testing.assert_allclose(seen.sum(1).max(), got[2] - got[0], atol=0.6)
        rows, columns = np.nonzero(seen > 0.5)
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(got, edges, atol=1.0)


def test_boxes_by_hand():
    # 512 x 256, shorter side to 128 and 64 cropped from the middle: the region 192..320 x 64..192, halved.
    rules = Preprocessing(size=64, resize_to=128)
    given = np.array([[192, 64, 320, 192], [0, 0, 256, 128], [0, 0, 192, 256], [300, 100, 310, 400]])
    want = [[0, 0, 64, 64], [0, 0, 32, 32], [54, 18, 59, 64]]  # the third lies in what is cut away
    np.testing.assert_allclose(boxes_to_input(given, (512, 256), rules), want, atol=1e-5)
    assert boxes_to_input(np.zeros((0, 4)), (512, 256), rules).shape == (0, 4)
    padded, valid = pad_boxes([np.ones((3, 4)), np.zeros((0, 4))])
    assert padded.shape == (2, 4, 4) and valid.tolist() == [[True] * 3 + [False], [False] * 4]


def test_real_data(data_dir, tmp_path):
    from jaxcam.data.loader import stream

    def unpack(name, wanted):
        if not (data_dir / name).is_file():
            pytest.skip(f"no {name}")
        with tarfile.open(data_dir / name) as tar:
            count = 0
            for member in tar:
                if wanted(member.name, count):
                    tar.extract(member, tmp_path, filter="data")
                    count += member.name.lower().endswith((".jpg", ".jpeg"))

    unpack("imagenette-boxes.tar", lambda n, count: count < 20 or n.endswith(".csv"))
    data = load_dataset(tmp_path / "imagenette-boxes")
    assert len(data) == 20 and all(len(i.boxes[i.labels[0]]) for i in data.items)
    assert data.for_classes(class_names("imagenet")).items[0].labels[0] in (
        0,
        217,
        482,
        491,
        497,
        566,
        569,
        571,
        574,
        701,
    )
    unpack("coco64.tar", lambda n, count: count < 8 or n.endswith(".json"))
    data = load_dataset(tmp_path / "coco64")
    assert len(data.ids) == 80 and len(data) >= 7 and data.kind == "coco" and data.has_boxes
    rules = Preprocessing(resize="squash", size=64)
    for one in stream(data.items, rules):
        assert one.error is None and one.pixels.shape == (64, 64, 3) and set(one.boxes) == set(one.item.labels)
        assert one.picture_size == one.item.size
