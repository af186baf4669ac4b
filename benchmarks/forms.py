"""Which form of a map is right where: `python -m benchmarks.forms PICTURES TRAINING --out RUNS [--limit N]`.

Six networks at several depths each, with few and with many negative activations. For every contribution method in both
of its forms, beside Grad-CAM, HiResCAM, LayerCAM, and Random-CAM and a uniform map, which know nothing of the class:
the share of the map in the objects' boxes and other measures, with intervals, by `jaxcam evaluate`; whether that share
is above the uniform map's on the same pictures, corrected for the number of methods (Holm); the share of negative
activation, `sum |A < 0| / sum |A|`; and how much the contributions cancel, `sum |alpha| / |F(A) - F(0)|`. PICTURES is a
folder of boxed pictures of Imagenette's classes (`boxes.csv`), TRAINING one of the same classes, of which `--each` are
taken to train two small vision transformers on what EfficientNet-Lite0 sees: one reads its class token, the other the
mean of all. The runs go on where they were stopped. Writes `benchmarks/results/NAME.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

import jaxcam
from benchmarks.timing import machine
from jaxcam.data.evaluation import load_dataset
from jaxcam.evaluate import Run, evaluate
from jaxcam.evaluate.intervals import holm, p_values
from jaxcam.evaluate.statistics import summarise
from jaxcam.files import whole_file
from jaxcam.methods.contribution import lift_cam
from jaxcam.methods.registry import request
from jaxcam.methods.signs import signed_share
from jaxcam.metrics import METRICS
from jaxcam.models.trees import flatten, unflatten
from jaxcam.transforms import for_cpu

#: A method, and the other forms of the same contributions.
FORMS = {"lift_cam": ("multiplier_cam", "hires_lift_cam"), "lrp_cam": ("lrp_multiplier_cam", "hires_lrp_cam")}
BESIDE = ("grad_cam", "hires_cam", "layer_cam")
ASKED = tuple(m for form, others in FORMS.items() for m in (form, *others)) + BESIDE
MEASURED = ("pointing", "hit", "ic", "ad", "add", "road", "adcc")
LAYERS = {
    "vgg16_slim": ("conv5_3", "conv5_1", "conv4_3"),
    "resnet50_slim": ("layer4", "layer3"),
    "squeezenet": ("fire9", "fire8"),
    "efficientnet_lite0": ("head", "block15", "block14", "block10"),
    "transformer": ("block0", "block1"),
    "mean_transformer": ("block0", "block1"),
}


class Transformer(nn.Module):
    """Pre-norm blocks over a grid of features; what is read is a class token alone, or the mean of all."""

    classes: int
    token: bool = True
    width: int = 128
    depth: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x.reshape(x.shape[0], -1, x.shape[-1]))
        if self.token:
            token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.width))
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for i in range(self.depth):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = jaxcam.tag(x + nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))), f"block{i}")
        x = nn.LayerNorm()(x)
        return nn.Dense(self.classes)(x[:, 0] if self.token else x.mean(1))


def transformer(training: str, each: int, kept: pathlib.Path, say: Callable[[str], None], token: bool) -> Any:
    """The transformer on EfficientNet-Lite0's block10, wrapped; trained once and kept in a file.

    How good it is goes to `say`.
    """
    base, data = lite0(), load_dataset(training)
    stem, _ = base.split(at="block10")
    net, name = Transformer(len(data.classes), token), kept.stem
    if not kept.is_file():
        params, right = trained(net, base, stem, data, each)
        with whole_file(kept) as file:
            np.savez(file, right=right, **flatten(params))
    with np.load(kept) as f:
        right, params = f["right"], unflatten({k: jnp.asarray(f[k]) for k in f.files if k != "right"})

    def whole(p, images):
        return net.apply(p["transformer"], stem(p["stem"], images))

    say(f"{name}: {100 * right.mean():.1f} % of {right.size} pictures that it was not trained on right.")
    return jaxcam.wrap(
        whole, {"stem": base.params, "transformer": params}, preprocessing=base.preprocessing, classes=data.classes,
        layer="block1", layout=jaxcam.tokens(prefix=int(token)), name=name, batched=True,
    )  # fmt: skip


def trained(net: Transformer, base: Any, stem: Any, data: Any, each: int) -> tuple[Any, np.ndarray]:
    """Its parameters after 24 epochs on `each` pictures of a class, and which of a fifth as many others it knows."""
    rng, many = np.random.default_rng(0), each + each // 5
    kept = [
        (data.items[i], c)
        for c in range(len(data.classes))
        for i in rng.permutation([i for i, item in enumerate(data.items) if item.labels[0] == c])[:many]
    ]
    run = jax.jit(for_cpu(lambda p, x: stem(p, x)))
    features, labels = [], np.asarray([c for _, c in kept])
    for start in range(0, len(kept), 10):
        batch = [base.preprocess(Image.open(i.path).convert("RGB")) for i, _ in kept[start : start + 10]]
        features.append(np.asarray(run(base.params, jnp.stack(batch))).astype(np.float16))
    x, order = np.concatenate(features), rng.permutation(len(kept))
    held, used = order[: len(order) // 6], order[len(order) // 6 :]
    params = jax.jit(net.init)(jax.random.key(0), jnp.asarray(x[:1], jnp.float32))
    steps = len(used) // 50
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2 * steps, 24 * steps)
    optimiser = optax.adamw(rate, weight_decay=0.05)

    @jax.jit
    def step(params, state, x, y):
        def loss(p):
            logits = net.apply(p, x.astype(jnp.float32))
            wanted = optax.smooth_labels(jax.nn.one_hot(y, len(data.classes)), 0.1)
            return optax.softmax_cross_entropy(logits, wanted).mean()

        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    for _ in range(24):
        for some in rng.permutation(used)[: 50 * steps].reshape(steps, 50):
            params, state = step(params, state, x[some], labels[some])
    return params, np.argmax(jax.jit(net.apply)(params, jnp.asarray(x[held], jnp.float32)), -1) == labels[held]


def lite0() -> Any:
    """EfficientNet-Lite0; the boxed pictures are squares already."""
    network = jaxcam.load("efficientnet_lite0")
    return dataclasses.replace(network, preprocessing=dataclasses.replace(network.preprocessing, resize="squash"))


def squeezenet(weights: pathlib.Path) -> Any:
    """SqueezeNet v1.0 in plain JAX, wrapped."""
    sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))
    import squeezenet as net

    rules = jaxcam.Preprocessing(
        size=227, resize="squash", mean=(104.0, 117.0, 123.0), std=(1.0,) * 3, scale=1.0, channels="BGR"
    )
    return jaxcam.wrap(
        net.squeezenet, net.load(weights), preprocessing=rules, classes="imagenet", layer="fire9", name="squeezenet"
    )


def diagnostics(network: Any, layer: str, run: Run, pictures: list[pathlib.Path]) -> tuple[float, float]:
    """Means over the pictures: the share of negative activation, and `sum |alpha| / |sum alpha|`."""
    features, head = network.split(at=layer)

    @jax.jit
    def one(params, image, target):
        a, b = features.with_bypass(params, image)
        held = jaxcam.HeadParams(params, b) if b != () else params
        return a, lift_cam(held, a, head=head, target=target).coefficients

    lift = np.flatnonzero(run.columns["method"] == "lift_cam")
    shares, cancelled = [], []
    for row in lift[: len(pictures)]:
        image = network.preprocess(Image.open(pictures[int(run.columns["index"][row])]).convert("RGB"))
        a, alpha = one(network.params, image, int(run.columns["target"][row]))
        shares.append(signed_share(a))
        cancelled.append(float(np.abs(alpha).sum() / abs(alpha.sum())))
    return float(np.mean(shares)), float(np.median(cancelled))


def uniform(data: Any) -> float:
    """The mean share of a picture that its objects' boxes cover."""
    shares = []
    for item in data.items:
        with Image.open(item.path) as picture:
            covered = np.zeros((picture.height, picture.width), bool)
        for x0, y0, x1, y1 in np.concatenate([item.boxes[label] for label in item.labels]):
            covered[round(y0) : round(y1), round(x0) : round(x1)] = True
        shares.append(covered.mean())
    return float(np.mean(shares))


def table(run: Run) -> Iterator[str]:
    """A line for every method, each mean with its interval; what is surely best in bold, the best control never."""
    summary = summarise(run)
    names, controls = list(summary.methods), [request(m).info.control for m in summary.methods]
    heads = [METRICS[m].short for m in summary.metrics]
    epg, uniform = list(summary.metrics).index("pointing"), names.index("uniform_cam")
    others = [i for i in range(len(names)) if i != uniform]
    against = type(summary.difference)(*(field[others, uniform, epg] for field in summary.difference))
    sure = dict(zip(others, zip(against.mean, holm(p_values(against)) < 0.05, strict=True), strict=True))
    yield f"| method | {' | '.join(heads)} | in the boxes, against a uniform map |"
    yield "|---" * (len(heads) + 2) + "|"
    for i, method in enumerate(names):
        cells = []
        for j, _ in enumerate(summary.metrics):
            s = summary.score
            text = f"{s.mean[i, j]:.1f} [{s.low[i, j]:.1f}, {s.high[i, j]:.1f}]"
            if not controls[i] and (summary.best[i, j] or summary.tied[i, j]):
                text = f"**{text}**"
            cells.append(text)
        more, surely = sure.get(i, (0.0, False))
        side = ("above" if more > 0 else "below") if surely else "undecided"
        yield f"| {method} | {' | '.join(cells)} | {'' if i == uniform else f'{more:+.1f}: {side}'} |"


def command(argv: Sequence[str] | None) -> str:
    """As it was given, but for where things lie."""
    words = ["PICTURES", "TRAINING", *(sys.argv[1:] if argv is None else argv)[2:]]
    places = {"--out": "RUNS", "--squeezenet": "FILE"}
    hidden = [places.get(before, word) for before, word in zip([""] + words, words, strict=False)]
    return shlex.join(["python", "-m", "benchmarks.forms", *hidden])


def main(argv=None) -> int:
    """Evaluates, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures")
    parser.add_argument("training")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--squeezenet", type=pathlib.Path, help="its weights, squeezenet_v1.0_decoded.npz")
    parser.add_argument("--limit", type=int, default=100, help="pictures")
    parser.add_argument("--each", type=int, default=100, help="pictures of a class to train the transformer on")
    parser.add_argument("--networks", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--methods", nargs="+", default=ASKED, help="with options, or all")
    parser.add_argument("--metrics", nargs="+", default=MEASURED, help="pointing among them")
    parser.add_argument("--name", default="forms", help="of the file in benchmarks/results")
    args = parser.parse_args(argv)
    data = load_dataset(args.pictures)
    args.out.mkdir(parents=True, exist_ok=True)
    lines, notes = [], []
    makers = {
        "squeezenet": lambda: squeezenet(args.squeezenet),
        "efficientnet_lite0": lite0,
        **{
            name: lambda name=name, token=token: transformer(
                args.training, args.each, args.out / f"{name}.npz", notes.append, token
            )
            for name, token in (("transformer", True), ("mean_transformer", False))
        },
    }  # fmt: skip
    for name in args.networks:
        network = makers.get(name, lambda name=name: jaxcam.load(name))()
        for layer in LAYERS[name]:
            began = time.perf_counter()
            run = evaluate(
                network, args.pictures, methods=args.methods, metrics=args.metrics, controls=True, layer=layer,
                limit=args.limit, keep=(), out=args.out / f"{name}-{layer}",
            )  # fmt: skip
            share, cancelled = diagnostics(network, layer, run, [i.path for i in data.items])
            head = f"### {name} {layer}: {100 * share:.0f} % negative, contributions {cancelled:.1f} times their sum"
            found = [head, "", *table(run)]
            lines += ["", *found]
            print("\n".join(found), f"\n({time.perf_counter() - began:.0f} s)", flush=True)
    top = [
        "# Which form of a map is right where", "",
        f"{args.limit} boxed pictures; the boxes cover {100 * uniform(data):.1f} % of the {len(data.items)} pictures, "
        "which is what a uniform map has in them. Means in per cent with 95 % intervals; bold: the best, and what is "
        f"not surely worse. {' '.join(notes)}", "",
        f"`python -m benchmarks.forms PICTURES TRAINING`, {machine()['device']}, jax {machine()['jax']}.",
    ]  # fmt: skip
    file = pathlib.Path(__file__).parent / "results" / f"{args.name}.md"
    file.write_text("\n".join(top + lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
