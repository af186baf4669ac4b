"""Occlusion, Sobol and HSIC indices against slow NumPy versions; driven from the host they are the same."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from masked_network import A32, CHANNELS, A, close, upsampled

from jaxcam.errors import JaxcamError
from jaxcam.methods.occluding import sobol_points
from jaxcam.methods.registry import METHODS
from jaxcam.methods.result import Inputs

KEY = jax.random.key(5)
RNG = np.random.default_rng(1)
P = {"w3": RNG.normal(size=(A.size, 5)) / 4, "b3": RNG.normal(size=5), "w4": RNG.normal(size=(5, 4))}
P32 = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), P)
SHAPE = A.shape[:2]


def head(p, a):
    return jax.nn.relu(a.reshape(-1) @ p["w3"] + p["b3"]) @ p["w4"]


def slow(mask, target):
    return (np.maximum((A * mask[..., None]).reshape(-1) @ P["w3"] + P["b3"], 0) @ P["w4"])[target]


def spread(grid):
    """Of 2 x 2 cells over 3 x 4 positions: the middle row lies half in the upper and half in the lower ones."""
    rows = np.stack([grid[0], grid.mean(0), grid[1]])
    return np.repeat(rows, 2, axis=1)


@functools.cache
def compiled(name, **options):
    key = (KEY,) if "key" in METHODS[name].needs else ()
    return jax.jit(lambda p, a, t: METHODS[name].function(p, a, *key, head=head, target=t, **options))


@pytest.mark.parametrize(("window", "stride", "size"), [(2, 1, 4), (2, 2, None), (1, 2, None)])
def test_occlusion_is_the_slow_one_whatever_the_chunks(window, stride, size):
    """Zeiler & Fergus 2014: what the class loses behind each window, at every position the mean of those over it."""
    target = 1
    total, times = np.zeros(SHAPE), np.zeros(SHAPE)
    places = [sorted({min(i, n - window) for i in range(0, n - window + stride, stride)}) for n in SHAPE]
    for y in places[0]:
        for x in places[1]:
            mask = np.ones(SHAPE)
            mask[y : y + window, x : x + window] = 0
            total += (1 - mask) * (slow(np.ones(SHAPE), target) - slow(mask, target))
            times += 1 - mask
    want = total / np.maximum(times, 1)
    got = compiled("occlusion", window=window, stride=stride, chunk_size=size)(P32, A32, target)
    close(got.diagnostics["signed_map"], want, 1e-5)
    close(got.map, np.maximum(want, 0), 1e-5)
    close(got.coefficients, np.full(CHANNELS, want.sum() / CHANNELS), 1e-5)
    assert got.diagnostics["evaluations"] == len(places[0]) * len(places[1]) + 1
    assert (times == 0).any() == (stride > window)  # where there is nothing


def test_sobol_indices_are_the_slow_ones():
    """Jansen 1999, cell by cell; strengths go to the positions of a cell, and indices back bilinearly."""
    n, cells, target = 4, 2, 2
    shift = np.asarray(jax.random.uniform(KEY, (8,)), np.float64)
    points = (sobol_points(n, 8) + shift) % 1

    def value(strengths):
        return slow(spread(strengths.reshape(2, 2)), target)

    plain = np.asarray([value(row[:4]) for row in points])
    total = np.zeros(4)
    for i in range(4):
        for j, row in enumerate(points):
            total[i] += (plain[j] - value(np.where(np.arange(4) == i, row[4:], row[:4]))) ** 2 / (2 * n)
    want = upsampled((total / np.var(plain, ddof=1)).reshape(2, 2), SHAPE)
    got = compiled("sobol_cam", num_designs=n, cells=cells, chunk_size=7)(P32, A32, target)
    close(got.map, want, 1e-4)
    close(got.coefficients, np.full(CHANNELS, want.sum() / CHANNELS), 1e-4)
    assert got.diagnostics["evaluations"] == n * 5 + 1


def test_sobol_indices_of_a_sum_are_its_shares_of_the_variance():
    weights = np.asarray([[3.0, 1.0, 0.0], [0.5, 2.0, 1.0]])
    explain = functools.partial(METHODS["sobol_cam"].function, target=0, num_designs=512, cells=2)
    run = jax.jit(lambda a: explain(None, a, KEY, head=lambda _, a: jnp.sum(a)[None]))
    want = weights @ [[1, 0], [0.5, 0.5], [0, 1]]  # half of the middle column in each cell
    want = upsampled(want**2 / (want**2).sum(), (2, 3))
    np.testing.assert_allclose(run(jnp.asarray(weights[..., None], jnp.float32)).map, want, atol=0.02)


def test_hsic_is_the_slow_one():
    """Novello et al. 2022, eq. 5: tr(K H L H) / (n - 1)^2 with the matrices as they are."""
    n, cells, target = 12, 2, 1
    there = np.argsort(np.asarray(jax.random.uniform(KEY, (n, 4))), 0) < n // 2
    y = np.asarray([slow(spread(row.reshape(2, 2).astype(float)), target) for row in there])
    centring = np.eye(n) - 1 / n
    alike = np.exp(-((y[:, None] - y) ** 2) / (2 * y.std() ** 2))
    found = [
        np.trace((there[:, None, i] == there[:, i]).astype(float) @ centring @ alike @ centring) / (n - 1) ** 2
        for i in range(4)
    ]
    got = compiled("hsic_cam", num_samples=n, cells=cells, chunk_size=5)(P32, A32, target)
    close(got.map, upsampled(np.reshape(found, (2, 2)), SHAPE), 1e-4)
    assert got.diagnostics["evaluations"] == n + 1 and (there.sum(0) == n // 2).all()


FEW = {
    "occlusion": {"window": 2, "chunk_size": 2},
    "sobol_cam": {"num_designs": 4, "cells": 2, "chunk_size": 7},
    "hsic_cam": {"num_samples": 12, "cells": 2, "chunk_size": 5},
}


@pytest.mark.parametrize("name", FEW)
def test_driven_from_the_host_it_is_the_same_from_any_state_on(name):
    inputs = Inputs(P32, A32, head, 1, KEY)
    stepped = METHODS[name].stepped(inputs, **FEW[name])
    assert stepped == METHODS[name].stepped(inputs, **FEW[name]) and hash(stepped) is not None
    states = list(stepped.states(inputs))
    got, want = stepped.result(states[-1], A32), compiled(name, **FEW[name])(P32, A32, 1)
    assert len(states) == 4 and stepped.steps.done(states[-1])
    jax.tree.map(lambda g, w: close(g, w, 1e-5), got, want)
    *_, again = stepped.states(inputs, state=states[1])
    jax.tree.map(np.testing.assert_array_equal, again, states[-1])


@pytest.mark.parametrize("name", FEW)
def test_where_nothing_matters_there_is_nothing(name):
    got = compiled(name, **FEW[name])({**P32, "w3": 0 * P32["w3"]}, A32, 1)
    assert not got.map.any() and np.isfinite(got.coefficients).all()


@pytest.mark.parametrize(("name", "options", "message"), [
    ("occlusion", {"window": 0}, "window must be"), ("occlusion", {"stride": 0}, "stride must be"),
    ("occlusion", {"score": "softmx"}, "no score called 'softmx'"), ("sobol_cam", {"num_designs": 1}, "at least 2"),
    ("hsic_cam", {"num_samples": 1}, "at least 2"), ("hsic_cam", {"cells": 0}, "cells must be"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(name, options, message):
    with pytest.raises(JaxcamError, match=message) as caught:
        METHODS[name].call(Inputs(P32, A32, head, 1, KEY), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", [1e-25, 1e20])
@pytest.mark.parametrize("name", ["sobol_cam", "hsic_cam"])
def test_indices_do_not_depend_on_the_unit_of_the_score(name, unit):
    """An improbable class has probabilities whose squares are 0 in float32: the map was empty, or NaN where large."""
    options = {"cells": 2, "num_designs": 8} if name == "sobol_cam" else {"cells": 2, "num_samples": 40}

    def run(unit):
        method = METHODS[name].function
        return method(P32, A32, KEY, head=lambda p, a: head(p, a) * unit, target=1, **options).map

    assert run(1.0).max() > 0
    np.testing.assert_allclose(run(unit), run(1.0), rtol=1e-4)
