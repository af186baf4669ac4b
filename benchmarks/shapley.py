"""Shapley estimators on fifty games: `python -m benchmarks.shapley KEPT [--data DATA] [--peer PYTHON]`.

The error of each estimator at the cost of 10 orderings and more, a sum of squares over that of the Shapley values, and
its ratio to that of antithetic orderings. The values are exact where a formula or an enumeration gives them; elsewhere
they are the mean of four long adjusted runs, with the layer where there is one, whose own error is taken off.

KEPT is a folder for the runs: what is in it is not run again, so that the table can be made in several goes
(`--most-seconds`). With DATA, a folder of pictures, heads of vgg16_slim are among the games, with `--squeezenet
WEIGHTS.npz` those of SqueezeNet too; with `--peer`, a Python that has shapiq, its estimators are.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import time
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.precision import example, pictures
from benchmarks.shapley_games import Game, games
from benchmarks.timing import save
from jaxcam import shapley
from jaxcam.methods.result import scalar_score
from jaxcam.transforms.coalition import coalition_game
from jaxcam.transforms.coalition.first_layer import first_layer
from jaxcam.zoo.load import load

OURS = ("antithetic", "adjusted", "adjusted, layer")
#: Runs of a reference, and orderings of each.
REFERENCE_RUNS, REFERENCE = 4, 400


def write_heads(path: pathlib.Path, data: pathlib.Path, weights: pathlib.Path | None) -> None:
    """Dense heads of networks on pictures: `vgg16_slim I/table` and so on."""
    arrays = {}
    network = load("vgg16_slim")
    _, head = network.split(at="conv5_3")
    for i, picture in enumerate(pictures(data, 6)):
        a, target = example(network, "conv5_3", picture)
        layer = first_layer(coalition_game(scalar_score(head, network.params, target), a))
        assert layer is not None
        p = network.params
        arrays |= {
            f"vgg16_slim {i}/{name}": np.asarray(value)
            for name, value in {
                "table": layer.table, "base": layer.base, "kernel": p["fc7"]["kernel"], "bias": p["fc7"]["bias"],
                "last": p["fc8"]["kernel"][:, int(target)],
            }.items()
        }  # fmt: skip
    if weights is not None:
        arrays |= _squeezenet_heads(data, weights)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _squeezenet_heads(data: pathlib.Path, weights: pathlib.Path) -> dict[str, np.ndarray]:
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
    import squeezenet
    from PIL import Image

    import jaxcam

    params, size = squeezenet.load(weights), squeezenet.SIZE
    shape = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    features, head = jaxcam.split(squeezenet.squeezenet, params, at="fire9", example=shape)
    arrays = {}
    for i, picture in enumerate(pictures(data, 2)):
        with Image.open(picture) as opened:
            rgb = np.asarray(opened.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        a = jax.jit(features)(params, squeezenet.preprocess(rgb))
        target = int(jnp.argmax(head(params, a)))
        layer = first_layer(coalition_game(scalar_score(head, params, target), a))
        assert layer is not None
        units = layer.base.shape[0]
        arrays |= {f"SqueezeNet {i}/table": np.asarray(layer.table), f"SqueezeNet {i}/base": np.asarray(layer.base),
                   f"SqueezeNet {i}/last": np.full(units, 1 / units, np.float32)}  # fmt: skip
    return arrays


#: The game that the compiled programs ask.
_ASKED: list[Game] = []


def _asked(masks):
    shape = jax.ShapeDtypeStruct(masks.shape[:1], jnp.float32)
    return jax.pure_callback(lambda m: _ASKED[-1].v(np.asarray(m, float)).astype(np.float32), shape, masks)


@functools.cache
def _program(name: str, players: int, orderings: int):
    options = {"num_players": players, "num_permutations": orderings, "chunk_size": 1 << 14}
    run = shapley.permutation_shapley if name == "antithetic" else shapley.adjusted_shapley
    return jax.jit(lambda key: run(_asked, key, **options))


def _rest(part, x):
    if "kernel" in part:
        x = jax.nn.relu(jnp.matmul(x, part["kernel"], precision="highest") + part["bias"][None])
    return jnp.matmul(x, part["last"], precision="highest")


@functools.cache
def _layered(orderings: int):
    def run(part, key):
        def v(masks):
            return _rest(part, jax.nn.relu(jnp.matmul(masks, part["table"], precision="highest") + part["base"][None]))

        def gradient(masks):
            reached = jax.nn.relu(jnp.matmul(masks, part["table"], precision="highest") + part["base"][None])
            return jax.grad(lambda x: _rest(part, x).sum())(reached)

        layer = shapley.GameLayer(part["base"], part["table"], jax.nn.relu, gradient)
        players = part["table"].shape[0]
        return shapley.adjusted_shapley(v, key, num_players=players, num_permutations=orderings, layer=layer)

    return jax.jit(run)


def estimate(game: Game, name: str, orderings: int, key: jax.Array, part) -> shapley.Estimate:
    """One run."""
    if name == "adjusted, layer":
        return _layered(orderings)(part, key)
    _ASKED.append(game)
    return _program(name, game.players, orderings)(key)


def run_ours(path: pathlib.Path, found: list[Game], parts: dict, costs: list[int], until: float) -> None:
    """Adds what is missing to the file of runs."""
    lines = path.read_text().splitlines() if path.exists() else []
    done = {tuple(json.loads(line)["run"]) for line in lines}
    plan = []
    for cost in costs:
        for game in found:
            for name in OURS if game.name in parts else OURS[:2]:
                plan += [(game, name, cost, i, name) for i in range(2 if game.players > 128 else 6)]
    for game in reversed(found):
        if game.exact is None:
            which = "adjusted, layer" if game.name in parts else "adjusted"
            plan += [(game, "reference", REFERENCE, i, which) for i in range(REFERENCE_RUNS)]
    for game, said, cost, seed, name in sorted(plan, key=lambda p: p[0].players > 128):  # what takes long comes last
        if (game.name, said, cost, seed) in done:
            continue
        if time.monotonic() > until:
            print("time is up: run again for the rest", file=sys.stderr)
            return
        key = jax.random.fold_in(jax.random.key(cost + 1_000_000 * (said == "reference")), seed)
        begun = time.perf_counter()
        got = jax.block_until_ready(estimate(game, name, cost, key, parts.get(game.name)))
        line = {"run": [game.name, said, cost, seed], "values": np.asarray(got.values, float).tolist(),
                "errors": np.asarray(got.standard_error, float).tolist(),
                "seconds": time.perf_counter() - begun}  # fmt: skip
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def rows_of(found: list[Game], lines: list[dict]) -> list[dict]:
    """Of each game, estimator and cost the mean error, and the share of values within 1.96 standard errors."""
    runs = defaultdict(list)
    for line in lines:
        game, name, cost, _ = line["run"]
        if line["values"] is not None:
            runs[game, name, cost].append(line)
    rows = []
    for game in found:
        truth, own, spread = game.exact, 0.0, np.zeros(game.players)
        if truth is None:
            reference = np.array([r["values"] for r in runs[game.name, "reference", REFERENCE]])
            if len(reference) < 2:
                continue
            truth, spread = reference.mean(0), reference.std(0, ddof=1) / np.sqrt(len(reference))
            own = float((spread**2).sum())
        size = float((truth**2).sum())
        for (name_of_game, name, cost), some in runs.items():
            if name_of_game != game.name or name == "reference":
                continue
            values = np.array([r["values"] for r in some])
            squared = ((values - truth) ** 2).sum(1)
            row = {"game": game.name, "family": game.family, "players": game.players, "estimator": name,
                   "orderings": cost, "runs": len(some), "error": float(max(squared.mean() - own, 0) / size),
                   "seconds": float(np.median([r["seconds"] for r in some]))}  # fmt: skip
            if "errors" in some[0]:
                reach = 1.96 * np.hypot([r["errors"] for r in some], spread)
                row["covered"] = float((np.abs(values - truth) <= reach + 1e-5 * np.sqrt(size)).mean())
            rows.append(row)
    base = {(r["game"], r["orderings"]): r["error"] for r in rows if r["estimator"] == "antithetic"}
    for row in rows:
        under = base.get((row["game"], row["orderings"]))
        row["ratio"] = row["error"] / under if under else None
    return rows


def tables(rows: list[dict]) -> str:
    """Medians and extremes for each estimator; medians for each family; every game."""
    costs = sorted({r["orderings"] for r in rows})
    names = list(dict.fromkeys(r["estimator"] for r in rows))
    names = [n for n in OURS if n in names] + [n for n in names if n not in OURS]
    out = ["## Ratio to the error of antithetic orderings: median (worst) over the games\n"]
    out += ["| estimator | " + " | ".join(f"{c} orderings" for c in costs) + " |", "|---" * (1 + len(costs)) + "|"]
    ratio = {(r["game"], r["estimator"], r["orderings"]): r["ratio"] for r in rows if r["ratio"] is not None}
    for name in names:
        cells = []
        for cost in costs:
            some = [v for (_, n, c), v in ratio.items() if n == name and c == cost]
            cells.append(f"{np.median(some):.2f} ({max(some):.2f}), {len(some)} games" if some else "")
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    out += ["\n## By family: median ratio of `adjusted`, without a layer\n"]
    out += ["| family | " + " | ".join(f"{c} orderings" for c in costs) + " |", "|---" * (1 + len(costs)) + "|"]
    for family in dict.fromkeys(r["family"] for r in rows):
        here = {r["game"] for r in rows if r["family"] == family}
        cells = []
        for cost in costs:
            some = [v for (g, n, c), v in ratio.items() if g in here and n == "adjusted" and c == cost]
            cells.append(f"{np.median(some):.2f}" if some else "")
        out.append(f"| {family} | " + " | ".join(cells) + " |")
    rivals = [n for n in names if n not in OURS]
    for cost in costs:
        out += [f"\n## Every game, {cost} orderings\n",
                "| game, players | antithetic's error | " + " | ".join([*OURS[1:], *rivals]) + " |",
                "|---" * (2 + len(OURS[1:]) + len(rivals)) + "|"]  # fmt: skip
        for game in dict.fromkeys(r["game"] for r in rows):
            base = [r["error"] for r in rows if (r["game"], r["orderings"], r["estimator"]) == (game, cost, OURS[0])]
            cells = [ratio.get((game, n, cost)) for n in [*OURS[1:], *rivals]]
            if base:
                shown = " | ".join("" if c is None else f"{c:.2f}" for c in cells)
                out.append(f"| {game} | {base[0]:.1e} | {shown} |")
    covered = [r for r in rows if r.get("covered") is not None]
    out += ["\n## Share of the values within 1.96 standard errors, mean over the games\n"]
    out += ["| estimator | " + " | ".join(f"{c} orderings" for c in costs) + " |", "|---" * (1 + len(costs)) + "|"]
    for name in OURS:
        cells = []
        for cost in costs:
            some = [r["covered"] for r in covered if r["estimator"] == name and r["orderings"] == cost]
            cells.append(f"{100 * np.mean(some):.1f} %" if some else "")
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    out += ["\n## Seconds of a run, median over the games, which cost next to nothing themselves\n"]
    out += [
        "| estimator, players | " + " | ".join(f"{c} orderings" for c in costs) + " |",
        "|---" * (1 + len(costs)) + "|",
    ]
    for name in names:
        for players in sorted({r["players"] for r in rows}):
            some = [r for r in rows if r["estimator"] == name and r["players"] == players]
            if some:
                cells = [[r["seconds"] for r in some if r["orderings"] == c] for c in costs]
                shown = " | ".join(f"{np.median(c):.2g}" if c else "" for c in cells)
                out.append(f"| {name}, {players} | {shown} |")
    return "\n".join(out)


def main(argv=None) -> int:
    """Prints the tables and writes `benchmarks/results/shapley.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=pathlib.Path, help="a folder for the runs")
    parser.add_argument("--data", type=pathlib.Path, help="a folder of pictures")
    parser.add_argument("--squeezenet", type=pathlib.Path, help="SqueezeNet's weights")
    parser.add_argument("--peer", help="a Python interpreter that has shapiq")
    parser.add_argument("--costs", type=int, nargs="+", default=[10, 40, 160])
    parser.add_argument("--most-seconds", type=float, default=float("inf"), help="for each of the two")
    args = parser.parse_args(argv)
    args.kept.mkdir(parents=True, exist_ok=True)
    heads = args.kept / "heads.npz"
    if args.data is not None and not heads.exists():
        write_heads(heads, args.data, args.squeezenet)
    found, parts = games(heads if heads.exists() else None), {}
    for game in found:
        if heads.exists() and game.family.startswith("head"):
            name = game.name.split(",")[0]
            with np.load(heads) as file:
                mine = [k for k in file.files if k.startswith(f"{name}/")]
                parts[game.name] = {k.split("/")[1]: jnp.asarray(file[k]) for k in mine}
    if args.peer:
        command = [args.peer, "-m", "benchmarks.shapley_peer", str(args.kept), "--costs", *map(str, args.costs)]
        if args.most_seconds < float("inf"):
            command += ["--most-seconds", str(args.most_seconds)]
        subprocess.run(command, check=False, cwd=pathlib.Path(__file__).parents[1])
    run_ours(args.kept / "ours.jsonl", found, parts, args.costs, time.monotonic() + args.most_seconds)
    lines = []
    for name in ("ours.jsonl", "peers.jsonl"):
        path = args.kept / name
        lines += [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = rows_of(found, lines)
    said = (
        f"{len({r['game'] for r in rows})} games; `python -m benchmarks.shapley` says what they are, and what an error "
        "is. Estimators that are not jaxcam's are those of shapiq 1.8.0 with their defaults, OddSHAP's LightGBM and "
        "RegressionMSR's XGBoost. Ratios of 0.00 are below 0.005. The machine was shared: seconds are rough.\n"
    )
    print(said, tables(rows), sep="\n")
    path = save("shapley", {"rows": rows})
    path.with_suffix(".md").write_text(f"# Shapley estimators at equal cost\n\n{said}\n{tables(rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
