"""SHAP-CAM_10k of the full-width VGG16 on an accelerator: `python -m benchmarks.gpu_coalitions`.

Seconds per image at conv5_3 with true float32, TensorFloat-32 and bfloat16 products, the share of the
matrix-product speed that the chip shows at the same precision in the same run, and the error of each: of the
coalitions' values and of the coefficients, against float64 on a subset of the same orderings. Drawn weights.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.coalitions import TARGET, ordering_masks
from benchmarks.speed import drawn
from benchmarks.timing import compiled, largest_error, machine, save
from jaxcam.methods.result import scalar_score
from jaxcam.methods.sampling import ESTIMATORS, shap_cam
from jaxcam.models.vgg import VGGConfig
from jaxcam.shapley import permutation_shapley
from jaxcam.transforms.coalition import coalition_game, masked_game

#: Precisions of a product; CPUs know the first only.
PRECISIONS = {"float32": "highest", "TF32": "TF32_TF32_F32", "bfloat16": "BF16_BF16_F32"}


def fastest(call, rounds: int) -> float:
    """Median seconds of a compiled call."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def in_float64(head, params, a, masks: np.ndarray, orderings: int, key) -> tuple[np.ndarray, np.ndarray]:
    """Values of the masks and coefficients of a few antithetic orderings, by masked evaluation in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), params)
        activations = jnp.asarray(np.asarray(a), jnp.float64)
        game = masked_game(scalar_score(head, wide, TARGET), activations)
        values = jax.jit(game)(jnp.asarray(masks, jnp.float64))
        run = functools.partial(
            permutation_shapley, game, num_players=a.shape[-1], num_permutations=orderings, chunk_size=64
        )
        return np.asarray(values), np.asarray(jax.jit(run)(key).values)


def main(argv=None) -> int:
    """Prints a Markdown table and writes `benchmarks/results/gpu_coalitions-<platform>.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--permutations", type=int, default=10_000)
    parser.add_argument("--estimator", default="antithetic", choices=ESTIMATORS)
    parser.add_argument("--chunk-size", type=int, help="coalitions at once; by default as many as the library takes")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument("--subset", type=int, default=8, help="antithetic orderings that are compared with float64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--product", type=int, default=8192, help="side of the matrices of the product")
    parser.add_argument("--width", type=float, default=1.0, help="of the network; 1 is VGG16")
    args = parser.parse_args(argv)
    on_cpu = jax.default_backend() == "cpu"
    wanted = args.precisions or (["float32"] if on_cpu else list(PRECISIONS))
    if on_cpu and wanted != ["float32"]:
        print("error: CPUs multiply in float32 only; leave --precisions out", file=sys.stderr)
        return 2
    print(machine())
    network = drawn(VGGConfig(16, width=args.width))
    features, head = network.split(at="conv5_3")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(224, 224, 3)), jnp.float32)
    with jax.default_matmul_precision("highest"):
        a = jax.jit(features)(network.params, x)
    players, key = a.shape[-1], jax.random.key(0)
    masks = ordering_masks(players, 256)
    values64, alpha64 = in_float64(head, network.params, a, masks, args.subset, key)
    rows = []
    out = ["| products | seconds per image | coalitions/s | product, TFLOP/s | share of it | error of the values "
           "| error of the coefficients |", "|---" * 7 + "|"]  # fmt: skip
    square = jax.random.normal(jax.random.key(1), (args.product, args.product))
    for name in wanted:
        precision, found = PRECISIONS[name], []
        method = functools.partial(shap_cam, head=head, target=TARGET, precision=precision, chunk_size=args.chunk_size)

        def values(params, a, masks, precision=precision, found=found):
            found.append(coalition_game(scalar_score(head, params, TARGET), a, precision=precision))
            return found[-1](masks)

        product = compiled(functools.partial(jnp.matmul, precision=precision), square, square)[0]
        many = functools.partial(method, num_permutations=args.permutations, estimator=args.estimator)
        few = functools.partial(method, num_permutations=args.subset, estimator="antithetic")
        run, seconds_to_compile = compiled(many, network.params, a, key)
        got = jax.jit(values)(network.params, a, jnp.asarray(masks))
        alpha = jax.jit(few)(network.params, a, key).coefficients
        speed = 2e-12 * args.product**3 / fastest(functools.partial(product, square, square), args.rounds)
        seconds = fastest(functools.partial(run, network.params, a, key), args.rounds)
        coalitions = args.permutations * (players - 1)
        row = {
            "precision": name, "seconds": seconds, "coalitions": coalitions, "product_tflops": speed,
            "share": coalitions * found[0].megaflops / 1e6 / seconds / speed, "compile_s": seconds_to_compile,
            "value_error": largest_error(got, jnp.asarray(values64, jnp.float32)),
            "coefficient_error": largest_error(alpha, jnp.asarray(alpha64, jnp.float32)),
        }  # fmt: skip
        rows.append(row)
        out.append(
            f"| {name} | {seconds:.3f} | {coalitions / seconds:,.0f} | {speed:.2f} | {100 * row['share']:.0f} % "
            f"| {row['value_error']:.1e} | {row['coefficient_error']:.1e} |"
        )
    said = (
        f"SHAP-CAM_{args.permutations} ({args.estimator}), {players} channels, {found[0].megaflops:.1f} MFLOP a "
        f"coalition; errors relative to the largest value, coefficients over {args.subset} orderings.\n"
    )
    text = "\n".join([said, *out])
    print(text)
    path = save(f"gpu_coalitions-{jax.default_backend()}", {"settings": vars(args), "rows": rows})
    path.with_suffix(".md").write_text(f"# SHAP-CAM on {jax.devices()[0].device_kind}\n\n{text}\n")
    return 0 if rows[0]["value_error"] < 1e-4 or wanted[0] != "float32" else 1


if __name__ == "__main__":
    sys.exit(main())
