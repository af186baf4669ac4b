"""The choice of a class, moved forward: the same values as the masked evaluation, at the price of one class."""

from __future__ import annotations

import heads
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import seeded

from jaxcam.methods.coalition import ablation_cam
from jaxcam.methods.result import scalar_score
from jaxcam.transforms.coalition import coalition_game, masked_game
from jaxcam.transforms.coalition.lazy import Additive

H, W, K = heads.SHAPE
A = jnp.asarray(seeded.activations(6, heads.SHAPE), jnp.float32)
MASKS = jnp.asarray(np.random.default_rng(0).integers(0, 2, (12, K)), jnp.float32)


def drawn(classes: int, **shapes) -> dict[str, jax.Array]:
    rng = np.random.default_rng(4)
    shapes |= {"w": (K, classes), "k": (3, 3, K, classes), "b": (classes,), "c": (classes,)}
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def conv(x, kernel):
    return jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def averaged(p, a):
    """As SqueezeNet ends: a 1x1 convolution to the classes, a ReLU, an average."""
    return jax.nn.relu(conv(a, p["w"][None, None]) + p["b"]).mean((0, 1)) + p["c"]


def wide(p, a):
    """A 3x3 convolution, a soft activation of two branches, a max over windows and places."""
    y = conv(a, p["k"])
    y = jnp.where(y > 0, jnp.tanh(y) * p["b"], jax.nn.sigmoid(y))
    y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (2, 2, 1), (1, 1, 1), "VALID")
    return jnp.clip(y.max((0, 1)), -2.0, 2.0)


def classes_first(p, a):
    """The axis of the classes in another place, reshapes, a concatenation and a broadcast."""
    y = jnp.einsum("hwk,kc->chw", a, p["w"])
    y = jnp.exp(-(y.reshape(len(y), -1) ** 2))
    y = jnp.concatenate([y, jnp.broadcast_to(p["b"][:, None], y.shape)], axis=1)
    return jnp.transpose(y)[:, None, :].sum((0, 1)) * p["c"]


def each_class_by_itself(p, a):
    """A small network for each class: a product with a batch axis behind a ReLU."""
    hidden = jax.nn.relu(jnp.einsum("hwk,kc->chw", a, p["w"])).reshape(len(p["b"]), -1)
    v = jnp.sin(jnp.arange(len(p["b"]) * hidden.shape[1] * 3.0)).reshape(len(p["b"]), hidden.shape[1], 3)
    return jnp.log1p(jnp.einsum("cp,cpd->cd", hidden, v) ** 2).sum(-1)


HEADS = [averaged, wide, classes_first, each_class_by_itself]
TARGETS = {
    "an index": lambda t: t,
    "a static slice": lambda t: lambda logits: logits[2],
    "a traced one": lambda t: lambda logits: logits[t],
    "from the end": lambda t: lambda logits: logits[-1],
    "two classes": lambda t: lambda logits: (logits[t] - logits[0]) / 2,
    "clipped": lambda t: lambda logits: jnp.take(logits, t + 10**6, mode="clip"),
    "in a batch of one": lambda t: lambda logits: jax.lax.dynamic_slice(logits[None], (0, t), (1, 1))[0, 0],
}


def both(head, p, target, a=A):
    """Folded values, those of the masked evaluation, and the game."""
    found = []

    @jax.jit
    def run(p, a, t):
        score = scalar_score(head, p, target(t))
        found.append(coalition_game(score, a))
        return found[0](MASKS), masked_game(score, a)(MASKS)

    return *run(p, a, 2), found[0]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_coalition_pays_for_the_chosen_class_alone(head, target):
    price = {}
    for classes in (3, 90):
        folded, masked, game = both(head, drawn(classes), TARGETS[target])
        assert float(jnp.ptp(masked)) > 1e-3  # it does depend on the coalition
        np.testing.assert_allclose(folded, masked, rtol=0, atol=2e-6 * float(jnp.abs(masked).max()))
        price[classes] = game.megaflops
    assert price[90] == price[3]
    assert game.structure.startswith("additive up to the 'relu' at " if head is averaged else "additive up to")


@pytest.mark.parametrize("head", HEADS)
def test_what_needs_all_classes_is_left_as_it_is(head):
    p = drawn(5)
    folded, masked, game = both(head, p, lambda t: lambda logits: jax.nn.log_softmax(logits)[t])
    np.testing.assert_allclose(folded, masked, rtol=0, atol=2e-6 * float(jnp.abs(masked).max()))
    _, _, whole = both(head, p, lambda t: lambda logits: jax.nn.logsumexp(logits))
    assert game.megaflops <= 1.2 * whole.megaflops  # no second copy of the layers for the one class


def test_a_class_out_of_range_is_nan_and_classes_go_under_vmap():
    p = drawn(5)

    def values(t):
        return coalition_game(scalar_score(averaged, p, t), A)(MASKS)

    # Below 0 as well, which data sets use for "ignore": it is not the last class.
    assert jnp.isnan(jax.jit(values)(5)).all() and jnp.isnan(jax.jit(values)(-1)).all()
    every = jax.vmap(values)(jnp.arange(5))
    for t, got in enumerate(every):
        want = masked_game(scalar_score(averaged, p, t), A)(MASKS)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * float(jnp.abs(want).max()))


@pytest.mark.parametrize("head", [averaged, classes_first, each_class_by_itself])  # the other lies on kinks of its max
def test_derivatives_are_those_of_the_masked_evaluation(head):
    p = drawn(4)
    folded = lambda p, a: (coalition_game(scalar_score(head, p, 2), a)(MASKS) ** 2).sum()  # noqa: E731
    masked = lambda p, a: (masked_game(scalar_score(head, p, 2), a)(MASKS) ** 2).sum()  # noqa: E731
    got, want = (jax.tree.leaves(jax.jit(jax.grad(f, (0, 1)))(p, A)) for f in (folded, masked))
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * max(1e-3, float(jnp.abs(y).max())))


def test_a_linear_convolution_to_the_classes_is_solved_exactly():
    """Also where the table of all classes would have been too large to build."""
    p = drawn(3)
    linear = lambda p, a: conv(a, p["w"][None, None]).mean((0, 1)) + p["c"]  # noqa: E731
    game = coalition_game(scalar_score(linear, p, 1), A)
    assert game.structure == "linear head: exact"
    base, weights = game.marginals()
    np.testing.assert_allclose(base, p["c"][1], rtol=1e-6)
    np.testing.assert_allclose(weights, np.asarray(A).mean((0, 1)) * np.asarray(p["w"])[:, 1], rtol=1e-5, atol=1e-6)
    many = {name: jnp.zeros(s, jnp.float32) for name, s in {"w": (K, 3_000_000), "c": (3_000_000,)}.items()}
    huge = coalition_game(scalar_score(linear, many, 1), A)
    assert isinstance(huge.output, Additive) and huge.is_additive


def test_ablation_behind_a_convolution_to_the_classes_is_the_plain_drop():
    p = drawn(7)
    result = jax.jit(lambda a, t: ablation_cam(p, a, head=averaged, target=t))(A, 3)
    full = float(averaged(p, A)[3])
    drops = [full - float(averaged(p, A.at[..., k].set(0))[3]) for k in range(K)]
    np.testing.assert_allclose(result.coefficients, drops, rtol=0, atol=1e-5 * max(abs(full), 1))


@jax.custom_vjp
def straight_through(x):
    """-1, 0 or 1 forward; backward as if it had been left as it is within (-1, 1)."""
    return jnp.sign(x)


straight_through.defvjp(lambda x: (jnp.sign(x), x), lambda x, g: (g * (jnp.abs(x) < 1),))


@pytest.mark.parametrize("function", [jax.nn.relu, jax.nn.softplus, straight_through])
@pytest.mark.parametrize("choose", [False, True])
def test_functions_keep_their_own_derivative_where_everything_is_zero(function, choose):
    """The empty coalition of a layer without biases lies on every kink there is."""
    p = drawn(3, v=(3, 3))
    layer = lambda p, a: function(jnp.einsum("hwk,kc->hwc", a, p["w"])).sum((0, 1))  # noqa: E731
    head = layer if choose else lambda p, a: layer(p, a) @ p["v"]  # with and without a class to move forward

    def derivatives(game):
        value = lambda p, a: game(scalar_score(head, p, 1), a)(MASKS).sum()  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.grad(value, (0, 1)))(p, A))

    for got, want in zip(derivatives(coalition_game), derivatives(masked_game), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1.0, float(jnp.abs(want).max())))
