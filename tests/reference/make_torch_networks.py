"""Makes torch_networks.npz and the torch_*.pth beside it: python make_torch_networks.py [folder of real pictures].

Needs PyTorch (and Pillow for the pictures). The networks are written here layer by layer, with the module
names of torchvision, whose files they stand for; their weights come from seeded_networks.py.

The pictures, where a folder is given, are its first two .JPEG files in the order of their paths. They are not kept.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import torch
from seeded_networks import CASES, RESNET, VGG, draw, enlarge, pictures, sample, state, vgg_shapes
from torch import nn

HERE = pathlib.Path(__file__).parent


class VGGNet(nn.Module):
    def __init__(self, depth, norm, width, classes, hidden=4096):
        super().__init__()
        layers, c_in = [], 3
        for base, count in zip((64, 128, 256, 512, 512), VGG[depth], strict=True):
            for _ in range(count):
                c_out = round(base * width)
                layers += [nn.Conv2d(c_in, c_out, 3, padding=1), *([nn.BatchNorm2d(c_out)] if norm else []), nn.ReLU()]
                c_in = c_out
            layers.append(nn.MaxPool2d(2, 2))
        hidden = round(hidden * width)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(c_in * 49, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x, seen):
        relus = [i for i, m in enumerate(self.features) if isinstance(m, nn.ReLU)][-3:]
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in relus:
                seen[f"conv5_{relus.index(i) + 1}"] = x
        return self.classifier(torch.flatten(self.avgpool(x), 1))


class Block(nn.Module):
    def __init__(self, c_in, c_mid, stride, bottleneck, caffe):
        super().__init__()
        c_out = 4 * c_mid if bottleneck else c_mid
        first, second = (stride, 1) if caffe else (1, stride)
        plan = [(1, c_mid, first), (3, c_mid, second), (1, c_out, 1)] if bottleneck else [
            (3, c_mid, stride), (3, c_out, 1)]  # fmt: skip
        self.depth, channels = len(plan), c_in
        for k, (kernel, after, s) in enumerate(plan, 1):
            setattr(self, f"conv{k}", nn.Conv2d(channels, after, kernel, s, kernel // 2, bias=False))
            setattr(self, f"bn{k}", nn.BatchNorm2d(after))
            channels = after
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = x
        for k in range(1, self.depth + 1):
            y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
            y = torch.relu(y) if k < self.depth else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, depth, caffe, width, classes):
        super().__init__()
        counts, bottleneck = RESNET[depth]
        c_in = round(64 * width)
        self.conv1 = nn.Conv2d(3, c_in, 7, 2, 3, bias=caffe)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True) if caffe else nn.MaxPool2d(3, 2, 1)
        for layer, count in enumerate(counts, 1):
            c_mid, blocks = round(64 * width) * 2 ** (layer - 1), []
            for i in range(count):
                blocks.append(Block(c_in, c_mid, 2 if i == 0 and layer > 1 else 1, bottleneck, caffe))
                c_in = 4 * c_mid if bottleneck else c_mid
            setattr(self, f"layer{layer}", nn.Sequential(*blocks))
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x, seen):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for layer in range(1, 5):
            x = seen[f"layer{layer}"] = getattr(self, f"layer{layer}")(x)
        return self.fc(x.mean((2, 3)))


def network(case):
    family, depth, variant, width, classes, side = CASES[case]
    model = (VGGNet if family == "vgg" else ResNet)(depth, variant, width, classes).eval()
    weights = {k: torch.from_numpy(v) for k, v in state(case).items()}
    theirs = {k for k in model.state_dict() if not k.endswith("num_batches_tracked")}
    assert theirs == set(weights), theirs ^ set(weights)
    model.load_state_dict(weights, strict=False)
    return model, side


def references(folder):
    kept = {}
    for case in CASES:
        model, side = network(case)
        inputs = pictures(side)
        if folder and case.endswith("full"):
            from PIL import Image

            real = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.rglob("*.JPEG"))[:2]]
            inputs = np.concatenate([inputs, [enlarge(p, side) for p in real]])
        seen = {}
        with torch.no_grad():
            logits = model(torch.from_numpy(inputs).permute(0, 3, 1, 2), seen)
        kept[f"{case}/logits"] = logits.numpy()
        for layer in ("conv5_1", "conv5_2", "conv5_3", "layer3", "layer4"):
            if layer in seen:
                kept[f"{case}/{layer}"] = sample(seen[layer][:2].permute(0, 2, 3, 1).numpy())
        apart = (logits[0] - logits[1]).abs().max() / logits.abs().max()
        assert apart > 0.05, f"{case}: the logits hardly depend on the picture ({apart})"
    np.savez_compressed(HERE / "torch_networks.npz", **kept)


def files():
    """Small files as PyTorch itself writes them, with weights from the same seeds."""
    tiny = (11, False, 1 / 64, 5, 512)
    vgg = VGGNet(*tiny)
    vgg.load_state_dict({k: torch.from_numpy(draw(k, s)) for k, s in vgg_shapes(*tiny).items()})
    torch.save(vgg.state_dict(), HERE / "torch_zip.pth")
    torch.save(vgg.state_dict(), HERE / "torch_legacy.pth", _use_new_zipfile_serialization=False)
    half = {k: v.to(torch.bfloat16) for k, v in vgg.to(memory_format=torch.channels_last).state_dict().items()}
    torch.save({"model": half}, HERE / "torch_bfloat16_channels_last.pth")
    normed = VGGNet(11, True, 1 / 64, 5, 512)
    weights = {k: torch.from_numpy(draw(k, s)) for k, s in vgg_shapes(11, True, 1 / 64, 5, 512).items()}
    normed.load_state_dict(weights, strict=False)
    parallel = nn.DataParallel(normed)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1, momentum=0.9)
    checkpoint = {"epoch": 7, "state_dict": parallel.state_dict(), "optimizer": optimizer.state_dict(), "acc": 0.5}
    torch.save(checkpoint, HERE / "torch_parallel.pth")


if __name__ == "__main__":
    files()
    references(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)
