"""All that there is to learn from one accelerator in eight minutes: `python -m benchmarks.accelerator`.

Most valuable first: is every method right; what SHAP-CAM costs at each precision, beside the card's own matrix product;
what every method costs in forward passes; how many pictures a second an evaluation makes. Every row is saved as it is
measured, so that the same command goes on where the last one stopped; a table is printed after each part, and
all of them lie in `benchmarks/results/accelerator-<card>.md`. On a processor, or with `--small`, all sizes are small:
that tests the command, and measures nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax

from benchmarks import accelerator_parts as parts
from benchmarks.timing import machine
from jaxcam.data.loader import cores

RESULTS = pathlib.Path(__file__).parent / "results"


class OutOfTime(Exception):
    """The next row would begin after the time is up."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A table of the report.

    Attributes:
      title: its heading.
      rows: `settings -> rows`, in order.
      columns: of the table, from a row; an empty string where the row has nothing to say.
      aims: what the figures are held against.
    """

    title: str
    rows: Callable[[parts.Settings], parts.Rows]
    columns: dict[str, Callable[[dict], str]]
    aims: str = ""


def number(name: str, form: str, times: float = 1.0) -> Callable[[dict], str]:
    """A column of a number, where the row has it."""
    return lambda row: format(times * row[name], form) if row.get(name) is not None else ""


COSTS = {
    "ms": number("ms", ".2f"), "forward passes": number("forwards", ".2f"),
    "compile, s, others beside": number("compile_s", ".1f"), "memory, MB": number("peak_mb", ",.1f"),
}  # fmt: skip
PARTS = {
    "correctness": Part(
        "Every method beside float64 on the processor", parts.correctness,
        {"error": number("highest", ".1e"), "inputs": number("inputs", ".0f")},
        "The largest error of a coefficient at the highest precision, relative to the largest coefficient, the median "
        "of some inputs: below 1e-4.",
    ),
    "shap_cam": Part(
        "SHAP-CAM of VGG16 at conv5_3", parts.shap,
        {
            "seconds": number("seconds", ".3f"), "coalitions/s": number("rate", ",.0f"),
            "matrix product, TFLOP/s": number("product_tflops", ".2f"), "share of it": number("share", ".0f", 100),
            "error of values": number("value_error", ".1e"), "error of coefficients": number("error", ".1e"),
            "compile, s": number("compile_s", ".1f"),
        },
        "Aims for 10,000 orderings: 4 s in float32, 0.7 s in TF32, 0.4 s in bfloat16, 70 % of the matrix product. "
        "Errors are relative to the largest value, of coefficients over a few of the same orderings in float64.",
    ),
    "costs": Part(
        "Methods in forward passes, from the input to the map at its size", parts.first_costs, COSTS,
        "Aim: LIFT-CAM below 1.1. The unit is one forward pass of the same network and batch, timed in turn. Memory is "
        "the program's: arguments, results and temporary values.",
    ),
    "evaluation": Part(
        "An evaluation, decoding and records included", parts.evaluation,
        {
            "batch": number("batch", ".0f"), "pictures": number("pictures", ".0f"), "seconds": number("seconds", ".1f"),
            "of these the first batch": number("first_unit_s", ".1f"),
            "pictures/s, steady": number("steady", ",.1f"), "peak memory, MB": number("peak_mb", ",.0f"),
        },
        "Aim: 1,000 pictures, all gradient and coalition methods, IC, AD and ADD: below 60 s.",
    ),
    "decoding": Part(
        "Decoding alone", parts.decoding,
        {
            "threads": number("threads", ".0f"), "cores": number("cores", ".0f"),
            "pictures/s": number("rate", ",.0f"),
            "of each core": number("rate_of_a_core", ",.0f"),
        },
        "Pictures of 500 x 375 in JPEG, to the network's input. An evaluation of n pictures a second needs n of these.",
    ),
    "more_costs": Part("The same of other networks and batches", parts.more_costs, COSTS),
    "precision": Part(
        "What lower precisions lose", parts.lower_precisions,
        {name: number(name, ".1e") for name in parts.PRECISIONS},
        "Errors as in the first table.",
    ),
}  # fmt: skip


class Book:
    """The rows that were measured on this card with these settings, in a file that is whole after each of them."""

    def __init__(self, folder: pathlib.Path, settings: parts.Settings, until: float):
        self.path, self.until = folder / f"accelerator-{card()}.json", until
        self.record: dict[str, Any] = {"machine": machine(), "settings": {"small": settings.small}, "parts": {}}
        if self.path.is_file():
            there = json.loads(self.path.read_text())
            if all(there[k] == self.record[k] for k in ("machine", "settings")):
                self.record = there

    def measure(self, part: str, rows: parts.Rows, again: bool) -> None:
        """Measures what is missing: of as many rows as there are cores what needs no quiet, then each by itself."""
        there = self.record["parts"].setdefault(part, {})
        missing = (r for r in rows if r.name not in there or (again and "failed" in there[r.name]))
        with ThreadPoolExecutor(cores()) as pool:
            while some := list(itertools.islice(missing, cores())):
                if time.monotonic() > self.until:
                    raise OutOfTime
                ahead = {row.name: pool.submit(row.ahead) for row in some if row.ahead}
                wait(ahead.values())
                for row in some:
                    self.row(there, row, [ahead[row.name]] if row.ahead else [])

    def row(self, there: dict, row: parts.Row, ahead: list[Future]) -> None:
        """Measures a row; what went wrong is a row, too."""
        if time.monotonic() > self.until:
            raise OutOfTime
        begun = time.monotonic()
        try:
            there[row.name] = row.measure(*(future.result() for future in ahead))
        except Exception as e:  # noqa: BLE001 - one method that fails on a card must not hide the others
            traceback.print_exc()
            there[row.name] = {"failed": f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200]}
        there[row.name]["took_s"] = round(time.monotonic() - begun, 2)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.record, indent=1) + "\n")
        self.path.with_suffix(".md").write_text(self.report())

    def table(self, part: str) -> str:
        """A part in Markdown."""
        p, rows = PARTS[part], self.record["parts"].get(part, {})
        lines = [
            f"## {p.title}\n",
            *([f"{p.aims}\n"] if p.aims else []),
            "| | " + " | ".join(p.columns) + " |",
            "|---" * (1 + len(p.columns)) + "|",
        ]
        for name, row in rows.items():
            cells = [row["failed"].replace("|", "/")] if "failed" in row else [make(row) for make in p.columns.values()]
            cells += [""] * (len(p.columns) - len(cells))
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def report(self) -> str:
        """All parts."""
        about = ", ".join(f"{k} {v}" for k, v in self.record["machine"].items())
        small = " Small sizes: a test of the command, not a measurement.\n" if self.record["settings"]["small"] else ""
        tables = [self.table(part) for part in PARTS if part in self.record["parts"]]
        return "\n".join([f"# {jax.devices()[0].device_kind}\n", f"{about}.{small}\n", *tables])


def card() -> str:
    """The device's kind as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")


def main(argv: list[str] | None = None) -> int:
    """Measures what is missing; 1 where a row failed or a method is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="no row is begun after these (default: 8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="P", help=", ".join(PARTS))
    parser.add_argument("--methods", nargs="+", help="of the parts on methods (default: all)")
    parser.add_argument("--small", action="store_true", help="small sizes, as on a processor")
    parser.add_argument(
        "--torch-python", help="an interpreter with torch; one without is no mistake (default: this one)"
    )
    parser.add_argument("--again", action="store_true", help="measure what failed once more")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args(argv)
    settings = parts.Settings(
        small=args.small or jax.default_backend() == "cpu", methods=tuple(args.methods or ()),
        torch_python=args.torch_python or sys.executable,
    )  # fmt: skip
    book = Book(args.out, settings, time.monotonic() + 60 * args.minutes)
    print(book.record["machine"], flush=True)
    try:
        for part in args.parts:
            book.measure(part, PARTS[part].rows(settings), args.again)
            print(book.table(part), flush=True)
    except OutOfTime:
        print(f"{args.minutes:g} minutes are up; the same command measures the rest", flush=True)
    finally:
        parts.close()
    print(f"written to {book.path.with_suffix('.md')}")
    rows = {(part, name): row for part, found in book.record["parts"].items() for name, row in found.items()}
    wrong = [name for (part, name), row in rows.items() if part == "correctness" and not row.get("highest", 1) < 1e-4]
    failed = [" ".join(key) for key, row in rows.items() if "failed" in row]
    for what, names in (("wrong", wrong), ("failed", failed)):
        if names:
            print(f"{what}: {', '.join(names)}", file=sys.stderr)
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
