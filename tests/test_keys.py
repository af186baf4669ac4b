"""What takes a random key says so of what is none."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcam
import jaxcam.metrics
import jaxcam.shapley

A = jax.random.uniform(jax.random.key(0), (3, 3, 20))
W = jax.random.normal(jax.random.key(1), (20, 3))
IMAGE, MAP = jax.random.normal(jax.random.key(2), (6, 6, 3)), jnp.arange(36.0).reshape(6, 6)
COMMON = {
    "params": W, "activations": A, "head": lambda w, a: jnp.square(jnp.mean(a, (0, 1))) @ w, "target": 0,
    "image": IMAGE, "predict": lambda w, x: jnp.mean(x, (0, 1)) @ w[:3],
    "references": A[None], "heatmap": MAP, "again": jnp.stack([MAP] * 10), "removed": MAP > 3, "classes": 3,
    "v": lambda masks: jnp.square(masks @ W[:, 0]), "num_players": 20, "num_samples": 40, "num_permutations": 4,
    "weight": lambda masks: jnp.ones(len(masks)), "players": jnp.arange(3),
}  # fmt: skip


def _with_keys():
    for module in (jaxcam, jaxcam.metrics, jaxcam.shapley):
        for name in dir(module):
            function = getattr(module, name)
            if inspect.isfunction(function) and "key" in inspect.signature(function).parameters:
                yield pytest.param(function, id=name)


FUNCTIONS = list(_with_keys())


def _call(function, key):
    needed = [n for n, p in inspect.signature(function).parameters.items() if p.default is p.empty]
    given = {name: COMMON[name] for name in needed if name != "key"}
    if inspect.getmodule(function).__name__.endswith("randomisation"):
        given["target"] = jnp.int32(0)
    found = function(**given, key=key)
    return list(found) if inspect.isgenerator(found) else found


def test_there_are_functions_with_keys():
    assert len(FUNCTIONS) > 20


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_key_is_named(function):
    assert jax.tree.leaves(_call(function, jax.random.key(0)))
    for wrong in (None, 0, "a", np.float32(1), jnp.zeros(2), jnp.zeros(2, jnp.int32), jnp.zeros((2, 2), jnp.uint32)):
        with pytest.raises(jaxcam.JaxcamError, match=r"key must be one random key, such as jax.random.key\(0\), not "):
            _call(function, wrong)
    with pytest.raises(jaxcam.JaxcamError, match=r"not 3 keys, for which there is jax.vmap"):
        _call(function, jax.random.split(jax.random.key(0), 3))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_old_and_new_and_traced(impl):
    new, old = jax.random.key(3, impl=impl), jax.random.PRNGKey(3)
    one = jaxcam.random_cam(W, A, new, head=COMMON["head"], target=0).map
    several = jax.vmap(lambda k: jaxcam.random_cam(W, A, k, head=COMMON["head"], target=0).map)(new[None])
    np.testing.assert_array_equal(one, several[0])
    if impl == "threefry2x32":
        assert jnp.array_equal(one, jaxcam.random_cam(W, A, old, head=COMMON["head"], target=0).map)
        raw = jax.vmap(lambda k: jaxcam.random_cam(W, A, k, head=COMMON["head"], target=0).map)(old[None])
        assert jnp.array_equal(one, raw[0])
        assert jnp.array_equal(one, jaxcam.random_cam(W, A, np.asarray(old), head=COMMON["head"], target=0).map)
