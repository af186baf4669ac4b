"""`jaxcam convert`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import time
from typing import TYPE_CHECKING, Any

from jaxcam.errors import JaxcamError, visible

if TYPE_CHECKING:
    from jaxcam.models.network import Network


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "convert", help="turn weights of PyTorch or Keras into a checkpoint, or into PyTorch's", allow_abbrev=False,
        description="Reads weights of a VGG or ResNet (torchvision, timm, TorchRay, Keras; or a network of `jaxcam "
        "models`) and writes them as an Orbax checkpoint with a manifest, which --model and --weights take; or as "
        "a safetensors file in torchvision's names. Nothing in a file is executed.",
    )  # fmt: skip
    p.add_argument("source", metavar="SRC", help="a file, a folder that holds a network, or a name of `jaxcam models`")
    p.add_argument("--out", required=True, metavar="DIR", help="the folder to write (or a file X.safetensors)")
    p.add_argument(
        "--to", choices=("orbax", "safetensors"),
        help="orbax: jaxcam's own; safetensors: for PyTorch (default: orbax, or as --out ends)",
    )  # fmt: skip
    p.add_argument(
        "--model", metavar="NAME", help="a network of `jaxcam models` that the weights are for; its preprocessing and, "
        "where their number fits, its classes go with them (default: told from the file)",
    )  # fmt: skip
    p.add_argument(
        "--table", metavar="NAME", help="which of several tables of weights in the file to take, by what stands before "
        "its names, such as ema (default: the one that is no average; the others are told)",
    )  # fmt: skip
    p.add_argument("--classes", metavar="FILE|DATA", help="the classes' names: a text file, or imagenet, voc or coco")
    p.add_argument("--name", help="what to call the network (default: as the file is called)")
    p.add_argument("--licence", metavar="TEXT", help="of the weights, for the manifest")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command."""
    from jaxcam.files import check_writable
    from jaxcam.zoo.catalogue import CATALOGUE
    from jaxcam.zoo.load import load

    out = pathlib.Path(options.out)
    ending = out.suffix.lower() == ".safetensors"
    to = options.to or ("safetensors" if ending else "orbax")
    to_file = to == "safetensors" and ending
    check_writable(out.absolute().parent)  # before minutes of work
    started = time.perf_counter()
    source = options.source
    if os.path.exists(out) and os.path.isfile(source) and os.path.samefile(source, out):
        raise JaxcamError(f"{out}: is the file that is read; name another --out")
    if pathlib.Path(source).is_file() and source not in CATALOGUE:
        network = load(options.model, weights=source, table=options.table)
    elif options.model:
        raise JaxcamError(f"{source}: is no file of weights; --model goes with one")
    elif options.table is not None:
        raise JaxcamError(f"{source}: is no file of weights; --table goes with one")
    else:
        network = load(source)
    network = _labelled(network, options)
    if to == "safetensors":
        from jaxcam.converters import save_torchvision_safetensors

        out = out if to_file else check_writable(out) / f"{_file_name(network.name)}.safetensors"
        save_torchvision_safetensors(out, network)
    else:
        from jaxcam.zoo.store import save_checkpoint

        save_checkpoint(out, network)
    target = "safetensors in torchvision's names" if to == "safetensors" else "an Orbax checkpoint"
    print(visible(_report(source, network, out, target, time.perf_counter() - started)))
    return 0


def _labelled(network: Network, options: argparse.Namespace) -> Network:
    """The network with the name, classes and licence that the user gives it."""
    fields: dict[str, Any] = {}
    if options.name:
        fields["name"] = options.name
    if options.classes:
        fields["classes"] = _class_names(options.classes, len(network.classes))
    if options.classes or options.licence:
        told = {"licence": options.licence} if options.licence else {}
        kept = {k: v for k, v in network.provenance.items() if k != "classes" or not options.classes}
        fields["provenance"] = kept | told
    return dataclasses.replace(network, **fields)


def _class_names(given: str, number: int) -> tuple[str, ...]:
    from jaxcam.data.class_names import KNOWN, class_names
    from jaxcam.files import read_text

    if given in KNOWN:
        names = class_names(given)
    else:
        names = tuple(line.strip() for line in read_text(given).splitlines() if line.strip())
    if len(names) != number:
        raise JaxcamError(f"{given}: names {len(names)} classes, and the network has {number}")
    if double := next((n for i, n in enumerate(names) if n.lower() in map(str.lower, names[:i])), None):
        raise JaxcamError(f"{given}: names two classes {double!r}; they must differ in more than case")
    return names


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:100] or "network"


def _report(source: str, network: Network, out: pathlib.Path, target: str, seconds: float) -> str:
    """What was done, in one line."""
    import jax

    from jaxcam.models.registry import name_of

    told, arrays = network.provenance, jax.tree.leaves(network.params)
    kind, read = "a network of jaxcam's", f"{len(arrays)} arrays"
    if "names" in told and not pathlib.Path(source).is_dir():
        kind, ignored = told["format"], f"{told['ignored']} more ignored" if told["ignored"] else "none ignored"
        read = f"{told['tensors']} tensors in {told['names']}'s names ({ignored})"
        if told.get("left"):
            more = ", ..." if told["left"] > 5 else ""
            read += f", {told['left']} beside them left: {', '.join(told['beside'][:5])}{more}"
        if told.get("other_tables"):
            read += f", table {told.get('table', '(without a prefix)')}; --table takes another: "
            read += ", ".join(told["other_tables"])
    return (
        f"{source}: {kind}, {name_of(network.config)} of {read}, {sum(x.size for x in arrays):,} numbers for "
        f"{len(network.classes)} classes; written to {out} as {target} in {seconds:.1f} s"
    )
