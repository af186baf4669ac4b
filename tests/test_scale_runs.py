"""Long runs of `jaxcam explain`: killed and taken up, folders, several processes, and their mistakes."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from networks import VGG, network, picture
from PIL import Image

import jaxcam
from jaxcam.cli import main
from jaxcam.zoo.store import save_network

ROOT = str(pathlib.Path(jaxcam.__file__).parents[1])
METHODS = ["shap_cam:chunk_size=1400,estimator=antithetic", "grad_cam"]
#: Tells of every state that is kept, and keeps each, with time for the parent to kill.
SCRIPT = """
import sys, time
import jaxcam.explanation.resume as resume
from jaxcam.cli import main
resume.INTERVAL = 0.0
save = resume.MapsInFlight.save
def told(self, source, label, target, state, last):
    save(self, source, label, target, state, last)
    print("kept", source[-5:], int(state.samples.count), flush=True)
    time.sleep(float(sys.argv[1]))
resume.MapsInFlight.save = told
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a network, and a folder of three photos, two of one stem, and other files."""
    folder = tmp_path_factory.mktemp("place")
    save_network(folder / "net", network(VGG, size=32))
    (folder / "photos" / "more").mkdir(parents=True)
    for seed, name in enumerate(["b.png", "a.png", "more/a.png"]):
        Image.fromarray(picture(50, 60, seed)).save(folder / "photos" / name)
    (folder / "photos" / "notes.txt").write_text("words")
    (folder / "photos" / ".hidden.png").write_text("words")
    return folder


def arguments(place, out, *more, methods=METHODS, permutations=2000):
    base = [place / "photos", "--model", place / "net", "--out", out, "--no-figure", "--method", *methods]
    return [str(x) for x in ("explain", *base, "--permutations", permutations, *more)]


def environment(devices=1):
    """That of a process with so many devices; what else this one tells XLA holds there as well."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    return os.environ | {"PYTHONPATH": ROOT, "XLA_FLAGS": " ".join(flags)}


def start(pause, command):
    words = [sys.executable, "-c", SCRIPT, str(pause), *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def arrays(out):
    found = {}
    for file in sorted(pathlib.Path(out).glob("*.npz")):
        with np.load(file) as data:
            found[file.name] = {k: data[k] for k in data.files if k != "seconds"}
    return found


@pytest.fixture(scope="module")
def whole(place):
    """The results of a run without interruption, and how many states it kept."""
    run = start(0, arguments(place, place / "whole", "--resume"))
    told, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return arrays(place / "whole"), told


def test_killed_in_a_map_and_repeated_it_gives_the_same_bits(place, whole):
    expected, told = whole
    assert list(expected) == ["a-2.npz", "a.npz", "b.npz"] and not (place / "whole" / ".jaxcam-progress").exists()
    out = place / "killed"
    command = arguments(place, out, "--resume")
    run = start(0.1, command)
    counts = []
    for line in run.stdout:
        counts += [int(line.split()[-1])] if line.startswith("kept") else []
        if line.startswith("kept") and len(arrays(out)) == 1 and counts[-1] >= 300:
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert 300 <= counts[-1] < 1000
    assert len(arrays(out)) == 1 and len(list((out / ".jaxcam-progress").glob("*.npz"))) == 1
    (finished,) = out.glob("*.npz")
    before = finished.stat().st_mtime_ns
    again = start(0, command)
    repeated, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert finished.stat().st_mtime_ns == before and "1 of 3 pictures were finished" in repeated
    kept = [line for line in repeated.splitlines() if line.startswith("kept")]
    assert 0 < len(kept) < len([x for x in told.splitlines() if x.startswith("kept")]) * 2 / 3
    assert int(kept[0].split()[-1]) >= counts[-1]
    got = arrays(out)
    assert list(got) == list(expected)
    for name in expected:
        for key, value in expected[name].items():
            np.testing.assert_array_equal(got[name][key], value, err_msg=f"{name} {key}")
    assert not (out / ".jaxcam-progress").exists()


def test_another_setting_is_not_taken_for_finished(place, whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    few = [x if x != "2000" else "20" for x in arguments(place, out, "--resume", "--json", tmp_path / "n.json")]
    assert main(few) == 0
    first, numbers = arrays(out), json.loads((tmp_path / "n.json").read_text())
    (out / ".jaxcam-progress").mkdir()
    (out / ".jaxcam-progress" / f"{'0' * 32}-00.npz").write_text("other")
    capsys.readouterr()
    assert main(few) == 0
    told = capsys.readouterr().out
    assert "3 of 3 pictures were finished" in told and "1 states in" in told and "not used" in told
    assert json.loads((tmp_path / "n.json").read_text()) == numbers
    assert main([*few, "--seed", "1"]) == 0
    assert "3 older results were made with other settings" in capsys.readouterr().out
    row = list(first["a.npz"]["methods"]).index("shap_cam:chunk_size=1400,estimator=antithetic,num_permutations=20")
    second = arrays(out)
    assert (first["a.npz"]["coefficients"][row] != second["a.npz"]["coefficients"][row]).any()
    np.testing.assert_array_equal(first["a.npz"]["coefficients"][1 - row], second["a.npz"]["coefficients"][1 - row])


def test_two_runs_do_not_share_a_folder(place, tmp_path, capsys):
    from jaxcam.explanation.resume import Digests, MapsInFlight

    held = MapsInFlight(tmp_path, Digests("other"), [])
    assert main(arguments(place, tmp_path, "--resume")) == 2
    assert "another jaxcam is at work there" in capsys.readouterr().err
    held.close(remove=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--permutations", "0"], "--permutations must be a whole number of at least 1, not 0"),
        (["--permutations", "-3"], "at least 1, not -3"),
        (["--method", "shap_cam:num_permutations=0"], "num_permutations must be a whole number of at least 1, not 0"),
        (["--out", "{place}/photos"], "is a folder that the results would go to"),
        (["{place}/net"], "is a folder without pictures"),
        (["--coordinator", "localhost:1"], "--processes is missing"),
        (["--coordinator", "nowhere", "--processes", "2", "--process", "0"], "HOST:PORT"),
        (["--coordinator", "localhost:1", "--processes", "2", "--process", "2"], "between 0 and 1"),
        (
            ["--coordinator", "localhost:1", "--processes", "0", "--process", "0"],
            "--processes must be at least 1, not 0",
        ),
        (
            ["--coordinator", "localhost:1", "--processes", "2", "--process", "0", "--wait", "0"],
            "--wait must be a number of seconds above 0, not 0",
        ),
    ],
)
def test_odd_options(place, tmp_path, capsys, more, why):
    assert main([*arguments(place, tmp_path), *(x.format(place=place) for x in more)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxcam: error: ") and why in line


def test_permutations_without_shap_cam_and_a_folder_without_pictures(place, tmp_path, capsys):
    base = ["explain", str(place / "photos"), "--model", str(place / "net"), "--out", str(tmp_path / "out")]
    assert main([*base, "--permutations", "10"]) == 2
    assert "was not asked for; add --method shap_cam" in capsys.readouterr().err
    assert main(["explain", str(place / "net"), *base[2:]]) == 2
    assert "is a folder without pictures" in capsys.readouterr().err


def together(place, out, devices, **changed):
    """The exit status, output and errors of a process for each number of devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(len(devices))]
    runs = [
        subprocess.Popen(
            [
                sys.executable, "-m", "jaxcam",
                *arguments(place, out, *shared, "--process", str(i), "--resume", **changed),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(count),
        )
        for i, count in enumerate(devices)
    ]  # fmt: skip
    told = [run.communicate(timeout=300) for run in runs]
    return [(run.returncode, *texts) for run, texts in zip(runs, told, strict=True)]


def test_two_processes_give_what_one_gives_by_every_estimator(place):
    alone, out = place / "alone", place / "processes"
    changed = {"methods": [f"shap_cam:estimator={e}" for e in ("plain", "antithetic", "adjusted")], "permutations": 200}
    assert main(arguments(place, alone, **changed)) == 0
    (status, table, errors), (other, nothing, more) = together(place, out, (2, 2), **changed)
    assert (status, other) == (0, 0), errors + more
    assert "written to" in table and nothing == ""
    got, whole = arrays(out), arrays(alone)
    assert list(got) == list(whole) == ["a-2.npz", "a.npz", "b.npz"] and not (out / ".jaxcam-progress").exists()
    for name, expected in whole.items():
        assert len(expected["coefficients"]) == 3
        np.testing.assert_allclose(got[name]["coefficients"], expected["coefficients"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", [0, 1])
def test_processes_that_nobody_answers_say_what_they_wait_for_and_end(place, tmp_path, process):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(process), "--wait", "7"]
    run = subprocess.run(
        [sys.executable, "-m", "jaxcam", *arguments(place, tmp_path, *more)], capture_output=True, text=True,
        env=environment(), timeout=120,
    )  # fmt: skip
    waiting, error = run.stderr.splitlines()
    assert run.returncode == 2 and run.stdout == ""
    assert waiting == f"jaxcam: waiting for process {1 - process} at 127.0.0.1:{port}, 7 s at most"
    assert f"error: 127.0.0.1:{port}: process {1 - process} did not come within 7 s; give the same command" in error


def test_processes_with_different_numbers_of_devices(place, tmp_path):
    for status, _, errors in together(place, tmp_path, (1, 2)):
        assert status == 2 and "as many devices as the others, not 1 in process 0, 2 in process 1" in errors


def test_the_bar_shows_parts_of_maps_on_a_terminal_and_nothing_elsewhere():
    import io

    from rich.console import Console

    from jaxcam.cli.progress import maps_bar, rate

    for terminal in (True, False):
        shown = io.StringIO()
        with maps_bar(Console(file=shown, force_terminal=terminal, width=100), 4) as done:
            for _ in range(4):
                done("cat.png", "shap_cam", 0.25)
            done("cat.png", "grad_cam", 1)
        assert (" 50%" in shown.getvalue()) == terminal and bool(shown.getvalue()) == terminal
    assert (rate(None), rate(2.0), rate(0.25)) == ("", "2.0 maps/s", "4.0 s/map")
