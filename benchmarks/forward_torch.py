"""PyTorch's side of benchmarks/forward.py, for an interpreter with torch.

Answers (see `peer.py`) `["load", network, batch]` with the logits of `images.npy` in its folder and the layout that is
faster, and `["run", repeats]` with the seconds of each forward pass of the network loaded last.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from networks import NETWORKS, drawn
from peer import serve
from torch.nn import functional

raw = functools.cache(drawn)


class Ops:
    """The operations of `networks.py`; arrays are `(b, k, h, w)`."""

    relu, relu6, gelu = map(staticmethod, (functional.relu, functional.relu6, functional.gelu))
    hard_swish, hard_sigmoid = map(staticmethod, (functional.hardswish, functional.hardsigmoid))

    def __init__(self, layout: torch.memory_format):
        self.layout, self.made = layout, {}

    def weight(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A weight in PyTorch's layout."""
        if name not in self.made:
            value = torch.from_numpy(raw(name, shape))
            if len(shape) == 4:
                value = value.permute(3, 2, 0, 1).contiguous(memory_format=self.layout)
            self.made[name] = value.T.contiguous() if len(shape) == 2 else value
        return self.made[name]

    def conv(self, x, name, channels, kernel, stride=1, *, groups=1, bias=False, padding=None):
        """Padding as TensorFlow's SAME unless it is given."""
        weight = self.weight(f"{name}.kernel", (kernel, kernel, x.shape[1] // groups, channels))
        if padding is None:
            total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
            padding = total[0] // 2
            if total[0] != total[1] or total[0] % 2:
                (h, w), padding = total, 0
                x = functional.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
        shift = self.weight(f"{name}.bias", (channels,)) if bias else None
        return functional.conv2d(x, weight, shift, stride, padding, groups=groups)

    def norm(self, x, name, epsilon):
        """Batch norm in evaluation mode."""
        mean, var, scale, shift = (self.weight(f"{name}.{k}", (x.shape[1],)) for k in ("mean", "var", "scale", "bias"))
        return functional.batch_norm(x, mean, var, scale, shift, eps=epsilon)

    def layer_norm(self, x, name):
        """Over the channels."""
        scale, shift = (self.weight(f"{name}.{k}", (x.shape[1],)) for k in ("scale", "bias"))
        return functional.layer_norm(x.permute(0, 2, 3, 1), scale.shape, scale, shift, 1e-6).permute(0, 3, 1, 2)

    def scaled(self, x, name):
        """Times a number for each channel."""
        return x * self.weight(f"{name}.scale", (x.shape[1],))[:, None, None]

    def dense(self, x, name, channels):
        """Of `(b, k)`."""
        return functional.linear(
            x, self.weight(f"{name}.kernel", (x.shape[1], channels)), self.weight(f"{name}.bias", (channels,))
        )

    def max_pool(self, x, window, stride, padding):
        """Padded alike on all sides."""
        return functional.max_pool2d(x, window, stride, padding)

    def mean_pool(self, x):
        """2 x 2."""
        return functional.avg_pool2d(x, 2)

    def mean(self, x, keep=False):
        """Over the positions."""
        return x.mean((2, 3), keepdim=keep)

    def concatenate(self, several):
        """Of channels."""
        return torch.cat(several, 1)

    def flat(self, x):
        """`(b, h w k)`."""
        return x.permute(0, 2, 3, 1).flatten(1)


def main(folder: str, threads: str) -> None:
    """Serves until there are no more commands."""
    torch.set_num_threads(int(threads))
    calls: list[Callable[[], Any]] = []
    loaded: list[str] = []

    def timed(call: Callable[[], Any], repeats: int) -> list[float]:
        seconds = []
        with torch.inference_mode():
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
        return seconds

    def load(network: str, batch: int) -> tuple[list, str]:
        if network not in loaded:
            raw.cache_clear()
        loaded[:] = [network]
        x = torch.from_numpy(np.load(pathlib.Path(folder, "images.npy"))[:batch].transpose(0, 3, 1, 2).copy())
        found = {}
        for name, layout in {"": torch.contiguous_format, "channels last": torch.channels_last}.items():
            ops, images = Ops(layout), x.to(memory_format=layout)
            call = lambda ops=ops, images=images: NETWORKS[network](ops, images)  # noqa: E731
            found[name] = statistics.median(timed(call, 4)[1:]), call
        best = min(found, key=lambda name: found[name][0])
        calls[:] = [found[best][1]]
        with torch.inference_mode():
            return calls[0]().tolist(), best

    serve(f"PyTorch {torch.__version__}", load=load, run=lambda repeats: timed(calls[0], repeats))


if __name__ == "__main__":
    main(*sys.argv[1:])
