"""`jaxcam explain`."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from jaxcam import __version__
from jaxcam.cli import arguments, drawing, frames, networks, processes, python
from jaxcam.cli.pictures import expand, stems
from jaxcam.cli.progress import note
from jaxcam.cli.report import write
from jaxcam.cli.table import new_console, rows_of, show
from jaxcam.errors import JaxcamError, visible
from jaxcam.methods import DEFAULT_METHOD, SIGNED_METHOD

if TYPE_CHECKING:
    from jaxcam.explanation.result import Explanation
    from jaxcam.explanation.resume import Digests
    from jaxcam.models.classifier import Classifier

EXAMPLE = pathlib.Path(__file__).parents[1] / "data" / "bundled" / "golf_ball_and_parachute.jpg"


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "explain", help="say why a network scores photos as it does", allow_abbrev=False,
        description="For each photo: a table, a figure (photo and one map per class and method), and the raw arrays.",
    )  # fmt: skip
    p.add_argument("images", nargs="*", metavar="IMAGE", help="photos in any common format, or folders of them")
    p.add_argument("--example", action="store_true", help="explain the picture that comes with jaxcam")
    networks.add_options(p)
    p.add_argument(
        "--method", "--methods", nargs="+", action="extend", metavar="M",
        help=f"methods of `jaxcam methods`, or all (default: {DEFAULT_METHOD}; {SIGNED_METHOD} where activations are "
        "negative as well); options follow a colon, as in shap_cam:num_permutations=1000,estimator=plain",
    )  # fmt: skip
    p.add_argument(
        "--permutations", type=int, metavar="N", help="num_permutations of the methods that have this option, unless "
        "their own options say",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the methods that sample (default: 0)")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--target",
        "--targets",
        nargs="+",
        action="extend",
        metavar="T",
        help="classes to explain, by name or index; 'cat - dog' is the difference of two, and `jaxcam targets` lists "
        "other kinds, as in against_rest:cat; in place of a class, predicted is the most probable one and rival the "
        "next; or a function of the logits, FILE.py:NAME",
    )
    which.add_argument(
        "--top", type=int, default=1, metavar="N", help="explain the N most probable classes of each photo (default: 1)"
    )
    p.add_argument(
        "--layer", "--layers", action="append", metavar="L", help="where to make the maps (default: the network's "
        "last); \"input\" is the picture itself; of several, as in conv4_3,conv5_3, one map is made",
    )  # fmt: skip
    p.add_argument(
        "--fuse", default="max", metavar="HOW", help="what becomes of the maps of several layers: max, the largest at "
        "each place, as in LayerCAM's paper, or the mean of scaled ones (default: max)",
    )  # fmt: skip
    p.add_argument(
        "--views", action="append", metavar="V", help="average maps over views of each photo: flips, scales, or both",
    )  # fmt: skip
    p.add_argument("--out", default="explanations", metavar="DIR", help="where the files go (default: explanations)")
    p.add_argument("--json", metavar="FILE|-", help="write the numbers as JSON as well; - for standard output")
    p.add_argument(
        "--batch-size", type=int, metavar="N", help="photos and maps at a time (default: by the device's memory; 8 on "
        "a processor, and one photo where a method makes a map at a time)",
    )  # fmt: skip
    networks.add_precision(p, "highest")
    p.add_argument(
        "--resume", action="store_true", help="take up what the same command left when it was stopped, and leave the "
        "same for the next time (photos are then computed one at a time)",
    )  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")
    drawing.add_options(p)
    frames.add_options(p)
    processes.add_options(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command; 1 where some of the pictures could not be read."""
    swallowed = [
        *arguments.photos_among(options.method, "--method"),
        *arguments.photos_among(options.target, "--target"),
    ]
    options.layer, options.views = arguments.names(options.layer), arguments.names(options.views)
    options.method = arguments.methods(options.method)
    named = [*options.images, *swallowed, *([str(EXAMPLE)] if options.example else [])]
    if not named:
        raise JaxcamError("no picture named; give the path of a photo, or --example (see jaxcam explain --help)")
    if options.example and not EXAMPLE.is_file():
        raise JaxcamError("this installation of jaxcam lacks its example picture; install it again")
    # Everything that can be wrong is found out before the first picture is decoded.
    processes.check(options)
    drawing.check(options)
    frames.check(options)
    if options.coordinator is None:  # else nothing may be computed before the processes have found together
        networks.prepare(options)
    methods = _requests(options)
    paths, said = expand(named, pathlib.Path(options.out))
    if options.json not in (None, "-") and (hit := [p for p in paths if _same_place(p, options.json)]):
        raise JaxcamError(f"--json {options.json} would take the place of the picture {hit[0]}; name another file")
    first = processes.start(options)
    from jaxcam.explanation.targets import known
    from jaxcam.files import check_writable

    networks.keep(options)
    network = networks.load(options)
    layers = [network.resolve_layer(at) for at in options.layer or [None]]
    targets: Any = options.top
    if options.target:
        targets = [python.at(t, "target", "--target") if _is_function(t) else known(network, t) for t in options.target]
    out = check_writable(options.out) if first else pathlib.Path(options.out)
    if options.json not in (None, "-"):
        check_writable(pathlib.Path(options.json).parent)
        if pathlib.Path(options.json).is_dir():
            raise JaxcamError(f"{options.json}: is a folder; name a file")
    paths, animations = frames.taken(paths, options.frames, out)
    broken, records = _explain(options, network, layers, methods, targets, paths, out, first, said)
    if not first:
        return 0
    drawn = {record["image"]: record["files"][1:] for record in records}
    joined = [file for animation in animations for file in frames.join(animation, drawn, out)]
    if joined and not options.quiet:
        print(visible(f"animated: {', '.join(joined)}"), file=sys.stderr if options.json == "-" else sys.stdout)
    for _, message in broken:
        note("error: " + " ".join(message.split()))
    if options.json:
        document = {
            "jaxcam": __version__, "model": network.name, "images": records,
            "failed": [{"image": path, "error": message} for path, message in broken],
        }  # fmt: skip
        _write_json(options.json, document)
    if not broken:
        return 0
    return 1 if records else 2


def _explain(
    options: argparse.Namespace, network: Classifier, layers: list[str], methods: list | None, targets: Any,
    paths: list[str], out: pathlib.Path, first: bool, notices: list[str],
) -> tuple[list[tuple[str, str]], list[dict]]:  # fmt: skip
    """Explains the pictures, writes their files and shows the table; returns those that failed, and the records."""
    from jaxcam.cli.progress import maps_bar
    from jaxcam.explanation.explain import BATCH, explain_each, requested
    from jaxcam.explanation.lower_precision import told
    from jaxcam.explanation.resume import Digests, MapsInFlight, check_alike, settings_digest
    from jaxcam.explanation.targets import as_list
    from jaxcam.transforms.memory import is_a_processor, room_for

    broken: list[tuple[str, str]] = []
    everything, requests = requested(methods)
    labels = [*requests, *(["all"] if everything else [])] or ["default"]
    made_at = layers[0]
    if len(layers) > 1 or options.views:
        made_at = " ".join([*layers, "fused by", options.fuse, "over", *(options.views or ["plain"])])
    settings = settings_digest(
        network, layer=made_at, methods=labels, seed=options.seed,
        targets=[getattr(t, "__name__", t if isinstance(t, int) else str(t)) for t in as_list(targets)]
        if options.target else targets,
        precision=options.precision, code=_code_of_others(requests, everything, as_list(targets)),
    )  # fmt: skip
    check_alike(settings)
    digests = Digests(settings)
    names = stems(paths, out, f".{options.format}", drawing.room(options))
    stream = sys.stderr if options.json == "-" else sys.stdout
    console = new_console(stream=stream, quiet=not first or options.quiet)
    done: dict[str, tuple[list[tuple], dict]] = {}
    doubts: dict[str, None] = {}

    def keep(explanation: Explanation, files: list[str]) -> None:
        done[explanation.source] = rows_of(explanation), explanation.to_dict() | {"files": files}
        doubts.update((f"{r.method}: {r.doubt}", None) for r in explanation.results if r.doubt)

    begun = MapsInFlight(out, digests, paths) if options.resume else None
    left, complete = paths, False
    if begun is not None:
        left = _take_up(options, paths, names, out, network, digests, keep, notices)
        if begun.strangers:
            notices.append(f"{begun.strangers} states in {begun.folder} are of other settings; not used")
    at_once = room_for(BATCH) if options.batch_size is None else options.batch_size
    # A photo's files are written when its batch is done, which is not to take long.
    slow = options.batch_size is None and not all(r.info.batched for r in requests.values())
    alone = options.resume or slow and is_a_processor()
    count = len(targets) if isinstance(targets, list) else max(1, min(targets, len(network.classes)))
    try:
        with maps_bar(console, len(left) * max(1, len(requests)) * count) as bar:
            explanations = explain_each(
                network, ((path, path) for path in left), methods=methods, targets=targets, layer=layers,
                fuse=options.fuse, views=options.views,
                batch_size=1 if alone else min(at_once, max(1, len(left))), maps_at_once=at_once,
                seed=options.seed, precision=options.precision, states=begun,
                done=bar,
                skipped=lambda name, why: notices.append(f"{name} left out: {why}"),
                failed=lambda path, why: broken.append((path, why if visible(path) in why else f"{path}: {why}")),
            )  # fmt: skip
            for explanation in explanations:
                if not first:
                    continue
                path = explanation.source
                keep(explanation, _write(options, explanation, out, names[path], digests.of(path)))
                if begun is not None:
                    begun.forget(path)
        complete = True
    finally:
        if begun is not None:
            begun.close(remove=complete)
    rows = [row for path in paths if path in done for row in done[path][0]]
    records = [done[path][1] for path in paths if path in done]
    if rows:
        show(console, rows, network.name, records[0]["layer"], network.classes)
        what = "arrays" if options.no_figure else "pictures and arrays"
        files = records[0]["files"]
        one = f"written: {', '.join(files[::-1])}" if len(files) <= 3 else f"{what} of 1 picture written to {out}"
        notices.append(one if len(records) == 1 else f"{what} of {len(records)} pictures written to {out}")
    if done and not options.quiet:
        first_done = next(path for path in paths if path in done)
        notices += told(
            network, first_done, precision=options.precision, methods=methods, layer=layers[0], seed=options.seed
        )
    for notice in [*doubts, *notices]:
        console.print(visible(notice), markup=False, highlight=False, soft_wrap=True)
    return broken, records


def _code_of_others(requests: dict, everything: bool, targets: list) -> dict[str, str]:
    """Digests of methods and targets that are not of this library."""
    from jaxcam.explanation.resume import code_of_others
    from jaxcam.methods.registry import METHODS
    from jaxcam.methods.targets import OfClasses

    functions = {label: request.info.function for label, request in requests.items()}
    if everything:
        functions |= {name: info.function for name, info in METHODS.items()}
    for target in targets:
        if callable(target):
            functions[str(target)] = target.form.function if isinstance(target, OfClasses) else target
    return code_of_others({name: functions[name] for name in sorted(functions)})


def _same_place(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one of them is not there
        return False


def _take_up(
    options: argparse.Namespace, paths: list[str], names: dict[str, str], out: pathlib.Path, network: Classifier,
    digests: Digests, keep: Any, notices: list[str],
) -> list[str]:  # fmt: skip
    """The pictures that an earlier run has not finished; the results of the others are read, and kept."""
    import jax

    from jaxcam.data.images import open_image
    from jaxcam.explanation.resume import from_first, read_explanation, saved_digest

    left = list(paths)
    if jax.process_index() == 0:
        others = 0
        for path in paths:
            file = out / f"{names[path]}.npz"
            found = saved_digest(file)
            others += found not in (None, digests.of(path))
            explanation = read_explanation(file, open_image(path), network) if found == digests.of(path) else None
            if explanation is not None:
                drawn = drawing.files(options, explanation, out, names[path])
                if not all(picture.is_file() for picture in drawn):
                    drawing.write(options, explanation, out, names[path])
                keep(explanation, [str(file), *map(str, drawn)])
                left.remove(path)
        if others:
            notices.append(f"{others} older results were made with other settings or pictures, and are made anew")
        if len(left) < len(paths):
            notices.append(f"{len(paths) - len(left)} of {len(paths)} pictures were finished by an earlier run")
    return [str(path) for path in json.loads(from_first(json.dumps(left).encode()))]


def _requests(options: argparse.Namespace) -> list | None:
    """The methods asked for, with the number of orderings in those that it belongs to; None: the layer is to choose."""
    from jaxcam.methods.registry import METHODS, request
    from jaxcam.shapley.result import check_count

    if not options.method and options.permutations is None:
        return None
    asked = list(options.method or [DEFAULT_METHOD])
    everything = any(m.lower() == "all" for m in asked)
    found: list[Any] = [request(m) for m in asked if m.lower() != "all"]
    for one in found:
        if "num_permutations" in dict(one.options):
            check_count("num_permutations", dict(one.options)["num_permutations"])
    if options.permutations is not None:
        check_count("--permutations", options.permutations)
        takers = [name for name, info in METHODS.items() if "num_permutations" in info.options]
        if everything:
            found += [request(name) for name in takers if name not in {r.name for r in found}]
        if not any(r.name in takers for r in found):
            names = " or ".join(takers)
            raise JaxcamError(f"--permutations belongs to {names}, which was not asked for; add --method {takers[0]}")
        setting = [("num_permutations", options.permutations)]
        found = [r.with_defaults(setting) if r.name in takers else r for r in found]
    return [*(["all"] if everything else []), *found]


def _is_function(target: str) -> bool:
    """Whether a target is a function in a Python file."""
    return target.rpartition(":")[0].endswith(".py")


def _write(
    options: argparse.Namespace, explanation: Explanation, out: pathlib.Path, stem: str, digest: str
) -> list[str]:
    """Writes the files of one picture and returns their paths; the arrays last, as they say that all is done."""
    arrays = out / f"{stem}.npz"
    drawn = drawing.write(options, explanation, out, stem)
    explanation.save(arrays, digest=digest)
    return [str(arrays), *drawn]


def _write_json(target: str, document: dict) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Names may hold what a terminal would obey; JSON has a spelling for it.
    text = "".join(c if c == "\n" or visible(c) == c else json.dumps(c)[1:-1] for c in text)
    write(text, target)
