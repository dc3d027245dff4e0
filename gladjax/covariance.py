"""Covariances of few samples in many dimensions: shrinkage and compact factors.

A component of the mixture is fitted to ``n`` samples in ``d`` dimensions, often with
``n`` far below ``d``. Its covariance is a convex combination of the empirical one and
of a multiple of the identity,

    Sigma = (1 - rho) S + s I,    s = rho tr(S) / d                     (paper, Eq. 8)

with ``rho`` by oracle-approximating shrinkage (OAS, Eq. 9). With ``B`` the centred
samples (n x d), ``S = B'B / n``, so ``Sigma`` is a few *spikes* over *noise*,

    Sigma = s I + a B'B,    a = (1 - rho) / n

and is kept as that. `spiked` needs the ``n x n`` matrix ``H = (s I + a B B')^-1`` only:

    Sigma^-1   = (I - a B'H B) / s
    log|Sigma| = log|s I + a B B'| + (d - n) log s

As a difference the first of these would cancel in float32. With ``v = H B e`` the
Mahalanobis distance of a centred sample ``e`` is a sum of squares instead,

    |e - a B'v|^2 / s + a |v|^2

the least value over all ``v`` of this expression, so that an error of ``v`` counts by
its square only. Where ``n > d`` nothing is gained by all that, and `whitened` factors
the ``d x d`` matrix: its rows are the inverse of a Cholesky factor, and the distance is
``|rows e|^2``.

Notation: ``n`` samples, ``d`` features, ``c`` rows of a padded block (``c >= n``),
``S`` the scatter over ``n``, ``B B'`` the Gram matrix.

Differs from the reference in
  1. Where ``S = 0`` (one sample, or copies) the covariance is ``floor * I``; the paper
     leaves it 0, which gives a density without bound.
  2. Without shrinkage (the ablation) ``floor`` replaces the noise where it is 0.
  3. The noise is at least `LEAST` units of rounding of the trace, so that the Cholesky
     factor exists in the precision at hand; with shrinkage it is far above.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.1; Chen, Wiesel, Eldar, Hero,
"Shrinkage Algorithms for MMSE Covariance Estimation", IEEE TSP 58(10), 2010.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Products inside a cost are never rounded to bfloat16 or TF32.
PRECISION = jax.lax.Precision.HIGHEST

LEAST = 4  # Units of rounding of the trace that the noise is at least.

Scalar = Float[Array, ""]
Count = Int[Array, ""] | Float[Array, ""] | int | float
Shrinkage = Callable[[Scalar, Scalar, Count, int], Scalar]


class Factor(NamedTuple):
    """The covariance of one component of at most ``d`` samples, less its rows ``B``.

    Attributes:
      inverse: ``H``, over the noise on its diagonal where rows are unused.
      scale: Weight ``a`` of the scatter of the rows.
      noise: Variance ``s`` of every direction.
      log_det: Log-determinant of the covariance.
    """

    inverse: Float[Array, "c c"]
    scale: Scalar
    noise: Scalar
    log_det: Scalar


class Whitened(NamedTuple):
    """The covariance of one component of more than ``d`` samples.

    Attributes:
      rows: Inverse of the lower Cholesky factor.
      scale: Mean variance, ``tr(Sigma) / d``.
      noise: Variance ``s`` of every direction.
      log_det: Log-determinant of the covariance.
    """

    rows: Float[Array, "d d"]
    scale: Scalar
    noise: Scalar
    log_det: Scalar


def oas(trace: Scalar, trace_sq: Scalar, count: Count, dimension: int) -> Scalar:
    """Returns the OAS intensity from the two traces that it depends on.

    Args:
      trace: ``tr(S)``; any common scale of ``S`` cancels.
      trace_sq: ``tr(S^2)``.
      count: Number of samples ``n``; 0 counts as 1.
      dimension: Number of features ``d``.

    Returns:
      ``rho`` of Eq. 9, in [0, 1], and 1 where the denominator is 0.
    """
    d = dimension
    n = jnp.maximum(jnp.asarray(count).astype(trace.dtype), 1)
    positive = trace > 0
    t = trace_sq / jnp.where(positive, trace, 1) ** 2
    denominator = (n + (1 - 2 / d)) * (t - 1 / d)
    usable = positive & (denominator > 0)
    rho = ((1 - 2 / d) * t + 1) / jnp.where(usable, denominator, 1)
    return jnp.where(usable, jnp.minimum(rho, 1), 1)


def no_shrinkage(
    trace: Scalar, trace_sq: Scalar, count: Count, dimension: int
) -> Scalar:
    """Returns 0, the maximum-likelihood covariance of the paper's ablation."""
    del trace_sq, count, dimension
    return jnp.zeros_like(trace)


def oas_shrinkage(scatter: Float[Array, "d d"], count: Count) -> Scalar:
    """Returns the oracle-approximating shrinkage intensity of a scatter matrix.

    The intensity is the weight ``rho`` of the spherical target in the shrunk covariance
    ``(1 - rho) S + rho tr(S) / d I``, with ``S = scatter / count`` (paper, Eq. 9)::

                       (1 - 2/d) tr(S^2) + tr(S)^2
        rho = min(1, --------------------------------------- )
                     (n + 1 - 2/d) (tr(S^2) - tr(S)^2 / d)

    Args:
      scatter: Sum of outer products of the centred samples, symmetric.
      count: Number of samples ``n`` behind ``scatter``; 0 counts as 1.

    Returns:
      The intensity, in [0, 1], and exactly 1 where the scatter is a multiple of the
      identity, which includes ``d == 1`` and an empty component.

    Note:
      scikit-learn drops both ``2/d`` terms, so its value differs by O(1/d). One degree
      of freedom is spent on the mean and, as in the paper, not accounted for.

    Example:
      >>> import jax.numpy as jnp
      >>> scatter = jnp.diag(jnp.array([8.0, 4.0]))
      >>> print(f"{oas_shrinkage(scatter, jnp.asarray(10)):.4f}")
      1.0000
    """
    if scatter.ndim != 2 or scatter.shape[0] != scatter.shape[1]:
        raise ValueError(f"scatter must be square, not of shape {scatter.shape}")
    trace = jnp.trace(scatter)
    # The spread of the spectrum, tr(S^2) - tr(S)^2 / d, without cancellation, so that a
    # multiple of the identity gives exactly 0.
    d = scatter.shape[0]
    centred = scatter - jnp.diag(jnp.full((d,), trace / d))
    trace_sq = jnp.sum(jnp.square(centred)) + trace**2 / d
    return oas(trace, trace_sq, count, d)


def spiked(
    roots: Float[Array, "c d"],
    count: Count,
    floor: Scalar,
    *,
    shrinkage: Shrinkage = oas,
) -> Factor:
    """Shrinks a covariance whose scatter has a root of at most ``d`` rows.

    Args:
      roots: Rows ``B``, such as the centred samples: ``B'B`` is the sum of outer
        products. Unused rows are 0.
      count: Number of samples ``n`` behind it, which may be fractional; 0 counts as 1.
      floor: Variance that stands in for an empirical covariance of 0 (R3).
      shrinkage: Intensity from ``tr(S)``, ``tr(S^2)``, ``n`` and ``d``.

    Returns:
      The factor.
    """
    c, d = roots.shape
    n = jnp.maximum(jnp.asarray(count).astype(roots.dtype), 1e-30)
    gram = jnp.matmul(roots, roots.T, precision=PRECISION) / n
    trace = jnp.trace(gram)
    rho = shrinkage(trace, jnp.sum(jnp.square(gram)), n, d)
    s, spherical = _noise(trace, rho, floor, d)
    scale = jnp.where(spherical, 0, 1 - rho) / n
    H, inside = inverse(roots, scale, s)
    return Factor(H, scale, s, inside + (d - c) * jnp.log(s))


def inverse(
    roots: Float[Array, "c d"], scale: Scalar, noise: Scalar
) -> tuple[Float[Array, "c c"], Scalar]:
    """Returns ``H = (s I + a B B')^-1``, and minus its log-determinant.

    Args:
      roots: Rows ``B``; unused ones are 0.
      scale: Weight ``a``.
      noise: Variance ``s``.
    """
    gram = jnp.matmul(roots, roots.T, precision=PRECISION)
    identity = jnp.eye(roots.shape[0], dtype=roots.dtype)
    lower = jnp.linalg.cholesky(noise * identity + scale * gram)
    half = jax.scipy.linalg.solve_triangular(lower, identity, lower=True)
    H = jnp.matmul(half.T, half, precision=PRECISION)
    return H, 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))


def whitened(
    scatter: Float[Array, "d d"],
    count: Count,
    floor: Scalar,
    *,
    shrinkage: Shrinkage = oas,
) -> Whitened:
    """Shrinks the covariance of more than ``d`` samples.

    Args:
      scatter: Sum of outer products of the centred samples.
      count: Number of samples, which may be fractional; 0 counts as 1.
      floor: Variance that stands in for an empirical covariance of 0 (R3).
      shrinkage: Intensity from ``tr(S)``, ``tr(S^2)``, ``n`` and ``d``.

    Returns:
      The whitening rows.
    """
    d = scatter.shape[0]
    dtype = scatter.dtype
    n = jnp.maximum(jnp.asarray(count).astype(dtype), 1e-30)
    S = scatter / n
    trace = jnp.trace(S)
    rho = shrinkage(trace, jnp.sum(jnp.square(S)), n, d)
    s, spherical = _noise(trace, rho, floor, d)
    identity = jnp.eye(d, dtype=dtype)
    sigma = jnp.where(spherical, 0, 1 - rho) * S + s * identity
    lower = jnp.linalg.cholesky(sigma)
    rows = jax.scipy.linalg.solve_triangular(lower, identity, lower=True)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))
    return Whitened(rows, jnp.trace(sigma) / d, s, log_det)


def _noise(
    trace: Scalar, rho: Scalar, floor: Scalar, dimension: int
) -> tuple[Scalar, Bool[Array, ""]]:
    """Returns the noise ``s`` and whether the empirical covariance is 0."""
    mean_variance = trace / dimension
    zero = mean_variance <= jnp.finfo(trace.dtype).eps * floor
    s = rho * mean_variance
    s = jnp.where(zero | (s <= 0), floor, s)
    return jnp.maximum(s, LEAST * jnp.finfo(trace.dtype).eps * trace), zero
