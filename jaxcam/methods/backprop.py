"""Maps of derivatives that are not the plain one: integrated, under noise, of other ReLUs; of a layer or of pixels.

At the layer "input" the activations are the picture and the head is the whole network: there they are the methods of
their papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcam.methods.gradient import grad_cam, product, with_noise
from jaxcam.methods.maps import resize_map
from jaxcam.methods.result import (
    CAM,
    HeadFn,
    NetworkFn,
    Params,
    Target,
    cam_of_contributions,
    check_activations,
    check_references,
    scalar_score,
)
from jaxcam.methods.score import check_image
from jaxcam.methods.stepping import Data, Repeated, divided, division, one_program, split_target
from jaxcam.shapley.permutations import key_impl
from jaxcam.shapley.result import check_count
from jaxcam.shapley.sharded import ONE_DEVICE, RowSharding
from jaxcam.transforms.guided import deconvolved, guided


class Slopes(NamedTuple):
    """The state of `Path` and `Cloud`.

    Attributes:
      total: `(h, w, K)` the sum of the gradients so far.
      logit: F(A).
      logit_zero: F(0); F(A) where it is not needed.
      taken: `()` steps.
    """

    total: jax.Array
    logit: jax.Array
    logit_zero: jax.Array
    taken: jax.Array


@dataclasses.dataclass(frozen=True)
class _Gradients(Repeated):
    """The sum of gradients at points that a subclass chooses: one for each step.

    Attributes:
      head: `(params, activations) -> logits (C,)`.
      pick: the target, where it is a function.
    """

    head: HeadFn
    pick: Callable | None

    states = (Slopes,)

    def score(self, data: Data) -> Callable[[jax.Array], jax.Array]:
        return scalar_score(self.head, data.params, data.explained(self.pick))

    def step(self, data: Data, state: Slopes) -> Slopes:
        """One more gradient. Cost: one evaluation and backward pass of the head."""
        return state._replace(total=state.total + jax.grad(self.score(data))(self.point(data, state)))

    def point(self, data: Data, state: Slopes) -> jax.Array:
        """Where to take the next gradient."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Path(_Gradients):
    """Integrated gradients as `Steps` on `Data`: at the middles of equal parts of the way from 0 to A."""

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> Slopes:
        """Nothing yet. Cost: two evaluations of the head."""
        check_activations(data.activations)
        a, score = data.activations, self.score(data)
        return Slopes(jnp.zeros_like(a), score(a), score(jnp.zeros_like(a)), jnp.zeros((), jnp.int32))

    def point(self, data: Data, state: Slopes) -> jax.Array:
        share = (state.taken.astype(data.activations.dtype) + 0.5) / self.count
        return share * data.activations

    def finish(self, state: Slopes, activations: jax.Array) -> CAM:
        """The map."""
        contributions = product(activations, state.total / self.count)
        gap = jnp.sum(jnp.sum(contributions, (0, 1))) - (state.logit - state.logit_zero)
        return cam_of_contributions(
            contributions, logit=state.logit, logit_zero=state.logit_zero, completeness_gap=gap,
            evaluations=jnp.asarray(self.count + 2, jnp.float32),
        )  # fmt: skip


@one_program()
def integrated_gradients(
    params: Params, activations: jax.Array, *, head: HeadFn, target: Target, steps: int = 50
) -> CAM:
    """Integrated gradients: the map is `relu(sum_k A_k * mean over the way from 0 to A of dF/dA_k)`.

    The mean is taken at the middles of `steps` equal parts. The more there are, the nearer the map comes, before its
    ReLU, to adding up to F(A) - F(0); DeepLIFT's, `hires_lift_cam`, does so in one pass. At the layer "input" the way
    begins at a picture of the mean colour. A channel that is zero everywhere gets exactly 0.

    Args:
      params, activations, head, target: as in `grad_cam`.
      steps: on the way.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit` F(A), `logit_zero` F(0), `completeness_gap` and `evaluations`.
      Cost: `steps` evaluations and backward passes of the head, and two evaluations.

    Raises:
      JaxcamError: as in `grad_cam`, and for fewer than one step.

    References:
      Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, ICML 2017, eqs. 1 and 3.
    """
    check_activations(activations)
    return divided(Path(check_count("steps", steps), head, split_target(target)[0]))


stepped_integrated_gradients = division(integrated_gradients)


@dataclasses.dataclass(frozen=True)
class Cloud(_Gradients):
    """SmoothGrad as `Steps` on `Data`: at copies of A with noise.

    Attributes:
      sigma: of the noise, as a share of the range of A.
      impl: of the random key.
    """

    sigma: float
    impl: str

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> Slopes:
        """Nothing yet. Cost: one evaluation of the head."""
        check_activations(data.activations)
        logit = self.score(data)(data.activations)
        return Slopes(jnp.zeros_like(data.activations), logit, logit, jnp.zeros((), jnp.int32))

    def point(self, data: Data, state: Slopes) -> jax.Array:
        return with_noise(data.activations, self.sigma, self.key(data, state))

    def key(self, data: Data, state: Slopes) -> jax.Array:
        """Of the next draw."""
        return jax.random.fold_in(jax.random.wrap_key_data(data.key, impl=self.impl), state.taken)

    def finish(self, state: Slopes, activations: jax.Array) -> CAM:
        """The map."""
        evaluations = jnp.asarray(self.count + 1, jnp.float32)
        return cam_of_contributions(jnp.abs(state.total / self.count), logit=state.logit, evaluations=evaluations)


@one_program()
def smooth_grad(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    num_samples: int = 50,
    sigma: float = 0.15,
) -> CAM:
    """SmoothGrad: the map is `sum_k |mean of dF/dA_k|`, the mean over copies of A with normal noise.

    How sensitive the logit is at each position, for better or for worse; not how much of it is there. A coefficient is
    the sum over the positions, of a channel that is zero everywhere too.

    Args:
      params, activations, head, target: as in `grad_cam`.
      key: a `jax.random` key.
      num_samples: copies.
      sigma: standard deviation of the noise, as a share of the range of A.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit`, without noise, and `evaluations`. Cost: `num_samples`
      evaluations and backward passes of the head, and one evaluation.

    Raises:
      JaxcamError: as in `grad_cam`, and for fewer than one sample.

    References:
      Smilkov et al., SmoothGrad: removing noise by adding noise, arXiv:1706.03825, 2017, section 3.
    """
    check_activations(activations)
    count = check_count("num_samples", num_samples)
    return divided(Cloud(count, head, split_target(target)[0], float(sigma), key_impl(key)))


stepped_smooth_grad = division(smooth_grad)


# --- gradient SHAP -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ways(Cloud):
    """Gradient SHAP as `Steps` on `Data`, whose sums are of contributions: one for each draw."""

    def start(self, data: Data, sharding: RowSharding = ONE_DEVICE) -> Slopes:
        """Nothing yet. Cost: one evaluation of the head."""
        begun = super().start(data, sharding)
        check_references(self.references(data), data.activations)
        return begun

    def step(self, data: Data, state: Slopes) -> Slopes:
        """One more draw. Cost: one evaluation and backward pass of the head."""
        a = data.activations
        key, noise = jax.random.split(self.key(data, state))
        chance, share = jax.random.uniform(key, (2,), jnp.float32).astype(a.dtype)
        references = self.references(data)
        reference = references[(chance * len(references)).astype(jnp.int32)]
        if self.sigma:
            a = with_noise(a, self.sigma, noise)
        slope = jax.grad(self.score(data))(reference + share * (a - reference))
        return state._replace(total=state.total + product(a - reference, slope))

    def references(self, data: Data) -> jax.Array:
        """Those that were given, or zeros."""
        return jnp.zeros_like(data.activations)[None] if data.references is None else data.references

    def finish(self, state: Slopes, activations: jax.Array) -> CAM:
        """The map."""
        evaluations = jnp.asarray(self.count + 1, jnp.float32)
        return cam_of_contributions(state.total / self.count, logit=state.logit, evaluations=evaluations)


@one_program()
def gradient_shap(
    params: Params,
    activations: jax.Array,
    key: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    references: jax.Array | None = None,
    num_samples: int = 50,
    sigma: float = 0.0,
) -> CAM:
    """Gradient SHAP: the map is `relu(sum_k of the mean of (A' - R)_k * dF/dA_k at R + u (A' - R))`, over draws.

    Each draws a reference R, a place u on the way from it, evenly, and A', A with normal noise: integrated gradients in
    expectation over references, estimated with one gradient for each. In the limit, and without noise, the map before
    its ReLU adds up to F(A) - mean F(R). They are the Shapley values of a linear head, against the references drawn. A
    channel that is zero in A has contributions all the same, wherever it is not zero in a reference. 0 times an
    infinite slope is 0.

    Args:
      params, activations, head, target: as in `grad_cam`.
      key: a `jax.random` key.
      references: `(R, h, w, K)` reference activations; zeros unless given.
      num_samples: draws.
      sigma: standard deviation of the noise, as a share of the range of A.

    Returns:
      A `CAM` by position; `diagnostics` holds `logit`, without noise, and `evaluations`. Cost: `num_samples`
      evaluations and backward passes of the head, and one evaluation.

    Raises:
      JaxcamError: as in `grad_cam`, for fewer than one draw, and for references of another shape.

    References:
      Lundberg & Lee, NeurIPS 2017, and Erion et al., Improving performance of deep learning models with axiomatic
      attribution priors and expected gradients, Nature Machine Intelligence 2021.
    """
    check_activations(activations)
    count = check_count("num_samples", num_samples)
    return divided(Ways(count, head, split_target(target)[0], float(sigma), key_impl(key)))


stepped_gradient_shap = division(gradient_shap)


# --- other ReLUs ---------------------------------------------------------------------------------------------------


def guided_backprop(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Guided backpropagation: the map is `relu(sum_k G_k)`, G the gradient that ReLUs pass where it is positive.

    ReLUs are found in the traced program of the head; one without any has its plain gradient. It is sharp, and nearly
    the same for every class: it shows what the layers see more than what the logit rests on. A coefficient is the sum
    over the positions, of a channel that is zero everywhere too.

    Arguments, cost and errors as in `grad_cam`; `diagnostics` holds `logit`.

    References:
      Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR Workshops 2015, section 3.4.
    """
    check_activations(activations)
    logit, slope = jax.value_and_grad(guided(scalar_score(head, params, target)))(activations)
    return cam_of_contributions(slope, logit=logit)


def deconvolution(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Deconvolution: the map is `relu(sum_k D_k)`, D what a deconvnet gives back: ReLUs pass what is positive.

    Unlike the gradient's, its ReLUs do not ask whether they were on; maxima send back to where they came from, and all
    else as in `guided_backprop`. Of layers behind the last maximum it sees nothing of the picture but what the maxima
    kept. A coefficient is the sum over the positions, of a channel that is zero everywhere too.

    Arguments, cost and errors as in `grad_cam`; `diagnostics` holds `logit`.

    References:
      Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 2.1; of the logit of a
      class, as Simonyan et al., ICLR Workshops 2014, section 4, compare it.
    """
    check_activations(activations)
    logit, slope = jax.value_and_grad(deconvolved(scalar_score(head, params, target)))(activations)
    return cam_of_contributions(slope, logit=logit)


def guided_grad_cam(
    params: Params, activations: jax.Array, image: jax.Array, *, predict: NetworkFn, head: HeadFn, target: Target
) -> jax.Array:
    """Guided Grad-CAM: `G * M`, G the guided gradient of the pixels and M the Grad-CAM map of a layer, resized.

    Args:
      params: whatever `predict` takes first, and `head`.
      activations: A `(h, w, K)` of the image, one example.
      image: `(H, W, C)`, the network's input.
      predict: `(params, image) -> logits (C,)`, the whole network.
      head: `(params, activations) -> logits (C,)`, what follows the layer.
      target: class index (array or int), or a function `logits -> ()`.

    Returns:
      `(H, W, C)`, signed; of the pixels, not of the layer, so that it is no `CAM`. Cost: one evaluation and backward
      pass of the whole network, and of the head.

    Raises:
      JaxcamError: as in `grad_cam`.

    References:
      Selvaraju et al., Grad-CAM, ICCV 2017, section 3.2.
    """
    check_image(activations, image)
    slope = jax.grad(guided(scalar_score(predict, params, target)))(image)
    map = resize_map(grad_cam(params, activations, head=head, target=target).map, image.shape[:2])
    return slope * map[..., None].astype(slope.dtype)
