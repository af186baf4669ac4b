"""Precision of SHAP-CAM's estimators at equal cost, on real pictures: `python -m benchmarks.precision DATA`.

For the top-1 class of every picture, and at the cost of 10 to 1,000 orderings, the cosine error `1 - cos` of one
run of each estimator to a long antithetic reference of other keys. The reference has an error of its own; it is
estimated from the spread of its runs, and both the plain figure and the one without it are given. Coverage is the
share of the channels whose reference lies within the estimate's 95 % interval (Student's t of its samples).
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import time
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks.timing import save
from jaxcam.cli.networks import named
from jaxcam.errors import JaxcamError
from jaxcam.files import whole_file
from jaxcam.methods.sampling import shap_cam
from jaxcam.models.network import Network

ESTIMATORS = ("plain", "antithetic", "adjusted")
#: Orderings of one run of a reference, which is a mean of many.
RUN = 1000
_SUFFIXES = {".jpg", ".jpeg", ".png"}


def cosine_error(a, b) -> float:
    """`1 - cos` in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def pictures(folder: pathlib.Path, limit: int) -> list[pathlib.Path]:
    """At most `limit` pictures, evenly spread over the sorted names of the folder."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise JaxcamError(f"{folder}: holds no pictures")
    return [found[i] for i in np.linspace(0, len(found) - 1, min(limit, len(found))).round().astype(int)]


@functools.cache
def program(head: Callable, estimator: str, orderings: int) -> Callable:
    """`(params, activations, key, target) -> (coefficients, standard error, evaluations)`, compiled once."""

    def run(params, activations, key, target):
        cam = shap_cam(
            params, activations, key, head=head, target=target, num_permutations=orderings, estimator=estimator
        )
        return cam.coefficients, cam.diagnostics["standard_error"], cam.diagnostics["evaluations"]

    return jax.jit(run)


class Runs:
    """Independent runs of 1,000 orderings for each picture, kept in a file where one is given.

    A long reference can so be made in several goes, and serve several tables.
    """

    def __init__(self, path: pathlib.Path | None = None, most_seconds: float = float("inf")):
        self.path, self.until = path, time.monotonic() + most_seconds
        self.kept: dict[str, np.ndarray] = {}
        if path is not None and path.exists():
            with np.load(path) as stored:
                self.kept = dict(stored)

    def get(self, name: str, estimator: str, count: int, run: Callable[[jax.Array], jax.Array]) -> np.ndarray:
        """`(at most count, K)`: fewer where the time is up, but at least two."""
        name = f"{name}/{estimator}"
        rows = list(self.kept.get(name, []))
        had = len(rows)
        while len(rows) < min(count, 2) or (len(rows) < count and time.monotonic() < self.until):
            key = jax.random.fold_in(jax.random.key(zlib.crc32(estimator.encode())), len(rows))
            rows.append(np.asarray(run(key)))
        if len(rows) > had:
            self.kept[name] = np.stack(rows)
            if self.path is not None:
                with whole_file(self.path) as f:
                    np.savez(f, **self.kept)  # type: ignore[arg-type]
        return np.stack(rows[:count])


def example(network: Network, layer: str, picture: pathlib.Path) -> tuple[jax.Array, jax.Array]:
    """Activations and top-1 class of a picture."""
    features, head = network.split(at=layer)
    a = jax.jit(features)(network.params, network.preprocess(picture))
    return a, jnp.argmax(jax.jit(head)(network.params, a))


def own_error(runs: np.ndarray) -> float:
    """Cosine error of the mean of independent runs `(R, K)`: half its relative variance across its direction."""
    mean = runs.mean(0, dtype=np.float64)
    unit = mean / np.linalg.norm(mean)
    rest = runs - mean
    rest = rest - np.outer(rest @ unit, unit)
    return float((rest**2).sum() / (len(runs) - 1) / len(runs) / 2 / (mean @ mean))


def measure(
    network: Network, layer: str, shown: list, costs: list[int], reference: int, runs: Runs, by: str = "antithetic",
    each: int = RUN,
) -> list[dict]:  # fmt: skip
    """One row per picture, estimator and cost. The reference is of runs of `each` orderings `by` an estimator."""
    _, head = network.split(at=layer)
    rows = []
    for number, picture in enumerate(shown):
        a, target = example(network, layer, picture)
        args = (network.params, a)
        long = program(head, by, each)
        name = f"{network.name}/{layer}/{picture.name}/{int(target)}"
        truth = runs.get(name, by, reference // each, lambda key: long(*args, key, target)[0])  # noqa: B023
        want, own = truth.mean(0, dtype=np.float64), own_error(truth)
        spread = truth.std(0, ddof=1) / np.sqrt(len(truth))
        for orderings in costs:
            for estimator in ESTIMATORS:
                run = program(head, estimator, orderings)
                key = jax.random.fold_in(jax.random.key(zlib.crc32(f"{estimator} {orderings}".encode())), number)
                if not rows or number == 0:
                    jax.block_until_ready(run(*args, key, target))  # compiled before it is timed
                begun = time.perf_counter()
                found, error, spent = jax.block_until_ready(run(*args, key, target))
                seconds = time.perf_counter() - begun
                # Independent ones: orderings, pairs of them, or coalitions with their complements.
                samples = {"plain": orderings, "antithetic": -(-orderings // 2)}.get(estimator, int(spent) // 2)
                found, error = np.asarray(found, np.float64), np.asarray(error, np.float64)
                some = error > 0
                reach = scipy.stats.t.ppf(0.975, samples - 1) * np.hypot(error, spread)
                rows.append({
                    "picture": picture.name, "estimator": estimator, "orderings": orderings, "evaluations": int(spent),
                    "cosine_error": cosine_error(found, want), "reference_error": own, "seconds": seconds,
                    "reference_orderings": len(truth) * each,
                    "covered": float((np.abs(found - want) <= reach)[some].mean()) if some.any() else None,
                })  # fmt: skip
        print(f"{number + 1} of {len(shown)}: {picture.name}", file=sys.stderr, flush=True)
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Means over the pictures, per cost and estimator; ratios to plain with their standard error."""
    out = []
    for orderings in dict.fromkeys(r["orderings"] for r in rows):
        own = {r["picture"]: r["reference_error"] for r in rows}
        here = [r for r in rows if r["orderings"] == orderings]
        plain = {r["picture"]: r["cosine_error"] for r in here if r["estimator"] == "plain"}
        for estimator in ESTIMATORS:
            some = [r for r in here if r["estimator"] == estimator]
            raw = np.array([r["cosine_error"] for r in some])
            error = raw - [own[r["picture"]] for r in some]
            base = np.array([plain[r["picture"]] - own[r["picture"]] for r in some])
            ratio = error.mean() / base.mean()
            spread = (error - ratio * base).std(ddof=1) / base.mean() / np.sqrt(len(some)) if len(some) > 1 else np.nan
            covered = [r["covered"] for r in some if r["covered"] is not None]
            out.append({
                "orderings": orderings, "estimator": estimator, "pictures": len(some),
                "evaluations": float(np.mean([r["evaluations"] for r in some])), "raw_cosine_error": raw.mean(),
                "cosine_error": error.mean(), "ratio_to_plain": ratio, "ratio_standard_error": spread,
                "coverage": float(np.mean(covered)), "seconds": float(np.median([r["seconds"] for r in some])),
            })  # fmt: skip
        lost = {r["estimator"]: r["cosine_error"] * r["seconds"] for r in out if r["orderings"] == orderings}
        for r in out[-len(ESTIMATORS) :]:
            r["error_seconds"] = lost[r["estimator"]] / lost["antithetic"]
    return out


def table(lines: list[dict]) -> str:
    """The summary in Markdown."""
    out = ["| orderings | estimator | evaluations | 1 - cos | with the reference's error | ratio to plain "
           "| coverage at 95 % | seconds | error x seconds, of antithetic's |", "|---" * 9 + "|"]  # fmt: skip
    for r in lines:
        out.append(
            f"| {r['orderings']:,} | {r['estimator']} | {r['evaluations']:,.0f} | {r['cosine_error']:.2e} "
            f"| {r['raw_cosine_error']:.2e} | {r['ratio_to_plain']:.3f} ± {r['ratio_standard_error']:.3f} "
            f"| {100 * r['coverage']:.1f} % | {r['seconds']:.3f} | {r['error_seconds']:.2f} |"
        )
    return "\n".join(out)


def main(argv=None) -> int:
    """Prints the table and writes `benchmarks/results/precision.json` and `.md`; of another network, with its name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="a folder of pictures")
    parser.add_argument("--model", default="vgg16_slim")
    parser.add_argument("--layer", default=None, help="default: the last convolutional one")
    parser.add_argument("--limit", type=int, default=50, help="pictures")
    parser.add_argument("--costs", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--reference", type=int, default=20_000, help="orderings of the reference")
    parser.add_argument("--by", default="antithetic", choices=ESTIMATORS, help="of the reference")
    parser.add_argument("--each", type=int, default=RUN, help="orderings of one of its runs, at least two")
    parser.add_argument("--kept", type=pathlib.Path, help="a .npz file with the runs of the reference, to go on with")
    parser.add_argument("--most-seconds", type=float, default=float("inf"), help="then no more reference runs")
    args = parser.parse_args(argv)
    try:
        network = named(args.model)
        layer = network.resolve_layer(args.layer or network.default_layer)
        shown = pictures(args.data, args.limit)
    except JaxcamError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    runs = Runs(args.kept, args.most_seconds)
    rows = measure(network, layer, shown, args.costs, args.reference, runs, args.by, args.each)
    lines = summary(rows)
    worst, used = (max(r[k] for r in rows) for k in ("reference_error", "reference_orderings"))
    used = (min(r["reference_orderings"] for r in rows), used)
    said = (
        f"{network.name} at {layer}, {len(shown)} pictures, {len(rows)} runs; the reference has {used[0]:,} to "
        f"{used[1]:,} {args.by} orderings a picture, and itself a cosine error of at most {worst:.1e}.\n"
    )
    print(said, table(lines), sep="\n")
    name = "precision" if args.model == parser.get_default("model") else f"precision-{pathlib.Path(network.name).name}"
    path = save(name, {"network": network.name, "layer": layer, "summary": lines, "rows": rows})
    path.with_suffix(".md").write_text(f"# Precision at equal cost\n\n{said}\n{table(lines)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
