"""A VOC devkit that has one list only, in two parts: `python -m benchmarks.voc_parts VOC2007 OUT`.

The first `--share` of the pictures by sorted id become `trainval`, the others `test`; pictures and annotations are
links. `jaxcam train OUT` then trains on the one part, and `jaxcam evaluate OUT` and `benchmarks.paper` see the other.
"""

from __future__ import annotations

import argparse
import pathlib
import sys


def main(argv=None) -> int:
    """Writes the devkit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("devkit", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--share", type=float, default=0.6, help="for training (default: 0.6)")
    args = parser.parse_args(argv)
    lists = sorted((args.devkit / "ImageSets" / "Main").glob("*_*.txt"))
    splits = {p.stem.rsplit("_", 1)[1] for p in lists}
    if len(splits) != 1 or not 0 < args.share < 1:
        print(f"error: {args.devkit} must have the lists of one split, and has {sorted(splits)}", file=sys.stderr)
        return 2
    main_lists = args.out / "ImageSets" / "Main"
    main_lists.mkdir(parents=True)
    for name in ("JPEGImages", "Annotations"):
        (args.out / name).symlink_to((args.devkit / name).resolve(), target_is_directory=True)
    of_class = {p: {line.split()[0]: line for line in p.read_text().splitlines() if line.strip()} for p in lists}
    ids = sorted(set().union(*of_class.values()))
    cut = round(args.share * len(ids))
    for split, some in (("trainval", ids[:cut]), ("test", ids[cut:])):
        for path, lines in of_class.items():
            name = f"{path.stem.rsplit('_', 1)[0]}_{split}.txt"
            (main_lists / name).write_text("".join(lines[i] + "\n" for i in some if i in lines))
        print(f"{split}: {len(some)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
