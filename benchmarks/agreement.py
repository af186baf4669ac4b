"""Tables 1, 2 and 6 of the LIFT-CAM paper's supplement: `python -m benchmarks.agreement DATA [--model NAME ...]`.

Table 1: the cosine between the coefficients of two independent SHAP-CAM_N runs, plain as in the paper beside ours;
mean and standard deviation over the pictures. Tables 2 and 6: the cosine of LIFT-CAM, KSHAP-CAM (unpaired, as in the
paper) and other methods with a long SHAP-CAM, per layer, with standard errors. The long SHAP-CAM has noise of its
own, known from its standard errors; the last column is the cosine without it. The class is the top-1 one.

`--methods` measures those rows of tables 2 and 6 again, and leaves all others as they stand in the results.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import pathlib
import sys
import zlib

import jax
import numpy as np

from benchmarks.precision import ESTIMATORS, RUN, Runs, cosine_error, example, own_error, pictures, program
from benchmarks.timing import save
from jaxcam.errors import JaxcamError
from jaxcam.evaluate.paper_figures import DATA_SETS, TABLE_1, TABLE_2, TABLE_6
from jaxcam.methods.registry import request
from jaxcam.methods.result import scalar_score
from jaxcam.models.network import Network
from jaxcam.models.vgg import VGGConfig
from jaxcam.shapley import permutation_shapley_steps
from jaxcam.transforms.coalition import coalition_game
from jaxcam.zoo.load import bundled, load

#: Methods of tables 2 and 6; `{K}` is the number of channels.
METHODS = {
    "LIFT-CAM": "lift_cam", "KSHAP-CAM_K": "kernel_shap_cam:num_samples={K},paired=false",
    "KSHAP-CAM_K, paired": "kernel_shap_cam:num_samples={K}",
    "KSHAP-CAM_10K": "kernel_shap_cam:num_samples={10K},paired=false",
    "KSHAP-CAM_10K, paired": "kernel_shap_cam:num_samples={10K}", "LIME-CAM_K": "lime_cam:num_samples={K}",
    "LIME-CAM_10K": "lime_cam:num_samples={10K}", "Ablation-CAM": "ablation_cam", "XGrad-CAM": "xgrad_cam",
    "Grad-CAM": "grad_cam", "Grad-CAM++": "grad_cam_pp",
}  # fmt: skip


def published(method: str, layer: str, kind: int) -> float | None:
    """The paper's cosine, VGG16 on the data set number `kind` of `DATA_SETS`."""
    if layer == "conv5_3":
        key = {"LIFT-CAM": "lift_cam", "KSHAP-CAM_K": "kernel_shap_cam x1", "KSHAP-CAM_10K": "kernel_shap_cam x10"}
        method = method.removesuffix(", paired")  # which the paper does not say
        return TABLE_6[key[method]][kind] if method in key else None
    return TABLE_2.get(layer) if method == "LIFT-CAM" and kind == 0 else None


def seed(*names) -> jax.Array:
    return jax.random.key(zlib.crc32(" ".join(map(str, names)).encode()))


def repeated(network: Network, layer: str, shown: list, orderings: list[int]) -> list[dict]:
    """Table 1: one row per estimator and number of orderings."""
    _, head = network.split(at=layer)
    found: dict[tuple[str, int], list[float]] = {}
    for picture in shown:
        a, target = example(network, layer, picture)
        for estimator in ESTIMATORS:
            for n in orderings:
                # As many runs of 1,000 as make up a longer one: one program, and the same distribution.
                short, parts = program(head, estimator, min(n, 1000)), max(1, n // 1000)
                keys = jax.random.split(seed(estimator, n, picture.name), 2 * parts)
                runs = np.stack([np.asarray(short(network.params, a, key, target)[0], np.float64) for key in keys])
                two = runs.reshape(2, parts, -1).mean(1)
                found.setdefault((estimator, n), []).append(1 - cosine_error(*two))
        print(f"table 1, {layer}: {picture.name}", file=sys.stderr, flush=True)
    return [
        {"estimator": e, "orderings": n, "mean": float(np.mean(c)), "std": float(np.std(c, ddof=1)), "cosines": c}
        for (e, n), c in found.items()
    ]


@functools.cache
def game_of(head):
    """`(params, activations, target, masks) -> values`: the same function for all examples, to compile once."""

    def values(params, a, target, masks):
        return coalition_game(scalar_score(head, params, target), a)(masks)

    return values


def long_shap(network: Network, layer: str, a, target, name: str, orderings: int, estimator: str) -> np.ndarray:
    """Ten independent parts `(10, K)` of a SHAP-CAM; antithetic ones from the host: convolutions are slow in loops."""
    _, head = network.split(at=layer)
    keys = [jax.random.fold_in(seed("long", layer, name), i) for i in range(10)]
    if estimator != "antithetic":
        part = program(head, estimator, -(-orderings // 10))
        return np.stack([np.asarray(part(network.params, a, key, target)[0], np.float64) for key in keys])
    v = jax.tree_util.Partial(game_of(head), network.params, a, target)
    players, each = a.shape[-1], -(-orderings // 20) * 2
    chunk = 2 * (players - 1) * max(1, min(each // 2, 4096 // (2 * (players - 1))))
    parts = []
    for key in keys:
        *_, state = permutation_shapley_steps(
            v, key, num_players=players, num_permutations=each, antithetic=True, chunk_size=chunk
        )
        parts.append(np.asarray(state.estimate.values, np.float64))
    return np.stack(parts)


def agreeing(
    network: Network, layer: str, shown: list, orderings: int, runs: int, kept: Runs, methods: list[str], estimator: str
) -> list[dict]:
    """Tables 2 and 6: one row per method of `METHODS` that is asked for."""
    _, head = network.split(at=layer)
    shape = network.layer_shape(layer)
    names = {
        m: t.replace("{10K}", str(10 * shape[-1])).replace("{K}", str(shape[-1]))
        for m, t in METHODS.items()
        if m in methods
    }
    compiled = {}
    for name, text in names.items():
        wanted = request(text)
        compiled[name] = (
            "key" in wanted.info.needs,
            jax.jit(functools.partial(wanted.info.function, head=head, **dict(wanted.options))),
        )
    found: dict[str, list[float]] = {name: [] for name in compiled}
    noise, used = [], []
    for picture in shown:
        a, target = example(network, layer, picture)
        stored = kept.kept.get(f"{network.name}/{layer}/{picture.name}/{int(target)}/{estimator}", np.zeros((0, 1)))
        if len(stored) * RUN >= orderings:
            parts = stored.astype(np.float64)
        else:
            parts = long_shap(network, layer, a, target, picture.name, orderings, estimator)
        want = parts.mean(0)
        used.append(max(orderings, RUN * len(stored)))
        noise.append(own_error(parts))
        for name, (random, run) in compiled.items():
            keys = [(jax.random.fold_in(seed(name, picture.name), i),) for i in range(runs)] if random else [()]
            cosines = [1 - cosine_error(run(network.params, a, *key, target=target).coefficients, want) for key in keys]
            found[name].append(float(np.mean(cosines)))
        print(f"table 2, {layer}: {picture.name}", file=sys.stderr, flush=True)
    return [
        summary(np.asarray(cosines), np.asarray(noise))
        | {
            "layer": layer,
            "method": name,
            "orderings": [min(used), max(used)],
            "estimator": estimator,
            "noise": noise,
            "cosines": [c if np.isfinite(c) else None for c in cosines],  # JSON knows no NaN
        }
        for name, cosines in found.items()
    ]


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def summary(cosines: np.ndarray, noise: np.ndarray) -> dict:
    """Means over the pictures where no run gave only zeros, as LIME-CAM can, and how many those are."""
    defined = np.isfinite(cosines)
    some, clean = cosines[defined], (cosines / (1 - noise))[defined]
    if len(some) < 2:
        return {"cosine": np.nan, "without_noise": np.nan, "standard_error": np.nan, "pictures": len(some)}
    return {
        "cosine": float(some.mean()), "without_noise": float(clean.mean()),
        "standard_error": standard_error(some), "pictures": len(some),
    }  # fmt: skip


def merged(old: list[dict], new: list[dict]) -> list[dict]:
    """The rows of tables 2 and 6, the new ones in place of those of the same layer and method."""
    at = {(r["layer"], r["method"]): r for r in [*old, *new]}
    layers = list(dict.fromkeys(layer for layer, _ in at))
    return sorted(at.values(), key=lambda r: (layers.index(r["layer"]), list(METHODS).index(r["method"])))


def differences(rows: list[dict], method: str = "LIFT-CAM") -> list[dict]:
    """By how much a method's cosine falls from layer to layer: pictures differ more than layers do."""
    own = {r["layer"]: np.asarray(r["cosines"], float) / (1 - np.asarray(r["noise"])) for r in rows
           if r["method"] == method}  # fmt: skip
    out = []
    for late, early in itertools.combinations(own, 2):
        fall = own[late] - own[early]
        fall = fall[np.isfinite(fall)]
        if len(fall) > 1:
            out.append({"from": late, "to": early, "fall": float(fall.mean()), "standard_error": standard_error(fall),
                        "pictures": len(fall)})  # fmt: skip
    return out


def tables(network: Network, first: list[dict], second: list[dict]) -> str:
    """Both in Markdown, beside the paper's figures where they are of a VGG16."""
    out: list[str] = []
    name, vgg = network.name, isinstance(network.config, VGGConfig) and network.config.depth == 16
    kind = 1 if network.multi_label else 0
    if first:
        heads = ["N", *ESTIMATORS, f"the paper's (plain, {DATA_SETS[kind]})"]
        out += [f"## {name}: cosine between two runs of SHAP-CAM_N ({len(first[0]['cosines'])} pictures)", ""]
        out += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        at = {(r["estimator"], r["orderings"]): r for r in first}
        for n in dict.fromkeys(r["orderings"] for r in first):
            cells = [f"{at[e, n]['mean']:.5f} ± {at[e, n]['std']:.1e}" for e in ESTIMATORS]
            paper = "{:.5f} ± {:.1e}".format(*TABLE_1[n][kind]) if vgg and n in TABLE_1 else ""
            out.append(f"| {n:,} | " + " | ".join([*cells, paper]) + " |")
        out.append("")
    if second:
        out += [f"## {name}: cosine with SHAP-CAM", "",
                "| layer | method | cosine | the paper's | without SHAP-CAM's noise | pictures | orderings |",
                "|---" * 7 + "|"]  # fmt: skip
        for r in second:
            paper = published(r["method"], r["layer"], kind) if vgg else None
            counts = [f"{n:,}" for n in sorted(set(r["orderings"]))]
            counts[-1] += "" if r.get("estimator", "antithetic") == "antithetic" else f", {r['estimator']}"
            out.append(
                f"| {r['layer']} | {r['method']} | {r['cosine']:.4f} ± {r['standard_error']:.4f} | {paper or ''} "
                f"| {r['without_noise']:.4f} | {r['pictures']} of {len(r['cosines'])} | {' to '.join(counts)} |"
            )
        out += ["", "A picture counts where no run of the method gave a map of zeros.", ""]
        falls = differences(second)
        if falls:
            out += [f"## {name}: LIFT-CAM between layers, on the same pictures", "",
                    "| from | to | fall of the cosine, SHAP-CAM's noise taken off | the paper's | pictures |",
                    "|---" * 5 + "|"]  # fmt: skip
        for r in falls:
            papers = [published("LIFT-CAM", layer, kind) if vgg else None for layer in (r["from"], r["to"])]
            paper = f"{papers[0] - papers[1]:.3f}" if papers[0] and papers[1] else ""
            out.append(
                f"| {r['from']} | {r['to']} | {r['fall']:.4f} ± {r['standard_error']:.4f} | {paper} | {r['pictures']} |"
            )
        out += [""] if falls else []
    return "\n".join(out)


def main(argv=None) -> int:
    """Prints the tables and writes `benchmarks/results/agreement.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="a folder of pictures")
    parser.add_argument("--model", nargs="+", default=list(bundled()), help="names, folders or files of weights")
    parser.add_argument("--layers", nargs="+", help="default: conv5_3, conv5_2 and conv5_1 of a VGG, else the last")
    parser.add_argument("--limit", type=int, default=50, help="pictures of tables 2 and 6")
    parser.add_argument("--repeat-limit", type=int, default=20, help="pictures of table 1; 0 leaves it out")
    parser.add_argument("--orderings", type=int, nargs="+", default=list(TABLE_1), help="N of table 1")
    parser.add_argument("--shap", type=int, nargs="+", default=[10_000], help="orderings, for each layer")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="antithetic", help="of these orderings")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=f"measure these again, and keep all else in the results; of {', '.join(METHODS)}",
    )
    parser.add_argument("--runs", type=int, nargs="+", default=[10], help="of each random method, for each layer")
    parser.add_argument("--kept", type=pathlib.Path, help="runs that benchmarks.precision has kept")
    parser.add_argument("--name", default="agreement", help="of the files in benchmarks/results")
    args = parser.parse_args(argv)
    path = pathlib.Path(__file__).parent / "results" / f"{args.name}.json"
    before = json.loads(path.read_text()) if args.methods and path.exists() else {}
    record: dict[str, dict] = {k: v for k, v in before.items() if k not in ("machine", "settings")}
    if before and before["settings"]["limit"] != args.limit:
        parser.error(f"the results are of {before['settings']['limit']} pictures, which --limit must say as well")
    kept, measured = Runs(args.kept), {}
    try:
        for name in args.model:
            network = load(name)
            measured[network.name] = network
            vgg = isinstance(network.config, VGGConfig)
            layers = args.layers or (["conv5_3", "conv5_2", "conv5_1"] if vgg else [network.default_layer])
            layers = [network.resolve_layer(layer) for layer in layers]
            old = record.get(network.name, {"table_1": [], "tables_2_and_6": []})
            first = old["table_1"]
            if args.repeat_limit and not args.methods:
                first = repeated(network, layers[0], pictures(args.data, args.repeat_limit), args.orderings)
            shown, second = pictures(args.data, args.limit), old["tables_2_and_6"]
            for i, layer in enumerate(layers):
                orderings, runs = (given[min(i, len(given) - 1)] for given in (args.shap, args.runs))
                found = agreeing(
                    network, layer, shown, orderings, runs, kept, args.methods or list(METHODS), args.estimator
                )
                second = merged(second, found)
            record[network.name] = {"table_1": first, "tables_2_and_6": second, "layers": differences(second)}
            print(tables(network, first, second), flush=True)
    except JaxcamError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    settings = before.get("settings") or {k: v for k, v in vars(args).items() if k not in ("data", "kept", "name")}
    path = save(args.name, {"settings": settings, **record})
    texts = [tables(measured.get(name) or load(name), r["table_1"], r["tables_2_and_6"]) for name, r in record.items()]
    path.with_suffix(".md").write_text("# Agreement with SHAP-CAM\n\n" + "\n".join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
