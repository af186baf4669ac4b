"""Reference relevances of a small convolutional head from captum's LRP, for tests/test_lrp_captum.py.

Run `python tests/reference/make_captum_lrp.py` in an environment with torch and captum (no jax needed); it writes
captum_lrp.npz beside itself. The stored file was made with torch 2.13.0+cpu, captum 0.9.0, numpy 2.4.6, in float64.
Weights and activations are not stored: both sides draw them from a seed (`seeded.conv_head`).

`case` = seed, h, w, K, target; `digest` = hash of weights and activations; relevances (h, w, K) of the input:
`epsilon` (1e-9) and `epsilon_large` (0.1) on every layer, with biases; `gamma` (0.25) and `alpha1_beta0` on all but the
last layer, without biases. Under those two rules captum leaves the biases out of the rule but in the denominator, and
starts from the score of the changed last layer, neither of which is in the papers. The pool always has epsilon 1e-9.
"""

from __future__ import annotations

import pathlib

import captum
import numpy as np
import seeded
import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import nn

SEED, SHAPE, TARGET = 31, (8, 8, 5), 2


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    p = seeded.conv_head(SEED, SHAPE[2])
    activations = seeded.activations(SEED + 1000, SHAPE)

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(5, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
            self.pool, self.fc3, self.fc4 = nn.AvgPool2d(2), nn.Linear(24, 7), nn.Linear(7, 4)
            self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
            with torch.no_grad():
                for layer, number in ((self.conv1, 1), (self.conv2, 2), (self.fc3, 3), (self.fc4, 4)):
                    dense = number > 2
                    weight = p[f"w{number}"].T if dense else p[f"k{number}"].transpose(3, 2, 0, 1)
                    layer.weight.copy_(torch.from_numpy(weight.copy()))
                    layer.bias.copy_(torch.from_numpy(p[f"b{number}"]))

        def forward(self, a):
            x = self.relu2(self.conv2(self.relu1(self.conv1(a))))
            x = self.pool(x).permute(0, 2, 3, 1).flatten(1)
            return self.fc4(self.relu3(self.fc3(x)))

    def relevance(rule, biased=True) -> np.ndarray:
        model = Head()
        model.pool.rule = EpsilonRule()
        for layer in (model.conv1, model.conv2, model.fc3, model.fc4):
            layer.rule = rule()
            if not biased:
                nn.init.zeros_(layer.bias)
        if not biased:
            model.fc4.rule = EpsilonRule()
        a = torch.from_numpy(activations.transpose(2, 0, 1)[None].copy()).requires_grad_()
        return LRP(model).attribute(a, target=TARGET).detach().numpy()[0].transpose(1, 2, 0)

    out = {
        "case": np.array([SEED, *SHAPE, TARGET]),
        "digest": np.array(seeded.digest({**p, "activations": activations})),
        "epsilon": relevance(EpsilonRule),
        "epsilon_large": relevance(lambda: EpsilonRule(epsilon=0.1)),
        "gamma": relevance(GammaRule, biased=False),
        "alpha1_beta0": relevance(Alpha1_Beta0_Rule, biased=False),
        "versions": np.array([f"{m.__name__} {m.__version__}" for m in (torch, captum, np)]),
    }
    path = pathlib.Path(__file__).with_name("captum_lrp.npz")
    np.savez_compressed(path, **out)
    print(path, path.stat().st_size, "bytes", out["versions"])


if __name__ == "__main__":
    main()
