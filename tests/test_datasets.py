"""Data sets on disk are read right, and what is wrong with them is named."""

from __future__ import annotations

import numpy as np
import pytest
from networks import colour_folder, voc_folder

from jaxcam.data.datasets import image_folder, read_class_names, train_and_validation
from jaxcam.data.loader import Loader
from jaxcam.errors import JaxcamError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return colour_folder(tmp_path_factory.mktemp("colours"))


@pytest.fixture
def devkit(tmp_path):
    return voc_folder(tmp_path)


def test_augmentation_depends_on_seed_epoch_and_index_alone(folder):
    data, _ = train_and_validation(folder, holdout=0.25)

    def batches(loader, epoch, skip=0):
        return [images for images, _ in loader.training(epoch, 16, 6, skip=skip)]

    a, b = (Loader(data, cache_side=24, seed=1) for _ in range(2))
    batches(a, 0)
    np.testing.assert_array_equal(batches(a, 1), batches(b, 1))
    np.testing.assert_array_equal(batches(a, 1)[2:], batches(b, 1, skip=2))
    assert not np.array_equal(batches(a, 1), batches(a, 2))
    plain = list(a.plain(16, 6))
    assert sum(len(images) for images, _ in plain) == 27 and len(plain[-1][0]) == 3


def test_image_folder_and_its_mistakes(folder, tmp_path):
    (tmp_path / "names.csv").write_text("# folder,name\nn1,red\nn2,green\n")
    names = read_class_names(tmp_path / "names.csv")
    assert image_folder(folder, names).classes == ("red", "green", "n3")
    train, val = train_and_validation(folder, holdout=0.25)
    assert not set(train.paths) & set(val.paths) and len(train) + len(val) == 36
    assert np.bincount(val.labels).tolist() == [3, 3, 3]
    for content, why in (("n1\n", "line 1 is not of the form"), ("n1,x\nn2,x\n", "two folders are called 'x'")):
        (tmp_path / "names.csv").write_text(content)
        with pytest.raises(JaxcamError, match=why):
            image_folder(folder, read_class_names(tmp_path / "names.csv"))
    (tmp_path / "one").mkdir()
    with pytest.raises(JaxcamError, match="one: holds no pictures"):
        image_folder(tmp_path)
    with pytest.raises(JaxcamError, match="there is no such folder"):
        train_and_validation(tmp_path / "nowhere")
    with pytest.raises(JaxcamError, match="between 0 and 1"):
        train_and_validation(folder, holdout=1.0)


def test_voc_devkit(devkit):
    train, val = train_and_validation(devkit, holdout=0.4)
    assert train.multi_label and train.classes == ("cat", "dog")
    assert [p.stem for p in train.paths] == ["01", "02", "03"] and [p.stem for p in val.paths] == ["04", "05"]
    # Only difficult: unknown. Difficult and not: there.
    np.testing.assert_array_equal(train.labels, [[1, 0], [-1, 0], [1, -1]])
    np.testing.assert_array_equal(val.labels, [[0, 0], [1, 1]])
    for c in ("cat", "dog"):
        listing = devkit / "ImageSets" / "Main"
        lines = (listing / f"{c}_test.txt").read_text().splitlines()
        (listing / f"{c}_trainval.txt").write_text("\n".join(lines[:2]))
        (listing / f"{c}_test.txt").write_text("\n".join(lines[2:]))
    train, val = train_and_validation(devkit)
    assert [p.stem for p in train.paths] == ["01", "02"] and len(val) == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "01.xml: there is no such file"),
        ("<annotation>", "01.xml: is not an XML annotation"),
        ("<a><object><name>cow</name></object></a>", "01.xml: names the class 'cow'"),
    ],
)
def test_broken_annotations(devkit, content, why):
    file = devkit / "Annotations" / "01.xml"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(JaxcamError, match=why):
        train_and_validation(devkit)
