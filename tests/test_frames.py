"""Animated pictures: frames are explained like photos, and their maps become an animation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from networks import VGG, network, picture
from PIL import Image

from jaxcam.cli import main
from jaxcam.cli.frames import taken
from jaxcam.data.images import as_it_is, frames, open_image
from jaxcam.errors import JaxcamError
from jaxcam.zoo.store import save_network

COUNT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("moving")
    pages = [Image.fromarray(picture(40, 50, seed=i)) for i in range(COUNT)]
    for kind in ("png", "webp", "gif"):
        options = {"lossless": True} if kind == "webp" else {}
        pages[0].save(root / f"m.{kind}", save_all=True, append_images=pages[1:],
                      duration=[100, 200, 300, 400, 500], **options)  # fmt: skip
    pages[0].save(root / "m.tiff", save_all=True, append_images=pages[1:])
    pages[0].save(root / "still.png")
    save_network(root / "net", network(VGG))
    return root


@pytest.mark.parametrize("kind", ["png", "webp", "gif", "tiff"])
def test_frames_are_those_of_the_file_in_order(folder, kind):
    found = list(frames(folder / f"m.{kind}"))
    assert [i for i, _, _ in found] == list(range(COUNT))
    for i, frame, _ in found:
        difference = np.abs(np.asarray(frame, int) - picture(40, 50, seed=i))
        assert difference.max() == 0 if kind != "gif" else difference.mean() < 8, i  # 256 colours
    np.testing.assert_array_equal(found[0][1], open_image(folder / f"m.{kind}"))
    times = [t for _, _, t in found]
    assert times == ([100.0] * 5 if kind == "tiff" else [100.0, 200.0, 300.0, 400.0, 500.0])


def test_some_frames_share_the_time_of_those_between(folder):
    assert [(i, t) for i, _, t in frames(folder / "m.png", 2)] == [(0, 300.0), (2, 1200.0)]
    assert [i for i, _, _ in frames(folder / "m.png", 99)] == list(range(COUNT))
    assert list(frames(folder / "still.png")) == []
    with pytest.raises(JaxcamError, match="no picture.png: there is no such file"):
        list(frames(folder / "no picture.png"))


def test_frames_of_the_command_keep_their_depth_and_channels(tmp_path):
    deep = [np.full((6, 8), 4000 + i, np.uint16) for i in range(2)]
    clear = np.full((6, 8, 4), 100, np.uint8)
    for name, pages in (("deep", deep), ("float", [d.astype(np.float32) for d in deep]), ("clear", [clear, clear + 1])):
        first, *others = map(Image.fromarray, pages)
        first.save(tmp_path / f"{name}.tiff", save_all=True, append_images=others)
        listed, [animation] = taken([str(tmp_path / f"{name}.tiff")], "all", tmp_path / "out")
        assert tuple(listed) == animation.frames
        for file, page in zip(listed, pages, strict=True):
            np.testing.assert_array_equal(as_it_is(open_image(file)), page)


def test_the_command_explains_frames_and_animates_their_maps(folder, tmp_path, capsys):
    command = ["explain", str(folder / "m.gif"), str(folder / "still.png"), "--frames", "3", "--out", str(tmp_path),
               "--model", str(folder / "net"), "--method", "grad_cam,hires_cam", "--target", "tench"]  # fmt: skip
    assert main([*command, "--overlay-only", "--json", str(tmp_path / "all.json")]) == 0
    assert "animated: " in capsys.readouterr().out
    images = [r["image"] for r in json.loads((tmp_path / "all.json").read_text())["images"]]
    assert [i.rsplit("/", 1)[1] for i in images] == ["m-0000.png", "m-0001.png", "m-0003.png", "still.png"]
    assert sorted(p.name for p in tmp_path.glob("*.gif")) == ["m-animated-1.gif", "m-animated-2.gif"]
    for place, method in enumerate(("grad_cam", "hires_cam"), 1):
        made = list(frames(tmp_path / f"m-animated-{place}.gif"))
        assert [t for _, _, t in made] == [100.0, 500.0, 900.0]
        for (_, page, _), number in zip(made, ("0000", "0001", "0003"), strict=True):
            with Image.open(tmp_path / f"m-{number}-{method}-tench.png") as alone:
                assert np.abs(np.asarray(page, int) - np.asarray(alone.convert("RGB"))).mean() < 8


@pytest.mark.parametrize("given", ["0", "-1", "some", "2.5"])
def test_a_number_of_frames_that_is_none(folder, fails, given):
    assert "--frames takes a number of frames" in fails("explain", folder / "m.gif", f"--frames={given}")


def test_a_moving_picture_that_is_cut_off_is_told(folder, tmp_path, fails):
    (tmp_path / "cut.gif").write_bytes((folder / "m.gif").read_bytes()[:1500])
    line = fails("explain", tmp_path / "cut.gif", "--frames", "all", "--out", tmp_path / "out",
                 "--model", folder / "net")  # fmt: skip
    assert "cut.gif" in line and "broken or cut off" in line
