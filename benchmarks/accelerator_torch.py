"""PyTorch's side of benchmarks/accelerator.py, on the same card where there is one; no jax needed.

Answers (see `peer.py`) `["values", n, precision]` with the scores of the first n masks, `["time", n, precision]` with
seconds for n of them in one batch, and `["cam", n, batch]` with seconds of Grad-CAM, IC, AD and ADD of n pictures, by
pytorch-grad-cam around an untrained VGG16.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time

import numpy as np
import torch
from coalitions_torch import Whole, classifier
from peer import serve
from torch import nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def precise(name: str) -> contextlib.AbstractContextManager:
    """Sets how float32 is multiplied; what is to be run inside."""
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        backend.allow_tf32 = name == "tf32"
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=name == "bfloat16")


def cams(tail: nn.Module, count: int, batch: int) -> float:
    """Seconds of maps and metrics; every picture is normal noise."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = Whole(tail).eval().to(DEVICE)
    x, targets = torch.randn(batch, 3, 224, 224, device=DEVICE), [ClassifierOutputTarget(i % 10) for i in range(batch)]
    index = torch.arange(batch, device=DEVICE) % 10

    def once(cam):
        heat = torch.from_numpy(cam(input_tensor=x, targets=targets)).to(DEVICE)[:, None]
        with torch.no_grad():
            scores = [model(v).softmax(-1).gather(1, index[:, None]) for v in (x, x * heat, x * (1 - heat))]
        full, kept, removed = scores
        return torch.stack([full < kept, (full - kept).clamp(min=0) / full, (full - removed).clamp(min=0) / full]).cpu()

    with GradCAM(model, [model.features[29]]) as cam:
        once(cam)
        begun = time.perf_counter()
        for _ in range(0, count, batch):
            once(cam)
        return time.perf_counter() - begun


def main() -> None:
    folder, target = sys.argv[1], int(sys.argv[2])
    with np.load(f"{folder}/head.npz") as stored:
        w = {k: torch.from_numpy(v) for k, v in stored.items()}
    a, masks = w.pop("a").to(DEVICE), w.pop("masks").to(DEVICE)
    tail = classifier(w).to(DEVICE)
    pool = nn.MaxPool2d(2, 2)

    @torch.no_grad()
    def run(count, precision):
        with precise(precision):
            return tail(pool(a * masks[:count, :, None, None]).flatten(1))[:, target].float()

    def timed(count, precision):
        seconds = []
        for _ in range(4):
            synchronise()
            begun = time.perf_counter()
            run(count, precision)
            synchronise()
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds[1:])

    serve(
        [torch.__version__, str(DEVICE)],
        values=lambda count, precision: run(count, precision).tolist(),
        time=timed,
        cam=lambda count, batch: cams(tail, count, batch),
    )


if __name__ == "__main__":
    main()
