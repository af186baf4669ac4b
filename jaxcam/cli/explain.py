"""`jaxcam explain`."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxcam import __version__
from jaxcam.errors import JaxcamError

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from jaxcam.explanation import Explanation

EXAMPLE = pathlib.Path(__file__).parents[1] / "data" / "bundled" / "golf_ball_and_parachute.jpg"


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "explain", help="say why a network scores photos as it does", allow_abbrev=False,
        description="For each photo: a table, a figure (photo and one map per class and method), and the raw arrays.",
    )  # fmt: skip
    p.add_argument("images", nargs="*", metavar="IMAGE", help="photos in any common format; name them before options")
    p.add_argument("--example", action="store_true", help="explain the picture that comes with jaxcam")
    p.add_argument(
        "--model", metavar="NAME|FOLDER", help="a network of `jaxcam models`, or a folder that holds one (default: "
        "the first of `jaxcam models`)",
    )  # fmt: skip
    p.add_argument(
        "--weights", metavar="FILE|DIR", help="use these weights, a file by PyTorch or Keras or a folder by jaxcam; "
        "--model may then name the architecture, which the file tells otherwise",
    )  # fmt: skip
    p.add_argument(
        "--method", nargs="+", action="extend", metavar="M",
        help="methods of `jaxcam methods`, or all (default: lift_cam); options follow a colon, as in "
        "shap_cam:num_permutations=1000,estimator=plain",
    )  # fmt: skip
    p.add_argument("--permutations", type=int, metavar="N", help="orderings that shap_cam samples")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the methods that sample (default: 0)")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--target", nargs="+", action="extend", metavar="T", help="classes to explain, by name or index")
    which.add_argument(
        "--top", type=int, default=1, metavar="N", help="explain the N most probable classes of each photo (default: 1)"
    )
    p.add_argument("--layer", metavar="L", help="where to make the maps (default: the last convolutional layer)")
    p.add_argument("--out", default="explanations", metavar="DIR", help="where the files go (default: explanations)")
    p.add_argument("--json", metavar="FILE|-", help="write the numbers as JSON as well; - for standard output")
    p.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos and maps at a time (default: 8)")
    p.add_argument("--no-figure", action="store_true", help="write the arrays only")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command; 1 where some of the pictures could not be read."""
    paths = list(dict.fromkeys([*options.images, *([str(EXAMPLE)] if options.example else [])]))
    if not paths:
        raise JaxcamError("no picture named; give the path of a photo, or --example (see jaxcam explain --help)")
    if options.example and not EXAMPLE.is_file():
        raise JaxcamError("this installation of jaxcam lacks its example picture; install it again")
    # Everything that can be wrong is found out before the first picture is decoded.
    methods: Any = "all" if "all" in (options.method or ()) else options.method or ["lift_cam"]
    _check_names(options, methods)
    from jaxcam.explanation import explain_each
    from jaxcam.files import check_writable
    from jaxcam.models.zoo import load

    network = load(options.model, weights=options.weights)
    network.split(at=options.layer)
    targets: Any = [network.class_index(t) for t in options.target] if options.target else options.top
    out = check_writable(options.out)
    if options.json not in (None, "-"):
        check_writable(pathlib.Path(options.json).parent)
        if pathlib.Path(options.json).is_dir():
            raise JaxcamError(f"{options.json}: is a folder; name a file")

    broken: list[tuple[str, str]] = []
    notices: list[str] = []
    explanations = explain_each(
        network, _readable(paths, broken), methods=methods, targets=targets, layer=options.layer,
        batch_size=min(options.batch_size, len(paths)), maps_at_once=options.batch_size,
        skipped=lambda name, why: notices.append(f"{name} left out: {why}"),
    )  # fmt: skip
    console = _console(sys.stderr if options.json == "-" else sys.stdout)
    names = _stems(paths, out)
    rows: list[tuple] = []
    records: list[dict] = []
    with console.status("explaining") if console.is_terminal else contextlib.nullcontext():
        for explanation in explanations:
            files = _write(explanation, out, names[explanation.source], figure=not options.no_figure)
            records.append(explanation.to_dict() | {"files": files})
            rows += _rows(explanation)
    if rows:
        console.print(_table(rows, network.name, records[0]["layer"]))
        what = "arrays" if options.no_figure else "figures and arrays"
        notices.append(f"{what} of {len(records)} picture{'s' * (len(records) > 1)} written to {out}")
    for notice in notices:
        console.print(notice, markup=False, highlight=False, soft_wrap=True)
    for _, message in broken:
        print("jaxcam: error: " + " ".join(message.split()), file=sys.stderr)
    if options.json:
        document = {
            "jaxcam": __version__, "model": network.name, "images": records,
            "failed": [{"image": path, "error": message} for path, message in broken],
        }  # fmt: skip
        _write_json(options.json, document)
    if not broken:
        return 0
    return 1 if records else 2


def _check_names(options: argparse.Namespace, methods: Any) -> None:
    """Errors that need no network; among them a photo swallowed by the option before it."""
    from jaxcam.methods.catalog import method

    for name in () if methods == "all" else methods:
        try:
            method(name)
        except JaxcamError:
            if pathlib.Path(name).is_file():
                raise JaxcamError(f"{name} was read as a method; name the pictures before the options") from None
            raise
    for name in options.target or ():
        if pathlib.Path(name).suffix and pathlib.Path(name).is_file():
            raise JaxcamError(f"{name} was read as a class; name the pictures before the options")


def _readable(paths: Sequence[str], broken: list[tuple[str, str]]) -> Iterator[tuple[str, Image.Image]]:
    """Opens the pictures one after the other, and notes in `broken` those that cannot be read."""
    from jaxcam.data.images import open_image

    for path in paths:
        try:
            yield path, open_image(path)
        except JaxcamError as e:
            broken.append((path, str(e)))


def _write(explanation: Explanation, out: pathlib.Path, stem: str, *, figure: bool) -> list[str]:
    """Writes the files of one picture and returns their paths."""
    files = [out / f"{stem}.npz"]
    explanation.save(files[0])
    if figure:
        from jaxcam.figures import plot

        files.append(out / f"{stem}.png")
        plot(explanation, files[1])
    return [str(f) for f in files]


def _stems(paths: Sequence[str], out: pathlib.Path) -> dict[str, str]:
    """A file name without ending for each path: its stem, with a number where that is taken or is the photo itself."""
    taken = {pathlib.Path(p).resolve() for p in paths}
    stems: dict[str, str] = {}
    used: set[str] = set()
    for path in dict.fromkeys(paths):
        base = stem = pathlib.Path(path).stem
        number = 2
        while stem.lower() in used or (out / f"{stem}.png").resolve() in taken:
            stem, number = f"{base}-{number}", number + 1
        used.add(stem.lower())  # as some file systems see no difference
        stems[path] = stem
    return stems


def _console(stream: Any) -> Console:
    from rich.console import Console

    # A pipe or a file has no width, and the default of 80 would cut the table.
    return Console(file=stream, width=None if stream.isatty() else 160)


def _rows(explanation: Explanation) -> list[tuple]:
    return [
        (
            explanation.source, r.class_name, f"{100 * r.probability:.1f} %", f"{r.logit:.3f}", r.method,
            f"{r.completeness_gap:.1e}", f"{1000 * r.seconds:.1f}", r.empty or "",
        )
        for r in explanation.results
    ]  # fmt: skip


def _table(rows: Sequence[tuple], model: str, layer: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{model}, maps at {layer}", title_justify="left")
    for name in ("image", "class", "probability", "logit", "method", "completeness gap", "ms"):
        right = name in ("probability", "logit", "completeness gap", "ms")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    notes = any(row[-1] for row in rows)
    if notes:
        table.add_column("empty map", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in (row if notes else row[:-1])))
    return table


def _write_json(target: str, document: dict) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    from jaxcam.files import whole_file

    with whole_file(target) as f:
        f.write(text.encode("utf-8", "backslashreplace"))
