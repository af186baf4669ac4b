"""Mutations of honest files of every format that is read: `python -m benchmarks.fuzz [--count N] [--seed S]`.

Each format in a process of its own, which may take 1 GiB of address space beside what Python, NumPy and JAX hold;
whatever comes out but a result or a line of refusal ends the run. The files and the mutations are those of the tests
(`tests/fuzz_readers.py`), of another seed. Writes `benchmarks/results/fuzz.md`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

from benchmarks.timing import machine

HERE = pathlib.Path(__file__).parent
READERS = HERE.parent / "tests" / "fuzz_readers.py"
HEAD = """# Mutated files

`python -m benchmarks.fuzz --count {count} --seed {seed}`: {count:,} mutations of an honest file of each format, one to
eight bits, bytes, numbers or stretches changed, or the file cut off. Refused: told in one line; the others are still
files of their kind. Longest: seconds that one of them took. Memory: what the process held at the most beyond what it
held before the first, of a limit of 1,024 MB. Machine: {machine}.

| format | mutations | refused | longest, s | memory, MB |
|---|---:|---:|---:|---:|
"""


def fuzzed(name: str, count: int, seed: int) -> dict:
    """What `tests/fuzz_readers.py` says of one format.

    Raises:
      SystemExit: something else than a refusal came out, or the process was ended.
    """
    command = [sys.executable, str(READERS), name, str(count), str(seed)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{name}: exit status {run.returncode}\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def formats() -> list[str]:
    """The names of the formats."""
    code = "import fuzz_readers, json; print(json.dumps(list(fuzz_readers.FORMATS)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=READERS.parent, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    """Runs the mutations and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4000, help="mutations of each format (default: 4000)")
    parser.add_argument("--seed", type=int, default=2, help="of the mutations (default: 2)")
    options = parser.parse_args()
    rows = []
    for name in formats():
        found = fuzzed(name, options.count, options.seed)
        rows.append(
            f"| {name} | {found['mutations']:,} | {found['refused']:,} | {found['longest_s']:.3f} "
            f"| {found['grown_mb']} |"
        )
        print(rows[-1], flush=True)
    text = HEAD.format(count=options.count, seed=options.seed, machine=", ".join(machine().values()))
    (HERE / "results" / "fuzz.md").write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
