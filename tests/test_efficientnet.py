"""EfficientNet-Lite: against a slow float64 version, folded, from timm's names, and the bundled one on its picture."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from networks import network
from PIL import Image
from safetensors.numpy import save_file

import jaxcam
from jaxcam.cli.explain import EXAMPLE
from jaxcam.converters import convert, names
from jaxcam.models.config import fold_batch_norm
from jaxcam.models.efficientnet import LITE_SIZES, EfficientNetLiteConfig, lite_blocks
from jaxcam.models.graph import graph
from jaxcam.models.network import Network
from jaxcam.models.trees import flatten

SMALL = EfficientNetLiteConfig(num_classes=5, width=0.125)
#: Strides of Lite0's blocks and whether they add their input, from table 1 of the paper.
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
ADDS = [i in (2, 4, 6, 7, 9, 10, 12, 13, 14) for i in range(16)]


@functools.cache
def small() -> Network:
    """Its norms are no identities."""
    return network(SMALL, name="small", classes=tuple("abcde"))


def conv(x, kernel, stride, depthwise):
    """SAME as TensorFlow pads: what is missing, the larger half below and to the right."""
    (h, w, _), size = x.shape, kernel.shape[0]
    rows, columns = -(-h // stride), -(-w // stride)
    pad = [max((n - 1) * stride + size - m, 0) for n, m in ((rows, h), (columns, w))]
    x = np.pad(x, [(p // 2, p - p // 2) for p in pad] + [(0, 0)])
    out = np.zeros((rows, columns, kernel.shape[3]))
    for i, j in np.ndindex(rows, columns):
        window = x[i * stride : i * stride + size, j * stride : j * stride + size]
        out[i, j] = (window * kernel[:, :, 0]).sum((0, 1)) if depthwise else np.tensordot(window, kernel, 3)
    return out


def by_hand(params, x):
    """The logits, in NumPy float64."""
    p = {k: np.asarray(v, np.float64) for k, v in flatten(params).items()}

    def normed(x, name, stride=1, depthwise=False):
        x = conv(x, p[f"{name}.conv.kernel"], stride, depthwise)
        spread = np.sqrt(p[f"{name}.bn.var"] + 1e-3)
        return (x - p[f"{name}.bn.mean"]) / spread * p[f"{name}.bn.scale"] + p[f"{name}.bn.bias"]

    clip = lambda x: np.clip(x, 0, 6)  # noqa: E731
    x = clip(normed(np.asarray(x, np.float64), "stem", 2))
    for i, stride in enumerate(STRIDES):
        y = clip(normed(x, f"block{i}.expand")) if i else x
        y = normed(clip(normed(y, f"block{i}.depthwise", stride, True)), f"block{i}.project")
        x = x + y if ADDS[i] else y
    return clip(normed(x, "head")).mean((0, 1)) @ p["fc.kernel"] + p["fc.bias"]


def test_the_network_is_the_papers():
    net, image = small(), np.random.default_rng(1).normal(size=(33, 32, 3)).astype("f4")
    want = by_hand(net.params, image)
    got = jax.jit(net.whole)(net.params, image)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    config, params = fold_batch_norm(net.config, net.params)
    assert not any(".bn." in k for k in flatten(params))
    folded = jax.jit(Network("folded", config, params, net.classes, net.preprocessing).whole)(params, image)
    np.testing.assert_allclose(folded, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_the_sizes_are_those_that_were_published():
    published = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072, 3: 8_197_096, 4: 13_006_568}  # in timm's tables
    for variant in LITE_SIZES:
        learnt = [
            v.size
            for k, v in flatten(graph(EfficientNetLiteConfig(variant))[2]).items()
            if not k.endswith(("mean", "var"))
        ]
        assert sum(learnt) == published[variant]
    assert [b.channels for b in lite_blocks(4)][-1] == 448 and len(lite_blocks(4)) == 30


def test_a_file_in_timms_names(tmp_path):
    [dialect] = [d for d in names.DIALECTS if d.family == "efficientnet_lite"]
    flat = {k: np.asarray(v) for k, v in flatten(small().params).items()}
    turn = {"conv": lambda x: x.transpose(3, 2, 0, 1), "dense": np.transpose, "same": lambda x: x}
    tensors = {r.sources[0]: np.ascontiguousarray(turn[r.kind](flat[r.target])) for r in dialect.rules(SMALL)}
    for name in ("conv_stem.weight", "blocks.0.0.conv_pw.weight", "blocks.0.0.bn2.bias", "blocks.1.1.conv_pwl.weight",
                 "blocks.6.0.bn3.running_var", "conv_head.weight", "bn2.weight", "classifier.bias"):  # fmt: skip
        assert name in tensors
    tensors |= {"bn1.num_batches_tracked": np.zeros((), np.int64)}
    save_file(tensors, tmp_path / "lite.safetensors")
    net = convert(tmp_path / "lite.safetensors")
    assert net.config == SMALL and net.preprocessing.interpolation == "bicubic"
    for key, value in flatten(net.params).items():
        np.testing.assert_array_equal(value, flat[key])


def test_the_bundled_one_knows_what_is_on_its_picture():
    net = jaxcam.load("efficientnet_lite0")
    logits = np.asarray(jax.jit(net.predict)(net.params, net.preprocess(Image.open(EXAMPLE))))
    first = [net.classes[i] for i in np.argsort(-logits)[:3]]
    assert len(net.classes) == 1000 and {"golf ball", "parachute"} <= set(first), first
    assert "Apache-2.0" in net.provenance["licence"]


@pytest.mark.parametrize("layer", ["head", "block15"])
def test_its_last_layer_is_not_signed_and_its_blocks_are(layer):
    net = jaxcam.load("efficientnet_lite0")
    a = jax.jit(net.split(at=layer)[0])(net.params, net.preprocess(Image.open(EXAMPLE)))
    doubt = jaxcam.METHODS["lift_cam"].doubt(a)
    assert (doubt is None) == (layer == "head")
