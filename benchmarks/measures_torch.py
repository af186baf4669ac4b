"""Quantus's side of benchmarks/measures.py, for an interpreter with torch, torchvision, grad-cam, torchcam and quantus.

Its folder holds `network.safetensors` in torchvision's names, and `data.npz`: `x (n, 3, s, s)`, `classes (n,)`, `maps`
and `masks (n, s, s)`. Answers (see `peer.py`) `["logits"]`, and `["run", measure, settings]` with the seconds that a
measure of Quantus takes for all maps, by the clock and of the processor, and its values.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
import warnings

import numpy as np
import quantus
import torch
from evaluate_torch import read_safetensors, vgg
from peer import serve
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

warnings.filterwarnings("ignore")
folder, cores = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(cores)
model, layer = vgg(read_safetensors(f"{folder}/network.safetensors"))
data = dict(np.load(f"{folder}/data.npz"))


def explain(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    """Grad-CAM of a batch, as Quantus asks for it: `(b, 1, s, s)` in [0, 1]."""
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, out: kept.append(out))
    logits = model(torch.as_tensor(inputs, dtype=torch.float32))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[torch.arange(len(logits)), torch.as_tensor(targets)].sum(), kept[0])
    map = torch.relu((gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True))
    map = torch.nn.functional.interpolate(map, inputs.shape[-2:], mode="bilinear", align_corners=False)
    low, high = map.amin((2, 3), keepdim=True), map.amax((2, 3), keepdim=True)
    return ((map - low) / torch.where(high > low, high - low, 1)).detach().numpy()


def logits() -> list:
    with torch.no_grad():
        return model(torch.from_numpy(data["x"])).tolist()


def grad_cam_road() -> list[float]:
    """pytorch-grad-cam's ROAD, whose call is another."""
    targets = [ClassifierOutputSoftmaxTarget(int(c)) for c in data["classes"]]
    return ROADCombined()(torch.from_numpy(data["x"]), data["maps"], targets, model).tolist()


def run(measure: str, settings: dict, masks: bool, again: bool) -> dict:
    """One measure, called as its users do."""
    if measure == "ROADCombined":
        begun, worked = time.perf_counter(), time.process_time()
        values = grad_cam_road()
        return {"seconds": time.perf_counter() - begun, "processor": time.process_time() - worked, "values": values}
    metric = getattr(quantus, measure)(
        disable_warnings=True, display_progressbar=False, abs=False, normalise=False, **settings
    )
    given = {"model": model, "x_batch": data["x"], "y_batch": data["classes"], "a_batch": data["maps"][:, None]}
    given |= {"s_batch": data["masks"][:, None].astype(bool)} if masks else {}
    given |= {"explain_func": explain} if again else {}
    begun, worked = time.perf_counter(), time.process_time()
    values = metric(**given, channel_first=True, device="cpu", softmax=True)
    seconds, processor = time.perf_counter() - begun, time.process_time() - worked
    plain = np.asarray(values if not isinstance(values, dict) else list(values.values()), dtype=object).ravel()
    return {"seconds": seconds, "processor": processor, "values": [float(v) for v in plain if np.ndim(v) == 0]}


versions = {name: importlib.metadata.version(name) for name in ("torch", "quantus")}
serve(f"{versions}, {torch.get_num_threads()} threads", logits=logits, run=run)
