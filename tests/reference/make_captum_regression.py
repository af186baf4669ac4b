"""Coefficients of LIME and KernelSHAP on the channels of a VGG head by captum, for tests/test_references.py.

Run `python tests/reference/make_captum_regression.py` in an environment with torch, captum and scikit-learn (no jax
needed); it writes captum_regression.npz beside itself. The stored file was made with torch 2.14.1+cu130, captum 0.9.0,
scikit-learn 1.9.1, in float64 (captum regresses in float32).

captum's own sampling and distance are not the paper's, so both are given the coalitions (drawn from a seed,
`seeded.py`): LIME also the paper's weight (supplement, eq. 3), and scikit-learn's Lasso the penalty that is beta there.
KernelSHAP is captum's as it stands: the empty and the full coalition with the weight 1e6, where ours has them as exact
constraints.

`case` = seed, h, w, K, hidden, classes, target; `samples`; `beta`; `lime` and `kernel_shap`, per channel (K,).
"""

from __future__ import annotations

import pathlib

import captum
import numpy as np
import seeded
import sklearn
import torch
from captum._utils.models.linear_model import SkLearnLasso
from captum.attr import KernelShap, LimeBase
from make_captum import Head

CASE = (31, 6, 4, 9, 24, 5, 1)
SAMPLES, BETA, GAMMA = 180, 0.004, 0.5


class Given(KernelShap):
    """KernelSHAP on the coalitions it is given."""

    masks: np.ndarray

    def kernel_shap_perturb_generator(self, original_inp, **kwargs):
        players = self.masks.shape[1]
        yield torch.ones(1, players, dtype=torch.long)
        yield torch.zeros(1, players, dtype=torch.long)
        for row in self.masks.astype(np.int64):
            yield torch.from_numpy(row[None].copy())


def main() -> None:
    seed, h, w, k, hidden, classes, target = CASE
    p = seeded.vgg_head(seed, (h, w, k), hidden, classes)
    activations = seeded.activations(seed + 1000, (h, w, k))
    a, head = torch.from_numpy(activations.transpose(2, 0, 1)[None].copy()), Head(p)
    energy = (activations**2).sum((0, 1))

    masks = seeded.coin_coalitions(seed, SAMPLES, k)

    def drawn(original, **kwargs):
        for row in masks:
            yield torch.from_numpy(row[None].copy())

    weights = np.exp(-((1 - masks) @ energy) / energy.sum() / GAMMA**2)
    lime = LimeBase(
        head,
        SkLearnLasso(alpha=BETA / (2 * weights.mean()), tol=1e-9, max_iter=100_000),
        similarity_func=lambda inp, changed, row, **kw: torch.exp(
            -((inp - changed) ** 2).sum() / (GAMMA**2 * (inp**2).sum())
        ),
        perturb_func=drawn,
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda row, inp, **kw: inp * row[0][:, None, None],
        to_interp_rep_transform=None,
    )
    found = lime.attribute(a, target=target, n_samples=SAMPLES)

    Given.masks = seeded.kernel_coalitions(seed, SAMPLES, k)
    groups = torch.arange(k)[None, :, None, None].expand_as(a)
    shap = Given(head).attribute(a, target=target, feature_mask=groups, n_samples=SAMPLES + 2)

    path = pathlib.Path(__file__).with_name("captum_regression.npz")
    out = {"case": np.array(CASE), "samples": np.array(SAMPLES), "beta": np.array(BETA), "gamma": np.array(GAMMA),
           "digest": np.array(seeded.digest({**p, "activations": activations, "masks": masks})),
           "lime": found.numpy().reshape(k), "kernel_shap": shap[0, :, 0, 0].numpy()}  # fmt: skip
    out["versions"] = np.array([f"{m.__name__} {m.__version__}" for m in (torch, captum, sklearn, np)])
    np.savez_compressed(path, **out)
    print(path, path.stat().st_size, "bytes", out["versions"], out["lime"], out["kernel_shap"], sep="\n")


if __name__ == "__main__":
    main()
