"""Reference coefficients of a VGG head from PyTorch and captum, for tests/test_references.py.

Run `python tests/reference/make_captum.py` in an environment with torch and captum (no jax needed); it writes
captum_vgg.npz beside itself. The stored file was made with torch 2.13.0+cpu, captum 0.9.0, numpy 2.4.6, in float64.
Weights and activations are not stored: both sides draw them from a seed (`seeded.py`).

Per case i: `case_i` = seed, h, w, K, hidden, classes, target; `digest_i` = hash of weights and activations;
per-channel coefficients (K,): `deeplift_i` (zero baseline), `grad_cam_i`, `lrp_epsilon_i` (1e-9, captum's default),
`lrp_gamma_i` (gamma 0.25) and `lrp_alpha1_beta0_i` (the rule on the three dense layers, epsilon on the pool).
Also `elementwise`: captum's DeepLIFT through a chain of activation functions (see `chain`), seed in `elementwise_seed`.

With `--full`, the head of a whole VGG16 (a minute, 4 GB) goes into captum_vgg16.npz: `case`, `digest` and `deeplift`
as above; made with torch 2.14.1, captum 0.9.0.
"""

from __future__ import annotations

import pathlib
import sys

import captum
import numpy as np
import seeded
import torch
from captum.attr import LRP, DeepLift
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import nn

CASES = [(11, 6, 4, 7, 12, 5, 2), (12, 8, 8, 16, 24, 10, 0), (13, 14, 14, 128, 256, 10, 7)]
FULL = (14, 14, 14, 512, 4096, 1000, 281)
CHAIN_SEED, CHAIN_WIDTH = 21, 9


def parameter(array: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array))


def dense(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(*weight.shape)
    layer.weight, layer.bias = parameter(weight.T.copy()), parameter(bias)
    return layer


class Head(nn.Module):
    """2x2 max pool -> flatten -> dense+ReLU -> dense+ReLU -> dense on (b, K, h, w); every module is used once."""

    def __init__(self, p: dict[str, np.ndarray]):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.fc1, self.relu1 = dense(p["w1"], p["b1"]), nn.ReLU()
        self.fc2, self.relu2 = dense(p["w2"], p["b2"]), nn.ReLU()
        self.fc3 = dense(p["w3"], p["b3"])

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        x = self.pool(a).permute(0, 2, 3, 1).flatten(1)  # (h, w, K) order, as in `seeded.vgg_head`
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(x)))))


def channels(attribution: torch.Tensor) -> np.ndarray:
    return attribution.detach().sum((0, 2, 3)).numpy()


def lrp(p: dict[str, np.ndarray], a: torch.Tensor, target: int, rule: type | None) -> np.ndarray:
    model = Head(p)
    if rule is not None:
        model.pool.rule = EpsilonRule()
        for layer in (model.fc1, model.fc2, model.fc3):
            layer.rule = rule()
    return channels(LRP(model).attribute(a.clone(), target=target))


def deeplift_case(case: tuple[int, ...]) -> tuple[dict[str, np.ndarray], torch.Tensor, dict[str, np.ndarray]]:
    """The parameters, the activations, and what is stored of them and of DeepLIFT."""
    seed, h, w, k, hidden, classes, target = case
    p = seeded.vgg_head(seed, (h, w, k), hidden, classes)
    activations = seeded.activations(seed + 1000, (h, w, k))
    a = torch.from_numpy(activations.transpose(2, 0, 1)[None].copy()).requires_grad_()
    digest = np.array(seeded.digest({**p, "activations": activations}))
    deeplift = DeepLift(Head(p)).attribute(a, baselines=torch.zeros_like(a), target=target)
    return p, a, {"case": np.array(case), "digest": digest, "deeplift": channels(deeplift)}


def vgg_case(case: tuple[int, ...]) -> dict[str, np.ndarray]:
    p, a, found = deeplift_case(case)
    target = case[-1]
    gradient = torch.autograd.grad(Head(p)(a)[0, target], a)[0]
    return found | {
        "grad_cam": gradient.mean((0, 2, 3)).numpy(),
        "lrp_epsilon": lrp(p, a, target, None),
        "lrp_gamma": lrp(p, a, target, GammaRule),
        "lrp_alpha1_beta0": lrp(p, a, target, Alpha1_Beta0_Rule),
    }


def chain() -> dict[str, np.ndarray]:
    """dense -> activation, for every activation function captum knows, closed by the sum; input (width,)."""
    layers = seeded.dense_chain(CHAIN_SEED, CHAIN_WIDTH, 6)
    functions = [nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.ELU(), nn.LeakyReLU(0.01), nn.ReLU()]
    modules = [m for (w, b), f in zip(layers, functions, strict=True) for m in (dense(w, b), f)]
    x = torch.from_numpy(seeded.activations(CHAIN_SEED + 1000, (CHAIN_WIDTH,)))[None]
    total = nn.Linear(CHAIN_WIDTH, 1)
    total.weight, total.bias = parameter(np.ones((1, CHAIN_WIDTH))), parameter(np.zeros(1))
    attribution = DeepLift(nn.Sequential(*modules, total)).attribute(x, baselines=torch.zeros_like(x), target=0)
    return {"elementwise": attribution.detach().numpy()[0], "elementwise_seed": np.array([CHAIN_SEED, CHAIN_WIDTH])}


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--full"]:
        out, name = deeplift_case(FULL)[2], "captum_vgg16.npz"
    else:
        out, name = chain(), "captum_vgg.npz"
        for i, case in enumerate(CASES):
            out.update({f"{k}_{i}": value for k, value in vgg_case(case).items()})
    out["versions"] = np.array([f"{m.__name__} {m.__version__}" for m in (torch, captum, np)])
    path = pathlib.Path(__file__).with_name(name)
    np.savez_compressed(path, **out)
    print(path, path.stat().st_size, "bytes", out["versions"])


if __name__ == "__main__":
    main()
