"""A whole explainer as an artefact: `jax.export` of image -> class, probability, map, run without jaxcam."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from jaxcam.methods.contribution import lift_cam
from jaxcam.methods.maps import resize_map, scale_map

SIZE = 32

READER = """
import sys, numpy as np, jax
from jax import export
folder = sys.argv[1]
run = export.deserialize(bytearray(open(folder + "/explainer", "rb").read())).call
index, probability, map = jax.jit(run)(np.load(folder + "/image.npy"))
assert not any(name.split(".")[0] in ("jaxcam", "flax") for name in sys.modules)
np.savez(folder + "/told", index=index, probability=probability, map=map)
"""


def test_an_explainer_is_reloaded_in_a_fresh_process_without_the_library(tmp_path):
    pytest.importorskip("flatbuffers", reason="jax.export serialises with it")
    network = networks.network(networks.VGG, size=SIZE)
    features, head = network.split()

    @jax.jit
    def explainer(image):
        activations = features(network.params, image)
        probabilities = jax.nn.softmax(head(network.params, activations))
        index = jnp.argmax(probabilities)
        one = lift_cam(network.params, activations, head=head, target=index)
        return index, probabilities[index], scale_map(resize_map(one.map, image.shape[:2]))

    image = np.random.default_rng(0).normal(size=(SIZE, SIZE, 3)).astype(np.float32)
    (tmp_path / "explainer").write_bytes(jax.export.export(explainer)(image).serialize())
    np.save(tmp_path / "image.npy", image)
    done = subprocess.run([sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    index, probability, heatmap = explainer(image)
    with np.load(tmp_path / "told.npz") as told:
        assert told["index"] == index
        np.testing.assert_allclose(told["probability"], probability, rtol=1e-6)
        np.testing.assert_allclose(told["map"], heatmap, rtol=0, atol=1e-5)
    assert heatmap.max() == 1
