"""Right for the right reasons: an explanation in the training loss takes a shortcut away.

    python examples/explanation_loss.py

Every picture shows a bar, standing (class 0) or lying (class 1), on noise. In the training pictures a coloured patch
in one corner gives the class away; in the test pictures its colour is drawn by a coin. Trained on the labels alone, the
network reads the patch. The same network is then trained again with one more term in its loss: the evidence, in logits,
that its explanation finds in the corner. The method is one jaxcam function inside a jitted, vmapped and differentiated
training step. Printed for both: accuracy on either set, and the logits from the corner.

Where the network is cut matters. Behind conv3 there is only an average and a linear layer, so that the explanation is
exact at every place. With `--layer conv2`, a channel's evidence is laid out as its activations are and not as its
effect is, and a term that weighs the *share* of a map is easy to cheat: noise elsewhere makes any share small. So the
term here is in logits, and the accuracy on the test pictures is the figure to look at, not the map.

How soon the second network finds the bar depends on the draw, and even on the rounding of a machine: after 800 steps of
two seeds under two versions of JAX, three of four knew every test picture (99.8 to 100 %), and one 71.5 %, where the
first network knew 66.8 to 76.4 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxcam

SIZE, PATCH = 24, 7
METHODS: dict[str, Callable] = {"lift_cam": jaxcam.lift_cam, "lrp_cam": jaxcam.lrp_cam}


class Net(nn.Module):
    """Three convolutions with biases, an average over the picture, a linear layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3), name="conv1")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(32, (3, 3), name="conv2")(x))
        x = nn.relu(nn.Conv(32, (3, 3), name="conv3")(x))
        return nn.Dense(2, name="out")(x.mean((1, 2)))


def pictures(rng: np.random.Generator, count: int, *, telling: bool) -> tuple[jax.Array, jax.Array]:
    """`(count, SIZE, SIZE, 3)` and labels; the patch's colour is the class where `telling`, a coin's otherwise."""
    x = rng.normal(0, 0.3, (count, SIZE, SIZE, 3))
    labels = rng.integers(2, size=count)
    colours = labels if telling else rng.integers(2, size=count)
    for image, label, colour in zip(x, labels, colours, strict=True):
        long, across = rng.integers(9, SIZE - 9), rng.integers(9, SIZE - 3)
        bar = (slice(long - 4, long + 5), slice(across - 9, across - 7))
        if label:
            bar = bar[::-1]
            bar = (slice(bar[0].start + 8, bar[0].stop + 8), bar[1])
        image[bar] += 2.0
        image[:PATCH, -PATCH:] = [1.5, 0, 0] if colour else [0, 0, 1.5]
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels)


def corner(height: int, width: int) -> jax.Array:
    """The cells `(height, width)` that see the patch: those of conv3 see 6 pixels to each side."""
    reach = -(-(PATCH + 6) * height // SIZE)
    return jnp.zeros((height, width)).at[:reach, -reach:].set(1.0)


def make(weight: float, method: Callable, layer: str, image: jax.Array, rate: float):
    """A network and its optimiser, `(params, state, step, test)`; `weight` is the explanation's in the loss."""
    net = Net()
    params = jax.jit(net.init)(jax.random.key(0), image[None])
    features, head = jaxcam.split(net, params, at=layer, example=image)
    optimiser = optax.adam(rate)

    def evidence(params, image, label):
        """`(h, w)` logits for the right class over the wrong one: each channel's, laid out as its activations are."""
        a = features(params, image)
        cam = method(params, a, head=head, target=lambda logits: logits[label] - logits[1 - label])
        total = jnp.sum(a, (0, 1))
        return a @ (cam.coefficients / jnp.where(total > 0, total, 1.0))

    def in_corner(params, image, label):
        logits = evidence(params, image, label)
        return jnp.sum(logits * corner(*logits.shape))

    def loss(params, images, labels):
        told = optax.softmax_cross_entropy_with_integer_labels(net.apply(params, images), labels).mean()
        if not weight:
            return told
        return told + weight * jnp.abs(jax.vmap(in_corner, (None, 0, 0))(params, images, labels)).mean()

    @jax.jit
    def step(params, state, images, labels):
        value, gradient = jax.value_and_grad(loss)(params, images, labels)
        update, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, update), state, value

    @jax.jit
    def test(params, images, labels):
        right = jnp.argmax(net.apply(params, images), -1) == labels
        return right.mean(), jnp.abs(jax.vmap(in_corner, (None, 0, 0))(params, images, labels)).mean()

    return params, optimiser.init(params), step, test


def train(weight: float, *, method="lift_cam", layer="conv3", steps=800, batch=32, seed=1) -> dict[str, float]:
    """Trains a network and tests it: accuracies and the map's share in the corner, as numbers in [0, 1]."""
    rng = np.random.default_rng(seed)
    learn, test_set = pictures(rng, 1024, telling=True), pictures(rng, 512, telling=False)
    params, state, step, test = make(weight, METHODS[method], layer, learn[0][0], 3e-3)
    for _ in range(steps):
        some = rng.integers(len(learn[0]), size=batch)
        params, state, value = step(params, state, learn[0][some], learn[1][some])
    training, _ = test(params, learn[0][:512], learn[1][:512])
    accuracy, logits = test(params, *test_set)
    return {"loss": float(value), "training": float(training), "test": float(accuracy), "corner": float(logits)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, default="lift_cam")
    parser.add_argument("--layer", choices=("conv1", "conv2", "conv3"), default="conv3")
    parser.add_argument("--weight", type=float, default=1.0, help="of the explanation's term (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures and batches (default: %(default)s)")
    args = parser.parse_args(argv)
    print(f"{'loss':<28}{'training':>10}{'test':>10}{'logits of corner':>20}")
    for name, weight in {"labels alone": 0.0, f"with {args.method}'s evidence": args.weight}.items():
        found = train(weight, method=args.method, layer=args.layer, steps=args.steps, seed=args.seed)
        print(f"{name:<28}{found['training']:>10.1%}{found['test']:>10.1%}{found['corner']:>20.2f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
