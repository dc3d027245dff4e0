"""Covariances of few samples in many dimensions: shrinkage and compact factors.

A component of the mixture is fitted to ``n`` samples in ``d`` dimensions, often with
``n`` far below ``d``. Its covariance is a convex combination of the empirical one and
of a multiple of the identity,

    Sigma = (1 - rho) S + s I,    s = rho tr(S) / d                     (paper, Eq. 8)

with ``rho`` by oracle-approximating shrinkage (OAS, Eq. 9). ``S`` has at most ``n - 1``
nonzero eigenvalues, so ``Sigma`` is a few *spikes* over *noise* and is never formed:
`spiked` finds the spikes from the ``n x n`` Gram matrix. Where ``n > d`` nothing is
gained by that, and `whitened` factors the ``d x d`` matrix.

Both return the same `Factor`: rows ``a_i`` and variances ``v_i`` such that with
``y_i = a_i . e`` the Mahalanobis distance of a centred sample ``e`` is

    sum_i y_i^2  +  |e - sum_i v_i y_i a_i|^2 / s                       (rank < d)
    sum_i y_i^2                                                         (rank = d)

For spikes, ``a_i`` is the unit eigenvector over the root of its variance
``v_i = lambda_i + s``, so both terms are sums of squares and nothing cancels.

Notation: ``n`` samples, ``d`` features, ``c`` rows of a padded block (``c >= n``),
``S`` the scatter over ``n``, ``g`` the eigenvalues of the Gram matrix.

Differs from the reference in
  1. Where ``S = 0`` (one sample, or copies) the covariance is ``floor * I``; the paper
     leaves it 0, which gives a density without bound.
  2. Without shrinkage (the ablation) ``floor`` replaces the noise where it is 0.

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

Scalar = Float[Array, ""]
Count = Int[Array, ""] | Float[Array, ""] | int | float
Shrinkage = Callable[[Scalar, Scalar, Count, int], Scalar]


class Factor(NamedTuple):
    """The covariance of one component, as rows that whiten it.

    Attributes:
      rows: Whitening rows ``a_i``; rows beyond ``rank`` are 0.
      variances: Variance ``v_i`` along each row, 1 where unused.
      rank: Number of rows in use; ``d`` means that the rows whiten completely.
      noise: Variance ``s`` of every direction that no row spans.
      log_det: Log-determinant of the covariance.
    """

    rows: Float[Array, "r d"]
    variances: Float[Array, " r"]
    rank: Int[Array, ""]
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
    samples: Float[Array, "c d"],
    mask: Bool[Array, " c"],
    floor: Scalar,
    *,
    weights: Float[Array, " c"] | None = None,
    shrinkage: Shrinkage = oas,
) -> tuple[Float[Array, " d"], Factor]:
    """Fits a mean and a shrunk covariance to at most ``d`` samples.

    Args:
      samples: Rows of a padded block.
      mask: Which rows are samples.
      floor: Variance that stands in for an empirical covariance of 0 (R3).
      weights: How much each sample counts, 0 or more; ``n`` is then their sum. By
        default each counts 1.
      shrinkage: Intensity from ``tr(S)``, ``tr(S^2)``, ``n`` and ``d``.

    Returns:
      The mean, 0 where there is no sample, and the factor, spikes in falling order.
    """
    dtype = samples.dtype
    found = jnp.maximum(jnp.sum(mask), 1)
    # Seen from one of them, copies are exactly 0, and so is their scatter.
    origin = samples[jnp.argmax(mask)]
    e = jnp.where(mask[:, None], samples - origin[None, :], 0)
    if weights is None:
        n = found.astype(dtype)
        shift = jnp.sum(e, axis=0) / n
        B = jnp.where(mask[:, None], e - shift[None, :], 0)
    else:
        w = jnp.where(mask, weights, 0)[:, None]
        n = jnp.maximum(jnp.sum(w), jnp.finfo(dtype).tiny)
        shift = jnp.sum(w * e, axis=0) / n
        B = jnp.where(mask[:, None], jnp.sqrt(w) * (e - shift[None, :]), 0)
    mean = jnp.where(jnp.any(mask), origin + shift, 0)
    return mean, spikes(B, n, found - 1, floor, shrinkage=shrinkage)


def spikes(
    roots: Float[Array, "c d"],
    count: Count,
    limit: Int[Array, ""],
    floor: Scalar,
    *,
    shrinkage: Shrinkage = oas,
) -> Factor:
    """Fits a shrunk covariance to a scatter of low rank, given by a root of it.

    Args:
      roots: Rows ``B`` with ``B'B`` the sum of outer products of the centred samples.
      count: Number of samples ``n`` behind it, which may be fractional.
      limit: Rank that the scatter has at most.
      floor: Variance that stands in for an empirical covariance of 0 (R3).
      shrinkage: Intensity from ``tr(S)``, ``tr(S^2)``, ``n`` and ``d``.

    Returns:
      The factor, spikes in falling order, at most ``d - 1``.
    """
    c, d = roots.shape
    dtype = roots.dtype
    n = jnp.asarray(count).astype(dtype)
    gram = jnp.matmul(roots, roots.T, precision=PRECISION)
    trace = jnp.trace(gram) / n
    rho = shrinkage(trace, jnp.sum(jnp.square(gram)) / n**2, n, d)
    s, spherical = _noise(trace, rho, floor, d)

    g, U = jnp.linalg.eigh(gram)
    g, U = g[::-1], U[:, ::-1]
    spike = jnp.maximum((1 - rho) * g / n, 0)
    keep = (g > c * jnp.finfo(dtype).eps * g[0]) & (spike > 0) & ~spherical
    # Never d: a complete set of rows has no noise left.
    most = jnp.minimum(limit.astype(jnp.int32), d - 1)
    keep &= jnp.arange(c, dtype=jnp.int32) < most
    variances = jnp.where(keep, spike + s, 1)
    scale = jnp.where(keep, 1 / jnp.sqrt(jnp.where(keep, g, 1) * variances), 0)
    rows = jnp.matmul(U.T, roots, precision=PRECISION) * scale[:, None]
    rank = jnp.sum(keep)
    log_det = jnp.sum(jnp.log(variances)) + (d - rank).astype(dtype) * jnp.log(s)
    return Factor(rows, variances, rank.astype(jnp.int32), s, log_det)


def whitened(
    scatter: Float[Array, "d d"],
    count: Count,
    floor: Scalar,
    *,
    shrinkage: Shrinkage = oas,
) -> Factor:
    """Fits a shrunk covariance to a scatter matrix of more than ``d`` samples.

    Args:
      scatter: Sum of outer products of the centred samples.
      count: Number of samples.
      floor: Variance that stands in for an empirical covariance of 0 (R3).
      shrinkage: Intensity from ``tr(S)``, ``tr(S^2)``, ``n`` and ``d``.

    Returns:
      The factor: the rows of the inverse of the Cholesky factor, rank ``d``.
    """
    d = scatter.shape[0]
    dtype = scatter.dtype
    n = jnp.maximum(jnp.asarray(count).astype(dtype), 1)
    S = scatter / n
    trace = jnp.trace(S)
    rho = shrinkage(trace, jnp.sum(jnp.square(S)), n, d)
    s, spherical = _noise(trace, rho, floor, d)
    identity = jnp.eye(d, dtype=dtype)
    sigma = jnp.where(spherical, 0, 1 - rho) * S + s * identity
    lower = jnp.linalg.cholesky(sigma)
    rows = jax.scipy.linalg.solve_triangular(lower, identity, lower=True)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))
    return Factor(rows, jnp.ones((d,), dtype), jnp.asarray(d, jnp.int32), s, log_det)


def _noise(
    trace: Scalar, rho: Scalar, floor: Scalar, dimension: int
) -> tuple[Scalar, Bool[Array, ""]]:
    """Returns the noise ``s`` and whether the empirical covariance is 0."""
    mean_variance = trace / dimension
    zero = mean_variance <= jnp.finfo(trace.dtype).eps * floor
    s = rho * mean_variance
    return jnp.where(zero | (s <= 0), floor, s), zero
