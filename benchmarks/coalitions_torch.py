"""PyTorch's side of benchmarks/coalitions.py, for an interpreter that has torch; no jax needed.

Answers (see `peer.py`) `["values", n]` with the scores of the first n masks, `["time", n]` with seconds for them in
one batch, `["ablation", channels, batch]` with seconds of one forward pass, and of Ablation-CAM of pytorch-grad-cam
over so many channels, its network's convolutions untrained.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from peer import serve
from torch import nn

POOLED = (2, 2, 3, 3, 3)


def classifier(w: dict) -> nn.Module:
    """The dense layers of VGG16 with the given weights."""
    layers = []
    for name in ("fc6", "fc7", "fc8"):
        layer = nn.utils.skip_init(nn.Linear, *w[f"{name}/kernel"].shape)
        with torch.no_grad():
            layer.weight.copy_(w[f"{name}/kernel"].T)
            layer.bias.copy_(w[f"{name}/bias"])
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


class Whole(nn.Module):
    """VGG16 around a classifier."""

    def __init__(self, tail: nn.Module):
        super().__init__()
        layers, before = [], 3
        for stage, count in enumerate(POOLED):
            width = min(64 << stage, 512)
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features, self.tail = nn.Sequential(*layers), tail

    def forward(self, x):
        return self.tail(self.features(x).flatten(1))


def ablation(tail: nn.Module, channels: int, batch: int) -> list[float]:
    """Seconds of a forward pass, and of Ablation-CAM over the first `channels` channels of conv5_3."""
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Some(AblationLayer):
        def activations_to_be_ablated(self, activations, ratio_channels_to_ablate=1.0):
            self.indices = np.arange(channels)
            return self.indices

    model, x = Whole(tail).eval(), torch.randn(1, 3, 224, 224)
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            begun = time.perf_counter()
            model(x)
            seconds.append(time.perf_counter() - begun)
    cam = AblationCAM(model, [model.features[29]], ablation_layer=Some(), batch_size=batch)
    begun = time.perf_counter()
    cam(input_tensor=x, targets=[ClassifierOutputTarget(0)])
    return [min(seconds), time.perf_counter() - begun]


def main() -> None:
    folder, threads, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    with np.load(f"{folder}/head.npz") as stored:
        w = {k: torch.from_numpy(v) for k, v in stored.items()}
    a, masks = w.pop("a"), w.pop("masks")
    tail, pool = classifier(w), nn.MaxPool2d(2, 2)
    del w

    @torch.no_grad()
    def run(masks):
        return tail(pool(a * masks[:, :, None, None]).flatten(1))[:, target]

    def timed(count):
        begun = time.perf_counter()
        run(masks[:count]).tolist()
        return time.perf_counter() - begun

    serve(
        torch.__version__,
        values=lambda count: run(masks[:count]).tolist(),
        time=timed,
        ablation=lambda channels, batch: ablation(tail, channels, batch),
    )


if __name__ == "__main__":
    main()
