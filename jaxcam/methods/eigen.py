"""The methods that show the first principal component of the activations, or of their products with the gradient.

(And that of KPCA-CAM, in the space of a kernel, of which the mean has to be taken off.)

Components are of the matrix `X (h w, K)` as it is: no mean is taken off first, as in the paper. Of activations that are
nowhere negative the component then has no negative coefficient, and neither has its map a negative place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxcam.errors import JaxcamError, check_known
from jaxcam.methods.gradient import product
from jaxcam.methods.result import (
    CAM,
    HeadFn,
    Params,
    Target,
    cam_of_coefficients,
    cam_of_contributions,
    cam_of_map,
    check_activations,
    scalar_score,
)
from jaxcam.shapley.result import matmul

#: How often a Gram matrix is squared: to the power of 2^16, in which a second eigenvalue of 99.97 % of the first is
#: 3e-9.
SQUARINGS = 16
#: Kernels of KPCA-CAM: `(products (n, n) of the rows, gamma) -> (n, n)`.
KERNELS = {
    "sigmoid": lambda products, gamma: jnp.tanh(gamma * products + 1),
    "rbf": lambda products, gamma: jnp.exp(-gamma * _distances(products)),
    "linear": lambda products, gamma: products,
}
#: Positions of which KPCA-CAM takes the matrix.
MOST_POSITIONS = 4096


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


def kpca_cam(
    params: Params,
    activations: jax.Array,
    *,
    head: HeadFn,
    target: Target,
    kernel: str = "sigmoid",
    gamma: float | None = None,
) -> CAM:
    """KPCA-CAM: the map is `relu(sqrt(l) u)`, u `(h w,)` the first eigenvector of a kernel of the positions.

    l is its eigenvalue. Rows x_i `(K,)` are the positions, less their mean. The kernel, `tanh(gamma x_i x_j + 1)` or
    `exp(-gamma |x_i - x_j|^2)`, is centred, so that the map before its ReLU adds up to 0: it shows where the layer
    differs most from its mean, the same for every class. u has the sign by which it has a positive inner product with
    the sum of the activations over the channels; peers leave it to the decomposition. No channel is told from another,
    and each has an equal part. 0 where there is no such sign, and of a layer that is the same everywhere; derivatives
    are finite there.

    Args:
      params, activations, head, target: as in `grad_cam`.
      kernel: "sigmoid", "rbf" or "linear".
      gamma: 1 / K unless given.

    Returns:
      A `CAM`; `diagnostics` holds `logit`. Cost: one evaluation of the head, for the logit, and `SQUARINGS + 1`
      products of matrices of h w. An eigenvalue within a few ten-thousandths of the largest, by its size, counts as
      equal.

    Raises:
      JaxcamError: as in `grad_cam`, for another kernel, and for more than `MOST_POSITIONS` positions.

    References:
      Karmani et al., KPCA-CAM: Visual Explainability of Deep Computer Vision Models using Kernel PCA,
      arXiv:2410.00267, 2024; Schoelkopf, Smola & Mueller, Neural Computation 10(5), 1998.
    """
    check_activations(activations)
    check_known("kernel", kernel, KERNELS)
    height, width, players = activations.shape
    if height * width > MOST_POSITIONS:
        raise JaxcamError(f"KPCA-CAM takes {MOST_POSITIONS} positions or fewer, not {height} x {width}; a later layer")
    logit = scalar_score(head, params, target)(activations)
    rows = activations.reshape(-1, players).astype(jnp.promote_types(activations.dtype, jnp.float32))
    rows = rows - jnp.mean(rows, 0, keepdims=True)
    made = KERNELS[kernel](matmul(rows, rows.T), jnp.asarray(1 / players if gamma is None else gamma, rows.dtype))
    centred = made - jnp.mean(made, 0, keepdims=True) - jnp.mean(made, 1, keepdims=True) + jnp.mean(made)
    size = lax.stop_gradient(jnp.max(jnp.abs(centred)))
    scaled = centred / jnp.where(size > 0, size, 1)
    vector = matmul(_projection(matmul(scaled, scaled)), jnp.sum(rows, 1))
    square = jnp.sum(vector**2)
    found = square > 0
    vector = vector * jnp.where(found, lax.rsqrt(jnp.where(found, square, 1)), 0)
    value = jnp.sum(vector * matmul(centred, vector))
    root = jnp.where(value > 0, jnp.sqrt(jnp.where(value > 0, value, 1)), 0)
    return cam_of_map((root * vector).reshape(height, width).astype(activations.dtype), activations, logit=logit)


def _distances(products: jax.Array) -> jax.Array:
    """Squared distances `(n, n)` of rows, from their products."""
    squares = jnp.diagonal(products)
    return jnp.maximum(squares[:, None] + squares[None] - 2 * products, 0)


def first_component(x: jax.Array) -> jax.Array:
    """The first right singular vector `(K,)` of `x (h, w, K)`, adding up to something positive; or 0, see `eigen_cam`.

    By repeated squaring of the smaller Gram matrix, which tends to the projection on the eigenspace: it has derivatives
    where eigenvalues coincide, where those of a decomposition are 0/0, and it lowers for every device.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))
    size = lax.stop_gradient(jnp.max(jnp.abs(rows)))  # of which nothing depends: squares neither over- nor underflow
    rows = rows / jnp.where(size > 0, size, 1)
    wide = rows.shape[0] < rows.shape[1]
    projection = _projection(matmul(rows, rows.T) if wide else matmul(rows.T, rows))
    # The projection of equal coefficients: of the right sign, and one vector where there are several.
    ones = jnp.ones_like(rows[0])
    vector = matmul(rows.T, matmul(projection, matmul(rows, ones))) if wide else matmul(projection, ones)
    square = jnp.sum(vector**2)
    return (vector * jnp.where(square > 0, lax.rsqrt(jnp.where(square > 0, square, 1)), 0)).astype(x.dtype)


def _projection(gram: jax.Array) -> jax.Array:
    """On the eigenspace of the largest eigenvalue of a matrix that has none below 0, over its dimension."""

    def squared(power: jax.Array, _: None) -> tuple[jax.Array, None]:
        return _of_trace_one(matmul(power, power)), None

    return lax.scan(squared, _of_trace_one(gram), length=SQUARINGS)[0]


def _of_trace_one(matrix: jax.Array) -> jax.Array:
    trace = jnp.trace(matrix)
    return matrix / jnp.where(trace > 0, trace, 1)
