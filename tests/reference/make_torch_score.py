"""Score-CAM's coefficients in both published readings, from PyTorch, for tests/test_references.py.

Run `python tests/reference/make_torch_score.py` in an environment with torch, torchcam and grad-cam (no jax needed); it
writes torch_score.npz beside itself. The stored file was made with torch 2.14.1+cu130, torchcam 0.5.0, grad-cam 1.5.7.

The network: conv 3x3 + ReLU (stride 1 or 3), flatten, dense; weights from a seed (`seeded.py`). Per stride s:
`softmax_s` (K,): the softmax over channels of the masked logits. Stride 3 is by torchcam: it scales a mask before it
enlarges it, which is the same where the factor is odd. Stride 1 is by pytorch-grad-cam: it enlarges by another rule,
and there is nothing to enlarge. `increase_s` (K,): the masked probability less that of nothing, written out below. No
channel is constant: both libraries let such a one take part in the softmax.
"""

from __future__ import annotations

import importlib.metadata
import pathlib

import numpy as np
import seeded
import torch
from pytorch_grad_cam import ScoreCAM as GradCamScore
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchcam.methods import ScoreCAM as TorchCamScore

SEED, SIZE, TARGET = 43, (9, 12), 2


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).float()


def network(p: dict[str, np.ndarray], stride: int) -> nn.Sequential:
    """The network on (b, 3, H, W)."""
    conv = nn.Conv2d(3, p["k"].shape[-1], 3, stride=stride, padding=1 if stride == 1 else 0)
    dense = nn.Linear(*p[f"w{stride}"].shape)
    with torch.no_grad():
        conv.weight.copy_(tensor(p["k"].transpose(3, 2, 0, 1)))
        conv.bias.copy_(tensor(p["b"]))
        dense.weight.copy_(tensor(p[f"w{stride}"].T))
        dense.bias.copy_(tensor(p["c"]))
    permuted = nn.Sequential(conv, nn.ReLU())
    return nn.Sequential(permuted, Flat(), dense).eval()


class Flat(nn.Module):
    """Flattens in (h, w, channel) order."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def increase(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """Probability behind each channel's mask, less that of the all-zero image; 0 for a constant channel."""
    probability = lambda x: torch.softmax(model(x), 1)[0, TARGET].item()  # noqa: E731
    found = []
    for channel in model[0](x)[0]:
        if channel.max() == channel.min():
            found.append(0.0)
            continue
        mask = nn.functional.interpolate(channel[None, None], x.shape[2:], mode="bilinear", align_corners=False)
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        found.append(probability(x * mask) - probability(torch.zeros_like(x)))
    return np.array(found)


def main() -> None:
    torch.set_num_threads(1)
    p = seeded.score_network(SEED, SIZE)
    x = tensor(seeded.activations(SEED + 1000, (*SIZE, 3)).transpose(2, 0, 1)[None].copy())
    by_three, by_one = network(p, 3), network(p, 1)
    with TorchCamScore(by_three, by_three[0], input_shape=(3, *SIZE)) as extractor:
        scores = by_three(x)
        (softmax_3,) = extractor._get_weights(TARGET, scores)
    cam = GradCamScore(by_one, [by_one[0]])
    maps = by_one[0](x).detach().numpy()
    softmax_1 = cam.get_cam_weights(x, by_one[0], [ClassifierOutputTarget(TARGET)], maps, None)
    out = {
        "seed": np.array(SEED), "size": np.array(SIZE), "target": np.array(TARGET),
        "digest": np.array(seeded.digest(p)),
        "softmax_3": softmax_3.detach().numpy().reshape(-1), "softmax_1": np.asarray(softmax_1).reshape(-1),
        "increase_3": increase(by_three, x), "increase_1": increase(by_one, x),
    }  # fmt: skip
    names = ("torch", "torchcam", "grad-cam", "numpy")
    out["versions"] = np.array([f"{n} {importlib.metadata.version(n)}" for n in names])
    path = pathlib.Path(__file__).with_name("torch_score.npz")
    np.savez_compressed(path, **out)
    print(path, {k: v.round(4) for k, v in out.items() if k[:4] in ("soft", "incr")}, out["versions"])


if __name__ == "__main__":
    main()
