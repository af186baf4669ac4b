"""Unlucky and hostile paths, pictures and names: one line or one row each, and the rest of the run goes on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from jaxcam.cli import main
from jaxcam.cli.pictures import stems
from jaxcam.data.images import FORMATS, open_image
from jaxcam.errors import JaxcamError, visible
from jaxcam.files import clipped, whole_file

GOOD = Image.new("RGB", (64, 64), (200, 30, 30))
EVIL = "p\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[red]x[/b]"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GOOD.save("good.jpg")
    return tmp_path


def explain(*arguments: str) -> int:
    small = [] if "--model" in arguments else ["--model", "vgg16_slim"]
    return main(["explain", *arguments, *small, "--out", "out", "--no-figure"])


def told(text: str) -> list[str]:
    assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text and "\x07" not in text
    return text.splitlines()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [b] é 漢字 \u3000 a\u00a0b", None),
        ("👨\u200d👩\u200d👧 نمی\u200cخواهم", None),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\tc\rd\x00", r"a\nb\tc\rd\x00"),
        ("\u202ecod.exe", r"\u202ecod.exe"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("\u2028", r"\u2028"),
    ],
)
def test_what_a_terminal_would_obey_becomes_its_code(text, shown):
    assert visible(text) == (shown or text)
    assert visible(visible(text)) == visible(text)
    assert str(JaxcamError(text.replace("\n", ""))) == visible(text.replace("\n", ""))


@pytest.mark.parametrize("kind", ["circle", "pipe", "device", "long", "null", "sparse", "folder.jpg", "below a file"])
def test_paths_that_cannot_be_read_are_rows_and_the_others_are_explained(here, kind, capsys):
    (here / "circle").symlink_to("circle")
    os.mkfifo(here / "pipe")
    with open(here / "sparse", "wb") as f:
        f.truncate(20 << 30)
    named = {"device": "/dev/zero", "long": "a" * 300, "null": "a\0b", "below a file": "good.jpg/x.jpg"}.get(kind, kind)
    started = time.monotonic()
    assert explain("good.jpg", named, "--json", "j.json") == 1
    assert time.monotonic() - started < 30
    [line] = told(capsys.readouterr().err)
    assert line.startswith("jaxcam: error: ") and visible(named)[:40] in line
    document = json.loads((here / "j.json").read_text())
    assert [r["image"] for r in document["images"]] == ["good.jpg"]
    assert [f["image"] for f in document["failed"]] == [named]
    assert (here / "out/good.npz").is_file()
    assert explain(named) == 2


def test_names_at_the_limit_of_the_file_system(here):
    name = "😀" * 62 + ".jpeg"
    assert len(os.fsencode(name)) == 253
    GOOD.save(name)
    bare = "é" * 127  # the written names are longer than this one
    GOOD.save(bare, "PNG")
    assert main(["explain", name, bare, "--model", "vgg16_slim", "--out", "out"]) == 0
    written = sorted(p.name for p in (here / "out").iterdir())
    assert len(written) == 4 and all(len(os.fsencode(n)) <= 255 for n in written)
    assert clipped("😀😀", 7) == "😀"
    twins = [f"{i}/" + "b" * 250 + end for i, end in enumerate((".png", ".jpg"))]
    assert len(set(stems(twins, here).values())) == 2


def test_a_link_is_written_through(here):
    (here / "numbers.json").write_text("old")
    (here / "link.json").symlink_to("numbers.json")
    (here / "dangling.json").symlink_to("new.json")
    for name in ("link.json", "dangling.json"):
        assert explain("good.jpg", "--json", name) == 0
        assert (here / name).is_symlink()
    assert json.loads((here / "numbers.json").read_text())["images"]
    assert json.loads((here / "new.json").read_text())["images"]


def test_json_to_the_standard_output_of_a_file_keeps_what_is_there(here):
    code = "from jaxcam.files import whole_file as w\nprint('first')\nwith w('/dev/stdout') as f: f.write(b'second\\n')"
    with open("out.txt", "w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (here / "out.txt").read_text() == "first\nsecond\n"
    piped = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert piped.stdout == "first\nsecond\n"


def test_what_fails_half_way_leaves_nothing(here):
    (here / "old.json").write_text("old")
    with pytest.raises(RuntimeError), whole_file(here / "old.json") as f:
        f.write(b"half")
        raise RuntimeError
    assert (here / "old.json").read_text() == "old"
    assert not [p for p in here.iterdir() if p.name.endswith(".tmp")]
    with pytest.raises(JaxcamError, match="cannot be written"), whole_file("/dev/full") as f:
        f.write(b"x")


@pytest.mark.parametrize(
    "command", [["methods"], ["--help"], ["--version"], ["explain", "good.jpg", "--model", "vgg16_slim", "--json", "-"]]
)
def test_a_full_output_is_one_line(here, command):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "jaxcam", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == "jaxcam: error: No space left on device"
    assert "-" in command or len(run.stderr.splitlines()) == 1  # beside JSON the table goes to stderr


def test_a_full_disk_is_one_line_and_leaves_nothing(here):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from jaxcam.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for more in (["--out", "net"], ["--to", "safetensors", "--out", "net.safetensors"]):
        arguments = [sys.executable, "-c", code, "convert", "resnet50_slim", *more]
        run = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr
        assert "cannot be written" in run.stderr
    assert sorted(p.name for p in here.iterdir()) == ["good.jpg"]


def test_names_never_reach_the_terminal_as_orders(here, capsys):
    evil = EVIL.replace("/", "|") + ".jpg"
    GOOD.save(evil, "JPEG")
    assert explain(evil, "missing" + evil, "--json", "-") == 1
    out, err = capsys.readouterr()
    told(err), told(out)
    assert json.loads(out)["images"][0]["image"] == evil
    assert explain(evil, "--method", EVIL) == 2
    assert explain(evil, "--target", EVIL) == 2
    assert main(["evaluate", EVIL, "--out", "run"]) == 2
    assert main(["report", EVIL]) == 2
    assert main(["convert", EVIL, "--out", "net"]) == 2
    assert main(["models", EVIL]) == 2
    assert main([EVIL]) == 2
    out, err = capsys.readouterr()
    told(out), told(err)


def test_names_of_networks_are_text_never_markup(here, capsys):
    assert main(["convert", "resnet50_slim", "--out", "net", "--name", EVIL, "--licence", EVIL]) == 0
    for command in (["explain", "good.jpg", "--model", "net", "--out", "out"], ["models", "net"]):
        assert main(command) == 0
        out, err = capsys.readouterr()
        told(out), told(err)
        assert "[red]x[/b]" in out


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", b"\xc5\xd0\xd3\xc6" + bytes(60)]
)
def test_postscript_is_refused_by_what_it_is(here, start, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a program was started for a picture")

    monkeypatch.setattr(subprocess, "Popen", never)
    (here / "loop.jpg").write_bytes(start + b"%%EndComments\n{} loop\nshowpage\n%%EOF\n")
    with pytest.raises(JaxcamError, match="PostScript, a program"):
        open_image(here / "loop.jpg")


@pytest.mark.parametrize(
    "data, told",
    [
        (bytes(128) + b"DICM" + bytes(60), "is DICOM; save its pixels as PNG"),
        (b"%PDF-1.7\n" + bytes(60), "is a PDF; save the page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>', "is SVG, a drawing"),
    ],
    ids=["DICOM", "PDF", "SVG"],
)
def test_what_people_take_for_pictures_is_called_by_its_name(here, data, told):
    (here / "p.png").write_bytes(data)
    with pytest.raises(JaxcamError, match=told):
        open_image(here / "p.png")


def test_only_listed_formats_are_read(here):
    for kind in ("PCX", "TGA", "SGI", "ICNS", "PDF"):
        file = io.BytesIO()
        GOOD.save(file, kind)
        (here / "p.png").write_bytes(file.getvalue())
        with pytest.raises(JaxcamError, match="not a picture in a format|is a PDF"):
            open_image(here / "p.png")
    assert not {"EPS", "WMF", "FITS", "HDF5", "GRIB", "BUFR"} & set(FORMATS)


def test_pictures_of_phones_are_read_or_named(here, capsys):
    os.mkdir("folder")
    GOOD.save("folder/a.png")
    (here / "folder/c.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (here / "folder/d.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif")
    assert explain("folder") == 1
    lines = told(capsys.readouterr().err)
    assert len(lines) == 2 and "c.heic: is a HEIC picture" in lines[0] and "d.avif" in lines[1]


def test_what_libtiff_says_stays_out_of_the_terminal(here, capfd):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(
        file, "TIFF", compression="tiff_adobe_deflate"
    )
    bad = bytearray(file.getvalue())
    bad[200] ^= 255
    (here / "bad.tif").write_bytes(bad)
    assert explain("good.jpg", "bad.tif") == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("jaxcam: error: bad.tif: the picture is broken")


def test_a_notebook_shows_the_lines_of_the_caller_and_the_message_alone():
    space: dict = {}
    cell = "from jaxcam.errors import unknown\ndef mine():\n    raise unknown('class', 'tenhc', ['tench'])"
    exec(compile(cell, "<cell>", "exec"), space)
    with pytest.raises(JaxcamError) as caught:
        space["mine"]()
    *_, line, said = caught.value._render_traceback_()
    assert line.startswith("line 3 in mine: ") and said == "JaxcamError: no class called 'tenhc'; did you mean tench?"
    with pytest.raises(JaxcamError) as caught:
        open_image("no such picture")
    assert len(caught.value._render_traceback_()) == 2
