"""Values of pytorch-grad-cam's and captum's measures, where their definitions are ours.

    pip install torch grad-cam captum
    python tests/reference/make_torch_measures.py

Made with torch 2.14.1, grad-cam 1.5.7 and captum 0.9.0.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from captum.metrics import infidelity, sensitivity_max
from pytorch_grad_cam.metrics.arcc import Complexity, batch_pearson_coherency
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

rng = np.random.default_rng(11)
images = rng.normal(size=(3, 18, 23, 3)).astype(np.float32)
removed = rng.uniform(size=(3, 18, 23)) < np.asarray([0.1, 0.5, 0.9])[:, None, None]
removed[1] = np.hypot(*np.meshgrid(np.arange(18) - 3, np.arange(23) - 12, indexing="ij")) < 9  # a blob at the edge
impute = NoisyLinearImputer(noise=0.0)
imputed = [
    impute(torch.from_numpy(x.transpose(2, 0, 1)), torch.from_numpy((~r).astype(np.float32))).numpy().transpose(1, 2, 0)
    for x, r in zip(images, removed, strict=True)
]

maps, again = rng.uniform(size=(2, 4, 18, 23)).astype(np.float32)
again = (again + np.arange(4, dtype=np.float32)[:, None, None] * maps) / (1 + np.arange(4, dtype=np.float32))[
    :, None, None
]
sensitivity = [
    float(sensitivity_max(lambda x: x, torch.from_numpy(m)[None], lambda x, _, a=a: torch.from_numpy(a)[None],
                          n_perturb_samples=1))
    for m, a in zip(maps, again, strict=True)
]  # fmt: skip

weights = torch.from_numpy(rng.normal(size=(30, 7)).astype(np.float32))


def network(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ weights).sum(-1)


said, lost, found = [], [], []
for _ in range(3):
    x, s = (
        torch.from_numpy(rng.normal(size=(1, 30)).astype(np.float32)),
        torch.from_numpy(rng.uniform(size=(1, 30)).astype(np.float32)),
    )
    parts = torch.from_numpy((rng.uniform(size=(9, 30)) < 0.3).astype(np.float32))
    drawn = iter(parts)

    def perturb(inputs: torch.Tensor, drawn=drawn) -> tuple[torch.Tensor, torch.Tensor]:
        part = next(drawn)[None]
        return part, inputs * (1 - part)

    found.append(float(infidelity(network, perturb, x, s, n_perturb_samples=9, max_examples_per_batch=1,
                                  normalize=True)))  # fmt: skip
    said.append((parts @ s[0]).numpy())
    lost.append((network(x) - network(x * (1 - parts))).numpy())

np.savez_compressed(
    pathlib.Path(__file__).with_name("torch_measures.npz"), images=images, removed=removed, imputed=np.stack(imputed),
    maps=maps, again=again, coherency=(batch_pearson_coherency(maps, again) + 1) / 2, complexity=Complexity()(maps),
    sensitivity=sensitivity, said=said, lost=lost, infidelity=found,
)  # fmt: skip
