"""The peers' side of benchmarks/evaluate.py, for an interpreter with torch, torchvision, grad-cam and torchcam.

Its folder holds `network.safetensors` in torchvision's names, and `images.npz`: `x (n, 3, s, s)` and `classes (n,)`.
Answers (see `peer.py`) `["logits", batch]`, `["forward", batch, repeats]` with seconds an image, and
`["run", peer, batch, count, file]` with the seconds that a peer takes for maps and metrics of the first pictures, and
the metrics; with a file, the maps are saved there.

Every method has one extractor for the whole loop. The hand-written metrics are as lean as PyTorch allows: no graph is
recorded, and Y comes from the forward pass that the map asks for anyway.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from peer import serve
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, XGradCAM
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from torch import nn
from torch.nn import functional
from torchcam import methods as torchcam
from torchvision.models import VGG

#: Pictures that are ablated together: their forward passes and metrics are, the loop over channels is per picture.
ABLATED = 8


def read_safetensors(file: str) -> dict[str, torch.Tensor]:
    """The float32 tensors of a file."""
    with open(file, "rb") as f:
        data = bytearray(f.read())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        low, high = (start + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "F32":
            tensors[name] = torch.from_numpy(np.frombuffer(data[low:high], np.float32)).reshape(entry["shape"])
    return tensors


def vgg(weights: dict[str, torch.Tensor]) -> tuple[nn.Module, nn.Module]:
    """torchvision's VGG of the widths that the weights have, and its last ReLU before the classifier."""
    layers: list[nn.Module] = []
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("features."))
    for i in range(last + 3):
        weight = weights.get(f"features.{i}.weight")
        if weight is not None and weight.ndim == 4:
            layers.append(nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1))
        elif weight is not None:
            layers.append(nn.BatchNorm2d(len(weight)))
        else:
            layers.append(nn.MaxPool2d(2, 2) if isinstance(layers[-1], nn.ReLU) else nn.ReLU(inplace=True))
    dense = [weights[f"classifier.{i}.weight"] for i in (0, 3, 6)]
    with torch.device("meta"):
        model = VGG(nn.Identity(), init_weights=False)
    model.features = nn.Sequential(*layers)
    model.avgpool = nn.AdaptiveAvgPool2d(math.isqrt(dense[0].shape[1] // weights[f"features.{last}.bias"].shape[0]))
    for i, weight in zip((0, 3, 6), dense, strict=True):
        model.classifier[i] = nn.Linear(weight.shape[1], weight.shape[0])
    model.load_state_dict(weights, strict=all("running" not in name for name in weights))
    return model.eval(), layers[-2]


class Peers:
    """Maps of a batch by each library: `(x, classes)` gives method, logits and maps `(b, s, s)` in [0, 1]."""

    def __init__(self, model: nn.Module, layer: nn.Module):
        self.model, self.layer, self.stack = model, layer, contextlib.ExitStack()

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    def grad_cam(self):
        """pytorch-grad-cam."""
        kinds = {"grad_cam": GradCAM, "grad_cam_pp": GradCAMPlusPlus, "xgrad_cam": XGradCAM}
        return self._grad_cam({name: kind(self.model, [self.layer]) for name, kind in kinds.items()})

    def ablation(self, batch: int):
        """pytorch-grad-cam's Ablation-CAM, `batch` channels at once."""
        return self._grad_cam({"ablation_cam": AblationCAM(self.model, [self.layer], batch_size=batch)})

    def _grad_cam(self, cams):
        for cam in cams.values():
            self.stack.enter_context(cam)

        def maps(x, classes):
            for name, cam in cams.items():
                found = cam(input_tensor=x, targets=[ClassifierOutputTarget(c) for c in classes])
                yield name, cam.outputs.detach(), torch.from_numpy(found)

        return maps

    def torchcam(self, shared: bool):
        """torchcam; with `shared`, its extractors look at one forward pass, which a loop over methods does not do."""
        kinds = {"grad_cam": torchcam.GradCAM, "grad_cam_pp": torchcam.GradCAMpp, "xgrad_cam": torchcam.XGradCAM}
        cams = {name: kind(self.model, self.layer, enable_hooks=False) for name, kind in kinds.items()}
        for cam in cams.values():
            self.stack.enter_context(cam)

        def forward(x, some):
            for cam in some:
                cam.enable_hooks()
            scores = self.model(x)
            for cam in some:
                cam.disable_hooks()
            return scores

        def maps(x, classes):
            scores = forward(x, cams.values()) if shared else None
            for name, cam in cams.items():
                if not shared:
                    scores = forward(x, [cam])
                [small] = cam(classes, scores, retain_graph=shared)
                large = functional.interpolate(small[:, None], x.shape[2:], mode="bilinear", align_corners=False)
                yield name, scores.detach(), large[:, 0]

        return maps


def own_metrics(model, x, classes, logits, maps) -> list[np.ndarray]:
    """IC, AD and ADD `(b,)` by pytorch-grad-cam's classes; they give differences, so AD and ADD are divided by Y."""
    targets = [ClassifierOutputSoftmaxTarget(c) for c in classes]
    y = np.float32([target(z) for target, z in zip(targets, logits, strict=True)])
    maps = maps.numpy()
    return [
        IncreaseInConfidence()(x, maps, targets, model),
        100 * DropInConfidence()(x, maps, targets, model) / y,
        100 * DropInConfidence()(x, 1 - maps, targets, model) / y,
    ]


@torch.no_grad()
def lean_metrics(model, x, classes, logits, maps) -> list[np.ndarray]:
    """IC, AD and ADD `(b,)` with one forward pass for O and one for D."""
    index = torch.tensor(classes)[:, None]
    s = maps[:, None]
    y, kept, removed = (torch.softmax(z, 1).gather(1, index)[:, 0] for z in (logits, model(x * s), model(x * (1 - s))))
    ad, add = (100 * torch.relu(y - q) / y for q in (kept, removed))
    return [(y < kept).float().numpy(), ad.numpy(), add.numpy()]


def batches(x: torch.Tensor, classes: list[int], size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    for start in range(0, len(x), size):
        yield x[start : start + size], classes[start : start + size]


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    model, layer = vgg(read_safetensors(f"{folder}/network.safetensors"))
    with np.load(f"{folder}/images.npz") as stored:
        x, classes = torch.from_numpy(stored["x"]), stored["classes"].tolist()

    @torch.no_grad()
    def logits(size):
        return torch.cat([model(some) for some, _ in batches(x, classes, size)]).tolist()

    @torch.no_grad()
    def forward(size, repeats):
        begun = time.perf_counter()
        for _ in range(repeats):
            model(x[:size])
        return (time.perf_counter() - begun) / repeats / size

    def run(peer, size, count, file=None):
        metrics = own_metrics if peer.endswith("own metrics") else lean_metrics
        found: dict[str, list] = {}
        kept: dict[str, list] = {}
        with Peers(model, layer) as peers:
            if peer.startswith("Ablation-CAM"):
                maps, size = peers.ablation(size), min(ABLATED, count)
            elif peer.startswith("pytorch-grad-cam"):
                maps = peers.grad_cam()
            else:
                maps = peers.torchcam("one forward pass" in peer)
            begun = time.perf_counter()
            for some, targets in batches(x[:count], classes[:count], size):
                for name, z, heatmaps in maps(some, targets):
                    found.setdefault(name, []).append(metrics(model, some, targets, z, heatmaps))
                    if file:
                        kept.setdefault(name, []).append(heatmaps.numpy())
            seconds = time.perf_counter() - begun
        if file:
            np.savez(f"{folder}/{file}", **{name: np.concatenate(parts) for name, parts in kept.items()})
        means = {name: np.concatenate(parts, axis=1).mean(1).tolist() for name, parts in found.items()}
        return {"seconds": seconds, "metrics": means}

    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "grad-cam", "torchcam")}
    serve(versions, logits=logits, forward=forward, run=run)


if __name__ == "__main__":
    main()
