"""Games with known Shapley values, or long references, for `benchmarks.shapley`: NumPy alone, for any interpreter."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Game(NamedTuple):
    """A game on masks.

    Attributes:
      name: unique.
      family: what kind of game it is.
      players: K.
      v: `masks (n, K) of 0 and 1 -> (n,)` in float64.
      exact: `(K,)` its Shapley values, where a formula or enumeration gives them.
    """

    name: str
    family: str
    players: int
    v: Callable[[np.ndarray], np.ndarray]
    exact: np.ndarray | None


def relu(x):
    return np.maximum(x, 0)


def enumerated(v: Callable, players: int) -> np.ndarray:
    """`(K,)` Shapley values from all coalitions."""
    masks = ((np.arange(2**players)[:, None] >> np.arange(players)) & 1).astype(float)
    values, size = v(masks), masks.sum(1).astype(int)
    weight = np.array([1 / (players * math.comb(players - 1, s)) for s in range(players)])
    inside, outside = weight[np.maximum(size - 1, 0)], weight[np.minimum(size, players - 1)]
    return (values - values[0]) @ np.where(masks > 0, inside[:, None], -outside[:, None])


def _game(name, family, players, v, exact=None) -> Game:
    return Game(f"{name}, {players}", family, players, v, enumerated(v, players) if players <= 16 else exact)


def unanimity(players: int, members: int) -> Game:
    """1 where all of the first `members` are there."""
    exact = (np.arange(players) < members) / members
    return _game(f"unanimity of {members}", "unanimity", players, lambda m: m[:, :members].prod(1), exact)


def parity(players: int, members: int) -> Game:
    """The product of signs of the first `members`."""
    exact = (np.arange(players) < members) * (2 / members if members % 2 else 0)
    return _game(f"parity of {members}", "parity", players, lambda m: (2 * m[:, :members] - 1).prod(1), exact)


def _shares_of_maximum(cost: np.ndarray) -> np.ndarray:
    order = np.argsort(cost)
    shares = np.empty(len(cost))
    shares[order] = np.cumsum(np.diff(cost[order], prepend=0) / (len(cost) - np.arange(len(cost))))
    return shares


def airport(players: int, groups: int = 1, seed: int = 0) -> Game:
    """The largest cost among those present; or a weighted sum of such over random quarters of the players."""
    r = np.random.default_rng(seed)
    size = players if groups == 1 else players // 4
    who = [r.choice(players, size, replace=False) for _ in range(groups)]
    costs = [r.exponential(size=size) for _ in range(groups)]
    scale = np.ones(1) if groups == 1 else r.normal(size=groups)
    exact = np.zeros(players)
    for members, cost, s in zip(who, costs, scale, strict=True):
        exact[members] += s * _shares_of_maximum(cost)

    def v(m):
        return sum(s * (m[:, i] * c).max(1) for i, c, s in zip(who, costs, scale, strict=True))

    return _game("airport" if groups == 1 else f"sum of {groups} maxima", "maxima", players, v, exact)


def product(players: int, seed: int = 0) -> Game:
    """A product of two ReLUs."""
    r = np.random.default_rng(seed)
    w, b = r.normal(size=(players, 2)) * 2 / np.sqrt(players), 0.3 * r.normal(size=2)
    return _game("product of ReLUs", "product", players, lambda m: relu(m @ w + b).prod(1))


def deep(players: int, layers: int, hidden: int = 64, seed: int = 0) -> Game:
    """A random ReLU network."""
    r = np.random.default_rng(seed)
    sizes = [players, *(hidden for _ in range(layers))]
    gains = [4, *(2 for _ in range(layers - 1))]
    kernels = [r.normal(size=(a, b)) * np.sqrt(g / a) for a, b, g in zip(sizes[:-1], sizes[1:], gains, strict=True)]
    biases, last = [0.5 * r.normal(size=hidden) for _ in range(layers)], r.normal(size=hidden)

    def v(m):
        for kernel, bias in zip(kernels, biases, strict=True):
            m = relu(m @ kernel + bias)
        return m @ last

    return _game(f"ReLU network of {layers}", "ReLU network", players, v)


def attention(players: int, seed: int = 0, width: int = 16) -> Game:
    """A head that attends to the tokens that are there, and to a register."""
    r = np.random.default_rng(seed)
    keys, query = r.normal(size=(players, width)), r.normal(size=width)
    values, last = r.normal(size=(players, 8)), r.normal(size=8)
    scores = np.exp(keys @ query / math.sqrt(width))

    def v(m):
        return np.tanh((m @ (scores[:, None] * values)) / (m @ scores + scores.mean())[:, None]) @ last

    return _game("attention", "attention", players, v)


def trees(players: int, count: int = 20, depth: int = 6, seed: int = 0) -> Game:
    """Random trees on a table's row: an absent feature has a baseline's value, with which some splits agree."""
    r = np.random.default_rng(seed)
    leaves: list[tuple[frozenset, frozenset, float]] = []

    def grow(present, absent, left):
        if not left:
            leaves.append((present, absent, r.normal()))
            return
        i = int(r.integers(players))
        if i in present or i in absent or r.random() < 0.35:
            return grow(present, absent, left - 1)
        grow(present | {i}, absent, left - 1)
        grow(present, absent | {i}, left - 1)

    for _ in range(count):
        grow(frozenset(), frozenset(), depth)
    wants, forbids = (np.zeros((players, len(leaves))) for _ in range(2))
    value, exact = np.array([leaf[2] for leaf in leaves]), np.zeros(players)
    for at, (present, absent, x) in enumerate(leaves):
        wants[list(present), at] = forbids[list(absent), at] = 1
        p, a = len(present), len(absent)
        for i in present:
            exact[i] += x * math.factorial(p - 1) * math.factorial(a) / math.factorial(p + a)
        for i in absent:
            exact[i] -= x * math.factorial(p) * math.factorial(a - 1) / math.factorial(p + a)
    return _game(f"{count} trees", "trees", players, lambda m: (((1 - m) @ wants + m @ forbids) < 0.5) @ value, exact)


def sparse_sum(players: int, terms: int = 40, seed: int = 0) -> Game:
    """A sum of main effects and of unanimity games of 2 to 5 players."""
    r = np.random.default_rng(seed)
    main, exact = r.normal(size=players), np.zeros(players)
    exact += main
    sets = [r.choice(players, r.integers(2, 6), replace=False) for _ in range(terms)]
    weights = r.normal(size=terms) * 2
    for members, w in zip(sets, weights, strict=True):
        exact[members] += w / len(members)

    def v(m):
        return m @ main + sum(w * m[:, s].prod(1) for s, w in zip(sets, weights, strict=True))

    return _game(f"main effects and {terms} products", "products", players, v, exact)


def heads(path: pathlib.Path) -> list[Game]:
    """Heads of networks on pictures, as `benchmarks.shapley` has written them: dense layers after the masked one."""
    games = []
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name in dict.fromkeys(key.split("/")[0] for key in arrays):
        part = {key.split("/")[1]: a for key, a in arrays.items() if key.startswith(f"{name}/")}

        def v(m, part=part):
            x = relu(m.astype(np.float32) @ part["table"] + part["base"])
            if "kernel" in part:
                x = relu(x @ part["kernel"] + part["bias"])
            return (x @ part["last"]).astype(float)

        games.append(_game(name, f"head of {name.split()[0]}", len(part["table"]), v))
    return games


def games(path: pathlib.Path | None = None) -> list[Game]:
    """All of them; those of heads where there is a file of them."""
    found = [
        *(unanimity(14, q) for q in (3, 5, 9)), *(unanimity(64, q) for q in (3, 5, 9)), unanimity(512, 3),
        unanimity(512, 7), *(parity(k, q) for k in (14, 64) for q in (3, 5)), parity(512, 3), airport(14), airport(64),
        airport(128), airport(512), airport(16, 8), airport(64, 8), airport(128, 8), airport(512, 8), product(14),
        product(64), product(128), deep(14, 1), deep(16, 2), deep(64, 1), deep(64, 2), deep(64, 4), deep(128, 3),
        attention(16), attention(64), attention(128), trees(16), trees(32), trees(64), trees(128), trees(512, 60),
        sparse_sum(14), sparse_sum(64), sparse_sum(128), sparse_sum(512, 200),
    ]  # fmt: skip
    return found + ([] if path is None else heads(path))
