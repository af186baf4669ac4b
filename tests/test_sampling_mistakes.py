"""What a person can get wrong with the sampling methods, and how methods with options are written."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_heads import CLASSES, A, K, P, head

from jaxcam.errors import JaxcamError
from jaxcam.methods.registry import request
from jaxcam.methods.result import scalar_score
from jaxcam.methods.sampling import kernel_shap_cam, lime_cam, shap_cam
from jaxcam.transforms.coalition import coalition_game, masked_game


def one_line(call, *words):
    with pytest.raises(JaxcamError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


SAMPLED = {shap_cam: "num_permutations", kernel_shap_cam: "num_samples", lime_cam: "num_samples"}


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("count", [0, -3, 2.5, True])
def test_a_count_that_is_none(method, count):
    call = functools.partial(method, P, A, jax.random.key(0), head=head, target=0)
    one_line(lambda: call(**{SAMPLED[method]: count}), SAMPLED[method], "at least")


@pytest.mark.parametrize("method", SAMPLED)
def test_heads_and_inputs_that_are_wrong(method):
    call = functools.partial(method, key=jax.random.key(0))
    one_line(lambda: call(P, A, head=lambda p, a: head(p, a)[None], target=0), "batch")
    one_line(lambda: call(P, A, head=lambda p, a: head(p, a) + jnp.nan, target=0), "not finite")
    one_line(lambda: call(P, A.at[0, 0, 0].set(jnp.nan), head=head, target=0), "not finite")
    one_line(lambda: call(P, A[None], head=head, target=0), "(h, w, K)")
    one_line(lambda: call(P, A, head=head, target=CLASSES), f"no class {CLASSES}")


def test_masks_of_the_wrong_width():
    game = coalition_game(scalar_score(head, P, 0), A)
    for masks in (jnp.ones((2, K + 1)), jnp.ones(K), jnp.ones((1, 2, K))):
        one_line(lambda masks=masks: game(masks), f"(n, {K})")
    np.testing.assert_allclose(
        game(jnp.ones((1, K), bool)), masked_game(scalar_score(head, P, 0), A)(jnp.ones((1, K))), rtol=1e-5
    )


def test_names_and_numbers_that_are_not_known():
    one_line(lambda: shap_cam(P, A, jax.random.key(0), head=head, target=0, estimator="antithetc"), "antithetic")
    one_line(lambda: kernel_shap_cam(P, A, jax.random.key(0), head=head, target=0, num_samples=4), "coalitions")
    one_line(lambda: shap_cam(P, A, jax.random.key(0), head=head, target=0, chunk_size=0), "chunk_size")


@pytest.mark.parametrize(
    "text, options, label",
    [
        ("shap_cam", {}, "shap_cam"),
        ("SHAP-CAM:num-permutations=1e2, estimator=plain", {"num_permutations": 100, "estimator": "plain"},
         "shap_cam:estimator=plain,num_permutations=100"),
        ("kernel_shap:paired=false", {"paired": False}, "kernel_shap_cam:paired=false"),
        ("lime:beta=1,gamma=0.25", {"beta": 1.0, "gamma": 0.25}, "lime_cam:beta=1.0,gamma=0.25"),
        ("shap_cam:tolerance=0.01,chunk_size=none", {"tolerance": 0.01, "chunk_size": None},
         "shap_cam:chunk_size=none,tolerance=0.01"),
    ],
)  # fmt: skip
def test_requests(text, options, label):
    found = request(text)
    assert dict(found.options) == options
    assert found.label.lower() == label
    assert request(found.label) == found and hash(request(found.label)) == hash(found)
    for k, v in options.items():
        assert type(dict(found.options)[k]) is type(v)


@pytest.mark.parametrize(
    "text, words",
    [
        ("shap_cam:num_permutation=3", ["num_permutations"]),
        ("shap_cam:num_permutations", ["needs a value"]),
        ("shap_cam:num_permutations=", ["needs a value"]),
        ("shap_cam:num_permutations=many", ["num_permutations", "int"]),
        ("shap_cam:num_permutations=1.5", ["int"]),
        ("shap_cam:estimator=3", ["estimator", "str"]),
        ("kernel_shap_cam:paired=2", ["paired", "bool"]),
        ("lime_cam:beta=small", ["beta", "float"]),
        ("grad_cam:n=1", ["no options"]),
        ("shap_cam:head=x", ["option"]),
        ("shap:num_permutations=1e400", ["num_permutations", "int"]),
        ("sharp_cam", ["shap_cam"]),
    ],
)
def test_requests_that_are_wrong(text, words):
    one_line(lambda: request(text), *words)
