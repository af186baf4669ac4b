"""Makes keras_networks.npz beside it: KERAS_BACKEND=jax python make_keras_networks.py [folder for the weights files].

Needs Keras and h5py. The networks are those of `keras.applications`, their weights those of `seeded_keras.py`;
the weights files, where a folder is given, are what Keras itself writes (HDF5 of today and of old, `.keras`).
"""

from __future__ import annotations

import pathlib
import sys

import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format
from seeded_keras import fill
from seeded_networks import pictures, sample

HERE = pathlib.Path(__file__).parent
LAYERS = {
    "vgg16": {"conv5_1": "block5_conv1", "conv5_2": "block5_conv2", "conv5_3": "block5_conv3"},
    "resnet50": {"layer3": "conv4_block6_out", "layer4": "conv5_block3_out"},
}


def main(folder: pathlib.Path | None) -> None:
    kept = {}
    for name, build in {"vgg16": keras.applications.VGG16, "resnet50": keras.applications.ResNet50}.items():
        model = build(weights=None, classifier_activation=None)
        for layer in model.layers:
            if layer.weights:
                leaves = [w.path.split("/")[-1] for w in layer.weights]
                layer.set_weights(
                    [fill(layer.name, n, tuple(w.shape)) for n, w in zip(leaves, layer.weights, strict=True)]
                )
        inputs = 40.0 * pictures(224)
        outputs = [model.output] + [model.get_layer(n).output for n in LAYERS[name].values()]
        logits, *seen = (np.asarray(y) for y in keras.Model(model.input, outputs)(inputs))
        apart = np.abs(logits[0] - logits[1]).max() / np.abs(logits).max()
        assert apart > 0.05, f"{name}: the logits hardly depend on the picture ({apart})"
        kept[f"{name}/logits"] = logits
        for layer, values in zip(LAYERS[name], seen, strict=True):
            kept[f"{name}/{layer}"] = sample(values)
        if folder:
            import h5py

            model.save(folder / f"{name}.keras")
            model.save(folder / f"{name}.h5")
            model.save_weights(folder / f"{name}.weights.h5")
            with h5py.File(folder / f"{name}.published.h5", "w") as f:
                legacy_h5_format.save_weights_to_hdf5_group(f, model)
    np.savez_compressed(HERE / "keras_networks.npz", **kept)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)
