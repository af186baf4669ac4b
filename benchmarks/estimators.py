"""Shapley estimators at equal cost: `python -m benchmarks.estimators [--players 64 512] [--heads 2]`.

Random two-layer ReLU heads as games. For every estimator and cost the cosine error, `1 - cos` to a long
antithetic reference, averaged over heads and keys; a gradient counts three evaluations.
"""

from __future__ import annotations

import argparse
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import save
from jaxcam import shapley


def net(p, masks):
    """A head with two hidden layers of ReLU and biases, on `masks (n, K)`."""
    return jax.nn.relu(jax.nn.relu(masks @ p["v"] + p["b"]) @ p["w"] + p["c"]) @ p["u"]


def gradient(p, masks):
    """Its derivative in the masks."""
    return jax.grad(lambda m: net(p, m).sum())(masks)


def random_head(seed: int, players: int, hidden: int) -> dict[str, jax.Array]:
    """Weights of a head whose channels differ in size, as real ones do."""
    r = np.random.default_rng(seed)
    size = r.gamma(0.5, size=(players, 1)) ** 0.5
    p = {
        "v": r.normal(size=(players, hidden)) * size * np.sqrt(8 / players),
        "b": 0.3 * r.normal(size=hidden),
        "w": r.normal(size=(hidden, hidden)) * np.sqrt(2 / hidden),
        "c": 0.3 * r.normal(size=hidden),
        "u": r.normal(size=hidden) / np.sqrt(hidden),
    }
    return {k: jnp.asarray(a, jnp.float32) for k, a in p.items()}


def estimators(players: int, orderings: int) -> dict:
    """`(p, key) -> Estimate` by name, each at the cost of so many orderings."""
    permutations = functools.partial(shapley.permutation_shapley, num_players=players, num_permutations=orderings)
    kernel = functools.partial(
        shapley.kernel_shapley, num_players=players, num_samples=orderings * (players - 1) // 2 * 2
    )

    def game(p):
        return functools.partial(net, p)

    return {
        "permutations, plain": lambda p, key: permutations(game(p), key, antithetic=False),
        "permutations, antithetic": lambda p, key: permutations(game(p), key, antithetic=True),
        "two-level": lambda p, key: shapley.two_level_shapley(
            game(p), functools.partial(gradient, p), key, num_players=players, num_permutations=orderings
        ),
        "KernelSHAP": lambda p, key: kernel(game(p), key, paired=False),
        "KernelSHAP, paired": lambda p, key: kernel(game(p), key, paired=True),
    }


def cosine_error(a, b) -> float:
    """`1 - cos` in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def measure(players: int, orderings: tuple[int, ...], heads: int, keys: int, reference: int) -> list[dict]:
    """One row per estimator and cost."""
    hidden = 64
    games = [random_head(seed, players, hidden) for seed in range(heads)]
    truth = jax.jit(
        lambda p, key: (
            shapley.permutation_shapley(
                functools.partial(net, p), key, num_players=players, num_permutations=reference
            ).values
        )
    )
    want = [truth(p, jax.random.key(10_000 + i)) for i, p in enumerate(games)]
    rows = []
    for n in orderings:
        for name, run in estimators(players, n).items():
            run = jax.jit(run)
            found = [run(p, jax.random.key(s)) for p in games for s in range(keys)]
            targets = [w for w in want for _ in range(keys)]
            errors = [cosine_error(f.values, w) for f, w in zip(found, targets, strict=True)]
            rows.append({
                "players": players, "estimator": name, "orderings": n,
                "evaluations": float(np.mean([f.evaluations for f in found])), "cosine_error": float(np.mean(errors)),
            })  # fmt: skip
            print(f"{players} players, cost of {n} orderings: {name}: {np.mean(errors):.2e}", file=sys.stderr)
    return rows


def table(rows: list[dict], players: int) -> str:
    """Markdown: estimators down, costs across; in brackets the ratio to plain orderings."""
    costs = sorted({r["orderings"] for r in rows if r["players"] == players})
    at = {(r["estimator"], r["orderings"]): r["cosine_error"] for r in rows if r["players"] == players}
    head = f"| {players} players | " + " | ".join(f"{c * (players - 1):,} evaluations" for c in costs) + " |"
    lines = [head, "|---" * (len(costs) + 1) + "|"]
    for name in dict.fromkeys(name for name, _ in at):
        cells = (f"{at[name, c]:.2e} ({at[name, c] / at['permutations, plain', c]:.2f})" for c in costs)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None) -> int:
    """Prints the tables and writes `benchmarks/results/estimators.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--players", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--orderings", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--keys", type=int, default=2)
    parser.add_argument("--reference", type=int, default=2000, help="antithetic orderings of the reference")
    args = parser.parse_args(argv)
    rows = []
    for players in args.players:
        rows += measure(players, tuple(args.orderings), args.heads, args.keys, args.reference)
        print(table(rows, players) + "\n", flush=True)
    save("estimators", {"settings": vars(args), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
