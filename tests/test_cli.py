"""The command line: what it writes, and one line for each mistake."""

from __future__ import annotations

import io
import json
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest
from networks import CLASSES, VGG, network, picture
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file
from test_images import huge_png

import jaxcam
from jaxcam.cli import arguments, main, progress
from jaxcam.methods.registry import METHODS
from jaxcam.metrics import METRICS
from jaxcam.zoo.store import save_network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a network and two photos; two of one stem."""
    folder = tmp_path_factory.mktemp("place")
    save_network(folder / "net", network(VGG, provenance={"accuracy": 0.875, "validation_pictures": 40}))
    (folder / "other").mkdir()
    for seed, (name, size) in enumerate({"a.png": (40, 70), "b.png": (90, 50), "other/a.png": (64, 64)}.items()):
        Image.fromarray(picture(*size, seed)).save(folder / name)
    return folder


@pytest.fixture
def explain(place, monkeypatch):
    monkeypatch.chdir(place)
    return lambda *arguments: main(["explain", *map(str, arguments), "--model", "net", "--method", "grad_cam"])


def test_the_difference_of_two_classes(explain, place, tmp_path, capsys):
    out, resumed = ("--out", tmp_path, "--json", tmp_path / "numbers.json"), ("--resume", "--target", "2 - golf_ball")
    assert explain("a.png", *out, "--target", "Tench - golf ball", "tench") == 0
    told = json.loads((tmp_path / "numbers.json").read_text())["images"][0]["results"]
    assert [r["class_name"] for r in told] == ["tench - golf ball", "tench"]
    targets = [jaxcam.targets.difference("tench", "golf ball")]
    [expected] = jaxcam.explain(jaxcam.load("net"), "a.png", methods=["grad_cam"], targets=targets)
    np.testing.assert_allclose(told[0]["coefficients"], expected.results[0].coefficients, rtol=1e-5)
    assert " tench - golf ball " in capsys.readouterr().out
    assert explain("a.png", *out, *resumed) == 0 and "made anew" in capsys.readouterr().out
    assert explain("a.png", *out, *resumed) == 0 and "1 of 1 pictures were finished" in capsys.readouterr().out


def test_explain_writes_what_the_python_api_gives(explain, place, tmp_path, capsys):
    assert explain("a.png", "b.png", "--top", 2, "--out", tmp_path / "out", "--json", tmp_path / "numbers.json") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.npz", "a.png", "b.npz", "b.png"]
    expected = jaxcam.explain(jaxcam.load("net"), ["a.png", "b.png"], methods=["grad_cam"], targets=2)
    document = json.loads((tmp_path / "numbers.json").read_text())
    assert document["jaxcam"] == jaxcam.__version__ and document["model"] == "tiny" and document["failed"] == []
    table = capsys.readouterr().out
    for name, explanation, stored in zip("ab", expected, document["images"], strict=True):
        with np.load(tmp_path / "out" / f"{name}.npz") as arrays:
            np.testing.assert_allclose(arrays["coefficients"], [r.coefficients for r in explanation.results], rtol=1e-5)
            np.testing.assert_allclose(arrays["maps"], [r.map for r in explanation.results], rtol=1e-4, atol=1e-6)
            assert arrays["heatmaps"].shape == (2, explanation.image.height, explanation.image.width)
            assert arrays["source"] == f"{name}.png" and arrays["layer"] == "conv5_2"
        assert stored["image"] == f"{name}.png"
        assert stored["files"] == [str(tmp_path / "out" / f"{name}.{kind}") for kind in ("npz", "png")]
        assert [r["target"] for r in stored["results"]] == [r.target for r in explanation.results]
        for r in explanation.results:
            (line,) = [x for x in table.splitlines() if f" {name}.png " in x and f" {r.class_name} " in x]
            assert f" {100 * r.probability:.1f} % " in line and f" {r.logit:.3f} " in line and " grad_cam " in line
        with Image.open(tmp_path / "out" / f"{name}.png") as figure:
            figure.load()
            assert min(figure.size) > 300


def test_a_file_for_each_map_at_the_photos_size(explain, place, tmp_path):
    options = ("--top", 2, "--out", tmp_path, "--format", "jpg", "--box", "--method", "lift_cam")
    assert explain("a.png", "--overlay-only", *options) == 0
    [found] = jaxcam.explain(jaxcam.load("net"), ["a.png"], methods=["lift_cam", "grad_cam"], targets=2)
    names = {f"a-{r.method}-{r.class_name.replace(' ', '_')}.jpg" for r in found.results}
    assert {p.name for p in tmp_path.iterdir()} == {"a.npz"} | names
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.size == (70, 40)
    shown = np.asarray(Image.open(tmp_path / f"a-lift_cam-{found.results[0].class_name.replace(' ', '_')}.jpg"), float)
    result = found["lift_cam", found.results[0].target]
    want = jaxcam.overlay("a.png", result.heatmap, box=result.box())
    assert np.abs(shown - np.asarray(want, float)).mean() < 12  # JPEG
    assert explain("a.png", "--heatmap-only", "--out", tmp_path / "heat", "--signed", "--scale", "shared") == 0
    assert {p.suffix for p in (tmp_path / "heat").iterdir()} == {".npz", ".png"}


def test_names_as_people_type_them(place, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(place)
    out = ("--out", str(tmp_path / "out"), "--no-figure", "--json", "-")
    command = ["explain", "--model", "net", "--method", "grad_cam,xgrad_cam", "a.png", "--target", "Golf_Ball", "b.png"]
    assert main([*command, "other/a.png", *out]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert sorted(i["image"] for i in images) == ["a.png", "b.png", "other/a.png"]
    assert [r["method"] for r in images[0]["results"]] == ["grad_cam", "xgrad_cam"]
    assert main(["explain", "--model", "net", "a.png", "--methods", "grad_cam", *out, "b.png"]) == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 2
    assert arguments.methods(["shap_cam:num_permutations=5,estimator=plain,lift_cam", "cam"]) == [
        "shap_cam:num_permutations=5,estimator=plain", "lift_cam", "cam"
    ]  # fmt: skip


def test_a_narrow_terminal_breaks_no_name(explain, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxcam.cli.explain.new_console", lambda stream, quiet: Console(width=80, file=stream))
    assert explain("a.png", "b.png", "--method", "hires_lift_cam", "--top", 3, "--out", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    text = "\n".join(lines)
    assert text.count(" hires_lift_cam ") == 6 and text.count("a.png") == 1
    assert all(text.count(f" {name} ") for name in ("golf ball", "grad_cam"))
    row = next(line for line in lines if " grad_cam " in line)
    assert " - " in row  # Grad-CAM promises no completeness


def test_a_folder_says_what_it_skipped(explain, place, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "notes.txt", "b.doc"):
        (tmp_path / "in" / name).write_bytes((place / "a.png").read_bytes())
    assert explain(tmp_path / "in", "--out", tmp_path / "out", "--no-figure") == 0
    assert "2 files skipped that are no pictures (b.doc, notes.txt)" in capsys.readouterr().out


def test_a_folder_is_explained_without_what_was_drawn_of_it(explain, place, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    with Image.open(place / "a.png") as photo:
        photo.save(folder / "a.jpg")
        photo.save(folder / "a-b.png")
        photo.save(folder / "moves.gif", save_all=True, append_images=[photo.rotate(90)])
    command = ("--method", "grad_cam", "--overlay-only")
    assert explain(folder / "a.jpg", *command, "--out", folder) == 0  # results among the photos
    assert "written: " in capsys.readouterr().out
    assert explain(folder / "moves.gif", *command, "--frames", "2", "--out", folder / "deep") == 0
    capsys.readouterr()
    assert explain(folder, *command, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "6 pictures skipped that jaxcam explain drew" in said  # an overlay; two frames, two overlays, an animation
    assert {p.stem for p in (tmp_path / "out").glob("*.npz")} == {"a", "a-b", "moves"}


def test_a_method_in_detail(capsys):
    for name, info in METHODS.items():
        assert main(["methods", name]) == 0
        shown = capsys.readouterr().out
        assert info.title in shown and all(f" {option} " in shown for option in info.options)
    assert main(["methods", "shap_cam"]) == 0
    assert "orderings" in capsys.readouterr().out
    assert main(["methods", "lift_cat"]) == 2


def test_a_metric_in_detail(capsys):
    for name, metric in METRICS.items():
        assert main(["metrics", name]) == 0
        shown = capsys.readouterr().out
        assert metric.title in shown and all(f" {need} " in shown for need in metric.requires)
    assert main(["metrics", "EPG"]) == 0
    assert "the share of the map inside the boxes" in " ".join(capsys.readouterr().out.split())
    assert main(["metrics", "epgg"]) == 2


def test_quiet_says_nothing(explain, tmp_path, capsys):
    assert explain("a.png", "--quiet", "--out", tmp_path) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == "" and (tmp_path / "a.npz").is_file()


def test_a_line_every_minute_where_no_terminal_is(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.maps_bar(Console(file=io.StringIO()), 100) as done:
        for _ in range(10):
            now[0] += 25.0
            done("a.png", "shap_cam", 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[0] == "jaxcam: 2 of 100 maps, 50.0 s/map, 1:22:05 left"


def test_doctor_explains_the_bundled_picture(capsys, monkeypatch):
    monkeypatch.setenv("JAXCAM_CACHE", "/nowhere/at/all")
    monkeypatch.setenv("TF_VAR_password", "secret of Terraform's")
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=0")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "secret" not in told and "TF_XLA_FLAGS=--tf" in told
    assert f"jax {jax.__version__}" in told and "works:     yes, efficientnet_lite0 sees" in told
    monkeypatch.setattr("jaxcam.cli.explain.EXAMPLE", pathlib.Path("/nowhere.jpg"))
    assert main(["doctor"]) == 1
    assert "works:     no: JaxcamError" in capsys.readouterr().out


def test_programs_are_kept_between_runs(place, tmp_path):
    """In processes of their own, as the settings are the whole process's."""
    script = (
        "import sys, jax; from jaxcam.cli import main; lowered = []\n"
        "def heard(event, seconds, fun_name='', **more):\n"
        "    lowered.extend([fun_name] if event.endswith('jaxpr_to_mlir_module_duration') else [])\n"
        "jax.monitoring.register_event_duration_secs_listener(heard)\n"
        "assert main(sys.argv[1:]) == 0\nprint(sum('run' in n for n in lowered), len(lowered), file=sys.stderr)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    env |= {"JAXCAM_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(pathlib.Path(jaxcam.__file__).parents[1])}
    command = [sys.executable, "-c", script, "explain", "a.png", "--model", "net", "--out", str(tmp_path / "out")]
    told, maps = [], []
    for run in range(3):
        if run == 1:  # cut off, which is found out; made again it is not taken from JAX's own cache, to be kept
            [traced] = (tmp_path / "cache" / "programs").glob("*-traced")
            for file in traced.iterdir():
                file.write_bytes(file.read_bytes()[:-100])
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[:-1] == []
        told.append(tuple(map(int, done.stderr.split())))
        with np.load(tmp_path / "out" / "a.npz") as arrays:
            maps.append(arrays["maps"].tobytes())
    assert len(set(maps)) == 1
    (first, _), (mended, _), again = told
    assert again == (0, 0)  # nothing is traced, nor anything small compiled on the way
    assert first == mended > 1


def test_programs_are_kept_only_where_they_are_to_be(monkeypatch, tmp_path):
    from jaxcam.cli.programs import _private, keep_programs
    from jaxcam.explanation import compiled, kept

    monkeypatch.setenv("JAXCAM_CACHE", str(tmp_path))
    monkeypatch.setenv("JAXCAM_PROGRAMS", "0")
    assert keep_programs(ours=True) is None and list(tmp_path.iterdir()) == []
    assert _private(tmp_path)
    tmp_path.chmod(0o777)  # what lies in there may be another's code
    assert not _private(tmp_path)
    assert kept.kept("x", (), lambda: "made") == ("made", None)

    def broken(*args):
        raise jax.errors.JaxRuntimeError("NOT_FOUND: a function of it")

    program = compiled._Compiled(broken, lambda: np.negative)
    program.first(np.ones(2))  # one that was kept, and does not run
    assert program.call is np.negative and program.warm
    with pytest.raises(jax.errors.JaxRuntimeError):
        compiled._Compiled(broken, None).first(np.ones(2))
    monkeypatch.setattr(kept, "_most", 1000)
    for i in range(5):
        (tmp_path / str(i)).write_bytes(bytes(300))
        os.utime(tmp_path / str(i), (i, i))
    kept._make_room(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3", "4"]


def test_what_is_listed_needs_no_jax_and_what_is_loaded_no_flax():
    script = (
        "import sys, jaxcam; from jaxcam.cli import main\n"
        "assert main(['methods']) == main(['methods', 'lift-cam']) == main(['methods', 'shap_cam']) == 0\n"
        "assert main(['metrics']) == main(['completion', 'bash']) == 0\n"
        "assert 'jax' not in sys.modules, 'jax'\n"
        "jaxcam.load(); from jaxcam.explanation import explain\n"
        "print([m for m in ('flax', 'scipy', 'matplotlib', 'orbax') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]", done.stderr


def test_json_on_standard_output_is_nothing_but_json(explain, tmp_path, capsys):
    assert explain("a.png", "--target", "Tench", "--out", tmp_path, "--json", "-", "--no-figure") == 0
    captured = capsys.readouterr()
    (image,) = json.loads(captured.out)["images"]
    assert [r["class_name"] for r in image["results"]] == ["tench"]
    assert "grad_cam" in captured.err
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_stems_that_collide_and_photos_in_the_output_folder(explain, place, tmp_path):
    own = tmp_path / "a.png"
    own.write_bytes((place / "b.png").read_bytes())
    before = own.read_bytes()
    assert explain("a.png", "other/a.png", own, "a.png", "--out", tmp_path) == 0
    assert own.read_bytes() == before
    names = ("a-2", "a-3", "a-4")
    assert {p.name for p in tmp_path.iterdir()} == {"a.png"} | {f"{n}.{e}" for n in names for e in ("npz", "png")}
    sources = {str(np.load(tmp_path / f"{n}.npz")["source"]) for n in names}
    assert sources == {"a.png", "other/a.png", str(own)}


def test_one_broken_photo_does_not_stop_the_others(explain, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_text("words")
    out, numbers = tmp_path / "out", tmp_path / "n.json"
    assert explain(tmp_path / "broken.jpg", "a.png", "b.png", "--out", out, "--json", numbers) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxcam: error: ") and "broken.jpg" in line
    assert {p.name for p in out.iterdir()} == {"a.npz", "a.png", "b.npz", "b.png"}
    (failed,) = json.loads(numbers.read_text())["failed"]
    assert failed["image"].endswith("broken.jpg")


def test_a_photo_of_one_pixel(explain, tmp_path):
    Image.new("RGB", (1, 1), (9, 99, 199)).save(tmp_path / "dot.png")
    assert explain(tmp_path / "dot.png", "--out", tmp_path / "out") == 0
    assert np.load(tmp_path / "out" / "dot.npz")["heatmaps"].shape == (1, 1, 1)


def _text(path):
    path.write_text("words")


def _truncated(path):
    Image.fromarray(picture(300, 300)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "there is no such file"),
        (_text, "is not a picture"),
        (_truncated, "broken or cut off"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: huge_png(path, 20_000), "shrink the picture first"),
    ],
    ids=["missing", "text", "truncated", "empty", "folder", "huge"],
)
def test_bad_photos(place, tmp_path, fails, make, why):
    make(tmp_path / "p.jpg")
    line = fails("explain", tmp_path / "p.jpg", "--model", place / "net", "--out", tmp_path / "out")
    assert why in line and "p.jpg" in line


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--model", "vgg16_slimm"], "no model called 'vgg16_slimm'"),
        (["--method", "grad_cat"], "no method called 'grad_cat'; did you mean grad_cam"),
        (["--method", ",beta=1"], "no method called 'beta=1'"),
        (["--method", "{place}/b.png"], "--method names nothing but a photo"),
        (["--target", "{place}/b.png"], "--target names nothing but a photo"),
        (["https://example.org/photo.jpg"], "is an address; download the picture"),
        (["-"], "not read from standard input"),
        (["{place}/*.tiff"], "no file fits this pattern"),
        (["--format", "gif"], "no format called 'gif'"),
        (["--overlay-only", "--format", "svg"], "no format called 'svg'"),
        (["--cmap", "virids"], "no colour map called 'virids'; did you mean viridis"),
        (["--scale", "all"], "no scale called 'all'"),
        (["--alpha", "2"], "opacity from 0 to 1"),
        (["--box", "0"], "share of the maximum"),
        (["--target", "golf bal"], "no class called 'golf bal'; did you mean golf ball?"),
        (["--target", "tench - golf bal"], "no class called 'golf bal'; did you mean golf ball?"),
        (["--target", "4"], "there is no class 4"),
        (["--layer", "conv5_7"], "no layer called 'conv5_7'; did you mean conv5_"),
        (["--out", "{place}/a.png/out"], "cannot be written to"),
        (["--json", "{place}/a.png/x.json"], "cannot be written to"),
        (["--json", "{place}"], "is a folder"),
        (["--method", "cam"], "CAM is defined for a global average pool"),
        (["--top", "0"], "at least 1"),
        (["--top", "two"], "invalid int value"),
        (["--batch-size", "0"], "batch size"),
        (["--top", "2", "--target", "tench"], "not allowed with"),
        (["--modl", "net"], "there is no option --modl; did you mean --model? (see jaxcam explain --help)"),
    ],
)
def test_bad_arguments(place, tmp_path, fails, given, why):
    given = [a.format(place=place) for a in given]
    for option, value in (("--model", place / "net"), ("--out", tmp_path)):
        if option not in given:
            given += [option, value]
    assert why in fails("explain", place / "a.png", *given)


def test_no_photo_and_no_command(fails):
    assert "no picture named" in fails("explain")
    assert "COMMAND" in fails()
    assert "no command 'explian'; did you mean explain?" in fails("explian")


def test_nan_in_the_weights(place, tmp_path, fails):
    save_network(tmp_path / "net", network(VGG))
    tensors = load_file(tmp_path / "net" / "weights.safetensors")
    tensors["fc6.kernel"][0, 0] = np.nan
    save_file(tensors, tmp_path / "net" / "weights.safetensors")
    line = fails("explain", place / "a.png", "--model", tmp_path / "net", "--out", tmp_path / "out")
    assert "fc6.kernel holds NaN" in line
    assert not (tmp_path / "out").exists()


def test_interrupt_is_one_line(explain, monkeypatch, tmp_path, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxcam.explanation.explain.explain_each", interrupted)
    assert explain("a.png", "--out", tmp_path) == 130
    assert capsys.readouterr().err == "jaxcam: interrupted\n"


def test_models_shows_one_in_detail(place, capsys):
    assert main(["models", str(place / "net")]) == 0
    shown = capsys.readouterr().out
    assert "87.5 % top-1 accuracy on 40 pictures" in shown and ", ".join(CLASSES) in shown
    assert "4 x 4 x 15" in shown and shown.count("default") == 1


def test_models_lists_what_is_bundled(capsys):
    from jaxcam.zoo.load import bundled

    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert "validation" in listed
    assert all(name in listed for name in bundled())


def test_methods_lists_all(capsys):
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name, info in METHODS.items():
        assert f" {name} " in listed and info.title in listed and info.paper in listed


def test_example_is_one_of_the_photos(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxcam.cli.explain.EXAMPLE", place / "b.png")
    command = ["explain", "--example", "--model", str(place / "net"), "--method", "grad_cam", "--out", str(tmp_path)]
    assert main(command) == 0
    assert (tmp_path / "b.npz").is_file()
    monkeypatch.setattr("jaxcam.cli.explain.EXAMPLE", place / "gone.jpg")
    assert main(command) == 2
    assert "install it again" in capsys.readouterr().err


def test_help_imports_nothing_heavy_and_version_tells_the_devices():
    script = (
        "import sys\nfrom jaxcam.cli import main\n"
        "def run(option):\n"
        "    try: main([option])\n"
        "    except SystemExit as e: assert e.code == 0\n"
        "run('--help')\n"
        "assert not {'jax', 'numpy', 'PIL', 'rich', 'matplotlib'} & set(sys.modules), sys.modules.keys()\n"
        "run('--version')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "explain" in done.stdout
    assert f"jaxcam {jaxcam.__version__}, jax {jax.__version__} on " in done.stdout and "x cpu" in done.stdout


def test_as_a_module_without_traceback(tmp_path):
    root = str(pathlib.Path(jaxcam.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "jaxcam", "explain", "x.jpg", "--model", "nowhere"], capture_output=True, text=True,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("jaxcam: error: no model called 'nowhere'")


def test_freed_memory_is_kept_where_the_c_library_can():
    """In a process of its own, as it stays so."""
    code = (
        "from jaxcam.cli.memory import keep_freed_memory; import resource, numpy as np; print(keep_freed_memory())\n"
        "for _ in range(3): x = np.ones(4 << 20); del x\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): x = np.ones(4 << 20); del x\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    could, faults = done.stdout.split()
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        assert could == "True" and int(faults) < 1000  # each array alone has 8192 pages


_COMPLETE = """source "$1"
complete_() {
  COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  local function=$(complete -p jaxcam | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
  $function jaxcam "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  echo "${COMPREPLY[*]}"
}
"""


def test_a_shell_completes_commands_options_and_names(tmp_path, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    typed = {
        "ex": ["explain"], "explain --overl": ["--overlay-only"], "evaluate --metric gin": ["gini"],
        "explain --method li": [m for m in METHODS if m.startswith("li")], "methods eigen_g": ["eigen_grad_cam"],
        "explain --model vg": ["vgg16_slim"], "completion z": ["zsh"],
    }  # fmt: skip
    lines = "\n".join(f"complete_ jaxcam {words}" for words in typed)
    said = subprocess.run(["bash", "-c", _COMPLETE + lines, "bash", script], capture_output=True, text=True, check=True)
    assert [sorted(line.split()) for line in said.stdout.splitlines()] == [sorted(want) for want in typed.values()]
    for shell in ("zsh", "tcsh"):
        assert main(["completion", shell]) == 0 and "explain" in capsys.readouterr().out


def test_the_names_to_complete_are_those_of_the_tables():
    from jaxcam.cli.completion import _names
    from jaxcam.zoo.load import bundled

    assert _names() == {"methods": sorted(METHODS), "metrics": sorted(METRICS), "models": sorted(bundled())}


def test_completion_says_what_it_needs(fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert "pip install 'jaxcam-xai[completion]'" in fails("completion", "bash")
