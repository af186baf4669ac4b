"""The estimators of shapiq on the games of `benchmarks.shapley`, in an interpreter of their own (Python 3.12).

`PYTHON -m benchmarks.shapley_peer KEPT --costs 10 40`: a line of JSON for every run, added to KEPT/peers.jsonl; what is
there already is not run again.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import sys
import time
import warnings

import numpy as np
import shapiq.approximator as shapiq

from benchmarks.shapley_games import games

ESTIMATORS = {
    "PermutationSampling": shapiq.PermutationSamplingSV, "KernelSHAP": shapiq.KernelSHAP,
    "LeverageSHAP": shapiq.LeverageSHAP, "OddSHAP": shapiq.OddSHAP,
    "RegressionMSR": functools.partial(shapiq.RegressionMSR, index="SV"), "SVARM": shapiq.SVARM,
}  # fmt: skip
#: Of which the arithmetic of a run takes minutes for more players.
SLOW = {"SVARM": 64}


def main(argv=None) -> int:
    """Runs what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=pathlib.Path)
    parser.add_argument("--costs", type=int, nargs="+", required=True)
    parser.add_argument("--most-seconds", type=float, default=float("inf"))
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    path, until = args.kept / "peers.jsonl", time.monotonic() + args.most_seconds
    lines = path.read_text().splitlines() if path.exists() else []
    done = {tuple(json.loads(line)["run"]) for line in lines}
    heads = args.kept / "heads.npz"
    found = games(heads if heads.exists() else None)
    plan = [(cost, game) for cost in args.costs for game in found]
    for cost, game in sorted(plan, key=lambda p: p[1].players > 128):  # what takes long comes last
        for name, make in ESTIMATORS.items():
            for seed in range(1 if game.players > 128 else 2):
                if game.players > SLOW.get(name, game.players) or (game.name, name, cost, seed) in done:
                    continue
                if time.monotonic() > until:
                    return 1
                begun = time.perf_counter()
                try:
                    run = make(n=game.players, random_state=seed)
                    got = run.approximate(
                        cost * (game.players - 1) + 2,
                        lambda m, v=game.v: v(np.atleast_2d(np.asarray(m, float))),
                    )
                    values = [float(got[(i,)]) for i in range(game.players)]
                except Exception as e:  # a peer that fails on a game has no row there
                    print(f"{game.name}, {name}: {e}", file=sys.stderr)
                    values = None
                line = {"run": [game.name, name, cost, seed], "values": values,
                        "seconds": time.perf_counter() - begun}  # fmt: skip
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
