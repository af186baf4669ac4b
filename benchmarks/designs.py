"""Designs of orderings at equal cost, on real pictures: `python -m benchmarks.designs DATA`.

What the literature proposes in place of independent orderings, beside what `jaxcam` uses. All are unbiased, and on
top of antithetic pairs. Per design and cost the cosine error to a long antithetic reference, the reference's own
error taken off, and its ratio to that of independent orderings without pairs.

- rotations: a random ordering and its cyclic shifts by equal steps: every player at evenly spread positions.
- stratified: orderings by random keys, each player's keys a stratified sample of [0, 1] (Latin hypercube).
- orthogonal: orderings of the coordinates of orthogonal directions (Mitchell et al., JMLR 2022).
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.precision import RUN, Runs, cosine_error, example, own_error, pictures, program
from benchmarks.timing import save
from jaxcam import shapley
from jaxcam.methods.result import scalar_score
from jaxcam.shapley.permutations import marginals_of, path_values
from jaxcam.shapley.result import ends
from jaxcam.transforms.coalition import coalition_game
from jaxcam.zoo.load import load


def rotations(key: jax.Array, count: int, players: int) -> jax.Array:
    """`(count, K)` ranks."""
    base = jax.random.permutation(key, players)
    shifts = jnp.arange(count) * players // count
    return (base[None] + shifts[:, None]) % players


def stratified(key: jax.Array, count: int, players: int) -> jax.Array:
    """`(count, K)` ranks."""
    of_stratum, inside = jax.random.split(key)
    strata = jax.vmap(lambda k: jax.random.permutation(k, count), out_axes=1)(jax.random.split(of_stratum, players))
    return jnp.argsort(jnp.argsort(strata + jax.random.uniform(inside, (count, players)), 1), 1)


def orthogonal(key: jax.Array, count: int, players: int) -> jax.Array:
    """`(count, K)` ranks: of orthogonal directions in the plane of sum 0, K - 1 at a time."""

    def some(key):
        normal = jax.random.normal(key, (players, players - 1))
        directions = jnp.linalg.qr(normal - normal.mean(0))[0]
        return jnp.argsort(jnp.argsort(directions.T, 1), 1)

    return jnp.concatenate([some(k) for k in jax.random.split(key, -(-count // (players - 1)))])[:count]


DESIGNS = {"rotations": rotations, "stratified": stratified, "orthogonal": orthogonal}
ESTIMATORS = ("plain", "antithetic", *DESIGNS, "adjusted, no layer", "adjusted")


@functools.cache
def estimator(head, name: str, orderings: int):
    """`(params, activations, key, target) -> coefficients (K,)`, compiled once."""

    def run(params, activations, key, target):
        game = coalition_game(scalar_score(head, params, target), activations)
        players = game.num_players
        if name not in DESIGNS:
            options = {"num_players": players, "num_permutations": orderings, "present": (activations != 0).any((0, 1))}
            return shapley.adjusted_shapley(game, key, **options).values
        ranks = DESIGNS[name](key, orderings // 2, players)
        ranks = jnp.concatenate([ranks, players - 1 - ranks])
        return marginals_of(path_values(game, ranks, *ends(game, players), 4096), ranks).mean(0)

    if name in ("plain", "antithetic", "adjusted"):
        made = program(head, name, orderings)
        return lambda *a: made(*a)[0]
    return jax.jit(run)


def main(argv=None) -> int:
    """Prints the table and writes `benchmarks/results/designs.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="a folder of pictures")
    parser.add_argument("--limit", type=int, default=10, help="pictures")
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--costs", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--reference", type=int, default=10_000, help="antithetic orderings, a multiple of 1,000")
    parser.add_argument("--kept", type=pathlib.Path, help="a .npz file with the runs of the reference, to go on with")
    args = parser.parse_args(argv)
    network = load("vgg16_slim")
    layer = network.default_layer
    _, head = network.split(at=layer)
    runs, errors = Runs(args.kept), {}
    for picture in pictures(args.data, args.limit):
        a, target = example(network, layer, picture)
        given, long = (network.params, a), program(head, "antithetic", RUN)
        name = f"{network.name}/{layer}/{picture.name}/{int(target)}"
        truth = runs.get(name, "antithetic", args.reference // RUN, lambda key: long(*given, key, target)[0])  # noqa: B023
        want, own = truth.mean(0, dtype=np.float64), own_error(truth)
        for orderings in args.costs:
            for which in ESTIMATORS:
                keys = jax.random.split(jax.random.fold_in(jax.random.key(orderings), len(which)), args.keys)
                found = [estimator(head, which, orderings)(*given, key, target) for key in keys]
                errors.setdefault((which, orderings), []).extend(cosine_error(f, want) - own for f in found)
        print(picture.name, file=sys.stderr, flush=True)
    lines = ["| 1 - cos (ratio to plain) | " + " | ".join(f"{c} orderings" for c in args.costs) + " |"]
    lines.append("|---" * (1 + len(args.costs)) + "|")
    for which in ESTIMATORS:
        cells = (
            f"{np.mean(errors[which, c]):.2e} ({np.mean(errors[which, c]) / np.mean(errors['plain', c]):.2f})"
            for c in args.costs
        )
        lines.append(f"| {which} | " + " | ".join(cells) + " |")
    said = (
        f"{network.name} at {layer}, {args.limit} pictures, {args.keys} keys, against {args.reference:,} antithetic "
        "orderings; `python -m benchmarks.designs` says what the designs are.\n"
    )
    print(said, *lines, sep="\n")
    rows = [{"estimator": w, "orderings": c, "cosine_errors": e} for (w, c), e in errors.items()]
    path = save(
        "designs", {"settings": {k: v for k, v in vars(args).items() if k not in ("data", "kept")}, "rows": rows}
    )
    path.with_suffix(".md").write_text("# Designs of orderings\n\n" + said + "\n" + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
