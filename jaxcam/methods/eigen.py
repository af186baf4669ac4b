"""The methods that show the first principal component of the activations, or of their products with the gradient.

Components are of the matrix `X (h w, K)` as it is: no mean is taken off first, as in the paper. Of activations that are
nowhere negative the component then has no negative coefficient, and neither has its map a negative place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxcam.methods.gradient import product
from jaxcam.methods.result import (
    CAM,
    HeadFn,
    Params,
    Target,
    cam_of_coefficients,
    cam_of_contributions,
    check_activations,
    scalar_score,
)

#: How often a Gram matrix is squared: to the power of 2^16, in which a second eigenvalue of 99.97 % of the first is
#: 3e-9.
SQUARINGS = 16


def eigen_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Eigen-CAM: `alpha` is the first right singular vector of the activations, A as a matrix `(h w, K)`.

    The map is A projected on its first principal component, the same for every class: what the layer sees most of.
    `alpha` has length 1, and its sign is the one by which it adds up to something positive: the map then has a positive
    inner product with the sum of the activations over the channels.

    Where the largest eigenvalue of `A^T A` is a multiple one, `alpha` is the vector of its eigenspace nearest to equal
    coefficients. 0 where there is no such sign (all its vectors add up to 0), for a channel that is zero everywhere,
    and for a dead layer. The derivative of the coefficients is finite in all these cases.

    Arguments and errors as in `grad_cam`. Cost: one evaluation of the head, for the logit, and `SQUARINGS` products of
    matrices of the smaller one of h w and K. An eigenvalue within a few ten-thousandths of the largest counts as equal.

    References:
      Muhammad & Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020, eqs. 2 and 3.
    """
    check_activations(activations)
    logit = scalar_score(head, params, target)(activations)
    return cam_of_coefficients(first_component(activations), activations, logit=logit)


def eigen_grad_cam(params: Params, activations: jax.Array, *, head: HeadFn, target: Target) -> CAM:
    """Eigen-Grad-CAM: the map is `relu(sum_k v_k g_k * A_k)`, v the first right singular vector of `g * A (h w, K)`.

    The principal component of what `hires_cam` adds up. v adds up to something positive, so that the map before its
    ReLU has a positive inner product with that of HiResCAM: it speaks for the class, and that of minus the logit is its
    opposite. `alpha_k = sum of v_k g_k * A_k` is what each channel gets in all. Several equal eigenvalues, and where it
    is 0, as in `eigen_cam`; 0 where the gradient is.

    Arguments and errors as in `grad_cam`. Cost: one evaluation of the head and one backward pass, and the products of
    matrices of `eigen_cam`.

    References:
      Muhammad & Yeasin, Eigen-CAM, IJCNN 2020; the product with the gradient has no paper, and is in use since
      Gildenblat et al., pytorch-grad-cam, 2021.
    """
    check_activations(activations)
    logit, g = jax.value_and_grad(scalar_score(head, params, target))(activations)
    products = product(activations, g)
    return cam_of_contributions(products * first_component(products)[None, None], logit=logit)


def first_component(x: jax.Array) -> jax.Array:
    """The first right singular vector `(K,)` of `x (h, w, K)`, adding up to something positive; or 0, see `eigen_cam`.

    By repeated squaring of the smaller Gram matrix, which tends to the projection on the eigenspace: it has derivatives
    where eigenvalues coincide, where those of a decomposition are 0/0, and it lowers for every device.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))
    size = lax.stop_gradient(jnp.max(jnp.abs(rows)))  # of which nothing depends: squares neither over- nor underflow
    rows = rows / jnp.where(size > 0, size, 1)
    wide = rows.shape[0] < rows.shape[1]
    gram = _dot(rows, rows.T) if wide else _dot(rows.T, rows)

    def squared(power: jax.Array, _: None) -> tuple[jax.Array, None]:
        return _of_trace_one(_dot(power, power)), None

    projection, _ = lax.scan(squared, _of_trace_one(gram), length=SQUARINGS)
    # The projection of equal coefficients: of the right sign, and one vector where there are several.
    ones = jnp.ones_like(rows[0])
    vector = _dot(rows.T, _dot(projection, _dot(rows, ones))) if wide else _dot(projection, ones)
    square = jnp.sum(vector**2)
    return (vector * jnp.where(square > 0, lax.rsqrt(jnp.where(square > 0, square, 1)), 0)).astype(x.dtype)


def _of_trace_one(matrix: jax.Array) -> jax.Array:
    trace = jnp.trace(matrix)
    return matrix / jnp.where(trace > 0, trace, 1)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision="highest")
